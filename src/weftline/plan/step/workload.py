"""A model's operators lowered to the matrix shapes and bytes one chip sees.

A *key* is what the work of one micro-batch on one chip depends on: (tp, cp, ep, micro-batch). There
are few keys and many layouts, so operators are timed once per key and layouts only gather.

Operators fall into three slots: 0 a mean layer, 1 what the first stage adds (embedding), 2 what the
last stage adds (final norm, output projection, loss).

Legend: ``K`` keys, ``O`` operators; flat arrays have length ``K * O``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import Final

import numpy as np
import numpy.typing as npt

from weftline.model import Model, Operator
from weftline.model.once import once_per_model

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

LAYER, FIRST, LAST = 0, 1, 2
GEMM, ATTENTION, MEMORY = 0, 1, 2
_LOWP_EXCLUDED = frozenset({"head.lm", "moe.router"})


_LOWERED_KEPT: Final = 64
"""Lowered batches of keys that are kept: more than one search has of counts and frameworks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """Columns of the keys, one entry a key."""

    tp: FloatArray
    cp: FloatArray
    ep: FloatArray
    etp: FloatArray
    micro_batch: FloatArray

    def __len__(self) -> int:
        return len(self.tp)


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Forward work of every (key, operator), and the bytes a layer communicates."""

    keys: int
    key: IntArray
    slot: IntArray
    kind: IntArray
    weight: FloatArray
    """How many of this operator a mean layer holds (its share of the layers)."""
    m: FloatArray
    n: FloatArray
    k: FloatArray
    batch: FloatArray
    """Products of shape (m, n, k) run as one grouped kernel."""
    flops: FloatArray
    nbytes: FloatArray
    low_precision: npt.NDArray[np.bool_]
    layer_tokens: FloatArray
    """[K] tokens of one micro-batch on one context-parallel rank."""
    tp_bytes: FloatArray
    """[K] full buffer of one tensor-parallel gather or scatter."""
    tp_collectives: float | FloatArray
    """Tensor-parallel reduce-scatter + all-gather pairs in a mean layer's forward pass."""
    cp_bytes: FloatArray
    """[K] keys and values of the whole context on one rank in a mean layer: the gathered buffer."""
    heads_bytes: FloatArray
    """[K] queries, keys, values and outputs a rank sends in Ulysses' all-to-alls of a layer."""
    ep_bytes: FloatArray
    """[K] what one chip sends in one dispatch (or combine) of a mean layer."""


def lower(
    model: Model,
    keys: Keys,
    seq_len: int,
    *,
    bytes_per_value: float = 2.0,
    causal_skip: bool = True,
) -> Work:
    """Lower ``model`` for every key.

    ``causal_skip`` is true where attention kernels skip masked blocks (flash attention) and false
    where they compute the full rectangle.
    """
    # Clusters of as many chips share their keys, whatever the chip.
    return _lowered(
        model, keys_code(keys), seq_len, bytes_per_value=bytes_per_value, causal_skip=causal_skip
    )


def keys_code(keys: Keys) -> tuple[bytes, ...]:
    """Keys as something that can be looked up."""
    return tuple(np.asarray(getattr(keys, f.name), np.float64).tobytes() for f in fields(keys))


def keys_of_code(code: tuple[bytes, ...]) -> Keys:
    """The inverse of :func:`keys_code`."""
    return Keys(**{f.name: np.frombuffer(c) for f, c in zip(fields(Keys), code, strict=True)})


