"""Seconds of every operator of a serving step on one chip, on arrays of shapes at once.

``operators("h200")`` gives the operators of a chip. Sizes are what one chip works on (heads after
tensor parallelism, a rank's experts); arrays broadcast; nothing loops over shapes. Times hold for
kernels launched from a captured graph: what the host adds is the engine's.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np

from weftline.attention.costs import index_bytes, index_flops
from weftline.errors import InputError
from weftline.operators.chips import Chip, chip_of
from weftline.operators.collectives import Collective, Network
from weftline.operators.dtypes import CACHE_BYTES, number_format
from weftline.operators.lookup import look_up
from weftline.operators.measured import STATE_VALUES, MeasuredTables, plain_table
from weftline.operators.spans import mean_span
from weftline.operators.sparse import accelerates, fallback_factor, skipping_s
from weftline.operators.surface import FloatArray, Number
from weftline.operators.systolic import SystolicPrior, smooth_max
from weftline.operators.tables import measured_keys, number
from weftline.spec.attention import DENSE, Rule
from weftline.spec.attention_counts import held, mean_seen
from weftline.spec.attention_counts import seen as seen_by

_EXPANDED_DIM = 128
"""Head size whose tables price expanded latent attention: the best covered one with as many kv
heads as heads. Work scales with the sum of both head sizes."""


class Kernels(Protocol):
    """What tables and the prior both answer."""

    def gemm_s(self, quantisation: str, m: Number, n: Number, k: Number) -> FloatArray:
        """Seconds of a dense product."""

    def decode_s(
        self, cache: str, context: Number, streams: Number, group: Number, dim: int
    ) -> FloatArray:
        """Seconds of decode attention."""

    def prefill_s(
        self, cache: str, tokens: Number, span: Number, streams: Number, group: Number, dim: int
    ) -> FloatArray:
        """Seconds of prefill attention."""

    def decode_mixed_s(
        self, cache: str, context: Number, streams: Number, group: Number, dim: int
    ) -> FloatArray:
        """Seconds that decode attention adds to a launch shared with a prompt."""

    def decode_window_s(
        self, cache: str, window: Number, streams: Number, group: Number, dim: int
    ) -> FloatArray:
        """Seconds of decode attention that sees only the last ``window`` of more keys."""

    def prefill_window_s(
        self, cache: str, tokens: Number, span: Number, streams: Number, group: Number, dim: int
    ) -> FloatArray:
        """Seconds of prefill attention whose queries see a window: ``span`` keys in the mean."""

    def experts_s(
        self, quantisation: str, pairs: Number, used: Number, width: Number, hidden: Number,
        skew: float,
    ) -> FloatArray:  # fmt: skip
        """Seconds of routed experts."""

    def scan_s(self, decode: bool, tokens: Number, batch: Number, heads: Number) -> FloatArray:
        """Seconds of a recurrent update."""

    def convolution_s(self, decode: bool, rows: Number, channels: Number) -> FloatArray:
        """Seconds of a short convolution."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Small:
    """Rates of the operators that no table covers (see ``docs/serving-operators.md``)."""

    elementwise_launch_s: float = 2.0e-6
    elementwise_efficiency: float = 0.75
    mla_launch_s: float = 9.0e-6
    mla_memory_efficiency: float = 0.896
    mla_matrix_efficiency: float = 0.667
    index_launch_s: float = 5.0e-6
    index_memory_efficiency: float = 0.5
    index_matrix_efficiency: float = 0.4
    sampling_launch_s: float = 10.0e-6
    sampling_passes: float = 3.0


