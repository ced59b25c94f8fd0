"""Weights, gradients and optimizer states of one chip, by pipeline stage, for many layouts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from weftline.model import Model
from weftline.model.once import once_per_model
from weftline.plan.step.compiled import Layouts, adapter_parameters, split_layers
from weftline.plan.step.constants import FloatArray
from weftline.plan.step.frameworks import Framework

__all__ = ["StageStates", "stage_states"]


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


def stage_states(model: Model, frame: Framework, lay: Layouts) -> tuple[StageStates, ...]:
    """States of the first, a middle and the last stage; a single stage is all three."""
    size = _sizes(model)
    middle, edge = split_layers(float(max(len(model.layers), 1)), lay.pp)
    one = lay.pp == 1
    last = size.head + np.where(one, 0.0, size.head_copy)
    ends = (
        size.embedding + np.where(one, last, 0.0),
        np.where(one, size.embedding + last, 0.0),
        last + np.where(one, size.embedding, 0.0),
    )
    layers = (np.where(one, middle, edge), middle, np.where(one, middle, edge))
    return tuple(
        _states(model, frame, lay, size, n, end, loss=stage == 2)
        for stage, (n, end) in enumerate(zip(layers, ends, strict=True))
    )


def _states(
    model: Model, frame: Framework, lay: Layouts, size: _Sizes, layers: FloatArray,
    ends: FloatArray, *, loss: bool,
) -> StageStates:  # fmt: skip
    """States of a stage of so many layers and so many parameters beside them."""
    expert_tp = lay.ep * lay.etp
    # HSDP splits over the shard group only.
    ranks, expert_ranks = lay.shard, lay.tp * lay.cp * lay.dp / expert_tp
    dense = (size.dense * layers + ends) / lay.tp
    expert = size.expert * layers / expert_tp
    if frame.adapter_rank:
        trained = adapter_parameters(model, frame.adapter_rank) / max(len(model.layers), 1)
        dense_trained, expert_trained = trained * layers / lay.tp, np.zeros_like(dense)
    else:
        dense_trained, expert_trained = dense, expert

    def held(per_parameter: float, from_stage: int) -> FloatArray:
        cut = lay.zero >= from_stage
        return per_parameter * (
            dense_trained / np.where(cut, ranks, 1.0)
            + expert_trained / np.where(cut, expert_ranks, 1.0)
        )

    sharded3 = lay.zero >= 3
    trained_all = dense_trained + expert_trained
    # ZeRO-3 gathers two layers at a time; a compiler that schedules gathers, the one it needs.
    one_layer = frame.value_bytes * trained_all / np.maximum(layers, 1)
    gathered = one_layer if frame.rematerialises else 2 * one_layer
    if frame.fully_sharded:
        shards = held(1.0, 1)
        # Below ZeRO-3 the whole stage stays gathered, and its gradients whole.
        weights = frame.weight_bytes * shards + np.where(
            sharded3, gathered, frame.value_bytes * trained_all
        )
        gradients = frame.grad_bytes * np.where(sharded3, shards, trained_all)
    else:
        weights = held(frame.weight_bytes, 3) + np.where(sharded3, gathered, 0.0)
        gradients = held(frame.grad_bytes, 2)
    if frame.weight_copy_bytes and not frame.adapter_rank:
        cut = np.where(sharded3, 2.0 / np.maximum(layers, 1), 1.0)
        copied = size.matrices * layers / lay.tp + expert
        weights = weights + frame.weight_copy_bytes * copied * cut
    # Under ZeRO-3 one layer's gradients are whole while they are reduced, as computed and as sent;
    # a compiler reduces each matrix as it comes.
    both = (frame.value_bytes + frame.reduce_bytes) / frame.value_bytes
    both *= size.widest if frame.rematerialises else 1.0
    buffers = np.where(sharded3, both * one_layer, 0.0)
    if frame.placeholder_bytes and not frame.adapter_rank:
        shapes = size.shapes + (model.vocab * model.hidden if loss else 0.0)
        buffers = buffers + frame.placeholder_bytes * shapes / lay.tp
    if frame.adapter_rank:
        weights = weights + _frozen(frame, lay, size, layers, ends, expert, expert_ranks)
    return StageStates(
        weights=weights,
        gradients=gradients,
        optimizer=held(frame.resident_bytes, 1),
        buffers=buffers,
        host=held(frame.host_bytes, 1),
    )


def _frozen(
    frame: Framework, lay: Layouts, size: _Sizes, layers: FloatArray, ends: FloatArray,
    expert: FloatArray, expert_ranks: FloatArray,
) -> FloatArray:  # fmt: skip
    """Frozen weights: split from ZeRO-3 on, of which then two layers are whole at a time; where
    they are packed, one layer stands unpacked.

    Matrices of the layers are in the frozen format; embedding, head and norms stay as computed
    with.
    """
    share = min(size.matrices / max(size.dense, 1.0), 1.0)
    mean = share * frame.frozen_bytes + (1 - share) * frame.value_bytes
    dense = (size.dense * layers * mean + ends * frame.value_bytes) / lay.tp
    cut = lay.zero >= 3
    split = dense / np.where(cut, lay.shard, 1.0) + frame.frozen_bytes * expert / np.where(
        cut, expert_ranks, 1.0
    )
    packed = frame.frozen_bytes < frame.value_bytes
    whole = np.where(cut, 2.0, 1.0 if packed else 0.0)
    layer = size.dense / lay.tp + expert / np.maximum(layers, 1)
    return split + frame.value_bytes * whole * layer
