"""JAX's rule for meshes on TPU slices, from its published behaviour (jax._src.mesh_utils).

Logical axes come in the order of rising network intensity. From the most intense down, each takes
whole physical axes whose sides multiply to its size: three if they can, else two, else one, the
first such set in the order of the axes. Where that fails JAX refuses, unless it may split physical
axes; then each axis takes, of all factorings that still fit, the one that fills most whole axes,
then most of them by number, then most on axes already begun, then the last in lexical order.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import combinations, product

from weftline.fabric.placement.model import Arrangement


def jax_arrangement(
    shape: Sequence[int], sizes: Sequence[int], *, split: bool = False
) -> Arrangement | None:
    """What JAX does with job axes of these sizes (least intense first); None where it refuses.

    ``split`` is ``allow_split_physical_axes``. Of axes that share a physical one the more intense
    lies innermost.
    """
    whole = _whole_axes(shape, sizes)
    table = whole if whole is not None else _split_axes(shape, sizes) if split else None
    if table is None:
        return None
    return tuple(
        tuple(
            (job, table[axis][job]) for job in reversed(range(len(sizes))) if table[axis][job] > 1
        )
        for axis in range(len(shape))
    )


def _whole_axes(shape: Sequence[int], sizes: Sequence[int]) -> list[list[int]] | None:
    free = list(shape)
    table = [[1] * len(sizes) for _ in shape]
    for job in reversed(range(len(sizes))):
        chosen = _first_set(free, sizes[job])
        if chosen is None:
            if sizes[job] > 1:
                return None
            continue
        for axis in chosen:
            table[axis][job] = shape[axis]
            free[axis] = 0
    return table


def _first_set(free: Sequence[int], size: int) -> tuple[int, ...] | None:
    for count in (3, 2, 1):
        for chosen in combinations(range(len(free)), count):
            if math.prod(free[a] for a in chosen) == size:
                return chosen
    return None


def _split_axes(shape: Sequence[int], sizes: Sequence[int]) -> list[list[int]] | None:
    table = [[1] * len(sizes) for _ in shape]
    for job in reversed(range(len(sizes))):
        best: tuple[int, ...] | None = None
        for found in _fits(shape, table, sizes[job]):
            if best is None or _rank(found, shape, table) > _rank(best, shape, table):
                best = found
        if best is None:
            return None
        for axis, factor in enumerate(best):
            table[axis][job] = factor
    return table


def _fits(
    shape: Sequence[int], table: Sequence[Sequence[int]], size: int
) -> Iterator[tuple[int, ...]]:
    """All factors, one an axis, that multiply to ``size`` and still divide what is left."""
    left = [side // math.prod(row) for side, row in zip(shape, table, strict=True)]
    divisors = [[d for d in range(1, room + 1) if room % d == 0] for room in left]
    for found in product(*divisors):
        if math.prod(found) == size:
            yield found


def _rank(
    found: Sequence[int], shape: Sequence[int], table: Sequence[Sequence[int]]
) -> tuple[int, int, int, tuple[int, ...]]:
    whole = [f for f, side in zip(found, shape, strict=True) if f == side]
    begun = [f for f, row in zip(found, table, strict=True) if math.prod(row) > 1]
    return math.prod(whole), len([f for f in whole if f > 1]), math.prod(begun), tuple(found)
