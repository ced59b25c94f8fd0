"""Nouns of a capacity portfolio: what is offered, what is asked for, and what to commit to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, get_args

from weftline.spec.notebook import Shown

Way = Literal["on-demand", "spot", "reserved", "block", "commitment", "owned"]
WAYS: Final[tuple[Way, ...]] = get_args(Way)


@dataclass(frozen=True, slots=True, kw_only=True)
class CapacityOffer:
    """One way to have chips, in units that are bought whole."""

    name: str
    vendor: str
    way: Way
    usd_per_chip_hour: float
    """While it is held; of owned chips power and care alone."""
    unit_chips: int = 8
    speed: float = 1.0
    """Work a chip-hour does, in chips of work."""
    term: int = 1
    """Quarters that a commitment lasts; owned chips last to the end."""
    lead: int = 0
    """Quarters from signing until the chips are there."""
    supply: tuple[float, ...] = ()
    """Chips to be had in each quarter, the last for the rest; empty for as many as wanted."""
    capex_usd: float = 0.0
    """Of a chip that is owned, with its share of the building."""
    resale: float = 0.0
    """Share that comes back at the end: of what an owned chip cost, of what a term has left."""
    available: float = 1.0
    """Share of the time that spot chips are there."""
    basis: str = "given by the user"

    def chips_in(self, quarter: int) -> float:
        """Chips to be had in a quarter; infinitely many where nothing limits them."""
        if not self.supply:
            return float("inf")
        return self.supply[min(quarter, len(self.supply) - 1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class CapacityDemand:
    """One kind of work, in chips of work on average over each quarter."""

    name: str
    chips: tuple[float, ...]
    wait: int = 0
    """Quarters that it may wait: 0 for serving."""
    firm: bool = True
    """Whether it needs chips that nobody takes back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bought:
    """So many chips of an offer from a quarter on, signed for before demand is known."""

    offer: str
    vendor: str
    signed: int
    """Quarter of the signature."""
    starts: int
    lasts: int
    chips: int
    usd: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """One way to buy, with what it costs over scenarios that no one planned for."""

    name: str
    usd: float
    """Expected over the scenarios that were planned with; NaN is never shown."""
    out_of_sample_usd: float
    low: float
    high: float
    regret: float
    """Over the best of the policies, out of sample."""
    short: float
    """Share of the work that found no chips, over the fresh scenarios."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Portfolio(Shown):
    """What to commit to, and what that is worth against simpler ways to buy."""

    weftline: str
    quarters: int
    scenarios: int
    seed: int
    expected_usd: float
    bought: tuple[Bought, ...]
    later: Mapping[str, float]
    """Offer -> US dollars expected for what is bought when demand is known."""
    policies: tuple[Policy, ...]
    binding: tuple[str, ...]
    """Supply that is used up, by quarter and vendor."""
    asked: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpotAnswer(Shown):
    """A job with a deadline on spot chips: the policy beside others, US dollars of one run."""

    weftline: str
    traces: int
    seed: int
    trace: str
    """The file that the traces were cut from; empty for two-state ones."""
    chips: int
    usd: float
    """Of the policy, the mean of the traces."""
    low: float
    high: float
    late: int
    """Traces on which the policy was late."""
    on_demand_usd: float
    """Of on-demand chips alone."""
    last_moment_usd: float
    """Of spot until on-demand chips have to begin, the mean."""
    seer_usd: float
    """Of who knows the whole trace, the mean."""
    over_seer: float
    """Mean of the ratios of the policy and the seer, less 1."""
    over_seer_p95: float
    available: float
    """Share of the time in which spot chips were there."""
    spot_hours: float
    on_demand_hours: float
    idle_hours: float
