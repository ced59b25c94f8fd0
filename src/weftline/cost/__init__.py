"""Money, energy, carbon, failures."""

from weftline.cost.energy import Energy, energy_of
from weftline.cost.goodput import (
    FAILURES_BASIS,
    FAILURES_HIGH,
    FAILURES_LOW,
    RECOVERY_BAND_S,
    Goodput,
    availability,
    checkpoint_interval_s,
    goodput,
)

__all__ = [
    "FAILURES_BASIS",
    "FAILURES_HIGH",
    "FAILURES_LOW",
    "RECOVERY_BAND_S",
    "Energy",
    "Goodput",
    "availability",
    "checkpoint_interval_s",
    "energy_of",
    "goodput",
]
