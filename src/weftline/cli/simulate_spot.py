"""``weftline simulate spot``: a job with a deadline on chips that may be taken away."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from weftline.cli.answer import show
from weftline.cli.options import Format, Json
from weftline.cli.status import status
from weftline.spec.decide_options import SpotOptions


def spot(
    *, asked: Annotated[SpotOptions, Parameter(name="*")], json: Json = False,
    form: Format = "table",
) -> int:  # fmt: skip
    """A job with a deadline on spot chips: what it costs, and that it is never late."""
    from dataclasses import asdict

    from weftline.decide.portfolio.spots import simulate_spot, spot_of
    from weftline.errors import ThresholdCrossedError
    from weftline.report.portfolio import render_spot

    found = simulate_spot(spot_of(asked), progress=status.say)
    show("spot", asdict(found), lambda: render_spot(found), json=json, form=form)
    if found.late:
        raise ThresholdCrossedError(f"late on {found.late} traces", where="--deadline")
    return 0
