"""What a chip-hour costs under the user's terms: own prices first, then list prices less discounts.

A price of the user's own is what is paid: no discount is taken off it. A discount of one seller may
make another row the cheapest, so rows are compared as they are billed.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from weftline.catalog import Price, PriceChoice, best_price, offers_to_take, prices
from weftline.catalog.date import CATALOG_DATE
from weftline.catalog.offers import ANY as ANY_WAY
from weftline.catalog.offers import taken_order
from weftline.catalog.prices import PRICE_TYPES
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
        host = None if row.host_usd_per_hour is None else row.host_usd_per_hour * (1 - off)
        return replace(
            row, usd_per_hour=row.usd_per_hour * (1 - off), host_usd_per_hour=host, note=note
        )

    def best(
        self, chip: str, kind: str, today: datetime.date, *, chips_min: int = 1
    ) -> PriceChoice:
        """The sound list price of a chip to count with, rows compared as they are billed.

        Raises InputError where there is none, saying in its hint what is known instead.
        """
        found = best_price(
            chip, kind, today=today, region=self.region, chips_min=chips_min, billed=self._billed
        )
        off = self.discount(found.price.provider)
        return replace(found, why=f"{found.why}; {off * 100:g} % off") if off else found

    def offers(self, chip: str, kind: str, today: datetime.date) -> tuple[Price, ...]:
        """The rows, as billed, among which the cheapest counts."""
        return offers_to_take(chip, kind, today=today, region=self.region, billed=self._billed)

    @property
    def _billed(self) -> Callable[[Price], Price] | None:
        return self.paid if self.discounts else None


def no_price(chip: str, kinds: str, region: str | None = None) -> str:
    """``no on-demand price, sold only as spot (spot $1.30)``: why a chip has no cost.

    With what is known instead: in a region what else is sold there, else what the same costs
    elsewhere.
    """
    any_way = ANY_WAY in kinds.split(", ")
    asked = list(PRICE_TYPES) if any_way else kinds.split(", ")
    said = "no price of any kind" if any_way else f"no {kinds} price"
    said += f" in {region}" if region else ""
    sound = [
        p for p in prices(chip.partition("+")[0]) if p.usd_per_hour is not None and not p.flags
    ]  # fmt: skip
    here = [p for p in sound if region is None or p.region in (region, "*")]
    known, where = [p for p in here if p.price_type not in asked], ""
    if not known:
        known, where = [p for p in sound if region is not None], "elsewhere "
    if not known:
        return said
    if region is None:
        ways = {p.price_type for p in known}
        said += f", sold only as {' or '.join(k for k in PRICE_TYPES if k in ways)}"
    today = datetime.date.fromisoformat(CATALOG_DATE)
    best = min(
        known,
        key=lambda p: (p.price_type not in asked, taken_order(p, today), p.usd_per_chip_hour),
    )
    return f"{said} ({where}{best.price_type} {format_usd(best.usd_per_chip_hour)})"
