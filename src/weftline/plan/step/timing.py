"""Seconds of an optimizer step from compiled layouts and constants: arithmetic on arrays.

Operators are priced before (:mod:`weftline.plan.step.pricing`); constants multiply whole classes of
them. What the host launches and what the device computes overlap layer by layer, so that a layer
takes a smooth maximum of both.

Pipeline: 1F1B and interleaved 1F1B take n * stage + (p - 1) * stage / v (arXiv:2104.04473, section
2.2). Data-parallel reduction overlaps with the backward pass of the last micro-batch, or with all
of them under ZeRO-3. Communication that does not hide adds up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from weftline.operators.products import MEMORY_EFFICIENCY
from weftline.plan.step.columns import IntArray
from weftline.plan.step.communication import exchanges, gradient_s, send_s, shown
from weftline.plan.step.compiled import RECOMPUTE_SELECTIVE, Compiled
from weftline.plan.step.constants import Constants, FloatArray, Number
from weftline.plan.step.pricing import CLASSES
from weftline.plan.step.workload import FIRST, LAST, LAYER

ZERO_BUBBLE_SHARE = 1 / 3
"""ZB-H1 over 1F1B where forward and both halves of backward take as long (arXiv:2401.10241)."""
_BACKWARD_FLASH = 2.5
"""Flash attention recomputes scores: five products where forward has two (arXiv:2307.08691)."""
_BACKWARD_UNFUSED = 2.0
_SHARPNESS = 4.0
"""Exponent of the smooth maximum of what overlaps: two equal times show 19 % more than one."""
_SCAN_BACKWARD = 3.0
"""A chunked scan computes its states again and then two products where forward has one
(state-spaces/mamba, ssd_combined)."""
_PEAK_HELD = 0.9
"""Share of the peak that products hold for hours where power allows: the A100's tables, whose power
does, reach 0.92 in a burst."""


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
    """Seconds by slot (rows) and key (columns), split by what bounds them, [3, K] each."""

    gemm_s: FloatArray
    """Forward."""
    inputs_s: FloatArray
    """Products of the backward pass for gradients of inputs."""
    weights_s: FloatArray
    """The same for gradients of weights."""
    attention_s: FloatArray
    attention_back_s: FloatArray
    """Attention and scans, forward and backward."""
    memory_s: FloatArray
    memory_back_s: FloatArray
    """Norms, activations, routing and casts, forward and backward."""
    weight_casts_s: FloatArray
    """Quantisation of weights, once a micro-batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stage:
    """Seconds of one micro-batch in a mean layer and at the ends, one entry a layout."""

    recompute_s: FloatArray
    host_s: FloatArray
    tp_s: FloatArray
    cp_s: FloatArray
    ep_s: FloatArray
    unpack_s: FloatArray
    """One unpacking of a layer's frozen 4-bit weights; a step has two a micro-batch."""
    layer_s: FloatArray
    """What a layer takes, all of the above included."""
    first_s: FloatArray
    last_s: FloatArray


def smooth_max(a: FloatArray, b: FloatArray) -> FloatArray:
    """A maximum with a gradient on both sides; never below either."""
    most = np.maximum(np.maximum(a, b), 1e-30)
    rest = np.minimum(a, b) / most
    return np.asarray(most * (1.0 + rest**_SHARPNESS) ** (1.0 / _SHARPNESS))


