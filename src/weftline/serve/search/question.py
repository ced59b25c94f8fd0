"""What a capacity search is asked, and one fleet that it has simulated and priced."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from weftline.catalog import Accelerator
from weftline.serve.search.confirm import Run
from weftline.serve.search.economics import Market
from weftline.serve.search.screen import Option, Space
from weftline.serve.simulate.fleet import Routing
from weftline.serve.simulate.traffic import Traffic
from weftline.spec import Fleet, ServeCandidate, ServeDemand, Target

__all__ = ["Confirmed", "Question"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked: the model, its traffic, and how it may be served."""

    model: str
    targets: tuple[Target, ...]
    rate_per_s: float
    input_tokens: float = 0.0
    output_tokens: float = 0.0
    spread: float = 0.0
    """Sigma of log-normal lengths; 0 for equal ones. Only without a trace."""
    burstiness: float = 1.0
    trace: Traffic | None = None
    """Real requests, already at ``rate_per_s``."""
    seed: int = 0
    price_types: tuple[str, ...] = ("on-demand",)
    """Each fleet is priced in every one of these, and they compete."""
    region: str | None = None
    own_price: float | None = None
    """US dollars a chip-hour."""
    routing: Routing = "least-loaded"
    space: Space = field(default_factory=Space)
    max_chips: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmed:
    """One simulated fleet with its money."""

    option: Option
    chip: Accelerator
    market: Market
    run: Run
    fleet: Fleet
    usd_per_hour: float | None
    power_w: tuple[float, float, float] | None
    demand: ServeDemand

    @property
    def rank(self) -> tuple[float, ...]:
        """Cheapest first; fleets without a price by their number of chips, behind the others."""
        cost = math.inf if self.usd_per_hour is None else self.usd_per_hour
        return (0.0 if self.run.meets else 1.0, cost, float(self.fleet.chips))

    def candidate(self, note: str = "") -> ServeCandidate:
        """As the plan keeps it."""
        rate, out = self.demand.rate_per_s, self.demand.output_tokens
        usd = None if self.usd_per_hour is None else self.usd_per_hour / 3600.0 / rate / out * 1e6
        watts = self.power_w
        return ServeCandidate(
            fleet=self.fleet, usd_per_hour=self.usd_per_hour, usd_per_m_output=usd,
            joules_per_token=None if watts is None else watts[0] / rate / out,
            reached=self.run.reached, goodput_share=self.run.goodput_share,
            meets=self.run.meets, simulated=True, note=note or self.market.warning,
            price_type="" if self.usd_per_hour is None else self.market.price_type,
        )  # fmt: skip
