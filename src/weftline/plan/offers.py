"""A layout with its price: what the ranking compares."""

from __future__ import annotations

from dataclasses import dataclass

from weftline.catalog import PriceChoice
from weftline.plan.search import Found


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A found layout with its run: time, money, energy."""

    found: Found
    train_time_s: float
    mfu: float
    price: PriceChoice | None
    cost_usd: float | None
    energy_j: float | None
