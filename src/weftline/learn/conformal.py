"""Intervals that hold as often as they say: split and jackknife conformal quantiles.

With scores of rows the fit has not seen, the ``ceil((n + 1) * level)``-th smallest is a bound that
a new row of the same kind stays under with probability ``level`` (Vovk 2005; arXiv:1905.02928).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["conformal_quantile", "half_width", "weighted_quantile"]


def conformal_quantile(scores: Sequence[float], level: float = 0.9) -> float:
    """The score a new row stays under with probability ``level``; infinite with too few rows."""
    n = len(scores)
    rank = math.ceil((n + 1) * level)
    return math.inf if rank > n else float(sorted(scores)[rank - 1])


def half_width(
    scores: Mapping[str, Sequence[float]], path: Sequence[str], *, level: float = 0.9,
    least: int = 20,
) -> tuple[float, str]:  # fmt: skip
    """The bound of the first group along ``path`` that has ``least`` scores, and its name.

    ``path`` runs from the most particular group to the most general one.
    """
    for name in path:
        own = scores.get(name, ())
        if len(own) >= least:
            return conformal_quantile(own, level), name
    last = path[-1]
    return conformal_quantile(scores.get(last, ()), level), last


def weighted_quantile(
    scores: npt.NDArray[np.float64], weights: npt.NDArray[np.float64], level: float = 0.9
) -> float:
    """The score below which ``level`` of the weight lies, a new score of mean weight counted as
    above all (weighted conformal prediction, arXiv:1904.06019); the largest with too little."""
    order = np.argsort(scores)
    total = float(weights.sum()) + float(weights.mean())
    reached = np.cumsum(weights[order]) / total
    index = int(np.searchsorted(reached, level))
    return float(scores[order][min(index, len(scores) - 1)])
