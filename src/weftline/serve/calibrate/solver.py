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

__all__ = ["Problem"]

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

    The unknowns are the constants' logarithms, then the offsets of ``groups`` groups of rows for
    ln(time per token), then those for ln(first-token time).
    """

    gaps: Callable[[FloatArray], tuple[FloatArray, FloatArray]]
    """ln(predicted / measured) time per token and first-token time under a vector of constants."""
    traits: Traits
    weight: FloatArray
    """[n] how much each row counts."""
    first_weight: FloatArray
    """[n] how much first-token times count beside times per token."""
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
        centre = np.concatenate([start_of(), np.zeros(2 * self.groups)])
        return centre, np.concatenate([pull_of(), np.full(2 * self.groups, self.offset_pull)])

    def _weighed(self, x: FloatArray) -> tuple[list[tuple[FloatArray, FloatArray]], FloatArray]:
        """Gaps before offsets and after, of both times, and the constants."""
        n = len(SLOTS)
        late, first = self.gaps(x[:n])
        apart, first_apart = x[n : n + self.groups], x[n + self.groups :]
        return [(late, late + apart[self.group]), (first, first + first_apart[self.group])], x[:n]

    def errors(self, x: FloatArray) -> FloatArray:
        """What least squares makes small."""
        centre, pull = self._held()
        ((_, late), (_, first)), _ = self._weighed(x)
        return np.concatenate([
            self._soft(late)[0] * self.weight,
            self._soft(first)[0] * self.weight * self.first_weight, pull * (x - centre),
        ])  # fmt: skip

    def jacobian(self, x: FloatArray) -> FloatArray:
        """Derivatives of :meth:`errors`."""
        ((late, late_all), (first, first_all)), constants = self._weighed(x)
        m, n = len(late), len(SLOTS)
        slope = self._soft(late_all)[1] * self.weight
        first_slope = self._soft(first_all)[1] * self.weight * self.first_weight
        out = np.zeros((2 * m + len(x), len(x)))
        for block in _moved_together():
            moved = constants.copy()
            moved[[at for at, _ in block]] += STEP
            found, first_found = self.gaps(moved)
            for at, engine in block:
                rows = np.ones(m) if engine is None else self.traits.flags[:, engine]
                out[:m, at] = rows * slope * (found - late) / STEP
                out[m : 2 * m, at] = rows * first_slope * (first_found - first) / STEP
        own = np.arange(m)
        out[own, n + self.group] = slope
        out[m + own, n + self.groups + self.group] = first_slope
        out[2 * m :] = np.diag(self._held()[1])
        return out

    def solve(self, start: FloatArray | None, rounds: int) -> FloatArray:
        """The constants' logarithms; ``rounds`` bounds the evaluations."""
        from scipy.optimize import least_squares

        begin = self._held()[0]
        if start is not None:
            begin[: len(SLOTS)] = start
        found = least_squares(self.errors, begin, jac=self.jacobian, max_nfev=rounds).x
        return np.asarray(found[: len(SLOTS)], dtype=np.float64)
