"""Samples of all drivers at once, the mean in closed form, what drives the sum, what flips it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

from weftline.spec.drawn import Swing
from weftline.spec.lifecycle import Driver, LifeLine
from weftline.units import format_number

__all__ = ["Sampler", "analytic_mean", "flips_between", "tornado"]

Floats = NDArray[np.float64]
FLIP_SPAN: Final = 20.0
"""A driver is turned at most by so much to find where two ways cost the same."""


def analytic_mean(lines: Sequence[LifeLine], drivers: Mapping[str, Driver]) -> float:
    """The mean of the sum: drivers are independent, so a line's is the product of moments."""
    return sum(
        line.usd * math.prod(drivers[n].moment(p) for n, p in line.drivers.items())
        for line in lines
    )


@dataclass(frozen=True, slots=True)
class Sampler:
    """Draws of every driver, the same for every way to place the stages."""

    names: tuple[str, ...]
    logs: Floats
    """[samples, drivers]: logarithms of the factors."""

    @classmethod
    def draw(cls, drivers: Sequence[Driver], samples: int, seed: int) -> Sampler:
        """``samples`` draws from ``seed``, in pairs of opposite sign."""
        half = np.random.default_rng(seed).standard_normal((-(-samples // 2), len(drivers)))
        normal = np.concatenate([half, -half])[:samples]
        below = np.array([d.spreads[0] for d in drivers])
        above = np.array([d.spreads[1] for d in drivers])
        logs = np.where(normal < 0, normal * below, normal * above)
        return cls(tuple(d.name for d in drivers), logs)

    def totals(self, amounts: Sequence[tuple[float, Mapping[str, float]]]) -> Floats:
        """[samples]: the sum of amounts, each times its drivers to their powers."""
        at = {name: i for i, name in enumerate(self.names)}
        by_powers: dict[tuple[tuple[str, float], ...], float] = {}
        for amount, powers in amounts:
            key = tuple(sorted((n, p) for n, p in powers.items() if n in at))
            by_powers[key] = by_powers.get(key, 0.0) + amount
        total = np.zeros(len(self.logs))
        for key, amount in by_powers.items():
            turned = np.zeros(len(self.logs))
            for name, power in key:
                turned += power * self.logs[:, at[name]]
            total += amount * np.exp(turned)
        return total

    def usd(self, lines: Sequence[LifeLine]) -> Floats:
        """[samples]: US dollars of the lines."""
        return self.totals([(line.usd, line.drivers) for line in lines])


def total_at(lines: Sequence[LifeLine], driver: str, factor: float) -> float:
    """The sum with one driver turned, the others at their median."""
    return math.fsum(line.usd * factor ** line.drivers.get(driver, 0.0) for line in lines)


def tornado(lines: Sequence[LifeLine], drivers: Mapping[str, Driver]) -> tuple[Swing, ...]:
    """What each driver does to the sum from its 5th to its 95th percentile, the largest first."""
    found = []
    for driver in drivers.values():
        ends = sorted(total_at(lines, driver.name, f) for f in (driver.low, driver.high))
        if ends[1] > ends[0]:
            found.append(Swing(driver=driver.name, at=driver.at, low_usd=ends[0],
                               high_usd=ends[1], basis=driver.basis))  # fmt: skip
    return tuple(sorted(found, key=lambda s: s.low_usd - s.high_usd))


def flips_between(
    best: Sequence[LifeLine], other: Sequence[LifeLine], drivers: Mapping[str, Driver]
) -> list[tuple[Driver, float]]:
    """(driver, factor at which both cost the same), the likeliest to come about first.

    A driver whose whole span leaves ``best`` cheaper is not named.
    """

    def gap(log: float, name: str) -> float:
        return total_at(other, name, math.exp(log)) - total_at(best, name, math.exp(log))

    span = math.log(FLIP_SPAN)
    found = []
    for driver in drivers.values():
        for end in (-span, span):
            if gap(0.0, driver.name) > 0 > gap(end, driver.name):
                log = brentq(gap, *sorted((0.0, end)), args=(driver.name,), xtol=1e-9)
                found.append((driver, math.exp(log)))

    def rarity(pair: tuple[Driver, float]) -> float:
        below, above = pair[0].spreads
        log = math.log(pair[1])
        spread = below if log < 0 else above
        return abs(log) / spread if spread > 0 else math.inf

    return sorted(found, key=rarity)


def flip_words(name: str, driver: Driver, factor: float) -> str:
    """``all on h100 wins beyond 1.4 x price at b200 (now $6.69 a chip-hour)``."""
    side = "above" if factor > 1 else "below"
    now = f" (now {driver.at})" if driver.at else ""
    return f"{name} costs less with {driver.name} {side} {format_number(factor, 3)} x{now}"
