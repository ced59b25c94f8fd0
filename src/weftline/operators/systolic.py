"""A prior for chips without kernel tables: a matrix array, a vector unit and a memory.

A product of (m, k) and (k, n) runs on an array of ``rows`` x ``columns``: k is padded to whole
rows, n to whole columns, and loading a tile's weights takes as long as streaming ``rows`` tokens,
so fewer tokens than that cost the same. Softmax, norms and gates run on the vector unit; look-ups
and paged reads on the gather engine, which reaches a part of the bandwidth. The units overlap: the
slower decides, smoothly. Few scalars describe a chip (:class:`Prior`); published serving rows may
adjust them (``Chip.prior``), everything else is geometry.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from importlib import resources
from typing import Any

import numpy as np

from weftline.errors import InputError
from weftline.operators.chips import Chip
from weftline.operators.dtypes import CACHE_BYTES, canonical, number_format
from weftline.operators.spans import WINDOW_TILE
from weftline.operators.surface import FloatArray, Number

_SHARPNESS = 4.0
"""Exponent of the smooth maximum: two equal times cost 2^(1/4) of one, 19 % more."""
_SOFTMAX_OPS = 6.0
"""Vector operations a score: scale, maximum, subtract, exponential, sum, cast."""
_SCAN_OPS = 6.0
"""Vector operations a state value and token: decay, outer product, read-out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prior:
    """The scalars of one chip. Efficiencies are fractions of the catalogue's peaks."""

    rows: float = 128.0
    """Contraction side of the matrix array."""
    columns: float = 128.0
    """Output side of the matrix array."""
    matrix_efficiency: float = 0.75
    """Share of the matrix peak that large products reach."""
    memory_efficiency: float = 0.8
    """Share of the bandwidth that streaming reads reach."""
    gather_efficiency: float = 0.5
    """Share of the bandwidth that paged or indexed reads reach."""
    attention_efficiency: float = 0.3
    """Share of the matrix peak that fused attention over a prompt reaches."""
    stream_s: float = 0.0
    """Time each cache (sequence x kv head) adds to decode attention: its pages are walked."""
    vector_share: float = 1.0 / 32.0
    """Vector operations a second over bf16 matrix FLOP a second."""
    launch_s: float = 1.5e-6
    """Time an operator costs however small: instruction fetch, DMA set-up."""
    routing_s: float = 5e-6
    """Time dynamic routing costs a layer: top-k, sort, host or scalar-engine work."""


