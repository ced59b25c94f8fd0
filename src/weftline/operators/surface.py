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
        index: FloatArray | npt.NDArray[np.intp] = np.zeros((), dtype=np.intp)
        weights: list[FloatArray] = []
        strides: list[int] = []
        stride = self.log2_s.size
        for size, axis in zip(sizes, self.axes, strict=True):
            stride //= len(axis)
            at, weight = locate(axis, size)
            index = index + at * stride
            weights.append(weight)
            strides.append(stride if len(axis) > 1 else 0)
        flat = self.log2_s.ravel()
        found: FloatArray = np.zeros(())
        for corner in range(1 << len(weights)):
            share: Number = 1.0
            offset = 0
            for bit, (weight, step) in enumerate(zip(weights, strides, strict=True)):
                high = corner >> bit & 1
                share = share * (weight if high else 1.0 - weight)
                offset += step * high
            found = found + share * flat[index + offset]
        return np.asarray(found, dtype=np.float64)


def locate(axis: FloatArray, size: Number) -> tuple[npt.NDArray[np.intp], FloatArray]:
    """The cell of each size on a log2 axis and the weight of its upper node, 0 to 1."""
    x = np.log2(np.maximum(np.asarray(size, dtype=np.float64), 1e-300))
    if len(axis) == 1:
        return np.zeros(x.shape, dtype=np.intp), np.zeros(x.shape)
    x = np.clip(x, axis[0], axis[-1])
    at = np.clip(np.searchsorted(axis, x, side="right") - 1, 0, len(axis) - 2)
    return at, (x - axis[at]) / (axis[at + 1] - axis[at])


def log2_axis(values: Sequence[float]) -> FloatArray:
    """Grid nodes in log2."""
    return np.log2(np.asarray(values, dtype=np.float64))


def running_max(table: FloatArray, axes: Sequence[int] | None = None) -> FloatArray:
    """The least table above ``table`` that never falls along ``axes`` (all of them by default)."""
    for axis in range(table.ndim) if axes is None else axes:
        table = np.maximum.accumulate(table, axis=axis)
    return table
