"""How far the residual process is believed, by how near the next measured run is.

Left-out groups decide, whole sources where there are several: each is predicted by constants and a
process that have not seen it, and each row by all others. In steps of nearness (the correlation
with the nearest row) the share of the process' mean that would have served best is what it is worth
there, and the width that would have held nine in ten is its band, every group counting alike. Far
from every row the mean is worth nothing and the band is the error of the physics on sources it has
not seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from weftline.learn import Features, Kernel, Process, Shape, weighted_quantile
from weftline.learn.process import IntArray
from weftline.plan.step.constants import FloatArray

__all__ = ["Trust", "learn_trust", "nearness"]

EDGES: Final = (0.0, 0.4, 0.6, 0.75, 0.85, 0.93, 0.98)
"""Where steps of nearness begin."""
LEAST: Final = 12
LEAST_GROUPS: Final = 3
"""Rows, and groups they are of, below which a step takes what its neighbours say: one source with a
dozen runs is one opinion."""
LEVEL: Final = 0.9
_Z: Final = 1.6449
_NARROWEST: Final = 0.5
"""A band is never less than this part of the process' own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """Worth of the mean and widening of the deviation, one a step of nearness."""

    worth: tuple[float, ...]
    widening: tuple[float, ...]

    def at(self, near: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Both at each nearness."""
        step = steps_of(near)
        return np.array(self.worth)[step], np.array(self.widening)[step]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"worth": [round(v, 4) for v in self.worth],
                "widening": [round(v, 4) for v in self.widening]}  # fmt: skip

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Trust:
        """The inverse of :meth:`to_json`."""
        return cls(worth=tuple(map(float, raw["worth"])),
                   widening=tuple(map(float, raw["widening"])))  # fmt: skip


def steps_of(near: FloatArray) -> IntArray:
    """The step each nearness falls into."""
    return np.clip(np.searchsorted(np.array(EDGES), near, side="right") - 1, 0, len(EDGES) - 1)


def nearness(kernel: Kernel, shape: Shape, features: Features, rows: Features) -> FloatArray:
    """Correlation of each of ``features`` with the row nearest to it; 0 without rows."""
    if not len(rows):
        return np.zeros(len(features))
    most = kernel.covariance(shape, features, rows).max(axis=1) / kernel.variance
    return np.broadcast_to(most, (len(features),)).copy()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trials:
    """Predictions of rows that were kept out, and what was measured, one entry a trial."""

    near: FloatArray
    mean: FloatArray
    deviation: FloatArray
    residual: FloatArray
    weight: FloatArray
    """One over the trials of its group in the step: every group counts alike."""


def learn_trust(
    shape: Shape, kernel: Kernel, rows: Features, residual: FloatArray, extra_noise: FloatArray,
    groups: Sequence[str], without: dict[str, FloatArray],
) -> Trust:  # fmt: skip
    """Trust from rows whose groups are kept out in turn, and from each row kept out alone.

    ``without`` holds, by group, the residuals of all rows under constants that have not seen it.
    """
    trials = _trials(shape, kernel, rows, residual, extra_noise, groups, without)
    steps = steps_of(trials.near)
    worth: list[float | None] = []
    known = [_enough(trials, steps == step) for step in range(len(EDGES))]
    for step in range(len(EDGES)):
        worth.append(_best_share(trials, steps == step) if known[step] else None)
    filled = _rising(worth, [float(trials.weight[steps == k].sum()) for k in range(len(EDGES))])
    shares = filled[steps]
    return Trust(
        worth=tuple(map(float, filled)),
        widening=tuple(map(float, _widening(trials, steps, shares, known))),
    )


def _widening(
    trials: _Trials, steps: IntArray, shares: FloatArray, known: Sequence[bool]
) -> FloatArray:
    """By how much each step's bands must grow; a nearer run never makes a band wider, so that the
    few groups of one step do not speak against those beside it."""
    from scipy.optimize import isotonic_regression

    apart = np.abs(trials.residual - shares * trials.mean) / trials.deviation
    at = [step for step in range(len(EDGES)) if known[step]]
    if not at:
        return np.ones(len(EDGES))
    groups, usual, width = [], [], []
    for step in at:
        here = steps == step
        weight = trials.weight[here]
        groups.append(float(weight.sum()))
        usual.append(float(np.average(np.log(trials.deviation[here]), weights=weight)))
        width.append(np.log(weighted_quantile(apart[here], weight, LEVEL) / _Z) + usual[-1])
    fitted = isotonic_regression(width, weights=groups, increasing=False).x
    values: list[float | None] = [None] * len(EDGES)
    for step, value, deviation in zip(at, fitted, usual, strict=True):
        values[step] = max(float(np.exp(value - deviation)), _NARROWEST)
    return _filled(values, first=None)


def _trials(
    shape: Shape, kernel: Kernel, rows: Features, residual: FloatArray, extra_noise: FloatArray,
    groups: Sequence[str], without: dict[str, FloatArray],
) -> _Trials:  # fmt: skip
    names = np.array(groups)
    near, mean, deviation, truth, owner = [], [], [], [], []
    for name, left in without.items():
        out = names == name
        if out.all():
            continue
        process = Process(shape, kernel, rows.take(~out), left[~out], extra_noise[~out])
        mu, sd = process.at(rows.take(out))
        near.append(nearness(kernel, shape, rows.take(out), rows.take(~out)))
        mean.append(mu)
        deviation.append(sd)
        truth.append(left[out])
        owner.append(names[out])
    whole = Process(shape, kernel, rows, residual, extra_noise)
    mu, sd = whole.left_out()
    cross = kernel.covariance(shape, rows, rows) / kernel.variance
    cross = np.broadcast_to(cross, (len(rows), len(rows))).copy()
    np.fill_diagonal(cross, 0.0)
    near.append(cross.max(axis=1))
    mean.append(mu)
    deviation.append(sd)
    truth.append(residual)
    owner.append(names)
    at, who = np.concatenate(near), np.concatenate(owner)
    steps = steps_of(at)
    pairs = list(zip(steps.tolist(), who.tolist(), strict=True))
    count: dict[tuple[int, str], int] = {}
    for pair in pairs:
        count[pair] = count.get(pair, 0) + 1
    weight = np.array([1.0 / count[pair] for pair in pairs])
    return _Trials(
        near=at, mean=np.concatenate(mean), deviation=np.concatenate(deviation),
        residual=np.concatenate(truth), weight=weight,
    )  # fmt: skip


def _enough(trials: _Trials, at: FloatArray) -> bool:
    """Whether a step has rows, and groups, enough to speak for itself."""
    # The weights of a group's rows in a step add up to 1.
    groups = float(trials.weight[at].sum())
    return int(np.count_nonzero(at)) >= LEAST and groups >= LEAST_GROUPS - 0.5


def _best_share(trials: _Trials, at: FloatArray) -> float:
    """The least share of the mean, 0 to 1, whose absolute errors are within 1 % of the least."""
    shares = np.linspace(0.0, 1.0, 21)
    mean, truth, weight = trials.mean[at], trials.residual[at], trials.weight[at]
    errors = [float((weight * np.abs(truth - share * mean)).sum()) for share in shares]
    return float(shares[int(np.argmax(np.array(errors) <= 1.01 * min(errors)))])


def _rising(worth: Sequence[float | None], groups: Sequence[float]) -> FloatArray:
    """The worths nearest to those found that never fall towards nearer rows, each step weighing as
    many as its groups; a running maximum would take the most believing step's word for all."""
    from scipy.optimize import isotonic_regression

    at = [k for k, value in enumerate(worth) if value is not None]
    if not at:
        return np.zeros(len(worth))
    fitted = isotonic_regression([worth[k] for k in at], weights=[groups[k] for k in at]).x
    values: list[float | None] = [None] * len(worth)
    for k, value in zip(at, fitted, strict=True):
        values[k] = float(value)
    return _filled(values, first=0.0)


def _filled(values: Sequence[float | None], *, first: float | None) -> FloatArray:
    """Steps without enough rows take the next farther one's value, else the next nearer one's."""
    known = [v for v in values if v is not None]
    last = first if first is not None else (known[0] if known else 1.0)
    out = []
    for value in values:
        last = last if value is None else value
        out.append(last)
    return np.array(out)
