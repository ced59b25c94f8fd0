"""A score in the terminal: the error first, then by group, then the worst rows."""

from __future__ import annotations

from typing import Any

from weftline.report.text import page, table, wrapped
from weftline.units import format_duration

WORST_SHOWN = 8


def render_score(score: dict[str, Any]) -> str:
    """The score of ``--json``."""
    s = score["summary"]
    if s["mape_pct"] is None:
        lines = [f"Predicted {s['predicted']} of {s['rows']} rows; none states a measured time."]
    else:
        lines = wrapped(
            f"Mean error {s['mape_pct']:.1f} %, median {s['median_pct']:.1f} %, p90 "
            f"{s['p90_pct']:.1f} %, bias {s['bias_pct']:+.1f} % over {s['predicted']} of "
            f"{s['rows']} rows; the 90 % band held {s['interval_coverage_pct']:.0f} %. By the "
            f"physics alone: mean {s['physics_mape_pct']:.1f} %, median "
            f"{s['physics_median_pct']:.1f} %"
        )
    lines += wrapped(f"({score['how']})")
    rows = [
        (g["accelerator"], g["framework"][:28], str(g["rows"]), _pct(g["mape_pct"]),
         _pct(g["bias_pct"], signed=True), _pct(g["interval_coverage_pct"], digits=0))
        for g in score["groups"]
    ]  # fmt: skip
    lines += ["", *table(("accelerator", "framework", "rows", "MAPE", "bias", "band held"), rows,
                         right=frozenset({2, 3, 4, 5}))]  # fmt: skip
    known = [r for r in score["rows"] if r.get("error_pct") is not None]
    worst = sorted(known, key=lambda r: -abs(r["error_pct"]))[:WORST_SHOWN]
    if worst:
        shown = [
            (r["id"], r["accelerator"], r["model"][:18], format_duration(r["predicted_s"]),
             format_duration(r["measured_s"]), _pct(r["error_pct"], signed=True))
            for r in worst
        ]  # fmt: skip
        lines += ["", "Worst rows", *table(
            ("", "accelerator", "model", "predicted", "measured", "error"), shown,
            right=frozenset({3, 4, 5}))]  # fmt: skip
    left = [r for r in score["rows"] if r["predicted_s"] is None]
    if left:
        lines += ["", f"Not predicted: {len(left)}"]
        for r in left:
            lines += wrapped(f"{r['id']}: {r['reason']}", indent="  ", hang="  ")
    return page(lines)


def _pct(value: float | None, *, signed: bool = False, digits: int = 1) -> str:
    if value is None:
        return "-"
    return f"{value:+.{digits}f} %" if signed else f"{value:.{digits}f} %"
