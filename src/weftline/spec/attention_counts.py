"""How many entries queries see under a rule: exact counts, on arrays of positions.

Apart from the rules themselves, so that loading a model needs no NumPy.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from weftline.errors import InputError
from weftline.spec.attention import Chunk, Compress, Dense, Rule, TopK, Union, Window

__all__ = ["forced", "held", "mean_seen", "reach", "seen", "total", "wanted"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
_ROUNDING: Final = 1e-9


def reach(rule: Rule, position: npt.ArrayLike) -> tuple[IntArray, IntArray]:
    """(front, low): keys below ``front``, or from ``low`` to the query, are seen.

    Of the rules that positions decide; of a union, the widest of those in it, or the query alone.
    """
    at = np.asarray(position, dtype=np.int64)
    zero = np.zeros_like(at)
    match rule:
        case Dense():
            return zero, zero
        case Window():
            return np.full_like(at, rule.sinks), np.maximum(at - rule.tokens + 1, 0)
        case Chunk():
            return zero, at // rule.tokens * rule.tokens
        case Union():
            front, low = zero, at
            for each in rule.rules:
                if each.positional:
                    its_front, its_low = reach(each, at)
                    front, low = np.maximum(front, its_front), np.minimum(low, its_low)
            return front, low
        case _:
            raise InputError("positions alone do not say what this rule sees")


def seen(rule: Rule, position: npt.ArrayLike) -> FloatArray:
    """Entries that the query at ``position`` sees, itself among them."""
    at = np.asarray(position, dtype=np.int64)
    chooser = rule.selects
    if isinstance(rule, Compress):
        c = np.asarray(position, dtype=np.float64) + 1.0
        entries = np.floor(c / rule.tokens)
        entries = entries if rule.topk is None else np.minimum(entries, rule.topk)
        return np.asarray(entries + np.minimum(c, rule.local))
    if chooser is None:
        front, low = reach(rule, at)
        return np.asarray(at + 1 - np.maximum(low - front, 0), dtype=np.float64)
    own = at // chooser.block
    kept = wanted(chooser, own + 1, 0)
    if isinstance(rule, Union):
        front, low = forced(rule, at)
        kept = wanted(chooser, own + 1, own + 1 - np.maximum(low - front, 0))
    return np.asarray((kept - 1) * chooser.block + at % chooser.block + 1, dtype=np.float64)


def wanted(rule: TopK, blocks: npt.ArrayLike, kept_anyway: npt.ArrayLike) -> IntArray:
    """Blocks kept of ``blocks`` up to the query's own, where ``kept_anyway`` are whatever happens.

    Blocks that another rule of a union forces take no places of this rule's.
    """
    n = np.asarray(blocks, dtype=np.int64)
    own = np.minimum(n, rule.first + rule.recent)
    if rule.count is not None:
        asked = np.full_like(n, rule.count)
    else:
        asked = np.ceil((rule.fraction or 0.0) * n - _ROUNDING).astype(np.int64)
    picked = np.maximum(np.maximum(asked, rule.floor) - own, 0)
    return np.asarray(np.minimum(n, np.maximum(kept_anyway, own) + picked))


def forced(rule: Rule, position: npt.ArrayLike) -> tuple[IntArray, IntArray]:
    """(front, low) in blocks that the query's piece keeps whatever scores say."""
    chooser = rule.selects
    if chooser is None:
        raise InputError("this rule selects no blocks")
    start = np.asarray(position, dtype=np.int64) // chooser.piece * chooser.piece
    own = start // chooser.block
    front, low = np.zeros_like(own), start
    if isinstance(rule, Union):
        front, low = reach(rule, start)
    front = np.maximum(-(-front // chooser.block), chooser.first)
    low = np.minimum(low // chooser.block, own - chooser.recent + 1)
    return np.minimum(front, own + 1), np.clip(low, 0, own)


def total(rule: Rule, queries: npt.ArrayLike) -> FloatArray:
    """Entries that the first ``queries`` queries of a sequence see in sum."""
    n = np.maximum(np.asarray(queries, np.float64), 0.0)
    match rule:
        case Window():
            return _triangle(n, float(rule.tokens + rule.sinks))
        case Chunk():
            whole = np.floor(n / rule.tokens)
            one = rule.tokens * (rule.tokens + 1.0) / 2.0
            return np.asarray(whole * one + _triangle(n - whole * rule.tokens))
        case TopK():
            return _topk_total(rule, n)
        case Compress():
            return _merged_total(rule, n)
        case Union():
            # Query by query, linear between whole ones.
            sums = _seen_sums(rule, 1 << int(np.max(n, initial=1)).bit_length())
            return np.asarray(np.interp(n, np.arange(len(sums)), sums))
        case _:
            return _triangle(n)


def mean_seen(rule: Rule, tokens: npt.ArrayLike, context: npt.ArrayLike = 0.0) -> FloatArray:
    """Entries a query sees, mean over ``tokens`` queries after ``context`` others."""
    new, before = np.asarray(tokens, np.float64), np.asarray(context, np.float64)
    return np.asarray((total(rule, before + new) - total(rule, before)) / new)


def held(rule: Rule, context: npt.ArrayLike) -> FloatArray:
    """Entries that queries after ``context`` tokens may still see: what a cache must keep."""
    c = np.asarray(context, dtype=np.float64)
    match rule:
        case Window():
            return np.asarray(np.minimum(c, float(rule.tokens + rule.sinks)))
        case Chunk():
            return np.asarray(np.minimum(c, float(rule.tokens)))
        case Compress():
            return np.asarray(c / rule.tokens + np.minimum(c, rule.local))
        case Union() if rule.selects is None:
            # Windows and chunks end at the query: the longest holds the others, sinks come on top.
            lengths = [getattr(each, "tokens", np.inf) for each in rule.rules]
            sinks = max(getattr(each, "sinks", 0) for each in rule.rules)
            return np.asarray(np.minimum(c, float(max(lengths)) + sinks))
        case _:
            return c


def _triangle(queries: FloatArray, cap: float | None = None) -> FloatArray:
    """Sum of min(c, cap) over c = 1 .. queries."""
    if cap is None:
        return np.asarray(queries * (queries + 1.0) / 2.0)
    grown = np.minimum(queries, cap)
    return np.asarray(grown * (grown + 1.0) / 2.0 + (queries - grown) * cap)


def _topk_total(rule: TopK, n: FloatArray) -> FloatArray:
    """Block by block: linear in between would miss the triangle of the own block."""
    whole = np.floor(n / rule.block).astype(np.int64)
    rest = np.asarray(n - whole * rule.block, dtype=np.float64)
    if rule.count is not None:
        most = max(rule.count, rule.floor, rule.first + rule.recent)
        before = _triangle(np.asarray(whole, np.float64), float(most))
    else:
        before = _kept_sums(rule, 1 << int(np.max(whole, initial=1)).bit_length())[whole]
    inside = rule.block * (rule.block + 1.0) / 2.0
    done = (before - whole) * float(rule.block) ** 2 + whole * inside
    kept = wanted(rule, whole + 1, 0)
    return np.asarray(done + (kept - 1.0) * rule.block * rest + _triangle(rest))


def _merged_total(rule: Compress, n: FloatArray) -> FloatArray:
    """Sum of floor(min(c, cap) / tokens) over c = 1 .. n, and the local triangle."""
    m = float(rule.tokens)
    grown = n if rule.topk is None else np.minimum(n, rule.topk * m)
    blocks = np.floor(grown / m)
    rest = grown - blocks * m
    growing = m * blocks * (blocks - 1.0) / 2.0 + blocks * (rest + 1.0)
    merged = np.where(blocks > 0, growing, 0.0) + (n - grown) * blocks
    return np.asarray(merged + _triangle(n, float(rule.local)))


@lru_cache(maxsize=64)
def _kept_sums(rule: TopK, blocks: int) -> FloatArray:
    kept: Any = wanted(rule, np.arange(1, blocks + 1), 0)
    return np.concatenate([[0.0], np.cumsum(kept, dtype=np.float64)])


@lru_cache(maxsize=8)
def _seen_sums(rule: Rule, queries: int) -> FloatArray:
    return np.concatenate([[0.0], np.cumsum(seen(rule, np.arange(queries)))])
