"""``weftline plan serve``: the cheapest fleet that keeps latency targets."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from weftline.cli.answer import show
from weftline.cli.compiling import compiling_said
from weftline.cli.job_file import JobPath, WriteJob, all_at_once, place_of, write_job
from weftline.cli.options import (
    KEPT_SERVING,
    KEPT_TRAFFIC,
    As,
    Format,
    Json,
    Plot,
    Serving,
    Traffic,
    taken_as,
)
from weftline.cli.status import status
from weftline.spec.options import FleetOptions

KEPT_FLEET = FleetOptions()
"""What holds where nothing is said."""


def serve(
    model: str,
    *,
    traffic: Traffic = KEPT_TRAFFIC,
    fleet: Annotated[FleetOptions, Parameter(name="*")] = KEPT_FLEET,
    serving: Serving = KEPT_SERVING,
    as_: As = None,
    job_file: JobPath = None,
    write: WriteJob = None,
    json: Json = False,
    form: Format = "table",
    file: Annotated[
        Path | None, Parameter(name=["--out", "-o"], help="Write the plan to this file.")
    ] = None,
    plot: Plot = False,
) -> int:
    """Chips, engine, layout, replicas and price to serve MODEL within latency targets.

    Parameters
    ----------
    model
        Bundled name, or a config.json.
    """
    from weftline.report.pictures import render_pictures
    from weftline.report.serving import render_serve_plan
    from weftline.serve.search.asked import serve_job_of
    from weftline.serve.search.plan import plan_serve
    from weftline.spec.job_file import job_values
    from weftline.spec.serialize import plan_to_json, write_plan

    del job_file  # read before this was called
    job = all_at_once(
        lambda: serve_job_of(taken_as(model, as_), fleet, traffic, serving, where=place_of)
    )
    if write is not None:
        write_job(write, job_values("serve", taken_as(model, as_), fleet, traffic, serving))
    with compiling_said():
        plan = plan_serve(job, progress=status.say)
    if file is not None:
        write_plan(plan, file)
        print(f"plan written to {file}", file=sys.stderr)

    def text() -> str:
        return render_serve_plan(plan) + ("\n" + render_pictures(plan) if plot else "")

    show("serve", plan, text, json=json, form=form, main="ranking",
         as_json=lambda: plan_to_json(plan))  # fmt: skip
    return 0