@cache
def _bundled() -> dict[str, Any]:
    file = resources.files("weftline.operators") / "data" / "operators_systolic.json"
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def prior_of(chip: Chip) -> Prior:
    """The scalars of a chip: the defaults, its array from the data file, its own ``prior``.

    Raises InputError for a scalar that does not exist.
    """
    values = dict(_bundled()["chips"].get(chip.name, {}).get("scalars", {}))
    values |= chip.prior
    known = {f.name for f in fields(Prior)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise InputError(
            f"unknown scalar `{unknown[0]}` of chip `{chip.name}`", hint=", ".join(sorted(known))
        )
    return Prior(**values)


def smooth_max(*times: Number) -> FloatArray:
    """A maximum that rises smoothly where its parts are equal; never below any of them."""
    most = np.asarray(times[0], dtype=np.float64)
    for other in times[1:]:
        most = np.maximum(most, other)
    most = np.maximum(most, 1e-30)
    total: Number = 0.0
    for time in times:
        total = total + (np.asarray(time) / most) ** _SHARPNESS
    return np.asarray(most * np.asarray(total) ** (1.0 / _SHARPNESS))


class SystolicPrior:
    """Operators of one chip from its geometry and a few scalars."""

    def __init__(self, chip: Chip, scalars: Mapping[str, float] | None = None) -> None:
        self.chip = chip
        self.prior = prior_of(chip)
        if scalars:
            known = {f.name: getattr(self.prior, f.name) for f in fields(Prior)}
            self.prior = Prior(**(known | dict(scalars)))
        self.vector_ops_per_s = chip.peak_flops("bf16") * self.prior.vector_share

    def _memory_s(self, nbytes: Number, efficiency: float) -> FloatArray:
        return np.asarray(nbytes) / (self.chip.bandwidth_bytes_per_s * efficiency)

    def _matrix_s(self, quantisation: str, m: Number, n: Number, k: Number) -> FloatArray:
        p = self.prior
        padded = (
            np.maximum(m, p.rows)
            * (np.ceil(np.asarray(n) / p.columns) * p.columns)
            * (np.ceil(np.asarray(k) / p.rows) * p.rows)
        )
        return 2.0 * padded / (self.chip.peak_flops(quantisation) * p.matrix_efficiency)

    def gemm_s(self, quantisation: str, m: Number, n: Number, k: Number) -> FloatArray:
        """Seconds of (m, k) times (k, n)."""
        name = canonical(quantisation)
        f = number_format(name)
        moved = m * k * f.activation_bytes + k * n * f.weight_bytes + 2.0 * m * n
        unpack: Number = 0.0
        if not self.chip.native(name) and f.weight_bytes < 2:
            # Weights of a format the array cannot multiply are widened by the vector unit.
            unpack = np.asarray(k * n) / self.vector_ops_per_s
        busy = smooth_max(
            self._matrix_s(name, m, n, k),
            self._memory_s(moved, self.prior.memory_efficiency),
            unpack,
        )
        return self.prior.launch_s + busy

    def decode_s(
        self, cache: str, context: Number, streams: Number, group: Number, dim: int
    ) -> FloatArray:
        """Seconds of one query a sequence over ``context`` keys of ``streams`` caches."""
        nbytes = 2.0 * dim * CACHE_BYTES[cache] * context * streams
        scores = np.asarray(context * streams * group, dtype=np.float64)
        # The cached keys are the array's weights: few queries still load every tile.
        loads = np.maximum(group, self.prior.rows) * context * streams
        matrix = 4.0 * loads * max(dim, self.prior.rows) / (
            self.chip.peak_flops("bf16") * self.prior.matrix_efficiency
        )  # fmt: skip
        busy = smooth_max(
            matrix,
            self._memory_s(nbytes, self.prior.gather_efficiency),
            scores * _SOFTMAX_OPS / self.vector_ops_per_s,
        )
        return self.prior.launch_s + self.prior.stream_s * np.asarray(streams) + busy

    def prefill_s(
        self, cache: str, tokens: Number, span: Number, streams: Number, group: Number, dim: int
    ) -> FloatArray:
        """Seconds of ``tokens`` queries a stream, each seeing ``span`` keys in the mean."""
        p = self.prior
        rows = np.maximum(tokens * group, p.rows)
        # The causal diagonal is computed in whole tiles.
        pairs = rows * streams * (span + p.columns / 2.0)
        matrix = 4.0 * pairs * max(dim, p.rows) / (
            self.chip.peak_flops("bf16") * p.attention_efficiency
        )  # fmt: skip
        nbytes = 2.0 * dim * CACHE_BYTES[cache] * streams * np.maximum(span, tokens)
        busy = smooth_max(
            matrix,
            self._memory_s(nbytes, p.gather_efficiency),
            pairs * _SOFTMAX_OPS / self.vector_ops_per_s,
        )
        return p.launch_s + busy

    def decode_mixed_s(
        self, cache: str, context: Number, streams: Number, group: Number, dim: int
    ) -> FloatArray:
        """Seconds that decoding adds beside a prompt: what it costs alone."""
        return self.decode_s(cache, context, streams, group, dim)

    def decode_window_s(
        self, cache: str, window: Number, streams: Number, group: Number, dim: int
    ) -> FloatArray:
        """Seconds of one query a sequence over the last ``window`` keys and the edge's tile."""
        return self.decode_s(cache, window + WINDOW_TILE, streams, group, dim)

    def prefill_window_s(
        self, cache: str, tokens: Number, span: Number, streams: Number, group: Number, dim: int
    ) -> FloatArray:
        """Seconds of windowed queries: the same work over fewer keys."""
        return self.prefill_s(cache, tokens, span, streams, group, dim)

    def experts_s(
        self,
        quantisation: str,
        pairs: Number,
        used: Number,
        width: Number,
        hidden: Number,
        skew: float,
    ) -> FloatArray:
        """Seconds of one rank's experts: a product an expert, each with its share of the pairs."""
        name = canonical(quantisation)
        f = number_format(name)
        used = np.maximum(np.minimum(used, pairs), 1.0)
        each = np.asarray(pairs) / used * (1.0 + 0.5 * min(max(skew / 1.2, 0.0), 1.0))
        matrix = used * (
            self._matrix_s(name, each, 2.0 * np.asarray(width), hidden)
            + self._matrix_s(name, each, hidden, width)
        )
        weights = 3.0 * used * width * hidden * f.weight_bytes + 4.0 * pairs * hidden
        unpack: Number = 0.0
        if not self.chip.native(name) and f.weight_bytes < 2:
            unpack = 3.0 * used * width * hidden / self.vector_ops_per_s
        busy = smooth_max(
            matrix, self._memory_s(weights, self.prior.memory_efficiency), unpack
        ) + self._memory_s(2.0 * pairs * hidden, self.prior.gather_efficiency)
        return self.prior.routing_s + 2.0 * self.prior.launch_s + busy

    def scan_s(self, decode: bool, tokens: Number, batch: Number, heads: Number) -> FloatArray:
        """Seconds of a recurrent update with 128 x 128 states: the vector unit's work.

        Decoding reads and writes the states; a prompt is worked off in chunks of the array's rows
        on the matrix unit (the chunked form), with the decay masks on the vector unit.
        """
        state = 128.0 * 128.0
        length: Number = 1.0 if decode else tokens
        values = np.asarray(batch * heads, dtype=np.float64) * state
        memory = self._memory_s(8.0 * values, self.prior.memory_efficiency)
        if decode:
            return self.prior.launch_s + smooth_max(
                memory, values * _SCAN_OPS / self.vector_ops_per_s
            )
        chunk = self.prior.rows
        padded = np.ceil(np.asarray(length) / chunk) * chunk
        matrix = 10.0 * padded * values / (
            self.chip.peak_flops("bf16") * self.prior.matrix_efficiency
        )  # fmt: skip
        vector = _SCAN_OPS * padded * batch * heads * chunk / self.vector_ops_per_s
        return self.prior.launch_s * (padded / chunk) + smooth_max(matrix, memory) + vector

    def convolution_s(self, decode: bool, rows: Number, channels: Number) -> FloatArray:
        """Seconds of a causal convolution of width 4 over ``rows`` tokens."""
        del decode
        values = np.asarray(rows, dtype=np.float64) * channels
        return self.prior.launch_s + smooth_max(
            self._memory_s(4.0 * values, self.prior.memory_efficiency),
            8.0 * values / self.vector_ops_per_s,
        )
