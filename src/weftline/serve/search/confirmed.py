"""One fleet that a capacity search has simulated and priced."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from weftline.catalog import Accelerator, accelerator
from weftline.serve.search.bills import Bought, usd_of
from weftline.serve.search.confirm import Run
from weftline.serve.search.economics import Market, power_w
from weftline.serve.search.fleets import fleet_of
from weftline.serve.search.screen import Option
from weftline.serve.simulate.mixed import Part, shares_of
from weftline.spec import Fleet, ServeCandidate, ServeDemand, ServeJob

__all__ = ["Confirmed", "priced"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmed:
    """One simulated fleet with its money."""

    option: Option
    """Of its first part, which takes the most requests."""
    chip: Accelerator
    parts: tuple[Part, ...]
    """As simulated: one cell's."""
    bought: tuple[Bought, ...]
    """Chips of each kind, those of the first part that decode first."""
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
    def market(self) -> Market:
        """What the first part's chips that decode cost."""
        return self.bought[0].market

    @property
    def name(self) -> str:
        """Its chips in words."""
        return self.fleet.name

    @property
    def workers(self) -> int:
        """Replicas of one cell, or workers that decode."""
        return sum(part.workers for part in self.parts)

    @property
    def paid_chips(self) -> int:
        """Chips on the bill: whole instances."""
        return sum(part.paid_chips for part in self.bought)

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
        """Cheapest first; fleets without a price by their number of chips, behind the others; of
        equal ones those of one kind."""
        cost = math.inf if self.usd_per_hour is None else self.usd_per_hour
        cost *= self.done_s / 3600.0 if self.batch else 1.0
        return (0.0 if self.run.meets else 1.0, cost, float(self.fleet.chips),
                float(len(self.parts)))  # fmt: skip

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


def priced(
    job: ServeJob, demand: ServeDemand, made: Sequence[tuple[Option, Part]], run: Run,
    bill: Sequence[Sequence[Bought]],
) -> Confirmed:  # fmt: skip
    """A simulated fleet with spares, dollars and watts; ``made`` of one kind of replicas or more,
    bought as ``bill`` says for one replica of each."""
    cells = demand.cells
    shares = shares_of([part for _, part in made])
    fleets, bought = [], []
    for (option, part), share, each in zip(made, shares, bill, strict=True):
        fleet = replace(fleet_of(option, part.replicas * cells, job.routing), share=share)
        if job.batch is not None:  # what a lost replica leaves, the others do later
            fleet = replace(fleet, spares=0)
        fleets.append(fleet)
        count = fleet.replicas + fleet.spares
        bought += [replace(b, chips=b.together * count) for b in each]
    whole = fleets[-1]
    for fleet in reversed(fleets[:-1]):
        whole = replace(fleet, beside=whole)
    outcome, parts = run.outcome, tuple(part for _, part in made)
    line, span = outcome.timeline, max(1e-9, float(outcome.arrived_s[-1]))
    busy = float(line.busy.sum() * line.width_s) / (span * sum(p.workers for p in parts))
    drawn = [power_w(b.market.chip, b.chips, min(1.0, busy)) for b in bought]
    known = [watts for watts in drawn if watts is not None]
    power = None if len(known) < len(drawn) else tuple(sum(w) for w in zip(*known, strict=True))
    option = made[0][0]
    return Confirmed(
        option=option, chip=accelerator(option.config.chip), parts=parts, bought=tuple(bought),
        run=run, fleet=whole, usd_per_hour=usd_of(bought),
        power_w=None if power is None else (power[0], power[1], power[2]), demand=demand,
        capacity_per_s=sum(part.capacity_per_s for part in parts) * cells,
        batch=job.batch[0] if job.batch is not None else 0.0,
    )  # fmt: skip
