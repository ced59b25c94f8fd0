"""``weftline plan``: the best way to do a job."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from weftline.cli.options import As, Json, taken_as
from weftline.cli.plan_serve import serve
from weftline.spec.options import JobOptions

app = App(name="plan", help="Find the best plan for a job.", help_format="plaintext")
app.command(serve)


@app.command
def train(
    model: str,
    *,
    job: Annotated[JobOptions, Parameter(name="*")],
    as_: As = None,
    json: Json = False,
    output: Annotated[
        Path | None, Parameter(name=["--output", "-o"], help="Write the plan to this file.")
    ] = None,
) -> int:
    """Chip, count, parallelism, time and price to train MODEL.

    Parameters
    ----------
    model
        Bundled name, config.json, or gpt:layers=96,hidden=12288,...
    """
    from weftline.cli.progress import progress
    from weftline.plan import job_of, plan_train
    from weftline.report.plan import render_plan
    from weftline.spec.serialize import plan_to_json, write_plan

    asked, own_price = job_of(taken_as(model, as_), job)
    plan = plan_train(asked, usd_per_chip_hour=own_price, progress=progress())
    if output is not None:
        write_plan(plan, output)
        print(f"plan written to {output}", file=sys.stderr)
    print(plan_to_json(plan) if json else render_plan(plan))
    return 0
