"""What is kept of each page's keys for rules that choose: minima and maxima, or means.

A page's summary belongs to the page itself, so a page found by the prefix cache keeps its own.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from weftline.attention import Pieces
from weftline.attention.kernels.paged import Kernel
from weftline.attention.rewrite import Scorer
from weftline.errors import InputError
from weftline.spec.attention import Rule

__all__ = ["Summaries"]

Array = np.ndarray[Any, Any]
_FAR = np.float32(1e30)


class Summaries:
    """Of one layer's pages, by kv head."""

    def __init__(self, kernel: Kernel, pages: int) -> None:
        shape = (pages, kernel.kv_heads, kernel.dim)
        self._kernel = kernel
        self._low, self._high = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        self._mean = np.zeros(shape, np.float32)

    def refresh(
        self, cache: tuple[Array, Array | None], tables: Array, starts: Array, lengths: Array
    ) -> None:
        """Take the pages anew that a step's rows lie in."""
        size = self._kernel.page
        pages, counts = [], []
        for r, length in enumerate(lengths):
            first = (int(length) - int(starts[r + 1] - starts[r])) // size
            for slot in range(first, -(-int(length) // size)):
                pages.append(tables[r, slot])
                counts.append(min(size, int(length) - slot * size))
        keys = self._kernel.keys(cache, np.asarray(pages))
        inside = (np.arange(size) < np.asarray(counts)[:, None])[:, None, :, None]
        self._low[pages] = np.where(inside, keys, _FAR).min(axis=2)
        self._high[pages] = np.where(inside, keys, -_FAR).max(axis=2)
        sums = np.where(inside, keys, 0).sum(axis=2)
        self._mean[pages] = sums / np.asarray(counts, np.float32)[:, None, None]

    def scorer(self, query: Array, tables: Array) -> Scorer:
        """Scores of blocks for the queries [rows, heads, dim] of a step."""

        def score(rule: Rule, pieces: Pieces) -> Array:
            chooser = rule.selects
            assert chooser is not None  # noqa: S101  (only such rules ask)
            if chooser.score == "indexer":
                raise InputError("a choice by an indexer needs the model's own trained one",
                                 hint="score=minmax or score=mean")  # fmt: skip
            per = chooser.block // self._kernel.page
            blocks = -(-tables.shape[1] // per)
            scores = np.full((len(pieces), self._kernel.kv_heads, blocks), -np.inf)
            for i in range(len(pieces)):
                row, many = int(pieces.row[i]), int(pieces.queries[i])
                table = tables[pieces.request[i], : int(pieces.own[i]) + 1]
                scores[i, :, : -(-len(table) // per)] = self._rate(
                    query[row : row + many], table, per, mean=chooser.score == "mean"
                )
            shared = chooser.share == "layer"
            return np.asarray(scores.sum(axis=1, keepdims=True) if shared else scores)

        return score

    def _rate(self, query: Array, table: Array, per: int, *, mean: bool) -> Array:
        """[kv heads, blocks] of one piece's queries: the sum of their bounds, or of their means."""
        kv, dim = self._kernel.kv_heads, self._kernel.dim
        q = query.reshape(len(query), kv, -1, dim)
        at = np.arange(0, len(table), per)
        if mean:
            total = q.sum(axis=(0, 2))
            found = np.einsum("kd,pkd->kp", total, self._mean[table])
            return np.asarray(np.add.reduceat(found, at, axis=1) / per)
        low = np.minimum.reduceat(self._low[table], at, axis=0)
        high = np.maximum.reduceat(self._high[table], at, axis=0)
        up, down = np.maximum(q, 0).sum(axis=(0, 2)), np.minimum(q, 0).sum(axis=(0, 2))
        rated = np.einsum("kd,pkd->kp", up, high) + np.einsum("kd,pkd->kp", down, low)
        return np.asarray(rated)
