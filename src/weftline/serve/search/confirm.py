"""Confirming: the simulation says how many replicas the targets really need.

Percentiles come from requests in the middle of a synthetic run (a system that starts empty and ends
without arrivals is not the one that was asked about), and from all requests of a trace.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from weftline.serve.engine.config import ServingConfig
from weftline.serve.simulate.fleet import Outcome
from weftline.serve.simulate.mixed import Part, simulate_parts
from weftline.spec import Routing, Target, Traffic

if TYPE_CHECKING:
    from numpy.typing import NDArray

GROW: Final = 1.3
MOST_GROWTH: Final = 4.0
"""Replicas are raised to this many times the closed form's number before giving up."""
HARDLY: Final = 0.98
MARGIN_S: Final = 1e-9
MOST_REQUESTS: Final = 30_000
"""Of one simulation in a search."""
SLACK: Final = 0.05
"""Share of what comes that may be left over: a run is short, and its count scatters."""
MOST_FACTOR: Final = 1e6
"""How far above the asked rate the most that a fleet takes is looked for."""
CHUNKS: Final = (2048, 512)
"""Smaller token budgets of an iteration that are tried where the engine's own breaks a target:
prompts in smaller pieces hold up the answers of others for less time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One simulated fleet and what it reached."""

    replicas: int
    outcome: Outcome
    counted: NDArray[np.bool_]
    reached: dict[str, float]
    """``p99 ttft`` -> seconds; infinite where requests do not fit."""
    goodput_share: float
    """Share of requests within every limit of the percentile that ``within`` names."""
    stable: bool
    """Whether the queue ends: the fleet works off more than comes, with the headroom asked for."""
    meets: bool

    def worst(self, targets: Sequence[Target]) -> float:
        """Largest of target reached over target asked."""
        ratios = (self.reached[f"p{t.percentile:g} {t.metric}"] / t.limit_s for t in targets)
        return max(ratios, default=0.0)

    def percentile(self, metric: str, percentile: float) -> float:
        """A percentile of ``ttft``, ``tpot`` or ``e2e`` over the counted requests, seconds."""
        values = getattr(self.outcome, f"{metric}_s")[self.counted]
        values = values[~np.isnan(values)]
        return float(np.percentile(values, percentile)) if values.size else math.inf


def middle(outcome: Outcome, *, trace: bool) -> NDArray[np.bool_]:
    """Requests to count: all of a trace, else those that came while the system was in its stride.

    The first and last parts of a run, each as long as a typical request (a third at most), are
    left out.
    """
    if trace or outcome.arrived_s.size < 30:
        return outcome.fits
    typical = float(np.nanmedian(outcome.e2e_s)) if outcome.fits.any() else 0.0
    last = float(outcome.arrived_s[-1])
    edge = min(2.0 * typical, last / 3.0)
    inside = (outcome.arrived_s >= edge) & (outcome.arrived_s <= last - min(edge / 2, last / 3))
    return np.asarray(inside & outcome.fits)


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """What a fleet is held against."""

    targets: Sequence[Target]
    within: float
    """Share of requests that keep all limits of its percentile at once."""
    least: int
    """Replicas below which the queue would not end, or the headroom be missing."""
    routing: Routing
    trace: bool

    def is_joint(self, target: Target) -> bool:
        """Whether a target is one of those that requests keep together."""
        return abs(target.percentile - 100.0 * self.within) < 1e-6


def run(
    config: ServingConfig, traffic: Traffic, promise: Promise, replicas: int, *,
    stable: bool | None = None,
) -> Run:  # fmt: skip
    """Simulate a fleet and hold it against the promise; ``stable`` where that is known already."""
    return run_parts((Part(config=config, replicas=replicas),), traffic, promise,
                     stable=replicas >= promise.least if stable is None else stable)  # fmt: skip


def run_parts(parts: Sequence[Part], traffic: Traffic, promise: Promise, *, stable: bool) -> Run:
    """The same for replicas of several kinds; ``stable`` whether they work off what comes."""
    targets, replicas = promise.targets, sum(part.replicas for part in parts)
    outcome = simulate_parts(parts, traffic, routing=promise.routing)
    counted = middle(outcome, trace=promise.trace)
    reached: dict[str, float] = {}
    good = outcome.fits.copy()
    joint = [t for t in targets if promise.is_joint(t)]
    for t in targets:
        values = getattr(outcome, f"{t.metric}_s")
        # An answer of one token has no time between tokens: it meets every such target.
        seen = values[counted & ~np.isnan(values)]
        reached[f"p{t.percentile:g} {t.metric}"] = (
            float(np.percentile(seen, t.percentile)) if seen.size else
            (0.0 if counted.any() else math.inf)
        )  # fmt: skip
        if t in joint or not joint:
            good &= ~(values > t.limit_s + MARGIN_S)
    # Limits of one percentile are kept together; others each by its own share of requests.
    alone = [t for t in targets if t not in joint]
    met = [reached[f"p{t.percentile:g} {t.metric}"] <= t.limit_s + MARGIN_S for t in alone]
    share = float(good[counted | ~outcome.fits].mean()) if outcome.fits.any() else 0.0
    met.append(not joint or share >= promise.within)
    steady = stable and bool(outcome.fits.any()) and (ends_queue(targets) or keeps_up(outcome))
    return Run(
        replicas=replicas, outcome=outcome, counted=counted, reached=reached,
        goodput_share=share, stable=steady, meets=all(met) and steady,
    )  # fmt: skip


