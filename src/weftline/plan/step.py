"""Step time of many layouts at once: operators, communication, pipeline, gradients.

``compile_layouts`` does all that no fitted constant changes; ``time_step`` is arithmetic on
its arrays. So a search times millions of layouts with one set of constants, and a fit times
measured rows again and again with changing ones.

Pipeline: 1F1B and interleaved 1F1B take n * stage + (p - 1) * stage / v (arXiv:2104.04473, section
2.2). Data-parallel reduction overlaps with the backward pass of the last micro-batch, or with all
of them under ZeRO-3. Communication that does not hide adds up.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from weftline.fabric.closed_forms import GroupCost, all_to_all_cost, gather_cost, send_cost
from weftline.model import Model
from weftline.plan.constants import Constants, FloatArray, Number
from weftline.plan.frameworks import Framework
from weftline.plan.workload import ATTENTION, FIRST, GEMM, LAST, LAYER, Keys, Work, lower
from weftline.spec import Cluster

IntArray = npt.NDArray[np.int64]
RECOMPUTE_NONE, RECOMPUTE_SELECTIVE, RECOMPUTE_FULL = 0, 1, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Layouts:
    """Columns of layouts, one entry a layout; names as in :class:`weftline.spec.Layout`."""

    tp: FloatArray
    cp: FloatArray
    dp: FloatArray
    pp: FloatArray
    ep: FloatArray
    vp: FloatArray
    micro_batch: FloatArray
    num_micro_batches: FloatArray
    zero: FloatArray
    recompute: FloatArray
    """RECOMPUTE_NONE, RECOMPUTE_SELECTIVE (attention scores) or RECOMPUTE_FULL."""
    recompute_share: FloatArray
    """Under RECOMPUTE_FULL the share of a stage's layers computed again, else 0."""

    def __len__(self) -> int:
        return len(self.tp)

    def take(self, index: IntArray | npt.NDArray[np.bool_]) -> Layouts:
        """Some of the layouts."""
        return Layouts(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def keys(self) -> tuple[Keys, IntArray]:
        """Distinct work keys and, for each layout, the index of its own."""
        code = ((self.tp * 1024 + self.cp) * 4096 + self.ep) * 16384 + self.micro_batch
        _, first, index = np.unique(code, return_index=True, return_inverse=True)
        return (
            Keys(tp=self.tp[first], cp=self.cp[first], ep=self.ep[first],
                 micro_batch=self.micro_batch[first]),
            index.astype(np.int64),
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """What one chip offers; floats, or one entry a key."""

    peak_flops: Number
    low_peak_flops: Number
    """Peak of the precision that GEMMs train in; equal to ``peak_flops`` for bf16."""
    memory_bandwidth_bytes_per_s: Number
    watts_per_tflops: Number = 1e3
    """Design power over the bf16 peak, W s/TFLOP; very large where it is not published."""
    fp4: Number = 0.0
    """1 where GEMMs run in fp4."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    """All about layouts that constants do not change."""

    work: Work
    device: Device
    layouts: Layouts
    key: IntArray
    layers: FloatArray
    stage_layers: FloatArray
    edge_layers: FloatArray
    """Layers of the first and last stage, which also hold embedding and loss."""
    chips: FloatArray
    flash: npt.NDArray[np.bool_] | bool
    low_precision: npt.NDArray[np.bool_] | bool
    moe_fraction: FloatArray
    tp_cost: GroupCost
    cp_cost: GroupCost
    ep_cost: GroupCost
    pp_cost: GroupCost
    dp_cost: GroupCost
    edp_cost: GroupCost
    pp_bytes: FloatArray
    dp_reduce_bytes: FloatArray
    dp_gather_bytes: FloatArray
    edp_reduce_bytes: FloatArray
    edp_gather_bytes: FloatArray
    optimizer_bytes: FloatArray
    """Bytes the optimizer step reads and writes."""
    all_to_all_exposed: FloatArray
    bubble_share: FloatArray
    weight_gradients: FloatArray
    """1, or 0 where weights are frozen (LoRA) and backward has one product for each forward."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTime:
    """Seconds, one entry a layout; the parts add up to ``total_s``."""

    total_s: FloatArray
    gemm_s: FloatArray
    attention_s: FloatArray
    memory_bound_s: FloatArray
    recompute_s: FloatArray
    host_s: FloatArray
    tp_s: FloatArray
    cp_s: FloatArray
    ep_s: FloatArray
    bubble_s: FloatArray
    imbalance_s: FloatArray
    pp_s: FloatArray
    dp_s: FloatArray
    optimizer_s: FloatArray
    overhead_s: FloatArray


def split_layers(layers: float, pp: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Layers of a middle stage and of an edge stage (first, last).

    Even where ``pp`` divides; otherwise embedding and loss each count as a layer where that comes
    out even (as Megatron's account-for-embedding and -loss options and Llama 3 405B do), else the
    middle stages take one more.
    """
    even = np.mod(layers, pp) == 0
    as_layers = np.mod(layers + 2, pp) == 0
    middle = np.where(even, layers / pp, np.where(as_layers, (layers + 2) / pp,
                                                  np.ceil(layers / pp)))  # fmt: skip
    rest = (layers - middle * np.maximum(pp - 2, 0)) / np.minimum(pp, 2)
    edge = np.where(even, middle, np.where(as_layers, middle - 1, np.maximum(rest, 0.0)))
    return middle, np.where(pp == 1, layers, edge)


def compile_layouts(
    model: Model,
    cluster: Cluster,
    frame: Framework,
    layouts: Layouts,
    *,
    seq_len: int,
    precision: str,
) -> Compiled:
    """Lower ``model`` on ``cluster`` for every layout; ``precision`` is that of the GEMMs."""
    keys, key = layouts.keys()
    work = lower(model, keys, seq_len, causal_skip=frame.flash_attention)
    peak = cluster.peak_flops["bf16"]
    device = Device(
        peak_flops=peak * frame.compute_share,
        low_peak_flops=cluster.peak_flops.get(precision, peak) * frame.compute_share,
        watts_per_tflops=1e3 if cluster.tdp_w is None else cluster.tdp_w / (peak / 1e12),
        fp4=float(precision == "fp4"),
        memory_bandwidth_bytes_per_s=cluster.memory_bandwidth_bytes_per_s,
    )
    count = float(len(model.layers))
    middle, edge = split_layers(count, layouts.pp)
    moe_layers = sum(any(op.kind == "grouped_gemm" for op in layer.operators)
                     for layer in model.layers)  # fmt: skip
    stage_chips = layouts.tp * layouts.cp * layouts.dp
    dense, expert = parameters_per_chip(model, layouts)
    levels = cluster.levels
    zero3 = layouts.zero >= 3
    gathers = np.where(zero3, 2 * layouts.num_micro_batches, 1.0)
    weights_sent = np.where(layouts.zero == 0, frame.reduce_bytes, 2.0)
    return Compiled(
        work=work,
        device=device,
        layouts=layouts,
        key=key,
        layers=np.full(len(layouts), count),
        stage_layers=middle,
        edge_layers=edge,
        chips=stage_chips * layouts.pp,
        flash=frame.flash_attention,
        low_precision=cluster.peak_flops.get(precision, peak) > peak * 1.01,
        moe_fraction=np.full(len(layouts), moe_layers / max(count, 1.0)),
        tp_cost=gather_cost(levels, layouts.tp, np.ones_like(layouts.tp)),
        cp_cost=gather_cost(levels, layouts.cp, layouts.tp),
        ep_cost=all_to_all_cost(levels, layouts.ep, np.ones_like(layouts.ep)),
        pp_cost=send_cost(levels, stage_chips),
        dp_cost=gather_cost(levels, layouts.cp * layouts.dp, layouts.tp),
        edp_cost=gather_cost(levels, stage_chips / layouts.ep, layouts.ep),
        pp_bytes=work.tp_bytes[key] / layouts.tp,
        dp_reduce_bytes=dense * frame.reduce_bytes,
        dp_gather_bytes=dense * weights_sent * gathers,
        edp_reduce_bytes=expert * frame.reduce_bytes,
        edp_gather_bytes=expert * weights_sent * gathers,
        optimizer_bytes=(dense + expert) * (2 * frame.optimizer_bytes + frame.grad_bytes + 2)
        / np.where(layouts.zero >= 1, layouts.dp * layouts.cp, 1.0),
        all_to_all_exposed=np.full(
            len(layouts), frame.dispatch_share * (1 - frame.all_to_all_hidden)
        ),
        bubble_share=np.full(len(layouts), frame.bubble_share),
        weight_gradients=np.ones(len(layouts)),
    )  # fmt: skip


def parameters_per_chip(model: Model, layouts: Layouts) -> tuple[FloatArray, FloatArray]:
    """Dense and expert parameters one chip of the fullest stage holds before ZeRO, [n] each."""
    layers = max(len(model.layers), 1)
    expert = float(sum(layer.expert_parameters for layer in model.layers))
    dense = float(sum(layer.parameters for layer in model.layers)) - expert
    middle, edge = split_layers(float(layers), layouts.pp)
    ends = float(sum(op.parameters for op in model.embedding))
    head = float(sum(op.parameters for op in model.head))
    if model.tied_embeddings:
        head_extra = float(model.vocab * model.hidden)
        head_stage = head + np.where(layouts.pp > 1, head_extra, 0.0)
    else:
        head_stage = np.full_like(layouts.pp, head)
    edge_extra = np.where(layouts.pp > 1, np.maximum(ends, head_stage), ends + head_stage)
    by_middle = dense / layers * middle
    by_edge = dense / layers * edge + edge_extra
    fullest_layers = np.maximum(middle, edge)
    return (
        np.maximum(by_middle, by_edge) / layouts.tp,
        expert / layers * fullest_layers / layouts.ep,
    )


def _at(value: Number, index: IntArray) -> Number:
    return value[index] if isinstance(value, np.ndarray) else value


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyTimes:
    """Forward seconds by slot (rows) and key (columns), split by what bounds them."""

    gemm_s: FloatArray
    attention_s: FloatArray
    memory_s: FloatArray


def time_operators(work: Work, device: Device, constants: Constants) -> KeyTimes:
    """Forward time of every key's operators, [3 slots, K] each.

    GEMM: the larger of FLOP over the reachable rate and bytes over bandwidth; the rate falls with
    small shapes and where design power does not hold full clocks. Attention: FLOP time
    plus, where scores go through memory, their bytes. Everything else: bytes.
    """
    c, key = constants, work.key
    half = _at(c.gemm_half_size, key)
    fill = work.m / (work.m + half) * work.n / (work.n + half) * work.k / (work.k + half)
    low = work.low_precision & (
        np.asarray(_at(device.low_peak_flops, key)) > np.asarray(_at(device.peak_flops, key)) * 1.01
    )
    peak = np.where(low, _at(device.low_peak_flops, key), _at(device.peak_flops, key))
    narrow = np.where(_at(device.fp4, key), _at(c.fp4_efficiency, key), _at(c.lowp_efficiency, key))
    watts = _at(device.watts_per_tflops, key)
    clocks = watts**4 / (watts**4 + _at(c.power_half_w, key) ** 4)
    reach = _at(c.gemm_efficiency, key) * np.where(low, narrow, 1.0) * clocks
    bandwidth = _at(device.memory_bandwidth_bytes_per_s, key) * _at(c.memory_efficiency, key)
    bytes_s = work.nbytes / bandwidth
    is_gemm, is_attention = work.kind == GEMM, work.kind == ATTENTION
    gemm_s = np.where(is_gemm, np.maximum(work.flops / (peak * reach * fill), bytes_s), 0.0)
    attention_s = np.where(
        is_attention,
        work.flops / (_at(device.peak_flops, key) * _at(c.attention_efficiency, key) * clocks)
        + bytes_s,
        0.0,
    )
    memory_s = np.where(is_gemm | is_attention, 0.0, bytes_s * _at(c.traffic, key))

    def total(seconds: FloatArray) -> FloatArray:
        cell = work.slot * work.keys + key
        summed = np.bincount(cell, weights=seconds * work.weight, minlength=3 * work.keys)
        return summed.reshape(3, work.keys).astype(np.float64, copy=False)

    return KeyTimes(gemm_s=total(gemm_s), attention_s=total(attention_s), memory_s=total(memory_s))


_BACKWARD_FLASH = 2.5
"""Flash attention recomputes scores: five products where forward has two (arXiv:2307.08691)."""


def time_step(compiled: Compiled, constants: Constants) -> StepTime:
    """Seconds of an optimizer step and its parts, one entry a layout.

    Arrays in ``constants`` are per key for operators and per layout for the rest; a fit has as many
    keys as layouts, so one array serves both.
    """
    x, lay, c, key = compiled, compiled.layouts, constants, compiled.key
    t = time_operators(x.work, x.device, c)
    back_attention = np.where(x.flash, _BACKWARD_FLASH, 2.0)
    full = lay.recompute_share
    selective = (lay.recompute == RECOMPUTE_SELECTIVE).astype(np.float64)

    gemm, attention, memory = t.gemm_s[:, key], t.attention_s[:, key], t.memory_s[:, key]
    forward = gemm + attention + memory
    # Backward has a product of the forward's size for gradients of inputs, and one for weights.
    back_gemm = 1 + x.weight_gradients
    backward = gemm * back_gemm + attention * back_attention + memory * 2.0
    again = full * forward[LAYER] + selective * attention[LAYER]

    up, out = c.scale_up_efficiency, c.scale_out_efficiency
    imbalance = np.where(x.moe_fraction > 0, c.expert_imbalance, 1.0)
    tp_raw = (
        2
        * x.work.tp_collectives
        * np.where(lay.tp > 1, x.tp_cost.seconds(x.work.tp_bytes[key], up, out), 0.0)
    )
    tp_pass = tp_raw * (1 - c.tp_overlap)
    cp_pass = np.where(
        lay.cp > 1, x.cp_cost.latency_s + x.cp_cost.seconds(x.work.cp_bytes[key], up, out), 0.0
    ) * (1 - c.dp_overlap)
    ep_raw = np.where(lay.ep > 1, 2 * x.ep_cost.seconds(x.work.ep_bytes[key], up, out), 0.0)
    ep_pass = ep_raw * x.all_to_all_exposed * (1 - c.ep_overlap) * imbalance
    layer_device = forward[LAYER] + backward[LAYER] + again
    layer_comm = (2 + full) * (tp_pass + ep_pass) + 3 * cp_pass
    # A layer never takes less than the host needs to launch it, forward, backward and again.
    host = np.maximum((2 + full) * c.host_layer_s - layer_device - layer_comm, 0.0)
    layer = layer_device + layer_comm + host
    first = forward[FIRST] + backward[FIRST]
    last = forward[LAST] + backward[LAST]

    micro = lay.num_micro_batches
    whole = x.layers * layer + first + last
    mean_stage = whole / lay.pp
    slowest = np.where(
        lay.pp > 1,
        np.maximum(x.stage_layers * layer, x.edge_layers * layer + np.maximum(first, last)),
        whole,
    )
    sends = np.where(lay.pp > 1, x.pp_cost.seconds(x.pp_bytes, up, out), 0.0)
    pp_s = 2 * sends * ((lay.pp - 1) + micro * lay.vp * (1 - c.pp_overlap))
    bubble = (lay.pp - 1) / lay.vp * mean_stage * x.bubble_share
    imbalance_s = micro * (slowest - mean_stage)

    window = np.where(lay.zero >= 3, micro, 1.0) * mean_stage
    dp_raw = _dp_seconds(x, up, out) * x.weight_gradients
    dp_s = dp_raw - np.minimum(c.dp_overlap * dp_raw, window)
    optimizer_s = x.optimizer_bytes / (
        _first(x.device.memory_bandwidth_bytes_per_s, key) * c.memory_efficiency
    )
    busy = micro * mean_stage + bubble + imbalance_s + pp_s + dp_s + optimizer_s
    overhead = c.step_overhead_s + busy * c.straggler * np.log2(np.maximum(x.chips, 1.0))
    per_step = micro / lay.pp
    edges_gemm = gemm[FIRST] + gemm[LAST]
    edges_memory = memory[FIRST] + memory[LAST]
    return StepTime(
        total_s=busy + overhead,
        gemm_s=per_step * (1 + back_gemm) * (x.layers * gemm[LAYER] + edges_gemm),
        attention_s=per_step * x.layers * (1 + back_attention) * attention[LAYER],
        memory_bound_s=per_step * 3 * (x.layers * memory[LAYER] + edges_memory),
        recompute_s=per_step * x.layers * again,
        host_s=per_step * x.layers * host,
        tp_s=per_step * x.layers * (2 + full) * tp_pass,
        cp_s=per_step * x.layers * 3 * cp_pass,
        ep_s=per_step * x.layers * (2 + full) * ep_pass,
        bubble_s=bubble,
        imbalance_s=imbalance_s,
        pp_s=pp_s,
        dp_s=dp_s,
        optimizer_s=optimizer_s,
        overhead_s=overhead,
    )


def _first(value: Number, key: IntArray) -> Number:
    return value[key] if isinstance(value, np.ndarray) else value


def _dp_seconds(x: Compiled, up: Number, out: Number) -> FloatArray:
    """Reduce-scatter and all-gather of dense and expert parameters, before overlap."""
    seconds = np.zeros(len(x.layouts))
    for cost, reduce_bytes, gather_bytes in (
        (x.dp_cost, x.dp_reduce_bytes, x.dp_gather_bytes),
        (x.edp_cost, x.edp_reduce_bytes, x.edp_gather_bytes),
    ):
        groups = cost.up_s_per_byte + cost.out_s_per_byte > 0
        both = cost.seconds(reduce_bytes, up, out) + cost.seconds(gather_bytes, up, out)
        seconds = seconds + np.where(groups & (reduce_bytes > 0), both, 0.0)
    return seconds
