"""Fit the constants and the residual process to measured rows, few-shot and with priors.

One set of constants holds for all rows; families of chips, chips and recipes differ from it by
offsets that their spreads (:data:`weftline.plan.step.constants.PRIORS`) hold to nothing, so that
few rows move little and a source, chip or recipe never seen is predicted from the pool. Rows of one
source and release share an intercept besides, which is not predicted with: what only one source
shows is not taken for physics. All are found together, by Gauss-Newton steps on the posterior with
errors that count linearly where they are large. What is left over is the residual process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
import numpy.typing as npt

from weftline.learn import Features, fit_kernel, stack
from weftline.operators.products import family_of
from weftline.plan.calibrate.predict import compile_row, join, predict
from weftline.plan.calibrate.residual import SHAPE, Residual, features_of, start_kernel
from weftline.plan.calibrate.row import Row
from weftline.plan.calibrate.sources import source_of
from weftline.plan.calibrate.trust import learn_trust
from weftline.plan.step.compiled import Compiled
from weftline.plan.step.constants import BOUNDS, FIELDS, PRIOR, PRIORS, Constants, FloatArray

KERNEL_REACH = 5.0
"""How far the kernel's logarithms may go from their priors: a factor of 150."""
FAR = 3.0
"""Standard deviations beyond which a row is given less weight."""
OUTLIER = 0.15
"""Errors of ln(time) beyond this count linearly: one bad row does not bend the constants."""
NOISE = 0.06
"""Standard deviation of ln(time) between rows of one source that the constants explain alike."""
SOURCE = 0.05
"""Standard deviation of a source's own intercept."""
_FEW_SOURCES = 4
_STEPS, _NUDGE, _LONGEST = 10, 1e-3, 0.5
_LOW = np.array([BOUNDS[name][0] for name in FIELDS])
_HIGH = np.array([BOUNDS[name][1] for name in FIELDS])

KINDS: Final = ("family", "chip", "recipe")
"""What offsets belong to, in the order they stand in files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Levels:
    """Fitted constants as logits within the bounds: those of all, and offsets by what rows are."""

    everything: FloatArray
    offsets: Mapping[str, Mapping[str, FloatArray]]
    """By kind (:data:`KINDS`), then by name."""

    def at(self, *names: str) -> FloatArray:
        """Logits of a chip family, a chip and a recipe; what is not known adds nothing."""
        found = self.everything
        for kind, name in zip(KINDS, names, strict=True):
            known = self.offsets.get(kind, {}).get(name)
            found = found if known is None else found + known
        return found

    def of(self, row: Row) -> FloatArray:
        """Logits of a measured row."""
        return self.at(*names_of(row))


def names_of(row: Row) -> tuple[str, str, str]:
    """Chip family, chip and recipe family of a row."""
    chip = row.cluster.accelerator.partition("+")[0]
    return family_of(chip).name, chip, row.recipe_family


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


def _spreads(kind: str) -> FloatArray:
    """Standard deviations in logits, [fields]; those of ln(value) are carried over at the start."""
    out = []
    for name in FIELDS:
        p = PRIORS[name]
        spread = getattr(p, kind)
        if p.relative:
            spread *= p.start * (p.high - p.low) / ((p.start - p.low) * (p.high - p.start))
        out.append(max(spread, 1e-4))
    return np.array(out)


@dataclass(frozen=True, slots=True)
class _Design:
    """Which parameters each row has: offsets by group, and an intercept a source."""

    names: tuple[tuple[str, str], ...]
    """(kind, name) of every group of offsets."""
    member: FloatArray
    """[n, groups] 1 where a row belongs to a group."""
    source: FloatArray
    """[n, sources]"""

    @classmethod
    def of(cls, rows: Sequence[Row]) -> _Design:
        has = [[*zip(KINDS, names_of(row), strict=True)] for row in rows]
        names = tuple(sorted({pair for pairs in has for pair in pairs}))
        said = [f"{source_of(row.source)}|{row.framework}" for row in rows]
        # A pool of one source has nothing to tell an intercept from the constants.
        sources = sorted(set(said)) if len(set(said)) > 1 else []
        return cls(
            names,
            np.array([[float(name in pairs) for name in names] for pairs in has]),
            np.array([[float(text == s) for s in sources] for text in said]).reshape(len(rows), -1),
        )

    @property
    def spreads(self) -> FloatArray:
        """Standard deviation of every parameter's prior."""
        parts = [_spreads("overall"), *(_spreads(kind) for kind, _ in self.names)]
        return np.concatenate([*parts, np.full(self.source.shape[1], SOURCE)])

    def logits(self, z: FloatArray) -> FloatArray:
        """[fields, n] of every row."""
        f, g = len(FIELDS), len(self.names)
        offsets = z[f : f * (1 + g)].reshape(g, f)
        return (_START + z[:f])[:, None] + offsets.T @ self.member.T

    def intercepts(self, z: FloatArray) -> FloatArray:
        """What each row's source adds, [n]."""
        return np.asarray(self.source @ z[len(FIELDS) * (1 + len(self.names)) :])

    def jacobian(self, by_field: FloatArray) -> FloatArray:
        """Derivatives by every parameter from those by a row's own logits, [n, fields]."""
        n = len(by_field)
        groups = (self.member[:, :, None] * by_field[:, None, :]).reshape(n, -1)
        return np.concatenate([by_field, groups, self.source], axis=1)


