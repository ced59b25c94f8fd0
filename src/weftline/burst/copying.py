"""Copies of staging, past the cache where that pays.

A staged state is far larger than a cache and read next by the disk. Plain stores first fetch the
line they overwrite and push out what training works on; streaming stores do neither. The C
library's own copy switches to them only beyond hundreds of megabytes on large servers.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import numpy.typing as npt

__all__ = ["copy_array", "make_ready"]

_LEAST_BYTES: Final = 1 << 20
"""Below this a copy may still be in the cache when it is read."""
_ALIGN_BYTES: Final = 64
_lock = threading.Lock()
_stream: Callable[[int, int, int], None] | None = None
_tried = False


def make_ready() -> bool:
    """Load the compiled copy, once: about half a second; False when it cannot be had here."""
    global _stream, _tried  # noqa: PLW0603  (one per process, as the code that it loads)
    with _lock:
        if not _tried:
            _tried = True
            try:
                from weftline.burst._stream_kernel import stream_blocks
            except ImportError:  # a platform without the compiler: copies stay plain
                return False
            _stream = stream_blocks
    return _stream is not None


def copy_array(out: npt.NDArray[Any], data: npt.NDArray[Any]) -> None:
    """Copy ``data`` into ``out`` of the same shape and dtype; no GIL is held.

    Large contiguous copies into aligned memory stream once :func:`make_ready` was called.
    """
    stream = _stream
    start = out.ctypes.data
    if (
        stream is None
        or out.nbytes < _LEAST_BYTES
        or start % _ALIGN_BYTES
        or not (out.flags.c_contiguous and data.flags.c_contiguous)
    ):
        np.copyto(out, data)
        return
    whole = out.nbytes // _ALIGN_BYTES
    stream(start, data.ctypes.data, whole)
    done = whole * _ALIGN_BYTES
    if done < out.nbytes:
        np.copyto(out.reshape(-1).view(np.uint8)[done:], data.reshape(-1).view(np.uint8)[done:])
