"""How often to save: the optimal checkpoint interval and the share of time that makes progress.

An interval runs from the start of one save to the start of the next, its stall included. Letters as
in docs/burst.md: s stall of a save, p from the end of the stall until the checkpoint is committed,
R from a failure until training runs again, M mean time between failures, l = 1/M, T the interval.

    Young 1974      T = sqrt(2 s M)
    Daly 2006       T = sqrt(2 s M) (1 + e/3 + e^2/9), e = sqrt(s / 2M); M + s from s = 2M on
    NVIDIA 2024     T = s + sqrt(2 (M + R) s + s^2)             arXiv:2410.18124
    Poisson         l (T - s) = 1 - exp(-l T)          own derivation; Daly's limit

Failures that arrive at random (Poisson) commit E[floor((X - p) / T)] checkpoints of T - s work in
a life X, and a restore that is itself struck starts again. So the share of time that makes progress
is

    A(T) = (1 - s/T) * g(l T) * exp(-l (p + R)),     g(x) = x / (exp(x) - 1)

with no approximation. p multiplies A but does not move the best T: an asynchronous save loses
T/2 + p a failure, because only the newest *committed* checkpoint counts. With several levels
(local NVMe and a peer's copy for most failures, an object store for the rest) each level i answers
failures at rate l_i from checkpoints that are T_i apart and p_i old when they become durable there:

    A(T) = (1 - s/T) * product over i of g(l_i T_i) exp(-l_i (p_i + R_i))

which is first-order exact; tests hold it against a simulation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from weftline.errors import InputError

__all__ = [
    "Level",
    "Schedule",
    "availability",
    "best_schedule",
    "daly_interval_s",
    "goodput_at",
    "nvidia_interval_s",
    "poisson_availability",
    "poisson_interval_s",
    "young_interval_s",
]

_GOLDEN: Final = (math.sqrt(5) - 1) / 2
_SEARCH_STEPS: Final = 90
"""Golden-section steps: 0.618^90 of the bracket, below the resolution of a float."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """A place that holds checkpoints, and the failures that are answered from it. Seconds."""

    name: str
    persist_s: float
    """From the moment the level before has a checkpoint (or from the end of the stall) until this
    level has it durable. Also the least time between two checkpoints that reach this level."""
    recovery_s: float
    """Detect, restart and restore from here."""
    failures_per_s: float
    """Rate of the failures that this level answers."""
    interval_s: float | None = None
    """Time between checkpoints that reach this level; None: as often as ``persist_s`` allows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """When to save and what it costs; times in seconds, shares of wall time from 0 to 1."""

    interval_s: float
    stall_s: float
    goodput: float
    """Share of wall time that makes progress."""
    stall_share: float
    rework_share: float
    """Work done again after failures, and the age of the newest committed checkpoint."""
    recovery_share: float
    persist_bound: bool
    """True where the first level's persist time, not the stall, sets the interval."""
    level_intervals_s: tuple[float, ...]
    lost_per_failure_s: tuple[float, ...]
    """Wall time of work lost in a failure that each level answers: T_i / 2 and the age p_i."""


def young_interval_s(stall_s: float, mtbf_s: float) -> float:
    """sqrt(2 s M) (Young 1974): right where stall << time between failures."""
    return math.sqrt(2 * stall_s * mtbf_s)


def daly_interval_s(stall_s: float, mtbf_s: float) -> float:
    """Daly's higher-order estimate (FGCS 22(3), 2006), the stall included.

    Daly counts the work between two saves, sqrt(2 s M) (1 + e/3 + e^2/9) - s; the interval that
    runs from save to save is that and one stall.
    """
    if stall_s >= 2 * mtbf_s:
        return mtbf_s + stall_s
    e = math.sqrt(stall_s / (2 * mtbf_s))
    return math.sqrt(2 * stall_s * mtbf_s) * (1 + e / 3 + e * e / 9)


