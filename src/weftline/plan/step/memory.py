"""Memory of one chip, on its fullest pipeline stage, for many layouts at once.

Weights, gradients and optimizer states by what the framework keeps; activations by what backward
reads again, operator by operator. For a GPT layer of hidden size h this is the
s*b*h*(34 + 5*a*s/h) bytes of arXiv:2205.05198 (equation 1), with sequence parallelism /t.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import numpy as np

from weftline.model import Layer, Model, Operator
from weftline.model.once import once_per_model
from weftline.plan.step.compiled import (
    RECOMPUTE_FULL,
    RECOMPUTE_SELECTIVE,
    IntArray,
    Layouts,
    frozen_per_chip,
    parameters_per_chip,
    split_layers,
    trained_per_chip,
)
from weftline.plan.step.constants import FloatArray
from weftline.plan.step.frameworks import Framework


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes on one chip of the fullest stage, one entry a layout; the parts of the chip add up."""

    total_bytes: FloatArray
    weights_bytes: FloatArray
    gradients_bytes: FloatArray
    optimizer_bytes: FloatArray
    activations_bytes: FloatArray
    logits_bytes: FloatArray
    overhead_bytes: FloatArray
    host_bytes: FloatArray
    """In host memory, for one chip; not in the total."""

    def take(self, index: IntArray) -> Memory:
        """Some of the layouts."""
        return Memory(**{f.name: getattr(self, f.name)[index] for f in fields(self)})


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedValues:
    """Bytes a mean layer saves for one token, by how tensor parallelism divides them."""

    sharded: float
    """Divided by tp always: projections' outputs, attention inputs, expert tokens."""
    sequence: float
    """Divided by tp under sequence parallelism only: inputs of norms and of column products."""
    attention: float
    """Score matrices per token (unfused attention), dropped by selective recomputation."""
    residual: float
    """The layer's input alone: all that full recomputation keeps."""


@once_per_model
def saved_values(model: Model, frame: Framework, seq_len: int, *, dropout: bool) -> SavedValues:
    """Bytes saved a token by a mean layer of ``model`` at 2 bytes a value."""
    totals = np.zeros(3)
    for layer in model.layers:
        totals += _layer_saved(layer, model, frame, seq_len, dropout)
    totals *= frame.value_bytes / 2
    sharded, sequence, attention = (totals / max(len(model.layers), 1)).tolist()
    residual = frame.value_bytes * model.hidden
    return SavedValues(sharded=sharded, sequence=sequence, attention=attention, residual=residual)


def _layer_saved(
    layer: Layer, model: Model, frame: Framework, seq_len: int, dropout: bool
) -> FloatArray:
    sharded = sequence = attention = 0.0
    # Dropout after attention and after the feed-forward keeps one byte a value.
    sequence += 2.0 * model.hidden if dropout else 0.0
    for op in layer.operators:
        if op.attention is not None:
            sharded += 2.0 * _attention_inputs(op)
            if not frame.flash_attention:
                # Softmax output (2), dropout mask (1) and dropout output (2) of every score.
                scores = op.attention.heads * op.attention.mean_context(seq_len, masked=False)
                attention += scores * (5.0 if dropout else 2.0)
        elif op.kind == "gemm":
            if op.shard == "row":
                sharded += 2.0 * op.in_features
            elif op.shard in ("column", "heads", "vocab"):
                sequence += 2.0 * op.in_features
            else:
                sequence += 2.0 * op.in_features * (op.out_features > 16)
        elif op.kind == "grouped_gemm":
            sharded += 2.0 * op.in_features * op.experts_per_token
        elif op.kind == "norm":
            wide = op.in_features >= model.hidden
            sequence += 2.0 * op.in_features if wide else 0.0
            sharded += 0.0 if wide else 2.0 * op.in_features
        elif op.kind == "elementwise" and op.in_features > op.out_features > 0:
            # Gated activations save both halves of their input.
            sharded += 2.0 * op.in_features * max(op.experts_per_token, 1)
        elif op.kind == "elementwise" and ".act" in op.name:
            sharded += 2.0 * op.in_features * max(op.experts_per_token, 1)
        elif op.kind in ("scan", "conv"):
            sharded += 2.0 * op.in_features
    return np.array([sharded, sequence, attention])


def _attention_inputs(op: Operator) -> float:
    a = op.attention
    if a is None:
        return 0.0
    return float(a.heads * a.qk_dim + a.kv_heads * (a.qk_dim + a.v_dim))


