"""Curves of the fleet that was chosen: latency by share of requests, and at other rates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from weftline.serve.search.confirm import Run
from weftline.spec import METRICS
from weftline.spec.drawn import LoadPoint

__all__ = ["latency_curves", "load_curve"]

_POINTS: Final = 40
_LAST: Final = 0.999


def latency_curves(run: Run) -> dict[str, tuple[tuple[float, float], ...]]:
    """Metric -> (share of the requests, seconds within which they are), as simulated."""
    shares = np.append(np.linspace(0.01, 0.99, _POINTS), _LAST)
    found: dict[str, tuple[tuple[float, float], ...]] = {}
    for metric in METRICS:
        values = getattr(run.outcome, f"{metric}_s")[run.counted]
        values = values[np.isfinite(values)]
        if values.size:
            seconds = np.quantile(values, shares)
            found[metric] = tuple(zip(shares.tolist(), seconds.tolist(), strict=True))
    return found


def load_curve(tried: Sequence[tuple[float, Run]], scale: float) -> tuple[LoadPoint, ...]:
    """What was simulated at each rate; ``scale`` makes a rate that of the whole fleet."""
    return tuple(
        LoadPoint(
            rate_per_s=rate * scale, goodput_share=run.goodput_share, meets=run.meets,
            reached={name: s for name, s in run.reached.items() if math.isfinite(s)},
        )
        for rate, run in sorted(tried, key=lambda pair: pair[0])
    )  # fmt: skip
