"""Past answers in a local SQLite file: bounded, deleted when asked, readable by the user alone.

One table; plans are kept as compressed JSON. Every value enters as a parameter. Write-ahead logging
lets several studios of one user share the file.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from weftline.errors import InputError

__all__ = ["Entry", "History", "history_path"]

STATE_VARIABLE: Final = "XDG_STATE_HOME"
MOST_BYTES: Final = 256 << 20
"""Of all kept plans together, compressed."""
_VERSION: Final = 1
_TABLE: Final = """
CREATE TABLE IF NOT EXISTS answers (
  id TEXT PRIMARY KEY, made_s REAL NOT NULL, kind TEXT NOT NULL, headline TEXT NOT NULL,
  query TEXT NOT NULL, command TEXT NOT NULL, version TEXT NOT NULL, plan BLOB NOT NULL
) WITHOUT ROWID
"""
_NEWEST: Final = (
    "SELECT id, made_s, kind, headline, query, command, version FROM answers "
    "ORDER BY made_s DESC, id LIMIT ?"
)
_ONE: Final = (
    "SELECT id, made_s, kind, headline, query, command, version, plan FROM answers WHERE id = ?"
)


def history_path() -> Path:
    """Where it is kept if nobody says: ``weftline`` in the XDG state folder."""
    base = os.environ.get(STATE_VARIABLE)
    home = Path(base) if base else Path.home() / ".local" / "state"
    return home / "weftline" / "studio.sqlite3"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One answer, without its plan."""

    id: str
    made_s: float
    """Seconds since 1970."""
    kind: str
    headline: str
    query: str
    """The question as the query of a URL; "" where it would be too long."""
    command: str
    version: str


class History:
    """The answers that were given, newest first; for several threads."""

    def __init__(self, path: Path, keep: int) -> None:
        """Open or make the file. Raises InputError where it cannot be, or is of another form."""
        self.path, self.keep = path, keep
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
            self._base = sqlite3.connect(path, timeout=10, check_same_thread=False,
                                         isolation_level=None)  # fmt: skip
            self._base.execute("PRAGMA journal_mode=WAL")
            self._base.execute("PRAGMA synchronous=NORMAL")
            self._base.execute("PRAGMA secure_delete=ON")
            found = self._base.execute("PRAGMA user_version").fetchone()[0]
            if found not in (0, _VERSION):
                raise InputError(f"a history of form {found}, this version reads {_VERSION}",
                                 where=str(path), hint="--history another.sqlite3")  # fmt: skip
            self._base.execute(_TABLE)
            self._base.execute(f"PRAGMA user_version={_VERSION}")
        except (OSError, sqlite3.Error) as error:
            why = getattr(error, "strerror", None) or str(error)
            raise InputError(f"the history cannot be opened: {why}", where=str(path),
                             hint="--history FILE") from None  # fmt: skip

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._base.execute("BEGIN IMMEDIATE")
            try:
                yield self._base
            except BaseException:
                self._base.execute("ROLLBACK")
                raise
            self._base.execute("COMMIT")

    def add(self, entry: Entry, plan: str) -> None:
        """Keep an answer; the oldest go where there are too many or they take too much."""
        kept = zlib.compress(plan.encode(), 6)
        values = (entry.id, entry.made_s, entry.kind, entry.headline, entry.query, entry.command,
                  entry.version, kept)  # fmt: skip
        with self._transaction() as base:
            base.execute("INSERT OR REPLACE INTO answers VALUES (?,?,?,?,?,?,?,?)", values)
            rows = base.execute("SELECT id, length(plan) FROM answers ORDER BY made_s DESC")
            total, gone = 0, []
            for i, (name, size) in enumerate(rows.fetchall()):
                total += size
                if i >= max(1, self.keep) or total > MOST_BYTES:
                    gone.append((name,))
            base.executemany("DELETE FROM answers WHERE id = ?", gone)

    def entries(self, most: int = 100) -> tuple[Entry, ...]:
        """The newest."""
        return tuple(_entry(row) for row in self._read(_NEWEST, (most,)))

    def find(self, name: str) -> tuple[Entry, str] | None:
        """An answer with its plan as JSON."""
        rows = self._read(_ONE, (name,))
        if not rows:
            return None
        return _entry(rows[0][:-1]), zlib.decompress(rows[0][-1]).decode()

    def _read(self, words: str, values: Sequence[Any]) -> list[Any]:
        with self._lock:
            return self._base.execute(words, values).fetchall()

    def delete(self, name: str) -> bool:
        """Forget one; whether it was there."""
        with self._transaction() as base:
            return base.execute("DELETE FROM answers WHERE id = ?", (name,)).rowcount > 0

    def clear(self) -> None:
        """Forget all, and give the space back."""
        with self._transaction() as base:
            base.execute("DELETE FROM answers")
        with self._lock:
            self._base.execute("VACUUM")
            self._base.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        """Forget all where nothing is to be kept, and close the file."""
        if self.keep == 0:
            self.clear()
        with self._lock:
            self._base.close()


def _entry(row: Sequence[Any]) -> Entry:
    return Entry(id=row[0], made_s=row[1], kind=row[2], headline=row[3], query=row[4],
                 command=row[5], version=row[6])  # fmt: skip


def now_s() -> float:
    """Seconds since 1970."""
    return time.time()
