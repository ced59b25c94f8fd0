"""Energy and carbon of a run, from design power, PUE and the grid's intensity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

POWER_FRACTION: Final = 0.85
POWER_BAND: Final = (0.6, 1.0)
"""Mean draw of a busy training chip over its design power, assumed; the band is physical."""
HOST_FRACTION: Final = 0.35
"""Host, memory and network beside the chips, as a share of their draw, assumed (an 8-GPU DGX H100
is rated 10.2 kW for 5.6 kW of GPUs; its mean draw is lower)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Energy:
    """Joules at the meter of the building, and kilograms of CO2 equivalent."""

    joules: float
    low_joules: float
    high_joules: float
    kgco2e: float


def energy_of(
    *, chips: int, seconds: float, tdp_w: float, pue: float, gco2e_per_kwh: float
) -> Energy:
    """Energy of ``chips`` busy for ``seconds``; ``pue`` is facility over IT power."""
    at_full = chips * tdp_w * (1 + HOST_FRACTION) * pue * seconds
    joules = at_full * POWER_FRACTION
    return Energy(
        joules=joules,
        low_joules=at_full * POWER_BAND[0],
        high_joules=at_full * POWER_BAND[1],
        kgco2e=joules / 3.6e6 * gco2e_per_kwh / 1000,
    )
