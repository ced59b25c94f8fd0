"""Cells of a file of measured rows, each checked at the edge: what is there, what was expected.

A cell that cannot be is a fault of its row alone: the row is not answered, with file, line, column
and what was expected in the reason, and every other row of the file is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

__all__ = ["LONGEST_TOKENS", "MOST_CHIPS", "Cells"]

LONGEST_TOKENS: Final = 16_000_000.0
"""No model here takes longer texts (Llama 4 Scout: 10 M tokens)."""
MOST_CHIPS: Final = 100_000.0
MOST_MS: Final = 1e8
"""A day and more: no first token takes so long in a benchmark."""


@dataclass(slots=True)
class Cells:
    """One record of a CSV file. Faults are collected: a reader looks at all cells, then asks."""

    record: Mapping[str, str]
    where: str
    """File and line, as people write them."""
    faults: list[str] = field(default_factory=list)

    def text(self, column: str) -> str:
        """A cell's words without space around them; empty where it or the column is missing."""
        return (self.record.get(column) or "").strip()

    def fault(self, column: str, expected: str) -> None:
        """Note that a cell is not what was expected."""
        self.faults.append(f"column `{column}` is `{self.text(column)}`: {expected} is expected")

    def number(
        self, column: str, what: str, *, least: float = 0.0, most: float = math.inf,
        above: bool = False, whole: bool = False,
    ) -> float | None:  # fmt: skip
        """A cell as a number, None if it is empty or cannot be, which is noted.

        ``what`` is named in the fault; ``above``: ``least`` itself is too little.
        """
        text = self.text(column)
        if not text:
            return None
        bound = f"above {least:g}" if above else f"{least:g} or more"
        if math.isfinite(most):
            bound += f", at most {most:,.0f}"
        expected = f"{what}, {bound}"
        try:
            value = float(text)
        except ValueError:
            self.faults.append(f"column `{column}` is not a number: `{text}`; {expected} is "
                               "expected")  # fmt: skip
            return None
        low = value <= least if above else value < least
        if not math.isfinite(value) or low or value > most or (whole and value != int(value)):
            self.fault(column, expected)
            return None
        return value

    def degree(self, column: str, *, least: int = 1) -> int | None:
        """Ways something is split over chips: a whole number from 1 on (0 where none are had)."""
        found = self.number(column, "a whole number", least=least, most=MOST_CHIPS, whole=True)
        return None if found is None else int(found)

    def tokens(self, column: str, *, least: float = 1.0) -> float | None:
        """A length in tokens."""
        return self.number(column, "a number of tokens", least=least, most=LONGEST_TOKENS)

    def seconds(self, column: str) -> float | None:
        """A measured time in milliseconds as seconds."""
        found = self.number(column, "a time in milliseconds", above=True, most=MOST_MS)
        return None if found is None else found / 1e3

    def said(self) -> str:
        """All faults in words, with the place; empty where there are none."""
        return f"{self.where}: {'; '.join(self.faults)}" if self.faults else ""


def listed(names: Sequence[str]) -> str:
    """``a, b or c``."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"
