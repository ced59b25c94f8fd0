"""Quality of attention policies in text: a row each, beside full attention."""

from __future__ import annotations

from collections.abc import Sequence

from weftline.report.text import page, table, wrapped
from weftline.spec.quality import QualityRow

__all__ = ["quality_markdown", "render_quality"]

_HEADER = ("policy", "seen", "perplexity", "needles", "digits", "KL", "same", "prompt", "token")


def _cells(row: QualityRow, dense: QualityRow) -> tuple[str, ...]:
    def times(predicted: float | None, measured: float | None) -> str:
        both = ["-" if x is None else f"{x:.2f}x" for x in (predicted, measured)]
        return "-" if both == ["-", "-"] else " / ".join(both)

    worse = row.perplexity / dense.perplexity - 1
    said = f"{row.perplexity:.2f}" + ("" if row is dense else f" ({worse:+.0%})")
    return (
        row.policy, f"{row.density:.1%}", said, f"{row.needles_found} of {row.needles}",
        f"{row.digits_found:.0%}", f"{row.kl_nats:.3f}", f"{row.same_choice:.0%}",
        times(row.predicted_speed, row.measured_speed),
        times(row.predicted_decode_speed, row.measured_decode_speed),
    )  # fmt: skip


def _about(rows: Sequence[QualityRow]) -> list[str]:
    first = rows[0]
    said = [
        f"{first.model}, {first.texts} texts of {first.tokens:,} tokens, seed {first.seed}, "
        f"{first.date}. The first half of a text is read as a prompt, the rest as decoded. Seen: "
        "entries looked at, of those of full attention. Needles: facts hidden at eight depths, "
        "asked for at the end; digits: of their tokens. KL: of the next token's distribution from "
        "full attention's, nats. Same: positions with the same most likely token."
    ]
    timed = next((row for row in rows if row.measured_with), None)
    if timed is not None:
        said.append("Prompt: time to the first token under full attention over that under the "
                    "policy, predicted / measured; token: the same of a token after it; "
                    f"{timed.measured_with}.")  # fmt: skip
    return said


def render_quality(rows: Sequence[QualityRow]) -> str:
    """``weftline quality`` for a terminal; the first row is full attention."""
    lines: list[str] = []
    for paragraph in _about(rows):
        lines += wrapped(paragraph)
    cells = [_cells(row, rows[0]) for row in rows]
    lines += ["", *table(_HEADER[1:], [c[1:] for c in cells], right=frozenset(range(8)))]
    lines += ["", "Rows in order"]
    for row in cells:
        lines += wrapped(row[0], indent="  ", hang="  ")
    return page(lines)


def quality_markdown(rows: Sequence[QualityRow]) -> str:
    """The same for a page of the docs."""
    lines = ["| " + " | ".join(_HEADER) + " |", "|---" + "|---:" * (len(_HEADER) - 1) + "|"]
    lines += ["| " + " | ".join((f"`{c[0]}`", *c[1:])) + " |"
              for c in (_cells(row, rows[0]) for row in rows)]  # fmt: skip
    return "\n".join([*lines, "", *_about(rows)])
