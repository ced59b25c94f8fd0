"""What a rule costs: entries attended to, what finding them costs, and what a paged server adds.

Counts are per query and exact; a planner multiplies them by heads, widths and bytes.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from weftline.attention.pages import cut, kept_pages, piece_length
from weftline.spec.attention import DENSE, Rule
from weftline.spec.attention_counts import mean_seen, reach, seen

__all__ = ["density", "index_bytes", "index_flops", "paged_density", "paged_seen"]

FloatArray = npt.NDArray[np.float64]
Number = npt.ArrayLike
SUMMARY_BYTES = 4.0
"""Of one value of a block's summary: engines keep them in fp32."""


def density(rule: Rule, tokens: Number, context: Number = 0.0) -> FloatArray:
    """Entries seen over those of full attention, of ``tokens`` queries after ``context`` others."""
    return np.asarray(mean_seen(rule, tokens, context) / mean_seen(DENSE, tokens, context))


def paged_seen(rule: Rule, position: Number, page: int) -> FloatArray:
    """Keys that the query at ``position`` meets where pieces keep whole pages."""
    at = np.asarray(position, dtype=np.int64)
    if not rule.positional:
        return seen(rule, at)
    front, low = reach(rule, at // page * page)
    own = at // page
    front = np.minimum(-(-front // page), own)
    counts = front + own + 1 - np.maximum(low // page, front)
    return np.asarray((counts - 1) * page + at % page + 1, dtype=np.float64)


@lru_cache(maxsize=32)
def _paged_sums(rule: Rule, page: int, queries: int) -> FloatArray:
    return np.concatenate([[0.0], np.cumsum(paged_seen(rule, np.arange(queries), page))])


def paged_density(rule: Rule, tokens: int, context: int = 0, *, page: int) -> float:
    """As :func:`density`, where pieces keep whole pages: what a paged kernel really works on.

    Decoding (one query) reads the pages of one position; a prompt those of its pieces.
    """
    if tokens == 1:
        seen = float(_one_seen(rule, context, page))
    else:
        sums = _paged_sums(rule, page, 1 << (tokens + context).bit_length())
        seen = float(sums[context + tokens] - sums[context]) / tokens
    return seen / float(mean_seen(DENSE, float(tokens), float(context)))


def _one_seen(rule: Rule, position: int, page: int) -> float:
    """Keys a lone query meets: its piece begins at itself, so less of a window is kept."""
    if not rule.positional:
        return float(seen(rule, position))
    piece = cut([0, 1], [position + 1], page=page, piece=piece_length(rule, page))
    kept = kept_pages(rule, piece)
    return float((kept.counts[0, 0] - 1) * page + position % page + 1)


def index_flops(
    rule: Rule, tokens: Number, context: Number = 0.0, *, kv_heads: int, dim: int
) -> FloatArray:
    """FLOP of scoring blocks for ``tokens`` queries after ``context`` others, all heads.

    Summaries are scored once a piece and head: queries are summed first (the bounds are linear in
    their positive and negative parts). An indexer that the policy brings scores every key.
    """
    chooser = rule.selects
    new = np.asarray(tokens, dtype=np.float64)
    if chooser is None:
        return np.zeros_like(new)
    reach = np.asarray(context, dtype=np.float64) + (new + 1.0) / 2.0
    if chooser.score == "indexer":
        return np.asarray(2.0 * new * reach * chooser.heads * chooser.dim)
    vectors = 2.0 if chooser.score == "minmax" else 1.0
    pieces = np.maximum(new / chooser.piece, 1.0)
    blocks = reach / chooser.block
    return np.asarray(2.0 * pieces * blocks * vectors * kv_heads * dim)


def index_bytes(
    rule: Rule, tokens: Number, context: Number = 0.0, *, kv_heads: int, dim: int,
    value_bytes: float = 2.0,
) -> FloatArray:  # fmt: skip
    """Bytes of summaries (or of an indexer's keys, ``value_bytes`` each) read once for that."""
    chooser = rule.selects
    reach = np.asarray(context, dtype=np.float64) + np.asarray(tokens, dtype=np.float64)
    if chooser is None:
        return np.zeros_like(reach)
    if chooser.score == "indexer":
        return np.asarray(reach * chooser.dim * value_bytes)
    vectors = 2.0 if chooser.score == "minmax" else 1.0
    return np.asarray(reach / chooser.block * vectors * kv_heads * dim * SUMMARY_BYTES)
