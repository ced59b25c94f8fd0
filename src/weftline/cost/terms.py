"""What a chip-hour costs under the user's terms: own prices first, then list prices less discounts.

A price of the user's own is what is paid: no discount is taken off it. A discount of one seller may
make another row the cheapest, so each seller's best is looked at.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from weftline.catalog import Price, PriceChoice, best_price, prices
from weftline.errors import InputError
from weftline.spec import ANY
from weftline.units import format_usd

__all__ = ["Terms", "no_price"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """How chips are paid for, whatever the chip."""

    own_prices: Mapping[str, float] = field(default_factory=dict)
    """US dollars a chip-hour by catalogue name; ``*`` for every other chip."""
    discounts: Mapping[str, float] = field(default_factory=dict)
    """Share taken off list prices by seller; ``*`` for every other seller."""
    region: str | None = None

    def own(self, chip: str) -> float | None:
        """The user's own price of a chip, US dollars a chip-hour; None where the list holds."""
        # A chip with changed figures is sold as the chip it was made from.
        plain = chip.partition("+")[0]
        return self.own_prices.get(chip, self.own_prices.get(plain, self.own_prices.get(ANY)))

    def discount(self, seller: str) -> float:
        """Share that a seller takes off, 0 to 1."""
        return self.discounts.get(seller, self.discounts.get(ANY, 0.0))

    def paid(self, row: Price) -> Price:
        """A row of the price list as it is billed, with what was taken off in its note."""
        off = self.discount(row.provider)
        if not off or row.usd_per_hour is None:
            return row
        said = f"{off * 100:g} % off the list's {format_usd(row.usd_per_chip_hour)}"
        note = f"{row.note}; {said}" if row.note else said
        return replace(row, usd_per_hour=row.usd_per_hour * (1 - off), note=note)

    def best(self, chip: str, kind: str, today: datetime.date) -> PriceChoice:
        """The cheapest sound list price of a chip after discounts.

        Raises InputError where there is none, saying in its hint what is known instead.
        """
        found = best_price(chip, kind, today=today, region=self.region)
        if not self.discounts:
            return found
        sellers = sorted({p.provider for p in prices(chip, kind, region=self.region)})
        choices = []
        for seller in sellers:
            try:
                choice = best_price(chip, kind, today=today, region=self.region, provider=seller)
            except InputError:  # all of its rows are faulty
                continue
            # A seller that prices chips without their host is no bargain beside those that have it.
            if choice.price.host_included or not found.price.host_included:
                choices.append(self._less(choice))
        fresh = [c for c in choices if not c.stale] or choices
        best = min(fresh, key=lambda c: (c.usd_per_chip_hour, c.age_days))
        return replace(
            best,
            low=min(c.low for c in fresh),
            high=max(c.high for c in fresh),
            rows=sum(c.rows for c in fresh),
            rejected=found.rejected,
        )

    def _less(self, choice: PriceChoice) -> PriceChoice:
        off = self.discount(choice.price.provider)
        if not off:
            return choice
        left = 1 - off
        row = self.paid(choice.price)
        return replace(
            choice, price=row, low=choice.low * left, median=choice.median * left,
            high=choice.high * left, why=f"{choice.why}; {off * 100:g} % off",
        )  # fmt: skip


def no_price(chip: str, kinds: str, region: str | None = None) -> str:
    """``no on-demand price (spot $1.30)``: why a chip has no cost, and what is known instead.

    In a region: what else is sold there, else what the same costs elsewhere.
    """
    said = f"no {kinds} price" + (f" in {region}" if region else "")
    asked = kinds.split(", ")
    sound = [
        p for p in prices(chip.partition("+")[0]) if p.usd_per_hour is not None and not p.flags
    ]  # fmt: skip
    here = [p for p in sound if region is None or p.region in (region, "*")]
    known, where = [p for p in here if p.price_type not in asked], ""
    if not known:
        known, where = [p for p in sound if region is not None], "elsewhere "
    if not known:
        return said
    best = min(known, key=lambda p: (p.price_type not in asked, p.usd_per_chip_hour))
    return f"{said} ({where}{best.price_type} {format_usd(best.usd_per_chip_hour)})"
