"""Whether a machine is quiet enough to measure: others' work, stolen time, pressure, drift.

Times that were taken beside others' work are not averaged away: they say how fast the machine is
while that goes on. So they are refused, or kept with the reason said.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

__all__ = ["Loudness", "Noise", "judged"]

_OTHERS: Final = 0.10
"""Share of the cores that others may use."""
_STOLEN: Final = 0.05
"""Share of the time a hypervisor may keep."""
_PRESSURE: Final = 0.15
"""Share of the time before the start in which some process waited for a core."""
_SPREAD: Final = 1.30
"""90th over 10th percentile of a reference product, timed again and again beside the rest."""
_DRIFT: Final = 1.12
"""Median of its last third over its first, either way."""
_FEW: Final = 6
"""References below which spread and drift say nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loudness:
    """What went on beside a measurement; shares from 0 to 1."""

    others: float
    """Of all cores, used by processes that were not ours."""
    stolen: float
    pressure: float
    spread: float
    """90th over 10th percentile of the reference; 1 is a machine that always takes as long."""
    drift: float
    """Last third of the references over the first."""
    reasons: tuple[str, ...]
    """Why the machine counts as loud; empty where it is quiet."""


@dataclass(slots=True)
class _Ticks:
    busy: float
    steal: float
    own: float
    time: float


class Noise:
    """Counts from its making to :meth:`judge`; ``pressure`` is looked at before."""

    def __init__(self, *, settle_s: float = 0.5) -> None:
        """Sleeps ``settle_s`` to see what waits for cores while nothing of ours runs."""
        before = _waited_s()
        time.sleep(settle_s)
        after = _waited_s()
        self.pressure = 0.0 if before is None or after is None else (after - before) / settle_s
        self.cores = os.cpu_count() or 1
        self._begin = _ticks()

    def judge(self, references_s: Sequence[float]) -> Loudness:
        """Look back; ``references_s`` are seconds of one product, in the order they were timed.

        Children must have ended, so that what they used is known as ours.
        """
        now, begin = _ticks(), self._begin
        room = max(1e-9, (now.time - begin.time) * self.cores)
        others = max(0.0, (now.busy - begin.busy) - (now.own - begin.own)) / room
        return judged(
            references_s, others=others, stolen=(now.steal - begin.steal) / room,
            pressure=self.pressure,
        )  # fmt: skip


def judged(
    references_s: Sequence[float], *, others: float, stolen: float, pressure: float
) -> Loudness:
    """Spread and drift of the references, and every limit that is crossed."""
    spread = drift = 1.0
    if len(references_s) >= _FEW:
        low, high = np.percentile(references_s, (10, 90))
        spread = float(high / low)
        third = max(1, len(references_s) // 3)
        drift = float(np.median(references_s[-third:]) / np.median(references_s[:third]))
    reasons = [
        text
        for crossed, text in (
            (others > _OTHERS, f"other processes used {others:.0%} of the cores"),
            (stolen > _STOLEN, f"the hypervisor kept {stolen:.0%} of the time"),
            (pressure > _PRESSURE,
             f"processes waited for cores {pressure:.0%} of the time before the start"),
            (spread > _SPREAD,
             f"a reference product took {spread - 1:.0%} longer at its 90th percentile than at "
             "its 10th"),
            (max(drift, 1 / drift) > _DRIFT,
             f"the reference product drifted by {drift - 1:+.0%} from begin to end"),
        )
        if crossed
    ]  # fmt: skip
    return Loudness(
        others=others, stolen=stolen, pressure=pressure, spread=spread, drift=drift,
        reasons=tuple(reasons),
    )  # fmt: skip


def _ticks() -> _Ticks:
    """Processor seconds of the machine and of our own tree so far."""
    own = sum(os.times()[:4])
    hertz = os.sysconf("SC_CLK_TCK")
    try:
        line = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0]
    except OSError:
        return _Ticks(busy=own, steal=0.0, own=own, time=time.monotonic())
    user, nice, system, _, _, irq, soft, steal = (int(v) / hertz for v in line.split()[1:9])
    busy = user + nice + system + irq + soft
    return _Ticks(busy=busy, steal=steal, own=own, time=time.monotonic())


def _waited_s() -> float | None:
    """Seconds in which some process waited for a core, since boot; None where nobody counts."""
    try:
        text = Path("/proc/pressure/cpu").read_text(encoding="ascii")
    except OSError:
        return None
    return int(text.split("total=", 1)[1].split()[0]) * 1e-6
