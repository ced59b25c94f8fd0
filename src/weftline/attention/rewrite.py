"""A batch rewritten so that any paged, variable-length, causal kernel computes sparse attention.

Such a kernel takes the rows where queries start, the tokens of each request, and a table of pages.
Each piece of queries becomes a virtual request of its own, whose table holds the pages it keeps,
its own page last. Keys carry their rotary position, so leaving pages out is all there is to it;
with all pages kept the result is that of full attention.

Where every key-value head chooses for itself, heads are folded into requests: the cache, laid out
head-major ([blocks, kv_heads, page, ...]), is read as blocks * kv_heads pages of one head.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from weftline.attention.pages import Kept, Pieces, cut, kept_pages, piece_length
from weftline.spec.attention import Rule

__all__ = ["Scorer", "VirtualRequests", "rewrite", "virtual_requests"]

Scorer = Callable[[Rule, Pieces], npt.ArrayLike]
"""Scores [pieces, heads, blocks] of the blocks of each piece's request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtualRequests:
    """What the kernel gets in place of the batch."""

    starts: npt.NDArray[np.int32]
    """[virtual + 1] rows where queries start; with folded heads, of queries laid out
    [kv_heads, rows, heads / kv_heads, dim]."""
    lengths: npt.NDArray[np.int32]
    """[virtual] keys, the causal edge at the last."""
    tables: npt.NDArray[np.int32]
    """[virtual, width] pages in the cache; 0 beyond what ``lengths`` reaches."""
    kv_heads: int
    """Key-value heads folded into requests; 1 where all heads share their pages."""

    def __len__(self) -> int:
        return len(self.lengths)


def rewrite(kept: Kept, pieces: Pieces, tables: npt.ArrayLike) -> VirtualRequests:
    """Virtual requests of ``pieces``, which cover every row of the batch in order.

    ``tables`` [requests, width] are the pages of each request in the cache.
    """
    table = np.asarray(tables, dtype=np.int64)
    heads, width = kept.heads, kept.pages.shape[2]
    at = np.minimum(kept.pages, table.shape[1] - 1)
    pages = table[pieces.request[:, None, None], at] * heads + np.arange(heads)[:, None]
    pages = np.where(np.arange(width) < kept.counts[:, :, None], pages, 0)
    inside = pieces.first + pieces.queries - pieces.own * pieces.page
    lengths = (kept.counts - 1) * pieces.page + inside[:, None]
    queries = np.tile(pieces.queries, heads)
    return VirtualRequests(
        starts=np.concatenate([[0], np.cumsum(queries)]).astype(np.int32),
        lengths=lengths.T.reshape(-1).astype(np.int32),
        tables=pages.transpose(1, 0, 2).reshape(-1, width).astype(np.int32),
        kv_heads=heads,
    )  # fmt: skip


def virtual_requests(
    prefill: Rule, decode: Rule, *, starts: npt.ArrayLike, lengths: npt.ArrayLike,
    tables: npt.ArrayLike, page: int, score: Scorer | None = None,
    decoding: npt.ArrayLike | None = None,
) -> VirtualRequests:  # fmt: skip
    """The batch under one layer's rules, prompts and decoding sequences mixed.

    ``decoding`` [requests] says which requests decode; those with one query, if it is not given.
    ``score`` is asked for the blocks of pieces under a rule that selects, a rule at a time.
    """
    rows = np.diff(np.asarray(starts, dtype=np.int64))
    steps = rows == 1 if decoding is None else np.asarray(decoding, dtype=bool)
    if prefill == decode:
        steps = np.zeros_like(steps)
    length = np.where(steps, piece_length(decode, page), piece_length(prefill, page))
    pieces = cut(starts, lengths, page=page, piece=length)
    late = steps[pieces.request]
    groups = [(rule, mark) for rule, mark in ((prefill, ~late), (decode, late)) if mark.any()]
    found = []
    for rule, mark in groups:
        own = pieces.take(mark)
        needed = rule.selects is not None and score is not None
        found.append((mark, kept_pages(rule, own, score(rule, own) if needed and score else None)))
    if len(found) == 1:
        return rewrite(found[0][1], pieces, tables)
    return rewrite(_merged(found, len(pieces)), pieces, tables)


def _merged(found: list[tuple[npt.NDArray[np.bool_], Kept]], pieces: int) -> Kept:
    """One :class:`Kept` of several, each of the pieces it marks; heads as those that choose."""
    heads = max((kept.heads for _, kept in found), default=1)
    width = max((kept.pages.shape[2] for _, kept in found), default=0)
    pages = np.zeros((pieces, heads, width), dtype=np.int64)
    counts = np.zeros((pieces, heads), dtype=np.int64)
    for mark, kept in found:
        pages[mark, :, : kept.pages.shape[2]] = kept.pages
        counts[mark] = kept.counts
    return Kept(pages=pages, counts=counts)
