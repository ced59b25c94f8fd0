"""Seconds of an optimizer step from compiled layouts and constants: arithmetic on arrays.

Pipeline: 1F1B and interleaved 1F1B take n * stage + (p - 1) * stage / v (arXiv:2104.04473, section
2.2). Data-parallel reduction overlaps with the backward pass of the last micro-batch, or with all
of them under ZeRO-3. Communication that does not hide adds up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from weftline.plan.step.compiled import RECOMPUTE_SELECTIVE, Compiled, Device, IntArray
from weftline.plan.step.constants import Constants, FloatArray, Number
from weftline.plan.step.workload import ATTENTION, FIRST, GEMM, LAST, LAYER, Work

ZERO_BUBBLE_SHARE = 1 / 3
"""ZB-H1 over 1F1B where forward and both halves of backward take as long (arXiv:2401.10241)."""
TILE = 128.0
"""Rows and columns of an output tile, on tensor cores and 128-wide systolic arrays alike: what a
product falls short of whole tiles is computed and thrown away."""
_BACKWARD_FLASH = 2.5
"""Flash attention recomputes scores: five products where forward has two (arXiv:2307.08691)."""


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

    def take(self, index: IntArray) -> StepTime:
        """Some of the layouts."""
        return StepTime(**{f.name: getattr(self, f.name)[index] for f in fields(self)})


def joined(times: Sequence[StepTime]) -> StepTime:
    """Several as one, in their order."""
    return StepTime(
        **{f.name: np.concatenate([getattr(t, f.name) for t in times]) for f in fields(StepTime)}
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyTimes:
    """Forward seconds by slot (rows) and key (columns), split by what bounds them."""

    gemm_s: FloatArray
    attention_s: FloatArray
    memory_s: FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stage:
    """Seconds of one micro-batch in a mean layer and at the ends, one entry a layout."""

    compute_s: FloatArray
    """Forward and backward of a layer, without recomputation."""
    recompute_s: FloatArray
    host_s: FloatArray
    tp_s: FloatArray
    cp_s: FloatArray
    ep_s: FloatArray
    unpack_s: FloatArray
    """One unpacking of a layer's frozen 4-bit weights, part of ``compute_s`` twice."""
    layer_s: FloatArray
    """All of the above but this: what a layer takes."""
    first_s: FloatArray
    last_s: FloatArray


def _at(value: Number, index: IntArray) -> Number:
    return value[index] if isinstance(value, np.ndarray) else value


def time_operators(work: Work, device: Device, constants: Constants) -> KeyTimes:
    """Forward time of every key's operators, [3 slots, K] each.

    GEMM: the larger of FLOP over the reachable rate and bytes over bandwidth; the rate falls with
    small shapes, with part-filled tiles, and where design power does not hold full clocks.
    Attention: FLOP time plus, where scores go through memory, their bytes. Everything else: bytes.
    """
    c, key = constants, work.key
    half = _at(c.gemm_half_size, key)
    fill = work.m / (work.m + half) * work.n / (work.n + half) * work.k / (work.k + half)
    bf16, own = _at(device.peak_flops, key), _at(device.low_peak_flops, key)
    low = work.low_precision & (np.asarray(own) > np.asarray(bf16) * 1.01)
    # fp32 slows every product; narrower formats serve only those that stand them.
    peak = np.where(low, own, np.minimum(own, bf16))
    narrow = np.where(_at(device.fp4, key), _at(c.fp4_efficiency, key), _at(c.lowp_efficiency, key))
    watts = _at(device.watts_per_tflops, key)
    clocks = (1 + (_at(c.power_half_w, key) / watts) ** 4) ** -0.25
    reach = _at(c.gemm_efficiency, key) * np.where(low, narrow, 1.0) * clocks
    bandwidth = _at(device.memory_bandwidth_bytes_per_s, key) * _at(c.memory_efficiency, key)
    bytes_s = work.nbytes / bandwidth
    is_gemm, is_attention = work.kind == GEMM, work.kind == ATTENTION
    padded = (np.ceil(work.m / TILE) * TILE / work.m) * (np.ceil(work.n / TILE) * TILE / work.n)
    gemm_s = np.where(
        is_gemm, np.maximum(work.flops * padded / (peak * reach * fill), bytes_s), 0.0
    )
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


