"""Any other answer as a page: its fields, and every table in it under its own name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from weftline.report.forms import Row, tables_of
from weftline.report.page.chart import Page, Section, Table

__all__ = ["plain_page"]

_SHOWN: Final = 500
"""Rows of one table; the JSON has the others."""


def plain_page(answer: Mapping[str, Any], kind: str) -> Page:
    """The tables of an answer that no page of its own is for."""
    tables, alone = tables_of({k: v for k, v in answer.items() if k not in ("kind", "format")})
    sections = [
        Section(title=name.replace("_", " "), tables=(_table(rows),))
        for name, rows in tables.items() if rows
    ]  # fmt: skip
    if alone:
        pairs = [{"field": name, "value": value} for name, value in alone.items()]
        sections.append(Section(title="fields", tables=(_table(pairs),)))
    named = kind.replace("-", " ")
    largest = max(tables.items(), key=lambda item: len(item[1]), default=None)
    said = "" if largest is None else f": {len(largest[1]):,} {largest[0].replace('_', ' ')}"
    return Page(title=f"weftline: {named}", headline=f"{named.capitalize()}{said}", lead=(),
                sections=tuple(sections), made="The answer's JSON has every field.")  # fmt: skip


def _table(rows: list[Row]) -> Table:
    columns = tuple(dict.fromkeys(name for row in rows for name in row))
    return Table(
        columns=tuple(name.replace("_", " ") for name in columns),
        rows=tuple(tuple(row.get(name, "") for name in columns) for row in rows[:_SHOWN]),
        right=frozenset(i for i, name in enumerate(columns)
                        if all(_is_number(row.get(name, "")) for row in rows)),
        left_out=max(0, len(rows) - _SHOWN),
    )  # fmt: skip


def _is_number(text: str) -> bool:
    try:
        float(text or "0")
    except ValueError:
        return False
    return True
