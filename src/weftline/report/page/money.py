"""Charts of a training plan's money: where it goes, what drives it, when another chip wins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from weftline.report.page.chart import Chart, Section, Table
from weftline.spec import Plan
from weftline.units import format_usd

__all__ = ["flips_section", "is_compute", "money_section"]

_OVERHEADS: Final = ("exposed", "bubble", "uneven", "stragglers", "launches", "recomputation")
"""Words in the names of parts of a step in which no chip computes what the model needs."""
_SHOWN: Final = 8
_LEAST: Final = 0.0005
"""Of the whole, below which a part has no ribbon of its own."""


def is_compute(name: str) -> bool:
    """Whether a part of a step is work that the model asks for."""
    return not any(word in name for word in _OVERHEADS)


def money_section(plan: Plan) -> Section | None:
    """From the list price to the FLOP that count, with what is lost on the way."""
    whole = plan.estimates.get("effective_cost")
    if whole is None or not plan.cost_parts:
        return None
    links = _flows(plan)
    names = list(dict.fromkeys(str(end) for link in links for end in (link["from"], link["to"])))
    useful = next((x["value"] for x in links if x["to"] == "at the chip's peak"), 0.0)
    total = sum(x["value"] for x in links if x["from"] == "the run")
    price = plan.price
    beside = "".join(f" {p.name.capitalize()}: {p.basis}." for p in plan.beside_parts)
    chart = Chart(
        title=f"Of {format_usd(total)}, {format_usd(useful)} would pay for the same FLOP at the "
              "peak of the chip",
        kind="sankey", data={"nodes": names, "links": links, "unit": "USD"}, size="tall",
        table=Table(columns=("from", "to", "US dollars", "share"), right=frozenset({2, 3}),
                    rows=tuple((str(x["from"]), str(x["to"]), format_usd(x["value"]),
                                f"{x['value'] / total:.1%}") for x in links)),
        note="" if price is None else
             f"{format_usd(price.usd_per_chip_hour.value)} a chip-hour, {price.price_type}, "
             f"{price.provider} {price.region}, {price.date}: {price.usd_per_chip_hour.basis}."
             + beside,
    )  # fmt: skip
    return Section(title="Where the money goes", charts=(chart,))


def _flows(plan: Plan) -> list[dict[str, Any]]:
    """Ribbons of the Sankey diagram: what enters a node leaves it, to the last cent."""
    compute, *lost = plan.cost_parts
    links = [{"from": "the run", "to": "price of the steps", "value": compute.value}]
    links += [{"from": "the run", "to": p.name, "value": p.value}
              for p in (*lost, *plan.beside_parts) if p.value > 0]  # fmt: skip
    # What near measured runs save is no flow of its own: the other parts shrink by it.
    parts = {p.name: p.value for p in plan.step_parts if p.value > 0}
    total = sum(parts.values())
    shares = {name: seconds / total * compute.value for name, seconds in parts.items()}
    small = {n for n, v in shares.items() if not is_compute(n) and v < _LEAST * compute.value}
    computing = sum(v for n, v in shares.items() if is_compute(n))
    links.append({"from": "price of the steps", "to": "useful compute", "value": computing})
    links += [{"from": "price of the steps", "to": n, "value": v}
              for n, v in shares.items() if not is_compute(n) and n not in small]  # fmt: skip
    if rest := sum(shares[n] for n in small):
        links.append({"from": "price of the steps", "to": "other", "value": rest})
    useful = min(plan.estimates["mfu"].value * compute.value, computing)
    links.append({"from": "useful compute", "to": "at the chip's peak", "value": useful})
    if useful < computing:
        links.append({"from": "useful compute", "to": "below the peak",
                      "value": computing - useful})  # fmt: skip
    return links


def flips_section(plan: Plan) -> Section | None:
    """What drives the cost, at which price another chip wins, and what else would flip it."""
    charts = tuple(filter(None, (_tornado(plan), _break_even_lines(plan), _thresholds(plan))))
    if not charts and not plan.flips:
        return None
    return Section(title="What drives it, what would flip it", charts=charts, says=plan.flips)


def _tornado(plan: Plan) -> Chart | None:
    swings, whole = plan.swings, plan.estimates.get("effective_cost")
    if not swings or whole is None:
        return None
    first = swings[0]
    return Chart(
        title=f"{first.driver[:1].upper()}{first.driver[1:]} drives the cost most: "
              f"{format_usd(first.low_usd)} to {format_usd(first.high_usd)}",
        kind="range", size="" if len(swings) > 3 else "short",
        data={"x": {"name": "cost with failures", "unit": "USD"},
              "rows": [{"name": s.driver, "low": s.low_usd, "high": s.high_usd, "limit": None,
                        "value": min(max(whole.value, s.low_usd), s.high_usd)} for s in swings]},
        table=Table(columns=("driver", "now", "cost at its low end", "at its high end", "basis"),
                    right=frozenset({2, 3}),
                    rows=tuple((s.driver, s.at, format_usd(s.low_usd), format_usd(s.high_usd),
                                s.basis) for s in swings)),
        note="Each driver alone from one end of its band to the other, the others as planned.",
    )  # fmt: skip


def _break_even_lines(plan: Plan) -> Chart | None:
    """Cost of the nearest others against their own price, beside the answer's cost."""
    best = plan.ranking[0]
    costs: Mapping[str, float] = {c.accelerator: c.cost_usd for c in plan.ranking[1:] if c.cost_usd}
    # Where time counts too, the cost at which the choice flips is another for every chip.
    most_lines = 1 if plan.job.objective == "cost-time" else 3
    evens = [b for b in plan.break_evens
             if b.now_usd_per_chip_hour > 0 and b.accelerator in costs][:most_lines]  # fmt: skip
    if not evens or best.cost_usd is None:
        return None
    nearest = evens[0]
    most = 1.25 * max(max(b.now_usd_per_chip_hour, b.wins_below_usd_per_chip_hour) for b in evens)
    series: list[dict[str, Any]] = [
        {"name": f"{b.accelerator} (now {format_usd(b.now_usd_per_chip_hour)})",
         "points": [[0.0, 0.0],
                    [most, costs[b.accelerator] * most / b.now_usd_per_chip_hour]]}
        for b in evens
    ]  # fmt: skip
    level = costs[nearest.accelerator] * (
        nearest.wins_below_usd_per_chip_hour / nearest.now_usd_per_chip_hour
    )
    series.append({"name": f"{best.accelerator} as it is", "dashed": True,
                   "points": [[0.0, level], [most, level]]})  # fmt: skip
    return Chart(
        title=f"{nearest.accelerator} wins below {format_usd(nearest.wins_below_usd_per_chip_hour)}"
              f" a chip-hour; it is {format_usd(nearest.now_usd_per_chip_hour)} now",
        kind="line",
        data={"x": {"name": "price of the other chip, US dollars a chip-hour", "unit": "USD"},
              "y": {"name": "cost of the run", "unit": "USD", "min": 0}, "series": series,
              "marks": [{"at": nearest.wins_below_usd_per_chip_hour, "name": "wins below"},
                        {"at": nearest.now_usd_per_chip_hour, "name": "now"}]},
        table=Table(
            columns=("accelerator", "wins below, a chip-hour", "now"), right=frozenset({1, 2}),
            rows=tuple((b.accelerator, format_usd(b.wins_below_usd_per_chip_hour),
                        format_usd(b.now_usd_per_chip_hour)) for b in evens)),
        note="A line is what the run would cost on that chip at a price; where it crosses the "
             "dashed line the choice flips"
             + (" (the cost at which cost times time is equal)."
                if plan.job.objective == "cost-time" else "."),
    )  # fmt: skip


