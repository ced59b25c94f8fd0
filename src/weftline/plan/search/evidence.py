"""What stands beside a plan: bands and reasons of the others, break-even prices, runs like it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from weftline.cost import RECOVERY_S, Goodput, availability
from weftline.model import Model
from weftline.plan.calibrate.calibration import PUBLISHED, calibrated
from weftline.plan.calibrate.residual import Z90, features_of
from weftline.plan.calibrate.stated import run_words
from weftline.plan.search.offers import Offer
from weftline.plan.step.layouts import columns_of
from weftline.spec import BreakEven, Job, MeasuredRun
from weftline.units import format_number

__all__ = ["band_of", "break_evens", "interval_curve", "lost_because", "measured_runs"]

_RUNS: Final = 12
"""Measured runs shown: beyond them the likeness is that of any two runs of one chip."""
_LEAST_LIKENESS: Final = 0.15
_CURVE_POINTS: Final = 41


def band_of(offer: Offer) -> tuple[float, float]:
    """Factors on the time of a run at both ends of its 90 % band."""
    high = math.exp(Z90 * offer.found.log_error)
    return 1 / high, high


def lost_because(offer: Offer, best: Offer) -> str:
    """Why an offer is not the answer: by how much it is slower and dearer, and what cannot be told.

    Empty for the answer itself.
    """
    if offer is best:
        return ""
    said = [_beside(offer.train_time_s / best.train_time_s, "slower", "faster")]
    if offer.cost_usd is None:
        said.append(offer.no_price)
    elif best.cost_usd:
        said.append(_beside(offer.cost_usd / best.cost_usd, "dearer", "cheaper"))
    spread = offer.found.log_error + best.found.log_error
    if abs(math.log(offer.train_time_s / best.train_time_s)) < spread:
        said.append("times within the error of both")
    return ", ".join(filter(None, said))


def _beside(ratio: float, more: str, less: str) -> str:
    if abs(ratio - 1) < 0.005:
        return ""
    times = ratio if ratio > 1 else 1 / ratio
    word = more if ratio > 1 else less
    return f"{format_number(times, 3)} times {word}" if times >= 2 else f"{times - 1:.0%} {word}"


def break_evens(ranked: Sequence[Offer], job: Job) -> tuple[BreakEven, ...]:
    """For each accelerator but the best: the price a chip-hour below which it is the answer.

    Nearest first. Empty where the objective does not count money.
    """
    if not ranked or not ranked[0].cost_usd or job.objective not in ("cost", "cost-time"):
        return ()
    best, found = ranked[0], []
    for other in ranked[1:]:
        if not other.cost_usd:
            continue
        ratio = ranked[0].cost_usd / other.cost_usd
        if job.objective == "cost-time":
            ratio *= best.train_time_s / other.train_time_s
        now = other.cost_usd / (other.found.cluster.chips * other.train_time_s / 3600)
        found.append((ratio, BreakEven(
            accelerator=other.found.cluster.accelerator, now_usd_per_chip_hour=now,
            wins_below_usd_per_chip_hour=now * ratio,
        )))  # fmt: skip
    return tuple(b for _, b in sorted(found, key=lambda pair: -pair[0]))


def interval_curve(good: Goodput) -> tuple[tuple[float, float], ...]:
    """(interval in seconds, share of wall time that makes progress), from a sixteenth of the best
    interval to sixteen times it."""
    return tuple(
        (float(t), availability(good.stall_s, float(t), good.mtbf_s, RECOVERY_S))
        for t in good.interval_s * np.geomspace(1 / 16, 16, _CURVE_POINTS)
        if t > good.stall_s
    )


def measured_runs(offer: Offer, model: Model, job: Job) -> tuple[MeasuredRun, ...]:
    """Published runs most like the offer's layout, and measured over predicted of each, left out
    of what corrects it."""
    found = offer.found
    _, residual = calibrated(PUBLISHED)
    features = features_of(
        model, found.cluster, columns_of(found.layout, len(model.layers)),
        group=found.constants.group, version="", precision=job.precision, seq_len=job.seq_len,
    )  # fmt: skip
    return tuple(
        MeasuredRun(run=run_words(ident), likeness=min(likeness, 1.0),
                    measured_over_predicted=ratio)
        for ident, likeness, ratio in residual.near(features, _RUNS)
        if likeness >= _LEAST_LIKENESS
    )  # fmt: skip
