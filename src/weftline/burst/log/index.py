"""The index: small keys in a write-ahead log and in immutable sorted runs, values in segments.

One log and one set of runs a writer. ``CURRENT`` names the files that count and is replaced in one
step; a reader takes no lock, reads ``CURRENT``, the runs and the log up to the first frame that is
not whole, and starts again when a file it was told of is gone.
"""

from __future__ import annotations

import bisect
import contextlib
import errno
import heapq
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Final

import msgspec

from weftline.burst.errors import BurstError, CorruptionError, StorageError
from weftline.burst.files import File, Files, write_atomic
from weftline.burst.log.envelope import open_envelope, seal_envelope
from weftline.burst.log.runs import Run, write_run
from weftline.burst.log.wal import WAL_HEAD_BYTES, Entry, read_wal, wal_frame, wal_head

__all__ = ["Current", "Index", "IndexWriter"]

_LEAP: Final = 1000
"""Opens that a lost ``CURRENT`` may have counted beyond what the names of files show."""
_NUMBER_BITS: Final = 24
"""A writer numbers its files from (times opened) * 2**24 on, so that no number is used twice."""


class Current(msgspec.Struct, array_like=True, frozen=True):
    """The body of ``CURRENT``: which files make up this writer's index."""

    generation: int
    opens: int
    """How often this writer was opened for writing; the upper half of every number it hands out."""
    runs: list[int]
    """Oldest first."""
    wals: list[int]
    closed_bytes: int = 0
    """Length of the last log, once its writer has closed it in good order; else 0."""


def run_path(folder: str, number: int) -> str:
    """Path of a sorted run."""
    return f"{folder}/run-{number:012d}.run"


def wal_path(folder: str, number: int) -> str:
    """Path of a write-ahead log."""
    return f"{folder}/wal-{number:012d}.wal"


# --- reading ------------------------------------------------------------------------------------


