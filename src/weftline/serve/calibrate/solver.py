"""Least squares for the engine model's constants, with a Jacobian that knows which rows move.

Constants of different engines touch different rows: the same constant of all engines is moved at
once, and the offsets of groups of rows are differentiated by hand.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from weftline.serve.calibrate.constants import ENGINES, SLOTS, Traits, pull_of, start_of

__all__ = ["Problem", "Solved"]

FloatArray = npt.NDArray[np.float64]

STEP: Final = 1e-4
"""Step of the differences, in logarithms."""


def _moved_together() -> list[list[tuple[int, int | None]]]:
    """Slots with the engine each belongs to (None: all rows), those of different engines joined."""
    found: dict[str, list[tuple[int, int | None]]] = {}
    for at, (name, _, _) in enumerate(SLOTS):
        words = name.split(".")
        engine = next((e for e in ENGINES if e in words), None)
        key = ".".join("*" if w == engine else w for w in words)
        found.setdefault(key, []).append((at, None if engine is None else ENGINES.index(engine)))
    return list(found.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Rows, what was measured of them, and what holds constants and offsets.

    The unknowns are the constants' logarithms, then for each kind of measurement (time per token,
    first-token time, rate) the offsets of ``groups`` groups of rows.
    """

    gaps: Callable[[FloatArray], FloatArray]
    """[kinds, n] ln(predicted / measured) under a vector of constants; 0 where not measured."""
    traits: Traits
    weight: FloatArray
    """[kinds, n] how much each measurement counts, 0 where there is none."""
    group: npt.NDArray[np.int64]
    """[n] group of each row."""
    groups: int
    offset_pull: float
    outlier: float
    """Errors beyond this count linearly."""

    def _soft(self, error: FloatArray) -> tuple[FloatArray, FloatArray]:
        """The error as it counts, and its derivative."""
        root = np.sqrt(1 + (error / self.outlier) ** 2)
        size = self.outlier * np.sqrt(2 * (root - 1))
        small = np.abs(error) < 1e-6
        slope = np.where(small, 1.0, np.abs(error) / (root * np.where(small, 1.0, size)))
        return np.sign(error) * size, slope

    def _held(self) -> tuple[FloatArray, FloatArray]:
        """Centre and pull of all unknowns."""
        more = len(self.weight) * self.groups
        centre = np.concatenate([start_of(), np.zeros(more)])
        return centre, np.concatenate([pull_of(), np.full(more, self.offset_pull)])

    def _with_offsets(self, x: FloatArray, found: FloatArray) -> FloatArray:
        offsets = x[len(SLOTS) :].reshape(len(self.weight), self.groups)
        return np.asarray(found + offsets[:, self.group])

    def errors(self, x: FloatArray) -> FloatArray:
        """What least squares makes small."""
        centre, pull = self._held()
        found = self._with_offsets(x, self.gaps(x[: len(SLOTS)]))
        return np.concatenate([(self._soft(found)[0] * self.weight).ravel(), pull * (x - centre)])

    def jacobian(self, x: FloatArray) -> FloatArray:
        """Derivatives of :meth:`errors`."""
        kinds, m = self.weight.shape
        n = len(SLOTS)
        base = self.gaps(x[:n])
        slope = self._soft(self._with_offsets(x, base))[1] * self.weight
        out = np.zeros((kinds * m + len(x), len(x)))
        for block in _moved_together():
            moved = x[:n].copy()
            moved[[at for at, _ in block]] += STEP
            change = slope * (self.gaps(moved) - base) / STEP
            for at, engine in block:
                rows = np.ones(m) if engine is None else self.traits.flags[:, engine]
                out[: kinds * m, at] = (rows * change).ravel()
        own = np.arange(m)
        for kind in range(kinds):
            out[kind * m + own, n + kind * self.groups + self.group] = slope[kind]
        out[kinds * m :] = np.diag(self._held()[1])
        return out

    def solve(self, start: FloatArray | None, rounds: int) -> FloatArray:
        """All unknowns, constants first; ``rounds`` bounds the evaluations."""
        from scipy.optimize import least_squares

        begin = self._held()[0]
        if start is not None:
            begin[: len(SLOTS)] = start
        found = least_squares(self.errors, begin, jac=self.jacobian, max_nfev=rounds).x
        return np.asarray(found, dtype=np.float64)


class Solved:
    """A solution, and what it would be without some of the rows.

    Constants of a fit without rows are one Gauss-Newton step away from those with them: the rows'
    errors and derivatives are taken out of the normal equations at the solution.
    """

    def __init__(self, problem: Problem, x: FloatArray) -> None:
        self.x = x
        self.vector: FloatArray = x[: len(SLOTS)]
        kinds, rows = problem.weight.shape
        jacobian, errors = problem.jacobian(x), problem.errors(x)
        of_rows = kinds * rows
        self._jacobian = jacobian[:of_rows].reshape(kinds, rows, -1)
        self._errors = errors[:of_rows].reshape(kinds, rows)
        self._normal = jacobian.T @ jacobian
        self._right = jacobian.T @ errors

    def without(self, index: npt.NDArray[np.int64]) -> FloatArray:
        """The constants' logarithms without the rows at ``index`` of those that were fitted."""
        own = self._jacobian[:, index].reshape(-1, len(self.x))
        errors = self._errors[:, index].ravel()
        left = self._normal - own.T @ own
        step = np.linalg.solve(left, self._right - own.T @ errors)
        return np.asarray((self.x - step)[: len(SLOTS)])
