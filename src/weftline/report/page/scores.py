"""Predictions held against measurements as a page: every row, and how far which groups are off."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from weftline.report.page.chart import Chart, Page, Section
from weftline.report.page.plain import plain_page

__all__ = ["score_page"]

_POINTS: Final = 2000
_PAIRS: Final[Mapping[str, tuple[str, str, str, str]]] = {
    "training-score": ("predicted_s", "measured_s", "seconds of a step", "s"),
    "collective-score": ("predicted_s", "measured_s", "seconds", "s"),
    "memory-score": ("counted_bytes", "peak_bytes", "bytes", "B"),
}
"""Kind -> (field predicted, field measured, axis, unit)."""


def score_page(answer: Mapping[str, Any], kind: str) -> Page:
    """The page of ``score ... --json``. Raises KeyError where a field lacks."""
    plain = plain_page(answer, kind)
    summary = answer["summary"]
    rows = answer["rows"]
    predicted, measured, axis, unit = _PAIRS.get(kind, ("", "", "", ""))
    known = [r for r in rows if r.get(predicted) and r.get(measured)]
    headline = plain.headline
    charts: tuple[Chart, ...] = ()
    if known:
        off = sorted(abs(r[predicted] / r[measured] - 1) for r in known)
        held = [r["interval_hit"] for r in known if r.get("interval_hit") is not None]
        headline = f"Half of {len(known):,} rows are predicted within {off[len(off) // 2]:.1%}"
        said = f"; the band holds {sum(held) / len(held):.0%}" if held else ""
        points = [
            {"name": "", "x": r[measured], "y": r[predicted],
             "group": str(r.get("accelerator") or r.get("system") or "rows"),
             "says": [str(r.get("id", r.get("line", ""))),
                      f"{r[predicted] / r[measured] - 1:+.1%}"]}
            for r in known[:_POINTS]
        ]  # fmt: skip
        least, most = (f(r[measured] for r in known) for f in (min, max))
        charts = (Chart(
            title=headline + said, kind="scatter", size="tall", table=plain.sections[0].tables[0],
            data={"x": {"name": f"measured, {axis}", "unit": unit, "log": True},
                  "y": {"name": f"predicted, {axis}", "unit": unit, "log": True},
                  "points": points, "front": [[least, least], [most, most]],
                  "front_name": "as measured"},
        ),)  # fmt: skip
    return Page(
        title=plain.title, headline=headline,
        lead=tuple(f"{name.replace('_', ' ')}: {value}" for name, value in summary.items()
                   if isinstance(value, int | float | str)),
        sections=(Section(title="Predicted against measured", charts=charts), *plain.sections)
        if charts else plain.sections,
        made=plain.made,
    )  # fmt: skip
