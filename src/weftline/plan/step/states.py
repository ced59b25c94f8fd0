"""Weights, gradients and optimizer states of one chip, by pipeline stage, for many layouts."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from weftline.model import Model
from weftline.model.once import once_per_model
from weftline.plan.step.columns import IntArray, Layouts
from weftline.plan.step.compiled import adapter_parameters, split_layers
from weftline.plan.step.constants import FloatArray
from weftline.plan.step.frameworks import Framework
from weftline.plan.step.frozen import frozen_of

__all__ = ["FIRST", "LAST", "MIDDLE", "StageStates", "stage_states"]

FIRST, MIDDLE, LAST = 0, 1, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class StageStates:
    """Bytes a chip of one stage holds whatever the micro-batch, [n] each."""

    weights: FloatArray
    gradients: FloatArray
    optimizer: FloatArray
    buffers: FloatArray
    """What stands there for products to write to: gradient placeholders, and under ZeRO-3 the
    gradients of the layer that is reduced."""
    host: FloatArray
    """In host memory, for one chip; not in the total."""

    def take(self, index: IntArray) -> StageStates:
        """Some of the layouts."""
        return StageStates(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    @property
    def total(self) -> FloatArray:
        """What is in the chip's memory."""
        return self.weights + self.gradients + self.optimizer + self.buffers


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sizes:
    """Parameters of a model's parts."""

    dense: float
    """Of a mean layer without its routed experts."""
    expert: float
    """Of a mean layer's routed experts."""
    embedding: float
    head: float
    head_copy: float
    """Of the embedding's copy that the head's stage has where the two are tied."""
    matrices: float
    """Of ``dense``, what is in matrices that may be quantised or frozen in 4 bits."""
    widest: float
    """Share of a mean layer's parameters in its largest matrix, all experts' together."""
    shapes: float
    """Parameters of one matrix of every shape in a layer; of experts, of one expert."""


@once_per_model
def _sizes(model: Model) -> _Sizes:
    layers = max(len(model.layers), 1)
    expert = float(sum(layer.expert_parameters for layer in model.layers))
    dense = float(sum(layer.parameters for layer in model.layers)) - expert
    products = [
        op for layer in model.layers for op in layer.operators
        if op.kind == "gemm" and not op.name.endswith("router")
    ]  # fmt: skip
    shapes = {
        (op.in_features, op.out_features)
        for layer in model.layers for op in layer.operators if op.kind in ("gemm", "grouped_gemm")
    }  # fmt: skip
    tied = float(model.vocab * model.hidden) if model.tied_embeddings else 0.0
    return _Sizes(
        dense=dense / layers,
        expert=expert / layers,
        embedding=float(sum(op.parameters for op in model.embedding)),
        head=float(sum(op.parameters for op in model.head)),
        head_copy=tied,
        matrices=sum(float(op.in_features * op.out_features) for op in products) / layers,
        widest=max((op.parameters for layer in model.layers for op in layer.operators), default=1)
        / max((dense + expert) / layers, 1.0),
        shapes=float(sum(a * b for a, b in shapes)),
    )


@dataclass(frozen=True, slots=True)
class _Shares:
    """What one parameter of a stage takes on a chip, bytes by kind, [n] each."""

    dense: FloatArray
    """Of the dense part."""
    expert: FloatArray
    """Of routed experts."""

    def of(self, dense: FloatArray, expert: FloatArray) -> FloatArray:
        """Bytes of so many parameters of a stage."""
        return dense * self.dense + expert * self.expert

    def __add__(self, other: _Shares) -> _Shares:
        return _Shares(self.dense + other.dense, self.expert + other.expert)


