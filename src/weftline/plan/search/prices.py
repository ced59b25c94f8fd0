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
    list_words,
    network_of,
)
from weftline.cost import Terms, no_price
from weftline.errors import InputError
from weftline.spec import Estimate, Job, PriceQuote

HOUR_S = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ChipPrice:
    """The price of one accelerator for a job: the user's own, the list's, or why there is none."""

    own: float | None = None
    """US dollars a chip-hour."""
    choice: PriceChoice | None = None
    lacking: str = ""
    """Where there is no price: so in words, with what the catalogue knows of other ways to pay."""


def prices_of(chips: Sequence[Accelerator], job: Job, today: datetime.date) -> dict[str, ChipPrice]:
    """The price of each accelerator by id, under the job's own prices and discounts."""
    terms = Terms(own_prices=job.own_prices, discounts=job.discounts, region=job.region)
    return {acc.id: _price_of(acc, job, terms, today) for acc in chips}


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


def _price_of(acc: Accelerator, job: Job, terms: Terms, today: datetime.date) -> ChipPrice:
    own = terms.own(acc.id)
    if own is not None:
        return ChipPrice(own=own)
    # A domain of several chips is rented by whole machines: one chip alone is another product.
    whole = min(acc.chips_per_host or 1, job.chips or acc.chips_per_host or 1)
    least = whole if (acc.scale_up_domain or 1) > 1 else 1
    for chips_min in dict.fromkeys((least, 1)):
        try:
            return ChipPrice(choice=terms.best(acc.id, job.price_type, today, chips_min=chips_min))
        except InputError:
            continue
    # The plan still has a time; what is known of other ways to pay is shown with it.
    return ChipPrice(lacking=no_price(acc.id, job.price_type, job.region))


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
    listed = rate.basis.partition(";")[0]
    usd, low, high = (rate.value * chips * s / HOUR_S for s in (run.value, run.low, run.high))
    return Estimate(value=usd, unit="USD", low=low, high=high, basis=f"{listed}; time {run.basis}")
