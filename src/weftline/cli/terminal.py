"""The terminal as it is: how wide, which characters; the first page, without the parser."""

from __future__ import annotations

import codecs
import os
import sys
from typing import Final, TextIO

WIDTH: Final = 80
"""Columns in a pipe, whatever the terminal."""
NARROWEST: Final = 60
WIDEST: Final = 160
_PLAIN: Final = {
    "\u2581": ".", "\u2582": ":", "\u2583": "-", "\u2584": "=", "\u2585": "+", "\u2586": "*",
    "\u2587": "%", "\u2588": "#", "\u2500": "-", "\u2502": "|", "\u256d": "+", "\u256e": "+",
    "\u256f": "+", "\u2570": "+", "\u251c": "+", "\u2514": "+", "\u2026": "...", "\u00d7": "x",
    "\u00b5": "u", "\u2264": "<=", "\u2265": ">=", "\u2192": "->", "\u2013": "-", "\u2014": "-",
    "\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"',
}  # fmt: skip
"""Characters of ours, and of the help, that an encoding may lack."""


def columns() -> int:
    """Columns to write in: the terminal's, within reason; 80 where nobody's screen is asked."""
    if not sys.stdout.isatty():
        return WIDTH
    import shutil

    return min(max(shutil.get_terminal_size((WIDTH, 24)).columns, NARROWEST), WIDEST)


def colours() -> bool:
    """Whether to write in colour: on a terminal that can, unless NO_COLOR says not to."""
    return sys.stdout.isatty() and not is_dumb() and not os.environ.get("NO_COLOR")


def any_encoding() -> None:
    """Let output be written whatever the encoding: what it lacks, in ASCII."""
    codecs.register_error("weftline", _plain)
    for stream in (sys.stdout, sys.stderr):
        _forgive(stream)


def _forgive(stream: TextIO) -> None:
    encoding = (getattr(stream, "encoding", None) or "utf-8").lower()
    if not encoding.startswith("utf") and hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="weftline")


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lost = error.object[error.start : error.end]
    return "".join(_PLAIN.get(c, "?") for c in lost), error.end


def page(width: int) -> str:
    """The help of ``weftline`` itself."""
    import textwrap

    from weftline.cli.commands import COMMANDS, HELP

    options = (
        ("--help, -h", "This page; after a command, its options."),
        ("--version", "The version, and the date of the catalogue."),
        ("--install-completion", "Teach the shell to complete commands and options."),
    )
    wide = max(len(name) for name, *_ in (*COMMANDS, *options)) + 4

    def listed(rows: list[tuple[str, str]]) -> list[str]:
        return [
            line
            for name, text in rows
            for line in textwrap.wrap(
                text, width, initial_indent=f"  {name:<{wide - 2}}", subsequent_indent=" " * wide
            )
        ]

    return "\n".join([
        "Usage: weftline COMMAND [OPTIONS]", "", *textwrap.wrap(HELP, width), "", "Commands",
        *listed([(name, text) for name, _, text in COMMANDS]), "", "Options",
        *listed(list(options)), "", "`weftline COMMAND --help` lists the options of a command.",
    ])  # fmt: skip


def version() -> str:
    """``0.1.0, catalogue of 2026-11-21``."""
    from weftline._version import __version__
    from weftline.catalog.date import CATALOG_DATE

    return f"weftline {__version__}, catalogue of {CATALOG_DATE}"


def is_dumb() -> bool:
    """Whether the terminal cannot take a line back."""
    return os.environ.get("TERM", "") in ("", "dumb")
