"""One fleet that a capacity search has simulated and priced."""

from __future__ import annotations

import math
from dataclasses import dataclass

from weftline.catalog import Accelerator
from weftline.serve.search.confirm import Run
from weftline.serve.search.economics import Market
from weftline.serve.search.screen import Option
from weftline.spec import Fleet, ServeCandidate, ServeDemand

__all__ = ["Confirmed"]


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
    capacity_per_s: float
    """Requests a second that the fleet without its spares works off for ever."""
    batch: float = 0.0
    """Requests of a batch, where one is asked for: the cheapest is then who does it for least."""

    @property
    def done_s(self) -> float:
        """Until the batch is done."""
        return self.batch / self.capacity_per_s

    @property
    def served_per_s(self) -> float:
        """Requests a second that are really served: what comes, or what can be."""
        return min(self.demand.rate_per_s, self.capacity_per_s)

    @property
    def rank(self) -> tuple[float, ...]:
        """Cheapest first; fleets without a price by their number of chips, behind the others."""
        cost = math.inf if self.usd_per_hour is None else self.usd_per_hour
        cost *= self.done_s / 3600.0 if self.batch else 1.0
        return (0.0 if self.run.meets else 1.0, cost, float(self.fleet.chips))

    def candidate(self, note: str = "") -> ServeCandidate:
        """As the plan keeps it."""
        rate, out = self.served_per_s, self.demand.output_tokens
        usd = None if self.usd_per_hour is None else self.usd_per_hour / 3600.0 / rate / out * 1e6
        watts = self.power_w
        return ServeCandidate(
            fleet=self.fleet, usd_per_hour=self.usd_per_hour, usd_per_m_output=usd,
            joules_per_token=None if watts is None else watts[0] / rate / out,
            reached=self.run.reached, goodput_share=self.run.goodput_share,
            meets=self.run.meets, simulated=True, note=note or self.market.warning,
            capacity_per_s=self.capacity_per_s,
            price_type="" if self.usd_per_hour is None else self.market.price_type,
        )  # fmt: skip
