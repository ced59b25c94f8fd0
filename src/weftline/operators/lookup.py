"""The tables one chip is priced with: its own, or its kin's carried over by the roofline."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from weftline.operators.surface import FloatArray, Number, Surface, running_max

_LAUNCH_SHARE = 0.9
"""Share of a table's least time that is launch: it does not grow with size or shrink with peaks."""


def nodes(surface: Surface) -> list[FloatArray]:
    """The sizes at every node, each broadcastable to the table's shape."""
    return [
        np.exp2(axis).reshape([-1 if d == i else 1 for d in range(len(surface.axes))])
        for i, axis in enumerate(surface.axes)
    ]


def carried(surface: Surface, roof_there: FloatArray, roof_here: FloatArray) -> Surface:
    """A table moved to another chip or format: what is beyond launch scales with the roofline.

    The result is made to rise along every axis again (a peak and a bandwidth that differ by
    different factors could bend it).
    """
    seconds = np.exp2(surface.log2_s)
    launch = _LAUNCH_SHARE * float(seconds.min())
    moved = launch + (seconds - launch) * (roof_here / roof_there)
    return Surface(surface.axes, running_max(np.log2(np.broadcast_to(moved, seconds.shape))))


Growth = Callable[[FloatArray, float], FloatArray]
"""From sizes beyond the grid and the edge to the factor on the edge's time."""


def linear(size: FloatArray, edge: float) -> FloatArray:
    """Work that grows with a size takes time in proportion once the unit is full."""
    return size / edge


def held(size: FloatArray, edge: float) -> FloatArray:
    """A size that adds no work."""
    del edge
    return np.ones_like(size)


def look_up(
    surface: Surface,
    sizes: Sequence[Number],
    growth: Mapping[int, Growth] | None = None,
    together: tuple[int, ...] = (),
) -> FloatArray:
    """Seconds at ``sizes``: the table inside its grid, its edge times each size's growth beyond.

    Growth is linear but for the axes named in ``growth``; of the axes in ``together`` (two
    measures of one amount of work) the larger counts. Factors depend on one size each, so the
    result rises wherever the table does. Below the grid the edge is held: a smaller call costs no
    less than launching it.
    """
    inside: list[Number] = []
    scale: Number = 1.0
    joint: Number = 1.0
    beyond = False
    for index, (size, axis) in enumerate(zip(sizes, surface.axes, strict=True)):
        values = np.asarray(size, dtype=np.float64)
        edge = float(np.exp2(axis[-1]))
        if values.size and values.max() > edge:
            beyond = True
            rule = (growth or {}).get(index, linear)
            factor = rule(np.maximum(values, edge), edge)
            if index in together:
                joint = np.maximum(joint, factor)
            else:
                scale = scale * factor
            values = np.minimum(values, edge)
        inside.append(values)
    found = surface.seconds(*inside)
    return np.asarray(found * scale * joint) if beyond else found
