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

from weftline.burst.stage.kernel import Kernel, compile_kernel
from weftline.burst.stage.state import Bytes1d

__all__ = ["copy_bytes", "make_ready"]

_LEAST_BYTES: Final = 1 << 20
"""Below this a copy may still be in the cache when it is read."""
_ALIGN_BYTES: Final = 64
"""One cache line: what a streaming store fills at once."""

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
