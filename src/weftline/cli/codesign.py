"""``weftline codesign``: which architecture each chip favours, and what one for all costs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from weftline.cli.answer import show
from weftline.cli.compiling import compiling_said
from weftline.cli.options import As, Format, Json, taken_as
from weftline.cli.status import status
from weftline.spec.decide_options import CodesignOptions


def codesign(
    model: str,
    *,
    asked: Annotated[CodesignOptions, Parameter(name="*")],
    as_: As = None,
    json: Json = False,
    form: Format = "table",
    output: Annotated[
        Path | None, Parameter(name=["--output", "-o"], help="Write the answer to this file.")
    ] = None,
) -> int:
    """Architectures of equal worth around MODEL: what each costs, and which chip favours which.

    Parameters
    ----------
    model
        Bundled name, config.json, or gpt:layers=96,hidden=12288,...
    """
    import json as json_module
    from dataclasses import asdict

    from weftline.decide.codesign import codesign_of, plan_codesign
    from weftline.report.codesign import render_codesign
    from weftline.spec.answers import stamped
    from weftline.spec.serialize import write_text

    question = codesign_of(taken_as(model, as_), asked)
    with compiling_said():
        found = plan_codesign(question, progress=status.say)
    if output is not None:
        write_text(json_module.dumps(stamped("codesign", asdict(found)), indent=1) + "\n", output)
        print(f"co-design written to {output}", file=sys.stderr)
    show(
        "codesign",
        asdict(found),
        lambda: render_codesign(found),
        json=json,
        form=form,
        main="costs",
    )
    return 0
