"""``weftline plan lifecycle``: the whole life of a model, placed, priced, with what drives it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from weftline.cli.answer import show
from weftline.cli.compiling import compiling_said
from weftline.cli.options import Format, Json
from weftline.cli.status import status


def lifecycle(
    life: Path,
    *,
    focus: Annotated[
        Path | None, Parameter(help="Write the forecast as FOCUS columns to this CSV file.")
    ] = None,
    focus_version: Annotated[
        Literal["1.2", "1.4"], Parameter(help="Which columns --focus writes.")
    ] = "1.4",
    cyclonedx: Annotated[
        Path | None, Parameter(help="Write a CycloneDX model card with its energy to this file.")
    ] = None,
    json: Json = False,
    form: Format = "table",
    output: Annotated[
        Path | None, Parameter(name=["--output", "-o"], help="Write the answer to this file.")
    ] = None,
) -> int:
    """Stages of a model's whole life, each where it costs least: dollars, energy, carbon, time.

    Parameters
    ----------
    life
        A lifecycle file; `weftline plan schema --kind lifecycle` has all fields.
    """
    from weftline.decide.lifecycle import plan_lifecycle, read_life
    from weftline.report.lifecycle import render_lifecycle
    from weftline.spec.serialize import plan_to_json, write_plan, write_text

    asked = read_life(str(life))
    with compiling_said():
        found = plan_lifecycle(asked, progress=status.say)
    if output is not None:
        write_plan(found, output)
        print(f"lifecycle written to {output}", file=sys.stderr)
    if focus is not None:
        from weftline.report.focus import focus_csv

        write_text(focus_csv(found, focus_version), focus)
        print(f"FOCUS {focus_version} columns written to {focus}", file=sys.stderr)
    if cyclonedx is not None:
        from weftline.report.cyclonedx import cyclonedx_json

        write_text(cyclonedx_json(found), cyclonedx)
        print(f"CycloneDX model card written to {cyclonedx}", file=sys.stderr)
    show("lifecycle", found, lambda: render_lifecycle(found), json=json, form=form, main="lines",
         as_json=lambda: plan_to_json(found))  # fmt: skip
    return 0