_START = logits_of(PRIOR)


@dataclass(frozen=True, slots=True)
class _Solution:
    """The most likely parameters, and what leaving rows out would change."""

    design: _Design
    z: FloatArray
    slopes: FloatArray
    """[n, parameters] derivatives of ln(seconds) at ``z``."""
    weight: FloatArray
    """[n]"""
    errors: FloatArray
    """[n] ln(predicted / measured), intercepts included."""

    def without(self, out: npt.NDArray[np.bool_]) -> FloatArray:
        """Parameters without some rows, by one Gauss-Newton step from the solution of all."""
        kept = ~out
        slopes, weight = self.slopes[kept], self.weight[kept]
        spread = self.design.spreads
        curve = slopes.T @ (slopes * weight[:, None]) + np.diag(1 / spread**2)
        gradient = slopes.T @ (weight * self.errors[kept]) + self.z / spread**2
        step = np.linalg.solve(curve, -gradient)
        return np.asarray(self.z + np.clip(step, -2 * _LONGEST, 2 * _LONGEST))


def fit_levels(rows: Sequence[Row], compiled: Sequence[Compiled]) -> Levels:
    """Constants of some rows and their offsets; every row needs a measured time."""
    found = _solve(rows, join(compiled))
    return _levels(found.design, found.z)


def _solve(rows: Sequence[Row], joined: Compiled) -> _Solution:
    target = np.log(np.array([row.measured_s or np.nan for row in rows]))
    design = _Design.of(rows)
    spread = design.spreads

    def seconds(logits: FloatArray) -> FloatArray:
        return np.log(predict(joined, constants_of(logits)))

    def errors(z: FloatArray) -> FloatArray:
        return np.asarray(seconds(design.logits(z)) + design.intercepts(z) - target)

    def cost(z: FloatArray) -> float:
        size = np.sqrt(1 + (errors(z) / OUTLIER) ** 2) - 1
        return float((2 * OUTLIER**2 * size).sum() / NOISE**2 + ((z / spread) ** 2).sum()) / 2

    z = np.zeros(len(spread))
    best, damping = cost(z), 1.0
    for _ in range(_STEPS):
        logits, found = design.logits(z), errors(z)
        base = found + target - design.intercepts(z)
        by_field = np.empty((len(rows), len(FIELDS)))
        for index in range(len(FIELDS)):
            moved = logits.copy()
            moved[index] += _NUDGE
            by_field[:, index] = (seconds(moved) - base) / _NUDGE
        slopes = design.jacobian(by_field)
        weight = 1 / np.sqrt(1 + (found / OUTLIER) ** 2) / NOISE**2
        curve = slopes.T @ (slopes * weight[:, None]) + np.diag(1 / spread**2)
        gradient = slopes.T @ (weight * found) + z / spread**2
        before = best
        while damping < 1e4:
            lift = np.diag(np.diag(curve)) * (damping - 1)
            step = np.clip(np.linalg.solve(curve + lift, -gradient), -_LONGEST, _LONGEST)
            if (after := cost(z + step)) < best:
                z, best = z + step, after
                break
            damping = damping * 4 + 1
        damping = max(1.0, damping / 8)
        if before - best < 5e-3 * before:
            break
    return _Solution(design, z, slopes, weight, errors(z))


def _levels(design: _Design, z: FloatArray) -> Levels:
    f = len(FIELDS)
    offsets: dict[str, dict[str, FloatArray]] = {kind: {} for kind in KINDS}
    for index, (kind, name) in enumerate(design.names):
        offsets[kind][name] = z[f * (1 + index) : f * (2 + index)]
    return Levels(everything=_START + z[:f], offsets=offsets)


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
    joined = join(compiled)
    solution = _solve(rows, joined)
    measured = np.log(np.array([row.measured_s or np.nan for row in rows]))

    def residual_of(z: FloatArray) -> FloatArray:
        logits = solution.design.logits(z)
        return np.asarray(measured - np.log(predict(joined, constants_of(logits))))

    features, residual = row_features(rows), residual_of(solution.z)
    groups = kept_apart(rows)
    without = {
        name: residual_of(solution.without(np.array([g == name for g in groups])))
        for name in sorted(set(groups))
    }
    first = fit_residual(features, residual)
    trust = learn_trust(SHAPE, first.kernel, features, residual, first.extra_noise, groups, without)
    return Fitted(
        levels=_levels(solution.design, solution.z),
        residual=Residual(
            first.kernel, features, residual, extra_noise=first.extra_noise, trust=trust
        ),
    )


def kept_apart(rows: Sequence[Row]) -> list[str]:
    """What is left out whole to learn how far rows carry: sources, or models of a single source."""
    sources = [source_of(row.source) for row in rows]
    return sources if len(set(sources)) > _FEW_SOURCES else [row.model.name for row in rows]


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
