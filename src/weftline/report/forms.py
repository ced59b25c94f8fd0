"""An answer as CSV or Markdown, from the same fields that JSON has.

CSV is the main table of an answer, one line a row; Markdown has every table, each under its name,
the main one first and what stands alone in one of its own last. A nested field is named with dots
(``layout.tp``), a list of plain values stands in one cell.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["Row", "as_csv", "as_markdown", "main_table", "tables_of"]

Row = dict[str, str]


def as_csv(data: Any, main: str | None = None) -> str:
    """The main table as CSV with a header; ``main`` names the field that holds it."""
    rows = main_table(data, main)
    out = io.StringIO()
    writer = csv.DictWriter(out, _columns(rows), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().rstrip("\n")


def as_markdown(data: Any, main: str | None = None) -> str:
    """Every table of an answer in Markdown."""
    if _is_table(data):
        return "\n".join(_markdown([_flat(row) for row in data]))
    if not isinstance(data, Mapping):
        return str(data)
    tables, alone = tables_of(data)
    order = sorted(tables, key=lambda name: name != main)
    lines: list[str] = []
    for name in order:
        if tables[name]:
            lines += ["", f"## {name.replace('_', ' ')}", "", *_markdown(tables[name])]
    if alone:
        pairs = [{"field": k, "value": v} for k, v in alone.items()]
        lines += [*(["", "## fields", ""] if lines else []), *_markdown(pairs)]
    return "\n".join(lines).strip()


def tables_of(data: Mapping[str, Any]) -> tuple[dict[str, list[Row]], Row]:
    """(every table of an answer by its field, the fields that stand alone)."""
    tables = {k: _rows(v) for k, v in data.items() if _is_table(v) or _is_named_table(v)}
    alone = {k: v for k, v in data.items() if k not in tables and not _is_long(v)}
    return tables, _flat(alone)


def main_table(data: Any, main: str | None = None) -> list[Row]:
    """The rows of an answer: the field named, else its longest table, else its fields as pairs."""
    if _is_table(data):
        return [_flat(row) for row in data]
    if not isinstance(data, Mapping):
        return [{"value": _text(data)}]
    if main is not None and main in data:
        return _rows(data[main])
    tables = [v for v in data.values() if _is_table(v) and v]
    if tables:
        return _rows(max(tables, key=len))
    return [{"field": k, "value": v} for k, v in _flat(data).items()]


def _rows(value: Any) -> list[Row]:
    if isinstance(value, Mapping):
        return [{"name": str(name), **_flat(row)} for name, row in value.items()]
    return [_flat(row) for row in value]


def _is_table(value: Any) -> bool:
    return (
        isinstance(value, Sequence) and not isinstance(value, str)
        and all(isinstance(row, Mapping) for row in value)
    )  # fmt: skip


def _is_named_table(value: Any) -> bool:
    """A mapping of names to rows, as the estimates of a plan are."""
    return (
        isinstance(value, Mapping) and bool(value)
        and all(isinstance(row, Mapping) for row in value.values())
    )  # fmt: skip


def _is_long(value: Any) -> bool:
    """A list of numbers that no cell should hold: curves, maps of ranks."""
    return isinstance(value, Sequence) and not isinstance(value, str) and len(value) > 64


def _flat(row: Mapping[str, Any], before: str = "") -> Row:
    found: Row = {}
    for name, value in row.items():
        key = f"{before}{name}"
        if isinstance(value, Mapping):
            found |= _flat(value, f"{key}.")
        else:
            found[key] = _text(value)
    return found


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.10g}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "; ".join(
            ", ".join(f"{k}={v}" for k, v in _flat(item).items())
            if isinstance(item, Mapping) else _text(item)
            for item in value
        )  # fmt: skip
    return str(value)


def _columns(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))


def _markdown(rows: Sequence[Row]) -> list[str]:
    columns = _columns(rows)
    lines = [_line(columns), _line(["---"] * len(columns))]
    return lines + [_line([row.get(name, "") for name in columns]) for row in rows]


def _line(cells: Sequence[str]) -> str:
    plain = (" ".join(cell.replace("|", "\\|").split()) for cell in cells)
    return f"| {' | '.join(plain)} |"