class Index:
    """One writer's index as it stood at one moment; takes no lock.

    ``damage`` lists what could not be read; what could be read is served all the same.
    """

    def __init__(self, files: Files, folder: str) -> None:
        self._files = files
        self.folder = folder
        self.damage: list[BurstError] = []
        self.current = Current(0, 0, [], [])
        self._runs: list[Run] = []
        self._recent: dict[bytes, bytes] = {}
        self._keys: list[bytes] | None = None
        gone: set[tuple[int, str]] = set()
        while not self._load(gone):
            pass  # a file went between CURRENT and here: the writer has moved on, and so do we

    def _load(self, gone: set[tuple[int, str]]) -> bool:
        """Read everything; False when a file is gone that ``CURRENT`` names.

        ``gone`` remembers of which generation it was. One that was missed before, and that the
        same ``CURRENT`` still names afterwards, is lost: that is damage.
        """
        self.damage, self._runs, self._recent = [], [], {}
        path = f"{self.folder}/CURRENT"
        try:
            self.current = open_envelope("C", self._files.read_bytes(path), Current, path=path)
        except CorruptionError as e:
            self.damage.append(e)
            self.current = self._guess()
        except StorageError as e:
            if e.errno != errno.ENOENT:
                raise
            # Without any file a writer has died in its first opening, before it held anything.
            if any(n.endswith(_SUFFIXES) for n in self._files.list_dir(self.folder)):
                self.damage.append(_lost(path))
            self.current = self._guess()
        for number in self.current.runs:
            if not self._guard(self._load_run, number, run_path(self.folder, number), gone):
                return False
        for number in self.current.wals:
            if not self._guard(self._load_wal, number, wal_path(self.folder, number), gone):
                return False
        return True

    def _guard(
        self,
        do: Callable[[int, str], None],
        number: int,
        path: str,
        gone: set[tuple[int, str]] | None,
    ) -> bool:
        """Read one file; False when it may have gone because the writer moved on.

        ``gone`` None: nobody else can have taken it.
        """
        try:
            do(number, path)
        except CorruptionError as e:
            self.damage.append(e)
        except StorageError as e:
            if e.errno != errno.ENOENT:
                raise
            missed = (self.current.generation, path)
            if gone is not None and missed not in gone:
                gone.add(missed)
                return False
            self.damage.append(_lost(path))
        return True

    def _load_run(self, _: int, path: str) -> None:
        file = self._files.open(path, "r")
        try:
            self._runs.append(Run(file))
        except BaseException:
            file.close()
            raise

    def _load_wal(self, number: int, path: str) -> None:
        last = number == self.current.wals[-1]
        frames, hole = read_wal(
            self._files.read_bytes(path), number, path=path,
            closed_bytes=self.current.closed_bytes if last else 0,
        )  # fmt: skip
        if hole is not None:
            self.damage.append(
                CorruptionError("write-ahead log: damaged frame", file=path, offset_bytes=hole)
            )
        for frame in frames:
            self._recent.update(frame)

    def _guess(self) -> Current:
        """Without a readable ``CURRENT``: every run and log in the folder, oldest first.

        Entries that a newer file replaced are replaced here too, because numbers only grow.
        """
        names = self._files.list_dir(self.folder)
        runs = [int(n[4:-4]) for n in names if n.startswith("run-") and n.endswith(".run")]
        wals = [int(n[4:-4]) for n in names if n.startswith("wal-") and n.endswith(".wal")]
        segments = [int(n[4:-4]) for n in names if n.startswith("seg-") and n.endswith(".seg")]
        top = max([*runs, *wals, *segments], default=0)
        return Current(
            generation=0, opens=(top >> _NUMBER_BITS) + _LEAP, runs=sorted(runs), wals=sorted(wals)
        )

    def scan(self, prefix: bytes = b"") -> Iterator[Entry]:
        """Entries whose keys start with ``prefix``, in order, the newest value of each.

        A block that is damaged is noted in ``damage`` and ends what its run can give.
        """
        sources: list[Iterator[tuple[bytes, int, bytes]]] = []
        for age, run in enumerate(reversed(self._runs), 1):
            sources.append(self._guarded(run, prefix, age))
        sources.append(self._scan_recent(prefix))
        last: bytes | None = None
        for key, _, value in heapq.merge(*sources, key=lambda item: (item[0], item[1])):
            if key != last:
                last = key
                yield key, value

    def _guarded(self, run: Run, prefix: bytes, age: int) -> Iterator[tuple[bytes, int, bytes]]:
        try:
            for key, value in run.scan(prefix):
                yield key, age, value
        except CorruptionError as e:
            self.damage.append(e)

    def _scan_recent(self, prefix: bytes) -> Iterator[tuple[bytes, int, bytes]]:
        if self._keys is None or len(self._keys) != len(self._recent):
            self._keys = sorted(self._recent)
        for key in self._keys[bisect.bisect_left(self._keys, prefix) :]:
            if not key.startswith(prefix):
                return
            yield key, 0, self._recent[key]

    def deep_damage(self) -> list[BurstError]:
        """All damage, with every block of every run looked at."""
        return [*self.damage, *(e for run in self._runs for e in run.damage())]

    def close(self) -> None:
        """Close the runs."""
        for run in self._runs:
            run.close()
        self._runs = []


_SUFFIXES: Final = (".wal", ".run", ".seg")


def _lost(path: str) -> CorruptionError:
    return CorruptionError("the file is gone", file=path)


# --- writing ------------------------------------------------------------------------------------