def _lower(
    model: Model, code: tuple[bytes, ...], seq_len: int, *, bytes_per_value: float,
    causal_skip: bool,
) -> Work:  # fmt: skip
    keys = keys_of_code(code)
    ops, slots, weights = weighted_operators(model)
    tokens = keys.micro_batch * seq_len / keys.cp
    columns: list[dict[str, FloatArray]] = [
        _lower_operator(op, keys, tokens, seq_len, bytes_per_value, causal_skip) for op in ops
    ]
    k_count, o_count = len(keys), len(ops)

    def flat(name: str) -> FloatArray:
        return np.stack([np.broadcast_to(c[name], (k_count,)) for c in columns], axis=1).ravel()

    exchanged = _exchanged(model)
    return Work(
        keys=k_count,
        key=np.repeat(np.arange(k_count), o_count),
        slot=np.tile(np.array(slots), k_count),
        kind=np.tile(np.array([_kind(op) for op in ops]), k_count),
        weight=np.tile(np.array(weights), k_count),
        m=flat("m"),
        n=flat("n"),
        k=flat("k"),
        batch=flat("batch"),
        flops=flat("flops"),
        nbytes=flat("nbytes"),
        low_precision=np.tile(np.array([_can_be_low_precision(op) for op in ops]), k_count),
        layer_tokens=tokens,
        tp_bytes=tokens * model.hidden * bytes_per_value,
        tp_collectives=exchanged.collectives,
        cp_bytes=tokens
        * keys.cp
        * exchanged.kv_values
        / np.minimum(keys.tp, exchanged.kv_heads)
        * bytes_per_value,
        heads_bytes=tokens * exchanged.head_values / keys.tp * bytes_per_value,
        ep_bytes=tokens / keys.tp * exchanged.routed_values * bytes_per_value,
    )


_lowered = once_per_model(_lower, _LOWERED_KEPT)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Exchanged:
    """What a mean layer exchanges for one token, in values."""

    collectives: float
    kv_values: float
    kv_heads: float
    head_values: float
    routed_values: float


@once_per_model
def _exchanged(model: Model) -> _Exchanged:
    layers = max(len(model.layers), 1)

    def mean(count: Callable[[Iterable[Operator]], int]) -> float:
        return sum(count(layer.operators) for layer in model.layers) / layers

    return _Exchanged(
        collectives=mean(_row_parallel_outputs),
        kv_values=mean(_kv_values),
        kv_heads=float(
            min((op.attention.kv_heads for op in model.operators if op.attention), default=1)
        ),
        head_values=mean(_head_values),
        routed_values=mean(_routed_values),
    )


@once_per_model
def weighted_operators(model: Model) -> tuple[list[Operator], list[int], list[float]]:
    """Distinct operators with their slot and how many a mean layer has of them."""
    counts: dict[Operator, int] = {}
    for layer in model.layers:
        for op in layer.operators:
            counts[op] = counts.get(op, 0) + 1
    layers = max(len(model.layers), 1)
    ops = list(counts)
    slots = [LAYER] * len(ops)
    weights = [counts[op] / layers for op in ops]
    for slot, extra in ((FIRST, model.embedding), (LAST, model.head)):
        ops += extra
        slots += [slot] * len(extra)
        weights += [1.0] * len(extra)
    return ops, slots, weights


def _kind(op: Operator) -> int:
    if op.kind in ("gemm", "grouped_gemm"):
        return GEMM
    return ATTENTION if op.kind in ("attention", "scan") else MEMORY


def _can_be_low_precision(op: Operator) -> bool:
    return op.kind in ("gemm", "grouped_gemm") and op.name not in _LOWP_EXCLUDED


def _row_parallel_outputs(operators: Iterable[Operator]) -> int:
    return sum(op.kind == "gemm" and op.shard == "row" for op in operators)


def _kv_values(operators: Iterable[Operator]) -> int:
    return sum(
        a.kv_heads * (a.qk_dim + a.v_dim)
        for op in operators
        if (a := op.attention) is not None and not a.cross
    )


def _head_values(operators: Iterable[Operator]) -> int:
    """Values of queries, keys, values and outputs of one token."""
    return sum(
        (a.heads + a.kv_heads) * (a.qk_dim + a.v_dim)
        for op in operators
        if (a := op.attention) is not None and not a.cross
    )


