"""``weftline compare``: a plan beside a run of it."""

from __future__ import annotations

from pathlib import Path

from weftline.cli.answer import show
from weftline.cli.options import Format, Json


def compare(plan: Path, run: Path, *, json: Json = False, form: Format = "table") -> int:
    """What a plan predicted and what its run measured, part by part.

    Parameters
    ----------
    plan
        A file written by `weftline plan train ... -o` or `weftline plan serve ... -o`.
    run
        Folder that `weftline train ... -o` or `weftline bench serving ... --out` wrote; of a
        serving plan also a result of aiperf, vllm bench serve or guidellm.
    """
    from weftline.spec import ServePlan
    from weftline.spec.serialize import read_any_plan

    asked = read_any_plan(plan)
    if isinstance(asked, ServePlan):
        from weftline.report.served import render_beside
        from weftline.runtime.load.beside import beside as served
        from weftline.runtime.load.rows import read_row

        held = served(asked, read_row(run))
        show(
            "served-comparison",
            held,
            lambda: render_beside(held),
            json=json,
            form=form,
            main="rows",
        )
        return 0
    from weftline.report.training import render_comparison
    from weftline.runtime.compare import compare as beside

    found = beside(asked, run)
    show("comparison", found, lambda: render_comparison(found), json=json, form=form, main="rows")
    return 0
