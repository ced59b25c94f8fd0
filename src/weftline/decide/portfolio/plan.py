"""From a portfolio file to what to sign, held against simpler ways to buy on fresh scenarios."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from weftline._version import __version__
from weftline.decide.portfolio.read import Asked
from weftline.decide.portfolio.solve import (
    LATER,
    Problem,
    Solution,
    commitment_usd,
    held_quarters,
    scenarios_of,
    solve,
)
from weftline.errors import NoFeasiblePlanError
from weftline.spec.portfolio import Bought, Policy, Portfolio

__all__ = ["plan_portfolio"]

HEADROOM: Final = 0.15
"""Of the greedy policy: commitments for the mean demand and so much more."""
LEAST_SHORT: Final = 1e-6


def plan_portfolio(asked: Asked) -> Portfolio:
    """What to commit to.

    Raises NoFeasiblePlanError where supply cannot meet the mean demand, naming quarter and vendor.
    """
    mean = np.array([[k.chips for k in asked.kinds]])
    certain = Problem(offers=asked.offers, kinds=asked.kinds, work=mean, chance=np.ones(1))
    _feasible(certain, solve(certain))
    work = scenarios_of(asked.kinds, asked.spread, asked.scenarios, asked.seed)
    chance = np.full(len(work), 1 / len(work))
    problem = replace(certain, work=work, chance=chance)
    fresh = replace(
        certain, chance=np.full(asked.fresh, 1 / asked.fresh),
        work=scenarios_of(asked.kinds, asked.spread, asked.fresh, asked.seed + 1),
    )  # fmt: skip
    best = solve(problem)
    ways: dict[str, Mapping[tuple[int, int], int]] = {"stochastic programme": best.units,
                                                      "as if the mean were sure":
                                                      solve(certain).units}  # fmt: skip
    ways |= _simple(problem)
    held = {name: (units, solve(problem, fixed=units).usd) for name, units in ways.items()}
    return Portfolio(
        weftline=__version__, quarters=problem.quarters, scenarios=asked.scenarios,
        seed=asked.seed, expected_usd=best.usd, bought=_bought(problem, best.units),
        later={problem.offers[j].name: usd for j, usd in best.later_usd.items() if usd > 0},
        policies=_policies(fresh, held), binding=_binding(problem, best), asked=asked.plain,
    )  # fmt: skip


def _feasible(problem: Problem, found: Solution) -> None:
    short = found.short[0]
    if short.max() <= LEAST_SHORT * max(1.0, problem.work.max()):
        return
    kind, quarter = np.unravel_index(int(short.argmax()), short.shape)
    vendors = sorted({
        f"{o.vendor} ({o.name}: {o.chips_in(int(quarter)):,.0f} chips)" for o in problem.offers
        if math.isfinite(o.chips_in(int(quarter)))
    })  # fmt: skip
    waits = [f"{o.name} of {o.vendor} comes in Q{o.lead + 1}" for o in problem.offers
             if o.lead > quarter]  # fmt: skip
    raise NoFeasiblePlanError(
        f"{problem.kinds[kind].name} lacks {short[kind, quarter]:,.0f} chips in Q{quarter + 1}",
        nearest=f"used up there: {', '.join([*vendors, *waits]) or 'nothing is offered'}",
        hint="more supply, another vendor, an earlier signature, or work that may wait",
    )


def _simple(problem: Problem) -> dict[str, Mapping[tuple[int, int], int]]:
    """Single vendors, nothing signed, and commitments for the mean with headroom."""
    found: dict[str, Mapping[tuple[int, int], int]] = {"nothing signed": {}}
    vendors = dict.fromkeys(o.vendor for o in problem.offers if o.way not in LATER)
    for vendor in vendors if len(vendors) > 1 else ():
        kept = tuple(
            replace(o, supply=(0.0,)) if o.vendor != vendor and o.way not in LATER else o
            for o in problem.offers
        )  # fmt: skip
        found[f"commitments of {vendor} alone"] = solve(replace(problem, offers=kept)).units
    found["greedy with headroom"] = _greedy(problem)
    return found


def _greedy(problem: Problem) -> dict[tuple[int, int], int]:
    """Quarter by quarter, the cheapest commitment a chip of work up to the mean and headroom."""
    need = problem.work.mean(axis=0).sum(axis=0) * (1 + HEADROOM)
    quarters = problem.quarters
    have = np.zeros(quarters)
    units: dict[tuple[int, int], int] = {}

    def rate(j: int, start: int) -> float:
        offer = problem.offers[j]
        hours = held_quarters(offer, start, quarters) * offer.unit_chips * offer.speed
        return commitment_usd(offer, start, quarters) / hours

    for t in range(quarters):
        choices = [j for j, o in enumerate(problem.offers) if o.way not in LATER and t >= o.lead]
        for j in sorted(choices, key=lambda j: rate(j, t)):
            offer = problem.offers[j]
            held = sum(n * offer.unit_chips for (i, start), n in units.items()
                       if i == j and start + held_quarters(offer, start, quarters) > t)  # fmt: skip
            room = offer.chips_in(t) - held
            wanted = min(room, max(0.0, need[t] - have[t]) / offer.speed)
            n = int(wanted // offer.unit_chips)
            if n > 0:
                units[j, t] = n
                end = t + held_quarters(offer, t, quarters)
                have[t:end] += n * offer.unit_chips * offer.speed
    return units


def _policies(
    fresh: Problem, held: Mapping[str, tuple[Mapping[tuple[int, int], int], float]]
) -> tuple[Policy, ...]:
    """Every way to buy on the same fresh scenarios."""
    found = []
    total = float(fresh.work.sum(axis=(1, 2)).mean())
    for name, (units, usd) in held.items():
        done = solve(fresh, fixed=units)
        low, high = (float(v) for v in np.percentile(done.scenario_usd, (5, 95)))
        short = float(done.short.sum(axis=(1, 2)).mean()) / max(total, 1e-12)
        found.append(Policy(name=name, usd=usd, out_of_sample_usd=done.usd, low=low, high=high,
                            regret=0.0, short=short))  # fmt: skip
    best = min(p.out_of_sample_usd for p in found if p.short <= min(q.short for q in found) + 1e-9)
    ranked = sorted(found, key=lambda p: (round(p.short, 9), p.out_of_sample_usd))
    return tuple(replace(p, regret=p.out_of_sample_usd / best - 1) for p in ranked)


def _bought(problem: Problem, units: Mapping[tuple[int, int], int]) -> tuple[Bought, ...]:
    found = []
    for (j, start), n in sorted(units.items(), key=lambda item: (item[0][1], item[0][0])):
        offer = problem.offers[j]
        found.append(Bought(
            offer=offer.name, vendor=offer.vendor, signed=start - offer.lead, starts=start,
            lasts=held_quarters(offer, start, problem.quarters), chips=n * offer.unit_chips,
            usd=n * commitment_usd(offer, start, problem.quarters),
        ))  # fmt: skip
    return tuple(found)


def _binding(problem: Problem, best: Solution) -> tuple[str, ...]:
    """Where an offer's whole supply is held."""
    found = []
    for j, offer in enumerate(problem.offers):
        if offer.way in LATER:
            continue
        for t in range(problem.quarters):
            held = sum(n * offer.unit_chips for (i, start), n in best.units.items()
                       if i == j and start <= t < start + held_quarters(
                           offer, start, problem.quarters))  # fmt: skip
            if held and held + offer.unit_chips > offer.chips_in(t):
                found.append(f"Q{t + 1}: all of {offer.vendor}'s {offer.name}, {held:,} chips")
    return tuple(found)


def total_chips(bought: Sequence[Bought]) -> int:
    """Chips that are signed for, however long."""
    return sum(b.chips for b in bought)
