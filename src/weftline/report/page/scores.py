"""Predictions held against measurements as a page: every row, and how far which groups are off."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from weftline.report.page.chart import Chart, Page, Section, Table
from weftline.report.page.parts import capital
from weftline.report.page.plain import plain_page

__all__ = ["score_page"]

_POINTS: Final = 2000


@dataclass(frozen=True, slots=True)
class _Kind:
    """How a row of a score says one pair of numbers."""

    said: str
    axis: str
    unit: str
    predicted: str
    measured: str
    within: str = ""
    """The field of a row that holds both; the row itself if empty."""


_STEP: Final = _Kind("a step", "time of a step", "s", "predicted_s", "measured_s")
_KINDS: Final[Mapping[str, tuple[_Kind, ...]]] = {
    "training-score": (_STEP,),
    "collective-score": (_Kind("a collective", "time", "s", "predicted_s", "measured_s"),),
    "memory-score": (_Kind("memory", "memory of a chip", "B", "counted_bytes", "peak_bytes"),),
    "serving-score": (
        _Kind("time to first token", "time to first token", "s", "predicted_s", "measured_s",
              "ttft"),
        _Kind("time per output token", "time per output token", "s", "predicted_s", "measured_s",
              "tpot"),
        _Kind("throughput", "output tokens a second, a chip", "", "predicted_tokens_per_s_per_chip",
              "measured_tokens_per_s_per_chip", "throughput"),
    ),
}  # fmt: skip


def score_page(answer: Mapping[str, Any], kind: str) -> Page:
    """The page of ``score ... --json``. Raises KeyError where a field lacks."""
    plain = plain_page(answer, kind)
    rows = answer["rows"]
    table = plain.sections[0].tables[0]
    charts = tuple(filter(None, (_chart(rows, k, table) for k in _KINDS[kind])))
    return Page(
        title=plain.title, headline=charts[0].title if charts else plain.headline,
        lead=tuple(f"{name.replace('_', ' ')}: {value}"
                   for name, value in answer["summary"].items()
                   if isinstance(value, int | float | str)),
        sections=(Section(title="Predicted against measured", charts=charts), *plain.sections)
        if charts else plain.sections,
        made=plain.made,
    )  # fmt: skip


def _known(
    rows: Sequence[Mapping[str, Any]], kind: _Kind
) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Rows that have both numbers, each with where they stand in it."""
    for row in rows:
        pair = row.get(kind.within) if kind.within else row
        if pair and pair.get(kind.predicted) and pair.get(kind.measured):
            yield row, pair


def _chart(rows: Sequence[Mapping[str, Any]], kind: _Kind, table: Table) -> Chart | None:
    known = list(_known(rows, kind))
    if not known:
        return None
    off = sorted(abs(p[kind.predicted] / p[kind.measured] - 1) for _, p in known)
    hits = [p["interval_hit"] for _, p in known if p.get("interval_hit") is not None]
    held = f"; the band holds {sum(hits) / len(hits):.0%}" if hits else ""
    points = [
        {"name": "", "x": p[kind.measured], "y": p[kind.predicted], "group": _group(row),
         "says": [str(row.get("id", row.get("line", ""))),
                  f"{p[kind.predicted] / p[kind.measured] - 1:+.1%}"]}
        for row, p in known[:_POINTS]
    ]  # fmt: skip
    least, most = (f(p[kind.measured] for _, p in known) for f in (min, max))
    return Chart(
        title=f"{capital(kind.said)}: half of {len(known):,} rows are predicted within "
              f"{off[len(off) // 2]:.1%}{held}",
        kind="scatter", size="tall", table=table,
        data={"x": {"name": f"measured, {kind.axis}", "unit": kind.unit, "log": True},
              "y": {"name": f"predicted, {kind.axis}", "unit": kind.unit, "log": True},
              "points": points, "front": [[least, least], [most, most]],
              "front_name": "as measured"},
    )  # fmt: skip


def _group(row: Mapping[str, Any]) -> str:
    name = str(row.get("accelerator") or row.get("chip") or row.get("system") or "rows")
    return name.partition(" (")[0]