def nvidia_interval_s(stall_s: float, mtbf_s: float, recovery_s: float) -> float:
    """s + sqrt(2 (M + R) s + s^2): the peak of ``availability`` (arXiv:2410.18124)."""
    return stall_s + math.sqrt(2 * (mtbf_s + recovery_s) * stall_s + stall_s**2)


def availability(
    stall_s: float, interval_s: float, mtbf_s: float, recovery_s: float, persist_s: float = 0.0
) -> float:
    """Share of wall time that makes progress, first order in interval / mtbf.

    Of every interval ``stall_s`` is lost to the save; of every failure half an interval, the age
    ``persist_s`` of the newest committed checkpoint, and the recovery. Lost time is counted
    against the time between failures, which keeps the share above zero.
    """
    lost_per_failure = recovery_s + persist_s + interval_s / 2
    return (1 - stall_s / interval_s) * mtbf_s / (mtbf_s + lost_per_failure)


def poisson_interval_s(stall_s: float, mtbf_s: float) -> float:
    """The interval that is best under Poisson failures: the root of l (T - s) = 1 - exp(-l T).

    Newton's method from above: the left side less the right is convex and grows there, so every
    step stays above the root and closes in on it.
    """
    s = stall_s / mtbf_s
    x = s + 1  # above the root, since 1 - exp(-x) < 1
    for _ in range(80):
        excess = x - s + math.expm1(-x)
        slope = -math.expm1(-x)
        if slope <= 0:
            break
        step = excess / slope
        x -= step
        if abs(step) <= 1e-15 * x:
            break
    return x * mtbf_s


def poisson_availability(
    stall_s: float, interval_s: float, mtbf_s: float, recovery_s: float, persist_s: float = 0.0
) -> float:
    """Share of wall time that makes progress under Poisson failures, exactly; see the module."""
    return (
        (1 - stall_s / interval_s)
        * _kept(interval_s / mtbf_s)
        * math.exp(-(persist_s + recovery_s) / mtbf_s)
    )


def goodput_at(interval_s: float, stall_s: float, levels: Sequence[Level]) -> float:
    """Share of wall time that makes progress with a save every ``interval_s``; see the module."""
    share = 1 - stall_s / interval_s
    for level, (every_s, age_s) in zip(levels, _reach(interval_s, levels), strict=True):
        rate = level.failures_per_s
        share *= _kept(rate * every_s) * math.exp(-rate * (age_s + level.recovery_s))
    return share


def best_schedule(
    stall_s: float,
    levels: Sequence[Level],
    *,
    interval_s: float | None = None,
    in_flight: int = 1,
) -> Schedule:
    """The interval with the highest goodput, or what a given ``interval_s`` is worth.

    ``in_flight`` checkpoints may be staged at once, so saves cannot be closer together than the
    first level's persist time over ``in_flight``. Raises InputError for what cannot be.
    """
    _check(stall_s, levels, in_flight)
    floor_s = max(stall_s, levels[0].persist_s / in_flight, 1e-9)
    if interval_s is not None:
        if interval_s < floor_s:
            raise InputError(
                f"an interval of {interval_s:g} s is shorter than a save takes ({floor_s:g} s)",
                where="interval",
                hint="saves cannot overlap further than the staging memory allows",
            )
        chosen_s = interval_s
    else:
        chosen_s = _peak(lambda t: goodput_at(t, stall_s, levels), floor_s, levels)
    return _schedule(chosen_s, stall_s, levels, floor_s)


