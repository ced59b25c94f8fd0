"""Pieces that several pages share: tables of numbers and parts, stacked bars, the last line."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from weftline.report.page.chart import Table
from weftline.report.text import in_words
from weftline.spec import Estimate, Part

__all__ = [
    "calendar",
    "capital",
    "front_of",
    "joined",
    "made_by",
    "numbers_table",
    "parts_table",
    "stacked",
]

Show = Callable[[float], str]
_COLOURS: Final = 10
"""That the pages' styles have: no two parts of a bar share one."""


def numbers_table(
    estimates: Mapping[str, Estimate], rows: Sequence[tuple[str, str, Show]]
) -> Table:
    """Every estimate of ``rows`` that there is, with its band and what it rests on."""
    found, above = [], ""
    for label, name, show in rows:
        said = f"{above} {label.strip()}" if label.startswith(" ") else label
        above = above if label.startswith(" ") else label
        e = estimates.get(name)
        if e is not None:
            band = f"{show(e.low)} to {show(e.high)}"
            found.append((said, show(e.value), band, in_words(e.basis)))
    return Table(columns=("", "estimate", "90 % band", "rests on"), right=frozenset({1, 2}),
                 rows=tuple(found))  # fmt: skip


def parts_table(parts: Sequence[Part], show: Show) -> Table:
    """Parts of a sum with their shares and bases."""
    total = sum(p.value for p in parts) or 1.0
    return Table(
        columns=("part", "", "share", "rests on"), right=frozenset({1, 2}),
        rows=tuple((p.name, show(p.value), f"{p.value / total:.1%}", in_words(p.basis))
                   for p in parts),
    )  # fmt: skip


def stacked(
    rows: Sequence[tuple[str, Mapping[str, float]]], name: str, unit: str
) -> dict[str, Any]:
    """Data of a stacked chart: ``rows`` are (label, part -> value); a part that a row lacks is 0.

    Parts stand in the order of the first row that has them. Those below a thousandth of every row,
    and the smallest ones beyond the colours there are, stand together at the end as ``other``.
    """
    names = list(dict.fromkeys(part for _, parts in rows for part in parts))
    least = [0.001 * sum(abs(v) for v in parts.values()) for _, parts in rows]
    small = {
        part for part in names
        if all(abs(parts.get(part, 0.0)) < low for (_, parts), low in zip(rows, least, strict=True))
    }  # fmt: skip
    by_size = sorted(set(names) - small, key=lambda part: -sum(abs(parts.get(part, 0.0))
                                                               for _, parts in rows))  # fmt: skip
    if len(by_size) + bool(small) > _COLOURS:
        small |= set(by_size[_COLOURS - 1 :])
    shown = [
        {"name": part, "values": [parts.get(part, 0.0) for _, parts in rows]}
        for part in names if part not in small
    ]  # fmt: skip
    if small:
        others = [sum(parts.get(part, 0.0) for part in small) for _, parts in rows]
        shown.append({"name": "other", "values": others})
    return {"name": name, "unit": unit, "rows": [label for label, _ in rows], "parts": shown}


_LONG: Final = 2 * 365.25 * 86400.0
"""From two years on, days are no unit that people count in."""


def calendar(seconds: Sequence[float]) -> tuple[float, str]:
    """(seconds, name) of the unit in which such times are written: axes count whole ones of it."""
    longest = max((s for s in seconds if math.isfinite(s)), default=0.0)
    if longest >= _LONG:
        return 86400.0 * 365.25 / 12, "months"
    for size, name in ((86400.0, "days"), (3600.0, "hours"), (60.0, "minutes")):
        if longest >= size:
            return size, name
    return 1.0, "seconds"


def front_of(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points that no other is below in both coordinates, from the least first one on."""
    found: list[tuple[float, float]] = []
    for x, y in sorted(points):
        if not found or y < found[-1][1]:
            found.append((x, y))
    return found


def capital(text: str) -> str:
    """The text with its first letter large, as a sentence begins."""
    return text[:1].upper() + text[1:]


def joined(*texts: str) -> str:
    """The texts that say something, with commas between them."""
    return ", ".join(t for t in texts if t)


def made_by(version: str, date: str) -> str:
    """The last line: what made the answer, with which facts."""
    return f"weftline {version}; facts and prices of {date}. The answer's JSON has every field."
