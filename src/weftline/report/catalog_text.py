"""Numbers, spans and columns as the pages of the catalogue write them."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

from weftline.report.text import page, width

__all__ = ["columns", "fold", "num", "plural", "span"]


def num(value: float | None, unit: float = 1.0) -> str:
    """A number in ``unit`` with three digits; ``-`` where there is none."""
    if value is None:
        return "-"
    scaled = value / unit
    if scaled >= 100:
        return f"{scaled:.0f}"
    return f"{scaled:.3g}" if scaled >= 0.1 else f"{scaled:.2g}"


def span(low: float | None, high: float | None) -> str:
    """``2.10 to 12.29``, or one of them where both read alike."""
    if low is None or high is None:
        return "-"
    return f"{low:.2f}" if f"{low:.2f}" == f"{high:.2f}" else f"{low:.2f} to {high:.2f}"


def plural(count: int, noun: str) -> str:
    """``1 row``, ``2 rows``."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def fold(text: str, first: str = "", rest: str | None = None) -> str:
    """``text`` in lines as wide as asked, the first and the others indented so."""
    return textwrap.fill(
        text, width(), initial_indent=first, subsequent_indent=first if rest is None else rest,
        break_on_hyphens=False,
    )  # fmt: skip


def columns(rows: Sequence[Sequence[str]], right: Iterable[int]) -> str:
    """Columns as wide as their widest cell, two blanks between them, numbers to the right."""
    to_right = set(right)
    widths = [max(len(r[c]) for r in rows) for c in range(len(rows[0]))]
    lines = []
    for r in rows:
        cells = [
            cell.rjust(w) if c in to_right else cell.ljust(w)
            for c, (cell, w) in enumerate(zip(r, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return page(lines)
