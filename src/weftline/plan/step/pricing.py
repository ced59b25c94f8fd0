"""Reference seconds of every key's operators: what no fitted constant changes.

Products are timed forward and in both backward forms, (m, k) x (k, n), (m, n) x (n, k) and
(k, m) x (m, n), by :mod:`weftline.operators.products`; attention and scans forward; norms,
activations, permutations and casts as bytes. Constants later multiply whole classes, so a search
times each key once and a fit never times one again.

Legend: ``K`` keys; slots as in :mod:`weftline.plan.step.workload`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final

import numpy as np

from weftline.model import Model, Operator
from weftline.model.once import once_per_model
from weftline.operators.products import TrainingOperators, training_operators
from weftline.plan.step.constants import FloatArray
from weftline.plan.step.workload import (
    ATTENTION,
    GEMM,
    LAYER,
    Keys,
    Work,
    keys_code,
    keys_of_code,
    lower,
    weighted_operators,
)

__all__ = ["CLASSES", "FORMS", "Priced", "Rates", "price"]

CLASSES: Final = ("wide", "low", "grouped wide", "grouped low")
"""Products by what multiplies them: format, and one kernel or one for all experts."""
FORMS: Final = ("forward", "inputs", "weights", "at peak")
"""The three products of a matrix, and the FLOP of one of them at the peak of its format."""
_KEPT: Final = 64
_CAST_BYTES: Final = 4.0
"""Bytes a value that is quantised costs: read in bf16, written by rows and by columns."""
_ROUTED_PASSES: Final = 4.0
"""Times a routed copy is read or written in bf16 by permutation: out of token order, and back."""
_LAUNCHES: Final = {
    "product": 2.0, "cast": 2.0, "attention": 2.0, "unfused attention": 10.0, "memory": 3.0,
    "scan": 5.0, "routing": 40.0, "exchange": 4.0,
}  # fmt: skip
"""Kernels and calls launched forward: a product with its bias or copy and its casts; attention's
products, mask, softmax, dropout and transposes; norms and activations with their residuals; the
parts of a chunked scan; a mixture layer's router, permutation and exchange; a tensor-parallel
scatter and gather with their waits. Counted on layers of Megatron-LM and Megatron-Core."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """What one chip runs at, apart from its name."""

    accelerator: str
    peak_flops: float
    low_peak_flops: float
    bandwidth: float
    """Bytes a second."""
    precision: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Priced:
    """Forward seconds and bytes of every key by slot, [.., 3, K]; launches [K]."""

    products: FloatArray
    """[classes, forms, 3, K] seconds, see :data:`CLASSES` and :data:`FORMS`."""
    attention_s: FloatArray
    scan_s: FloatArray
    memory_bytes: FloatArray
    """Norms, activations, rotary: least bytes."""
    expert_bytes: FloatArray
    """The same of routed experts."""
    routed_bytes: FloatArray
    """Permutation of routed tokens."""
    cast_bytes: FloatArray
    """Quantisation of inputs, forward."""
    cast_back_bytes: FloatArray
    """Quantisation of gradients, backward."""
    cast_weight_bytes: FloatArray
    """Quantisation of weights, once a micro-batch."""
    expert_cast_bytes: FloatArray
    expert_cast_back_bytes: FloatArray
    launches: FloatArray
    """[K] of a mean layer's forward pass."""


def price(
    model: Model, keys: Keys, seq_len: int, rates: Rates, *, bytes_per_value: float,
    causal_skip: bool,
) -> Priced:  # fmt: skip
    """Time the operators of ``model`` for every key at ``rates``."""
    return _priced(
        model, keys_code(keys), seq_len, rates, bytes_per_value=bytes_per_value,
        causal_skip=causal_skip,
    )  # fmt: skip


def _price(
    model: Model, code: tuple[bytes, ...], seq_len: int, rates: Rates, *, bytes_per_value: float,
    causal_skip: bool,
) -> Priced:  # fmt: skip
    keys = keys_of_code(code)
    work = lower(model, keys, seq_len, bytes_per_value=bytes_per_value, causal_skip=causal_skip)
    ops, slots, weights = weighted_operators(model)
    shape = (3, len(keys))
    out = Priced(
        products=np.zeros((len(CLASSES), len(FORMS), *shape)),
        **{f.name: np.zeros(shape if f.name != "launches" else shape[1:])
           for f in fields(Priced) if f.name != "products"},
    )  # fmt: skip
    timer = _Timer(work, keys, rates, len(ops), causal_skip)
    for index, (op, slot, weight) in enumerate(zip(ops, slots, weights, strict=True)):
        timer.add(out, op, index, slot, weight)
    return out


