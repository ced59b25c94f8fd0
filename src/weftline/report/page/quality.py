"""What attention policies cost in quality as a page: what is lost beside what need not be read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from weftline.report.page.chart import Chart, Page, Section, Table

__all__ = ["quality_page"]

_SPEEDS = ("predicted_speed", "measured_speed", "predicted_decode_speed", "measured_decode_speed")


def quality_page(answer: Mapping[str, Any]) -> Page:
    """The page of ``quality --json``; the first row is full attention. Raises KeyError."""
    rows = answer["rows"]
    dense, *others = rows
    kept = [r for r in others if r["needles_found"] >= dense["needles_found"]]
    least = min(kept, key=lambda r: r["density"]) if kept else None
    title = "No policy finds what full attention finds" if least is None else (
        f"{least['policy']} reads {least['density']:.0%} and finds as much as full attention"
    )  # fmt: skip
    table = Table(
        columns=("policy", "seen", "perplexity", "facts found", "digits", "KL, nats",
                 "same choice", "prompt, predicted", "measured", "token, predicted", "measured"),
        right=frozenset(range(1, 11)),
        rows=tuple(
            (r["policy"], f"{r['density']:.1%}", f"{r['perplexity']:.2f}",
             f"{r['needles_found']} of {r['needles']}", f"{r['digits_found']:.0%}",
             f"{r['kl_nats']:.3f}", f"{r['same_choice']:.0%}",
             *(_times(r.get(name)) for name in _SPEEDS)) for r in rows),
    )  # fmt: skip
    found = Chart(
        title=title, kind="bars", size="tall" if len(rows) > 5 else "", table=table,
        data={"name": "share of hidden facts found", "unit": "1", "max": 1, "rows": [
            {"name": r["policy"], "value": r["needles_found"] / max(r["needles"], 1),
             "best": r is dense or r is least, "says": [f"sees {r['density']:.1%}"]}
            for r in rows]},
        note="Facts stand at eight depths of a text and are asked for at its end.",
    )  # fmt: skip
    worst = max(rows, key=lambda r: r["perplexity"])
    prose = Chart(
        title=f"Prose hardly shows it: {worst['policy']} has a perplexity of "
              f"{worst['perplexity']:.2f}, full attention {dense['perplexity']:.2f}",
        kind="scatter", table=table,
        data={"x": {"name": "share of entries seen", "unit": "1"},
              "y": {"name": "perplexity", "unit": ""},
              "points": [{"name": r["policy"], "x": r["density"], "y": r["perplexity"],
                          "group": "full attention" if r is dense else "policies",
                          "says": [f"KL {r['kl_nats']:.3f} nats"]} for r in rows],
              "front": [], "front_name": ""},
        note="Teacher-forced; the first half of a text is read as a prompt, the rest as decoded.",
    )  # fmt: skip
    if worst["perplexity"] > 1.1 * dense["perplexity"]:
        prose = Chart(
            title=f"{worst['policy']} costs most in prose: perplexity {worst['perplexity']:.2f}, "
                  f"full attention {dense['perplexity']:.2f}",
            kind=prose.kind, table=table, data=prose.data, note=prose.note,
        )  # fmt: skip
    return Page(
        title=f"weftline: attention policies of {dense['model']}",
        headline=f"{dense['model']}: {title}",
        lead=(f"{dense['texts']} texts of {dense['tokens']:,} tokens, seed {dense['seed']}, "
              f"{dense['date']}.",),
        sections=(Section(title="What is lost", charts=(found, prose)),),
        made="The answer's JSON has every field.",
    )  # fmt: skip


def _times(speed: float | None) -> str:
    return "-" if speed is None else f"{speed:.2f}x"
