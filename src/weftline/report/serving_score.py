"""A serving score in the terminal: the errors first, then by group, then the worst rows."""

from __future__ import annotations

from collections import Counter
from typing import Any

from weftline.report.text import page, table, wrapped

WORST_SHOWN = 8
_TITLES = {"ttft": "time to first token", "tpot": "time per output token",
           "throughput": "output tokens a second", "e2e": "end to end"}  # fmt: skip


def render_serving_score(score: dict[str, Any]) -> str:
    """The score of ``--json``."""
    s = score["summary"]
    answered = s["answered_of_stated_pct"]
    lines = wrapped(
        f"Predicted {s['predicted']} of {s['rows']} rows"
        + (f", {answered:.4g} % of those that state their configuration" if answered else "")
    )
    lines += wrapped(f"({score['how']})")
    rows = [
        (title, str(s[m]["rows"]), _pct(s[m]["median_pct"]), _pct(s[m]["mape_pct"]),
         _pct(s[m]["bias_pct"], signed=True), _pct(s[m]["interval_coverage_pct"], digits=0))
        for m, title in _TITLES.items() if m in s and s[m]["rows"]
    ]  # fmt: skip
    lines += ["", *table(("", "rows", "median", "mean", "bias", "90 % held"), rows,
                         right=frozenset({1, 2, 3, 4, 5}))]  # fmt: skip
    groups = [
        (g["by"], g["name"][:24], str(g["rows"]), _pct(g["ttft"]["median_pct"]),
         _pct(g["tpot"]["median_pct"]), _pct(g["throughput"]["median_pct"]))
        for g in score["groups"]
    ]  # fmt: skip
    if groups:
        lines += ["", "Median errors by group",
                  *table(("", "", "rows", "TTFT", "TPOT", "tokens/s"), groups,
                         right=frozenset({2, 3, 4, 5}))]  # fmt: skip
    lines += _worst(score["rows"])
    reasons = Counter(r["reason"] for r in score["rows"] if r.get("predicted") is False)
    if reasons:
        lines += ["", f"Not predicted: {sum(reasons.values())}"]
        for reason, count in reasons.most_common():
            lines += wrapped(f"{count} x {reason}", indent="  ", hang="  ")
    return page(lines)


def _worst(rows: list[dict[str, Any]]) -> list[str]:
    def size(row: dict[str, Any]) -> float:
        found = row.get("tpot") or {}
        error = found.get("error_pct")
        return abs(error) if error is not None else -1.0

    worst = [r for r in sorted(rows, key=size, reverse=True) if size(r) >= 0][:WORST_SHOWN]
    if not worst:
        return []
    shown = [
        (r["model"][:18], r["chip"], f"{r['engine']} {r['version']}"[:20],
         f"{1e3 * r['tpot']['predicted_s']:.1f} ms", f"{1e3 * r['tpot']['measured_s']:.1f} ms",
         _pct(r["tpot"]["error_pct"], signed=True))
        for r in worst
    ]  # fmt: skip
    return ["", "Worst rows by time per output token",
            *table(("", "", "", "predicted", "measured", "error"), shown,
                   right=frozenset({3, 4, 5}))]  # fmt: skip


def _pct(value: float | None, *, signed: bool = False, digits: int = 1) -> str:
    if value is None:
        return "-"
    return f"{value:+.{digits}f} %" if signed else f"{value:.{digits}f} %"
