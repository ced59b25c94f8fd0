"""Staging memory: page-aligned, touched before it is needed, used again by every save.

The copy of a state into an arena is all that training waits for. Memory is anonymous and private,
with large pages where the kernel offers them.
"""

from __future__ import annotations

import contextlib
import mmap
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from weftline.burst.files import ALIGN_BYTES, LARGE_BYTES
from weftline.burst.stage.copying import copy_bytes
from weftline.burst.stage.state import Bytes1d, Part

__all__ = [
    "Arena", "ArenaPool", "Lease", "Pinner", "Staged", "aligned_buffer", "copy_pairs",
    "copy_parts", "place_parts", "rooms_for",
]  # fmt: skip

_HUGE_BYTES: Final = 1 << 21
_PIECE_BYTES: Final = 16 << 20
"""Larger chunks are copied in pieces, so that several threads finish together; hashed later."""
_SERIAL_BYTES: Final = 8 << 20
"""Below this a second thread costs more than it saves."""


def aligned_buffer(nbytes: int, *, huge: bool = False) -> Bytes1d:
    """``nbytes`` of page-aligned zeros, uint8, 1-d; ``huge`` asks for large pages.

    Large pages pay for memory that is used again and again. Where a guest gives free memory back
    to its host, the first touch of one costs several times that of small pages.
    """
    if nbytes == 0:
        return np.empty(0, np.uint8)
    block = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if huge and nbytes >= _HUGE_BYTES and hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):
            block.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(block, np.uint8)


class Pinner(Protocol):
    """Tells a device driver which memory will not move, so that it copies at full speed."""

    def pin(self, address: int, nbytes: int) -> None:
        """These bytes are staging memory from now on."""

    def unpin(self, address: int) -> None:
        """They are about to be given back."""


