"""LoRA adapters by the hundred over one base model: their room, their time, their loading.

Every product of the base has a pair of thin ones beside it for each token, of the adapter that its
request names (S-LoRA, arXiv 2311.03285; Punica, arXiv 2310.18547). A step reads each adapter that
is in its batch once; a replica keeps ``slots`` of them on its chips and the others in host memory.
Requests name adapters evenly: the worst case, as a popular one would be read for many.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from weftline.errors import InputError
from weftline.serve.engine.work import Work

__all__ = ["Adapters", "adapter_bytes", "adapter_seconds", "adapters_of",
           "batch_of"]  # fmt: skip

FloatArray = npt.NDArray[np.float64]

BYTES: Final = 2.0
"""Of an adapter's weight: they are kept in 16 bit."""
SLOTS: Final = 64
"""On a replica's chips at once, where nothing is said."""
CALLS: Final = 2.0
"""Kernels a product: into the rank and out of it, for the tokens of all adapters at once."""
GATHERED: Final = 0.5
"""Share of bandwidth and peak that gathered thin products reach: assumed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapters:
    """So many adapters of one rank over one base model."""

    count: int
    rank: int
    slots: int
    """Held on the chips of a replica at once."""

    def __post_init__(self) -> None:
        if not (self.count >= 1 and 1 <= self.rank <= 4096 and self.slots >= 1):
            raise InputError(
                f"{self.count} adapters of rank {self.rank}, {self.slots} at once: each at least 1",
                hint="200:16, or 200:16:32",
            )

    def distinct(self, sequences: FloatArray) -> FloatArray:
        """Adapters that a batch of sequences names, in the mean: count (1 - (1 - 1/count)^n)."""
        named = (
            -self.count * np.expm1(sequences * math.log1p(-1.0 / self.count))
            if self.count > 1
            else np.ones_like(sequences)
        )
        return np.asarray(np.minimum(named, float(min(self.slots, self.count))))

    @property
    def most_sequences(self) -> float:
        """The batch whose adapters fill the slots, in the mean; no bound where all have one."""
        if self.slots >= self.count:
            return math.inf
        full = math.log1p(-self.slots / self.count) / math.log1p(-1.0 / self.count)
        return max(1.0, full)

    @property
    def missed(self) -> float:
        """Share of requests whose adapter has to come from host memory."""
        return max(0.0, 1.0 - self.slots / self.count)


def adapters_of(said: tuple[int, int, int] | None) -> Adapters | None:
    """From count, rank and slots; None for none."""
    return None if said is None else Adapters(count=said[0], rank=said[1], slots=said[2])


def batch_of(most: int, adapters: Adapters | None, ranks: int) -> int:
    """Sequences of a replica that may run at once: no more than its slots have adapters for."""
    return most if adapters is None else int(min(most, adapters.most_sequences * ranks))


def adapter_bytes(work: Work, rank: int) -> float:
    """Bytes of one adapter over all products but routed experts and the vocabulary's."""
    return BYTES * rank * work.adapted_values


def adapter_seconds(
    work: Work, adapters: Adapters, tokens: FloatArray, sequences: FloatArray, tp: FloatArray, *,
    bandwidth_bytes_per_s: float, peak_flops: float,
) -> FloatArray:  # fmt: skip
    """Seconds that adapters add to an iteration of ``tokens`` of ``sequences`` on one rank."""
    values = adapters.rank * work.adapted_values / tp
    read = adapters.distinct(np.maximum(sequences, 1.0)) * values * BYTES / bandwidth_bytes_per_s
    computed = 2.0 * tokens * values / peak_flops
    calls = CALLS * work.adapted * 1e-6
    return np.asarray(np.maximum(read, computed) / GATHERED + calls)
