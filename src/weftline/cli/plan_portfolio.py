"""``weftline plan portfolio``: what capacity to sign for before demand is known."""

from __future__ import annotations

from pathlib import Path

from weftline.cli.answer import show
from weftline.cli.options import Format, Json


def portfolio(file: Path, *, json: Json = False, form: Format = "table") -> int:
    """What to reserve, commit to and own over quarters of unsure demand, and what that saves.

    Parameters
    ----------
    file
        Demand by quarter, offers with prices, supply and lead times: examples/portfolio/lab.yaml.
    """
    from dataclasses import asdict

    from weftline.decide.portfolio import plan_portfolio, read_portfolio
    from weftline.report.portfolio import render_portfolio

    found = plan_portfolio(read_portfolio(str(file)))
    show(
        "portfolio",
        asdict(found),
        lambda: render_portfolio(found),
        json=json,
        form=form,
        main="policies",
    )
    return 0
