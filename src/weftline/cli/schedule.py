"""``weftline schedule``: schedules in files of others, proved, timed and shown."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from weftline.cli.answer import show
from weftline.cli.compiling import compiling_said
from weftline.cli.options import Format, Json
from weftline.cli.slow import slow_said

app = App(
    name="schedule", help="Schedules in files of MSCCL, MSCCL++ and Chakra: proved, timed, shown."
)
File = Annotated[
    Path, Parameter(help="An MSCCL XML, an MSCCL++ plan, or NAME.0.et of a Chakra trace.")
]
On = Annotated[
    str | None,
    Parameter(help="The network: torus:4x4, h100-clos:8, or a file of `weftline import`."),
]
Link = Annotated[str | None, Parameter(help="Speed one way of one link: 100GB/s.")]
Latency = Annotated[str | None, Parameter(help="Of one link: 1us.")]


@app.command
def check(
    file: File, *, on: On = None, link: Link = None, latency: Latency = None,
    json: Json = False, form: Format = "table",
) -> int:  # fmt: skip
    """Prove that a file's program does its collective, on a network if one is given.

    The program is run place by place as its own waits allow; what it moved between ranks is then
    proved as a schedule.
    """
    from weftline.fabric.schedule_file import checked
    from weftline.report.schedule import render_check

    said = checked(file, on=on, link=link, latency=latency)
    show("schedule-check", said, lambda: render_check(said), json=json, form=form)
    return 0


@app.command
def time(
    file: File,
    size: Annotated[
        str | None,
        Parameter(help="Bytes, as nccl-tests counts them: 1GB. A trace of others says its own."),
    ] = None,
    *,
    on: str, link: Link = None, latency: Latency = None, json: Json = False, form: Format = "table",
) -> int:  # fmt: skip
    """How long a file's schedule takes on a network, and how far that is from the best.

    Parameters
    ----------
    on
        The network: torus:4x4, h100-clos:8, or a file of `weftline import`.
    """
    from weftline.fabric.schedule_file import timed
    from weftline.report.schedule import render_time

    with compiling_said(), slow_said(f"timing {file} message by message"):
        said = timed(file, size, on=on, link=link, latency=latency)
    show("schedule-time", said, lambda: render_time(said), json=json, form=form)
    return 0


@app.command(name="show")
def show_file(file: File, *, json: Json = False, form: Format = "table") -> int:
    """What a file's schedule sends: step by step, who to whom, how much of the buffer."""
    from weftline.fabric.schedule_file import shown
    from weftline.report.schedule import render_show

    said = shown(file)
    show("schedule", said, lambda: render_show(said), json=json, form=form)
    return 0
