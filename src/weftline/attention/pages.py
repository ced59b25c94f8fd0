"""Which pages of a paged cache the queries of a batch keep under a rule.

A paged server works on pieces: consecutive queries of one request inside one page. All queries of a
piece read the same pages, the piece's own page last, so that the causal edge stays where it is.
What a rule says by keys is rounded up to whole pages: a piece keeps every page with a key that one
of the queries between its page's (or choice's) edge and its last sees. Counting from the edge, a
query meets the same keys however its prompt was cut into chunks, and when it is decoded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from weftline.errors import InputError
from weftline.spec.attention import Rule
from weftline.spec.attention_counts import forced, reach, wanted

__all__ = ["Kept", "Pieces", "chosen_blocks", "cut", "kept_pages", "piece_length"]

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pieces:
    """Pieces of the queries of a batch, in the order of its rows; arrays of one length."""

    request: IntArray
    """Index of the request in the batch."""
    first: IntArray
    """Position of the first query in its request."""
    queries: IntArray
    row: IntArray
    """Row of the first query in the batch."""
    page: int
    """Tokens a page."""

    def __len__(self) -> int:
        return len(self.request)

    @property
    def own(self) -> IntArray:
        """The page (of the request) that the piece lies in."""
        return np.asarray(self.first // self.page)

    def take(self, which: npt.NDArray[np.bool_]) -> Pieces:
        """The pieces that ``which`` marks."""
        return Pieces(
            request=self.request[which], first=self.first[which], queries=self.queries[which],
            row=self.row[which], page=self.page,
        )  # fmt: skip


def piece_length(rule: Rule, page: int) -> int:
    """Queries a piece holds at most: what shares a choice, within one page."""
    chooser = rule.selects
    return math.gcd(chooser.piece, page) if chooser else page


def cut(
    starts: npt.ArrayLike, lengths: npt.ArrayLike, *, page: int,
    piece: int | npt.ArrayLike | None = None,
) -> Pieces:  # fmt: skip
    """Cut the queries of a batch at multiples of ``piece`` (a page if None).

    ``starts`` [requests + 1] are the rows where each request's queries begin, ``lengths``
    [requests] its tokens up to the last query. ``piece`` may differ by request.
    """
    begin = np.asarray(starts, dtype=np.int64)
    length = np.asarray(lengths, dtype=np.int64)[: len(begin) - 1]
    count = np.diff(begin)
    before = length - count
    step = np.broadcast_to(np.asarray(page if piece is None else piece, np.int64), count.shape)
    lowest, highest = before // step, (length - 1) // step
    number = np.where(count > 0, highest - lowest + 1, 0)
    request = np.repeat(np.arange(len(count)), number)
    within = np.arange(len(request)) - np.repeat(np.cumsum(number) - number, number)
    edge = (lowest[request] + within) * step[request]
    first = np.maximum(edge, before[request])
    last = np.minimum(edge + step[request], length[request])
    return Pieces(
        request=request, first=first, queries=last - first,
        row=begin[:-1][request] + first - before[request], page=page,
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """Pages that pieces keep, in ascending order, the own page last."""

    pages: IntArray
    """[pieces, heads, width] pages of the request; what is beyond ``counts`` means nothing."""
    counts: IntArray
    """[pieces, heads]"""

    @property
    def heads(self) -> int:
        """Key-value heads with a choice of their own; 1 where all share it."""
        return int(self.counts.shape[1])

    def of(self, piece: int, head: int = 0) -> list[int]:
        """The pages of one piece."""
        return [int(p) for p in self.pages[piece, head, : self.counts[piece, head]]]


def kept_pages(rule: Rule, pieces: Pieces, scores: npt.ArrayLike | None = None) -> Kept:
    """The pages that each piece keeps.

    ``scores`` [pieces, heads, blocks] rate the blocks of the piece's request where the rule
    selects; blocks after the piece's own are not looked at. Raises InputError where the rule cannot
    be served in pages of this size, or needs scores and has none.
    """
    own = pieces.own
    if rule.positional:
        front, low = reach(rule, own * pieces.page)
        front = np.minimum(-(-front // pieces.page), own + 1)
        low = np.maximum(low // pieces.page, front)
        counts = front + np.maximum(own + 1 - low, 0)
        # The own page is kept even where a front reaches over it.
        at = np.arange(int(counts.max(initial=0)))
        pages = np.where(at < front[:, None], at, low[:, None] + at - front[:, None])
        return Kept(pages=pages[:, None, :], counts=counts[:, None])
    chooser = rule.selects
    if chooser is None:
        raise InputError("merged entries are not pages of keys: only an engine for models trained "
                         "so can serve this rule")  # fmt: skip
    if chooser.block % pieces.page:
        raise InputError(
            f"blocks of {chooser.block} tokens are not whole pages of {pieces.page}",
            hint=f"`block` a multiple of {pieces.page}, or an engine with pages of {chooser.block}",
        )
    if scores is None:
        raise InputError("a rule that selects needs scores of the blocks")
    step = piece_length(rule, pieces.page)
    blocks = chosen_blocks(rule, pieces.first // step * step, np.asarray(scores, dtype=np.float64))
    wide = np.repeat(blocks, chooser.block // pieces.page, axis=2)
    at = np.arange(wide.shape[2])
    wide &= at <= own[:, None, None]
    counts = wide.sum(axis=2)
    order = np.argsort(~wide, axis=2, kind="stable")
    return Kept(pages=order[:, :, : int(counts.max(initial=0))], counts=counts)


def chosen_blocks(rule: Rule, first: npt.ArrayLike, scores: npt.NDArray[np.float64]) -> BoolArray:
    """[pieces, heads, blocks] whether a piece whose first query is at ``first`` keeps a block.

    Blocks that score equal are taken in order.
    """
    chooser = rule.selects
    if chooser is None:
        raise InputError("this rule selects no blocks")
    position = np.asarray(first, dtype=np.int64)
    own = position // chooser.block
    front, low = forced(rule, position)
    block = np.arange(scores.shape[2])
    visible = block <= own[:, None]
    sure = ((block < front[:, None]) | (block >= low[:, None])) & visible
    places = wanted(chooser, own + 1, sure.sum(axis=1))
    rated = np.where(sure[:, None, :], np.inf, scores)
    rated = np.where(visible[:, None, :], rated, -np.inf)
    order = np.argsort(-rated, axis=2, kind="stable")
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.broadcast_to(block, order.shape), axis=2)
    return np.asarray((rank < places[:, None, None]) & visible[:, None, :])