def time_operators(x: Compiled, c: Constants) -> KeyTimes:
    """What every key's operators take in training, [3 slots, K] each."""
    p, d, recipe = x.priced, x.device, x.recipe
    rate = _elementwise_rate(x, c)
    # Power held over hours bounds the rate of every format alike: FLOP of half the bits cost half.
    power = (1 + (np.asarray(c.sustained_w) / d.watts_per_tflops) ** 4) ** 0.25 / _PEAK_HELD
    low = c.low_loss * (1 + np.asarray(d.fp4) * (np.asarray(c.fp4_loss) - 1))
    low = low * (1 + np.asarray(recipe.rowwise) * (np.asarray(c.rowwise_loss) - 1))
    losses = (
        c.product_loss, low, c.grouped_loss * np.asarray(c.product_loss), c.grouped_loss * low
    )  # fmt: skip

    def products(form: int) -> FloatArray:
        total = np.zeros(p.attention_s.shape)
        for index in range(len(CLASSES)):
            least = p.products[index, 3] * power
            total = total + losses[index] * np.maximum(p.products[index, form], least)
        return total

    fused = np.asarray(recipe.fused_attention)
    kernel = 1 + np.asarray(recipe.old_attention) * d.newer_attention * (
        np.asarray(c.old_attention_loss) - 1
    )
    kernel = kernel * (
        1 + np.asarray(recipe.triton_attention) * (np.asarray(c.triton_attention_loss) - 1)
    )
    forward = fused * c.attention_loss * kernel + (1 - fused) * c.unfused_loss
    backward = (
        fused * c.attention_back_loss * kernel * _BACKWARD_FLASH
        + (1 - fused) * c.unfused_loss * _BACKWARD_UNFUSED
    )
    apart = 1 + (1 - np.asarray(recipe.fused_routing)) * (np.asarray(c.unfused_routing) - 1)
    casts = c.cast_traffic * (
        1 + (1 - np.asarray(recipe.fused_casts)) * (np.asarray(c.unfused_casts) - 1)
    )
    scan = p.scan_s * c.scan_loss
    routed = c.routed_traffic * p.routed_bytes
    plain = c.traffic * p.memory_bytes
    experts = c.traffic * p.expert_bytes
    return KeyTimes(
        gemm_s=products(0),
        inputs_s=products(1),
        weights_s=products(2),
        attention_s=forward * p.attention_s + scan,
        attention_back_s=backward * p.attention_s + _SCAN_BACKWARD * scan,
        memory_s=(
            plain + casts * p.cast_bytes
            + apart * (experts + routed + casts * p.expert_cast_bytes)
        ) / rate,
        memory_back_s=(
            2 * plain + casts * p.cast_back_bytes
            + apart * (2 * experts + routed + casts * p.expert_cast_back_bytes)
        ) / rate,
        weight_casts_s=(1 - np.asarray(x.frozen)) * casts * p.cast_weight_bytes / rate,
    )  # fmt: skip


def time_step(compiled: Compiled, constants: Constants) -> StepTime:
    """Seconds of an optimizer step and its parts, one entry a layout.

    Arrays in ``constants`` are per key for operators and per layout for the rest; a fit has as many
    keys as layouts, so one array serves both.
    """
    x, lay, c = compiled, compiled.layouts, constants
    t = time_operators(x, c)
    stage = _time_stage(x, c, t)
    micro = lay.num_micro_batches
    ends = stage.first_s + stage.last_s
    mean_stage = (x.layers * stage.layer_s + ends) / lay.pp
    edge = x.edge_layers * stage.layer_s + np.maximum(stage.first_s, stage.last_s)
    slowest = np.where(lay.pp > 1, np.maximum(x.stage_layers * stage.layer_s, edge), mean_stage)
    schedule = x.bubble_share * np.where(lay.zero_bubble > 0, ZERO_BUBBLE_SHARE, 1.0)
    bubble = (lay.pp - 1) / lay.vp * mean_stage * schedule
    imbalance = micro * np.maximum(slowest - mean_stage, 0.0)
    sends = send_s(x, c) * 2
    hidden = np.where(lay.vp > 1, x.recipe.overlap_interleaved, x.recipe.overlap_pp)
    pp_s = sends * ((lay.pp - 1) + micro * lay.vp * shown(hidden, c.pp_exposed))
    dp_s = _gradients_shown_s(x, c, slowest)
    optimizer_s = _optimizer_seconds(x, c)
    busy = micro * mean_stage + bubble + imbalance + pp_s + dp_s + optimizer_s
    overhead = c.step_overhead_s + busy * c.straggler * np.log2(np.maximum(x.chips, 1.0))
    per_step = micro / lay.pp
    layers = per_step * x.layers

    def over_step(seconds: FloatArray) -> FloatArray:
        """Seconds a step of what every micro-batch does once, [3, K] -> [n]."""
        ends = seconds[FIRST] + seconds[LAST]
        return np.asarray(layers * seconds[LAYER][x.key] + per_step * ends[x.key])

    return StepTime(
        total_s=busy + overhead,
        gemm_s=over_step(t.gemm_s + t.inputs_s + x.weight_gradients * t.weights_s),
        attention_s=over_step(t.attention_s + t.attention_back_s),
        memory_bound_s=over_step(t.memory_s + t.memory_back_s + t.weight_casts_s)
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
    )


