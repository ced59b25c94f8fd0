"""Paged attention over NumPy arrays: the compiled kernels where they are, else numba's.

The layout of a cache is vLLM's on CPUs: ``[pages, kv heads, 2, page, dim]``, keys then values.
"""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np

from weftline.attention.kernels.build import library

__all__ = ["KINDS", "Kernel", "padded"]

Kind = Literal["fp32", "bf16", "int8"]
KINDS: Final[dict[str, tuple[int, type]]] = {
    "fp32": (0, np.float32),
    "bf16": (1, np.uint16),
    "int8": (2, np.int8),
}
"""What a cache may hold: the number the kernels know it by, and NumPy's type of one element."""

MEMORY_PAGE: Final = 4096

Array = np.ndarray[Any, Any]


def padded(dim: int) -> int:
    """The head size that caches and kernels use: whole vectors of 16."""
    return -(-dim // 16) * 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Kernel:
    """Writes and attends for one shape of heads. ``dim`` is a multiple of 16, so is ``page``."""

    heads: int
    kv_heads: int
    dim: int
    page: int
    kind: Kind = "fp32"
    compiled: bool = True
    """False takes numba's even where a compiler is."""

    def cache(self, pages: int) -> tuple[Array, Array | None]:
        """A layer's empty cache and, for int8, its scales."""
        shape = (pages, self.kv_heads, 2, self.page, self.dim)
        scales = _zeros(shape[:-1], np.float32) if self.kind == "int8" else None
        return _zeros(shape, KINDS[self.kind][1]), scales

    def write(self, key: Array, value: Array, to: tuple[Array, Array | None], slots: Array) -> None:
        """Put keys and values ``[tokens, kv heads, dim]`` into ``slots``: page x size + place."""
        tokens = len(slots)
        native = self._native()
        if native is None:
            from weftline.attention.kernels.fallback import write

            write(key, value, *to, slots)
            return
        native.weftline_write(
            _at(key), _at(value), _at(to[0]), _at(to[1]), _at(slots),
            tokens, self.kv_heads, self.page,
        )  # fmt: skip

    def attend(
        self,
        query: Array,
        cache: tuple[Array, Array | None],
        starts: Array,
        lens: Array,
        tables: Array,
        *,
        scale: float,
        window: int = 0,
        softcap: float = 0.0,
        sinks: Array | None = None,
    ) -> Array:
        """Attention of ``query`` ``[tokens, heads, dim]`` (fp32, contiguous) over paged keys.

        ``starts`` ``[requests + 1]``, ``lens`` ``[requests]`` and ``tables`` ``[requests, width]``
        are int32, as vLLM's query starts, sequence lengths and block table. ``window`` 0 is all
        keys; ``sinks`` are logits ``[heads]`` that take part in the softmax's sum alone.
        """
        out = np.empty_like(query)
        native = self._native()
        if native is None:
            from weftline.attention.kernels.fallback import attend

            no_sinks = np.full(self.heads, -1e30, np.float32)
            attend(query, out, *cache, starts, lens, tables, scale, window, softcap,
                   no_sinks if sinks is None else sinks)  # fmt: skip
            return out
        native.weftline_attend(
            _at(query), _at(out), _at(cache[0]), _at(cache[1]), _at(starts), _at(lens),
            _at(tables), _at(sinks), len(starts) - 1, self.heads, self.kv_heads, self.page,
            tables.shape[1], window,
            ctypes.c_float(scale), ctypes.c_float(softcap),
        )  # fmt: skip
        return out

    def keys(self, cache: tuple[Array, Array | None], pages: Array) -> Array:
        """fp32 keys ``[pages asked, kv heads, page, dim]``."""
        found = cache[0][pages, :, 0]
        if self.kind == "bf16":
            return (found.astype(np.uint32) << np.uint32(16)).view(np.float32)
        if cache[1] is None:
            return found
        return found * cache[1][pages, :, 0, :, None]

    def _native(self) -> ctypes.CDLL | None:
        if not self.compiled:
            return None
        return library("paged", (f"DIM={self.dim}", f"KV={KINDS[self.kind][0]}"))


def _zeros(shape: tuple[int, ...], kind: type) -> Array:
    """Zeros that begin with a page of memory: a row of 64 bytes is one line of a cache, not two."""
    size = math.prod(shape) * np.dtype(kind).itemsize
    room = np.zeros(size + MEMORY_PAGE, np.uint8)
    begin = -room.ctypes.data % MEMORY_PAGE
    return room[begin : begin + size].view(kind).reshape(shape)


def _at(array: Array | None) -> ctypes.c_void_p | None:
    """The address of an array's first element."""
    return None if array is None else ctypes.c_void_p(array.ctypes.data)
