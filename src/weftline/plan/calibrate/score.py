"""Predictions against measurements: per row and in sum, honest about what the fit has seen.

Rows that the shipped calibration was fitted on are predicted with themselves left out of the
residual process. ``folds`` goes further: constants and process are fitted again on some rows and
scored on the rest, which no part of the fit has seen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from weftline.errors import InputError
from weftline.plan.calibrate.calibration import calibrated, pool_of
from weftline.plan.calibrate.fit import fit_pool, physics_seconds, row_features
from weftline.plan.calibrate.predict import compile_row
from weftline.plan.calibrate.residual import Z90, Residual
from weftline.plan.calibrate.row import Row, Unpredicted
from weftline.plan.calibrate.sources import source_of
from weftline.plan.step.compiled import Compiled
from weftline.plan.step.constants import FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """One row: predicted and measured step time in seconds, error, and whether the band held."""

    id: str
    accelerator: str
    framework: str
    model: str
    layout_stated: bool
    source: str
    """Who published it, see :func:`weftline.plan.calibrate.sources.source_of`."""
    recipe: str
    """The family of recipes it is fitted with."""
    physics_s: float
    """Predicted by constants alone, without what near runs correct."""
    predicted_s: float
    low_s: float
    high_s: float
    measured_s: float | None
    seen: bool
    """Whether the calibration was fitted on this very row (it was left out to predict it)."""

    @property
    def error_pct(self) -> float | None:
        """Predicted over measured, less one, in per cent; None without a measured time."""
        return None if self.measured_s is None else 100 * (self.predicted_s / self.measured_s - 1)

    @property
    def interval_hit(self) -> bool | None:
        """Whether the measured time lies in the 90 % interval."""
        if self.measured_s is None:
            return None
        return self.low_s <= self.measured_s <= self.high_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """All rows of one file and what could not be predicted."""

    rows: tuple[Scored, ...]
    unpredicted: tuple[Unpredicted, ...]
    how: str
    """How seen rows were kept apart, in words."""


GROUPS: Final[Mapping[str, Callable[[Row], str]]] = {
    "accelerator": lambda row: row.accelerator,
    "model": lambda row: row.model.name,
    "source": lambda row: source_of(row.source),
    "framework": lambda row: row.recipe_family,
    "version": lambda row: row.framework,
}
"""What can be left out whole, by the name it is asked for with."""


def score_rows(rows: Sequence[Row], left: Sequence[Unpredicted]) -> Score:
    """Score with the shipped calibration; its own rows are left out one at a time."""
    compiled = [compile_row(row) for row in rows]
    scored: list[Scored | None] = [None] * len(rows)
    for pool in sorted({pool_of(row) for row in rows}):
        index = [i for i, row in enumerate(rows) if pool_of(row) == pool]
        own = [rows[i] for i in index]
        levels, residual = calibrated(pool)
        physics = physics_seconds(own, [compiled[i] for i in index], levels)
        features = row_features(own)
        mean, deviation = _residual_at(residual, own)
        measured = np.array([row.measured_s or np.nan for row in own])
        spots = residual.index_of(features, np.log(measured / physics))
        loo_mean, loo_deviation = residual.left_out() if len(residual.rows) else (mean, deviation)
        for j, (i, spot) in enumerate(zip(index, spots, strict=True)):
            mu, sd = (mean[j], deviation[j]) if spot is None else (
                loo_mean[spot], loo_deviation[spot])  # fmt: skip
            scored[i] = _scored(rows[i], float(physics[j]), float(mu), float(sd),
                                seen=spot is not None)  # fmt: skip
    done = tuple(s for s in scored if s is not None)
    seen = sum(s.seen for s in done)
    how = (
        f"{seen} of {len(done)} rows are in the calibration, each predicted with itself left out "
        "of the residual process"
        if seen
        else "no row is in the calibration"
    )
    return Score(rows=done, unpredicted=tuple(left), how=how)


def score_held_out(
    rows: Sequence[Row],
    left: Sequence[Unpredicted],
    *,
    folds: int = 5,
    seeds: Sequence[int] = (0, 1, 2),
    by: Callable[[Row], str] | None = None,
    progress: Callable[[str, float], None] | None = None,
) -> Score:
    """Fit again on some rows and score the rest, until every row was left out once a seed.

    ``by`` leaves out whole groups (:data:`GROUPS`) instead of random folds.
    """
    known = [row for row in rows if row.measured_s is not None]
    if len(known) < 2 * folds:
        raise InputError(
            f"{len(known)} measured rows are too few for {folds} folds",
            hint="lower --folds or give more rows",
        )
    compiled = [compile_row(row) for row in known]
    out: list[Scored] = []
    # Whole groups need no chance to be cut: one pass is all there is.
    seeds = seeds[:1] if by is not None else seeds
    plans = [(seed, f) for seed in seeds for f in _folds(known, folds, seed, by)]
    for done, (_, test) in enumerate(plans):
        if progress is not None:
            progress(f"fit {done + 1} of {len(plans)}", done / len(plans))
        out += _score_fold(known, compiled, test)
    return Score(
        rows=tuple(out),
        unpredicted=tuple(left),
        how=(
            f"{len(plans)} groups, each left out whole"
            if by is not None
            else f"{folds} random folds, seeds {', '.join(map(str, seeds))}"
        )
        + ", predicted by a fit that has not seen them",
    )


def _folds(
    rows: Sequence[Row], folds: int, seed: int, by: Callable[[Row], str] | None
) -> list[list[int]]:
    if by is not None:
        names = sorted({by(row) for row in rows})
        return [[i for i, row in enumerate(rows) if by(row) == name] for name in names]
    order = np.random.default_rng(seed).permutation(len(rows))
    return [sorted(int(i) for i in part) for part in np.array_split(order, folds)]


def _score_fold(
    rows: Sequence[Row], compiled: Sequence[Compiled], test: Sequence[int]
) -> list[Scored]:
    found: list[Scored] = []
    out = set(test)
    for pool in sorted({pool_of(rows[i]) for i in test}):
        mine = [i for i in test if pool_of(rows[i]) == pool]
        train = [i for i in range(len(rows)) if i not in out and pool_of(rows[i]) == pool]
        if not train:
            continue
        fitted = fit_pool([rows[i] for i in train], [compiled[i] for i in train])
        own = [rows[i] for i in mine]
        physics = physics_seconds(own, [compiled[i] for i in mine], fitted.levels)
        mean, deviation = _residual_at(fitted.residual, own)
        found += [
            _scored(row, float(t), float(mu), float(sd), seen=False)
            for row, t, mu, sd in zip(own, physics, mean, deviation, strict=True)
        ]
    return found


def _residual_at(residual: Residual, rows: Sequence[Row]) -> tuple[FloatArray, FloatArray]:
    """What the process says of rows; of those of a framework nobody knows nothing, most widely."""
    known = np.array([row.release.known for row in rows])
    mean, deviation = residual.at(row_features(rows))
    far = residual.unseen(len(rows))
    return np.where(known, mean, far[0]), np.where(known, deviation, far[1])


def _scored(row: Row, physics: float, mean: float, deviation: float, *, seen: bool) -> Scored:
    spread, seconds = float(np.exp(Z90 * deviation)), physics * float(np.exp(mean))
    return Scored(
        id=row.id,
        accelerator=row.accelerator,
        framework=row.framework,
        model=row.model_name,
        layout_stated=row.stated,
        source=source_of(row.source),
        recipe=row.recipe_family,
        physics_s=physics,
        predicted_s=seconds,
        low_s=seconds / spread,
        high_s=seconds * spread,
        measured_s=row.measured_s,
        seen=seen,
    )


def summary_of(rows: Sequence[Scored], total: int) -> dict[str, float | int | None]:
    """Rows, predicted, MAPE, median, 90th percentile, bias and interval coverage, in per cent."""
    errors = np.array([e for r in rows if (e := r.error_pct) is not None])
    alone = [100 * abs(r.physics_s / r.measured_s - 1) for r in rows if r.measured_s is not None]
    hits = [h for r in rows if (h := r.interval_hit) is not None]
    size = np.abs(errors)

    def value(found: float) -> float:
        return round(found, 3)

    empty = not len(errors)
    return {
        "rows": total,
        "predicted": len(rows),
        "mape_pct": None if empty else value(float(size.mean())),
        "median_pct": None if empty else value(float(np.median(size))),
        "p90_pct": None if empty else value(float(np.quantile(size, 0.9))),
        "bias_pct": None if empty else value(float(errors.mean())),
        "physics_mape_pct": None if empty else value(float(np.mean(alone))),
        "physics_median_pct": None if empty else value(float(np.median(alone))),
        "interval_coverage_pct": None if empty else value(100 * float(np.mean(hits))),
    }


def score_to_dict(score: Score) -> dict[str, Any]:
    """The score as `--json` prints it: summary, groups by accelerator and framework, rows."""
    names = sorted({(r.accelerator, r.framework) for r in score.rows})
    groups = []
    for accelerator, framework in names:
        own = [r for r in score.rows if (r.accelerator, r.framework) == (accelerator, framework)]
        groups.append({"accelerator": accelerator, "framework": framework,
                       **summary_of(own, len(own))})  # fmt: skip
    rows: list[dict[str, Any]] = [
        {
            "id": r.id, "accelerator": r.accelerator, "framework": r.framework, "model": r.model,
            "source": r.source, "recipe": r.recipe, "physics_s": r.physics_s,
            "predicted_s": r.predicted_s, "low_s": r.low_s, "high_s": r.high_s,
            "measured_s": r.measured_s, "error_pct": r.error_pct, "interval_hit": r.interval_hit,
            "seen": r.seen, "layout_stated": r.layout_stated,
        }
        for r in score.rows
    ]  # fmt: skip
    rows += [
        {"id": u.id, "accelerator": u.accelerator, "framework": u.framework, "predicted_s": None,
         "reason": u.reason}
        for u in score.unpredicted
    ]  # fmt: skip
    total = len(score.rows) + len(score.unpredicted)
    return {
        "summary": summary_of(score.rows, total), "how": score.how, "groups": groups, "rows": rows,
    }  # fmt: skip
