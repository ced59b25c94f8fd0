"""What failures cost: the best checkpoint interval and the share of time that makes progress.

Interval: T_c = T_s + sqrt(2 (T_f + T_r) T_s + T_s**2), which maximises availability with a recovery
time (arXiv:2410.18124, equation for the optimal checkpoint period); Young's sqrt(2 T_s T_f) is its
limit for T_s << T_r << T_f. T_s stall of one save, T_r recovery, T_f mean time between failures.
The formulas themselves are ``burst/advise/interval.py``'s.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from weftline.burst.advise.interval import availability
from weftline.burst.advise.interval import nvidia_interval_s as checkpoint_interval_s

__all__ = ["Goodput", "availability", "checkpoint_interval_s", "goodput"]

FAILURES_PER_CHIP_DAY: Final = 0.474e-3
FAILURES_LOW: Final = 2.34e-3 / 8
FAILURES_HIGH: Final = 6.50e-3 / 8
FAILURES_BASIS: Final = (
    "published: Llama 3 405B, 419 unexpected interruptions on 16,384 H100 in 54 days; band from "
    "Meta RSC-2 and RSC-1 (arXiv:2410.21680)"
)
"""Failures a chip and day. One public figure a scale is all there is; other chips take it over."""

CHECKPOINT_BYTES_PER_PARAMETER: Final = 14.0
"""bf16 weight, fp32 master weight and two fp32 Adam moments."""
STAGING_BYTES_PER_S: Final = 10e9
"""Copy of a chip's share into host memory, assumed: under half of a PCIe 4.0 x16 link."""
RECOVERY_S: Final = 22.5 * 60
"""Detect, reschedule, restore: 15 to 30 minutes published for checkpoint recovery."""
RECOVERY_BAND_S: Final = (3 * 60.0, 30 * 60.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Goodput:
    """How a run loses time to failures, times in seconds."""

    mtbf_s: float
    stall_s: float
    interval_s: float
    availability: float
    """Share of wall time that makes progress, 0 to 1."""


def goodput(
    chips: int,
    parameters: int,
    *,
    failures_per_chip_day: float = FAILURES_PER_CHIP_DAY,
    recovery_s: float = RECOVERY_S,
) -> Goodput:
    """Goodput of a run on ``chips`` chips with asynchronous checkpoints of the whole state."""
    mtbf_s = 86400.0 / (failures_per_chip_day * chips)
    stall_s = parameters * CHECKPOINT_BYTES_PER_PARAMETER / chips / STAGING_BYTES_PER_S
    stall_s = max(stall_s, 0.1)
    interval_s = checkpoint_interval_s(stall_s, mtbf_s, recovery_s)
    return Goodput(
        mtbf_s=mtbf_s,
        stall_s=stall_s,
        interval_s=interval_s,
        availability=availability(stall_s, interval_s, mtbf_s, recovery_s),
    )