def time_step(compiled: Compiled, constants: Constants) -> StepTime:
    """Seconds of an optimizer step and its parts, one entry a layout.

    Arrays in ``constants`` are per key for operators and per layout for the rest; a fit has as many
    keys as layouts, so one array serves both.
    """
    x, lay, c = compiled, compiled.layouts, constants
    t = time_operators(x.work, x.device, c)
    stage = _time_stage(x, c, t)
    micro = lay.num_micro_batches
    ends = stage.first_s + stage.last_s
    mean_stage = (x.layers * stage.layer_s + ends) / lay.pp
    edge = x.edge_layers * stage.layer_s + np.maximum(stage.first_s, stage.last_s)
    slowest = np.where(lay.pp > 1, np.maximum(x.stage_layers * stage.layer_s, edge), mean_stage)
    schedule = x.bubble_share * np.where(lay.zero_bubble > 0, ZERO_BUBBLE_SHARE, 1.0)
    bubble = (lay.pp - 1) / lay.vp * mean_stage * schedule
    imbalance = micro * (slowest - mean_stage)
    up, out = c.scale_up_efficiency, c.scale_out_efficiency
    sends = np.where(lay.pp > 1, x.pp_cost.seconds(x.pp_bytes, up, out), 0.0)
    pp_s = 2 * sends * ((lay.pp - 1) + micro * lay.vp * (1 - c.pp_overlap))

    window = np.where(lay.zero >= 3, micro, 1.0) * mean_stage
    dp_raw = _dp_seconds(x, c)
    dp_s = dp_raw - np.minimum(c.dp_overlap * dp_raw, window)
    optimizer_s = _optimizer_seconds(x, c)
    busy = micro * mean_stage + bubble + imbalance + pp_s + dp_s + optimizer_s
    overhead = c.step_overhead_s + busy * c.straggler * np.log2(np.maximum(x.chips, 1.0))

    per_step = micro / lay.pp
    layers = per_step * x.layers
    gemm, attention, memory = (a[:, x.key] for a in (t.gemm_s, t.attention_s, t.memory_s))
    return StepTime(
        total_s=busy + overhead,
        gemm_s=per_step * (2 + x.weight_gradients)
        * (x.layers * gemm[LAYER] + gemm[FIRST] + gemm[LAST]),
        attention_s=layers * (1 + _backward_attention(x)) * attention[LAYER],
        memory_bound_s=per_step * 3 * (x.layers * memory[LAYER] + memory[FIRST] + memory[LAST])
        + layers * 2 * stage.unpack_s,
        recompute_s=layers * stage.recompute_s,
        host_s=layers * stage.host_s,
        tp_s=layers * stage.tp_s,
        cp_s=layers * stage.cp_s,
        ep_s=layers * stage.ep_s,
        bubble_s=bubble,
        imbalance_s=imbalance,
        pp_s=pp_s,
        dp_s=dp_s,
        optimizer_s=optimizer_s,
        overhead_s=overhead,
    )  # fmt: skip


def _backward_attention(x: Compiled) -> FloatArray:
    return np.where(x.flash, _BACKWARD_FLASH, 2.0)


