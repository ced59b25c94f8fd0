"""Commit records: a checkpoint exists from the moment its record stands under its name.

A record is written to a temporary file, synced, renamed, and its folder synced; it names what every
rank made durable before. Names in the folder change only under the lock that retention takes as
well. The folder is synced outside of it, so that many writers share the wait for the disk: whoever
acts on what he saw there (drops an older checkpoint, frees a record's data) syncs it first.
"""

from __future__ import annotations

import bisect
import errno
import operator
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import msgspec

from weftline.burst.errors import (
    BurstError,
    CheckpointMissingError,
    CorruptionError,
    MismatchError,
    StorageError,
)
from weftline.burst.files import Files, write_atomic
from weftline.burst.log.envelope import open_either, open_envelope, seal_twice
from weftline.burst.log.record import Prepared
from weftline.burst.stage.state import check_word

__all__ = [
    "DRAIN", "CheckpointInfo", "Commit", "Commits", "check_step", "decode_commit", "info_of",
    "whole_record",
]  # fmt: skip

_NAME: Final = re.compile(r"step-(\d{20})\.commit")
_SETTLED_NS: Final = 100_000_000
"""A file that changed less than this before it was read may change again within one clock tick."""
DRAIN: Final = "drain"
"""Who pins a checkpoint while it is on its way elsewhere."""
_LEFT_NS: Final = 3_600_000_000_000
"""A drain that has not touched its pin for so long was killed, or its machine is gone."""
_TRUST_S: Final = 5.0
"""So long what the stores say of their own changes is relied on without a look at every record."""
_PIN: Final = re.compile(r"step-(\d{20})\.pin\.([A-Za-z0-9_.-]+)")


class Commit(msgspec.Struct, array_like=True, frozen=True):
    """The body of a commit record."""

    store_id: str
    """The store that has every share; empty where shares are in stores of several nodes."""
    step: int
    sequence: int
    """Grows with every commit of a run: the largest is the newest checkpoint."""
    world: int
    attempt: str
    created_unix_s: float
    """For people to read; nothing is decided by a clock."""
    ranks: list[Prepared]
    """One a rank, in the order of ranks."""
    run: str = ""
    """The run it belongs to; empty in format 1, where a store was a run."""

    @property
    def order(self) -> tuple[int, int]:
        """What makes one checkpoint newer than another."""
        return self.sequence, self.step

    @property
    def copied(self) -> bool:
        """Whether every share had a copy in the memory of another node."""
        return all(r.copies for r in self.ranks)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointInfo:
    """One committed checkpoint."""

    step: int
    sequence: int
    """Order of commits; the largest is the newest."""
    world: int
    attempt: str
    raw_bytes: int
    stored_bytes: int
    """New bytes this checkpoint added to the log."""
    created_unix_s: float
    pinned: tuple[str, ...]
    """Who holds on to it."""


def info_of(commit: Commit, pinned: tuple[str, ...] = ()) -> CheckpointInfo:
    """What to tell of a commit record."""
    return CheckpointInfo(
        step=commit.step, sequence=commit.sequence, world=commit.world, attempt=commit.attempt,
        raw_bytes=sum(r.raw_bytes for r in commit.ranks),
        stored_bytes=sum(r.stored_bytes for r in commit.ranks),
        created_unix_s=commit.created_unix_s, pinned=pinned,
    )  # fmt: skip


def check_step(step: int, *, where: str | None = None) -> int:
    """A step that can be stored. Raises MismatchError."""
    if isinstance(step, bool) or not isinstance(step, int) or not 0 <= step < 10**18:
        raise MismatchError(f"step {step!r} is not a whole number from 0 on", where=where)
    return step


def decode_commit(data: bytes, *, path: str = "commit record") -> Commit:
    """A commit record from its bytes. Raises CorruptionError when neither copy is whole."""
    return open_either("K", data, Commit, path=path)[0]


_by_order: Final = operator.attrgetter("order")


@dataclass(slots=True)
class _Look:
    """What was in the folder, when, and the word of who had changed it last."""

    word: bytes
    at_s: float
    commits: list[Commit]
    errors: list[BurstError]


def whole_record(data: bytes, *, path: str = "commit record") -> bytes:
    """A record's bytes with both copies as the good one is. Raises CorruptionError."""
    half = len(data) // 2
    for copy in (data[:half], data[half:]):
        try:
            open_envelope("K", copy, Commit, path=path)
        except CorruptionError:
            continue
        return copy * 2
    raise CorruptionError("neither copy of the commit record is whole", file=path, offset_bytes=0)


