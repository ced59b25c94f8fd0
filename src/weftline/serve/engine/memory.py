"""What fits: weights, working memory and the cache of keys and values on one chip and one replica.

The cache gets what is left of the share of memory an engine may take. Engines size it the same way:
vLLM measures its weights and peak activations, then gives the rest to blocks of the cache.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from weftline.errors import NoFeasiblePlanError
from weftline.serve.engine.config import ServingConfig
from weftline.serve.engine.parts import Setting, setting_for, weight_bytes

__all__ = ["Memory", "cache_tokens", "memory", "room_for_weights"]

FloatArray = npt.NDArray[np.float64]

TIGHT, TIGHT_FRACTION = 0.06, 0.96
"""Where less than this share of memory would be left for the cache, the larger fraction is used."""
CONTEXT_BYTES, GROUP_BYTES = 0.72e9, 1.5e9
"""A process's own memory, and communication buffers and captured graphs of a group of chips."""
SAMPLER_BYTES = 24.0
"""Scratch of the sampler a sequence and vocabulary entry: fp32 logits, sorts, probabilities. vLLM's
profiling run reserves it for every sequence; checked on an RTX 4090 that held 41,000 tokens."""
MOST_SAMPLED = 1024.0
SAMPLED = 256.0
"""Sequences the sampler is sized for where a configuration does not say."""
ACTIVATION_ROWS = 14.0
"""Rows of hidden size in bf16 alive at the peak of a layer, a token of the largest iteration."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Memory of one replica; bytes a chip unless said otherwise."""

    weight_bytes: float
    activation_bytes: float
    usable_bytes: float
    """Memory the engine may take."""
    cache_bytes: float
    """Left for the cache on one chip; negative if the model does not fit."""
    kv_bytes_per_token: float
    """On one chip, while no window is full."""
    state_bytes_per_sequence: float
    """Recurrent state, on one chip."""
    kv_capacity_tokens: float
    """Tokens of cache that fit in the whole replica (attention data-parallel ranks together)."""
    capped_share: float
    """Share of a token's cache bytes that a window caps."""
    cap_tokens: float
    """Tokens a capped layer keeps (the window; with eviction, window and sinks)."""

    @property
    def fits(self) -> bool:
        """Whether at least one token of cache is left."""
        return self.kv_capacity_tokens >= 1


def chip_bytes(setting: Setting) -> float:
    """Memory of one chip as its driver reports it, else as its data sheet says."""
    return setting.operators.chip.memory_bytes


def _cache_per_token(setting: Setting, tp: FloatArray, pp: FloatArray) -> FloatArray:
    total = np.zeros(np.broadcast_shapes(np.shape(tp), np.shape(pp)))
    for m in setting.work.mixers:
        values = m.count * m.kv_values_per_token / m.stride
        if m.latent or m.v_dim == 0:  # every rank holds the whole latent
            total = total + values * setting.kv_bytes
        else:
            total = total + values * setting.kv_bytes / np.minimum(tp, float(m.kv_heads))
    return np.asarray(total / pp)


def cache_tokens(
    setting: Setting, *, tp: FloatArray, pp: FloatArray, dp: FloatArray, ep: FloatArray,
    moe_tp: FloatArray, context: FloatArray, chunk_tokens: float = 8192.0,
    memory_fraction: float = 0.9,
) -> FloatArray:  # fmt: skip
    """Sequences of ``context`` tokens whose cache fits in one replica, one a configuration.

    Negative where the weights alone do not fit.
    """
    weights = weight_bytes(setting, tp, ep, moe_tp, dp) / pp
    whole = chip_bytes(setting)
    runtime = CONTEXT_BYTES + np.where(tp * dp * pp > 1, GROUP_BYTES, 0.0)
    runtime = runtime + SAMPLED * setting.work.vocab * SAMPLER_BYTES / tp
    left = whole * memory_fraction - weights - runtime
    # A tight model is started with a larger share of memory.
    left = np.where(left < TIGHT * whole, left + (TIGHT_FRACTION - memory_fraction) * whole, left)
    left = left - chunk_tokens * setting.work.hidden * 2.0 * ACTIVATION_ROWS
    each = np.zeros_like(np.asarray(context, dtype=np.float64))
    for m in setting.work.mixers:
        ways = 1.0 if m.latent or m.v_dim == 0 else np.minimum(tp, float(m.kv_heads))
        each = each + m.count * m.kv_values_per_token * m.held(context) * setting.kv_bytes / ways
    each = each / pp + setting.work.state_values * 4.0 / tp / pp
    return np.asarray(left / np.maximum(each, 1.0) * dp)


