"""Step time of many layouts at once: operators, communication, pipeline, gradients.

``compile_layouts`` does all that no fitted constant changes; ``weftline.plan.step.timing`` is
arithmetic on its arrays. So a search times millions of layouts with one set of constants, and a fit
times measured rows again and again with changing ones.

Pipeline: 1F1B and interleaved 1F1B take n * stage + (p - 1) * stage / v (arXiv:2104.04473, section
2.2). Data-parallel reduction overlaps with the backward pass of the last micro-batch, or with all
of them under ZeRO-3. Communication that does not hide adds up.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Final

import numpy as np

from weftline.model import Model
from weftline.model.once import once_per_model
from weftline.operators.products import family_of
from weftline.plan.step.columns import IntArray, Layouts
from weftline.plan.step.constants import FloatArray, Number
from weftline.plan.step.frameworks import Framework
from weftline.plan.step.frozen import frozen_of
from weftline.plan.step.groups import Groups, groups_of
from weftline.plan.step.pricing import Priced, Rates, price
from weftline.plan.step.recipes import Recipe, recipe_of_framework
from weftline.plan.step.saved import again_of
from weftline.plan.step.workload import Work, lower
from weftline.spec import Cluster

RECOMPUTE_NONE, RECOMPUTE_SELECTIVE, RECOMPUTE_FULL = 0, 1, 2
OFFLOAD_LINK_BYTES, OFFLOAD_LINK_BYTES_PER_S = 6.0, 20e9
"""Gradient down (4) and weight up (2) a parameter; a chip's share of PCIe 4.0 x16, assumed."""
OFFLOAD_HOST_BYTES, OFFLOAD_HOST_BYTES_PER_S = 28.0, 25e9
"""What Adam reads and writes a parameter on the host; a chip's share of host memory, assumed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """What one chip offers; floats, or one entry a key."""

    peak_flops: Number
    low_peak_flops: Number
    """Peak of the precision that GEMMs train in; equal to ``peak_flops`` for bf16."""
    memory_bandwidth_bytes_per_s: Number
    watts_per_tflops: Number = 1e3
    """Design power over the bf16 peak, W s/TFLOP; very large where it is not published."""
    vector_flops: Number = 1e30
    """FP32 peak of the vector lanes, FLOP/s; very large where none is published."""
    fp4: Number = 0.0
    """1 where GEMMs run in fp4."""
    newer_attention: Number = 0.0
    """1 where attention kernels newer than flash attention 2 are written for the chip."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    """All about layouts that constants do not change."""

    work: Work
    priced: Priced
    device: Device
    recipe: Recipe
    """What the framework's release overlaps and fuses; flags are floats, or one entry a key."""
    layouts: Layouts
    key: IntArray
    layers: FloatArray
    stage_layers: FloatArray
    edge_layers: FloatArray
    """Layers of the first and last stage, which also hold embedding and loss."""
    chips: FloatArray
    frozen: Number
    """1 where weights are frozen: they are not quantised again each micro-batch."""
    moe_fraction: FloatArray
    groups: Groups
    """Which ranks exchange what."""
    pp_bytes: FloatArray
    dp_reduce_bytes: FloatArray
    dp_gather_bytes: FloatArray
    edp_reduce_bytes: FloatArray
    edp_gather_bytes: FloatArray
    replica_bytes: FloatArray
    etp_bytes: FloatArray
    """[K] routed tokens gathered over an expert-tensor-parallel group in a mean layer."""
    optimizer_bytes: FloatArray
    """Bytes the optimizer step reads and writes in the chip's memory."""
    optimizer_flops: FloatArray
    offload_s: FloatArray
    """Gradients down, update in host memory, weights up, where states are offloaded."""
    once_a_rank: FloatArray
    """[K] bytes of expert all-to-all inside a node where a token goes once to a rank, over those
    where it goes once to each of its experts."""
    once_a_node: FloatArray
    """[K] the same between nodes where it goes once to a node."""
    dispatch_share: FloatArray
    bubble_share: FloatArray
    weight_gradients: Number
    """Products of backward beside those for inputs, over the forward's: 1 for gradients of every
    weight; of adapters what little they compute forward and backward."""
    again: FloatArray
    """[n, 4] shares of a layer's products, attention, other operators and expert exchange that
    selective recomputation runs again."""
    unpack_bytes: FloatArray
    """Bytes that unpacking a mean layer's frozen 4-bit weights moves, once a pass."""


_TABLE_PAYS: Final = 256
"""Layouts from which on looking up the few degrees there are is faster than computing."""