def ends_queue(targets: Sequence[Target]) -> bool:
    """Whether a target bounds the wait: the time a token takes says nothing of those that wait."""
    return any(t.metric in ("ttft", "e2e") for t in targets)


def tuned(
    config: ServingConfig, traffic: Traffic, promise: Promise, replicas: int
) -> tuple[ServingConfig, int]:  # fmt: skip
    """(the configuration with the token budget that serves the targets best, runs made)."""
    best, least, runs = config, math.inf, 0
    for chunk in (config.chunk_tokens, *(c for c in CHUNKS if c < config.chunk_tokens)):
        tried = replace(config, chunk_tokens=chunk)
        found = run(tried, traffic, promise, replicas, stable=True)
        runs += 1
        worst = found.worst(promise.targets)
        if worst < least:
            best, least = tried, worst
        if found.meets:
            break
    return best, runs


def least_replicas(
    config: ServingConfig, traffic: Traffic, promise: Promise, start: int, *,
    most: int | None = None,
) -> tuple[Run, int]:  # fmt: skip
    """(the smallest fleet found that meets the targets, or the best one tried; runs made).

    Starts from the closed form's number, goes up until the targets are met (``most`` at most),
    then halves the gap to the largest that failed. Never goes below ``promise.least``: fewer would
    let the queue grow for ever, whatever a short run shows.
    """
    start = max(start, promise.least)
    bound = most or max(start + 15, math.ceil(start * MOST_GROWTH))
    runs = 0

    def attempt(n: int) -> Run:
        nonlocal runs
        runs += 1
        return run(config, traffic, promise, n)

    targets = promise.targets
    high = min(max(1, start), bound)
    best = attempt(high)
    low = stuck = 0
    while not best.meets and high < bound and stuck < 2:
        low = high
        high = min(bound, max(high + 1, math.ceil(high * GROW)))
        more = attempt(high)
        # Where more replicas hardly help, it is not the load that breaks the target.
        helped = more.worst(targets) <= max(1.0, HARDLY * best.worst(targets))
        stuck = 0 if helped else stuck + 1
        best = more
    if not best.meets:
        return best, runs
    if low == 0:
        # Met at once: look below for a number that fails.
        step = max(1, high // 8)
        while high > promise.least:
            lower = max(promise.least, high - step)
            tried = attempt(lower)
            if not tried.meets:
                low = lower
                break
            best, high, step = tried, lower, step * 2
    while high - low > max(1, high // 50):
        n = (low + high) // 2
        if n == low:
            break
        tried = attempt(n)
        if tried.meets:
            best, high = tried, n
        else:
            low = n
    return best, runs


def keeps_up(outcome: Outcome) -> bool:
    """Whether a fleet works off what comes: without a target on the wait nothing else ends a rate.

    In the second half of the traffic as many must be done as come, but for ``SLACK`` and twice the
    scatter of a count. Where that half is shorter than an answer takes while no queue has formed,
    what is left at the last arrival has to be done within thrice that time and ``SLACK`` of all.
    """
    fits = outcome.fits
    arrived, finished = outcome.arrived_s[fits], outcome.finished_s[fits]
    last, span = float(arrived[-1]), float(arrived[-1] - arrived[0])
    early = float(np.median((finished - arrived)[: max(1, len(arrived) // 20)]))
    if early > span / 2:
        return float(np.max(finished)) - last <= SLACK * span + 3.0 * early
    middle_s = last - span / 2
    came = int((arrived > middle_s).sum())
    done = int(((finished > middle_s) & (finished <= last)).sum())
    return came - done <= SLACK * came + 2.0 * math.sqrt(came)


def most_rate(
    parts: Sequence[Part], traffic: Traffic, promise: Promise, limit_per_s: float,
    tried: list[tuple[float, Run]] | None = None,
) -> float:  # fmt: skip
    """Requests a second that a fleet could take within the targets, to about 3 %.

    Never more than ``limit_per_s``: its steady-state throughput less the headroom. What was
    simulated on the way is added to ``tried``, with its rate.
    """
    from weftline.serve.simulate.traffic import at_rate, extended

    rate = traffic.rate_per_s

    def meets(factor: float) -> bool:
        # As long a time as before: a burst shorter than an answer would show no queue.
        if rate * factor > limit_per_s:
            return False
        n = min(MOST_REQUESTS, math.ceil(traffic.requests * factor))
        sped = at_rate(extended(traffic, n), rate * factor)
        found = run_parts(parts, sped, promise, stable=True)
        if tried is not None:
            tried.append((rate * factor, found))
        return found.meets and (promise.trace or keeps_up(found.outcome))

    edge = limit_per_s / rate
    if meets(edge):
        return limit_per_s
    low, step = 1.0, 1.15
    while low * step < MOST_FACTOR and meets(low * step):
        low, step = low * step, min(step**1.5, 8.0)
    high = low * step
    while high - low > 0.03 * low:
        middle_of = math.sqrt(low * high)
        if meets(middle_of):
            low = middle_of
        else:
            high = middle_of
    return min(rate * low, limit_per_s)
