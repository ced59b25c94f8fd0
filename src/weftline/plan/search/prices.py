"""What a chip costs a plan: the price taken for each, its network, and the quote that is kept.

A plan's cost carries two spans apart: its own band (time) at the price taken, and what other offers
of the chip cost. Multiplied together they said nothing of either.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from weftline.catalog import (
    Accelerator,
    PriceChoice,
    ProductNetwork,
    best_price,
    list_words,
    network_of,
)
from weftline.errors import InputError
from weftline.spec import Estimate, Job, PriceQuote

HOUR_S = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ChipPrice:
    """The price of one accelerator for a job, or what is known instead."""

    choice: PriceChoice | None
    instead: str = ""
    """Where there is no price: what the catalogue knows of other ways to pay."""


def prices_of(
    chips: Sequence[Accelerator], job: Job, today: datetime.date, own: float | None
) -> dict[str, ChipPrice]:
    """The price of each accelerator by id; none where ``own``, the user's price, is given."""
    if own is not None:
        return {}
    return {acc.id: _price_of(acc, job, today) for acc in chips}


def networks_of(
    chips: Sequence[Accelerator], prices: Mapping[str, ChipPrice]
) -> dict[str, ProductNetwork]:
    """The networks of the products whose prices are taken, where something is said of them."""
    found = {}
    for acc in chips:
        priced = prices.get(acc.id)
        choice = None if priced is None else priced.choice
        network = network_of(acc, None if choice is None else choice.price)
        if network is not None:
            found[acc.id] = network
    return found


def _price_of(acc: Accelerator, job: Job, today: datetime.date) -> ChipPrice:
    # A domain of several chips is rented by whole machines: one chip alone is another product.
    whole = min(acc.chips_per_host or 1, job.chips or acc.chips_per_host or 1)
    least = whole if (acc.scale_up_domain or 1) > 1 else 1
    said = ""
    for chips_min in dict.fromkeys((least, 1)):
        try:
            choice = best_price(
                acc.id, job.price_type, today=today, region=job.region, chips_min=chips_min
            )
        except InputError as error:
            said = error.hint or ""
        else:
            return ChipPrice(choice=choice)
    return ChipPrice(choice=None, instead=said)


def quote_of(choice: PriceChoice | None, own: float | None) -> PriceQuote | None:
    """The price as a plan keeps it, with the span of the offers beside it."""
    if own is not None:
        return PriceQuote(
            usd_per_chip_hour=Estimate.exact(own, "USD/chip-hour", "given by the user"),
            price_type="given", provider="", instance="", region="", date="", source="the user",
        )  # fmt: skip
    if choice is None:
        return None
    row = choice.price
    return PriceQuote(
        usd_per_chip_hour=Estimate(
            value=choice.usd_per_chip_hour, unit="USD/chip-hour", low=choice.low, high=choice.high,
            basis=f"{list_words(row)}; lowest to highest of {choice.rows} offers",
        ),
        price_type=row.price_type, provider=row.provider, instance=row.instance,
        region=row.region, date=row.date, source=row.source, note=choice.why,
        offers=choice.rows, sellers=choice.sellers, undated=choice.undated,
        host_included=row.host_included,
    )  # fmt: skip


def cost_of(rate: Estimate, chips: int, run: Estimate) -> Estimate:
    """US dollars of a run at the price taken: its band is that of the time alone."""
    usd_per_s = rate.value * chips / HOUR_S
    listed = rate.basis.partition(";")[0]
    return Estimate(
        value=usd_per_s * run.value, unit="USD", low=usd_per_s * run.low,
        high=usd_per_s * run.high, basis=f"{listed}; time {run.basis}",
    )  # fmt: skip
