"""Layouts as columns: what a search and a fit hold many of."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from weftline.plan.step.constants import FloatArray
from weftline.plan.step.workload import Keys

IntArray = npt.NDArray[np.int64]


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
    etp: FloatArray
    """Tensor parallelism inside an expert: 1 or tp."""
    shard: FloatArray
    """Ranks over which ZeRO splits: cp * dp, or less under HSDP, which replicates the rest."""
    pp_inner: FloatArray
    """1 where pipeline neighbours lie nearer than data-parallel ones, else 0."""
    ulysses: FloatArray
    """1 where context parallelism exchanges heads (Ulysses), 0 where it rings keys and values."""
    zero_bubble: FloatArray
    """1 for the ZB-H1 schedule, else 0 (1F1B, interleaved where vp > 1)."""

    def __len__(self) -> int:
        return len(self.tp)

    def take(self, index: IntArray | npt.NDArray[np.bool_]) -> Layouts:
        """Some of the layouts."""
        return Layouts(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def keys(self) -> tuple[Keys, IntArray]:
        """Distinct work keys and, for each layout, the index of its own."""
        code = ((self.tp * 1024 + self.cp) * 4096 + self.ep) * 16384 + self.micro_batch
        code = code * 2 + (self.etp > 1)
        _, first, index = np.unique(code, return_index=True, return_inverse=True)
        return (
            Keys(tp=self.tp[first], cp=self.cp[first], ep=self.ep[first], etp=self.etp[first],
                 micro_batch=self.micro_batch[first]),
            index.astype(np.int64),
        )  # fmt: skip
