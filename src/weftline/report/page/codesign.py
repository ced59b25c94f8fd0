"""Co-design as a page: which architecture each chip favours, and what one for all costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from weftline.report.page.chart import Chart, Page, Section, Table
from weftline.report.page.parts import capital, joined, made_by
from weftline.units import format_count, format_number

__all__ = ["codesign_page"]

_BASE = 1.0
"""Size of the designs that are as deep as the base: the others are points of the iso-cost curve."""


def codesign_page(answer: Mapping[str, Any]) -> Page:
    """The page of ``codesign --json``. Raises KeyError where a field lacks."""
    portable = answer["portable"]
    own = set(answer["favoured"].values())
    if portable is None:
        headline = "No design runs on every chip"
    elif own == {portable}:
        headline = f"{capital(portable)} costs least on every chip"
    else:
        worst = max(answer["portable_loss"].values())
        headline = f"{capital(portable)} for all chips: {worst:.1%} over a chip's own at worst"
    name = "A model by its numbers" if answer["model"].startswith("gpt:") else answer["model"]
    return Page(
        title="weftline: co-design", headline=headline,
        lead=(
            f"{name}; {format_count(answer['tokens'])} tokens trained, "
            f"{format_count(answer['served'])} served. All designs are worth "
            f"{format_number(answer['target'], 4)} = {answer['quality']}.",
        ),
        sections=tuple(filter(None, (
            Section(title="The answer", says=tuple(answer["why"])),
            _costs(answer), _fragmentation(answer), _iso(answer), _designs(answer),
            Section(title="Taken for granted", says=tuple(answer["notes"]))
            if answer["notes"] else None,
        ))),
        made=made_by(answer["weftline"], answer["catalog_date"]),
    )  # fmt: skip


def _costs(answer: Mapping[str, Any]) -> Section:
    """Every design on every chip: what it costs over the cheapest there."""
    chips = answer["chips"]
    costs = {(c["design"], c["chip"]): c for c in answer["costs"] if c["size"] == _BASE}
    least = {chip: min((c["usd"] for (_, at), c in costs.items() if at == chip and c["usd"]),
                       default=None) for chip in chips}  # fmt: skip
    over = {key: c["usd"] / least[key[1]] - 1 if c["usd"] else None for key, c in costs.items()}
    names = sorted({design for design, _ in costs}, key=lambda d: _worst(d, chips, over))
    own = set(answer["favoured"].values())
    worst = max((v for v in over.values() if v is not None), default=0.0)
    title = "Cheapest by chip: " + "; ".join(
        f"{answer['favoured'].get(chip, 'nothing')} on {chip}" for chip in chips)  # fmt: skip
    if len(own) == 1 and len(answer["favoured"]) == len(chips):
        title = f"{capital(next(iter(own)))} costs least everywhere, another up to {worst:.0%} more"
    chart = Chart(
        title=title, kind="heat",
        size="tall" if len(names) > 6 else "",
        data=_grid(names, chips, over, [[_said(costs.get((d, c)), over.get((d, c))) for c in chips]
                                        for d in names]),
        table=Table(
            columns=("chip", "design", "a million trained", "a million served", "over the cheapest",
                     "how"), right=frozenset({2, 3, 4}),
            rows=tuple((chip, d, _usd(c["train_usd_per_m"]), _usd(c["serve_usd_per_m"]),
                        _share(over[d, chip]), c["lost"] or joined(c["trained"], c["served"]))
                       for chip in chips for d in sorted(names, key=lambda n: _rank(n, chip, over))
                       if (c := costs.get((d, chip))) is not None)),
        note="Cost of training and serving together, over that of the cheapest design on the same "
             "chip; designs that suit all chips best stand on top, an empty cell has no plan.",
    )  # fmt: skip
    return Section(title="What each design costs on each chip", charts=(chart,))


def _rank(design: str, chip: str, over: Mapping[tuple[str, str], float | None]) -> float:
    found = over.get((design, chip))
    return float("inf") if found is None else found


def _worst(
    design: str, chips: Sequence[str], over: Mapping[tuple[str, str], float | None]
) -> tuple[float, str]:
    return max(_rank(design, chip, over) for chip in chips), design


def _said(cost: Mapping[str, Any] | None, over: float | None) -> str:
    if cost is None or over is None:
        return "no plan" if cost is None else f"no plan: {cost['lost']}"
    return f"{_usd(cost['train_usd_per_m'])} trained, {_usd(cost['serve_usd_per_m'])} served"


def _grid(
    rows: Sequence[str], columns: Sequence[str],
    values: Mapping[tuple[str, str], float | None], says: Sequence[Sequence[str]],
) -> dict[str, Any]:  # fmt: skip
    flat = [values.get((row, column)) for row in rows for column in columns]
    return {
        "columns": len(columns), "row_names": list(rows), "column_names": list(columns),
        "values": flat, "unit": "1", "max": max([v for v in flat if v], default=1.0),
        "says": [f"{row} on {column}\n{says[i][j]}" for i, row in enumerate(rows)
                 for j, column in enumerate(columns)],
    }  # fmt: skip


def _fragmentation(answer: Mapping[str, Any]) -> Section | None:
    """What it costs on each chip to run what another one favours."""
    found = answer["fragmentation"]
    if len(found) < 2 or set(answer["favoured"].values()) == {answer["portable"]}:
        return None
    chips, loss = list(found), answer["portable_loss"]
    apart = [(v, on, of) for on in chips for of in chips if on != of
             and (v := found[on].get(of)) is not None]  # fmt: skip
    title = "No chip runs what another favours"
    if apart:
        most, on, of = max(apart)
        title = (
            f"{capital(on)} pays {most:.1%} more for what {of} favours: the most of all pairs"
            if most >= 0.0005 else "Every chip runs what the others favour at no extra cost"
        )  # fmt: skip
    own = {of: answer["favoured"].get(of, "nothing") for of in chips}
    columns = [f"favourite of {of}" for of in chips] + (["the portable design"] if loss else [])
    values: dict[tuple[str, str], float | None] = {}
    for on in chips:
        values |= {(on, f"favourite of {of}"): found[on].get(of) for of in chips}
        values[on, "the portable design"] = loss.get(on)
    chart = Chart(
        title=title, kind="heat", size="" if len(chips) > 2 else "short",
        data=_grid(chips, columns, values,
                   [[*(own[of] for of in chips), answer["portable"] or ""] for _ in chips]),
        table=Table(
            columns=("run on", *columns), right=frozenset(range(1, len(columns) + 1)),
            rows=tuple((on, *(_share(values[on, column]) for column in columns)) for on in chips)),
        note="Cost over that of the chip's own favourite.",
    )  # fmt: skip
    return Section(title="What fragmentation costs", charts=(chart,))


def _iso(answer: Mapping[str, Any]) -> Section | None:
    points = answer["iso"]
    if not points:
        return None
    most = max(points, key=lambda p: float(p["parameters"]))
    table = Table(
        columns=("chip", "design", "layers over the base", "parameters", "worth"),
        right=frozenset({2, 3, 4}),
        rows=tuple((p["chip"], p["design"], f"{p['size']:.2f}", format_count(p["parameters"]),
                    format_number(p["quality"], 4)) for p in points),
    )  # fmt: skip
    chart = Chart(
        title=f"The base's money buys most parameters as {most['design']} on {most['chip']}: "
              f"{format_count(most['parameters'])}",
        kind="scatter", table=table,
        data={"x": {"name": "parameters", "unit": ""},
              "y": {"name": "worth", "unit": ""},
              "points": [{"name": p["design"], "x": p["parameters"], "y": p["quality"],
                          "group": p["chip"], "says": [p["chip"], f"{p['size']:.2f} times as deep"]}
                         for p in points],
              "front": [], "front_name": ""},
        note=f"Each design as deep as it may be for what the base costs on the same chip; worth is "
             f"{answer['quality']}.",
    )  # fmt: skip
    return Section(title="What the base's money buys", charts=(chart,))


def _designs(answer: Mapping[str, Any]) -> Section:
    return Section(title="The designs", tables=(Table(
        columns=("design", "depth", "parameters", "active", "worth", "as every command takes it"),
        right=frozenset({1, 2, 3, 4}),
        rows=tuple((d["name"], f"{d['size']:g}", format_count(d["parameters"]),
                    format_count(d["active_parameters"]), format_number(d["quality"], 4), d["spec"])
                   for d in answer["designs"]),
    ),))  # fmt: skip


def _usd(value: float | None) -> str:
    return "-" if value is None else f"${format_number(value, 3)}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:+.1%}"
