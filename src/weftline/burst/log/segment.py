"""The log's files: preallocated segments, written front to back, recycled when all is dead.

A recycled segment gets a new epoch, durable before its first new record, and every record carries
the epoch and a number of its own; what an earlier life left behind is never taken for new.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec
import numpy as np

from weftline.burst.errors import BurstError, CorruptionError, StorageError
from weftline.burst.files import ALIGN_BYTES, Buffer, File, Files
from weftline.burst.log.envelope import open_envelope, seal_envelope
from weftline.burst.log.record import Chunk
from weftline.burst.stage.arena import aligned_buffer

__all__ = ["Scope", "Segment", "SegmentHeader", "SegmentLog", "read_segment_header", "segment_name"]

_STEP_BYTES: Final = 1 << 20
_LEAST_BYTES: Final = 4 << 20
_FILL_BYTES: Final = 8 << 20


class SegmentHeader(msgspec.Struct, array_like=True, frozen=True):
    """The first block of a segment file."""

    store_id: str
    writer: str
    number: int
    epoch: int
    capacity_bytes: int


@dataclass(slots=True, kw_only=True)
class Segment:
    """One segment file that this process may write."""

    number: int
    epoch: int
    capacity_bytes: int
    used_bytes: int
    """Records may be placed from here on."""
    file: File

    @property
    def left_bytes(self) -> int:
        """Room for further records."""
        return self.capacity_bytes - self.used_bytes


@dataclass(slots=True, eq=False)
class Scope:
    """The segments that one save in flight writes to: they are not freed under it."""

    expected_bytes: int
    record_bytes: int
    """The largest record to come: as much may stay unused at the end of a segment."""
    segments: dict[int, Segment] = field(default_factory=dict)


def segment_name(number: int) -> str:
    """File name of a segment."""
    return f"seg-{number:012d}.seg"


def read_segment_header(file: File) -> SegmentHeader:
    """The header of a segment. Raises CorruptionError or NewerFormatError."""
    block = memoryview(aligned_buffer(ALIGN_BYTES))
    got = file.read_at([block], 0)
    return open_envelope("G", bytes(block[:got]), SegmentHeader, path=file.path)


class SegmentLog:
    """The append side of one writer's log. Safe to call from several threads."""

    def __init__(
        self,
        files: Files,
        folder: str,
        *,
        store_id: str,
        writer: str,
        segment_bytes: int,
        direct: bool,
        next_id: Callable[[], int],
        next_number: Callable[[], int],
        notices: list[str],
    ) -> None:
        self._files = files
        self._folder = folder
        self._store_id = store_id
        self._writer = writer
        self._segment_bytes = segment_bytes
        self._direct = direct
        self._next_id = next_id
        self._next_number = next_number
        self._notices = notices
        self._lock = threading.RLock()
        self._renewed = threading.Condition(self._lock)
        self._renewing: list[Segment] = []
        self._scopes: list[Scope] = []
        self.segments: dict[int, Segment] = {}
        """Every segment of this writer, by number."""
        self._free: dict[int, Segment] = {}
        self._ready: list[Segment] = []
        """Taken from the free ones, their new epochs durable, nothing written to them yet."""
        self._active: Segment | None = None
        self.reserved_bytes = 0
        """Kept free whatever happens, because somebody asked for it in advance."""

    # --- opening ---------------------------------------------------------------------------------

    def recover(self, live_end: dict[int, int], epochs: dict[int, int]) -> None:
        """Open what is there. ``live_end``: segment -> end in bytes of the last live record in it.

        Segments without a live record are free; the one with the most room behind its last live
        record is written on. A header that cannot be read is written anew: with the epoch of the
        live records (``epochs``), or with a new one when the segment is used again.
        """
        for name in self._files.list_dir(self._folder):
            if not (name.startswith("seg-") and name.endswith(".seg")):
                continue
            number = int(name[4:-4])
            segment = self._open_segment(number, live_end.get(number), epochs.get(number, 0))
            if segment is None:
                continue
            self.segments[number] = segment
            if number not in live_end:
                self._free[number] = segment
        tails = [s for s in self.segments.values() if s.number in live_end and s.epoch]
        tails = [s for s in tails if s.left_bytes >= _STEP_BYTES]
        self._active = max(tails, key=lambda s: s.left_bytes, default=None)

    def _open_segment(self, number: int, live_end: int | None, epoch: int) -> Segment | None:
        file = self._open_file(number, "w")
        mend = False
        try:
            header = read_segment_header(file)
            epoch, capacity = header.epoch, header.capacity_bytes
            if (header.store_id, header.writer, header.number) != (
                self._store_id, self._writer, number,
            ):  # fmt: skip
                raise CorruptionError("a segment of another log", file=file.path, offset_bytes=0)
        except CorruptionError:
            mend, capacity = epoch > 0, file.size() // ALIGN_BYTES * ALIGN_BYTES
            if live_end is None and capacity < _LEAST_BYTES:
                file.close()
                self._files.unlink(file.path)
                return None
        except BurstError:
            file.close()
            raise
        used = ALIGN_BYTES if live_end is None else -(-live_end // ALIGN_BYTES) * ALIGN_BYTES
        segment = Segment(
            number=number, epoch=epoch, capacity_bytes=capacity, used_bytes=used, file=file
        )
        if mend:
            self._write_header(segment)
            self._notices.append(f"{file.path}: the head was damaged and is written anew")
        return segment

    def _open_file(self, number: int, mode: str) -> File:
        path = f"{self._folder}/{segment_name(number)}"
        file = self._files.open(path, mode, direct=self._direct)
        if self._direct and not file.direct:
            self._no_direct()
        return file

    def _no_direct(self) -> None:
        text = f"{self._folder}: O_DIRECT is refused here; writing through the page cache"
        if text not in self._notices:
            self._notices.append(text)

    # --- writing ---------------------------------------------------------------------------------

    def begin(self, expected_bytes: int, record_bytes: int = 0) -> Scope:
        """A scope for one save of about that many bytes in records of ``record_bytes`` at most."""
        scope = Scope(expected_bytes, record_bytes)
        with self._lock:
            self._scopes.append(scope)
        return scope

    def end(self, scope: Scope) -> None:
        """The save is in the index, or has failed: its segments are no longer held."""
        with self._lock:
            if scope in self._scopes:
                self._scopes.remove(scope)

    def hold(self, scope: Scope, chunks: Iterable[Chunk]) -> bool:
        """Keep the segments of these records while the save is in flight; False if one is gone."""
        with self._lock:
            found = []
            for chunk in chunks:
                segment = self.segments.get(chunk.segment)
                if segment is None or chunk.segment in self._free or segment.epoch not in (
                    chunk.epoch, 0,
                ):  # fmt: skip
                    return False
                found.append(segment)
            for segment in found:
                scope.segments[segment.number] = segment
            return True

    def allocate(self, scope: Scope, nbytes: int) -> tuple[Segment, int]:
        """Room for ``nbytes`` (whole blocks): the segment and the offset in it."""
        nbytes = -(-nbytes // ALIGN_BYTES) * ALIGN_BYTES
        with self._lock:
            while (active := self._active) is None or active.left_bytes < nbytes:
                if (found := self._next_segment(nbytes, scope.expected_bytes)) is not None:
                    self._active = found
            at = active.used_bytes
            active.used_bytes += nbytes
            scope.segments[active.number] = active
            scope.expected_bytes = max(0, scope.expected_bytes - nbytes)
            return active, at

    def has_room(self, nbytes: int) -> bool:
        """Whether a record of that size needs no segment but those that are ready."""
        with self._lock:
            ready = [*self._ready, *([self._active] if self._active else [])]
            return any(s.left_bytes >= nbytes for s in ready)

    def write(self, segment: Segment, offset_bytes: int, buffers: Sequence[Buffer]) -> None:
        """Write aligned ``buffers`` at ``offset_bytes``; durable only after :meth:`sync`."""
        try:
            segment.file.write_at(buffers, offset_bytes)
        except StorageError as e:
            if e.errno != errno.EINVAL or not segment.file.direct:
                raise
            with self._lock:
                self._direct = False
                self._no_direct()
                if segment.file.direct:
                    segment.file = self._open_file(segment.number, "w")
            segment.file.write_at(buffers, offset_bytes)

    def sync(self, scope: Scope) -> None:
        """Return when everything written in this scope is on stable storage."""
        for segment in list(scope.segments.values()):
            segment.file.sync()

    def make_ready(self, scope: Scope) -> None:
        """Give the free segments that ``scope`` will need their new epochs, ahead of its records.

        A record waits for the epoch of its segment to be durable; here the disk does that while
        the state is still being copied.
        """
        taken: list[Segment] = []
        with self._lock:
            least = max(_LEAST_BYTES, scope.record_bytes + ALIGN_BYTES)
            have = [*self._ready, *self._renewing, *([self._active] if self._active else [])]
            left = scope.expected_bytes
            left -= sum(max(0, s.left_bytes - scope.record_bytes) for s in have)
            while left > 0 and (segment := self._take_free(least, left)) is not None:
                taken.append(segment)
                left -= segment.capacity_bytes - ALIGN_BYTES - scope.record_bytes
            self._renewing += taken
        try:
            for segment in taken:
                self._write_header(segment)
        except BaseException:
            with self._lock:
                self._free.update((s.number, s) for s in taken)
            raise
        else:
            with self._lock:
                self._ready += taken
        finally:
            with self._renewed:
                self._renewing = [s for s in self._renewing if s not in taken]
                self._renewed.notify_all()

    def _next_segment(self, nbytes: int, expected_bytes: int) -> Segment | None:
        """One that ``nbytes`` fit in; None after a wait for those that are being made ready."""
        need = nbytes + ALIGN_BYTES
        ready = next((s for s in self._ready if s.capacity_bytes >= need), None)
        if ready is not None:
            self._ready.remove(ready)
            return ready
        if self._renewing:
            self._renewed.wait()
            return None
        segment = self._take_free(need, expected_bytes)
        if segment is None:
            size = max(need, min(max(expected_bytes + ALIGN_BYTES, _LEAST_BYTES), self.most_bytes))
            return self._create(size)
        self._write_header(segment)
        return segment

    def _take_free(self, need_bytes: int, expected_bytes: int) -> Segment | None:
        """The free segment that suits best: the smallest that takes all, or else the largest.

        Its epoch is a new one from here on: what it held can no longer be referred to.
        """
        fitting = [s for s in self._free.values() if s.capacity_bytes >= need_bytes]
        if not fitting:
            return None
        wanted = min(expected_bytes + ALIGN_BYTES, self.most_bytes)
        enough = [s for s in fitting if s.capacity_bytes >= wanted]
        segment = (
            min(enough, key=lambda s: (s.capacity_bytes, s.number))
            if enough
            else max(fitting, key=lambda s: (s.capacity_bytes, -s.number))
        )
        del self._free[segment.number]
        segment.epoch = self._next_id()
        segment.used_bytes = ALIGN_BYTES
        return segment

    @property
    def most_bytes(self) -> int:
        """The largest segment made unless one record needs more."""
        return self._segment_bytes

    def _create(self, size: int) -> Segment:
        capacity = -(-size // _STEP_BYTES) * _STEP_BYTES
        number = self._next_number()
        file = self._open_file(number, "x")
        segment = Segment(
            number=number, epoch=self._next_id(), capacity_bytes=capacity,
            used_bytes=ALIGN_BYTES, file=file,
        )  # fmt: skip
        try:
            file.allocate(capacity)
            self._write_header(segment)
            self._files.sync_dir(self._folder)
        except BurstError:
            file.close()
            self._files.unlink(file.path)
            raise
        self.segments[number] = segment
        return segment

    def _write_header(self, segment: Segment) -> None:
        header = SegmentHeader(
            self._store_id, self._writer, segment.number, segment.epoch, segment.capacity_bytes
        )
        packed = np.frombuffer(seal_envelope("G", header), np.uint8)
        block = aligned_buffer(ALIGN_BYTES)
        block[: len(packed)] = packed
        self.write(segment, 0, [memoryview(block)])
        segment.file.sync()

    def reserve(self, nbytes: int) -> None:
        """Have free segments for ``nbytes`` more, their blocks written once with zeros.

        Blocks that were only set aside cost the file system work at their first write.
        """
        self.reserved_bytes = nbytes
        zeros = memoryview(aligned_buffer(_FILL_BYTES))
        while True:
            with self._lock:
                free = sum(s.capacity_bytes - ALIGN_BYTES for s in self._unwritten())
                if self._active is not None:
                    free += self._active.left_bytes
                if free >= nbytes:
                    return
                segment = self._create(min(self.most_bytes, nbytes - free + ALIGN_BYTES))
            for at in range(ALIGN_BYTES, segment.capacity_bytes, _FILL_BYTES):
                length = min(_FILL_BYTES, segment.capacity_bytes - at)
                self.write(segment, at, [zeros[:length]])
            segment.file.sync()
            with self._lock:
                self._free[segment.number] = segment

    # --- giving back -----------------------------------------------------------------------------

    def free(self, dead: Iterable[int], *, spare_bytes: int) -> tuple[int, int]:
        """Mark segments as free to be written again; remove those beyond ``spare_bytes``.

        Only segments that no index entry names may be given; what a save in flight holds by now
        is left alone. Returns the number freed and the bytes given back to the file system.
        """
        with self._lock:
            freed = 0
            held = self.held()
            for number in dead:
                if number in self.segments and number not in self._free and number not in held:
                    self._free[number] = self.segments[number]
                    freed += 1
            removed = 0
            kept = sum(s.capacity_bytes for s in (*self._ready, *self._renewing))
            for segment in sorted(self._free.values(), key=lambda s: -s.capacity_bytes):
                if kept + segment.capacity_bytes <= spare_bytes:
                    kept += segment.capacity_bytes
                    continue
                del self._free[segment.number], self.segments[segment.number]
                segment.file.close()
                self._files.unlink(segment.file.path)
                removed += segment.capacity_bytes
            return freed, removed

    def held(self) -> set[int]:
        """Segments that must not be freed now: those written to, or about to be."""
        with self._lock:
            numbers = {n for scope in self._scopes for n in scope.segments}
            numbers |= {s.number for s in (*self._ready, *self._renewing)}
            return numbers | ({self._active.number} if self._active else set())

    def _unwritten(self) -> list[Segment]:
        return [*self._free.values(), *self._ready, *self._renewing]

    def close(self) -> None:
        """Close all files."""
        with self._lock:
            for segment in self.segments.values():
                segment.file.close()
            self.segments.clear()
            self._free.clear()
            self._ready.clear()
            self._active = None