class IndexWriter(Index):
    """The one process that may change a writer's index; the caller holds the writer's lock.

    ``alive`` says of a save's id whether its entries are to be kept when files are rewritten.
    """

    def __init__(
        self,
        files: Files,
        folder: str,
        *,
        store_id: str,
        wal_bytes_max: int,
        runs_max: int = 8,
    ) -> None:
        names = files.list_dir(folder)
        fresh = not any(n == "CURRENT" or n.endswith((".run", ".wal", ".seg")) for n in names)
        self._store_id = store_id
        self._wal_bytes_max = wal_bytes_max
        self._runs_max = runs_max
        self._wal: File | None = None
        self._wal_end = self._wal_sequence = 0
        if fresh:
            write_atomic(files, f"{folder}/CURRENT", seal_envelope("C", Current(0, 0, [], [])))
        super().__init__(files, folder)
        self.opens = self.current.opens + 1
        self._numbers = itertools.count((self.opens << _NUMBER_BITS) + 1)
        self._broken: StorageError | None = None

    def start(self, alive: Callable[[int], bool]) -> None:
        """Put what earlier logs hold in a run, and begin a log of our own.

        Files that ``CURRENT`` does not name are left over from a crash; they go too, unless
        ``CURRENT`` itself could not be read.
        """
        sound = not self.damage
        self._switch(alive)
        if not sound:
            return
        named = {run_path("", n)[1:] for n in self.current.runs}
        named |= {wal_path("", n)[1:] for n in self.current.wals}
        for name in self._files.list_dir(self.folder):
            if name.endswith((".run", ".wal", ".tmp")) and name not in named:
                self._files.unlink(f"{self.folder}/{name}")

    def append(self, entries: Iterable[Entry], *, sync: bool = True) -> None:
        """Add entries in one step; on return they are durable, with ``sync``."""
        entries = list(entries)
        if self._broken is not None:
            raise self._broken
        if self._wal is None:
            raise StorageError("the index is closed", path=self.folder, errno_=0)
        frame = wal_frame(self.current.wals[-1], self._wal_sequence + 1, entries)
        self._wal.write_at([frame], self._wal_end)
        if sync:
            self.sync()
        self._wal_sequence += 1
        self._wal_end += len(frame)
        self._recent.update(entries)
        self._keys = None

    def sync(self) -> None:
        """Return when all that was appended is on stable storage."""
        if self._wal is None:
            return
        try:
            self._wal.sync()
        except StorageError as e:
            # After a failed sync nobody knows what is on the disk: never write on top of that.
            self._broken = e
            raise

    @property
    def full(self) -> bool:
        """Whether the log has reached the size at which it becomes a run."""
        return self._wal_end >= self._wal_bytes_max

    def flush(self, alive: Callable[[int], bool]) -> None:
        """Turn the log into a sorted run, and merge the runs when there are too many."""
        self._switch(alive)

    def purge(self, alive: Callable[[int], bool]) -> None:
        """Merge everything that can be read into one run and drop the rest.

        For when all that a damaged run held has been added again.
        """
        self._switch(alive, purge=True)

    def _switch(self, alive: Callable[[int], bool], *, purge: bool = False) -> None:
        """New log, new run if there is anything to keep, new ``CURRENT``; then drop the old."""
        merge = purge or len(self.current.runs) >= self._runs_max
        kept = self._kept(alive, merge=merge)
        if (
            merge and self.damage and not purge
        ):  # what a damaged run still holds must not be lost by a merge
            merge = False
            kept = self._kept(alive, merge=False)
        old_runs, old_wals = list(self.current.runs), list(self.current.wals)
        runs = [] if merge else list(old_runs)
        if kept:
            number = self.next_number()
            write_atomic(self._files, run_path(self.folder, number), write_run(kept))
            runs.append(number)
        wal_number = self.next_number()
        # A process that died before it wrote CURRENT leaves a log of this very number behind.
        self._files.unlink(wal_path(self.folder, wal_number))
        wal = self._files.open(wal_path(self.folder, wal_number), "x")
        wal.write_at([wal_head(self._store_id, wal_number)], 0)
        wal.sync()
        self._files.sync_dir(self.folder)
        current = Current(self.current.generation + 1, self.opens, runs, [wal_number])
        write_atomic(self._files, f"{self.folder}/CURRENT", seal_envelope("C", current))
        if self._wal is not None:
            self._wal.close()
        self.current, self._wal, self._wal_end = current, wal, WAL_HEAD_BYTES
        self._wal_sequence = 0
        self._reload(runs)
        for number in set(old_runs) - set(runs):
            self._files.unlink(run_path(self.folder, number))
        for number in old_wals:
            self._files.unlink(wal_path(self.folder, number))

    def _kept(self, alive: Callable[[int], bool], *, merge: bool) -> list[Entry]:
        kept: list[Entry] = []
        for key, value in self.scan() if merge else sorted(self._recent.items()):
            # A mark that a save was dropped goes when nothing older is left that it could hide.
            keep = alive(int.from_bytes(key[:8], "big")) if value else not merge
            if keep:
                kept.append((key, value))
        return kept

    def _reload(self, runs: list[int]) -> None:
        super().close()
        self._runs = []
        self._recent, self._keys, self.damage = {}, None, []
        for number in runs:
            self._guard(self._load_run, number, run_path(self.folder, number), None)

    def next_number(self) -> int:
        """A number that no file of this writer has had; safe to call from any thread."""
        return next(self._numbers)

    def close(self) -> None:
        """Close the log and the runs, and note where the log ends: less than that is damage."""
        super().close()
        if self._wal is None:
            return
        self._wal.close()
        self._wal = None
        if self._broken is not None:
            return
        current = msgspec.structs.replace(
            self.current, generation=self.current.generation + 1, closed_bytes=self._wal_end
        )
        with contextlib.suppress(StorageError):  # the log is whole without it
            write_atomic(self._files, f"{self.folder}/CURRENT", seal_envelope("C", current))
