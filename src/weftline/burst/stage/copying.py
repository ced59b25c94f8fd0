"""Copies of staging: past the cache where that pays, hashed on the way.

A staged state is far larger than a cache and read next by the disk. Plain stores first fetch the
line they overwrite and push out what training works on; streaming stores do neither. The C
library's own copy switches to them only beyond hundreds of megabytes on large servers. And the
checksum of a record, made later, would read the whole state from memory once more, beside training.
"""

from __future__ import annotations

import threading
from typing import Final

import numpy as np
import xxhash

from weftline.burst.stage.kernel import BLOCK_BYTES, Kernel, compile_kernel
from weftline.burst.stage.state import Bytes1d

__all__ = ["PIECE_BYTES", "Landing", "copy_bytes", "make_ready"]

_LEAST_BYTES: Final = 1 << 20
"""Below this a copy may still be in the cache when it is read."""
_ALIGN_BYTES: Final = 64
"""One cache line: what a streaming store fills at once."""

PIECE_BYTES: Final = 512 * BLOCK_BYTES
"""What comes from a socket at once: it is still in a core's own cache when it is copied on."""

_lock = threading.Lock()
_kernel: Kernel | None = None
_tried = False


def make_ready() -> bool:
    """Compile the kernel, once a process; False when it cannot be had here."""
    global _kernel, _tried
    with _lock:
        if not _tried:
            _kernel, _tried = compile_kernel(), True
    return _kernel is not None


def copy_bytes(out: Bytes1d, data: Bytes1d) -> int | None:
    """Copy ``data`` into ``out`` of the same length, both contiguous; no GIL is held.

    Returns XXH3-64 of what now stands in ``out`` if it was made on the way: for 1 MiB or more into
    memory aligned to 64 bytes, once :func:`make_ready` was called.
    """
    kernel, start = _kernel, out.ctypes.data
    if kernel is None or out.nbytes < _LEAST_BYTES or start % _ALIGN_BYTES:
        np.copyto(out, data)
        return None
    return kernel(start, data.ctypes.data, out.nbytes)


class Landing:
    """Memory that data arrives in piece by piece, hashed on the way.

    A socket's data is copied out of the kernel in any case. Large pieces come into a small buffer
    that stays in the cache, and go on to where they belong in the pass that hashes them.
    """

    def __init__(self, out: Bytes1d, scratch: Bytes1d) -> None:
        """``out``: contiguous; ``scratch``: ``PIECE_BYTES``, the same for landing after landing.

        Only then does it stay in the cache.
        """
        self.digest = xxhash.xxh3_64_intdigest(b"")
        """XXH3-64 of ``out`` once all of it is there."""
        self._out = out
        self._at = self._next = 0
        large = out.nbytes >= _LEAST_BYTES and out.ctypes.data % _ALIGN_BYTES == 0
        self._kernel = _kernel if large and make_ready() else None
        if self._kernel is None:
            self._seen = xxhash.xxh3_64()
            return
        self._room = scratch
        self._state = np.empty(8, np.uint64)

    def room(self) -> memoryview:
        """Where the next bytes belong, all of which must come; empty after the last."""
        self._next = min(self._at + PIECE_BYTES, self._out.nbytes)
        if self._kernel is None:
            return memoryview(self._out)[self._at : self._next]
        return memoryview(self._room)[: self._next - self._at]

    def landed(self) -> None:
        """The room that was given last is full."""
        if self._kernel is None:
            self._seen.update(self._out[self._at : self._next])
            if self._next == self._out.nbytes:
                self.digest = self._seen.intdigest()
        else:
            self.digest = self._kernel.piece(
                self._out.ctypes.data, self._room.ctypes.data, self._at, self._next,
                self._out.nbytes, self._state.ctypes.data,
            )  # fmt: skip
        self._at = self._next