def _schedule(
    interval_s: float, stall_s: float, levels: Sequence[Level], floor_s: float
) -> Schedule:
    reach = _reach(interval_s, levels)
    goodput = goodput_at(interval_s, stall_s, levels)
    stall_share = stall_s / interval_s
    rework = math.prod(
        _kept(v.failures_per_s * every) * math.exp(-v.failures_per_s * age)
        for v, (every, age) in zip(levels, reach, strict=True)
    )
    recovery = math.prod(math.exp(-v.failures_per_s * v.recovery_s) for v in levels)
    # The factors multiply; what each takes is shared out in proportion to its logarithm.
    logs = [-math.log(f) if f > 0 else math.inf for f in (rework, recovery)]
    rest = 1 - stall_share - goodput
    total = sum(logs)
    return Schedule(
        interval_s=interval_s,
        stall_s=stall_s,
        goodput=goodput,
        stall_share=stall_share,
        rework_share=rest * logs[0] / total if total else 0.0,
        recovery_share=rest * logs[1] / total if total else 0.0,
        persist_bound=interval_s <= floor_s * (1 + 1e-6) and floor_s > stall_s,
        level_intervals_s=tuple(every for every, _ in reach),
        lost_per_failure_s=tuple(every / 2 + age for every, age in reach),
    )


def _reach(interval_s: float, levels: Sequence[Level]) -> list[tuple[float, float]]:
    """For each level: time between checkpoints that reach it, and their age when they do."""
    found = []
    age_s, every_s = 0.0, interval_s
    for number, level in enumerate(levels):
        age_s += level.persist_s
        wanted_s = level.interval_s if level.interval_s is not None else level.persist_s
        if number:
            # A whole number of the saves that reach the level before.
            count = max(1, math.ceil(max(wanted_s, level.persist_s) / every_s - 1e-9))
            every_s *= count
        found.append((every_s, age_s))
    return found


def _kept(x: float) -> float:
    """x / (exp(x) - 1): what is left of an interval's work when x failures strike it."""
    if x > 700:
        return 0.0
    return x / math.expm1(x) if x > 1e-12 else 1 - x / 2


def _peak(share: Callable[[float], float], floor_s: float, levels: Sequence[Level]) -> float:
    """Where ``share`` peaks, above ``floor_s``.

    Coarse to fine on a logarithmic axis: counts of saves per drain are whole, so the share has
    small steps that a golden section alone could stop at.
    """
    rate = sum(level.failures_per_s for level in levels)
    low, high = math.log(floor_s), math.log(max(floor_s * 2, 50 / rate if rate else 1e12))
    count = 400
    grid = [low + (high - low) * i / (count - 1) for i in range(count)]
    # Where a whole number of saves fills a drain, the share jumps: look there too.
    for level in levels[1:]:
        longest = max(level.interval_s or 0.0, level.persist_s)
        grid += [math.log(longest / n) for n in range(1, 65) if longest / n > floor_s]
    values = {x: share(math.exp(x)) for x in sorted(set(grid))}
    points = list(values)
    best = max(points, key=values.__getitem__)
    at = points.index(best)
    a, b = points[max(0, at - 1)], points[min(len(points) - 1, at + 1)]
    for _ in range(_SEARCH_STEPS):
        c, d = b - _GOLDEN * (b - a), a + _GOLDEN * (b - a)
        if share(math.exp(c)) >= share(math.exp(d)):
            b = d
        else:
            a = c
    found = (a + b) / 2
    return math.exp(found if share(math.exp(found)) >= values[best] else best)


def _check(stall_s: float, levels: Sequence[Level], in_flight: int) -> None:
    if not levels:
        raise InputError("at least one level must hold checkpoints", where="levels")
    if not (stall_s >= 0 and math.isfinite(stall_s)):
        raise InputError(f"a stall of {stall_s:g} s cannot be", where="stall")
    if in_flight < 1:
        raise InputError("at least one checkpoint must be allowed in flight", where="in_flight")
    for level in levels:
        values = (level.persist_s, level.recovery_s, level.failures_per_s)
        if not all(v >= 0 and math.isfinite(v) for v in values):
            raise InputError(
                f"{level.name}: times and rates must be zero or more, and finite", where="levels"
            )
    if sum(level.failures_per_s for level in levels) <= 0:
        raise InputError(
            "without failures no checkpoint is ever needed", where="levels",
            hint="give the time between failures of the whole job",
        )  # fmt: skip
