"""What one token and one sequence cost a model: its operators grouped, ready for array arithmetic.

A :class:`Work` is made once a model. Equal operators of equal layers become one entry with a
count, so that timing a step is a dozen array expressions however many layers there are.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

from weftline.model import Attention, Model, Operator
from weftline.model.policy import model_under
from weftline.spec.attention import Rule
from weftline.spec.attention_counts import held

FloatArray = npt.NDArray[np.float64]

_LAUNCHED = ("gemm", "grouped_gemm", "attention", "scan", "conv")

__all__ = ["Experts", "Gemm", "Mixer", "Scan", "Work", "work_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gemm:
    """``count`` equal dense products, ``in_features`` -> ``out_features``."""

    count: int
    in_features: int
    out_features: int
    split_in: bool
    """Row-parallel: input features are split over tensor-parallel ranks."""
    split_out: bool
    """Column- or vocabulary-parallel: output features are split."""
    mixer: bool = False
    """Of an attention or recurrent mixer, whose format can differ from the feed-forward's."""
    shared: bool = False
    """Of the experts every token passes, beside the routed ones."""
    fp32: bool = False
    """Runs in fp32 whatever the weights' format is."""
    head: bool = False
    """The output projection to the vocabulary: once a sequence that yields a token."""
    parameters: int = 0
    """What all of them hold; a weight that several products share, or that is the embedding's,
    once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Experts:
    """``count`` equal layers of routed experts."""

    count: int
    hidden: int
    inter: int
    experts: int
    top_k: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixer:
    """``count`` equal attention cores."""

    count: int
    heads: int
    kv_heads: int
    qk_dim: int
    v_dim: int
    latent: int
    """Width of MLA's cached latent (0 for attention with keys and values)."""
    rope: int
    """Rotary width cached beside the latent."""
    rule: Rule
    """What a query of a prompt sees."""
    decode_rule: Rule
    keeps: bool
    """Whether all tokens stay cached though queries see fewer."""
    kv_values_per_token: int

    @property
    def stride(self) -> int:
        """Tokens merged into one cached entry."""
        return self.rule.stride

    def held(self, context: npt.ArrayLike) -> FloatArray:
        """Entries that stay cached of ``context`` tokens."""
        if self.keeps:
            return np.asarray(context, dtype=np.float64) / self.stride
        return held(self.decode_rule, context)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """``count`` equal recurrent mixers (Mamba-2, gated delta net)."""

    count: int
    state_values: int
    width: int
    flops_per_token: float
    kind: str
    """``gdn`` or ``mamba2``, from the operator's name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A model as the serving engine sees it."""

    name: str
    hidden: int
    vocab: int
    layers: int
    gemms: tuple[Gemm, ...]
    experts: tuple[Experts, ...]
    mixers: tuple[Mixer, ...]
    scans: tuple[Scan, ...]
    elementwise_values: float
    """Values read and written by norms, activations, rotary and gates, a token, all layers."""
    sharded_elementwise_values: float
    """The part of them that tensor parallelism splits."""
    kernels: int
    """Products, attention and scans of one forward pass: what is launched after fusion."""
    operators: int
    """All operators of one forward pass run one by one, casts and collectives not counted."""
    rotaries: int
    """Rotary embeddings among them."""
    reductions: int
    """All-reduces of one forward pass under tensor parallelism."""
    scalar_reductions: int
    """All-reduces of one number a token: norms that span the heads of all ranks (MiniMax)."""
    expert_parameters: int
    plain_parameters: int
    """Embeddings, norms, convolutions, modulations: what no quantised product holds."""
    state_values: int
    adapted: int
    """Products that adapters stand beside: all of the layers but routers and routed experts."""
    adapted_values: float
    """Weights of one adapter a unit of rank: each slice of a fused product has its own way in."""
    is_mla: bool

    @property
    def attention_heads(self) -> int:
        """Query heads of the layer with the fewest: what tensor parallelism divides."""
        return min((m.heads for m in self.mixers if m.v_dim), default=1)

    @property
    def kv_values_per_token(self) -> float:
        """Values one more token adds to the cache while no window is full."""
        return sum(m.count * m.kv_values_per_token / m.stride for m in self.mixers)


def _mixer(a: Attention, count: int) -> Mixer:
    mla = a.kv_values_per_token < min(2 * a.kv_heads * a.v_dim, 1025)
    rope = 64 if mla else 0
    return Mixer(
        count=count, heads=a.heads, kv_heads=a.kv_heads, qk_dim=a.qk_dim, v_dim=a.v_dim,
        latent=a.kv_values_per_token - rope if mla else 0, rope=rope, rule=a.rule,
        decode_rule=a.decoding, keeps=a.keeps, kv_values_per_token=a.kv_values_per_token,
    )  # fmt: skip


def _scan(op: Operator, count: int) -> Scan:
    return Scan(
        count=count, state_values=op.state_values, width=op.out_features,
        flops_per_token=op.scan_flops_per_token, kind=op.name.partition(".")[0],
    )  # fmt: skip


_SLICES: Final = {"qkv": 3, "gate_up": 2, "qkv_down": 2}
"""Products of the checkpoint in one fused product: queries, keys and values; gate and up."""


def _adapted(model: Model) -> list[float]:
    """Weights a unit of rank of every product that adapters stand beside."""
    return [
        _SLICES.get(op.name.rpartition(".")[2], 1) * float(op.in_features) + op.out_features
        for layer in model.layers for op in layer.operators
        if op.kind == "gemm" and not op.name.endswith("router")
    ]  # fmt: skip