def memory_of(
    model: Model, frame: Framework, layouts: Layouts, *, seq_len: int, dropout: bool = False
) -> Memory:
    """Bytes on one chip of the fullest stage for every layout."""
    lay = layouts
    dense, expert = trained_per_chip(model, lay, frame)
    stage = lay.tp * lay.cp * lay.dp
    # HSDP splits over the shard group only.
    dense_ranks, expert_ranks = lay.shard, stage / (lay.ep * lay.etp)

    def split(dense: FloatArray, expert: FloatArray, from_stage: int) -> FloatArray:
        cut = lay.zero >= from_stage
        return dense / np.where(cut, dense_ranks, 1.0) + expert / np.where(cut, expert_ranks, 1.0)

    def held(per_parameter: float, from_stage: int) -> FloatArray:
        return per_parameter * split(dense, expert, from_stage)

    per_layer = (dense + expert) / np.maximum(split_layers(len(model.layers), lay.pp)[0], 1)
    if frame.fully_sharded:
        shards = dense / dense_ranks + expert / expert_ranks
        # ZeRO-3 gathers two layers at a time; below it the whole stage stays gathered.
        gathered = frame.value_bytes * np.where(lay.zero >= 3, 2 * per_layer, dense + expert)
        weights = frame.weight_bytes * shards + gathered
        gradients = frame.grad_bytes * np.where(lay.zero >= 3, shards, dense + expert)
    else:
        weights = held(frame.weight_bytes, 3) + np.where(
            lay.zero >= 3, 2 * frame.value_bytes * per_layer, 0.0
        )
        gradients = held(frame.grad_bytes, 2)
    if frame.adapter_rank:
        weights = weights + _frozen(model, frame, lay, split)
    optimizer = held(frame.resident_bytes, 1)
    activations, logits = _activations(model, frame, lay, seq_len, dropout)
    alone = stage * lay.pp == 1
    context = frame.context_bytes * np.where(alone, frame.alone_share, 1.0)
    overhead = context + frame.fragmentation * (activations + gradients + logits)
    total = weights + gradients + optimizer + activations + logits + overhead
    return Memory(
        total_bytes=total,
        weights_bytes=weights,
        gradients_bytes=gradients,
        optimizer_bytes=optimizer,
        activations_bytes=activations,
        logits_bytes=logits,
        overhead_bytes=overhead,
        host_bytes=held(frame.host_bytes, 1),
    )


def _frozen(
    model: Model, frame: Framework, lay: Layouts,
    split: Callable[[FloatArray, FloatArray, int], FloatArray],
) -> FloatArray:  # fmt: skip
    """Frozen weights: split from ZeRO-3 on, of which then two layers are whole at a time; where
    they are packed, one layer stands unpacked."""
    frozen, frozen_experts = frozen_per_chip(model, lay, frame)
    dense, expert = parameters_per_chip(model, lay, weights=(1.0, 1.0, 0.0))
    per_layer = (dense + expert) / np.maximum(split_layers(len(model.layers), lay.pp)[0], 1)
    packed = frame.frozen_bytes < frame.value_bytes
    whole = np.where(lay.zero >= 3, 2.0, 1.0 if packed else 0.0)
    return split(frozen, frozen_experts, 3) + frame.value_bytes * whole * per_layer


@dataclass(frozen=True, slots=True, kw_only=True)
class Stages:
    """Activations by stage, linear in the share of layers computed again; bytes."""

    layer: FloatArray
    """One layer's activations of one micro-batch, kept whole."""
    bare: FloatArray
    """The same layer's input alone: what full recomputation keeps."""
    counts: tuple[FloatArray, FloatArray, FloatArray]
    """Layers times micro-batches on the first, second and last stage."""
    extra: tuple[FloatArray, FloatArray, FloatArray]
    """What a stage holds beside layers: embedding output, logits."""


