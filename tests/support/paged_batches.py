"""Batches over a paged cache of random keys and values, pages of each request in random order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from weftline.attention.kernels.paged import Kernel, Kind

Mix = tuple[tuple[int, int], ...]
"""(queries, keys) of requests."""
Shape = tuple[int, int, int, int]
"""(heads, kv heads, dim, page)"""


@dataclass(frozen=True)
class PagedBatch:
    """A filled cache, queries [rows, heads, dim] of all requests, and plain loops over them."""

    plain: Kernel
    cache: Any
    query: Any
    starts: Any
    """[requests + 1]: where the rows of each begin."""
    lens: Any
    """[requests]: keys."""
    tables: Any
    """[requests, pages]: 0 beyond a request's own."""


def paged_batch(kind: Kind, shape: Shape, mix: Mix) -> PagedBatch:
    """One request an entry of ``mix``."""
    heads, kv, dim, page = shape
    draw = np.random.default_rng(dim)
    plain = Kernel(heads=heads, kv_heads=kv, dim=dim, page=page, kind=kind, compiled=False)
    counts = [-(-keys // page) for _, keys in mix]
    cache = plain.cache(sum(counts) + 1)
    pages = draw.permutation(np.arange(1, sum(counts) + 1))
    tables = np.zeros((len(mix), max(counts)), np.int32)
    at = 0
    for table, count, (_, keys) in zip(tables, counts, mix, strict=True):
        table[:count] = pages[at : at + count]
        at += count
        place = np.arange(keys)
        k, v = (draw.normal(size=(keys, kv, dim)).astype(np.float32) for _ in range(2))
        plain.write(k, v, cache, table[place // page].astype(np.int64) * page + place % page)
    starts = np.cumsum([0, *(queries for queries, _ in mix)]).astype(np.int32)
    lens = np.asarray([keys for _, keys in mix], np.int32)
    query = (1.5 * draw.normal(size=(starts[-1], heads, dim))).astype(np.float32)
    return PagedBatch(plain, cache, query, starts, lens, tables)