def _routed_values(operators: Iterable[Operator]) -> int:
    """Values a token sends to its experts: one expert input for each expert it is routed to.

    The input of the first expert product is the hidden row, or the narrower latent one.
    """
    grouped = [op for op in operators if op.kind == "grouped_gemm"]
    return grouped[0].experts_per_token * grouped[0].in_features if grouped else 0


def _lower_operator(
    op: Operator,
    keys: Keys,
    tokens: FloatArray,
    seq_len: int,
    bytes_per_value: float,
    causal_skip: bool,
) -> dict[str, FloatArray]:
    one = np.ones_like(tokens)
    if op.kind == "gemm":
        return _lower_gemm(op, keys, tokens, bytes_per_value)
    if op.kind == "grouped_gemm":
        return _lower_grouped(op, keys, tokens, bytes_per_value)
    if op.kind == "attention" and op.attention is not None:
        a = op.attention
        context = a.mean_context(seq_len, masked=causal_skip)
        flops = 2.0 * a.heads / keys.tp * (a.qk_dim + a.v_dim) * context * tokens
        moved = (a.heads * (a.qk_dim + a.v_dim) + a.kv_heads * (a.qk_dim + a.v_dim)) / keys.tp
        nbytes = moved * tokens * bytes_per_value
        if not causal_skip:
            # Unfused attention writes and reads scores, softmax and dropout of every head.
            nbytes = nbytes + a.heads / keys.tp * context * tokens * _UNFUSED_SCORE_BYTES
        return {"m": tokens, "n": one * context, "k": one * a.qk_dim, "batch": a.heads / keys.tp,
                    "flops": flops, "nbytes": nbytes}  # fmt: skip
    if op.kind in ("scan", "conv"):
        flops = tokens * op.scan_flops_per_token / keys.tp
        values = float(op.in_features + op.out_features)
        return {"m": tokens, "n": one, "k": one, "batch": one, "flops": flops,
                    "nbytes": values / keys.tp * tokens * bytes_per_value}  # fmt: skip
    width = float(op.in_features + op.out_features)
    # Sequence parallelism and sharded activations both leave 1/tp of the row to each rank.
    nbytes = width / keys.tp * tokens * bytes_per_value
    return {"m": tokens, "n": one, "k": one, "batch": one, "flops": 0.0 * tokens, "nbytes": nbytes}


_UNFUSED_SCORE_BYTES = 11.0
"""Bytes a score costs in unfused attention's forward pass: written by the product (2), read and
written by masked softmax (4), read and written with its mask by dropout (5)."""


def _lower_gemm(
    op: Operator, keys: Keys, tokens: FloatArray, bytes_per_value: float
) -> dict[str, FloatArray]:
    n = np.full_like(tokens, float(op.out_features))
    k = np.full_like(tokens, float(op.in_features))
    m = tokens
    if op.shard in ("column", "vocab", "heads"):
        n = n / keys.tp
    elif op.shard == "row":
        k = k / keys.tp
    else:
        m = tokens / keys.tp
    return {"m": m, "n": n, "k": k, "batch": np.ones_like(tokens), "flops": 2.0 * m * n * k,
                "nbytes": (m * n + n * k + m * k) * bytes_per_value}  # fmt: skip


def _lower_grouped(
    op: Operator, keys: Keys, tokens: FloatArray, bytes_per_value: float
) -> dict[str, FloatArray]:
    local = np.maximum(op.experts / keys.ep, 1.0)
    # Expert-tensor parallelism gathers the tokens of etp ranks and splits each expert's features.
    m = tokens / keys.tp * op.experts_per_token * keys.etp / local
    column = op.name.endswith("up")
    n = np.full_like(m, float(op.out_features)) / (keys.etp if column else 1.0)
    k = np.full_like(m, float(op.in_features)) / (1.0 if column else keys.etp)
    return {"m": m, "n": n, "k": k, "batch": local,
                "flops": 2.0 * m * n * k * local,
                "nbytes": (m * n + n * k + m * k) * local * bytes_per_value}  # fmt: skip
