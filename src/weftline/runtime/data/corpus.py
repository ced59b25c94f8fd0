"""Documents out of files and folders of text, in an order that does not change."""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

from weftline.errors import InputError

__all__ = ["STDLIB", "Piece", "pieces_of"]

STDLIB: Final = "stdlib"
"""The name that stands for the source of Python's standard library: text that every machine has."""
_SUFFIXES: Final = frozenset({
    "", ".c", ".cc", ".cpp", ".csv", ".go", ".h", ".hpp", ".htm", ".html", ".ini", ".java", ".js",
    ".json", ".jsonl", ".log", ".md", ".py", ".rs", ".rst", ".sh", ".tex", ".toml", ".ts", ".txt",
    ".xml", ".yaml", ".yml",
})  # fmt: skip
"""What is taken of a folder; a file that is named is taken whatever its suffix."""
_PIECE_BYTES: Final = 4 << 20


@dataclass(frozen=True, slots=True)
class Piece:
    """Part of a file: no more than a few megabytes, so that many processes have work."""

    path: str
    begin: int
    end: int

    def text(self) -> str:
        """Its characters; bytes that are no UTF-8 become U+FFFD."""
        with Path(self.path).open("rb") as file:
            file.seek(self.begin)
            return file.read(self.end - self.begin).decode("utf-8", "replace")


def pieces_of(sources: Sequence[str], *, without: Path | None = None) -> list[Piece]:
    """All documents of the sources, but for a folder that lies among them.

    Raises InputError: missing, binary, or nothing to read.
    """
    left_out = None if without is None else without.resolve()
    found: list[Piece] = []
    for source in sources:
        for path in list(_files(source)):
            if left_out is None or left_out not in path.resolve().parents:
                found += _cut(path)
    if not sum(p.end - p.begin for p in found):
        raise InputError("no text found", where=", ".join(sources),
                         hint="give files or folders of text, or `stdlib`")  # fmt: skip
    return found


def _files(source: str) -> Iterator[Path]:
    if source == STDLIB and not Path(source).exists():
        root = Path(sysconfig.get_paths()["stdlib"])
        for path in sorted(root.rglob("*.py")):
            inside = path.relative_to(root).parts
            if not {"site-packages", "dist-packages", "test", "tests"} & set(inside):
                yield path
        return
    path = Path(source)
    if path.is_dir():
        yield from (
            p for p in sorted(path.rglob("*"))
            if p.is_file() and p.suffix.lower() in _SUFFIXES and not p.name.startswith(".")
            and not _is_binary(p)
        )  # fmt: skip
    elif not path.exists():
        raise InputError("no such file", where=source,
                         hint="`stdlib` stands for Python's own source")  # fmt: skip
    elif _is_binary(path):
        raise InputError("not a text file", where=source)
    else:
        yield path


def _is_binary(path: Path) -> bool:
    with path.open("rb") as file:
        return b"\0" in file.read(4096)


def _cut(path: Path) -> list[Piece]:
    """Pieces that end after a line where there is one."""
    size = path.stat().st_size
    cuts = [0]
    with path.open("rb") as file:
        while size - cuts[-1] > _PIECE_BYTES:
            file.seek(cuts[-1] + _PIECE_BYTES)
            rest = file.readline(1 << 16)
            cuts.append(min(size, cuts[-1] + _PIECE_BYTES + len(rest)))
    if cuts[-1] < size:
        cuts.append(size)
    return [Piece(str(path), a, b) for a, b in pairwise(cuts)]
