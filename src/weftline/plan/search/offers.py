"""A layout with its price: what the ranking compares."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from weftline.catalog import PriceChoice
from weftline.plan.search.search import Found


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A found layout with its run: time, money, energy."""

    found: Found
    train_time_s: float
    mfu: float
    price: PriceChoice | None
    known_instead: str
    """Where there is no price: what the catalogue knows of other ways to pay."""
    availability: float
    """Share of wall time that makes progress."""
    cost_usd: float | None
    energy_j: float | None

    @property
    def effective_time_s(self) -> float:
        """The run with failures and checkpoints, seconds."""
        return self.train_time_s / self.availability


def pareto_front(offers: Sequence[Offer]) -> list[Offer]:
    """Offers that no other beats in time, cost and energy at once, fastest first.

    What is unknown (no price, no design power) counts as infinitely much, so an offer without a
    price stays only where it is the fastest or the most frugal.
    """

    def known(value: float | None) -> float:
        return math.inf if value is None else value

    points = [(o.train_time_s, known(o.cost_usd), known(o.energy_j)) for o in offers]
    front = [
        offer
        for offer, point in zip(offers, points, strict=True)
        if not any(_dominates(other, point) for other in points)
    ]
    return sorted(front, key=lambda o: (o.train_time_s, known(o.cost_usd)))


def _dominates(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return all(x <= y for x, y in zip(a, b, strict=True)) and a != b
