"""Paged attention in numba, for machines without a compiler: the same results, only slower."""

from __future__ import annotations

from typing import Any

import numpy as np

from weftline._compiled import compiled, inlined

__all__ = ["attend", "write"]

Array = np.ndarray[Any, Any]


def write(key: Array, value: Array, cache: Array, scales: Array | None, slots: Array) -> None:
    """Keys and values ``[tokens, kv heads, dim]`` into their slots; int8 and bf16 are rounded."""
    page = cache.shape[3]
    block, place = slots // page, slots % page
    for side, x in ((0, key), (1, value)):
        if scales is not None:
            top = np.abs(x).max(-1)
            scales[block, :, side, place] = top / np.float32(127)
            with np.errstate(divide="ignore", invalid="ignore"):
                kept = np.where(top[..., None] > 0, np.rint(x * (127 / top[..., None])), 0)
            cache[block, :, side, place] = kept.astype(np.int8)
        elif cache.dtype == np.uint16:
            bits = np.ascontiguousarray(x).view(np.uint32)
            rounded = (bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) >> 16
            cache[block, :, side, place] = rounded.astype(np.uint16)
        else:
            cache[block, :, side, place] = x


def attend(
    query: Array, out: Array, cache: Array, scales: Array | None, starts: Array, lens: Array,
    tables: Array, scale: float, window: int, softcap: float, sinks: Array,
) -> None:  # fmt: skip
    """As ``Kernel.attend``, into ``out``."""
    none = np.zeros((0, 0, 0, 0), np.float32)
    args: Any = (starts, lens, tables, np.float32(scale), window, np.float32(softcap), sinks)
    if cache.dtype == np.uint16:
        _attend(query, out, cache, none, *args, _wide_bf16)
    elif scales is not None:
        _attend(query, out, cache, scales, *args, _wide_int8)
    else:
        _attend(query, out, cache, none, *args, _wide_fp32)


@inlined
def _wide_fp32(row: Array, _scale: float, to: Array) -> None:
    for d in range(row.shape[0]):
        to[d] = row[d]


@inlined
def _wide_int8(row: Array, scale: float, to: Array) -> None:
    for d in range(row.shape[0]):
        to[d] = np.float32(row[d]) * scale


@inlined
def _wide_bf16(row: Array, _scale: float, to: Array) -> None:
    bits = to.view(np.uint32)
    for d in range(row.shape[0]):
        bits[d] = np.uint32(row[d]) << np.uint32(16)


@inlined
def _scale_at(scales: Array, block: int, head: int, side: int, place: int) -> Any:
    return scales[block, head, side, place] if scales.size else np.float32(1)


def _attend_plain(
    query: Array, out: Array, cache: Array, scales: Array, starts: Array, lens: Array,
    tables: Array, scale: float, window: int, softcap: float, sinks: Array,
    wide: Any,
) -> None:  # fmt: skip
    heads, dim = query.shape[1], query.shape[2]
    kv, page = cache.shape[1], cache.shape[3]
    group = heads // kv
    keys, values = np.empty((page, dim), np.float32), np.empty((page, dim), np.float32)
    score = np.empty(page, np.float32)
    for r in range(len(starts) - 1):
        first, count = starts[r], starts[r + 1] - starts[r]
        for h in range(kv):
            before = lens[r] - count
            rows = count * group
            peak = np.empty(rows, np.float32)
            total = np.empty(rows, np.float32)
            acc = np.zeros((rows, dim), np.float32)
            for i in range(rows):
                peak[i] = sinks[h * group + i % group]
                total[i] = 1.0 if peak[i] > -1e29 else 0.0
            low = max(0, before - window + 1) if window > 0 else 0
            for slot in range(low // page, (lens[r] + page - 1) // page):
                base = slot * page
                n = min(page, lens[r] - base)
                block = tables[r, slot]
                for t in range(n):
                    wide(cache[block, h, 0, t], _scale_at(scales, block, h, 0, t), keys[t])
                    wide(cache[block, h, 1, t], _scale_at(scales, block, h, 1, t), values[t])
                for i in range(rows):
                    here = before + i // group
                    begin = max(0, here - window + 1 - base) if window > 0 else 0
                    end = min(n, here + 1 - base)
                    if end <= begin:
                        continue
                    q = query[first + i // group, h * group + i % group]
                    top = peak[i]
                    for t in range(begin, end):
                        x = np.float32(0)
                        for d in range(dim):
                            x += keys[t, d] * q[d]
                        x *= scale
                        if softcap > 0:
                            x = softcap * np.tanh(x / softcap)
                        score[t] = x
                        top = max(top, x)
                    factor = np.exp(peak[i] - top)
                    peak[i] = top
                    total[i] *= factor
                    for d in range(dim):
                        acc[i, d] *= factor
                    for t in range(begin, end):
                        w = np.exp(score[t] - top)
                        total[i] += w
                        for d in range(dim):
                            acc[i, d] += w * values[t, d]
            for i in range(rows):
                share = np.float32(1) / total[i] if total[i] > 0 else np.float32(0)
                for d in range(dim):
                    out[first + i // group, h * group + i % group, d] = acc[i, d] * share


_attend: Any = compiled(_attend_plain, fastmath={"reassoc", "contract", "nsz"}, nogil=True)
