"""Time surfaces: log2 of seconds on a small log grid, monotone in every axis.

A :class:`Surface` is read by multilinear interpolation of log2 seconds over log2 sizes, so a power
law between two nodes is met exactly, a table that rises along each axis stays monotone between its
nodes, and nothing can become negative. Outside its grid a surface is held at its edge;
``lookup.look_up`` scales the edge by what the work grows, which keeps the last measured efficiency.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
Number = float | FloatArray


@dataclass(frozen=True, slots=True)
class Surface:
    """One table of log2 seconds.

    ``axes`` are log2 sizes, ascending; ``log2_s`` has one dimension an axis.
    """

    axes: tuple[FloatArray, ...]
    log2_s: FloatArray

    def seconds(self, *sizes: Number) -> FloatArray:
        """Seconds at ``sizes`` (broadcast against each other; held at the grid's edges)."""
        return np.exp2(self.log2_seconds(*sizes))

    def log2_seconds(self, *sizes: Number) -> FloatArray:
        """Log2 of :meth:`seconds`."""
        index: npt.NDArray[np.intp] = np.zeros((), dtype=np.intp)
        weights: list[FloatArray] = []
        corners = [0]
        stride = self.log2_s.size
        for size, axis in zip(sizes, self.axes, strict=True):
            stride //= len(axis)
            at, weight = locate(axis, size)
            if len(axis) == 1:
                index = index + at  # all zero: what its shape adds to the others' counts
                continue
            index = index + at * stride
            weights.append(weight)
            corners += [corner + stride for corner in corners]
        flat = self.log2_s.ravel()
        values = [flat[index + corner] for corner in corners]
        for weight in reversed(weights):
            half = len(values) // 2
            values = [
                low + weight * (high - low)
                for low, high in zip(values[:half], values[half:], strict=True)
            ]
        return np.asarray(values[0], dtype=np.float64)


def locate(axis: FloatArray, size: Number) -> tuple[npt.NDArray[np.intp], FloatArray]:
    """The cell of each size on a log2 axis and the weight of its upper node, 0 to 1."""
    x = np.asarray(np.log2(np.maximum(size, 1e-300)), dtype=np.float64)
    if len(axis) == 1:
        return np.zeros(x.shape, dtype=np.intp), np.zeros(x.shape)
    x = np.minimum(np.maximum(x, axis[0]), axis[-1])
    at = np.minimum(axis.searchsorted(x, side="right"), len(axis) - 1) - 1
    low = axis[at]
    return at, (x - low) / (axis[at + 1] - low)


def log2_axis(values: Sequence[float]) -> FloatArray:
    """Grid nodes in log2."""
    return np.log2(np.asarray(values, dtype=np.float64))


def running_max(table: FloatArray, axes: Sequence[int] | None = None) -> FloatArray:
    """The least table above ``table`` that never falls along ``axes`` (all of them by default)."""
    for axis in range(table.ndim) if axes is None else axes:
        table = np.maximum.accumulate(table, axis=axis)
    return table
