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
        A file written by `weftline plan train ... -o`.
    run
        Folder that `weftline train ... -o` wrote.
    """
    from weftline.report.training import render_comparison
    from weftline.runtime.compare import compare as beside
    from weftline.spec.serialize import read_plan

    found = beside(read_plan(plan), run)
    show(found, lambda: render_comparison(found), json=json, form=form, main="rows")
    return 0
