"""How far a prediction may lie from the truth: the band that every answer is shown with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from weftline.serve.calibrate.intervals import band
from weftline.serve.engine.config import ServingConfig

Shown = Literal["ttft", "tpot", "e2e", "throughput"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """Low and high as multiples of the prediction, 90 %, and what they rest on."""

    low: float
    high: float
    basis: str


def band_of(config: ServingConfig, metric: Shown) -> Band:
    """The 90 % band of a metric of a configuration.

    End to end takes the band of the time per token, of which it mostly consists.
    """
    low, high, basis = band(config, "tpot" if metric == "e2e" else metric)
    return Band(low=min(low, 1.0), high=max(high, 1.0), basis=f"calibrated: {basis}")