class Operators:
    """Times of one chip. See the module's head; every method returns seconds."""

    def __init__(self, chip: Chip, small: Small | None = None) -> None:
        self.chip = chip
        self.small = small or Small()
        self.kernels: Kernels = MeasuredTables(chip) if chip.like else SystolicPrior(chip)
        self.network = Network(chip)

    @property
    def basis(self) -> str:
        """Where the times come from: measured tables, a layer profile, kin's tables, the prior."""
        if self.chip.like is None:
            return "prior"
        if measured_keys("profile", "gemm", self.chip.name):
            return "profiled"
        return "measured" if self.chip.like == self.chip.name else f"carried from {self.chip.like}"

    def gemm_s(
        self, quantisation: str, m: Number, n: Number, k: Number, weight_density: float = 1.0
    ) -> FloatArray:
        """Dense product: ``m`` tokens, ``k`` input and ``n`` output features on this chip.

        ``weight_density`` below 1 is for weights pruned to a structure: a chip with a unit for it
        skips the zeros of the products (weights are still read whole), others work on them.
        """
        dense = self.kernels.gemm_s(quantisation, m, n, k)
        if weight_density >= 1.0:
            return dense
        skipped = skipping_s(self.chip.sparse, dense, "structured_weights", weight_density)
        read = np.asarray(n) * k * number_format(quantisation).weight_bytes
        return np.minimum(dense, np.maximum(skipped, read / self.chip.bandwidth_bytes_per_s))

    # -- attention

    def decode_attention_s(
        self,
        kv_cache: str,
        batch: Number,
        context: Number,
        heads: Number,
        kv_heads: Number,
        head_dim: int,
        rule: Rule = DENSE,
        queries: Number = 1,
        mixed: bool = False,
    ) -> FloatArray:
        """One decode step of ``batch`` sequences with ``context`` cached tokens each (the mean).

        Heads are this chip's. ``rule`` says what a query reads; ``queries`` is more than one
        where drafted tokens are verified (they share the read of the cache). ``mixed`` is what
        decoding adds to a launch that also holds a prompt: on cards profiled so it is far more.
        """
        self._check_cache(kv_cache)
        reach = np.maximum(np.asarray(context, dtype=np.float64), 1.0)
        group = np.asarray(heads) / np.asarray(kv_heads) * queries
        streams = np.asarray(batch) * kv_heads
        if rule == DENSE:
            time = self.kernels.decode_mixed_s if mixed else self.kernels.decode_s
            return time(kv_cache, reach, streams, group, head_dim)
        seen = np.clip(seen_by(rule, reach - 1.0), 1.0, reach)
        found = self.kernels.decode_s(kv_cache, seen, streams, group, head_dim)
        if rule.pattern == "window":
            cut = self.kernels.decode_window_s(kv_cache, seen, streams, group, head_dim)
            found = np.where(reach > seen, np.maximum(found, cut), found)
        found = found + self.index_s(rule, batch, 1.0, reach, kv_heads, head_dim)
        if not accelerates(self.chip.sparse, rule.pattern):
            return found
        dense = self.kernels.decode_s(kv_cache, reach, streams, group, head_dim)
        return np.minimum(found, skipping_s(self.chip.sparse, dense, rule.pattern, seen / reach))

    def prefill_attention_s(
        self,
        kv_cache: str,
        batch: Number,
        new_tokens: Number,
        context: Number,
        heads: Number,
        kv_heads: Number,
        head_dim: int,
        rule: Rule = DENSE,
    ) -> FloatArray:
        """``batch`` prompts (or chunks) of ``new_tokens``, with ``context`` tokens cached before.

        Causal. ``rule`` says what a query sees.
        """
        self._check_cache(kv_cache)
        tokens = np.maximum(np.asarray(new_tokens, dtype=np.float64), 1.0)
        full = mean_span(tokens, context, None)
        streams = np.asarray(batch) * kv_heads
        group = np.asarray(heads) / np.asarray(kv_heads)
        if rule == DENSE:
            return self.kernels.prefill_s(kv_cache, tokens, full, streams, group, head_dim)
        span = np.minimum(mean_seen(rule, tokens, context), full)
        sizes = (tokens, span, streams, group, head_dim)
        found = self.kernels.prefill_s(kv_cache, *sizes)
        if rule.pattern == "window":
            cut = self.kernels.prefill_window_s(kv_cache, *sizes)
            # Where the window begins to bind another kernel runs; more tokens never cost less.
            most = held(rule, np.inf)
            begun = np.clip(most - context, 1.0, tokens)
            early = np.minimum(mean_seen(rule, begun, context), mean_span(begun, context, None))
            least = self.kernels.prefill_s(kv_cache, begun, early, streams, group, head_dim)
            bound = tokens + np.asarray(context) > most
            found = np.where(bound, np.maximum(cut, least), found)
        found = found + self.index_s(rule, batch, tokens, context, kv_heads, head_dim)
        if not accelerates(self.chip.sparse, rule.pattern):
            return found
        dense = self.kernels.prefill_s(kv_cache, tokens, full, streams, group, head_dim)
        return np.minimum(found, skipping_s(self.chip.sparse, dense, rule.pattern, span / full))

    def index_s(
        self, rule: Rule, batch: Number, tokens: Number, context: Number, kv_heads: Number, dim: int
    ) -> FloatArray:
        """Scoring the blocks that a rule of the policy's own selects from; 0 for all others.

        An indexer that the model was trained with is an operator of its own.
        """
        chooser = rule.selects
        if chooser is None or (chooser.score == "indexer" and not chooser.heads):
            return np.asarray(0.0)
        shape = {"kv_heads": 1, "dim": dim}
        heads = np.asarray(kv_heads, dtype=np.float64) if chooser.score != "indexer" else 1.0
        nbytes = index_bytes(rule, tokens, context, **shape) * heads * batch
        flops = index_flops(rule, tokens, context, **shape) * heads * batch
        s, chip = self.small, self.chip
        read = nbytes / (s.index_memory_efficiency * chip.bandwidth_bytes_per_s)
        return np.asarray(
            s.index_launch_s + read + flops / (s.index_matrix_efficiency * chip.peak_flops("bf16"))
        )

    def mla_decode_s(
        self,
        kv_cache: str,
        batch: Number,
        context: Number,
        heads: Number,
        latent: int = 512,
        rope: int = 64,
        queries: Number = 1,
        rule: Rule = DENSE,
    ) -> FloatArray:
        """Decode attention over a shared latent (absorbed form): one cache for all heads.

        Efficiencies are FlashMLA's published ones on H800 (3,000 of 3,350 GB/s, 660 of 989
        TFLOP/s). ``rule`` says which entries are attended to.
        """
        self._check_cache(kv_cache)
        s, chip = self.small, self.chip
        seen = np.maximum(np.asarray(context, dtype=np.float64), 1.0)
        if rule != DENSE:
            seen = np.clip(seen_by(rule, seen - 1.0), 1.0, seen)
        stored = latent * CACHE_BYTES[kv_cache] + rope * 2.0
        stored += 4.0 * latent / 128.0 if CACHE_BYTES[kv_cache] < 2 else 0.0
        nbytes = np.asarray(batch) * seen * stored
        flops = 2.0 * np.asarray(batch) * queries * heads * seen * (2.0 * latent + rope)
        busy = smooth_max(
            nbytes / (chip.bandwidth_bytes_per_s * s.mla_memory_efficiency),
            flops / (chip.peak_flops("bf16") * s.mla_matrix_efficiency),
        )
        return s.mla_launch_s + busy

    def mla_prefill_s(
        self,
        batch: Number,
        new_tokens: Number,
        context: Number,
        heads: Number,
        qk_dim: int = 192,
        v_dim: int = 128,
        rule: Rule = DENSE,
    ) -> FloatArray:
        """Prompt attention with the latent expanded: every head has its own keys and values."""
        tokens = np.maximum(np.asarray(new_tokens, dtype=np.float64), 1.0)
        span = mean_span(tokens, context, None)
        if rule != DENSE:
            span = np.minimum(mean_seen(rule, tokens, context), span)
        one = self.kernels.prefill_s(
            "bf16", tokens, span, np.asarray(batch) * heads, 1.0, _EXPANDED_DIM
        )
        return one * (qk_dim + v_dim) / (2.0 * _EXPANDED_DIM)

    def _check_cache(self, kv_cache: str) -> None:
        if kv_cache not in CACHE_BYTES:
            raise InputError(f"unknown cache format `{kv_cache}`", hint=", ".join(CACHE_BYTES))

    # -- experts

    def moe_s(
        self,
        quantisation: str,
        tokens: Number,
        hidden: Number,
        inter: Number,
        experts: Number,
        top_k: Number,
        ep: Number = 1,
        tp: Number = 1,
        skew: float = 0.0,
        imbalance: Number | None = None,
        gathered: bool = False,
    ) -> FloatArray:
        """One layer's routed experts on the busiest rank: gate, up, activation, down, combine.

        ``tokens`` are those routed over the whole expert-parallel group (all of them if ``ep`` is
        1), ``inter`` one expert's width before ``tp`` splits it. ``skew`` 0 is balanced routing,
        1.01 and 1.2 the measured power laws; ``imbalance``, the busiest rank's load over the mean,
        follows from it where it is not given. ``gathered``: every rank holds all routed rows and
        skips those of others (all-gather instead of a dispatch).
        """
        if imbalance is None:
            imbalance = power_law_imbalance(ep, skew)
        pairs = np.asarray(tokens, dtype=np.float64) * top_k / ep * imbalance
        local = np.asarray(experts, dtype=np.float64) / ep
        used = expected_used(pairs, local)
        width = np.asarray(inter, dtype=np.float64) / tp
        busy = self.kernels.experts_s(
            quantisation, np.maximum(pairs, 1.0), used, width, hidden, skew
        )
        slower = fallback_factor(self.chip.sparse, "routing")
        if slower > 1.0:  # sorting and gathering the routed rows, on engines not made for it
            busy = busy + (slower - 1.0) * self.elementwise_s(4.0 * pairs * hidden, 2)
        if not gathered:
            return busy
        others = np.asarray(tokens, dtype=np.float64) * top_k * (1.0 - 1.0 / np.asarray(ep))
        once = 4.0 * others * hidden / self.chip.bandwidth_bytes_per_s
        return busy + once * elsewhere_cost(self.chip.like, quantisation)

    # -- recurrent layers

    def scan_s(
        self,
        batch: Number,
        tokens: Number,
        state_values: Number,
        *,
        decode: bool,
    ) -> FloatArray:
        """Gated delta net or Mamba-2: update of ``state_values`` a sequence on this chip.

        ``tokens`` is a sequence's new tokens (1 when decoding). Timed kernels have heads of
        128 x 128; other shapes count as that many heads of equal state.
        """
        heads = np.asarray(state_values, dtype=np.float64) / STATE_VALUES
        slower = fallback_factor(self.chip.sparse, "scan")
        return self.kernels.scan_s(decode, tokens, batch, heads) * slower

    def convolution_s(
        self, batch: Number, tokens: Number, channels: Number, *, decode: bool
    ) -> FloatArray:
        """The short causal convolution before a scan."""
        rows = np.asarray(batch) * (1.0 if decode else np.asarray(tokens))
        return self.kernels.convolution_s(decode, rows, channels)

    # -- the rest

    def elementwise_s(self, nbytes: Number, launches: Number = 1) -> FloatArray:
        """Norms, activations, rotary, residuals: bytes read and written, kernels launched."""
        count = np.asarray(launches, dtype=np.float64)
        if self.chip.like is None:
            one = self.small.elementwise_launch_s
            rate = self.chip.bandwidth_bytes_per_s * self.small.elementwise_efficiency
            return np.asarray(count * one + np.asarray(nbytes) / rate)
        each = np.asarray(nbytes, dtype=np.float64) / np.maximum(count, 1.0)
        return count * self._over_bytes("elementwise", each)

    def _over_bytes(self, operator: str, nbytes: Number) -> FloatArray:
        return look_up(plain_table(self.chip, operator), (np.maximum(nbytes, 1.0),))

    def norm_s(self, tokens: Number, hidden: Number) -> FloatArray:
        """One fused residual-and-norm: two rows read, two written, bf16."""
        return self.elementwise_s(8.0 * np.asarray(tokens) * hidden)

    def sampling_s(self, batch: Number, vocab: Number) -> FloatArray:
        """Choosing a token: a few passes over fp32 logits."""
        s = self.small
        nbytes = 4.0 * np.asarray(batch, dtype=np.float64) * vocab
        if self.chip.like is not None:
            return self._over_bytes("sampling", nbytes)
        rate = self.chip.bandwidth_bytes_per_s * s.elementwise_efficiency
        return np.asarray(s.sampling_launch_s + s.sampling_passes * nbytes / rate)

    def collective_s(
        self, kind: Collective, nbytes: Number, size: Number, per_host: Number | None = None
    ) -> FloatArray:
        """A collective of ``size`` chips on a full buffer of ``nbytes``."""
        return self.network.seconds(kind, nbytes, size, per_host)