class Arena:
    """One stretch of staging memory that grows when it must and is never given back in between."""

    def __init__(self, *, pinner: Pinner | None = None) -> None:
        self._pinner = pinner
        self.bytes: Bytes1d = np.empty(0, np.uint8)
        """The memory, uint8, page-aligned."""

    def ensure(self, nbytes: int) -> None:
        """Have at least ``nbytes``, every page touched."""
        if len(self.bytes) >= nbytes:
            return
        self.close()  # give the old one back before asking for the new
        size = -(-nbytes // _HUGE_BYTES) * _HUGE_BYTES
        self.bytes = aligned_buffer(size, huge=True)
        self.bytes[::ALIGN_BYTES] = 0
        if self._pinner is not None:
            self._pinner.pin(int(self.bytes.ctypes.data), size)

    def close(self) -> None:
        """Give the memory back."""
        if self._pinner is not None and len(self.bytes):
            self._pinner.unpin(int(self.bytes.ctypes.data))
        self.bytes = np.empty(0, np.uint8)


class ArenaPool:
    """At most ``count`` arenas, so at most that many checkpoints staged and not yet on disk."""

    def __init__(self, count: int, *, pinner: Pinner | None = None) -> None:
        self._free = [Arena(pinner=pinner) for _ in range(count)]
        self._all = tuple(self._free)
        self._ready = threading.Condition()

    def acquire(self) -> tuple[Arena, float]:
        """An arena, and the seconds spent waiting until one was free."""
        start = time.perf_counter()
        with self._ready:
            while not self._free:
                self._ready.wait()
            return self._free.pop(), time.perf_counter() - start

    def release(self, arena: Arena) -> None:
        """Give an arena back."""
        with self._ready:
            self._free.append(arena)
            self._ready.notify()

    def reserve(self, nbytes: int) -> None:
        """Touch every arena that is free, up to ``nbytes`` each."""
        with self._ready:
            for arena in self._free:
                arena.ensure(nbytes)

    def close(self) -> None:
        """Give all memory back; nothing may be in flight."""
        for arena in self._all:
            arena.close()

    @property
    def nbytes(self) -> int:
        """Bytes held by all arenas."""
        return sum(len(a.bytes) for a in self._all)


def place_parts(parts: Sequence[Part]) -> tuple[list[int], int]:
    """Where each part goes in an arena, and the bytes needed in all.

    Large parts start on a page, so that they are written from where they lie; the others follow
    at 64-byte steps.
    """
    places = [0] * len(parts)
    at = 0
    large = [i for i, p in enumerate(parts) if p.nbytes >= LARGE_BYTES]
    small = [i for i, p in enumerate(parts) if p.nbytes < LARGE_BYTES]
    for indices, step in ((large, ALIGN_BYTES), (small, 64)):
        for i in indices:
            places[i] = at
            at += -(-parts[i].nbytes // step) * step
    return places, -(-at // ALIGN_BYTES) * ALIGN_BYTES


def rooms_for(parts: Sequence[Part], arena: Arena) -> list[Bytes1d]:
    """Memory of the arena for each part; a large one's goes on to the next page, for its end.

    Grows the arena where it must.
    """
    places, nbytes = place_parts(parts)
    arena.ensure(nbytes)
    return [
        arena.bytes[at : at + room_bytes(part.nbytes)]
        for part, at in zip(parts, places, strict=True)
    ]


def room_bytes(nbytes: int) -> int:
    """Memory that a part of this size takes: whole pages if it is large."""
    return -(-nbytes // ALIGN_BYTES) * ALIGN_BYTES if nbytes >= LARGE_BYTES else nbytes


class Lease:
    """An arena lent to whoever stages a state on his own, to be given back with a save.

    What is staged starts on a page of its own and ends on one, so that it is written from where it
    lies.
    """

    def __init__(self, pool: ArenaPool, nbytes: int) -> None:
        """Waits for a free arena. One that nobody ends is given back when nobody has it."""
        self.arena, self.waited_s = pool.acquire()
        self._back = weakref.finalize(self, pool.release, self.arena)
        self.arena.ensure(nbytes)
        self._used = 0
        self._ends: set[int] = set()
        self._hashes: dict[tuple[int, int], int] = {}

    def hashed(self, data: Bytes1d, hash_: int) -> None:
        """The XXH3-64 of a stretch of the lease, made when it was copied there."""
        self._hashes[int(data.ctypes.data), len(data)] = hash_

    def forget_hashes(self) -> None:
        """Believe none of them: what lies there may have been changed."""
        self._hashes.clear()

    def hash_of(self, data: Bytes1d) -> int | None:
        """What was said of just this stretch, if anything was."""
        return self._hashes.get((int(data.ctypes.data), len(data)))

    def end(self) -> tuple[Arena, float]:
        """Hand the arena to a save, which releases it; and the seconds until it was free."""
        self._back.detach()
        return self.arena, self.waited_s

    def give_back(self) -> None:
        """Release the arena, unless a save has it."""
        self._back()

    def take(self, nbytes: int) -> Bytes1d | None:
        """Memory for ``nbytes``; None when the arena is full."""
        start, end = self._used, self._used + nbytes
        if end > len(self.arena.bytes):
            return None
        self._used = -(-end // ALIGN_BYTES) * ALIGN_BYTES
        self._ends.add(end)
        return self.arena.bytes[start:end]

    def rooms_for(self, parts: Sequence[Part]) -> tuple[list[Bytes1d], list[int]]:
        """Memory for each part, and which of them have yet to be copied there.

        A part that lies in the lease is left where it is. If it is large it must start on a page,
        and end on one or where what was staged ends: the rest of its last page is overwritten. No
        byte serves two parts.
        """
        rooms: list[Bytes1d] = []
        left: list[int] = []
        taken: list[tuple[int, int]] = []
        for i, part in enumerate(parts):
            at = self._place(part)
            span = (0, 0) if at is None else (at, at + room_bytes(part.nbytes))
            if at is None or any(a < span[1] and span[0] < b for a, b in taken):
                rooms.append(aligned_buffer(room_bytes(part.nbytes)))
                left.append(i)
                continue
            taken.append(span)
            rooms.append(self.arena.bytes[span[0] : span[1]])
        return rooms, left

    def _place(self, part: Part) -> int | None:
        data = part.data
        if not isinstance(data, np.ndarray) or not data.flags.c_contiguous or not part.nbytes:
            return None
        at = int(data.ctypes.data) - int(self.arena.bytes.ctypes.data)
        end = at + part.nbytes
        if not at >= 0 or end > self._used:
            return None
        if part.nbytes < LARGE_BYTES:
            return at
        fits = at % ALIGN_BYTES == 0 and (end % ALIGN_BYTES == 0 or end in self._ends)
        return at if fits else None


@dataclass(slots=True)
class _Piece:
    """What one thread copies at a time: a strided part, or bytes of one chunk."""

    out: npt.NDArray[Any]
    data: npt.NDArray[Any]
    chunk: tuple[int, int] | None = None
    """Part, and number of the chunk in it; None for a strided part."""
    whole: bool = False
    """Whether it is all of that chunk, so that its hash is the chunk's."""


Staged = Callable[[int, int, int], None]
"""Part, number of the chunk in it, XXH3-64: told by the copying thread when all of it is there."""


def copy_parts(
    parts: Sequence[Part],
    rooms: Sequence[Bytes1d],
    pool: ThreadPoolExecutor | None,
    *,
    threads: int,
    chunk_bytes: int,
    staged: Staged,
    only: Sequence[int] | None = None,
) -> None:
    """Copy every part (or those of ``only``) into its room: all that training waits for.

    ``staged`` hears of the chunks that were hashed while they were copied. ``pool`` runs all but
    the caller's thread. Each takes the next piece when it is done with its last, so that a core
    that is busy elsewhere holds up one piece and not a share of the state.
    """
    pieces: list[_Piece] = []
    for i in range(len(parts)) if only is None else only:
        part = parts[i]
        out, data = rooms[i][: part.nbytes], part.data
        if not isinstance(data, np.ndarray):
            data.fill(out)
        elif data.flags.c_contiguous:
            pieces += _pieces(i, out, data.reshape(-1).view(np.uint8), chunk_bytes)
        else:
            pieces.append(_Piece(out.view(data.dtype).reshape(data.shape), data))
    _run_all(pieces, pool, threads, staged)


def copy_pairs(
    pairs: Sequence[tuple[Bytes1d, Bytes1d]],
    pool: ThreadPoolExecutor | None,
    *,
    threads: int,
    chunk_bytes: int,
    staged: Staged,
) -> None:
    """Copy bytes, from second to first, by all threads; ``staged`` hears as of parts."""
    pieces = [p for i, (out, data) in enumerate(pairs) for p in _pieces(i, out, data, chunk_bytes)]
    _run_all(pieces, pool, threads, staged)


def _run_all(
    pieces: list[_Piece], pool: ThreadPoolExecutor | None, threads: int, staged: Staged
) -> None:
    left = iter(pieces)  # the next of a list's iterator is one step under the GIL
    helpers: list[Future[None]] = []
    if pool is not None and sum(p.out.nbytes for p in pieces) >= _SERIAL_BYTES:
        helpers = [pool.submit(_run, left, staged) for _ in range(threads - 1)]
    try:
        _run(left, staged)
    finally:
        for future in helpers:
            future.result()


def _pieces(part: int, out: Bytes1d, data: Bytes1d, chunk_bytes: int) -> Iterator[_Piece]:
    step = min(chunk_bytes, _PIECE_BYTES)
    for first in range(0, len(out), chunk_bytes):
        end = min(first + chunk_bytes, len(out))
        for k in range(first, end, step):
            last = min(k + step, end)
            chunk, whole = (part, first // chunk_bytes), (k, last) == (first, end)
            yield _Piece(out[k:last], data[k:last], chunk, whole)


def _run(pieces: Iterator[_Piece], staged: Staged) -> None:
    for piece in pieces:
        if piece.chunk is None:
            np.copyto(piece.out, piece.data)
            continue
        hashed = copy_bytes(piece.out, piece.data)
        if hashed is not None and piece.whole:
            staged(*piece.chunk, hashed)
