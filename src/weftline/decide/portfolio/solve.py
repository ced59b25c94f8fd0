"""The two-stage stochastic programme, as one mixed-integer programme for HiGHS.

First, before demand is known: whole units of every offer that is signed for (reserved, blocks,
commitments, owned), by the quarter they start in. Then, in each scenario: chips of on-demand and
spot offers, and which work is done when. Work of a kind that may wait w quarters is done by the end
of the w-th quarter after it arrives; firm work takes no spot chips. Work that finds no chips is
short, at a price above every offer, so that an answer always exists and says where supply ends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

from weftline.errors import InternalError
from weftline.spec.portfolio import CapacityDemand, CapacityOffer

__all__ = ["QUARTER_H", "Problem", "Solution", "scenarios_of", "solve"]

QUARTER_H: Final = 2190.0
LATER: Final = frozenset({"on-demand", "spot"})
SHORT_TIMES: Final = 1000.0
"""Price of work that finds no chips, over the dearest offer's."""
GAP: Final = 1e-7


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Offers, and in every scenario how much work of each kind arrives."""

    offers: tuple[CapacityOffer, ...]
    kinds: tuple[CapacityDemand, ...]
    work: np.ndarray
    """[scenarios, kinds, quarters]: chips of work."""
    chance: np.ndarray
    """[scenarios]: they add up to 1."""

    @property
    def quarters(self) -> int:
        """How many quarters there are."""
        return int(self.work.shape[2])


@dataclass(frozen=True, slots=True, kw_only=True)
class Solution:
    """What is signed for, and what scenarios then cost."""

    usd: float
    """Expected, shortfall not counted."""
    units: Mapping[tuple[int, int], int]
    """(offer, first quarter) -> units."""
    later_usd: Mapping[int, float]
    """Offer that is bought when demand is known -> expected dollars."""
    short: np.ndarray
    """[scenarios, kinds, quarters]: chips of work that found none."""
    scenario_usd: np.ndarray
    """[scenarios]: dollars of each, commitments included."""


def commitment_usd(offer: CapacityOffer, start: int, quarters: int) -> float:
    """Dollars of one unit that starts in ``start``.

    A term is paid whole; of what reaches beyond the horizon, and of what an owned chip cost, the
    share ``resale`` comes back at the end. So nobody signs for years to have one quarter.
    """
    lasts = held_quarters(offer, start, quarters)
    kept = 1 - offer.resale
    if offer.way == "owned":
        return offer.unit_chips * (
            offer.usd_per_chip_hour * QUARTER_H * lasts + offer.capex_usd * kept
        )
    beyond = (offer.term - lasts) * kept
    return offer.unit_chips * offer.usd_per_chip_hour * QUARTER_H * (lasts + beyond)


def held_quarters(offer: CapacityOffer, start: int, quarters: int) -> int:
    """Quarters of the horizon that a commitment holds."""
    return quarters - start if offer.way == "owned" else min(offer.term, quarters - start)


class _Rows:
    """Constraints, a row at a time."""

    def __init__(self) -> None:
        self.at: list[tuple[int, int, float]] = []
        self.low: list[float] = []
        self.high: list[float] = []

    def add(self, terms: Sequence[tuple[int, float]], low: float, high: float) -> None:
        row = len(self.low)
        self.at += [(row, column, value) for column, value in terms]
        self.low.append(low)
        self.high.append(high)


class _Columns:
    """Variables by name, with cost and bound."""

    def __init__(self) -> None:
        self.of: dict[tuple[Any, ...], int] = {}
        self.cost: list[float] = []
        self.most: list[float] = []
        self.whole: list[int] = []

    def add(self, name: tuple[Any, ...], cost: float, most: float, *, whole: bool = False) -> None:
        self.of[name] = len(self.cost)
        self.cost.append(cost)
        self.most.append(most)
        self.whole.append(int(whole))


def solve(problem: Problem, *, fixed: Mapping[tuple[int, int], int] | None = None) -> Solution:
    """The cheapest commitments in expectation; with ``fixed`` only the rest is chosen."""
    columns, rows = _Columns(), _Rows()
    dearest = max(
        (o.usd_per_chip_hour / o.speed + o.capex_usd for o in problem.offers), default=1.0
    )
    _first_stage(problem, columns, rows, fixed)
    penalty = SHORT_TIMES * max(dearest, 1e-3) * QUARTER_H
    for s in range(len(problem.chance)):
        _second_stage(problem, columns, rows, s, penalty)
    row, column, value = (np.array(part) for part in zip(*rows.at, strict=True))
    matrix = coo_array((value, (row, column)), shape=(len(rows.low), len(columns.cost)))
    done = milp(
        np.array(columns.cost), integrality=np.array(columns.whole),
        bounds=Bounds(0.0, np.array(columns.most)),
        constraints=LinearConstraint(matrix.tocsr(), np.array(rows.low), np.array(rows.high)),
        options={"mip_rel_gap": GAP},
    )  # fmt: skip
    if done.x is None:
        raise InternalError(f"the programme has no answer: {done.message}")
    return _solution(problem, columns, done.x)


def _first_stage(
    problem: Problem, columns: _Columns, rows: _Rows,
    fixed: Mapping[tuple[int, int], int] | None,
) -> None:  # fmt: skip
    quarters = problem.quarters
    for j, offer in enumerate(problem.offers):
        if offer.way in LATER:
            continue
        for start in range(offer.lead, quarters):
            # No more than all work at once would fill: HiGHS wants whole numbers bounded.
            useful = np.ceil(problem.work.sum(axis=(1, 2)).max() / offer.speed / offer.unit_chips)
            most = np.floor(min(offer.chips_in(start) / offer.unit_chips, float(useful)))
            name = ("buy", j, start)
            columns.add(name, commitment_usd(offer, start, quarters), most, whole=True)
            if fixed is not None:
                units = float(fixed.get((j, start), 0))
                rows.add([(columns.of[name], 1.0)], units, units)
        for t in range(quarters) if offer.supply else ():
            held = [(columns.of["buy", j, s], float(offer.unit_chips)) for s in _holding(offer, t)]
            if held:
                rows.add(held, -np.inf, offer.chips_in(t))


def _holding(offer: CapacityOffer, quarter: int) -> range:
    """Quarters in which a unit that is held in ``quarter`` may have started."""
    first = offer.lead if offer.way == "owned" else max(offer.lead, quarter - offer.term + 1)
    return range(first, quarter + 1)


def _second_stage(problem: Problem, columns: _Columns, rows: _Rows, s: int, penalty: float) -> None:
    quarters, chance = problem.quarters, float(problem.chance[s])
    for t in range(quarters):
        for j, offer in enumerate(problem.offers):
            if offer.way in LATER and t >= offer.lead:
                usd = chance * offer.usd_per_chip_hour * QUARTER_H * offer.available
                columns.add(("use", j, t, s), usd, offer.chips_in(t))
        for k in range(len(problem.kinds)):
            columns.add(("firm", k, t, s), 0.0, np.inf)
            if not problem.kinds[k].firm:
                columns.add(("loose", k, t, s), 0.0, np.inf)
            columns.add(("short", k, t, s), chance * penalty, np.inf)
    for t in range(quarters):
        supply: dict[bool, list[tuple[int, float]]] = {True: [], False: []}
        for j, offer in enumerate(problem.offers):
            if offer.way in LATER:
                if t >= offer.lead:
                    each = offer.speed * offer.available
                    supply[offer.way != "spot"].append((columns.of["use", j, t, s], each))
            else:
                supply[True] += [
                    (columns.of["buy", j, start], offer.speed * offer.unit_chips)
                    for start in _holding(offer, t)
                ]
        for firm, name in ((True, "firm"), (False, "loose")):
            used = [(columns.of[name, k, t, s], -1.0) for k in range(len(problem.kinds))
                    if (name, k, t, s) in columns.of]  # fmt: skip
            if used:
                rows.add([*supply[firm], *used], 0.0, np.inf)
    _work_is_done(problem, columns, rows, s)


def _work_is_done(problem: Problem, columns: _Columns, rows: _Rows, s: int) -> None:
    """No work before it arrives, none later than it may wait; the end of the horizon waits for
    nothing."""
    quarters = problem.quarters
    for k, kind in enumerate(problem.kinds):
        arrived = np.cumsum(problem.work[s, k])
        done: list[tuple[int, float]] = []
        for t in range(quarters):
            done += [(columns.of[name, k, t, s], 1.0) for name in ("firm", "loose", "short")
                     if (name, k, t, s) in columns.of]  # fmt: skip
            due = t - kind.wait
            least = arrived[-1] if t == quarters - 1 else arrived[due] if due >= 0 else 0.0
            rows.add(list(done), float(least), float(arrived[t]))


def _solution(problem: Problem, columns: _Columns, x: np.ndarray) -> Solution:
    scenarios, kinds, quarters = problem.work.shape
    units = {(name[1], name[2]): round(x[i]) for name, i in columns.of.items()
             if name[0] == "buy" and round(x[i])}  # fmt: skip
    signed = sum(n * commitment_usd(problem.offers[j], start, quarters)
                 for (j, start), n in units.items())  # fmt: skip
    each = np.full(scenarios, signed)
    later: dict[int, float] = {}
    short = np.zeros((scenarios, kinds, quarters))
    for name, i in columns.of.items():
        if name[0] == "use":
            _, j, _, s = name
            usd = columns.cost[i] * x[i]
            later[j] = later.get(j, 0.0) + usd
            each[s] += usd / problem.chance[s]
        elif name[0] == "short":
            short[name[3], name[1], name[2]] = x[i]
    return Solution(usd=float(problem.chance @ each), units=units, later_usd=later, short=short,
                    scenario_usd=each)  # fmt: skip


def scenarios_of(
    kinds: Sequence[CapacityDemand], spread: float, count: int, seed: int
) -> np.ndarray:
    """[count, kinds, quarters]: demand whose logarithm walks, so that far quarters are less sure.

    ``spread`` is the standard deviation of the logarithm after a year; the mean of every quarter is
    that of the kind.
    """
    mean = np.array([k.chips for k in kinds])
    steps = np.random.default_rng(seed).standard_normal((count, len(kinds), mean.shape[1]))
    sigma = spread / 2.0  # a quarter is a fourth of a year
    walk = np.cumsum(steps * sigma, axis=2)
    ages = np.arange(1, mean.shape[1] + 1) * sigma**2 / 2
    found: np.ndarray = mean * np.exp(walk - ages)
    return found
