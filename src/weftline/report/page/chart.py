"""What a page is made of: charts that carry their table, sections, and the page itself.

A chart is data, never drawing code: ``kind`` names one of the forms that ``assets/page.js`` draws,
``data`` holds numbers in SI units and text as text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["Chart", "Page", "Section", "Table"]

Kind = Literal["scatter", "stack", "range", "bars", "sankey", "line", "pairs", "heat", "gantt"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows of text under a header; columns in ``right`` are numbers."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    right: frozenset[int] = frozenset()
    left_out: int = 0
    """Rows that the answer has beyond those shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """One picture: what it says in words, its data, and the same as a table."""

    title: str
    """The takeaway as a sentence, not the name of the axes."""
    kind: Kind
    data: Mapping[str, Any]
    table: Table
    note: str = ""
    size: Literal["", "tall", "short"] = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A question that people ask of the answer, with charts, lines of text and tables."""

    title: str
    charts: tuple[Chart, ...] = ()
    says: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """All that one page shows; the headline and all tables can be read without scripts."""

    title: str
    """Of the browser's tab."""
    headline: str
    lead: tuple[str, ...]
    """Sentences under the headline: what was asked and assumed."""
    sections: tuple[Section, ...]
    made: str
    """Version and date of the answer."""