def _stages(model: Model, frame: Framework, lay: Layouts, seq_len: int, dropout: bool) -> Stages:
    """The stages that can be fullest.

    The first keeps the most micro-batches, the second may have more layers, the last has the
    logits; a single stage is all three.
    """
    saved = saved_values(model, frame, seq_len, dropout=dropout)
    tokens = lay.micro_batch * seq_len / lay.cp
    sequence_split = lay.tp if frame.sequence_parallel else np.ones_like(lay.tp)
    attention = saved.attention / lay.tp * np.where(lay.recompute == RECOMPUTE_SELECTIVE, 0.0, 1.0)
    middle, edge = split_layers(float(len(model.layers)), lay.pp)
    ends = np.where(lay.pp > 1, edge, middle)
    embedding = tokens * model.hidden * (1.0 if dropout else 0.0) / sequence_split
    logits = tokens * model.vocab / lay.tp * frame.logits_bytes
    first = embedding * _in_flight(lay, 0)
    return Stages(
        layer=tokens * (saved.sharded / lay.tp + saved.sequence / sequence_split + attention),
        bare=tokens * saved.residual / sequence_split,
        counts=(
            ends * _in_flight(lay, 0),
            np.where(lay.pp > 2, middle * _in_flight(lay, 1), 0.0),
            ends * _in_flight(lay, lay.pp - 1),
        ),
        extra=(first, np.zeros_like(first), logits + np.where(lay.pp > 1, 0.0, first)),
    )


def _activations(
    model: Model, frame: Framework, lay: Layouts, seq_len: int, dropout: bool
) -> tuple[FloatArray, FloatArray]:
    """Activations and logits of the stage where the two together are largest."""
    stages = _stages(model, frame, lay, seq_len, dropout)
    kept = stages.layer - lay.recompute_share * (stages.layer - stages.bare)
    working = np.where(lay.recompute_share > 0, stages.layer, 0.0)
    held = [kept * c + e for c, e in zip(stages.counts, stages.extra, strict=True)]
    early = np.maximum(held[0], held[1])
    tokens = lay.micro_batch * seq_len / lay.cp
    logits = tokens * model.vocab / lay.tp * frame.logits_bytes
    at_end = held[2] >= early
    return np.where(at_end, held[2] - logits, early) + working, np.where(at_end, logits, 0.0)


def _in_flight(lay: Layouts, stage: FloatArray | int) -> FloatArray:
    """Micro-batches whose activations a stage holds at most.

    1F1B: p - i on stage i. Interleaved: 2 (p - 1 - i) + (v - 1) p + 1 chunks of 1/v
    (arXiv:2104.04473, section 2.2, counted as Megatron-LM's warm-up does). Never more than there
    are.
    """
    plain = lay.pp - stage
    chunks = 2 * (lay.pp - 1 - stage) + (lay.vp - 1) * lay.pp + 1
    return np.minimum(np.where(lay.vp > 1, chunks / lay.vp, plain), lay.num_micro_batches)


def fit_recompute(
    model: Model, frame: Framework, layouts: Layouts, *, seq_len: int, capacity_bytes: float
) -> Layouts:
    """Recompute as many layers as it takes to fit, and no more.

    Layouts that fit as they are, and those that do not fit even with every layer computed again,
    stay as they are; the others get the least whole number of layers a stage.
    """
    return recomputed(
        layouts, before_recompute(model, frame, layouts, seq_len=seq_len), frame,
        layers=len(model.layers), capacity_bytes=capacity_bytes,
    )  # fmt: skip


def before_recompute(
    model: Model, frame: Framework, layouts: Layouts, *, seq_len: int
) -> tuple[Memory, Stages]:
    """What :func:`recomputed` needs to know of layouts, the same whatever the capacity."""
    memory = memory_of(model, frame, layouts, seq_len=seq_len)
    return memory, _stages(model, frame, layouts, seq_len, dropout=False)


def recomputed(
    layouts: Layouts, before: tuple[Memory, Stages], frame: Framework, *, layers: int,
    capacity_bytes: float,
) -> Layouts:  # fmt: skip
    """The second half of :func:`fit_recompute`: what depends on the capacity."""
    memory, stages = before
    lossy = 1 + frame.fragmentation
    # Every stage is linear in the share, so the least share is the largest that any stage asks.
    fixed = memory.total_bytes - lossy * (memory.activations_bytes + memory.logits_bytes)
    budget = (capacity_bytes - fixed) / lossy - stages.layer
    gain = np.maximum(stages.layer - stages.bare, 1e-9)
    share = np.zeros(len(layouts))
    for count, extra in zip(stages.counts, stages.extra, strict=True):
        over = stages.layer * count + extra - budget
        share = np.maximum(share, over / (gain * np.maximum(count, 1e-9)))
    stage, _ = split_layers(float(layers), layouts.pp)
    share = np.minimum(np.ceil(share * stage - 1e-9) / stage, 1.0)
    helps = (memory.total_bytes > capacity_bytes) & (layouts.recompute_share == 0)
    return replace(
        layouts,
        recompute=np.where(helps, float(RECOMPUTE_FULL), layouts.recompute),
        recompute_share=np.where(helps, share, layouts.recompute_share),
    )