def _time_stage(x: Compiled, c: Constants, t: KeyTimes) -> _Stage:
    """One micro-batch in a mean layer: compute, what is computed again, what does not hide."""
    lay, key = x.layouts, x.key
    gemm, attention, memory = t.gemm_s[:, key], t.attention_s[:, key], t.memory_s[:, key]
    forward = gemm + attention + memory
    # Backward has a product of the forward's size for gradients of inputs, and one for weights.
    backward = gemm * (1 + x.weight_gradients) + attention * _backward_attention(x) + memory * 2.0
    full = lay.recompute_share
    selective = np.where(lay.recompute == RECOMPUTE_SELECTIVE, 1.0, 0.0)
    unpack = x.unpack_bytes / (
        _at(x.device.memory_bandwidth_bytes_per_s, x.key) * c.memory_efficiency
    )  # fmt: skip
    again = full * (forward[LAYER] + unpack) + selective * attention[LAYER]
    tp_s, cp_s, ep_s = _exchanges(x, c)
    passes = 2 + full
    device = forward[LAYER] + backward[LAYER] + 2 * unpack + again
    exchanged = passes * (tp_s + ep_s) + (passes + 1) * cp_s
    # A layer never takes less than the host needs to launch it, forward, backward and again.
    host = np.maximum(passes * c.host_layer_s - device - exchanged, 0.0)
    return _Stage(
        compute_s=forward[LAYER] + backward[LAYER] + 2 * unpack,
        recompute_s=again,
        unpack_s=unpack,
        host_s=host,
        tp_s=passes * tp_s,
        cp_s=(passes + 1) * cp_s,
        ep_s=passes * ep_s,
        layer_s=device + exchanged + host,
        first_s=forward[FIRST] + backward[FIRST],
        last_s=forward[LAST] + backward[LAST],
    )


def _exchanges(x: Compiled, c: Constants) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Exposed seconds of tensor, context and expert exchange in a mean layer's forward pass."""
    lay, key = x.layouts, x.key
    up, out = c.scale_up_efficiency, c.scale_out_efficiency
    pair = 2 * np.where(lay.tp > 1, x.tp_cost.seconds(x.work.tp_bytes[key], up, out), 0.0)
    tp_s = x.work.tp_collectives * pair * (1 - c.tp_overlap)
    ring = x.cp_cost.latency_s + x.cp_cost.seconds(x.work.cp_bytes[key], up, out)
    heads = 2 * x.heads_cost.latency_s + x.heads_cost.seconds(x.work.heads_bytes[key], up, out)
    cp_s = np.where(lay.cp > 1, np.where(lay.ulysses > 0, heads, ring), 0.0) * (1 - c.dp_overlap)
    routed = np.where(lay.ep > 1, 2 * x.ep_cost.seconds(x.work.ep_bytes[key], up, out), 0.0)
    split = np.where(lay.etp > 1, 2 * x.etp_cost.seconds(x.etp_bytes, up, out), 0.0)
    imbalance = np.where(x.moe_fraction > 0, c.expert_imbalance, 1.0)
    ep_s = (routed + split) * x.dispatch_share * (1 - c.ep_overlap) * imbalance
    return tp_s, cp_s, ep_s


def _optimizer_seconds(x: Compiled, c: Constants) -> FloatArray:
    """The update: bytes of states, the optimizer's own FLOP, and the host where it is offloaded."""
    bandwidth = _at(x.device.memory_bandwidth_bytes_per_s, x.key) * c.memory_efficiency
    rate = _at(x.device.peak_flops, x.key) * c.gemm_efficiency
    return x.optimizer_bytes / bandwidth + x.optimizer_flops / rate + x.offload_s


def _dp_seconds(x: Compiled, c: Constants) -> FloatArray:
    """Reduce-scatter and all-gather of dense and expert parameters, before overlap."""
    up, out = c.scale_up_efficiency, c.scale_out_efficiency
    seconds = np.zeros(len(x.layouts))
    for cost, reduce_bytes, gather_bytes in (
        (x.dp_cost, x.dp_reduce_bytes, x.dp_gather_bytes),
        (x.edp_cost, x.edp_reduce_bytes, x.edp_gather_bytes),
    ):
        groups = cost.up_s_per_byte + cost.out_s_per_byte > 0
        both = cost.seconds(reduce_bytes, up, out) + cost.seconds(gather_bytes, up, out)
        seconds = seconds + np.where(groups & (reduce_bytes > 0), both, 0.0)
    replicas = 2 * x.replica_cost.seconds(x.replica_bytes, up, out)
    return seconds + np.where(x.replica_bytes > 0, replicas, 0.0)