_priced = once_per_model(_price, _KEPT)


class _Timer:
    """Adds one operator of every key to the sums of its slot."""

    def __init__(self, work: Work, keys: Keys, rates: Rates, count: int, fused: bool) -> None:
        self.work, self.keys, self.rates, self.count, self.fused = work, keys, rates, count, fused
        self.room: TrainingOperators = training_operators(rates.accelerator)

    def column(self, name: str, index: int) -> FloatArray:
        """One operator's values, [K]."""
        out: FloatArray = getattr(self.work, name).reshape(-1, self.count)[:, index]
        return out

    def add(self, out: Priced, op: Operator, index: int, slot: int, weight: float) -> None:
        """Add one operator, ``weight`` of which a mean layer holds."""
        kind = int(self.work.kind[index])
        if kind == GEMM:
            self._product(out, op, index, slot, weight)
        elif kind == ATTENTION and op.kind == "attention":
            out.attention_s[slot] += weight * self._attention_s(op, index)
            name = "attention" if self.fused else "unfused attention"
            self._launch(out, slot, weight * _LAUNCHES[name])
        elif op.kind == "scan":
            tokens = self.column("m", index) / self.keys.micro_batch
            flops = op.scan_flops_per_token / self.keys.tp
            out.scan_s[slot] += weight * self.room.scan_s(
                self.keys.micro_batch, tokens, flops, self.rates.bandwidth
            )
            self._launch(out, slot, weight * _LAUNCHES["scan"])
        else:
            bytes_ = out.expert_bytes if op.name.startswith("moe.experts") else out.memory_bytes
            bytes_[slot] += weight * self.column("nbytes", index)
            self._launch(out, slot, weight * _LAUNCHES["memory"])

    def _launch(self, out: Priced, slot: int, count: FloatArray | float) -> None:
        if slot == LAYER:
            out.launches[:] += count

    def _product(self, out: Priced, op: Operator, index: int, slot: int, weight: float) -> None:
        r = self.rates
        m, n, k, batch = (self.column(name, index) for name in ("m", "n", "k", "batch"))
        low = bool(self.work.low_precision[index]) and r.low_peak_flops > r.peak_flops * 1.01
        grouped = op.kind == "grouped_gemm"
        fmt = r.precision if low or r.precision == "fp32" else "bf16"
        # fp32 slows every product; narrower formats serve only those that stand them.
        peak = r.low_peak_flops if low else min(r.peak_flops, r.low_peak_flops)
        sums = out.products[2 * grouped + low]
        for form, (a, b, c) in enumerate(((m, n, k), (m, k, n), (k, n, m))):
            seconds = (
                self.room.grouped_s(fmt, a, b, c, batch, peak, r.bandwidth)
                if grouped
                else self.room.product_s(fmt, a, b, c, peak, r.bandwidth)
            )
            sums[form, slot] += weight * seconds
        sums[3, slot] += weight * 2.0 * m * n * k * batch / peak
        launches = _LAUNCHES["product"] + (_LAUNCHES["cast"] if low else 0.0)
        if low:
            values = weight * batch * _CAST_BYTES
            casts = out.expert_cast_bytes if grouped else out.cast_bytes
            back = out.expert_cast_back_bytes if grouped else out.cast_back_bytes
            casts[slot] += values * m * k
            back[slot] += values * m * n
            out.cast_weight_bytes[slot] += values * n * k
        self._launch(out, slot, weight * launches * (batch if grouped else 1.0))
        if op.shard == "row" and not grouped:
            exchanged = np.where(self.keys.tp > 1, _LAUNCHES["exchange"], 0.0)
            self._launch(out, slot, weight * exchanged)
        if grouped and op.name.endswith("up"):
            out.routed_bytes[slot] += weight * m * k * batch * 2.0 * _ROUTED_PASSES
            self._launch(out, slot, weight * _LAUNCHES["routing"])

    def _attention_s(self, op: Operator, index: int) -> FloatArray:
        r, a = self.rates, op.attention
        flops, nbytes = self.column("flops", index), self.column("nbytes", index)
        if not self.fused or a is None:
            # Two products at half the peak and the scores' trips through memory, one after another.
            return flops / (r.peak_flops * 0.5) + nbytes / (r.bandwidth * 0.85)
        heads = self.column("batch", index)
        caches = np.maximum(a.kv_heads / self.keys.tp, 1.0)
        return self.room.attention_s(
            self.column("m", index) / self.keys.micro_batch, self.column("n", index),
            self.keys.micro_batch * caches, heads / caches, a.qk_dim, a.v_dim, r.peak_flops,
            r.bandwidth,
        )  # fmt: skip
