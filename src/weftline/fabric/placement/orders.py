"""Orders of the chips of a grid: row-major, Morton, snake, and closed rings of neighbours.

Every order is an array [chips, axes] of points. Row-major and Morton are what schedulers number by
(Morton: Slurm's topology/torus3d); ``ring_points`` gives a closed walk in which every step is one
hop, wherever the grid has one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from weftline.errors import UnknownNameError
from weftline.fabric.graph import Grid, IntArray

Order = Literal["row-major", "morton", "snake"]
ORDERS: tuple[Order, ...] = ("row-major", "morton", "snake")


def order_points(shape: Sequence[int], order: str) -> IntArray:
    """[chips, axes] points in one of ``ORDERS``; raises UnknownNameError for another."""
    points = np.stack(np.unravel_index(np.arange(int(np.prod(shape))), tuple(shape)), axis=-1)
    if order == "row-major":
        return points
    if order == "morton":
        return points[np.argsort(_interleaved(points), kind="stable")]
    if order == "snake":
        return snake_points(shape)
    raise UnknownNameError("order", order, ORDERS, hint=f"one of {', '.join(ORDERS)}")


def _interleaved(points: IntArray) -> IntArray:
    """[chips] Morton codes: bit b of axis a at place b * axes + a, the first axis lowest."""
    axes = points.shape[1]
    bits = max(int(points.max(initial=0)).bit_length(), 1)
    code = np.zeros(len(points), dtype=np.int64)
    for bit in range(bits):
        for axis in range(axes):
            code |= ((points[:, axis] >> bit) & 1) << (bit * axes + axis)
    return code


def snake_points(shape: Sequence[int]) -> IntArray:
    """The boustrophedon walk: neighbours one hop apart, the first axis slowest."""
    if not len(shape):
        return np.zeros((1, 0), dtype=np.int64)
    inner = snake_points(shape[1:])
    rows = [
        np.concatenate([np.full((len(inner), 1), i), inner if i % 2 == 0 else inner[::-1]], axis=1)
        for i in range(shape[0])
    ]
    return np.concatenate(rows)


def ring_points(shape: Sequence[int], wraps: Sequence[bool]) -> IntArray:
    """[chips, axes] a walk of single hops that also ends one hop from its start where one exists.

    A grid has such a ring if it has an even side and two sides above 1, or closes along an axis; a
    line has none, and its walk is simply the line.
    """
    sides = [(s, i) for i, s in enumerate(shape) if s > 1]
    if len(sides) <= 1:
        return order_points(shape, "row-major")
    even = [i for s, i in sides if s % 2 == 0]
    if even:
        # Down all but one lane along the even axis, back up that lane: closed without any wrap.
        lead = even[0]
        rest = [i for _, i in sides if i != lead]
        return _placed(_comb(shape[lead], [shape[i] for i in rest]), [lead, *rest], shape)
    closing = [i for s, i in sides if wraps[i]]
    if len(closing) >= 2:
        # Odd sides: rows of the wider part back and forth, home along the wrap of the last row.
        lead, other = closing[0], closing[1]
        flat = _odd(shape[lead], shape[other])
        more = [i for _, i in sides if i not in (lead, other)]
        for axis in more:
            flat = _odd_more(flat, shape[axis])
        return _placed(flat, [lead, other, *more], shape)
    return snake_points(shape)


def _placed(walk: IntArray, axes: Sequence[int], shape: Sequence[int]) -> IntArray:
    points = np.zeros((len(walk), len(shape)), dtype=np.int64)
    points[:, list(axes)] = walk
    return points


def _comb(lead: int, rest: Sequence[int]) -> IntArray:
    """A ring on an even side times a snake over the rest: back and forth, home along one lane."""
    lane = snake_points(rest)
    rows = []
    for i in range(lead):
        part = lane[1:] if i % 2 == 0 else lane[1:][::-1]
        rows.append(np.concatenate([np.full((len(part), 1), i), part], axis=1))
    home = np.concatenate([np.arange(lead)[::-1, None], np.repeat(lane[:1], lead, axis=0)], axis=1)
    return np.concatenate([*rows, home]) if len(lane) > 1 else home


def _odd(a: int, b: int) -> IntArray:
    """A ring on an a x b torus of odd sides."""
    rows = []
    for i in range(a):
        part = np.arange(1, b) if i % 2 == 0 else np.arange(1, b)[::-1]
        rows.append(np.stack([np.full(b - 1, i), part], axis=1))
    home = np.stack([np.arange(a)[::-1], np.zeros(a, dtype=np.int64)], axis=1)
    return np.concatenate([*rows, home])


def _odd_more(ring: IntArray, side: int) -> IntArray:
    """A ring of odd length times one more odd side that closes: the same walk on their product."""
    flat = _odd(len(ring), side)
    return np.concatenate([ring[flat[:, 0]], flat[:, 1:]], axis=1)


def ring_hops(points: IntArray, grid: Grid) -> IntArray:
    """[chips] hops from each point of a closed walk to the next, wrap-arounds used."""
    apart = np.abs(points - np.roll(points, -1, axis=0))
    around = np.asarray(grid.shape) - apart
    wraps = np.asarray(grid.wraps, dtype=np.bool_)
    return np.asarray(np.where(wraps, np.minimum(apart, around), apart).sum(axis=1))
