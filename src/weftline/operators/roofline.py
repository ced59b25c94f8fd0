"""Work of each operator: FLOP moved through the matrix unit and bytes moved through memory.

Every measured time is carried from one chip or number format to another by the ratio of these
rooflines.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from weftline.operators.dtypes import CACHE_BYTES, number_format
from weftline.operators.surface import FloatArray, Number


@dataclass(frozen=True, slots=True)
class Work:
    """FLOP and bytes of one call (arrays broadcast)."""

    flops: Number
    moved_bytes: Number

    def seconds(self, peak_flops: float, bandwidth_bytes_per_s: float) -> FloatArray:
        """The roofline: the slower of the two, each at its peak."""
        return np.maximum(
            np.asarray(self.flops) / peak_flops,
            np.asarray(self.moved_bytes) / bandwidth_bytes_per_s,
        )


def gemm_work(quantisation: str, m: Number, n: Number, k: Number) -> Work:
    """A product of (m, k) activations and (k, n) weights, bf16 results."""
    f = number_format(quantisation)
    return Work(2.0 * m * n * k, m * k * f.activation_bytes + k * n * f.weight_bytes + 2.0 * m * n)


def decode_work(cache: str, dim: float, context: Number, streams: Number, group: Number) -> Work:
    """``streams`` = sequences x kv heads, each read once by ``group`` query heads."""
    entry = 2.0 * dim * CACHE_BYTES[cache]
    return Work(4.0 * dim * context * streams * group, streams * context * entry)


def prefill_work(
    cache: str, dim: float, tokens: Number, span: Number, streams: Number, group: Number
) -> Work:
    """``tokens`` queries a stream and head, each seeing ``span`` keys in the mean."""
    moved = 2.0 * dim * 2.0 * tokens * streams * group + 2.0 * dim * CACHE_BYTES[cache] * (
        streams * np.maximum(span, tokens)
    )
    return Work(4.0 * dim * tokens * span * streams * group, moved)


def expert_work(
    quantisation: str, pairs: Number, used: Number, width: Number, hidden: Number
) -> Work:
    """Gated experts: three products a routed pair, the weights of ``used`` experts read once."""
    f = number_format(quantisation)
    weights = 3.0 * used * width * hidden * f.weight_bytes
    return Work(6.0 * pairs * width * hidden, weights + 4.0 * pairs * hidden)