def memory(config: ServingConfig) -> Memory:
    """Memory of a configuration; raises NoFeasiblePlanError if its weights do not fit."""
    setting = setting_for(config)
    one = np.ones(1)
    tp, pp, dp = config.tp * one, config.pp * one, config.dp * one
    weights = float(weight_bytes(setting, tp, config.ep * one, config.expert_tp * one, dp)[0])
    weights /= config.pp
    usable = chip_bytes(setting) * config.memory_fraction
    activation = _activation_bytes(setting, config)
    runtime = _runtime_bytes(setting, config)
    left = usable - weights - activation - runtime
    if left <= 0:
        short = (weights + activation + runtime) / usable * config.chips_per_replica
        raise NoFeasiblePlanError(
            f"{config.model} needs {weights / 1e9:.0f} GB of weights a chip; {config.chip} "
            f"leaves {(usable - activation - runtime) / 1e9:.0f} GB",
            nearest=f"about {int(np.ceil(short))} chips instead of {config.chips_per_replica}",
            hint="more tensor, expert or pipeline parallelism, or a smaller number format",
        )
    per_token = float(_cache_per_token(setting, tp, pp)[0])
    state = setting.work.state_values * 4.0 / config.tp / config.pp
    # Room the recurrent states of a full batch take comes off before tokens are counted.
    left -= state * config.max_batch / config.dp
    share, cap = _capped(setting, config, per_token)
    tokens = max(left, 0.0) / per_token * config.dp if per_token > 0 else np.inf
    return Memory(
        weight_bytes=weights, activation_bytes=activation, usable_bytes=usable, cache_bytes=left,
        kv_bytes_per_token=per_token, state_bytes_per_sequence=state,
        kv_capacity_tokens=float(tokens), capped_share=share, cap_tokens=cap,
    )  # fmt: skip


def room_for_weights(setting: Setting, config: ServingConfig) -> float:
    """What a chip has left for weights, bytes, before any of the cache."""
    taken = _activation_bytes(setting, config) + _runtime_bytes(setting, config)
    return chip_bytes(setting) * config.memory_fraction - taken


def _activation_bytes(setting: Setting, config: ServingConfig) -> float:
    return config.chunk_tokens * setting.work.hidden * 2.0 * ACTIVATION_ROWS / config.dp


def _runtime_bytes(setting: Setting, config: ServingConfig) -> float:
    """The process's own memory, a group's buffers and the sampler's scratch on one chip."""
    most = MOST_SAMPLED if config.engine == "vllm" else SAMPLED  # others sample as they go
    sampled = min(config.max_batch / config.dp, most)
    runtime = CONTEXT_BYTES + (GROUP_BYTES if config.chips_per_replica > 1 else 0.0)
    return runtime + sampled * setting.work.vocab * SAMPLER_BYTES / config.tp


def _capped(setting: Setting, config: ServingConfig, per_token: float) -> tuple[float, float]:
    """The share of cache bytes under a window, and the longest window."""
    capped, cap = 0.0, 0.0
    for m in setting.work.mixers:
        most = float(m.held(np.inf))
        if np.isfinite(most):
            ways = min(config.tp, m.kv_heads)
            capped += m.count * m.kv_values_per_token / m.stride * setting.kv_bytes / ways
            cap = max(cap, most)
    return (capped / config.pp / per_token if per_token else 0.0), cap
