"""What a query of attention sees: rules, and a policy of them over layers and phases.

A rule says which keys the query at a position sees; a model is trained with one a layer, and a
policy puts others in the place of full attention. Everything that prices, masks or serves reads the
same value: its counts are in :mod:`weftline.spec.attention_counts`, pages and masks in
:mod:`weftline.attention`, text in :mod:`weftline.spec.attention_text`.

Positions count from 0, a query sees itself, and every rule is causal.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Final, Literal, get_args

from weftline.errors import InputError, InputErrors

__all__ = [
    "DENSE", "PHASES", "SCORES", "AttentionPolicy", "Chunk", "Compress", "Dense", "KvAction",
    "LayerRules", "Pattern", "Phase", "Rule", "Score", "TopK", "Union", "Window",
]  # fmt: skip

Phase = Literal["prefill", "decode"]
PHASES: Final[tuple[Phase, ...]] = get_args(Phase)
Score = Literal["minmax", "mean", "indexer"]
SCORES: Final[tuple[Score, ...]] = get_args(Score)
KvAction = Literal["keep", "free"]
Pattern = Literal["dense", "window", "block", "selected"]
"""What a kernel or a chip's unit has to be made for, to gain from a rule."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Which keys a query sees. Use one of the rules below."""

    pattern: ClassVar[Pattern] = "dense"
    positional: ClassVar[bool] = True
    """Whether positions alone decide."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Dense(Rule):
    """All keys up to the query."""


DENSE: Final = Dense()


@dataclass(frozen=True, slots=True, kw_only=True)
class Window(Rule):
    """The last ``tokens`` keys, the query's own among them, and the first ``sinks``.

    Sinks that stay beside a window: StreamingLLM, arXiv:2309.17453.
    """

    pattern: ClassVar[Pattern] = "window"
    tokens: int
    sinks: int = 0

    def _mistakes(self) -> list[InputError]:
        return _whole(self, tokens=1, sinks=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk(Rule):
    """Keys of the query's own chunk of ``tokens`` (Llama 4's chunked attention)."""

    pattern: ClassVar[Pattern] = "window"
    tokens: int

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

    positional: ClassVar[bool] = False
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Compress(Rule):
    """Tokens merged ``tokens`` to one entry, of which the ``topk`` best are seen (DeepSeek-V4).

    The last ``local`` tokens are seen unmerged beside them. A query sees complete entries only.
    """

    pattern: ClassVar[Pattern] = "selected"
    positional: ClassVar[bool] = False
    tokens: int
    topk: int | None = None
    local: int = 0

    @property
    def stride(self) -> int:
        """Tokens merged into one entry."""
        return self.tokens

    def _mistakes(self) -> list[InputError]:
        return _whole(self, tokens=1, topk=1, local=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Union(Rule):
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
    def positional(self) -> bool:  # type: ignore[override]
        """Unless one of them selects."""
        return self.selects is None

    @property
    def selects(self) -> TopK | None:
        """The rule that selects, if one does."""
        return next((r for r in self.rules if isinstance(r, TopK)), None)

    def _mistakes(self) -> list[InputError]:
        found = []
        if len(self.rules) < 2:
            found.append(InputError("a union joins at least two rules"))
        if sum(isinstance(r, TopK) for r in self.rules) > 1:
            found.append(InputError("at most one rule of a union selects blocks"))
        if any(isinstance(r, Compress | Union) for r in self.rules):
            found.append(InputError("a union joins neither compressed rules nor other unions"))
        return found


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
