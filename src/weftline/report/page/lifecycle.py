"""A model's whole life as a page: which way wins, where the money goes, when, what drives it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from weftline.report.page.chart import Chart, Page, Section, Table
from weftline.report.page.leaving import leaving_section, portable_section
from weftline.report.page.parts import calendar, capital, made_by
from weftline.spec import Estimate
from weftline.spec.lifecycle import Lifecycle
from weftline.units import format_count, format_duration, format_mass, format_usd

__all__ = ["lifecycle_page"]

_SWINGS: Final = 12
_LINES: Final = 80
_EVEN: Final = 0.99
"""Of the dearest month, from which on none stands out."""
_LEAST_SHARE: Final = 0.002
"""Of the total, below which a part of a stage has no ribbon of its own."""


def lifecycle_page(life: Lifecycle) -> Page:
    """The page of one ``plan lifecycle``."""
    cost, best = life.estimates["cost"], life.ways[0]
    count = "one stage" if len(life.stages) == 1 else f"{len(life.stages)} stages"
    return Page(
        title=f"weftline: the life of {life.model}",
        headline=f"{life.model}, {best.name}: {format_usd(cost.value)} "
                 f"({format_usd(cost.low)} to {format_usd(cost.high)})",
        lead=(
            f"From {life.start}, {count}; objective {life.objective}. Bands are "
            f"the 5th and 95th percentile of {life.samples:,} samples (seed {life.seed}), whose "
            f"mean is {format_usd(life.mean_usd)}; in closed form "
            f"{format_usd(life.analytic_mean_usd)}.",
        ),
        sections=tuple(filter(None, (
            Section(title="The answer", says=life.why, tables=(_numbers(life.estimates),)),
            _ways(life), _stages(life), _money(life), _months(life), _drivers(life),
            leaving_section(life), portable_section(life), _lines(life), _without(life),
        ))),
        made=made_by(life.weftline, life.catalog_date),
    )  # fmt: skip


def _amount(e: Estimate, value: float) -> str:
    match e.unit:
        case "USD":
            return format_usd(value)
        case "s":
            return format_duration(value)
        case "J":
            return f"{format_count(value / 3.6e6)} kWh"
        case "kgCO2e":
            return format_mass(value)
        case _:
            return f"{format_count(value)} {e.unit}".strip()


def _numbers(estimates: Mapping[str, Estimate]) -> Table:
    return Table(
        columns=("", "estimate", "90 % band", "rests on"), right=frozenset({1, 2}),
        rows=tuple(
            (name.replace("_", " "), _amount(e, e.value),
             f"{_amount(e, e.low)} to {_amount(e, e.high)}", e.basis)
            for name, e in estimates.items()
        ),
    )  # fmt: skip


def _ways(life: Lifecycle) -> Section:
    best, *others = life.ways
    title = f"{capital(best.name)} costs least"
    if others:
        title = (
            f"{capital(best.name)}: cheapest in {best.cheapest_share:.0%} of the samples; "
            f"{others[0].name} costs {others[0].usd / best.usd:.2f} times as much"
        )
    chart = Chart(
        title=title, kind="range", size="short" if len(life.ways) < 4 else "",
        data={"x": {"name": "US dollars", "unit": "USD"},
              "rows": [{"name": w.name, "low": w.low, "value": w.usd, "high": w.high, "limit": None}
                       for w in life.ways]},
        table=Table(
            columns=("way", "cost", "90 % band", "cheapest", "carbon", "time", ""),
            right=frozenset({1, 2, 3, 4, 5}),
            rows=tuple((
                w.name, format_usd(w.usd), f"{format_usd(w.low)} to {format_usd(w.high)}",
                f"{w.cheapest_share:.0%}", "-" if w.kgco2e is None else format_mass(w.kgco2e),
                format_duration(w.lasts_s), w.note) for w in life.ways)),
    )  # fmt: skip
    return Section(title="Which way wins", charts=(chart,))


def _stages(life: Lifecycle) -> Section:
    size, unit = calendar([s.starts_s + s.lasts_s for s in life.stages])
    longest = max(life.stages, key=lambda s: s.lasts_s)
    chart = Chart(
        title=f"{capital(longest.name)} lasts {format_duration(longest.lasts_s)}", kind="gantt",
        size="short" if len(life.stages) < 4 else "",
        data={"name": f"{unit} from the start", "unit": "",
              "until": max(s.starts_s + s.lasts_s for s in life.stages) / size,
              "rows": [s.name for s in life.stages],
              "blocks": [{"row": i, "from": s.starts_s / size,
                          "until": (s.starts_s + s.lasts_s) / size, "tone": i % 10,
                          "name": f"{s.name}, {s.place}: {s.said}"}
                         for i, s in enumerate(life.stages)]},
        table=Table(
            columns=("stage", "place", "chips", "lasts", "cost", "plan"),
            right=frozenset({2, 3, 4}),
            rows=tuple((s.name, s.place, f"{s.chips:,}", format_duration(s.lasts_s),
                        format_usd(s.usd.value), s.said) for s in life.stages)),
    )  # fmt: skip
    return Section(title="When, where and how", charts=(chart,))


def _money(life: Lifecycle) -> Section:
    total = sum(line.usd for line in life.lines)
    by_part: dict[tuple[str, str], float] = {}
    for line in life.lines:
        key = (line.stage, line.part)
        by_part[key] = by_part.get(key, 0.0) + line.usd
    stages: dict[str, float] = {}
    links: list[dict[str, Any]] = []
    for (stage, part), usd in by_part.items():
        stages[stage] = stages.get(stage, 0.0) + usd
        if usd > _LEAST_SHARE * total:
            links.append({"from": stage, "to": f"{part} ", "value": usd})
    whole = [{"from": "the whole life", "to": stage, "value": usd}
             for stage, usd in stages.items() if usd > _LEAST_SHARE * total]  # fmt: skip
    links = [*whole, *links]
    names = list(dict.fromkeys(str(end) for link in links for end in (link["from"], link["to"])))
    most, usd = max(by_part.items(), key=lambda item: item[1])
    chart = Chart(
        title=f"{usd / total:.0%} of the money is {most[1]} of {most[0]}", kind="sankey",
        size="tall", data={"nodes": names, "links": links, "unit": "USD"},
        table=Table(columns=("stage", "part", "US dollars", "share"), right=frozenset({2, 3}),
                    rows=tuple((stage, part, format_usd(v), f"{v / total:.1%}")
                               for (stage, part), v in by_part.items())),
    )  # fmt: skip
    return Section(title="Where the money goes", charts=(chart,))


def _months(life: Lifecycle) -> Section | None:
    if len(life.months) < 2:
        return None
    dearest = max(life.months, key=lambda m: m.usd)
    cheapest = min(life.months, key=lambda m: m.usd)
    title = f"Month {dearest.month + 1} is the dearest: {format_usd(dearest.usd)}"
    if cheapest.usd > _EVEN * dearest.usd:
        title = f"Every month costs about as much: {format_usd(dearest.usd)}"
    chart = Chart(
        title=title, kind="line",
        data={"x": {"name": f"month from {life.start}", "unit": ""},
              "y": {"name": "US dollars a month", "unit": "USD", "min": 0},
              "series": [{"name": "cost", "points": [[m.month + 1, m.usd] for m in life.months]}],
              "marks": []},
        table=Table(
            columns=("month", "cost", "energy", "carbon"), right=frozenset({0, 1, 2, 3}),
            rows=tuple((
                str(m.month + 1), format_usd(m.usd),
                "-" if m.energy_j is None else f"{format_count(m.energy_j / 3.6e6)} kWh",
                "-" if m.kgco2e is None else format_mass(m.kgco2e)) for m in life.months)),
    )  # fmt: skip
    return Section(title="Month by month", charts=(chart,))


def _drivers(life: Lifecycle) -> Section | None:
    swings = [s for s in life.tornado if s.high_usd > s.low_usd][:_SWINGS]
    charts: tuple[Chart, ...] = ()
    if swings:
        first, now = swings[0], life.estimates["cost"].value
        charts = (Chart(
            title=f"{capital(first.driver)} drives it most: {format_usd(first.low_usd)} to "
                  f"{format_usd(first.high_usd)}",
            kind="range", size="" if len(swings) > 3 else "short",
            data={"x": {"name": "cost of the whole life", "unit": "USD"},
                  "rows": [{"name": s.driver, "low": s.low_usd, "high": s.high_usd, "limit": None,
                            "value": min(max(now, s.low_usd), s.high_usd)} for s in swings]},
            table=Table(
                columns=("driver", "around", "at its 5th percentile", "at its 95th", "basis"),
                right=frozenset({2, 3}),
                rows=tuple((s.driver, s.at, format_usd(s.low_usd), format_usd(s.high_usd), s.basis)
                           for s in swings)),
            note="Each driver alone from its 5th to its 95th percentile, the others at the middle.",
        ),)  # fmt: skip
    if not charts and not life.flips:
        return None
    return Section(title="What drives it, what would flip it", charts=charts, says=life.flips)


def _lines(life: Lifecycle) -> Section:
    lines = sorted(life.lines, key=lambda line: -line.usd)
    table = Table(
        columns=("stage", "part", "place", "US dollars", "how", "rests on"), right=frozenset({3}),
        rows=tuple((line.stage, line.part, line.place, format_usd(line.usd), line.formula,
                    line.basis) for line in lines[:_LINES]),
        left_out=max(0, len(lines) - _LINES),
    )  # fmt: skip
    return Section(title="Every line of the bill", tables=(table,), says=life.notes)


def _without(life: Lifecycle) -> Section | None:
    if not life.without_plan:
        return None
    rows = tuple((r.accelerator, r.reason) for r in life.without_plan)
    return Section(title="What has no plan", tables=(Table(columns=("what", "why"), rows=rows),))
