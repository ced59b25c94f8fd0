"""Curves in the terminal: characters only, readable without colour."""

from __future__ import annotations

from collections.abc import Sequence

from weftline.report.text import width
from weftline.units import format_count, format_duration

LEVELS = " ▁▂▃▄▅▆▇█"
BAR = "█"
BAR_WIDTH = 50
"""At most; a narrow terminal has less."""


def strip(label: str, values: Sequence[float], *, percent: bool = False) -> str:
    """One line of bars, the highest as high as the line, and what that is."""
    top = 1.0 if percent else max([*values, 1e-12])
    marks = "".join(LEVELS[min(8, max(0, round(v / top * 8)))] for v in values)
    highest = max(values, default=0.0)
    said = f"{highest:.0%}" if percent else format_count(round(highest, 1))
    return f"{label:<8}|{marks}| most {said}"


def cdf_lines(curve: Sequence[tuple[float, float]]) -> list[str]:
    """A line for each (share, seconds): a bar as long as the share."""
    wide = min(BAR_WIDTH, width() - 24)
    lines = []
    for share, seconds in curve:
        bar = BAR * max(0, round(share * wide))
        lines.append(f"  {share:6.1%} {format_duration(seconds):>10} |{bar}")
    return lines
