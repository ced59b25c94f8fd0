"""Collectives of many sizes over many groups at once, for searches: the predictor as a table.

A group is so many ranks, so many of them in each scale-up domain. Of every kind of group that comes
the predictor is asked once, at sizes a quarter of a power of two apart; between them seconds are
read by interpolation of log seconds over log size. At those sizes the answer is ``predict``'s to
the digit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt

from weftline.fabric.predictor.machines import Harness, Machine
from weftline.fabric.predictor.networks import machine_on
from weftline.fabric.predictor.predict import calibration, times_s
from weftline.spec import Cluster

FloatArray = npt.NDArray[np.float64]
Number = float | FloatArray
NODES: Final = np.exp2(np.arange(0.0, 44.25, 0.25))
"""Bytes the predictor is asked for: a byte to 16 TiB."""
_STEPS: Final = 4.0
"""Nodes a power of two."""


class CollectiveTimes:
    """Seconds of collectives on one cluster, whatever the groups.

    ``machine`` makes the machine of (ranks, ranks in each domain). ``harness`` device: programs
    queue their calls ahead, so that the host is not waited for.
    """

    def __init__(
        self, machine: Callable[[int, int], Machine], *, harness: Harness = "device"
    ) -> None:
        self._machine = machine
        self._harness: Harness = harness
        self._rows: dict[tuple[str, int, int], int] = {}
        self._log_seconds = np.zeros((0, len(NODES)))

    @classmethod
    def of_cluster(cls, cluster: Cluster, *, library: str = "auto") -> CollectiveTimes:
        """Those of a cluster's own chips and levels."""
        return cls(lambda ranks, per: machine_on(cluster, ranks, per, library=library))

    def seconds(
        self, collective: str, nbytes: Number, ranks: Number, per_domain: Number
    ) -> FloatArray:
        """Seconds, broadcast over all three; a group of one rank, or no bytes, cost nothing.

        ``nbytes`` is nccl-tests' size; ``ranks`` and ``per_domain`` are whole numbers.
        """
        size, count, per = np.broadcast_arrays(
            np.asarray(nbytes, dtype=np.float64),
            np.asarray(ranks, dtype=np.int64),
            np.asarray(per_domain, dtype=np.int64),
        )
        per = np.clip(per, 1, np.maximum(count, 1))
        row = self._rows_of(collective, count.ravel(), per.ravel()).reshape(size.shape)
        place = np.clip(np.log2(np.maximum(size, 1.0)) * _STEPS, 0.0, len(NODES) - 1.0)
        low = np.minimum(place.astype(np.int64), len(NODES) - 2)
        share = place - low
        table = self._log_seconds
        found = np.exp(table[row, low] * (1.0 - share) + table[row, low + 1] * share)
        # Beyond the last node a collective is bytes alone.
        found = found * np.maximum(size / NODES[-1], 1.0)
        return np.where((count > 1) & (size > 0), found, 0.0)

    def _rows_of(self, collective: str, count: npt.NDArray[np.int64],
                 per: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:  # fmt: skip
        """[groups] row of each group's table, made where it is new."""
        code = count * (1 << 31) + per
        kinds, which = np.unique(code, return_inverse=True)
        rows = np.zeros(len(kinds), dtype=np.int64)
        for i, kind in enumerate(kinds.tolist()):
            ranks, inside = divmod(kind, 1 << 31)
            if ranks > 1:
                rows[i] = self._row(collective, ranks, inside)
        if not len(self._log_seconds):
            self._log_seconds = np.zeros((1, len(NODES)))
        return rows[which]

    def _row(self, collective: str, ranks: int, per: int) -> int:
        key = (collective, ranks, per)
        if key not in self._rows:
            seconds = times_s(
                calibration().constants, self._machine(ranks, per), collective, NODES,
                harness=self._harness,
            )  # fmt: skip
            self._rows[key] = len(self._log_seconds)
            self._log_seconds = np.vstack([self._log_seconds, np.log(seconds)])
        return self._rows[key]
