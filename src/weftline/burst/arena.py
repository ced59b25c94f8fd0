"""Staging memory: page-aligned, touched before it is needed, used again by every save.

The copy of a state into an arena is all that training waits for. Memory is anonymous: private
with large pages where the kernel offers them, or shared, for a child that is forked later.
"""

from __future__ import annotations

import contextlib
import mmap
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from weftline.burst.copying import copy_array
from weftline.burst.files import ALIGN_BYTES
from weftline.burst.record import LARGE_BYTES
from weftline.burst.state import Bytes1d, Part

__all__ = ["Arena", "ArenaPool", "Pinner", "aligned_buffer", "copy_parts", "place_parts"]

_HUGE_BYTES: Final = 1 << 21
_PIECE_BYTES: Final = 16 << 20
"""Copies are cut in pieces of this size, so that several threads finish together."""
_BATCH_BYTES: Final = 64 << 20
"""So much is copied together, by all threads."""
_SERIAL_BYTES: Final = 8 << 20
"""Below this a second thread costs more than it saves."""


def aligned_buffer(nbytes: int, *, shared: bool = False, huge: bool = False) -> Bytes1d:
    """``nbytes`` of page-aligned zeros, uint8, 1-d; ``huge`` asks for large pages.

    Large pages pay for memory that is used again and again. Where a guest gives free memory back
    to its host, the first touch of one costs several times that of small pages.
    """
    if nbytes == 0:
        return np.empty(0, np.uint8)
    kind = mmap.MAP_SHARED if shared else mmap.MAP_PRIVATE
    block = mmap.mmap(-1, nbytes, flags=kind | mmap.MAP_ANONYMOUS)
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

    def __init__(self, *, shared: bool = False, pinner: Pinner | None = None) -> None:
        self._shared = shared
        self._pinner = pinner
        self.bytes: Bytes1d = np.empty(0, np.uint8)
        """The memory, uint8, page-aligned."""

    def ensure(self, nbytes: int) -> None:
        """Have at least ``nbytes``, every page touched."""
        if len(self.bytes) >= nbytes:
            return
        self.close()  # give the old one back before asking for the new
        size = -(-nbytes // _HUGE_BYTES) * _HUGE_BYTES
        self.bytes = aligned_buffer(size, shared=self._shared, huge=True)
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

    def __init__(self, count: int, *, shared: bool, pinner: Pinner | None = None) -> None:
        self._free = [Arena(shared=shared, pinner=pinner) for _ in range(count)]
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


Ready = tuple[int, int, int]
"""A part and the chunks of it, first and one past the last, that now stand in the arena."""


@dataclass(slots=True)
class _Batch:
    """Pieces that are copied together, by all threads."""

    copies: list[tuple[npt.NDArray[Any], npt.NDArray[Any]]] = field(default_factory=list)
    ready: list[Ready] = field(default_factory=list)
    nbytes: int = 0

    def add(self, out: npt.NDArray[Any], data: npt.NDArray[Any], ready: Ready) -> None:
        """One more piece."""
        self.copies.append((out, data))
        self.ready.append(ready)
        self.nbytes += out.nbytes


def copy_parts(
    parts: Sequence[Part],
    places: Sequence[int],
    arena: Arena,
    pool: ThreadPoolExecutor | None,
    *,
    threads: int,
    chunk_bytes: int,
) -> Iterator[list[Ready]]:
    """Copy every part to its place, and say after each batch what is there.

    The one thing that training waits for. ``pool`` takes all shares but one.
    """
    batch = _Batch()
    piece = max(1, _PIECE_BYTES // chunk_bytes) * chunk_bytes
    for i, (part, at) in enumerate(zip(parts, places, strict=True)):
        out = arena.bytes[at : at + part.nbytes]
        data = part.data
        chunks = -(-part.nbytes // chunk_bytes)
        if not isinstance(data, np.ndarray):
            data.fill(out)
            batch.ready.append((i, 0, chunks))
        elif not data.flags.c_contiguous:
            batch.add(out.view(data.dtype).reshape(data.shape), data, (i, 0, chunks))
        elif part.nbytes <= piece:
            batch.add(out, data.reshape(-1).view(np.uint8), (i, 0, chunks))
        else:
            flat = data.reshape(-1).view(np.uint8)
            for k in range(0, part.nbytes, piece):
                end = min(k + piece, part.nbytes)
                ready = (i, k // chunk_bytes, -(-end // chunk_bytes))
                batch.add(out[k:end], flat[k:end], ready)
                if batch.nbytes >= _BATCH_BYTES:
                    yield _finish(batch, pool, threads)
                    batch = _Batch()
        if batch.nbytes >= _BATCH_BYTES:
            yield _finish(batch, pool, threads)
            batch = _Batch()
    yield _finish(batch, pool, threads)


def _finish(batch: _Batch, pool: ThreadPoolExecutor | None, threads: int) -> list[Ready]:
    if pool is None or threads < 2 or batch.nbytes < _SERIAL_BYTES:
        _run(batch.copies)
        return batch.ready
    shares: list[list[tuple[npt.NDArray[Any], npt.NDArray[Any]]]] = [[] for _ in range(threads)]
    done = 0
    for copy in batch.copies:
        shares[min(threads - 1, done * threads // batch.nbytes)].append(copy)
        done += copy[0].nbytes
    waiting = [pool.submit(_run, share) for share in shares[1:]]
    try:
        _run(shares[0])
    finally:
        for future in waiting:
            future.result()
    return batch.ready


def _run(copies: Sequence[tuple[npt.NDArray[Any], npt.NDArray[Any]]]) -> None:
    for out, data in copies:
        copy_array(out, data)
