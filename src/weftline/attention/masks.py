"""Masks of a rule: element by element, as FlexAttention's ``mask_mod``, and by blocks.

Nothing here imports torch: a ``mask_mod`` is made of comparisons that work on tensors and arrays.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from weftline.attention.pages import chosen_blocks
from weftline.errors import InputError
from weftline.spec.attention import Chunk, Dense, Rule, Union, Window
from weftline.spec.attention_counts import reach

__all__ = ["BlockMask", "MaskMod", "block_mask", "choices", "mask", "mask_mod"]

MaskMod = Callable[[Any, Any, Any, Any], Any]
"""(batch, head, query, key) -> whether the query sees the key."""
BoolArray = npt.NDArray[np.bool_]
Int32Array = npt.NDArray[np.int32]


def choices(rule: Rule, scores: npt.NDArray[np.float64]) -> BoolArray:
    """[heads, pieces, blocks] what a selecting rule keeps over a whole sequence.

    ``scores`` is [heads, pieces, blocks], pieces of :attr:`TopK.piece` queries from position 0.
    """
    chooser = rule.selects
    if chooser is None:
        raise InputError("this rule selects no blocks")
    first = np.arange(scores.shape[1]) * chooser.piece
    return chosen_blocks(rule, first, scores.transpose(1, 0, 2)).transpose(1, 0, 2)


def mask(rule: Rule, tokens: int, scores: npt.NDArray[np.float64] | None = None) -> BoolArray:
    """[heads, tokens, tokens] whether a query (row) sees a key; one head where all agree."""
    at = np.arange(tokens)
    chosen = None if rule.selects is None or scores is None else choices(rule, scores)
    heads = 1 if chosen is None else len(chosen)
    seen = mask_mod(rule, chosen)(0, np.arange(heads)[:, None, None], at[:, None], at[None, :])
    return np.broadcast_to(np.asarray(seen), (heads, tokens, tokens))


def mask_mod(rule: Rule, chosen: Any = None, group: int = 1) -> MaskMod:
    """The rule as FlexAttention asks for it.

    ``chosen`` [heads, pieces, blocks] is what :func:`choices` says, as a tensor of booleans, where
    the rule selects; ``group`` query heads share each of its heads.
    """
    chooser = rule.selects
    if chooser is not None:
        if chosen is None:
            raise InputError("a rule that selects needs the blocks that were chosen")
        piece, block = chooser.piece, chooser.block
        return lambda _b, h, q, k: chosen[h // group, q // piece, k // block] & (k <= q)
    if isinstance(rule, Union):
        parts = [mask_mod(each) for each in rule.rules]
        return lambda b, h, q, k: _any([part(b, h, q, k) for part in parts])
    match rule:
        case Dense():
            return lambda _b, _h, q, k: k <= q
        case Window():
            return lambda _b, _h, q, k: (k <= q) & ((q - k < rule.tokens) | (k < rule.sinks))
        case Chunk():
            return lambda _b, _h, q, k: (k <= q) & (k // rule.tokens == q // rule.tokens)
        case _:
            raise InputError("merged entries are not keys: no mask over keys says what is seen")


def _any(parts: list[Any]) -> Any:
    found = parts[0]
    for part in parts[1:]:
        found = found | part
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockMask:
    """Blocks of keys each block of queries looks at, as FlexAttention's ``from_kv_blocks`` takes.

    Arrays are [1, heads, query blocks] and [1, heads, query blocks, key blocks]; indices beyond a
    count mean nothing. Partial blocks are masked element by element, full ones are not.
    """

    partial_counts: Int32Array
    partial: Int32Array
    full_counts: Int32Array
    full: Int32Array
    block: int


def block_mask(
    rule: Rule, tokens: int, block: int = 128, chosen: BoolArray | None = None
) -> BlockMask:
    """Which blocks of keys are seen whole, in part, or not at all by each block of queries."""
    if rule.positional:
        seen, whole = _edges(rule, tokens, block)
    else:
        if chosen is None:
            raise InputError("a rule that selects needs the blocks that were chosen")
        seen, whole = _reduced(rule, tokens, block, chosen)
    part = seen & ~whole

    def listed(which: BoolArray) -> tuple[Int32Array, Int32Array]:
        order = np.argsort(~which, axis=2, kind="stable")
        return which.sum(axis=2, dtype=np.int32)[None], order.astype(np.int32)[None]

    (partial_counts, partial), (full_counts, full) = listed(part), listed(whole)
    return BlockMask(partial_counts=partial_counts, partial=partial, full_counts=full_counts,
                     full=full, block=block)  # fmt: skip


def _edges(rule: Rule, tokens: int, block: int) -> tuple[BoolArray, BoolArray]:
    """(seen at all, seen whole) of a rule that positions decide, from its edges alone."""
    count = -(-tokens // block)
    first = np.arange(count) * block
    last = np.minimum(first + block, tokens) - 1
    front, low = reach(rule, np.arange(tokens))
    lowest = np.minimum.reduceat(low, first)[:, None]
    highest = np.maximum.reduceat(low, first)[:, None]
    least = np.minimum.reduceat(front, first)[:, None]
    most = np.maximum.reduceat(front, first)[:, None]
    begin, end = first[None, :], last[None, :]
    causal = begin <= last[:, None]
    seen = causal & ((begin < most) | (end >= lowest))
    # Whole for every query: all its keys lie before the first query and inside front or reach.
    whole = (end <= first[:, None]) & ((end < least) | (begin >= highest) | (highest <= least))
    return seen[None], (whole & seen)[None]


def _reduced(rule: Rule, tokens: int, block: int, chosen: BoolArray) -> tuple[BoolArray, BoolArray]:
    """The same of a rule that selects, from its mask."""
    at = np.arange(tokens)
    every = np.arange(len(chosen))[:, None, None]
    mask_ = np.asarray(mask_mod(rule, chosen)(0, every, at[:, None], at[None, :]))
    edges = np.arange(0, tokens, block)
    seen = np.logical_or.reduceat(np.logical_or.reduceat(mask_, edges, axis=1), edges, axis=2)
    whole = np.logical_and.reduceat(np.logical_and.reduceat(mask_, edges, axis=1), edges, axis=2)
    return seen, whole