def _thresholds(plan: Plan) -> Chart | None:
    evens = [b for b in plan.break_evens if b.now_usd_per_chip_hour > 0][:_SHOWN]
    if not evens:
        return None
    nearest = evens[0]
    share = nearest.wins_below_usd_per_chip_hour / nearest.now_usd_per_chip_hour
    return Chart(
        title=f"{nearest.accelerator} would win {1 - share:.0%} below its price of today",
        kind="bars",
        data={
            "name": "price at which it wins, as a share of its price now", "unit": "1",
            "max": 1.1, "limit": {"value": 1.0, "name": "price now"},
            "rows": [
                {"name": b.accelerator, "best": i == 0,
                 "value": b.wins_below_usd_per_chip_hour / b.now_usd_per_chip_hour,
                 "says": [f"{format_usd(b.wins_below_usd_per_chip_hour)} a chip-hour, now "
                          f"{format_usd(b.now_usd_per_chip_hour)}"]}
                for i, b in enumerate(evens)
            ],
        },
        table=Table(
            columns=("accelerator", "wins below, a chip-hour", "now"), right=frozenset({1, 2}),
            rows=tuple((b.accelerator, format_usd(b.wins_below_usd_per_chip_hour),
                        format_usd(b.now_usd_per_chip_hour)) for b in evens)),
    )  # fmt: skip
