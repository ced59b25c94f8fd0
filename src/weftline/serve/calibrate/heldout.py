"""Predictions of rows by fits that have not seen them, and how wide that makes the intervals.

Left out are whole runs (model, chip, engine), whole harnesses, models, chips, or random parts; a
row never stands against a copy of itself.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from weftline.learn import Kernel, conformal_quantile
from weftline.serve.calibrate.fit import fit_constants, with_constants
from weftline.serve.calibrate.pool import KINDS, measured, twin_of
from weftline.serve.calibrate.residual import place_of
from weftline.serve.calibrate.row import Row
from weftline.serve.engine.closed_form import Compiled

__all__ = ["GROUPS", "errors_of", "folds_of", "held_out", "path_of", "widths", "widths_left_out"]

FloatArray = npt.NDArray[np.float64]

MIN_ROWS: Final = 20
LEVEL: Final = 0.9
GROUPS: Final[Mapping[str, Callable[[Row], str]]] = {
    "run": lambda r: r.run, "harness": lambda r: r.harness, "model": lambda r: r.family,
    "chip": lambda r: r.chip,
}  # fmt: skip
"""What is left out whole, beside ``random`` parts."""


def folds_of(rows: Sequence[Row], by: str, *, parts: int = 5, seed: int = 0) -> list[list[int]]:
    """Rows left out together."""
    if by == "random":
        order = np.random.default_rng(seed).permutation(len(rows))
        return [sorted(int(i) for i in part) for part in np.array_split(order, parts)]
    names = [GROUPS[by](r) for r in rows]
    return [[i for i, n in enumerate(names) if n == name] for name in sorted(set(names))]


def held_out(
    rows: Sequence[Row], compiled: Compiled, by: str, *, start: FloatArray | None = None,
    kernels: dict[str, Kernel] | None = None, seed: int = 0,
) -> dict[str, FloatArray]:  # fmt: skip
    """Every row by kind of measurement, by fits that have not seen its group; nan where too few
    others are left.

    Constants without a small group are one Gauss-Newton step from those with it (``Solved``); where
    much is left out everything is fitted again. Corrections are those of the rows that stay.
    """
    out = {kind: np.full(len(rows), np.nan) for kind in KINDS}
    solved, fitted_on = fit_constants(rows, compiled, start=start, rounds=8)
    place = np.full(len(rows), -1, dtype=np.int64)
    place[fitted_on] = np.arange(len(fitted_on))
    for test in folds_of(rows, by, seed=seed):
        twins, gone = {twin_of(rows[i]) for i in test}, set(test)
        train = np.array([i for i in range(len(rows))
                          if i not in gone and twin_of(rows[i]) not in twins])  # fmt: skip
        if len(train) < MIN_ROWS:
            continue
        own, some = [rows[i] for i in train], compiled.take(train)
        if len(train) < (1.0 - REFITTED) * len(rows):
            vector = fit_constants(own, some, start=solved.vector, rounds=12)[0].vector
        else:
            left = place[np.setdiff1d(np.arange(len(rows)), train)]
            vector = solved.without(left[left >= 0])
        places = frozenset(place_of(rows[i]) for i in test)
        found = with_constants(own, some, vector, kernels, places)
        at = np.array(test)
        for kind, values in found.predict([rows[i] for i in test], compiled.take(at)).items():
            out[kind][at] = values
    return out


REFITTED: Final = 0.15
"""Share of rows left out from which on everything is fitted again."""


def errors_of(rows: Sequence[Row], found: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
    """|ln(measured / predicted)| by kind, nan where nothing was measured."""
    return {k: np.abs(np.log(measured(rows, k) / found[k])) for k in KINDS}


def path_of(engine: str, chip: str) -> tuple[str, str, str]:
    """Groups an interval is taken from, the most particular one first."""
    return f"{engine}|{chip}", engine, "all"


def widths(rows: Sequence[Row], errors: FloatArray) -> dict[str, float]:
    """The conformal bound of every group with enough rows."""
    scores: dict[str, list[float]] = defaultdict(list)
    for r, value in zip(rows, errors, strict=True):
        if np.isfinite(value):
            for name in path_of(r.engine, r.chip):
                scores[name].append(float(value))
    return {
        name: round(conformal_quantile(own, LEVEL), 4)
        for name, own in sorted(scores.items())
        if len(own) >= MIN_ROWS
    }


def widths_left_out(rows: Sequence[Row], errors: FloatArray, by: str) -> FloatArray:
    """Each row's half width from rows of other groups: of its engine and chip, else its engine,
    else all."""
    names = [str(i) if by == "random" else GROUPS[by](r) for i, r in enumerate(rows)]
    out = np.full(len(rows), np.nan)
    known = np.isfinite(errors)
    label = np.array(names)
    cache: dict[tuple[str, str], float] = {}
    paths = [path_of(r.engine, r.chip) for r in rows]
    member = {name: np.array([name in p for p in paths]) for name in {n for p in paths for n in p}}
    for i, path in enumerate(paths):
        for name in path:
            key = (name, names[i])
            if key not in cache:
                others = errors[member[name] & known & (label != names[i])]
                enough = len(others) >= MIN_ROWS
                cache[key] = conformal_quantile(list(others), LEVEL) if enough else np.nan
            if np.isfinite(cache[key]):
                out[i] = cache[key]
                break
    return out
