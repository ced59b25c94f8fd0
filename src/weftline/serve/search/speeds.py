"""Speed of a user against output of a chip: what no other configuration of a chip beats in both."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from weftline.serve.engine.config import ServingConfig
from weftline.spec.drawn import SpeedPoint

__all__ = ["front_of", "speed_points"]


def speed_points(
    configs: Sequence[ServingConfig], in_flight: NDArray[np.float64],
    tpot_s: NDArray[np.float64], per_chip: NDArray[np.float64], weights: str,
) -> list[SpeedPoint]:  # fmt: skip
    """The front of configurations [n] at their loads; those that give nothing are none of it."""
    with np.errstate(divide="ignore", invalid="ignore"):
        per_user = 1.0 / tpot_s
    good = np.isfinite(per_user) & np.isfinite(per_chip) & (per_chip > 0) & (per_user > 0)
    where = np.flatnonzero(good)
    return [
        SpeedPoint(per_user=float(per_user[i]), per_chip=float(per_chip[i]),
                   said=_said(configs[i], float(in_flight[i]), weights))
        for i in where[list(_front(per_user[where], per_chip[where]))]
    ]  # fmt: skip


def front_of(points: Sequence[SpeedPoint]) -> tuple[SpeedPoint, ...]:
    """Points that no other beats in both, the slowest for a user first."""
    front = _front(np.array([p.per_user for p in points]), np.array([p.per_chip for p in points]))
    return tuple(sorted((points[i] for i in front), key=lambda p: p.per_user))


def _front(per_user: NDArray[np.float64], per_chip: NDArray[np.float64]) -> Iterator[int]:
    best = 0.0
    for i in np.lexsort((-per_chip, -per_user)):
        if per_chip[i] > best:
            best = float(per_chip[i])
            yield int(i)


def _said(config: ServingConfig, in_flight: float, weights: str) -> str:
    degrees = (("TP", config.tp), ("PP", config.pp), ("DP", config.dp), ("EP", config.ep))
    layout = " ".join(f"{name}{count}" for name, count in degrees if count > 1) or "1 chip"
    pools = "" if config.prefill is None else (
        f", {config.prefill.workers}P{config.decode_workers}D")  # fmt: skip
    return f"{layout}{pools} {weights}, {config.engine}, {in_flight:,.0f} in flight"
