"""``weftline explain``: where time, memory and money of a plan go."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from weftline.cli.answer import show
from weftline.cli.compiling import compiling_said
from weftline.cli.job_file import WriteJob, write_job
from weftline.cli.options import Form, Format, Json, Plot

if TYPE_CHECKING:
    from weftline.spec import Plan, ServePlan
    from weftline.spec.lifecycle import Lifecycle


def explain(
    plan: Path,
    *,
    what_if: str | None = None,
    write: WriteJob = None,
    plot: Plot = False,
    json: Json = False,
    form: Format = "table",
) -> int:
    """Where the time, memory and money of a plan go, and what each number rests on.

    Parameters
    ----------
    plan
        A file written by `weftline plan ... -o`.
    what_if
        Turn knobs: tp=4,micro_batch=2, precision=fp8, accelerator=h200, chips=64, host=tcp,
        price=$2/h...
    """
    from dataclasses import asdict

    from weftline.report.frame import explained
    from weftline.report.pictures import render_pictures
    from weftline.report.plan import render_explanation
    from weftline.spec import Plan
    from weftline.spec.lifecycle import Lifecycle
    from weftline.spec.serialize import plan_to_json, read_any_answer

    found = read_any_answer(plan)
    if isinstance(found, Lifecycle):
        return _explain_life(found, asked=what_if is not None or write is not None, json=json,
                             form=form)  # fmt: skip
    if write is not None:
        write_job(write, _question(found))

    def pictures() -> str:
        return "\n" + render_pictures(found) if plot else ""

    if not isinstance(found, Plan):
        from weftline.report.serving import render_serve_explanation

        if what_if is not None:
            from weftline.cli.status import status
            from weftline.report.whatif import render_serve_what_if
            from weftline.serve.search.whatif import KNOBS, serve_what_if
            from weftline.spec.parse import parse_knobs

            with compiling_said():
                turned = serve_what_if(found, parse_knobs(what_if, KNOBS), progress=status.say)
            answer = asdict(turned)
            show(
                "serve-what-if", answer, lambda: render_serve_what_if(answer), json=json, form=form
            )
            return 0
        show("serve", explained(found), lambda: render_serve_explanation(found) + pictures(),
             json=json, form=form, main="parts", as_json=lambda: plan_to_json(found))  # fmt: skip
        return 0
    if what_if is not None:
        from weftline.plan.search.whatif import parse_changes
        from weftline.plan.search.whatif import what_if as turn
        from weftline.report.whatif import render_what_if

        answer = asdict(turn(found, parse_changes(what_if)))
        show("what-if", answer, lambda: render_what_if(answer), json=json, form=form)
        return 0
    show("train", explained(found), lambda: render_explanation(found) + pictures(), json=json,
         form=form, main="parts", as_json=lambda: plan_to_json(found))  # fmt: skip
    return 0


def _explain_life(life: Lifecycle, *, asked: bool, json: bool, form: Form) -> int:
    """Every line of a lifecycle, with its formula and its ground."""
    from weftline.errors import InputError
    from weftline.report.lifecycle import life_tables, render_life_explanation
    from weftline.spec.serialize import plan_to_json

    if asked:
        raise InputError("a lifecycle has no knobs", where="--what-if",
                         hint="change its file, plan it again, diff both")  # fmt: skip
    show("lifecycle", life_tables(life), lambda: render_life_explanation(life), json=json,
         form=form, main="lines", as_json=lambda: plan_to_json(life))  # fmt: skip
    return 0


def _question(plan: Plan | ServePlan) -> dict[str, Any]:
    """What was asked, as the fields of a job file."""
    from weftline.errors import InputError
    from weftline.spec import Plan
    from weftline.spec.job_file import job_values

    if isinstance(plan, Plan):
        from weftline.plan.search.asked import options_of

        return dict(job_values("train", plan.job.model, options_of(plan.job)))
    if not plan.asked:
        raise InputError("the plan does not keep its question", where="--write-job",
                         hint="make the plan again with this version")  # fmt: skip
    return dict(plan.asked)