def expected_used(pairs: FloatArray, experts: FloatArray) -> FloatArray:
    """Distinct experts that ``pairs`` evenly routed pairs hit: at most one a pair, at most all."""
    return np.maximum(np.minimum(pairs, experts), 1.0)


def power_law_imbalance(ranks: Number, skew: float) -> FloatArray:
    """The busiest expert-parallel rank's load over the mean, from measured power-law routing.

    Linear in ``skew`` between balanced (0) and the measured exponents (1.01, 1.2), in log2 of the
    ranks between those measured; held beyond them.
    """
    known = number("moe", "imbalance")
    at = np.log2(np.maximum(np.asarray(ranks, dtype=np.float64), 1.0))
    grid = np.log2(known["ranks"])
    exponents = [0.0, *(float(k) for k in known["by_skew"])]
    curves = [np.ones_like(at), *(np.interp(at, grid, c) for c in known["by_skew"].values())]
    skew = min(max(skew, 0.0), exponents[-1])
    upper = next(i for i, e in enumerate(exponents) if e >= skew)
    if upper == 0:
        return np.asarray(curves[0])
    low, high = exponents[upper - 1], exponents[upper]
    share = (skew - low) / (high - low)
    return np.asarray(curves[upper - 1] * (1.0 - share) + curves[upper] * share)


def elsewhere_cost(like: str | None, quantisation: str) -> float:
    """Times a routed row of another rank is read and written where nothing dispatched it."""
    known = number("moe", "elsewhere").get(like or "", {})
    for key in number_format(quantisation).table:
        if key in known:
            return float(known[key])
    return 1.0


@lru_cache(maxsize=64)
def _operators(name: str) -> Operators:
    return Operators(chip_of(name))


def operators(chip: str | Chip) -> Operators:
    """The operators of a chip: by catalogue name (kept), or of a chip value of your own.

    Raises UnknownNameError for a name nobody knows, InputError where its peaks are unpublished.
    """
    return _operators(chip_of(chip).name) if isinstance(chip, str) else Operators(chip)
