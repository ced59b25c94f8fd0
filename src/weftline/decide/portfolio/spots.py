"""A job with a deadline on spot chips over many traces, beside simpler ways and a seer."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from weftline._version import __version__
from weftline.decide.portfolio.spot import (
    Flags,
    SpotJob,
    last_moment_alone,
    offline_optimum,
    two_state_trace,
    uniform_progress,
)
from weftline.errors import InputError, NoFeasiblePlanError
from weftline.spec.decide_options import SpotOptions
from weftline.spec.parse import Collector, own_price
from weftline.spec.portfolio import SpotAnswer
from weftline.units import format_duration, parse_count, parse_duration_s

__all__ = ["SpotAsked", "simulate_spot", "spot_of"]

HOUR_S: Final = 3600.0
MOST_STEPS: Final = 5000
MOST_RUNS: Final = 10_000
LEAST_STEP_S: Final = 60.0
GRAIN: Final = 4
"""Quarters of a step: the grain in which the seer counts work, so all work is rounded to it."""
WORDS: Final = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class SpotAsked:
    """A question as values."""

    job: SpotJob
    """In steps."""
    step_s: float
    up: float
    """Mean stay of spot chips, in steps."""
    down: float
    runs: int
    seed: int
    chips: int
    trace: Flags | None
    trace_name: str


def spot_of(options: SpotOptions) -> SpotAsked:
    """The options as values. Raises every mistake at once, NoFeasiblePlanError for what is late."""
    get = Collector()

    def seconds(name: str) -> float:
        text = getattr(options, name)
        if text.strip() in ("0", "0s"):
            return 0.0
        return get(lambda: parse_duration_s(text, where=f"--{name}")) or math.nan

    def dollars(name: str) -> float:
        text, where = getattr(options, name), f"--{name.replace('_', '-')}"
        found = get(lambda: own_price(text, where=where))
        if found is None and not any(e.where == where for e in get.errors):
            get.errors.append(InputError(f"`{text}` is no price", where=where, hint="$2.50/h"))
        return found or math.nan

    step, work, deadline = seconds("step"), seconds("work"), seconds("deadline")
    start, up, down = seconds("start"), seconds("up"), seconds("down")
    spot, demand = dollars("spot"), dollars("on_demand")
    chips = get(lambda: parse_count(options.chips, where="--chips")) or 1
    runs = get(lambda: parse_count(options.runs, where="--runs")) or 1
    trace = None if options.trace is None else get(lambda: read_trace(str(options.trace)))
    if step < LEAST_STEP_S:
        get.errors.append(InputError("a step is a minute or more", where="--step", hint="15min"))
    if runs > MOST_RUNS:
        get.errors.append(InputError(f"{MOST_RUNS:,} runs are the most", where="--runs"))
    if not get.errors and deadline / step > MOST_STEPS:
        get.errors.append(InputError(
            f"{deadline / step:,.0f} steps, {MOST_STEPS:,} are the most", where="--step",
            hint=f"--step {format_duration(deadline / MOST_STEPS)}"))  # fmt: skip
    if not get.errors and min(up, down) < step and trace is None:
        get.errors.append(InputError("stays and absences are of a step or more",
                                     where="--up" if up < step else "--down",
                                     hint="a shorter --step"))  # fmt: skip
    if not get.errors and start > step:
        get.errors.append(InputError("a start takes longer than a step", where="--start",
                                     hint="a longer --step"))  # fmt: skip
    get.raise_all()
    steps = int(deadline / step)
    job = SpotJob(
        work=math.ceil(work / step * GRAIN - 1e-9) / GRAIN, deadline=steps,
        start=math.ceil(start / step * GRAIN - 1e-9) / GRAIN,
        spot_usd=spot * chips * step / HOUR_S, on_demand_usd=demand * chips * step / HOUR_S,
    )  # fmt: skip
    if not job.possible:
        raise NoFeasiblePlanError(
            f"{format_duration(work)} of work and a start are not done in "
            f"{format_duration(deadline)}, even by on-demand chips alone",
            nearest=f"a deadline of {format_duration((job.work + job.start + 1) * step)}",
            hint="a later --deadline, or more chips and less --work",
        )  # fmt: skip
    if trace is not None and len(trace) < steps:
        raise InputError(f"{len(trace):,} steps, the deadline needs {steps:,}",
                         where=str(options.trace), hint="a longer --step or trace")  # fmt: skip
    return SpotAsked(job=job, step_s=step, up=up / step, down=down / step, runs=runs,
                     seed=options.seed, chips=chips, trace=trace,
                     trace_name=str(options.trace or ""))  # fmt: skip


def read_trace(path: str) -> Flags:
    """Whether spot chips were there, a row a step: the last column of a CSV, 0 or 1.

    Raises InputError with the line.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise InputError(f"`{path}`: {getattr(error, 'strerror', None) or 'not a text file'}",
                         where="--trace") from None  # fmt: skip
    found = []
    for number, row in enumerate(csv.reader(text.splitlines()), 1):
        word = row[-1].strip().lower() if row else ""
        if word in WORDS:
            found.append(WORDS[word])
        elif word and number > 1:
            raise InputError(f"`{row[-1]}` is neither 0 nor 1", where=f"{path}:{number}")
    if not found:
        raise InputError("no rows of 0 and 1", where=f"{path}:1")
    return np.array(found, dtype=bool)


def simulate_spot(asked: SpotAsked, *, progress: Callable[[str], None] | None = None) -> SpotAnswer:
    """The policy over many traces; of a measured trace, windows of it that begin at random."""
    say = progress or (lambda _: None)
    job, rng = asked.job, np.random.default_rng(asked.seed)
    ours, seers, late, there = [], [], 0, 0.0
    hours = {"spot": 0.0, "on-demand": 0.0, "idle": 0.0}
    last_moment = []
    for run in range(asked.runs):
        if run % 100 == 0:
            say(f"trace {run + 1:,} of {asked.runs:,}")
        flags = _flags(asked, run, rng)
        done = uniform_progress(job, flags)
        ours.append(done.usd)
        late += done.done < job.work - 1e-6
        there += float(flags.mean())
        for use in hours:
            hours[use] += done.uses.count(use) * asked.step_s / HOUR_S
        seers.append(offline_optimum(job, flags))
        last_moment.append(last_moment_alone(job, flags).usd)
    mine, best = np.array(ours), np.array(seers)
    # On-demand chips are paid to the end of the step in which the work is done.
    alone = math.ceil(job.work + job.start - 1e-9) * job.on_demand_usd
    low, high = (float(v) for v in np.percentile(mine, (5, 95)))
    return SpotAnswer(
        weftline=__version__, traces=asked.runs, seed=asked.seed, trace=asked.trace_name,
        chips=asked.chips, usd=float(mine.mean()), low=low, high=high, late=late,
        on_demand_usd=float(alone), seer_usd=float(best.mean()),
        last_moment_usd=float(np.mean(last_moment)), over_seer=float((mine / best).mean() - 1),
        over_seer_p95=float(np.percentile(mine / best, 95) - 1), available=there / asked.runs,
        spot_hours=hours["spot"] / asked.runs, on_demand_hours=hours["on-demand"] / asked.runs,
        idle_hours=hours["idle"] / asked.runs,
    )  # fmt: skip


def _flags(asked: SpotAsked, run: int, rng: np.random.Generator) -> Flags:
    steps = asked.job.deadline
    if asked.trace is None:
        return two_state_trace(steps, asked.up, asked.down, asked.seed + run)
    begin = int(rng.integers(0, len(asked.trace) - steps + 1))
    return asked.trace[begin : begin + steps]
