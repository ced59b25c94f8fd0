"""``weftline calibrate``: learn from runs of your own."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from weftline.cli.answer import show
from weftline.cli.options import Format, Json


def calibrate(
    *,
    from_: Annotated[Path | None, Parameter(name="--from")] = None,
    reset: Annotated[bool, Parameter(negative="")] = False,
    json: Json = False,
    form: Format = "table",
) -> int:
    """Fit the constants to measured runs of your own, beside the shipped ones.

    Parameters
    ----------
    from_
        CSV of your runs, with the columns of published runs.
    reset
        Forget your own calibration and go back to the shipped one.
    """

    from weftline.errors import InputError
    from weftline.plan.calibrate.own_runs import calibrate_from, forget_calibration
    from weftline.report.text import wrapped

    if reset == (from_ is not None):
        raise InputError("say either --from RUNS.csv or --reset", where="calibrate")
    if from_ is None:
        gone = forget_calibration()
        removed = f"; removed {', '.join(gone)}" if gone else ""
        show({"removed": gone}, lambda: f"The shipped calibration is in force{removed}.",
             json=json, form=form)  # fmt: skip
        return 0
    done = calibrate_from(from_)
    for warning in done.warnings:
        print(f"note: {warning}", file=sys.stderr)
    for left in done.unpredicted:
        print(f"note: {left.id} left out: {left.reason}", file=sys.stderr)
    groups = ", ".join(f"{name} ({count})" for name, count in sorted(done.groups.items()))
    lines = wrapped(
        f"Fitted {done.rows} rows: mean error {done.before_mape_pct:.1f} % before, "
        f"{done.after_mape_pct:.1f} % after, each row left out of its own prediction"
    )
    lines += wrapped(f"groups: {groups}", hang="  ")
    lines += [f"written: {name}" for name in done.files]
    show(done, lambda: "\n".join(lines), json=json, form=form)
    return 0