class Commits:
    """The ``commits`` folder of a store."""

    def __init__(self, files: Files, folder: str) -> None:
        self._files = files
        self.folder = folder
        self._known: dict[int, tuple[tuple[int, int, int, int], Commit]] = {}
        self._look: _Look | None = None
        self._lock = threading.Lock()

    def path(self, step: int) -> str:
        """Where the record of a step stands."""
        return f"{self.folder}/step-{step:020d}.commit"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock under which checkpoints are committed and dropped."""
        file = self._files.open(f"{self.folder}/LOCK", "w")
        try:
            file.lock(exclusive=True, wait=True)
            yield
        finally:
            file.close()

    def steps(self) -> list[int]:
        """Steps that have a record, in rising order."""
        names = self._files.list_dir(self.folder)
        return [int(found[1]) for n in names if (found := _NAME.fullmatch(n))]

    def read(self, step: int) -> tuple[Commit, CorruptionError | None]:
        """The record of a step, and the damage to one of its copies if there is any.

        Raises CheckpointMissingError, or CorruptionError when neither copy is whole.
        """
        path = self.path(step)
        try:
            data = self._files.read_bytes(path)
        except StorageError as e:
            if e.errno != errno.ENOENT:
                raise
            raise self.missing(step) from e
        try:
            commit, damage = open_either("K", data, Commit, path=path)
        except CorruptionError as e:
            raise CorruptionError(
                f"commit record: {e.what}", file=path, offset_bytes=e.offset_bytes, step=step
            ) from e
        if commit.step != step:
            raise CorruptionError(f"record of step {commit.step} under this name", file=path)
        return commit, damage

    def record(self, step: int) -> bytes:
        """The record of a step as it was written, both copies whole. Raises as :meth:`read`."""
        self.read(step)
        data = self._files.read_bytes(self.path(step))
        return whole_record(data, path=self.path(step))

    def _stamp(self, step: int) -> tuple[int, int, int, int]:
        try:
            return self._files.stamp(self.path(step))
        except StorageError as e:
            if e.errno != errno.ENOENT:
                raise
            raise self.missing(step) from e

    def _read_cached(self, step: int) -> Commit:
        """As :meth:`read`, from memory while the file is the one that was read before."""
        stamp = self._stamp(step)
        with self._lock:
            have = self._known.get(step)
        if have is not None and have[0] == stamp:
            return have[1]
        settled = time.time_ns() - max(stamp[2:]) > _SETTLED_NS
        commit, damage = self.read(step)
        # A record with a damaged copy is read again, and so is one that is put in place just now.
        if damage is None and settled and self._stamp(step) == stamp:
            with self._lock:
                self._known[step] = (stamp, commit)
        return commit

    def missing(self, step: int | None) -> CheckpointMissingError:
        """The error that says which checkpoints there are."""
        steps = self.steps()
        shown = ", ".join(map(str, steps[-8:])) if steps else "none"
        what = "the store has no checkpoint" if step is None else f"no checkpoint of step {step}"
        return CheckpointMissingError(what, where=self.folder, hint=f"committed steps: {shown}")

    def known(self) -> tuple[list[Commit], list[BurstError]]:
        """As :meth:`all`, from memory if no store has changed a name in the folder since.

        For who commits and lets go, under the lock or about to take it: looking at every record
        would make a save the slower the more checkpoints are kept. Who changes a name leaves a new
        word in the lock's file. What others did to the folder, names that came or went without a
        word, is seen after a few seconds, from one listing.
        """
        with self._lock:
            look = self._look
        now_s = time.monotonic()
        if look is None or look.word != self._word():
            return self.all()
        if now_s - look.at_s >= _TRUST_S:
            if look.errors or self.steps() != sorted([c.step for c in look.commits]):
                return self.all()
            look.at_s = now_s
        return list(look.commits), list(look.errors)

    def _word(self) -> bytes:
        try:
            return self._files.read_bytes(f"{self.folder}/LOCK")
        except StorageError:
            return b""

    def _changed(self, *, more: Commit | None = None, gone: Sequence[int] = ()) -> None:
        """Leave a new word, under the lock, once names were changed."""
        word, before = uuid.uuid4().bytes, self._word()
        try:
            file = self._files.open(f"{self.folder}/LOCK", "w")
            try:
                file.write_at([word], 0)
            finally:
                file.close()
        except StorageError:
            word = b""  # a full disk: nobody trusts what he remembers
        with self._lock:
            look = self._look
            if look is None or look.word != before or not before or not word:
                self._look = None
                return
            out = {*gone, *([] if more is None else [more.step])}
            kept = [c for c in look.commits if c.step not in out]
            if more is not None:
                bisect.insort(kept, more, key=_by_order)
            self._look = _Look(word, look.at_s, kept, look.errors)

    def all(self) -> tuple[list[Commit], list[BurstError]]:
        """Every record that can be read, oldest commit first, and the errors of the others."""
        word, at_s = self._word(), time.monotonic()
        found = self._all()
        with self._lock:
            self._look = _Look(word, at_s, *found) if word else None
        return list(found[0]), list(found[1])

    def _all(self) -> tuple[list[Commit], list[BurstError]]:
        commits: list[Commit] = []
        errors: list[BurstError] = []
        steps = self.steps()
        with self._lock:
            for step in self._known.keys() - set(steps):
                del self._known[step]
        for step in steps:
            try:
                commits.append(self._read_cached(step))
            except CheckpointMissingError:
                continue  # dropped since the folder was listed
            except CorruptionError as e:
                errors.append(e)
        return sorted(commits, key=_by_order), errors

    def next_sequence(self) -> int:
        """A number larger than that of any commit before, those that cannot be read included."""
        commits, errors = self.known()
        newest = commits[-1].sequence if commits else 0  # they are in the order of commit
        return 1 + newest + (len(errors) << 20)

    def put(self, record: bytes, step: int) -> None:
        """Put a record that was made elsewhere under its name; durable on return.

        The caller holds the lock of commits, and has looked at what stands there.
        """
        write_atomic(self._files, self.path(step), record)
        self._changed(more=decode_commit(record))

    @contextmanager
    def draft(self, commit: Commit, owner: str) -> Iterator[Callable[[Commit], None]]:
        """Get a record ready on disk; the function given puts it, or one like it, in its place.

        Most of the work is done before the lock is taken: the file is there, with its blocks. The
        checkpoint exists after :meth:`sync`. One draft at a time for each ``owner``.
        """
        path = f"{self.folder}/next-{owner}.tmp"
        self._files.unlink(path)  # left over from a crash
        file = self._files.open(path, "x")
        try:
            ready = seal_twice("K", commit)
            file.write_at([ready], 0)
            file.sync()

            def place(final: Commit) -> None:
                data = seal_twice("K", final)
                if data != ready:
                    if len(data) < len(ready):
                        file.truncate(len(data))
                    file.write_at([data], 0)
                    file.sync()
                self._files.rename(path, self.path(final.step))
                self._changed(more=final)

            yield place
        finally:
            file.close()
            self._files.unlink(path)

    def sync(self) -> None:
        """Return when every name in the folder, there or gone, is on stable storage."""
        self._files.sync_dir(self.folder)

    def remove(self, steps: list[int]) -> None:
        """Take the records of these steps away; durable after :meth:`sync`."""
        for step in steps:
            self._files.unlink(self.path(step))
        if steps:
            self._changed(gone=steps)

    # --- pins -----------------------------------------------------------------------------------

    def pins(self) -> dict[int, tuple[str, ...]]:
        """Step -> who holds on to it. A drain of which nothing was heard for an hour does not."""
        found: dict[int, tuple[str, ...]] = {}
        for name in self._files.list_dir(self.folder):
            if (match := _PIN.fullmatch(name)) and not self._is_left(name, match[2]):
                step = int(match[1])
                found[step] = (*found.get(step, ()), match[2])
        return found

    def _is_left(self, name: str, owner: str) -> bool:
        """Whether a pin is that of a drain that is not there any more."""
        if owner != DRAIN:
            return False
        try:
            touched_ns = self._files.stamp(f"{self.folder}/{name}")[2]
        except StorageError:
            return True
        return time.time_ns() - touched_ns > _LEFT_NS

    def pin(self, step: int, owner: str) -> None:
        """Keep a checkpoint until it is unpinned; a drain says again that it is there.

        Raises BadNameError, CheckpointMissingError.
        """
        check_word(owner, what="owner")
        with self.locked():
            if not self._files.exists(self.path(step)):
                raise self.missing(step)
            path = f"{self.folder}/step-{step:020d}.pin.{owner}"
            if not self._files.exists(path):
                self._files.open(path, "x").close()
                self._files.sync_dir(self.folder)
            elif owner == DRAIN:
                file = self._files.open(path, "w")
                file.write_at([b"."], 0)  # the time of its last change is its sign of life
                file.close()

    def unpin(self, step: int, owner: str) -> None:
        """Let go; no error if it was not pinned."""
        check_word(owner, what="owner")
        self._files.unlink(f"{self.folder}/step-{step:020d}.pin.{owner}")
        self._files.sync_dir(self.folder)