def split_layers(layers: float, pp: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Layers of a middle stage and of an edge stage (first, last).

    Even where ``pp`` divides; otherwise embedding and loss each count as a layer where that comes
    out even (as Megatron's account-for-embedding and -loss options and Llama 3 405B do), else the
    middle stages take one more.
    """
    if len(pp) > _TABLE_PAYS:
        table = _split_table(layers, int(pp.max()))
        at = pp.astype(np.int64)
        return table[0][at], table[1][at]
    return _split(layers, pp)


@functools.lru_cache(maxsize=64)
def _split_table(layers: float, most: int) -> tuple[FloatArray, FloatArray]:
    middle, edge = _split(layers, np.arange(1.0, most + 1))
    return np.concatenate([[0.0], middle]), np.concatenate([[0.0], edge])


def _split(layers: float, pp: FloatArray) -> tuple[FloatArray, FloatArray]:
    even = np.mod(layers, pp) == 0
    as_layers = np.mod(layers + 2, pp) == 0
    middle = np.where(even, layers / pp, np.where(as_layers, (layers + 2) / pp,
                                                  np.ceil(layers / pp)))  # fmt: skip
    rest = (layers - middle * np.maximum(pp - 2, 0)) / np.minimum(pp, 2)
    edge = np.where(even, middle, np.where(as_layers, middle - 1, np.maximum(rest, 0.0)))
    return middle, np.where(pp == 1, layers, edge)


def compile_layouts(
    model: Model, cluster: Cluster, frame: Framework, layouts: Layouts, *, seq_len: int,
    precision: str,
) -> Compiled:  # fmt: skip
    """Lower ``model`` on ``cluster`` for every layout; ``precision`` is that of the GEMMs."""
    keys, key = layouts.keys()
    values, fused = frame.value_bytes, frame.flash_attention
    chip = cluster.accelerator
    recipe = (frame.recipe or recipe_of_framework(frame.name, chip)).on(chip, model.name)
    device = device_of(cluster, frame, precision)
    rates = Rates(
        accelerator=chip, peak_flops=float(device.peak_flops), precision=precision,
        low_peak_flops=float(device.low_peak_flops),
        bandwidth=cluster.memory_bandwidth_bytes_per_s,
    )  # fmt: skip
    work = lower(model, keys, seq_len, bytes_per_value=values, causal_skip=fused)
    priced = price(model, keys, seq_len, rates, bytes_per_value=values, causal_skip=fused)
    count = float(len(model.layers))
    middle, edge = split_layers(count, layouts.pp)
    stage_chips = layouts.tp * layouts.cp * layouts.dp
    dense, expert = trained_per_chip(model, layouts, frame)
    held, held_experts = frozen_per_chip(model, layouts, frame)
    zero3, split = layouts.zero >= 3, layouts.zero >= 1
    expert_ranks = layouts.ep * layouts.etp
    gathers = np.where(zero3, 2 * layouts.num_micro_batches, 1.0)
    owned = dense / np.where(split, layouts.shard, 1.0)
    owned = owned + expert / np.where(split, stage_chips / expert_ranks, 1.0)
    # Sharded gradients are reduced for every micro-batch: there is nowhere to keep whole ones.
    reductions = np.where(zero3, layouts.num_micro_batches, 1.0)
    weights_sent = np.where(layouts.zero == 0, recipe.reduce_bytes, frame.value_bytes)
    groups = groups_of(cluster, keys, layouts, np.maximum(middle, edge), dense)
    rank_share, node_share = _sent_once(model, keys.ep, groups.ep_domains, recipe)
    return Compiled(
        work=work,
        priced=priced,
        device=device,
        recipe=recipe,
        layouts=layouts,
        key=key,
        layers=np.full(len(layouts), count),
        stage_layers=middle,
        edge_layers=edge,
        chips=stage_chips * layouts.pp,
        frozen=float(frame.adapter_rank > 0),
        moe_fraction=np.full(len(layouts), _moe_fraction(model)),
        groups=groups,
        pp_bytes=work.tp_bytes[key] / layouts.tp,
        dp_reduce_bytes=dense * recipe.reduce_bytes * reductions,
        dp_gather_bytes=dense * weights_sent * gathers + np.where(zero3, held * gathers, 0.0),
        edp_reduce_bytes=expert * recipe.reduce_bytes * reductions,
        edp_gather_bytes=expert * weights_sent * gathers
        + np.where(zero3, held_experts * gathers, 0.0),
        replica_bytes=np.where(layouts.shard < layouts.cp * layouts.dp, 1.0, 0.0)
        * dense * recipe.reduce_bytes / layouts.shard,
        etp_bytes=work.ep_bytes * keys.etp,
        optimizer_bytes=owned * (2 * frame.resident_bytes + frame.grad_bytes + 2),
        optimizer_flops=owned * frame.optimizer_flops_per_width * model.hidden,
        offload_s=owned * (OFFLOAD_LINK_BYTES / OFFLOAD_LINK_BYTES_PER_S
                           + OFFLOAD_HOST_BYTES / OFFLOAD_HOST_BYTES_PER_S) * frame.offload,
        once_a_rank=rank_share,
        once_a_node=node_share,
        dispatch_share=np.full(len(layouts), frame.dispatch_share),
        bubble_share=np.full(len(layouts), frame.bubble_share),
        weight_gradients=_backward_products(model, frame),
        again=np.broadcast_to(_again(model, frame), (len(layouts), 4)),
        unpack_bytes=_unpacked(model, layouts, frame),
    )  # fmt: skip


def device_of(cluster: Cluster, frame: Framework, precision: str) -> Device:
    """One chip of ``cluster`` as ``frame`` uses it."""
    peak = cluster.peak_flops["bf16"]
    return Device(
        peak_flops=peak * frame.compute_share,
        low_peak_flops=cluster.peak_flops.get(precision, peak) * frame.compute_share,
        watts_per_tflops=1e3 if cluster.tdp_w is None else cluster.tdp_w / (peak / 1e12),
        vector_flops=cluster.peak_flops.get("fp32", 1e30),
        fp4=float(precision == "fp4"),
        newer_attention=float(family_of(cluster.accelerator).name in ("hopper", "blackwell")),
        memory_bandwidth_bytes_per_s=cluster.memory_bandwidth_bytes_per_s,
    )


def _sent_once(
    model: Model, ranks: FloatArray, nodes: FloatArray, recipe: Recipe
) -> tuple[FloatArray, FloatArray]:
    """Shares of a token's copies that are left where each rank, or each node, gets one at most.

    Of k choices among d places d (1 - (1 - 1/d)^k) are expected to differ. Experts that lie in
    groups, some of which a token may go to, leave it the places of those; k neighbours of E experts
    lie on k d / E places.
    """
    chosen, groups, of_token = _routing(model)
    near = np.asarray(recipe.neighbours) > 0

    def different(places: FloatArray, choices: float) -> FloatArray:
        return places * (1.0 - (1.0 - 1.0 / np.maximum(places, 1.0)) ** choices)

    def left(places: FloatArray) -> FloatArray:
        open_ = np.where(
            places >= groups, of_token * places / groups, different(places, of_token)
        ) if groups > 1 else places  # fmt: skip
        side_by_side = np.ceil(chosen * places / max(model.experts, 1))
        found = np.where(near, side_by_side, different(open_, chosen))
        return np.where(places > 1, np.minimum(found / chosen, 1.0), 1.0)

    return left(ranks), left(nodes)


@once_per_model
def _routing(model: Model) -> tuple[float, float, float]:
    """Experts a token goes to, groups of experts, and how many of these it may go to."""
    routed = [op for op in model.operators if op.experts_per_token]
    if not routed:
        return 1.0, 1.0, 1.0
    op = max(routed, key=lambda o: o.experts_per_token)
    return float(op.experts_per_token), float(op.expert_groups), float(op.groups_per_token)


def _again(model: Model, frame: Framework) -> FloatArray:
    found = again_of(model, frame)
    return np.array([found.products, found.attention, found.memory, found.dispatch])


def _backward_products(model: Model, frame: Framework) -> float:
    if not frame.adapter_rank:
        return 1.0 - frozen_of(model, frame.frozen_parts).products
    matrices, _ = _matrices(model)
    return 3.0 * adapter_parameters(model, frame.adapter_rank) / max(matrices, 1.0)


def _unpacked(model: Model, layouts: Layouts, frame: Framework) -> FloatArray:
    """4-bit weights of a mean layer read, and written as computed with."""
    if not frame.adapter_rank or frame.frozen_bytes >= frame.value_bytes:
        return np.zeros(len(layouts))
    each = (frame.frozen_bytes + frame.value_bytes) / max(len(model.layers), 1)
    dense, expert = _matrices(model)[0], _parameters(model)[1]
    return each * (dense / layouts.tp + expert / (layouts.ep * layouts.etp))


@once_per_model
def _parameters(model: Model) -> tuple[float, float, float, float]:
    """Parameters of layers without experts, of experts, of the embedding and of the head."""
    expert = float(sum(layer.expert_parameters for layer in model.layers))
    dense = float(sum(layer.parameters for layer in model.layers)) - expert
    ends = float(sum(op.parameters for op in model.embedding))
    return dense, expert, ends, float(sum(op.parameters for op in model.head))


@once_per_model
def _moe_fraction(model: Model) -> float:
    """Share of the layers that route to experts."""
    moe = sum(any(op.kind == "grouped_gemm" for op in layer.operators) for layer in model.layers)
    return moe / max(len(model.layers), 1)


_PIECES: Final = {"qkv": 3, "gate_up": 2, "kv": 2, "qkv_down": 2}
"""Matrices that checkpoints keep apart and a step multiplies as one, by the operator's last word:
each has an adapter of its own."""


@once_per_model
def _matrices(model: Model) -> tuple[float, float]:
    """What adapters hang on, over all layers: parameters of the matrices, and their rows + columns.

    Routed experts have none: their matrices are one fused tensor, which adapter libraries pass by;
    nor has the router.
    """
    found = [
        op for layer in model.layers for op in layer.operators
        if op.kind == "gemm" and not op.name.endswith("router")
    ]  # fmt: skip
    pieces = (_PIECES.get(op.name.rpartition(".")[2], 1) for op in found)
    return (
        float(sum(op.in_features * op.out_features for op in found)),
        float(sum(n * op.in_features + op.out_features
                  for op, n in zip(found, pieces, strict=True))),
    )  # fmt: skip


def adapter_parameters(model: Model, rank: int) -> float:
    """Trained parameters of adapters on every matrix of every layer: rank * (rows + columns)
    (arXiv:2106.09685, section 4.1)."""
    return rank * _matrices(model)[1]


def trained_per_chip(
    model: Model, layouts: Layouts, frame: Framework
) -> tuple[FloatArray, FloatArray]:
    """Dense and expert parameters that one chip of the fullest stage trains, before ZeRO, [n] each:
    all of them, or its adapters."""
    if not frame.adapter_rank:
        still = frozen_of(model, frame.frozen_parts)
        return parameters_per_chip(
            model, layouts, weights=(1 - still.dense, 1 - still.experts, 1 - still.ends)
        )
    layers = float(max(len(model.layers), 1))
    middle, edge = split_layers(layers, layouts.pp)
    each = adapter_parameters(model, frame.adapter_rank) / layers
    dense = each * np.maximum(middle, edge) / layouts.tp
    return dense, np.zeros_like(dense)


def frozen_per_chip(
    model: Model, layouts: Layouts, frame: Framework
) -> tuple[FloatArray, FloatArray]:
    """Bytes of dense and expert weights that one chip holds frozen, before ZeRO, [n] each.

    Matrices of the layers are in the frozen format; embedding, head and norms stay as computed
    with. Zero where every weight is trained.
    """
    if frame.frozen_parts:
        still = frozen_of(model, frame.frozen_parts)
        shares = (still.dense, still.experts, still.ends)
        dense, expert, ends = (share * frame.value_bytes for share in shares)
        return parameters_per_chip(model, layouts, weights=(dense, expert, ends))
    if not frame.adapter_rank:
        return np.zeros(len(layouts)), np.zeros(len(layouts))
    dense = max(_parameters(model)[0], 1.0)
    share = min(_matrices(model)[0] / dense, 1.0)
    mean = share * frame.frozen_bytes + (1 - share) * frame.value_bytes
    return parameters_per_chip(
        model, layouts, weights=(mean, frame.frozen_bytes, frame.value_bytes)
    )


def parameters_per_chip(
    model: Model, layouts: Layouts, *, weights: tuple[float, float, float] = (1.0, 1.0, 1.0)
) -> tuple[FloatArray, FloatArray]:
    """Dense and expert parameters one chip of the fullest stage holds before ZeRO, [n] each.

    ``weights`` multiply those of layers, of experts, and of embedding and head: bytes of each.
    """
    layers = max(len(model.layers), 1)
    dense, expert, ends, head = (
        count * weights[i] for count, i in zip(_parameters(model), (0, 1, 2, 2), strict=True)
    )
    middle, edge = split_layers(float(layers), layouts.pp)
    if model.tied_embeddings:
        head_extra = float(model.vocab * model.hidden) * weights[2]
        head_stage = head + np.where(layouts.pp > 1, head_extra, 0.0)
    else:
        head_stage = np.full_like(layouts.pp, head)
    edge_extra = np.where(layouts.pp > 1, np.maximum(ends, head_stage), ends + head_stage)
    by_middle = dense / layers * middle
    by_edge = dense / layers * edge + edge_extra
    fullest_layers = np.maximum(middle, edge)
    return (
        np.maximum(by_middle, by_edge) / layouts.tp,
        expert / layers * fullest_layers / (layouts.ep * layouts.etp),
    )
