"""A job with a deadline on spot chips as a page: its cost beside simpler ways, and its hours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from weftline.report.page.chart import Chart, Page, Section, Table
from weftline.report.page.parts import stacked
from weftline.units import format_usd

__all__ = ["spot_page"]


def spot_page(answer: Mapping[str, Any]) -> Page:
    """The page of ``simulate spot --json``. Raises KeyError where a field lacks."""
    traces = f"{answer['traces']:,} traces"
    late = "never late" if not answer["late"] else f"late on {answer['late']:,}"
    saved = 1 - answer["usd"] / answer["on_demand_usd"]
    where = answer["trace"] or "two states, drawn"
    return Page(
        title="weftline: a job on spot chips",
        headline=f"{format_usd(answer['usd'])} on the mean of {traces}, {late}; "
                 f"{saved:.0%} below on-demand alone",
        lead=(f"{answer['chips']:,} chips; spot there {answer['available']:.0%} of the time "
              f"({where}), seed {answer['seed']}. Nine in ten traces cost "
              f"{format_usd(answer['low'])} to {format_usd(answer['high'])}.",),
        sections=(Section(title="Beside simpler ways", charts=(_ways(answer),)),
                  Section(title="Where its hours go", charts=(_hours(answer),))),
        made=f"weftline {answer['weftline']}. The answer's JSON has every field.",
    )  # fmt: skip


def _ways(answer: Mapping[str, Any]) -> Chart:
    ways = (
        ("this policy", answer["usd"]),
        ("spot until on-demand has to begin", answer["last_moment_usd"]),
        ("on-demand alone", answer["on_demand_usd"]),
        ("who knows the whole trace", answer["seer_usd"]),
    )
    return Chart(
        title=f"It costs {answer['over_seer']:.1%} more than who knows the whole trace, "
              f"{answer['over_seer_p95']:.1%} in one of twenty",
        kind="bars", size="short",
        data={"name": "US dollars of one run, mean", "unit": "USD", "rows": [
            {"name": name, "value": usd, "best": i == 0} for i, (name, usd) in enumerate(ways)]},
        table=Table(columns=("way", "US dollars", "over the seer"), right=frozenset({1, 2}),
                    rows=tuple((name, format_usd(usd), f"{usd / answer['seer_usd'] - 1:+.1%}")
                               for name, usd in ways)),
    )  # fmt: skip


def _hours(answer: Mapping[str, Any]) -> Chart:
    hours = {"on spot": answer["spot_hours"], "on demand": answer["on_demand_hours"],
             "waiting": answer["idle_hours"]}  # fmt: skip
    total = sum(hours.values()) or 1.0
    return Chart(
        title=f"{hours['on spot'] / total:.0%} of its hours are on spot chips", kind="stack",
        size="short", data=stacked([("mean of the traces", hours)], "hours of the run", "h"),
        table=Table(columns=("hours", "", "share"), right=frozenset({1, 2}),
                    rows=tuple((name, f"{h:.1f} h", f"{h / total:.1%}")
                               for name, h in hours.items())),
    )  # fmt: skip
