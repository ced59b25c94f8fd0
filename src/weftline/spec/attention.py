"""What a query of attention sees: rules, and a policy of them over layers and phases.

A rule says which keys the query at a position sees; a model is trained with one a layer, and a
policy puts others in the place of full attention. Everything that prices, masks or serves reads the
same value: counts are here, pages and masks in :mod:`weftline.attention`, text in
:mod:`weftline.spec.attention_text`.

Positions count from 0, a query sees itself, and every rule is causal.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Final, Literal, get_args

import numpy as np
import numpy.typing as npt

from weftline.errors import InputError, InputErrors

__all__ = [
    "DENSE", "PHASES", "SCORES", "AttentionPolicy", "Chunk", "Compress", "Dense", "KvAction",
    "LayerRules", "Pattern", "Phase", "Rule", "Score", "TopK", "Union", "Window",
]  # fmt: skip

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Number = float | npt.ArrayLike
Phase = Literal["prefill", "decode"]
PHASES: Final[tuple[Phase, ...]] = get_args(Phase)
Score = Literal["minmax", "mean", "indexer"]
SCORES: Final[tuple[Score, ...]] = get_args(Score)
KvAction = Literal["keep", "free"]
Pattern = Literal["dense", "window", "block", "selected"]
"""What a kernel or a chip's unit has to be made for, to gain from a rule."""
_ROUNDING: Final = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Which keys a query sees. Use one of the rules below."""

    pattern: ClassVar[Pattern] = "dense"

    def seen(self, position: Number) -> FloatArray:
        """Entries that the query at ``position`` sees, itself among them."""
        raise NotImplementedError

    def total(self, queries: Number) -> FloatArray:
        """Entries that the first ``queries`` queries of a sequence see in sum."""
        raise NotImplementedError

    def mean_seen(self, tokens: Number, context: Number = 0.0) -> FloatArray:
        """Entries a query sees, mean over ``tokens`` queries after ``context`` others."""
        new, before = np.asarray(tokens, np.float64), np.asarray(context, np.float64)
        return np.asarray((self.total(before + new) - self.total(before)) / new)

    def held(self, context: Number) -> FloatArray:
        """Entries that queries after ``context`` tokens may still see: what a cache must keep."""
        return np.asarray(context, dtype=np.float64)

    @property
    def stride(self) -> int:
        """Tokens merged into one entry."""
        return 1

    @property
    def selects(self) -> TopK | None:
        """The part of the rule that needs scores of blocks, if any."""
        return None

    def _mistakes(self) -> list[InputError]:
        return []

    def __post_init__(self) -> None:
        """Raise InputError, or InputErrors where several fields cannot be."""
        found = self._mistakes()
        if found:
            raise found[0] if len(found) == 1 else InputErrors(found)


def _whole(rule: Rule, **least: int) -> list[InputError]:
    """Fields that are below their least."""
    return [
        InputError(f"`{name}` is {value}; at least {bound} is needed")
        for name, bound in least.items()
        if (value := getattr(rule, name)) is not None and value < bound
    ]


def _triangle(queries: FloatArray, cap: float | None) -> FloatArray:
    """Sum of min(c, cap) over c = 1 .. queries."""
    if cap is None:
        return np.asarray(queries * (queries + 1.0) / 2.0)
    grown = np.minimum(queries, cap)
    return np.asarray(grown * (grown + 1.0) / 2.0 + (queries - grown) * cap)


@dataclass(frozen=True, slots=True, kw_only=True)
class Positional(Rule):
    """A rule that positions alone decide: a front, and everything from a lowest key on."""

    def reach(self, position: npt.ArrayLike) -> tuple[IntArray, IntArray]:
        """(front, low) by position: keys below ``front`` or from ``low`` to the query are seen."""
        raise NotImplementedError

    def seen(self, position: Number) -> FloatArray:
        """Entries that the query at ``position`` sees, itself among them."""
        at = np.asarray(position, dtype=np.int64)
        front, low = self.reach(at)
        return np.asarray(at + 1 - np.maximum(low - front, 0), dtype=np.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dense(Positional):
    """All keys up to the query."""

    def reach(self, position: npt.ArrayLike) -> tuple[IntArray, IntArray]:
        """No front, from the first key on."""
        zero = np.zeros_like(np.asarray(position, dtype=np.int64))
        return zero, zero

    def total(self, queries: Number) -> FloatArray:
        """n (n + 1) / 2."""
        return _triangle(np.asarray(queries, np.float64), None)


DENSE: Final = Dense()


@dataclass(frozen=True, slots=True, kw_only=True)
class Window(Positional):
    """The last ``tokens`` keys, the query's own among them, and the first ``sinks``.

    Sinks that stay beside a window: StreamingLLM, arXiv:2309.17453.
    """

    pattern: ClassVar[Pattern] = "window"
    tokens: int
    sinks: int = 0

    def reach(self, position: npt.ArrayLike) -> tuple[IntArray, IntArray]:
        """The sinks, and from ``tokens`` - 1 before the query on."""
        at = np.asarray(position, dtype=np.int64)
        return np.full_like(at, self.sinks), np.maximum(at - self.tokens + 1, 0)

    def total(self, queries: Number) -> FloatArray:
        """A triangle until window and sinks are full."""
        return _triangle(np.asarray(queries, np.float64), self.tokens + self.sinks)

    def held(self, context: Number) -> FloatArray:
        """Window and sinks at most."""
        return np.minimum(np.asarray(context, np.float64), float(self.tokens + self.sinks))

    def _mistakes(self) -> list[InputError]:
        return _whole(self, tokens=1, sinks=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk(Positional):
    """Keys of the query's own chunk of ``tokens`` (Llama 4's chunked attention)."""

    pattern: ClassVar[Pattern] = "window"
    tokens: int

    def reach(self, position: npt.ArrayLike) -> tuple[IntArray, IntArray]:
        """From the chunk's first key on."""
        at = np.asarray(position, dtype=np.int64)
        return np.zeros_like(at), at // self.tokens * self.tokens

    def total(self, queries: Number) -> FloatArray:
        """A triangle a chunk."""
        n = np.asarray(queries, np.float64)
        whole = np.floor(n / self.tokens)
        one = self.tokens * (self.tokens + 1.0) / 2.0
        return np.asarray(whole * one + _triangle(n - whole * self.tokens, None))

    def held(self, context: Number) -> FloatArray:
        """A chunk at most."""
        return np.minimum(np.asarray(context, np.float64), float(self.tokens))

    def _mistakes(self) -> list[InputError]:
        return _whole(self, tokens=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class TopK(Rule):
    """The ``count`` (or ``fraction``) of blocks of ``block`` keys that score highest.

    Whole blocks up to the query's own, of which the causal part is seen; the ``first`` and the
    ``recent`` (the query's own among them) are always kept and take places. Queries of one piece of
    ``queries`` share a choice. ``minmax`` scores a block by the bound its keys' minima and maxima
    set (Quest, arXiv:2406.10774), ``mean`` by its mean key (MoBA, arXiv:2502.13189), ``indexer`` by
    trained heads beside the model's (DeepSeek-V3.2 with ``block`` 1, MiniMax-M3 with 128).
    """

    block: int = 128
    count: int | None = None
    fraction: float | None = None
    floor: int = 0
    """Blocks kept at least."""
    first: int = 1
    recent: int = 1
    score: Score = "minmax"
    share: Literal["kv_head", "layer"] = "kv_head"
    """Whether each key-value head chooses, or all of a layer together."""
    queries: int | None = None
    """None: 16, or what divides the block."""
    heads: int = 0
    """Heads of an indexer that the policy brings along; 0 where the model has its own."""
    dim: int = 0
    """Width of each of them."""

    @property
    def pattern(self) -> Pattern:  # type: ignore[override]
        """Keys picked one by one, or in blocks."""
        return "selected" if self.block == 1 else "block"

    @property
    def selects(self) -> TopK | None:
        """Itself."""
        return self

    @property
    def piece(self) -> int:
        """Queries that share a choice."""
        return self.queries or math.gcd(self.block, 16)

    def wanted(self, blocks: npt.ArrayLike, forced: npt.ArrayLike) -> IntArray:
        """Blocks kept of ``blocks`` up to the query's own, where ``forced`` are kept anyway.

        Blocks that another rule of a union forces take no places of this rule's.
        """
        n = np.asarray(blocks, dtype=np.int64)
        own = np.minimum(n, self.first + self.recent)
        if self.count is not None:
            asked = np.full_like(n, self.count)
        else:
            asked = np.ceil((self.fraction or 0.0) * n - _ROUNDING).astype(np.int64)
        picked = np.maximum(np.maximum(asked, self.floor) - own, 0)
        return np.asarray(np.minimum(n, np.maximum(forced, own) + picked))

    def seen(self, position: Number) -> FloatArray:
        """Whole blocks before the query's own, and its own up to the query."""
        at = np.asarray(position, dtype=np.int64)
        kept = self.wanted(at // self.block + 1, 0)
        return np.asarray((kept - 1) * self.block + at % self.block + 1, dtype=np.float64)

    def total(self, queries: Number) -> FloatArray:
        """Summed block by block; linear in between would miss the triangle of the own block."""
        n = np.maximum(np.asarray(queries, np.float64), 0.0)
        whole = np.floor(n / self.block).astype(np.int64)
        rest = np.asarray(n - whole * self.block, dtype=np.float64)
        before = self._kept_before(whole) - whole
        kept = self.wanted(whole + 1, 0)
        inside = self.block * (self.block + 1.0) / 2.0
        done = before.astype(np.float64) * float(self.block) ** 2 + whole * inside
        return np.asarray(done + (kept - 1.0) * self.block * rest + _triangle(rest, None))

    def _kept_before(self, blocks: IntArray) -> FloatArray:
        """Blocks kept by the queries of blocks 0 to ``blocks`` - 1, one query each."""
        if self.count is not None:
            most = max(self.count, self.floor, self.first + self.recent)
            return _triangle(np.asarray(blocks, np.float64), float(most))
        size = 1 << int(np.max(blocks, initial=1)).bit_length()
        return np.asarray(_kept_sums(self, size)[blocks])

    def _mistakes(self) -> list[InputError]:
        found = _whole(
            self, block=1, count=1, floor=0, first=0, recent=1, queries=1, heads=0, dim=0
        )
        if (self.count is None) == (self.fraction is None):
            found.append(InputError("either a count of blocks or a fraction of them is needed"))
        if self.fraction is not None and not 0 < self.fraction <= 1:
            found.append(InputError(f"the fraction is {self.fraction}; it lies in (0, 1]"))
        if self.queries and self.block >= 1 and self.block % self.queries:
            found.append(InputError(
                f"`queries` {self.queries} does not divide the block of {self.block}",
                hint="queries that share a choice lie in one block",
            ))  # fmt: skip
        if (self.heads > 0) != (self.dim > 0) or (self.heads and self.score != "indexer"):
            found.append(InputError("`heads` and `dim` belong to an indexer, both of them",
                                    hint="score=indexer,heads=4,dim=128"))  # fmt: skip
        return found


@lru_cache(maxsize=64)
def _kept_sums(rule: TopK, blocks: int) -> FloatArray:
    kept = rule.wanted(np.arange(1, blocks + 1), 0)
    return np.concatenate([[0.0], np.cumsum(kept, dtype=np.float64)])


@dataclass(frozen=True, slots=True, kw_only=True)
class Compress(Rule):
    """Tokens merged ``tokens`` to one entry, of which the ``topk`` best are seen (DeepSeek-V4).

    The last ``local`` tokens are seen unmerged beside them. A query sees complete entries only.
    """

    pattern: ClassVar[Pattern] = "selected"
    tokens: int
    topk: int | None = None
    local: int = 0

    @property
    def stride(self) -> int:
        """Tokens merged into one entry."""
        return self.tokens

    def seen(self, position: Number) -> FloatArray:
        """Entries, at most ``topk``, and local tokens."""
        c = np.asarray(position, dtype=np.float64) + 1.0
        entries = np.floor(c / self.tokens)
        entries = entries if self.topk is None else np.minimum(entries, self.topk)
        return np.asarray(entries + np.minimum(c, self.local))

    def total(self, queries: Number) -> FloatArray:
        """Sum of floor(min(c, cap) / tokens) over c = 1 .. queries, and the local triangle."""
        n, m = np.asarray(queries, np.float64), float(self.tokens)
        grown = n if self.topk is None else np.minimum(n, self.topk * m)
        blocks = np.floor(grown / m)
        rest = grown - blocks * m
        growing = m * blocks * (blocks - 1.0) / 2.0 + blocks * (rest + 1.0)
        merged = np.where(blocks > 0, growing, 0.0) + (n - grown) * blocks
        return np.asarray(merged + _triangle(n, float(self.local)))

    def held(self, context: Number) -> FloatArray:
        """One entry for every ``tokens``, and the local ones."""
        c = np.asarray(context, dtype=np.float64)
        return np.asarray(c / self.tokens + np.minimum(c, self.local))

    def _mistakes(self) -> list[InputError]:
        return _whole(self, tokens=1, topk=1, local=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Union(Positional):
    """What any of several rules sees; at most one of them selects blocks, none compresses.

    Beside a selecting rule the others count in whole blocks, taken for a piece of queries at once,
    and the blocks they keep take none of its places.
    """

    rules: tuple[Rule, ...]

    @property
    def pattern(self) -> Pattern:  # type: ignore[override]
        """That of the rule that asks for most."""
        order: tuple[Pattern, ...] = ("dense", "window", "block", "selected")
        return max((rule.pattern for rule in self.rules), key=order.index)

    @property
    def selects(self) -> TopK | None:
        """The rule that selects, if one does."""
        return next((r for r in self.rules if isinstance(r, TopK)), None)

    def reach(self, position: npt.ArrayLike) -> tuple[IntArray, IntArray]:
        """The widest of the rules that positions decide; of none, the query alone."""
        at = np.asarray(position, dtype=np.int64)
        front, low = np.zeros_like(at), at
        for rule in self.rules:
            if isinstance(rule, Positional):
                its_front, its_low = rule.reach(at)
                front, low = np.maximum(front, its_front), np.minimum(low, its_low)
        return front, low

    def forced(self, position: npt.ArrayLike) -> tuple[IntArray, IntArray]:
        """(front, low) in blocks that the query's piece keeps whatever scores say."""
        rule = self.selects
        if rule is None:
            raise InputError("no rule of this union selects blocks")
        start = np.asarray(position, dtype=np.int64) // rule.piece * rule.piece
        front, low = self.reach(start)
        own = start // rule.block
        front = np.maximum(-(-front // rule.block), rule.first)
        return np.minimum(front, own + 1), np.clip(
            np.minimum(low // rule.block, own - rule.recent + 1), 0, own
        )

    def seen(self, position: Number) -> FloatArray:
        """Of positions alone exactly; beside a selecting rule in whole blocks."""
        at = np.asarray(position, dtype=np.int64)
        rule = self.selects
        if rule is None:
            front, low = self.reach(at)
            return np.asarray(at + 1 - np.maximum(low - front, 0), dtype=np.float64)
        front, low = self.forced(at)
        own = at // rule.block
        kept = rule.wanted(own + 1, own + 1 - np.maximum(low - front, 0))
        return np.asarray((kept - 1) * rule.block + at % rule.block + 1, dtype=np.float64)

    def total(self, queries: Number) -> FloatArray:
        """Summed query by query, linear between whole ones."""
        n = np.maximum(np.asarray(queries, np.float64), 0.0)
        size = 1 << max(int(np.max(n, initial=1)), 1).bit_length()
        sums = _seen_sums(self, size)
        return np.asarray(np.interp(n, np.arange(len(sums)), sums))

    def held(self, context: Number) -> FloatArray:
        """What the rule that holds most holds; fronts and windows of several add up at most."""
        if self.selects is not None:
            return np.asarray(context, dtype=np.float64)
        held = [np.asarray(rule.held(context)) for rule in self.rules]
        sinks = max((r.sinks for r in self.rules if isinstance(r, Window)), default=0)
        most = np.maximum.reduce(held) + sinks
        return np.asarray(np.minimum(np.asarray(context, np.float64), most), np.float64)

    def _mistakes(self) -> list[InputError]:
        found = []
        if len(self.rules) < 2:
            found.append(InputError("a union joins at least two rules"))
        if sum(isinstance(r, TopK) for r in self.rules) > 1:
            found.append(InputError("at most one rule of a union selects blocks"))
        if any(isinstance(r, Compress | Union) for r in self.rules):
            found.append(InputError("a union joins neither compressed rules nor other unions"))
        return found


@lru_cache(maxsize=8)
def _seen_sums(rule: Rule, queries: int) -> FloatArray:
    return np.concatenate([[0.0], np.cumsum(rule.seen(np.arange(queries)))])


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerRules:
    """The rules of some layers."""

    layers: tuple[int, ...]
    prefill: Rule
    decode: Rule


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionPolicy:
    """A rule for every layer and phase; hashable, so that whatever it decides can be cached."""

    prefill: Rule = DENSE
    decode: Rule = DENSE
    layers: tuple[LayerRules, ...] = ()
    """Layers with rules of their own; none stands in two of them."""
    kv: KvAction = "keep"
    """``free`` gives back cached entries that no later query can see."""

    def rule(self, layer: int, phase: Phase) -> Rule:
        """The rule of a layer in a phase."""
        for own in self.layers:
            if layer in own.layers:
                return own.prefill if phase == "prefill" else own.decode
        return self.prefill if phase == "prefill" else self.decode

    @property
    def rules(self) -> tuple[Rule, ...]:
        """Every rule in it, each once."""
        own = (r for each in self.layers for r in (each.prefill, each.decode))
        return tuple(dict.fromkeys((self.prefill, self.decode, *own)))

    @property
    def is_dense(self) -> bool:
        """Whether it changes nothing."""
        return self.rules == (DENSE,)

    def held(self, layer: int, context: Number) -> FloatArray:
        """Entries of a layer that stay cached of ``context`` tokens."""
        if self.kv == "keep":
            return np.asarray(context, dtype=np.float64)
        return self.rule(layer, "decode").held(context)

    def __post_init__(self) -> None:
        """Raise InputError for layers named twice, or a cache freed that selection still needs."""
        named = [layer for own in self.layers for layer in own.layers]
        twice = sorted({layer for layer in named if named.count(layer) > 1})
        found = [InputError(f"layer {layer} has two rules") for layer in twice]
        found += [InputError(f"layer {layer} is below 0") for layer in named if layer < 0]
        if self.kv == "free" and any(rule.selects for rule in self.rules):
            found.append(InputError(
                "a rule that selects by scores may want any earlier key: nothing can be freed",
                hint="kv=free goes with windows and chunks",
            ))  # fmt: skip
        if found:
            raise found[0] if len(found) == 1 else InputErrors(found)