def _time_stage(x: Compiled, c: Constants, t: KeyTimes) -> _Stage:
    """One micro-batch in a mean layer: compute, what is computed again, what does not hide."""
    lay, key = x.layouts, x.key
    once = t.gemm_s + t.attention_s + t.memory_s
    back = t.inputs_s + x.weight_gradients * t.weights_s + t.attention_back_s + t.memory_back_s
    both = (once + back + t.weight_casts_s)[:, key]
    forward = once[LAYER][key]
    parts = (t.gemm_s[LAYER][key], t.attention_s[LAYER][key], t.memory_s[LAYER][key])
    full = lay.recompute_share
    selective = np.where(lay.recompute == RECOMPUTE_SELECTIVE, 1.0, 0.0)
    unpack = x.unpack_bytes / _of_layouts(_memory_rate(x), x)
    cheap = sum(part * x.again[:, i] for i, part in enumerate(parts))
    again = full * (forward + unpack) + selective * cheap
    e = exchanges(x, c)
    passes = 2 + full
    dispatches = passes + selective * x.again[:, 3]
    exchanged = passes * e.tp_s + dispatches * e.ep_s + (passes + 1) * e.cp_s
    device = both[LAYER] + 2 * unpack + again + exchanged
    eager = (1 - np.asarray(x.recipe.graphs)) * c.launch_s
    layer = smooth_max(device, (x.priced.launches * eager)[key] * (3 + full))
    return _Stage(
        recompute_s=again,
        unpack_s=unpack,
        host_s=layer - device,
        tp_s=passes * e.tp_s,
        cp_s=(passes + 1) * e.cp_s,
        ep_s=dispatches * e.ep_s,
        layer_s=layer,
        first_s=both[FIRST],
        last_s=both[LAST],
    )


def _elementwise_rate(x: Compiled, c: Constants) -> FloatArray:
    """Bytes/s of kernels that stream values and compute on each: memory or the vector lanes."""
    memory = np.asarray(_memory_rate(x))
    # A multiply-add counts as two FLOP and one instruction.
    lanes = np.asarray(x.device.vector_flops) / 2
    return np.asarray(memory / (1 + (np.asarray(c.vector_ops) * memory / lanes) ** 4) ** 0.25)


def time_passes(x: Compiled, c: Constants) -> tuple[FloatArray, FloatArray]:
    """Seconds of one micro-batch's forward and backward pass on every pipeline stage of the first
    layout, [pp] each; what is computed again belongs to backward."""
    t, e = time_operators(x, c), exchanges(x, c)
    stage = _time_stage(x, c, t)
    once = (t.gemm_s + t.attention_s + t.memory_s)[:, x.key]
    pp, full = int(x.layouts.pp[0]), x.layouts.recompute_share
    device = once[LAYER] + stage.unpack_s + e.tp_s + e.ep_s + e.cp_s
    # Launches that show are shared by the passes as the host makes them.
    forward = device + stage.host_s / (3 + full)
    layers = np.full(pp, float(x.stage_layers[0]))
    layers[[0, -1]] = float(x.edge_layers[0] if pp > 1 else x.layers[0])
    ahead, both = layers * float(forward[0]), layers * float(stage.layer_s[0])
    ahead[0] += once[FIRST][0]
    ahead[-1] += once[LAST][0]
    both[0] += stage.first_s[0]
    both[-1] += stage.last_s[0]
    return ahead, both - ahead


def _memory_rate(x: Compiled) -> Number:
    return x.device.memory_bandwidth_bytes_per_s * MEMORY_EFFICIENCY


def _gradients_shown_s(x: Compiled, c: Constants, stage_s: FloatArray) -> FloatArray:
    """Reduction and gathering of parameters that compute does not hide: what the recipe exposes,
    and of the rest what outlasts the passes it hides behind on the slowest stage."""
    lay = x.layouts
    window = np.where(lay.zero >= 3, lay.num_micro_batches, 1.0) * stage_s
    raw = gradient_s(x, c)
    exposed = shown(x.recipe.overlap_dp, c.dp_exposed)
    return np.asarray(exposed * raw + (1 - exposed) * (smooth_max(window, raw) - window))


def _optimizer_seconds(x: Compiled, c: Constants) -> FloatArray:
    """The update: bytes of states, the optimizer's own FLOP, and the host where it is offloaded."""
    rate = _of_layouts(_memory_rate(x), x)
    peak = _of_layouts(np.asarray(x.device.peak_flops) / c.product_loss, x)
    return x.optimizer_bytes / rate + x.optimizer_flops / peak + x.offload_s


def _of_layouts(values: Number, x: Compiled) -> Number:
    """A value of every key as one of every layout."""
    return values[x.key] if isinstance(values, np.ndarray) and values.ndim else values
