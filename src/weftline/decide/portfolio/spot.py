"""A job with a deadline on chips that may be taken away: spot where it is there, on demand in time.

The policy keeps progress on the straight line from nothing at the start to all work at the
deadline (Wu et al., "Can't Be Late", NSDI 2024: uniform progress), uses spot whenever it is there,
and goes on demand when it is behind the line by more than a start costs; from the last moment at
which on-demand chips alone still finish, it uses nothing else. So it is never late.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "SpotJob", "SpotRun", "last_moment_alone", "offline_optimum", "two_state_trace",
    "uniform_progress",
]  # fmt: skip

Use = Literal["idle", "spot", "on-demand"]
Flags = NDArray[np.bool_]
EPSILON: Final = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class SpotJob:
    """So many steps of work, done by a deadline; a step is the time between two looks."""

    work: float
    """Steps of work."""
    deadline: int
    """Steps there are."""
    start: float
    """Steps of work that are lost whenever an instance is started."""
    spot_usd: float
    """A step."""
    on_demand_usd: float

    @property
    def possible(self) -> bool:
        """Whether on-demand chips alone finish in time."""
        return self.work + self.start <= self.deadline + EPSILON


@dataclass(frozen=True, slots=True, kw_only=True)
class SpotRun:
    """What a run came to."""

    usd: float
    done: float
    """Steps of work, all of it where the run was in time."""
    uses: tuple[Use, ...]


def two_state_trace(steps: int, up: float, down: float, seed: int) -> Flags:
    """[steps]: whether spot is there; mean lengths of its stays ``up`` and absences ``down``."""
    rng = np.random.default_rng(seed)
    there = rng.random() < up / (up + down)
    draws = rng.random(steps)
    found = np.zeros(steps, dtype=bool)
    for i in range(steps):
        found[i] = there
        there = draws[i] >= 1 / up if there else draws[i] < 1 / down
    return found


def uniform_progress(job: SpotJob, there: Flags) -> SpotRun:
    """Run a job by the policy, looking at nothing but the present. Raises ValueError where even
    on-demand chips alone would be late."""
    return _run(job, there, _choice)


def last_moment_alone(job: SpotJob, there: Flags) -> SpotRun:
    """The simpler way: spot while it is there, on demand only when nothing else finishes in time.

    Raises as :func:`uniform_progress`.
    """
    return _run(job, there, _last_moment)


def _run(job: SpotJob, there: Flags, choose: Callable[..., Use]) -> SpotRun:
    if not job.possible:
        raise ValueError("on-demand chips alone are late")
    done, usd = 0.0, 0.0
    last: Use = "idle"
    uses: list[Use] = []
    for now in range(job.deadline):
        left = job.work - done
        if left <= EPSILON:
            uses.append("idle")
            continue
        use = choose(job, now, left, bool(there[now]), last)
        gained = 0.0 if use == "idle" else 1.0 if use == last else max(0.0, 1.0 - job.start)
        usd += {"idle": 0.0, "spot": job.spot_usd, "on-demand": job.on_demand_usd}[use]
        done = min(job.work, done + gained)
        uses.append(use)
        last = use
    return SpotRun(usd=usd, done=done, uses=tuple(uses))


def _choice(job: SpotJob, now: int, left: float, spot: bool, last: Use) -> Use:
    """What to use in this step, of what still leaves time for on-demand chips to finish.

    Before every step: what is left, and a start unless on-demand chips run already, fits in the
    steps that remain. Each use below keeps that true for the next step.
    """
    remaining = job.deadline - now + EPSILON
    if spot and (last == "spot" or left + 2 * job.start <= remaining):
        return "spot"
    if left + job.start > remaining - 1:  # a step of waiting would be one too many
        return "on-demand"
    behind = now / job.deadline * job.work - (job.work - left)
    # A start is lost whenever chips change: wait until that much behind, stay until that far ahead.
    slack = -job.start if last == "on-demand" else job.start
    return "on-demand" if behind > slack else "idle"


def _last_moment(job: SpotJob, now: int, left: float, spot: bool, last: Use) -> Use:
    """As :func:`_choice`, without the line of progress."""
    use = _choice(job, now, left, spot, last)
    waits = use == "on-demand" and left + job.start <= job.deadline - now + EPSILON - 1
    return "idle" if waits else use


def offline_optimum(job: SpotJob, there: Flags) -> float:
    """Dollars of the cheapest run that knows the whole trace.

    A programme over (step, work done, what ran last) with work in quarters of a step or finer, so
    that starts are whole numbers of them: exact where ``work`` and ``start`` are multiples of it.
    """
    grain = 4
    need, lost = round(job.work * grain), round(job.start * grain)
    far = np.inf
    best = {use: np.full(need + 1, far) for use in ("idle", "spot", "on-demand")}
    best["idle"][0] = 0.0
    price = {"idle": 0.0, "spot": job.spot_usd, "on-demand": job.on_demand_usd}
    for now in range(job.deadline):
        after = {use: np.full(need + 1, far) for use in best}
        for last, costs in best.items():
            for use in best:
                if use == "spot" and not there[now]:
                    continue
                gain = 0 if use == "idle" else grain if use == last else max(0, grain - lost)
                moved = np.full(need + 1, far)
                moved[gain:] = costs[: need + 1 - gain] if gain else costs
                if gain:
                    moved[need] = min(moved[need], costs[need - gain :].min())
                after[use] = np.minimum(after[use], moved + price[use])
        best = after
    return float(min(costs[need] for costs in best.values()))
