"""A score of memory in the terminal: logged peaks by source, then stated layouts."""

from __future__ import annotations

from typing import Any

from weftline.report.text import page, table, wrapped
from weftline.units import format_bytes

WORST_SHOWN = 8


def render_memory_score(score: dict[str, Any]) -> str:
    """The score of ``--json``."""
    s = score["summary"]
    lines = []
    if s["mape_pct"] is not None:
        lines += wrapped(
            f"Mean error {s['mape_pct']:.1f} %, bias {s['bias_pct']:+.1f} % on {s['logged']} "
            f"logged peaks; the band held {s['band_held_pct']:.0f} %. Nothing of the count is "
            "fitted to runs."
        )
    if s["stated"]:
        lines += wrapped(
            f"Of {s['stated']} stated layouts {s['rejected']} are refused, {s['offloaded']} taken "
            f"with more in host memory, {s['over_pct']:.1f} % counted above what a chip holds."
        )
    shown = [
        (g["source"][:34], str(g["logged"]), _pct(g["mape_pct"]), _pct(g["bias_pct"], signed=True),
         str(g["stated"]), str(g["rejected"]), _pct(g["over_pct"]))
        for g in score["groups"]
    ]  # fmt: skip
    header = ("source", "peaks", "MAPE", "bias", "stated", "refused", "over")
    lines += ["", *table(header, shown, right=frozenset({1, 2, 3, 4, 5, 6}))]
    logged = [r for r in score["rows"] if r["error_pct"] is not None]
    worst = sorted(logged, key=lambda r: -abs(r["error_pct"]))[:WORST_SHOWN]
    if worst:
        rows = [
            (r["id"], r["accelerator"], r["model"][:22], format_bytes(r["counted_bytes"]),
             format_bytes(r["peak_bytes"]), _pct(r["error_pct"], signed=True))
            for r in worst
        ]  # fmt: skip
        lines += ["", "Worst peaks", *table(
            ("", "accelerator", "model", "counted", "logged", "error"), rows,
            right=frozenset({3, 4, 5}))]  # fmt: skip
    refused = [r for r in score["rows"] if r["accepted"] is False]
    for r in refused:
        held = "no legal layout" if r["held_bytes"] is None else format_bytes(r["held_bytes"])
        lines += wrapped(
            f"refused: {r['id']}, {r['model']} on {r['accelerator']}: {held} of "
            f"{format_bytes(r['capacity_bytes'])}"
        )
    return page(lines)


def _pct(value: float | None, *, signed: bool = False) -> str:
    if value is None:
        return "-"
    return f"{value:+.1f} %" if signed else f"{value:.1f} %"
