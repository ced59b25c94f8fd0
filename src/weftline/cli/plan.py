"""``weftline plan``: the best way to do a job."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from weftline.cli.answer import show
from weftline.cli.job_file import JobPath, WriteJob, all_at_once, from_job_file, place_of, write_job
from weftline.cli.options import As, Format, Json, Plot, taken_as
from weftline.cli.plan_lifecycle import lifecycle
from weftline.cli.plan_portfolio import portfolio
from weftline.cli.plan_serve import serve
from weftline.spec.options import JobOptions

app = App(
    name="plan", help="Find the best plan for a job.", help_format="plaintext",
    config=from_job_file,
)  # fmt: skip
app.command(serve)
app.command(lifecycle)
app.command(portfolio)


@app.command
def train(
    model: str,
    *,
    job: Annotated[JobOptions, Parameter(name="*")],
    as_: As = None,
    job_file: JobPath = None,
    write: WriteJob = None,
    within: Annotated[
        Path | None, Parameter(help="Plan for the hosts that this file says are there.")
    ] = None,
    json: Json = False,
    form: Format = "table",
    output: Annotated[
        Path | None, Parameter(name=["--output", "-o"], help="Write the plan to this file.")
    ] = None,
    trace: Annotated[
        Path | None, Parameter(help="Write one step as a trace for Perfetto to this file.")
    ] = None,
    plot: Plot = False,
) -> int:
    """Chip, count, parallelism, time and price to train MODEL.

    Parameters
    ----------
    model
        Bundled name, config.json, or gpt:layers=96,hidden=12288,...
    """
    from weftline.cli.progress import progress
    from weftline.plan import job_of, plan_train
    from weftline.plan.search.within import plan_within
    from weftline.report.pictures import render_pictures
    from weftline.report.plan import render_plan
    from weftline.report.trace import trace_of
    from weftline.spec.hosts_there import read_hosts_there
    from weftline.spec.job_file import job_values
    from weftline.spec.serialize import plan_to_json, read_plan, write_plan, write_text

    del job_file  # read before this was called
    asked = all_at_once(lambda: job_of(taken_as(model, as_), job, where=place_of))
    if write is not None:
        write_job(write, job_values("train", taken_as(model, as_), job))
    if within is None:
        plan = plan_train(asked, progress=progress())
    else:
        there = read_hosts_there(within)
        old = None if there.plan is None else read_plan(there.plan)
        plan = plan_within(asked, there, old, progress=progress())
    traced = "" if trace is None else trace_of(plan, where="--trace")
    if output is not None:
        write_plan(plan, output)
        print(f"plan written to {output}", file=sys.stderr)
    if trace is not None:
        write_text(traced, trace)
        print(f"trace written to {trace}", file=sys.stderr)

    def text() -> str:
        return render_plan(plan) + ("\n" + render_pictures(plan) if plot else "")

    show("train", plan, text, json=json, form=form, main="ranking",
         as_json=lambda: plan_to_json(plan))  # fmt: skip
    return 0


@app.command
def schema(
    *,
    kind: Literal["job", "lifecycle"] = "job",
    output: Annotated[
        Path | None, Parameter(name=["--output", "-o"], help="Write the schema to this file.")
    ] = None,
) -> int:
    """JSON Schema of job files, for editors; the package has it as spec/job.schema.json.

    Parameters
    ----------
    kind
        Of which files: jobs to train and serve, or lifecycles.
    """
    import json as json_module

    from weftline.decide.lifecycle.schema import life_schema
    from weftline.spec.job_file import job_schema
    from weftline.spec.serialize import write_text

    text = json_module.dumps(job_schema() if kind == "job" else life_schema(), indent=1) + "\n"
    if output is None:
        print(text, end="")
    else:
        write_text(text, output)
        print(f"schema written to {output}", file=sys.stderr)
    return 0
