"""Money, energy, carbon, failures."""

from weftline.cost.energy import Energy, energy_of
from weftline.cost.goodput import (
    FAILURES_BASIS,
    FAILURES_HIGH,
    FAILURES_LOW,
    RECOVERY_BAND_S,
    RECOVERY_S,
    Goodput,
    availability,
    checkpoint_interval_s,
    goodput,
)
from weftline.cost.terms import Terms, no_price

__all__ = [
    "FAILURES_BASIS",
    "FAILURES_HIGH",
    "FAILURES_LOW",
    "RECOVERY_BAND_S",
    "RECOVERY_S",
    "Energy",
    "Goodput",
    "Terms",
    "availability",
    "checkpoint_interval_s",
    "energy_of",
    "goodput",
    "no_price",
]
