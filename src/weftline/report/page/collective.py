"""A simulated collective as a page: its time beside the bound, where it goes, which link is hot."""

from __future__ import annotations

from typing import Any, Final

from weftline.report.collective import PARTS
from weftline.report.page.chart import Chart, Page, Section, Table
from weftline.report.page.parts import capital, stacked
from weftline.units import format_bytes, format_duration, format_rate

__all__ = ["collective_page"]

_MOST_CELLS: Final = 8192
"""Chips whose links are drawn one by one: beyond them a page gets too heavy."""


def collective_page(answer: dict[str, Any]) -> Page:
    """The page of ``simulate collective --json``. Raises KeyError where a field lacks."""
    network = answer["network"]
    size = format_bytes(answer["size_bytes"])
    low, high = answer["time_low_s"], answer["time_high_s"]
    band = "" if low is None else f", {format_duration(low)} to {format_duration(high)}"
    return Page(
        title=f"weftline: {answer['collective']} on {network['name']}",
        headline=f"{capital(answer['collective'])} of {size} on {network['name']}: "
                 f"{format_duration(answer['time_s'])}{band}",
        lead=(
            f"{network['chips']:,} chips, {network['links']:,} links; {answer['algorithm']} in "
            f"{answer['steps']:,} steps; {format_rate(answer['algbw_bytes_per_s'])} algorithm "
            f"bandwidth and {format_rate(answer['busbw_bytes_per_s'])} bus bandwidth a chip.",
            f"Evaluator {answer['evaluator']}; "
            + (f"the schedule is proved: {answer['proof']['how']}." if answer["proof"]["proved"]
               else f"the schedule is not proved ({answer['proof']['how']})."),
        ),
        sections=tuple(filter(None, (
            _times(answer), _library(answer), _links(answer), _basis(answer),
        ))),
        made=f"seed {answer['seed']}. The answer's JSON has every field.",
    )  # fmt: skip


def _times(answer: dict[str, Any]) -> Section:
    bound = answer["bound"]
    best = answer["algorithm"]
    rows = [
        {"name": e["algorithm"], "value": e["time_s"], "best": e["algorithm"] == best}
        for e in answer["considered"] if e["time_s"] is not None
    ]  # fmt: skip
    if answer["library"] is not None:
        rows.insert(0, {"name": f"{answer['library']['name']}, as it runs",
                        "value": answer["time_s"], "best": True})  # fmt: skip
    table = Table(
        columns=("algorithm", "time", ""), right=frozenset({1}),
        rows=tuple((e["algorithm"], "-" if e["time_s"] is None else format_duration(e["time_s"]),
                    e["reason"]) for e in answer["considered"]))  # fmt: skip
    share = answer["bound_share"]
    chart = Chart(
        title=f"{share:.0%} of what no schedule can beat: the bound is "
              f"{format_duration(bound['time_s'])}",
        kind="bars", table=table,
        data={"name": "time", "unit": "s", "rows": rows,
              "limit": {"value": bound["time_s"], "name": "bound"}},
        note=f"Bound ({bound['name']}): {bound['certificate']}. Algorithms at link rate: links and "
             "their latency alone.",
    )  # fmt: skip
    return Section(title="How fast, and how fast it could be", charts=(chart,))


def _library(answer: dict[str, Any]) -> Section | None:
    library = answer["library"]
    if library is None:
        return None
    parts = {PARTS[name]: float(s) for name, s in library["parts"].items() if s > 0}
    largest = max(parts, key=lambda name: parts[name])
    total = sum(parts.values())
    chart = Chart(
        title=f"{parts[largest] / total:.0%} of the time is {largest}", kind="stack", size="short",
        data=stacked([(library["name"], parts)], "seconds", "s"),
        table=Table(columns=("part", "time", "share"), right=frozenset({1, 2}), rows=tuple(
            (name, format_duration(s), f"{s / total:.1%}") for name, s in parts.items())),
        note=f"{library['basis']}; the band holds 9 in 10 rows of systems left out of the fit.",
    )  # fmt: skip
    return Section(title="Where the time goes", charts=(chart,))


def _links(answer: dict[str, Any]) -> Section | None:
    links = answer["links"]
    if not links or not links["classes"]:
        return None
    table = Table(
        columns=("links", "number", "least busy", "mean", "most"), right=frozenset({1, 2, 3, 4}),
        rows=tuple((c["links"], f"{c['count']:,}", f"{c['least_share']:.0%}",
                    f"{c['mean_share']:.0%}", f"{c['most_share']:.0%}")
                   for c in links["classes"]))  # fmt: skip
    hot = answer["busiest_link"]
    title = "No link is used" if hot is None else (
        f"{capital(hot['from'])} to {hot['to']} is the busiest link: "
        f"{hot['busy_share']:.0%} of the time"
    )  # fmt: skip
    shape, load = answer["network"]["shape"], links["map"]
    if load and shape and len(load) <= _MOST_CELLS:
        chart = Chart(title=title, kind="heat", size="tall", data=_slices(shape, load), table=table,
                      note="Each cell is a chip, coloured by the busiest of its links; slices "
                           "along the last axis stand side by side.")  # fmt: skip
    else:
        chart = Chart(
            title=title, kind="bars", table=table,
            data={"name": "share of the time that a link of the class is busy, mean", "unit": "1",
                  "max": 1, "rows": [{"name": c["links"], "value": c["mean_share"], "best": True}
                                     for c in links["classes"]]},
        )  # fmt: skip
    return Section(title="Which link is hot", charts=(chart,))


def _slices(shape: list[int], load: list[float]) -> dict[str, Any]:
    """A torus as a grid: rows are the first axis, columns the second within each further slice."""
    rows = shape[0]
    inner = shape[1] if len(shape) > 1 else 1
    slices = len(load) // (rows * inner)
    values, says = [0.0] * len(load), [""] * len(load)
    columns = inner * slices
    for chip, busy in enumerate(load):
        # Chips are numbered with the last axis fastest.
        rest, outer = divmod(chip, slices)
        x, y = divmod(rest, inner)
        cell = x * columns + outer * inner + y
        values[cell] = busy
        says[cell] = f"chip {chip}"
    return {"columns": columns, "values": values, "says": says, "max": max(1.0, *load), "unit": "1",
            "column_names": [str(i % inner) for i in range(columns)],
            "row_names": [str(i) for i in range(rows)], "y_name": "first axis",
            "x_name": "second axis" if slices == 1 else
                      f"second axis, {slices} slices of the others side by side"}  # fmt: skip


def _basis(answer: dict[str, Any]) -> Section | None:
    said = tuple(f"{name}: {text}" for name, text in answer["network"]["basis"].items())
    return Section(title="What the speeds rest on", says=said) if said else None
