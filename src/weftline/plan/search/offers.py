"""A layout with its price, energy and limits: what the ranking compares."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from weftline.catalog import PriceChoice, grid_intensity, pue
from weftline.cost import Energy, energy_of
from weftline.errors import InputError
from weftline.model import Model
from weftline.plan.search.search import Found
from weftline.plan.step.compiled import adapter_parameters
from weftline.plan.step.frozen import trained_parameters
from weftline.spec import Job
from weftline.units import format_duration, format_usd


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A found layout with its run: time, money, energy."""

    found: Found
    train_time_s: float
    mfu: float
    price: PriceChoice | None
    """From the price list; None where the price is the user's own, or there is none."""
    own_price: float | None
    """US dollars a chip-hour, where the user gave them."""
    no_price: str
    """Where there is no price: so in words, with what the catalogue knows of other ways to pay."""
    availability: float
    """Share of wall time that makes progress."""
    cost_usd: float | None
    energy_j: float | None

    @property
    def effective_time_s(self) -> float:
        """The run with failures and checkpoints, seconds."""
        return self.train_time_s / self.availability


def energy_of_run(
    found: Found, price: PriceChoice | None, seconds: float
) -> tuple[Energy, str] | None:
    """Energy of the run and what PUE and grid it rests on; None without a design power."""
    if found.cluster.tdp_w is None:
        return None
    provider = price.price.provider if price is not None else ""
    region = price.price.region if price is not None else ""
    try:
        facility, facility_basis = pue(provider, region).value, f"PUE of {provider}"
    except InputError:
        facility, facility_basis = pue("aws").value, "PUE of aws, assumed"
    try:
        grid = grid_intensity(provider, region)
        grid_basis = f"grid of {region}"
    except InputError:
        grid = grid_intensity("country", "USA")
        grid_basis = "grid of the USA, assumed"
    energy = energy_of(
        chips=found.cluster.chips,
        seconds=seconds,
        tdp_w=found.cluster.tdp_w,
        pue=facility,
        gco2e_per_kwh=grid.gco2e_per_kwh,
    )
    return energy, f"design power, {facility_basis}, {grid_basis}"


def misses(offer: Offer, job: Job) -> str | None:
    """Which of the user's limits an offer breaks, in words; None if none."""
    said: list[str] = []
    if job.deadline_s is not None and offer.effective_time_s > job.deadline_s:
        said.append(
            f"takes {format_duration(offer.effective_time_s)} with failures, "
            f"deadline {format_duration(job.deadline_s)}"
        )
    if job.budget_usd is not None:
        if offer.cost_usd is None:
            said.append("has no price to hold against the budget")
        elif offer.cost_usd / offer.availability > job.budget_usd:
            cost = format_usd(offer.cost_usd / offer.availability)
            said.append(f"costs {cost} with failures, budget {format_usd(job.budget_usd)}")
    return " and ".join(said) or None


def trained(model: Model, job: Job) -> int:
    """Parameters that a job trains, and so what its checkpoints hold."""
    if job.tune == "full":
        return round(trained_parameters(model, job.freeze))
    return round(adapter_parameters(model, job.rank))


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
