"""Fleets of two chips behind one router: what a limited supply, or a last replica, makes worth it.

Every pair of kinds that the search has looked at is counted out at once: so many replicas of the
one, as few of the other as take the rest, at what both cost. The cheapest are simulated, cheapest
first, until one keeps the targets or none is left that would be cheaper than one kind alone.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Final

from weftline.errors import NoFeasiblePlanError
from weftline.serve.search.bills import Bought, Markets, bills, usd_of
from weftline.serve.search.confirm import Promise, run_parts
from weftline.serve.search.confirmed import Confirmed, priced
from weftline.serve.search.losers import most_chips
from weftline.serve.search.screen import Option
from weftline.serve.simulate.mixed import Part
from weftline.spec import ServeDemand, ServeJob, Traffic

__all__ = ["Kind", "mixes"]

MOST_RUNS: Final = 12
"""Fleets of two kinds that are simulated at most."""
KEPT_A_PAIR: Final = 4
"""Of one pair, cheapest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """Replicas of one configuration, as the search knows them alone."""

    option: Option
    each_per_s: float
    """Requests a second that one works off for ever."""
    kept_per_s: float
    """Requests a second that one takes within the targets and the headroom."""

    def most(self, job: ServeJob, cells: int) -> float:
        """Replicas of a cell that the supply of its chips allows."""
        kinds = self.option.config.chips_by_kind()
        return min(math.floor(most_chips(job, name) / each / cells) if
                   math.isfinite(most_chips(job, name)) else math.inf
                   for name, each in kinds.items())  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pair:
    usd_per_hour: float
    kinds: tuple[Kind, Kind]
    replicas: tuple[int, int]
    bill: tuple[tuple[Bought, ...], tuple[Bought, ...]]


def mixes(
    job: ServeJob, demand: ServeDemand, kinds: Sequence[Kind], markets: Markets, traffic: Traffic,
    promise: Promise, below_usd: float,
) -> tuple[list[Confirmed], int]:  # fmt: skip
    """(fleets of two chips that are cheaper than ``below_usd`` an hour, by one that keeps the
    targets at most and those that miss them on the way; runs made)."""
    pairs = [p for p in _pairs(job, demand, kinds, markets) if p.usd_per_hour < below_usd]
    found: list[Confirmed] = []
    runs = 0
    for pair in sorted(pairs, key=lambda p: p.usd_per_hour)[:MOST_RUNS]:
        made = [
            (k.option, Part(config=k.option.config, replicas=n, each_per_s=k.each_per_s))
            for k, n in zip(pair.kinds, pair.replicas, strict=True)
        ]  # fmt: skip
        try:
            run = run_parts([part for _, part in made], traffic, promise, stable=True)
        except NoFeasiblePlanError:
            continue
        runs += 1
        done = priced(job, demand, made, run, pair.bill)
        if done.usd_per_hour is None or done.usd_per_hour >= below_usd:  # spares decide
            continue
        found.append(done)
        if run.meets:
            break
    return found, runs


def _pairs(
    job: ServeJob, demand: ServeDemand, kinds: Sequence[Kind], markets: Markets
) -> list[_Pair]:
    """Pairs of kinds on different chips, each with the cheapest counts that take the rate."""
    cells, rate = demand.cells, demand.rate_per_s / demand.cells
    out = []
    for first, second in permutations(kinds, 2):
        if first.option.config.chip == second.option.config.chip:
            continue
        own = []
        alone = math.ceil(rate / first.kept_per_s - 1e-9)
        for n in range(1, int(min(first.most(job, cells), alone - 1)) + 1):
            left = rate - n * first.kept_per_s
            m = math.ceil(left / second.kept_per_s - 1e-9)
            if n * first.each_per_s < m * second.each_per_s:  # counted as the other way round
                continue
            if m < 1 or not (_there(job, cells, (first, second), (n, m))
                             and _enough(job, rate, (first, second), (n, m))):  # fmt: skip
                continue
            for bill in _bills(first, second, (n * cells, m * cells), markets):
                usd = usd_of(b for part in bill for b in part)
                if usd is not None:
                    own.append(_Pair(usd_per_hour=usd, kinds=(first, second), replicas=(n, m),
                                     bill=bill))  # fmt: skip
        out += sorted(own, key=lambda p: p.usd_per_hour)[:KEPT_A_PAIR]
    return out


def _there(job: ServeJob, cells: int, kinds: tuple[Kind, Kind], counts: tuple[int, int]) -> bool:
    """Whether there are so many chips, of each kind and in all."""
    taken: Counter[str] = Counter()
    for n, kind in zip(counts, kinds, strict=True):
        for name, each in kind.option.config.chips_by_kind().items():
            taken[name] += n * each * cells
    if job.max_chips is not None and taken.total() > job.max_chips:
        return False
    return all(chips <= most_chips(job, name) for name, chips in taken.items())


def _enough(job: ServeJob, rate: float, kinds: tuple[Kind, Kind], counts: tuple[int, int]) -> bool:
    """Whether both together work the rate off with the headroom asked for."""
    most = sum(n * k.each_per_s for k, n in zip(kinds, counts, strict=True))
    return most * (1.0 - job.headroom) >= rate * (1.0 - 1e-9)


def _bills(
    first: Kind, second: Kind, counts: tuple[int, int], markets: Markets
) -> list[tuple[tuple[Bought, ...], tuple[Bought, ...]]]:
    """Both parts bought the same way where both have a price for it, else each as is cheapest."""
    ways = []
    for own in bills(first.option, counts[0], markets):
        others = [b for b in bills(second.option, counts[1], markets) if usd_of(b) is not None]
        if usd_of(own) is None or not others:
            continue
        same = [b for b in others if b[0].market.price_type == own[0].market.price_type]
        ways.append((own, min(same or others, key=lambda b: usd_of(b) or math.inf)))
    return ways
