"""Charts of a fleet under load: latency by share of requests, and what more requests do to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from weftline.report.page.chart import Chart, Section, Table
from weftline.spec import ServePlan
from weftline.units import format_duration, format_number

__all__ = ["load_section"]

_NAMES: Final = {"ttft": "time to first token", "tpot": "time per output token",
                 "e2e": "time to last token"}  # fmt: skip


def load_section(plan: ServePlan) -> Section | None:
    """How latencies spread over the requests, and at which rate a promise breaks."""
    charts = tuple(filter(None, (_sweep(plan), *_spreads(plan))))
    return Section(title="Under load", charts=charts) if charts else None


def _sweep(plan: ServePlan) -> Chart | None:
    points = plan.load_curve
    names = list(dict.fromkeys(name for p in points for name in p.reached))
    if len(points) < 2 or not names:
        return None
    limits = {f"p{t.percentile:g} {t.metric}": t.limit_s for t in plan.demand.targets}
    last = max((p.rate_per_s for p in points if p.meets), default=None)
    broken = min((p.rate_per_s for p in points if not p.meets), default=None)
    title = f"The targets hold up to {format_number(last or 0.0)} requests a second"
    if broken is not None:
        title += f" and break at {format_number(broken)}"
    marks: list[dict[str, Any]] = [{"at": plan.demand.rate_per_s, "name": "planned"}]
    marks += [{"at": s, "name": f"{n} limit", "axis": "y"} for n, s in limits.items()]
    return Chart(
        title=title, kind="line",
        data={"x": {"name": "requests a second", "unit": ""},
              "y": {"name": "seconds", "unit": "s", "log": True},
              "series": [{"name": n, "points": [[p.rate_per_s, p.reached[n]] for p in points
                                                if p.reached.get(n)]} for n in names],
              "marks": marks},
        table=Table(
            columns=("requests a second", *names, "keep every target", ""),
            right=frozenset(range(len(names) + 2)),
            rows=tuple(
                (format_number(p.rate_per_s),
                 *(format_duration(p.reached[n]) if n in p.reached else "-" for n in names),
                 f"{p.goodput_share:.1%}", "" if p.meets else "breaks a target") for p in points)),
        note="The same fleet simulated at each rate, as long as the planned traffic.",
    )  # fmt: skip


def _spreads(plan: ServePlan) -> list[Chart]:
    limits: Mapping[str, tuple[float, float]] = {
        t.metric: (t.limit_s, t.percentile / 100) for t in plan.demand.targets
    }
    charts = []
    for metric, curve in plan.latency_curves.items():
        median = min(curve, key=lambda point: abs(point[0] - 0.5))[1]
        last = curve[-1][1]
        title = (f"{_NAMES[metric].capitalize()}: {format_duration(median)} in the median, "
                 f"{format_duration(last)} for one in a thousand")  # fmt: skip
        marks = []
        if metric in limits:
            limit, share = limits[metric]
            marks = [
                {"at": limit, "name": "limit"},
                {"at": share, "name": f"{share:.0%} of the requests", "axis": "y"},
            ]
            within = max((s for s, seconds in curve if seconds <= limit), default=0.0)
            said = "All" if within >= curve[-1][0] else f"{within:.0%} of"
            title = (
                f"{said} requests keep the {format_duration(limit)} of {_NAMES[metric]} allowed; "
                f"{format_duration(median)} in the median"
            )
        charts.append(Chart(
            title=title, kind="line",
            data={"x": {"name": _NAMES[metric], "unit": "s", "log": True},
                  "y": {"name": "share of the requests", "unit": "1", "min": 0, "max": 1},
                  "series": [{"name": _NAMES[metric],
                              "points": [[s, share] for share, s in curve if s > 0]}],
                  "marks": marks},
            table=Table(columns=("share of requests", "within"), right=frozenset({0, 1}),
                        rows=tuple((f"{share:.1%}", format_duration(s))
                                   for share, s in curve[::4])),
            note="As simulated; the bands around the percentiles are in the charts of the targets.",
        ))  # fmt: skip
    return charts