def stage_states(model: Model, frame: Framework, lay: Layouts) -> tuple[StageStates, ...]:
    """States of the first, a middle and the last stage; a single stage is all three."""
    size = _sizes(model)
    middle, edge = split_layers(float(max(len(model.layers), 1)), lay.pp)
    one = lay.pp == 1
    last = size.head + np.where(one, 0.0, size.head_copy)
    whole = np.where(one, size.embedding + last, 0.0)
    ends = (np.where(one, whole, size.embedding), whole, np.where(one, whole, last))
    outer = np.where(one, middle, edge)
    tp, expert_tp = 1 / lay.tp, 1 / (lay.ep * lay.etp)
    # HSDP splits over the shard group only.
    ranks, expert_ranks = lay.shard, lay.tp * lay.cp * lay.dp * expert_tp
    kept = _Kept(frame, lay.zero, tp, expert_tp, ranks, expert_ranks)
    layer = frame.value_bytes * (_trained(model, frame, size) * tp + (
        0.0 if frame.adapter_rank else size.expert) * expert_tp)  # fmt: skip
    beside = _buffers(frame, lay, size, layer)
    placed = 0.0 if frame.adapter_rank else frame.placeholder_bytes
    shapes, head = placed * size.shapes * tp, placed * model.vocab * model.hidden * tp
    # ZeRO-3 gathers two layers at a time; a compiler that schedules gathers, the one it needs.
    gathered = np.where(lay.zero >= 3, (1.0 if frame.rematerialises else 2.0) * layer, 0.0)
    still = frozen_of(model, frame.frozen_parts)
    found = []
    for stage, (layers, own) in enumerate(zip((outer, middle, outer), ends, strict=True)):
        dense, expert = size.dense * layers + own, size.expert * layers
        weights = gathered
        if frame.adapter_rank:
            weights = weights + _frozen(frame, lay, size, layers, own, tp, expert_tp, expert_ranks)
            dense, expert = _trained(model, frame, size) * layers, np.zeros_like(layers)
        elif frame.weight_copy_bytes:
            cut = np.where(lay.zero >= 3, 2.0 / np.maximum(layers, 1), 1.0)
            copied = size.matrices * layers * tp + expert * expert_tp
            weights = weights + frame.weight_copy_bytes * copied * cut
        weights = weights + kept.weights.of(dense, expert)
        if frame.frozen_parts:
            dense = dense - still.dense * (dense - own) - still.ends * own
            expert = (1 - still.experts) * expert
        found.append(
            StageStates(
                weights=weights,
                gradients=kept.gradients.of(dense, expert),
                optimizer=kept.states.of(dense, expert) * frame.resident_bytes,
                buffers=beside + shapes + (head if stage == LAST else 0.0),
                host=kept.states.of(dense, expert) * frame.host_bytes,
            )
        )
    return tuple(found)


def _trained(model: Model, frame: Framework, size: _Sizes) -> float:
    """Dense parameters of a mean layer that are trained: all, or its adapters."""
    if not frame.adapter_rank:
        return size.dense
    return adapter_parameters(model, frame.adapter_rank) / max(len(model.layers), 1)


class _Kept:
    """Bytes a trained parameter of a stage takes on a chip, by kind."""

    def __init__(
        self, frame: Framework, zero: FloatArray, tp: FloatArray, expert_tp: FloatArray,
        ranks: FloatArray, expert_ranks: FloatArray,
    ) -> None:  # fmt: skip
        def split(each: float, from_stage: int) -> _Shares:
            cut = zero >= from_stage
            return _Shares(
                each * tp / np.where(cut, ranks, 1.0),
                each * expert_tp / np.where(cut, expert_ranks, 1.0),
            )

        def whole(each: FloatArray) -> _Shares:
            return _Shares(each * tp, each * expert_tp)

        self.states = split(1.0, 1)
        if frame.fully_sharded:
            # Below ZeRO-3 the whole stage stays gathered, and its gradients whole.
            below = np.where(zero >= 3, 0.0, 1.0)
            self.weights = split(frame.weight_bytes, 1) + whole(frame.value_bytes * below)
            self.gradients = split(frame.grad_bytes, 3)
        else:
            self.weights = split(frame.weight_bytes, 3)
            self.gradients = split(frame.grad_bytes, 2)


def _buffers(frame: Framework, lay: Layouts, size: _Sizes, layer: FloatArray) -> FloatArray:
    """Under ZeRO-3 one layer's gradients are whole while they are reduced, as computed and as sent;
    a compiler reduces each matrix as it comes."""
    both = (frame.value_bytes + frame.reduce_bytes) / frame.value_bytes
    both *= size.widest if frame.rematerialises else 1.0
    return np.where(lay.zero >= 3, both * layer, 0.0)


def _frozen(
    frame: Framework, lay: Layouts, size: _Sizes, layers: FloatArray, ends: FloatArray,
    tp: FloatArray, expert_tp: FloatArray, expert_ranks: FloatArray,
) -> FloatArray:  # fmt: skip
    """Frozen weights: split from ZeRO-3 on, of which then two layers are whole at a time; where
    they are packed, one layer stands unpacked.

    Matrices of the layers are in the frozen format; embedding, head and norms stay as computed
    with.
    """
    share = min(size.matrices / max(size.dense, 1.0), 1.0)
    mean = share * frame.frozen_bytes + (1 - share) * frame.value_bytes
    cut = lay.zero >= 3
    dense = (size.dense * layers * mean + ends * frame.value_bytes) * tp
    expert = frame.frozen_bytes * size.expert * layers * expert_tp
    split = dense / np.where(cut, lay.shard, 1.0) + expert / np.where(cut, expert_ranks, 1.0)
    packed = frame.frozen_bytes < frame.value_bytes
    whole = np.where(cut, 2.0, 1.0 if packed else 0.0)
    return split + frame.value_bytes * whole * (size.dense * tp + size.expert * expert_tp)
