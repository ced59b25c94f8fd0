"""Fit a monotone log-log surface to measured times: regularised least squares, then isotonic.

Only the fit modules use this; nothing here runs when a prediction is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from weftline.operators.surface import FloatArray, Surface, locate

_SWEEPS = 40
_ROBUST_ROUNDS = 3
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB


def design(axes: Sequence[FloatArray], sizes: Sequence[FloatArray]) -> Any:
    """The sparse matrix that interpolates a table on ``axes`` at rows of ``sizes``."""
    from scipy import sparse

    shape = [len(a) for a in axes]
    rows = len(sizes[0])
    index = np.zeros((1, rows), dtype=np.int64)
    weight = np.ones((1, rows))
    for axis, size, length in zip(axes, sizes, shape, strict=True):
        at, w = locate(axis, size)
        upper = np.minimum(at + 1, length - 1)
        index = np.concatenate([index * length + at, index * length + upper])
        weight = np.concatenate([weight * (1 - w), weight * w])
    corners = len(index)
    return sparse.csr_matrix(
        (weight.ravel(), (np.tile(np.arange(rows), corners), index.ravel())),
        shape=(rows, int(np.prod(shape))),
    )


def second_differences(axes: Sequence[FloatArray]) -> Any:
    """Rows that are zero where a table is linear along each axis (log2 spacing respected)."""
    from scipy import sparse

    shape = [len(a) for a in axes]
    numbers = np.arange(int(np.prod(shape))).reshape(shape)
    blocks = []
    for d, axis in enumerate(axes):
        if len(axis) < 3:
            continue
        moved = np.moveaxis(numbers, d, 0)
        h0, h1 = np.diff(axis)[:-1], np.diff(axis)[1:]
        cols = np.stack([moved[:-2], moved[1:-1], moved[2:]], axis=-1)
        coef = np.stack([1 / h0, -(1 / h0 + 1 / h1), 1 / h1], axis=-1)
        coef = coef.reshape(len(h0), *([1] * (moved.ndim - 1)), 3)
        coef = np.broadcast_to(coef, cols.shape).reshape(-1, 3)
        cols = cols.reshape(-1, 3)
        rows = np.repeat(np.arange(len(cols)), 3)
        blocks.append(
            sparse.csr_matrix((coef.ravel(), (rows, cols.ravel())), shape=(len(cols), numbers.size))
        )
    return sparse.vstack(blocks).tocsr() if blocks else sparse.csr_matrix((0, numbers.size))


def fit_surface(
    axes: Sequence[FloatArray],
    sizes: Sequence[FloatArray],
    seconds: FloatArray,
    *,
    smooth: float = 0.3,
    rising: Sequence[bool] | None = None,
    prior: FloatArray | None = None,
    prior_weight: float = 1e-3,
    weights: FloatArray | None = None,
    outlier: float = 0.25,
) -> Surface:
    """The surface nearest to the rows in log2 seconds (rows far off count less), monotone.

    ``smooth`` weighs second differences, ``prior`` (log2 seconds on the grid) is what unseen
    corners fall back to, ``rising`` says along which axes the table may not fall (all by default),
    ``outlier`` from which residual (log2; 0.25 is 19 %) a row counts less.
    """
    from scipy import sparse
    from scipy.sparse.linalg import spsolve

    a = design(axes, sizes)
    y = np.log2(seconds)
    bend = second_differences(axes)
    shape = tuple(len(x) for x in axes)
    n = int(np.prod(shape))
    start = np.full(n, float(np.median(y))) if prior is None else prior.ravel()
    base = np.ones(len(y)) if weights is None else weights
    fixed = smooth * (bend.T @ bend) + prior_weight * sparse.identity(n)
    w = base
    v = start
    for _ in range(_ROBUST_ROUNDS):
        aw = a.multiply(w[:, None]).tocsr()
        # The bend is measured against the prior, so that flat residuals are the default.
        rhs = aw.T @ (y - a @ start)
        v = start + spsolve((aw.T @ a + fixed).tocsc(), rhs)
        off = np.abs(a @ v - y)
        w = base * np.minimum(1.0, outlier / np.maximum(off, 1e-12))
    table = np.asarray(v).reshape(shape)
    support = np.asarray(abs(a).T @ base).reshape(shape) + prior_weight
    flags = [True] * len(axes) if rising is None else list(rising)
    return Surface(tuple(axes), isotonic(table, support, flags))


def isotonic(table: FloatArray, weights: FloatArray, rising: Sequence[bool]) -> FloatArray:
    """Nearly the nearest table that never falls along the rising axes (Dykstra over the axes)."""
    from scipy.optimize import isotonic_regression

    kept = [d for d, up in enumerate(rising) if up and table.shape[d] > 1]
    found = table.copy()
    corrections = {d: np.zeros_like(table) for d in kept}
    for _ in range(_SWEEPS):
        before = found
        for d in kept:
            target = np.moveaxis(found + corrections[d], d, -1)
            lines = target.reshape(-1, target.shape[-1])
            line_weights = np.moveaxis(weights, d, -1).reshape(lines.shape)
            falling = (np.diff(lines, axis=1) < 0).any(axis=1)
            fitted = lines.copy()
            for i in np.flatnonzero(falling):
                fitted[i] = isotonic_regression(lines[i], weights=line_weights[i]).x
            projected = np.moveaxis(fitted.reshape(target.shape), -1, d)
            corrections[d] = found + corrections[d] - projected
            found = projected
        if float(np.max(np.abs(found - before))) < 1e-4:
            break
    for d in kept:
        found = np.maximum.accumulate(found, axis=d)
    return found


def errors_pct(predicted_s: FloatArray, measured_s: FloatArray) -> dict[str, float]:
    """How far predictions lie off: median, mean and 90th percentile of |error|, and the bias."""
    off = predicted_s / measured_s - 1.0
    return {
        "rows": float(len(off)),
        "median_pct": round(float(np.median(np.abs(off))) * 100, 2),
        "mean_pct": round(float(np.mean(np.abs(off))) * 100, 2),
        "p90_pct": round(float(np.quantile(np.abs(off), 0.9)) * 100, 2),
        "bias_pct": round(float(np.median(off)) * 100, 2),
    }


def held_out(keys: npt.NDArray[Any], every: int = 5) -> npt.NDArray[np.bool_]:
    """True for the rows of about every ``every``-th distinct key.

    A key's values alone decide (mixed by splitmix64's constants), so that the same shapes are held
    out of every table they stand in.
    """
    mixed = np.zeros(len(keys), dtype=np.uint64)
    for column in np.asarray(keys, dtype=np.float64).T:
        mixed = (mixed ^ np.ascontiguousarray(column).view(np.uint64)) * np.uint64(_MIX_1)
        mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(_MIX_2)
        mixed = mixed ^ (mixed >> np.uint64(32))
    return np.asarray(mixed % np.uint64(every) == np.uint64(every // 2))