def _apart(op: Operator) -> int:
    """Calls that one operator is where nothing is fused: reshapes and copies launch too."""
    if op.kind == "attention" and op.attention is not None and _mixer(op.attention, 1).latent:
        return MLA_CALLS
    if op.name == "indexer.core":
        return INDEX_CALLS - 3
    return SCAN_CALLS if op.kind == "scan" else 1


MLA_CALLS: Final = 9
"""Splitting queries and the latent, rotary halves, writing the cache, joining keys, the core."""
INDEX_CALLS: Final = 11
"""An indexer: products of queries and of keys with weights, a norm, rotary, two rotations
(Hadamard), two casts, writing keys, scores, the choice."""
SCAN_CALLS: Final = 20
"""A chunked gated delta rule is ten small kernels, and a Triton launch costs the host about two."""


def _place(op: Operator) -> str:
    """Where a product of a layer stands: what decides its format and what it runs beside."""
    if op.fp32:
        return "fp32"
    if op.name.startswith("moe.shared"):
        return "shared"
    return "" if op.name.startswith(("mlp", "moe")) else "mixer"


def _experts(layers: Counter[tuple[int, ...]]) -> tuple[Experts, ...]:
    return tuple(
        Experts(count=n, hidden=h, inter=i, experts=e, top_k=k)
        for (h, i, e, k), n in layers.items()
    )


def _reductions(model: Model) -> int:
    """Row-parallel products whose sums must meet: one a mixer and one a feed-forward, as run."""
    return sum(
        sum(op.kind == "gemm" and op.shard == "row" and "shared" not in op.name
            for op in layer.operators)
        + any(op.kind == "grouped_gemm" for op in layer.operators)
        for layer in model.layers
    )  # fmt: skip


def _scalar_reductions(model: Model) -> int:
    """Norms of queries and keys with a weight for every head: their mean squares are of all ranks,
    and both are summed in one call."""
    return sum(
        op.name.endswith("qk_norm") and op.parameters >= op.out_features
        for layer in model.layers for op in layer.operators
    )  # fmt: skip


def _work(model: Model) -> Work:
    gemms: Counter[tuple[int, int, str, str]] = Counter()
    held: Counter[tuple[int, int, str, str]] = Counter()
    experts: Counter[tuple[int, ...]] = Counter()
    mixers: Counter[Attention] = Counter()
    scans: Counter[Operator] = Counter()
    values = sharded = 0.0
    kernels = apart = 0
    for layer in model.layers:
        for op in layer.operators:
            index = op.name.startswith("indexer")
            kernels += INDEX_CALLS * (op.name == "indexer.core") if index else op.kind in _LAUNCHED
            apart += _apart(op)
            if op.kind == "gemm":
                # MLA is run absorbed when decoding: its key/value up-projection costs the same
                # products either way and stays in the list.
                key = (op.in_features, op.out_features, op.shard, _place(op))
                gemms[key] += 1
                held[key] += op.parameters
            elif op.kind == "grouped_gemm" and op.name.endswith("down"):
                experts[op.out_features, op.in_features, op.experts, op.experts_per_token] += 1
            elif op.kind == "attention" and op.attention is not None:
                mixers[op.attention] += 1
            elif op.kind == "scan":
                scans[op] += 1
            elif op.kind in ("norm", "elementwise", "conv"):
                moved = float(op.in_features + op.out_features)
                values += moved
                sharded += moved if op.shard != "replicated" else 0.0
    for op in model.head:
        if op.kind == "gemm":
            key = (op.in_features, op.out_features, op.shard, "head")
            gemms[key] += 1
            held[key] += op.parameters
    every, adapted = list(model.operators), _adapted(model)
    routed = sum(op.parameters for op in every if op.kind == "grouped_gemm")
    return Work(
        name=model.name, hidden=model.hidden, vocab=model.vocab, layers=len(model.layers),
        gemms=tuple(
            Gemm(count=n, in_features=i, out_features=o, split_in=s == "row",
                 split_out=s in ("column", "vocab") or place == "head", mixer=place == "mixer",
                 shared=place == "shared", fp32=place == "fp32", head=place == "head",
                 parameters=held[i, o, s, place])
            for (i, o, s, place), n in gemms.items()
        ),
        experts=_experts(experts),
        mixers=tuple(_mixer(a, n) for a, n in mixers.items()),
        scans=tuple(_scan(op, n) for op, n in scans.items()),
        elementwise_values=values, sharded_elementwise_values=sharded, kernels=kernels,
        operators=apart, rotaries=sum(op.name.endswith("rotary") for op in every),
        reductions=_reductions(model),
        scalar_reductions=_scalar_reductions(model),
        expert_parameters=routed, plain_parameters=model.parameters - routed - held.total(),
        state_values=sum(op.state_values for op in every),
        adapted=len(adapted), adapted_values=sum(adapted),
        is_mla=any(a.kv_values_per_token < min(2 * a.kv_heads * a.v_dim, 1025) for a in mixers),
    )  # fmt: skip


@lru_cache(maxsize=64)
def work_of(name: str, policy: str = "") -> Work:
    """The work of a model by any name :func:`weftline.model.load_model` takes, under a policy."""
    return _work(model_under(name, policy))
