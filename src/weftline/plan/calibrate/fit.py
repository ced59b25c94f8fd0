"""Fit the constants and the residual process to measured rows, few-shot and with priors.

Constants are fitted from the general to the particular: all rows, then each framework, then each
(chip, framework), every level held by ridge to the one above, every constant inside its physical
bounds by a logistic map. What is left over is the residual process, whose kernel maximises the
marginal likelihood of the rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from weftline.learn import Features, fit_kernel, stack
from weftline.plan.calibrate.predict import compile_row, join, predict
from weftline.plan.calibrate.residual import SHAPE, Residual, features_of, start_kernel
from weftline.plan.calibrate.row import Row
from weftline.plan.step.compiled import Compiled
from weftline.plan.step.constants import BOUNDS, FIELDS, PRIOR, Constants, FloatArray

RIDGE_ALL, RIDGE_BELOW = 0.15, 0.7
"""Pull towards the level above, in units of ln(time) per logit of a constant."""
KERNEL_REACH = 5.0
"""How far the kernel's logarithms may go from their priors: a factor of 150."""
FAR = 3.0
"""Standard deviations beyond which a row is given less weight."""
OUTLIER = 0.2
"""Errors of ln(time) beyond this count linearly: one bad row does not bend the constants."""
_LOW = np.array([BOUNDS[name][0] for name in FIELDS])
_HIGH = np.array([BOUNDS[name][1] for name in FIELDS])


@dataclass(frozen=True, slots=True, kw_only=True)
class Levels:
    """Fitted constants from the general to the particular, as logits within the bounds."""

    everything: FloatArray
    frameworks: dict[str, FloatArray]
    groups: dict[str, FloatArray]

    def of(self, row: Row) -> FloatArray:
        """The most particular level a row has."""
        return self.groups.get(row.group, self.frameworks.get(row.frame.name, self.everything))


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """Constants and residual process of one pool of rows."""

    levels: Levels
    residual: Residual


def logits_of(constants: Constants) -> FloatArray:
    """Constants as logits within their bounds."""
    values = np.array([float(getattr(constants, name)) for name in FIELDS])
    margin = 1e-3 * (_HIGH - _LOW)
    values = np.clip(values, _LOW + margin, _HIGH - margin)
    out: FloatArray = -np.log((_HIGH - _LOW) / (values - _LOW) - 1)
    return out


def constants_of(logits: FloatArray) -> Constants:
    """Constants from logits: [fields] gives floats, [fields, n] one value a row."""
    span = (_HIGH - _LOW).reshape(-1, *([1] * (logits.ndim - 1)))
    low = _LOW.reshape(span.shape)
    values = low + span / (1 + np.exp(-logits))
    if logits.ndim == 1:
        return Constants(**{name: float(v) for name, v in zip(FIELDS, values, strict=True)})
    return Constants(**dict(zip(FIELDS, values, strict=True)))


def fit_level(compiled: Sequence[Compiled], measured: FloatArray, start: FloatArray,
              ridge: float) -> FloatArray:  # fmt: skip
    """Logits that fit some rows while staying near ``start``."""
    from scipy.optimize import least_squares

    joined, target = join(compiled), np.log(measured)

    def errors(logits: FloatArray) -> FloatArray:
        found = np.log(predict(joined, constants_of(logits))) - target
        # Soft L1 on the rows alone: the ridge stays quadratic.
        soft = np.sign(found) * OUTLIER * np.sqrt(
            2 * (np.sqrt(1 + (found / OUTLIER) ** 2) - 1)
        )  # fmt: skip
        return np.concatenate([soft, ridge * (logits - start)])

    found = least_squares(errors, start, max_nfev=40)
    out: FloatArray = found.x
    return out


def fit_levels(rows: Sequence[Row], compiled: Sequence[Compiled]) -> Levels:
    """All levels of constants for some rows; every row needs a measured time."""
    measured = np.array([row.measured_s or np.nan for row in rows])

    def some(keep: list[int], start: FloatArray, ridge: float) -> FloatArray:
        return fit_level([compiled[i] for i in keep], measured[keep], start, ridge)

    everything = some(list(range(len(rows))), logits_of(PRIOR), RIDGE_ALL)
    frameworks: dict[str, FloatArray] = {}
    groups: dict[str, FloatArray] = {}
    for name in sorted({row.frame.name for row in rows}):
        inside = [i for i, row in enumerate(rows) if row.frame.name == name]
        frameworks[name] = some(inside, everything, RIDGE_BELOW)
        for group in sorted({rows[i].group for i in inside}):
            own = [i for i in inside if rows[i].group == group]
            groups[group] = some(own, frameworks[name], RIDGE_BELOW)
    return Levels(everything=everything, frameworks=frameworks, groups=groups)


def physics_seconds(
    rows: Sequence[Row], compiled: Sequence[Compiled], levels: Levels
) -> FloatArray:
    """Step times of rows by constants alone."""
    logits = np.stack([levels.of(row) for row in rows], axis=1)
    return predict(join(compiled), constants_of(logits))


def row_features(rows: Sequence[Row]) -> Features:
    """Features of measured rows."""
    return stack(
        [
            features_of(
                row.model, row.cluster, row.layout, group=row.group, version=row.framework,
                precision=row.recipe, seq_len=row.seq_len,
            )
            for row in rows
        ]
    )  # fmt: skip


def fit_pool(rows: Sequence[Row], compiled: Sequence[Compiled] | None = None) -> Fitted:
    """Constants and residual process for rows that all have a measured time."""
    compiled = compiled if compiled is not None else [compile_row(row) for row in rows]
    levels = fit_levels(rows, compiled)
    measured = np.array([row.measured_s or np.nan for row in rows])
    residual = np.log(measured / physics_seconds(rows, compiled, levels))
    return Fitted(levels=levels, residual=fit_residual(row_features(rows), residual))


def fit_residual(features: Features, residual: FloatArray) -> Residual:
    """The residual process, with rows that all others contradict given less weight.

    A row further than ``FAR`` standard deviations from what the others say gets that distance as
    noise of its own, and the kernel is fitted again: a heavy tail by two Gaussians.
    """
    fit = partial(fit_kernel, SHAPE, features, residual, start_kernel(), reach=KERNEL_REACH)
    first = Residual(fit(), features, residual)
    mean, deviation = first.left_out()
    gap = np.abs(residual - mean)
    extra = np.where(gap > FAR * deviation / first.widening, gap, 0.0)
    if not extra.any():
        return first
    return Residual(fit(extra_noise=extra), features, residual, extra_noise=extra)
