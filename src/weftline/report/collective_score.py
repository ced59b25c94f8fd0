"""A score of collectives in the terminal: the error first, then by machine, then the worst rows."""

from __future__ import annotations

from typing import Any

from weftline.report.text import page, table, wrapped
from weftline.units import format_bytes, format_duration

WORST_SHOWN = 8


def render_collective_score(score: dict[str, Any]) -> str:
    """The score of ``--json``."""
    s = score["summary"]
    if s["mape_pct"] is None:
        lines = [f"Predicted {s['predicted']} of {s['rows']} rows; none states a measurement."]
    else:
        lines = wrapped(
            f"Median error {s['median_pct']:.1f} %, mean {s['mape_pct']:.1f} %, bias "
            f"{s['bias_pct']:+.1f} % over {s['predicted']} of {s['rows']} rows; the 90 % band "
            f"held {s['interval_coverage_pct']:.0f} %"
        )
    for band, sums in score["bands"].items():
        if sums["median_pct"] is not None:
            lines.append(f"  {band}: median {sums['median_pct']:.1f} %")
    lines += wrapped(f"({score['how']})")
    groups = [
        (g["system"][:26], g["band"], str(g["rows"]), _pct(g["median_pct"]),
         _pct(g["bias_pct"], signed=True), _pct(g["interval_coverage_pct"], digits=0))
        for g in score["groups"]
    ]  # fmt: skip
    header = ("system", "sizes", "rows", "median", "bias", "held")
    lines += ["", *table(header, groups, right=frozenset({2, 3, 4, 5}))]
    known = [r for r in score["rows"] if r["error_pct"] is not None]
    worst = sorted(known, key=lambda r: -abs(r["error_pct"]))[:WORST_SHOWN]
    if worst:
        shown = [
            (str(r["line"]), r["system"][:24], r["collective"], format_bytes(r["size_bytes"]),
             format_duration(r["predicted_s"]), format_duration(r["measured_s"]),
             _pct(r["error_pct"], signed=True))
            for r in worst
        ]  # fmt: skip
        columns = ("line", "system", "collective", "size", "said", "measured", "error")
        lines += ["", "Worst rows", *table(columns, shown, right=frozenset({0, 3, 4, 5, 6}))]
    left: dict[str, list[int]] = {}
    for row in score["rows"]:
        if row["predicted_s"] is None:
            left.setdefault(row["reason"], []).append(row["line"])
    if left:
        lines += ["", f"Not predicted: {sum(map(len, left.values()))}"]
        for reason, numbers in left.items():
            where = f"lines {numbers[0]} to {numbers[-1]}" if len(numbers) > 1 else numbers[0]
            lines += wrapped(f"{reason} ({where})", indent="  ", hang="  ")
    return page(lines)


def _pct(value: float | None, *, signed: bool = False, digits: int = 1) -> str:
    if value is None:
        return "-"
    return f"{value:+.{digits}f} %" if signed else f"{value:.{digits}f} %"
