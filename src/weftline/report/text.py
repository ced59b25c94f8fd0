"""Plain text as wide as asked: tables and wrapped lines that read without colour."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Sequence
from contextvars import ContextVar
from pathlib import PurePath

_LEAST_FOLDED = 16
"""Columns below which a folded column would be a thread of words."""
_OLD_DAYS = 90
"""Beyond this a price is shown in red: GPU list prices moved by half within a quarter of 2026."""
_AGE = re.compile(r"(\d[\d,]*) days\s+old")
_COLOUR: ContextVar[bool] = ContextVar("colour", default=False)
_WIDTH: ContextVar[int] = ContextVar("columns", default=80)


def set_width(columns: int) -> None:
    """How many columns everything that is rendered from now on may take."""
    _WIDTH.set(columns)


def set_colour(on: bool) -> None:
    """Whether what asks for a reader's eye is shown in red from now on."""
    _COLOUR.set(on)


def width() -> int:
    """Columns there are; 80 unless said otherwise."""
    return _WIDTH.get()


def table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    right: frozenset[int] = frozenset(),
    fold: bool = False,
) -> list[str]:
    """Columns two spaces apart, those in ``right`` aligned right.

    The last column is cut to fit; with ``fold`` it goes on below itself, or on lines of its own
    where hardly any room is left beside the others.
    """
    cells = [list(header), *(list(r) for r in rows)]
    widths = [max(len(r[i]) for r in cells) for i in range(len(header))]
    begins = sum(widths[:-1]) + 2 * (len(widths) - 1)
    room = width() - begins
    lines = []
    for row in cells:
        parts = [
            cell.rjust(wide) if i in right else cell.ljust(wide)
            for i, (cell, wide) in enumerate(zip(row, widths, strict=True))
        ]
        line = "  ".join(parts).rstrip()
        if len(line) <= width():
            lines.append(line)
        elif fold and room >= _LEAST_FOLDED:
            first, *rest = textwrap.wrap(row[-1], room, break_on_hyphens=False)
            lines.append("  ".join([*parts[:-1], first]))
            lines += [" " * begins + part for part in rest]
        elif fold:
            lines.append("  ".join(parts[:-1]).rstrip()[: width()])
            lines += wrapped(row[-1], indent="    ")
        else:
            lines.append(line[: width() - 3] + "...")
    return lines


def wrapped(text: str, *, indent: str = "", hang: str = "") -> list[str]:
    """``text`` in lines as wide as asked."""
    return textwrap.wrap(
        text, width(), initial_indent=indent, subsequent_indent=indent + hang,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip


def page(lines: Iterable[str]) -> str:
    """Lines as one text; those still too long go on below, indented as they are and a bit more."""
    found: list[str] = []
    for line in "\n".join(lines).split("\n"):
        if len(line) <= width():
            found.append(line)
            continue
        indent = " " * (len(line) - len(line.lstrip()))
        found += textwrap.wrap(
            line.strip(), width(), initial_indent=indent, subsequent_indent=indent + "  ",
            break_long_words=False, break_on_hyphens=False,
        )  # fmt: skip
    return _red_where_old("\n".join(found))


def _red_where_old(text: str) -> str:
    """Ages of prices beyond ``_OLD_DAYS`` in red, once lines are as wide as they will be."""
    if not _COLOUR.get():
        return text

    def shown(match: re.Match[str]) -> str:
        old = int(match[1].replace(",", "")) > _OLD_DAYS
        return f"\x1b[31m{match[0]}\x1b[0m" if old else match[0]

    return _AGE.sub(shown, text)


def in_words(basis: str) -> str:
    """A basis without the names that only files know: ``... (NVIDIA) [aic]`` loses ``[aic]``."""
    return re.sub(r" \[\w+\]", "", basis)


def model_label(model: str) -> str:
    """What to call a model: its name, or of a file its folder's, or its own where that says more.

    ``/models/my-70b/config.json`` is ``my-70b``; ``my-70b.json`` is ``my-70b``.
    """
    if not model.endswith(".json"):
        return model
    path = PurePath(model)
    named = path.parent.name if path.stem == "config" else path.stem
    return named or path.name
