"""A Lifecycle: what a model costs from its first byte of text to its last request, in lines.

Every line is a product: what it is at the middle, times a power of each driver it moves with. So
the mean of a sum of lines has a closed form, and samples, tornado and break-evens are of the same
lines that a reader sees.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any, Final, Literal

from weftline.spec.drawn import Swing
from weftline.spec.estimate import Estimate
from weftline.spec.notebook import Shown
from weftline.spec.plan import Rejection

LIFECYCLE_FORMAT: Final = 1
_NORMAL: Final = NormalDist()
Z95: Final = _NORMAL.inv_cdf(0.95)


@dataclass(frozen=True, slots=True, kw_only=True)
class Driver:
    """What nobody knows today, as a factor around 1.

    Its logarithm is normal on either side of 0 with a spread of its own, so that 1 is the median
    and ``low`` and ``high`` are the 5th and the 95th percentile exactly.
    """

    name: str
    low: float
    high: float
    basis: str
    at: str = ""
    """What the factor is around, in words: ``$2.46 a chip-hour``."""

    @property
    def spreads(self) -> tuple[float, float]:
        """Standard deviations of the logarithm below and above the median."""
        return -math.log(self.low) / Z95, math.log(self.high) / Z95

    def moment(self, power: float) -> float:
        """The mean of the factor to a power, in closed form.

        E[X^k] = exp(k^2 a^2 / 2) N(-k a) + exp(k^2 b^2 / 2) N(k b) with a, b the spreads below and
        above and N the normal distribution: each half of the normal is shifted by itself.
        """
        below, above = self.spreads
        return math.exp((power * below) ** 2 / 2) * _NORMAL.cdf(-power * below) + math.exp(
            (power * above) ** 2 / 2
        ) * _NORMAL.cdf(power * above)


@dataclass(frozen=True, slots=True, kw_only=True)
class LifeLine:
    """One line of the bill: a part of a stage at a place, with its formula and its ground."""

    stage: str
    part: str
    """chips, failures, storage, egress, requests, CPU nodes, control plane, network, support,
    set-up, debugging."""
    place: str
    seller: str
    usd: float
    formula: str
    """How the number came about, to be checked by hand."""
    basis: str
    chip_hours: float = 0.0
    energy_j: float | None = 0.0
    """None where the chip's power is not public."""
    kgco2e: float | None = 0.0
    """Of the energy; None where that is not known."""
    kgco2e_embodied: float = 0.0
    """Of making the machines, for the share of their life that is used."""
    drivers: Mapping[str, float] = field(default_factory=dict)
    """Driver -> power: 1 where the line grows with it, -1 where it shrinks."""
    first_month: int = 0
    by_month: tuple[float, ...] = (1.0,)
    """Share of the line in each month from the first; they add up to 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LifeStage:
    """One stage as it was placed."""

    name: str
    kind: str
    place: str
    chips: int
    starts_s: float
    """From the start of the life."""
    lasts_s: float
    usd: Estimate
    energy_j: float | None
    kgco2e: float | None
    said: str
    """The plan in a few words: layout, precision, replicas."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LifeWay:
    """One way to place the stages: all at one place, or each at its best."""

    name: str
    places: Mapping[str, str]
    """Stage -> place."""
    usd: float
    low: float
    high: float
    energy_j: float | None
    kgco2e: float | None
    """Of energy and of making the machines; None where a chip's power is not public."""
    lasts_s: float
    cheapest_share: float
    """Share of the samples in which no other way costs less."""
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Month:
    """One month of the life."""

    month: int
    """0 is the first."""
    usd: float
    energy_j: float | None
    kgco2e: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaving:
    """Leaving one place for another while the model is served: what it costs, and when it pays.

    Months count from the start of serving. Costs are of the whole life; ``low`` and ``high`` are
    the 5th and 95th percentile of what staying costs more than leaving.
    """

    origin: str
    place: str
    pays: bool
    """Whether leaving in ``month`` costs less than staying, at the middle."""
    month: int
    """The best month to leave in, or the first that is allowed where none pays."""
    stay_usd: float
    leave_usd: float
    low: float
    high: float
    pays_share: float
    """Share of the samples in which leaving then costs less."""
    costs: tuple[LifeLine, ...]
    """What is paid for the leaving itself: egress, re-tuning, set-up, two stacks, contract, and the
    speed that is missing at first."""
    break_even_month: int | None
    """Month of serving by whose end what leaving costs is saved; None where it never is."""
    last_month: int | None
    """The last month in which leaving still pays before the life ends."""
    first_month: int
    """In which one may leave."""
    by_month: tuple[float, ...]
    """US dollars of the whole life, left in each month of serving from that one on."""
    flips: tuple[str, ...] = ()

    @property
    def cost_usd(self) -> float:
        """What the leaving itself costs."""
        return sum(line.usd for line in self.costs)


@dataclass(frozen=True, slots=True, kw_only=True)
class PortableLife:
    """The same life of a model that is made to run anywhere, beside the one made for a vendor."""

    model: str
    parameters: int
    own_parameters: int
    """Of the life's own model."""
    usd: Mapping[str, float]
    """Place -> US dollars of the whole life with its long stages there."""
    own_usd: Mapping[str, float]
    leaving: tuple[Leaving, ...]
    premium_usd: float
    """What the portable model costs more at the origin, to the end."""
    worth_usd: float
    """What leaving for the best other place costs less with it; below 0 where it costs more."""
    chance: float | None
    """Chance of having to leave above which the portable model costs less; 0 where it costs less
    even for those who stay, None where it never does."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Lifecycle(Shown):
    """The answer to a lifecycle file: how to place the stages, what that costs, and what drives it.

    ``estimates`` holds cost, chip_hours, energy, carbon, embodied_carbon, time, and the cost of
    every stage as ``cost_<stage>``; with tokens served also cost_per_m_tokens and sci_per_m_tokens.
    The bands are the 5th and 95th percentile of the samples.
    """

    format: int = LIFECYCLE_FORMAT
    kind: Literal["lifecycle"] = "lifecycle"
    weftline: str
    catalog_date: str
    model: str
    start: str
    """First month, ``2027-01``."""
    objective: str
    asked: Mapping[str, Any]
    """The file, as it was read."""
    seed: int
    samples: int
    mean_usd: float
    """Of the samples."""
    analytic_mean_usd: float
    """The same in closed form."""
    estimates: Mapping[str, Estimate]
    stages: tuple[LifeStage, ...]
    lines: tuple[LifeLine, ...]
    drivers: tuple[Driver, ...]
    ways: tuple[LifeWay, ...]
    """Best first."""
    tornado: tuple[Swing, ...]
    """The largest swing first."""
    months: tuple[Month, ...]
    why: tuple[str, ...]
    flips: tuple[str, ...]
    without_plan: tuple[Rejection, ...]
    notes: tuple[str, ...] = ()
    leaving: tuple[Leaving, ...] = ()
    """Where the file asks it: the place that pays best first."""
    portable: PortableLife | None = None

    def __repr__(self) -> str:
        """The answer in a line."""
        cost = self.estimates["cost"]
        return f"Lifecycle({self.model}: ${cost.value:,.0f}, {self.ways[0].name})"
