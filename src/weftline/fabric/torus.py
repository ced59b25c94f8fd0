"""Shapes of tori, and what a group of ranks on one has of its links."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Axis:
    """What a group has of one axis of a torus."""

    ranks: int
    """Of the group, along the axis."""
    links: float
    """Of each of its ranks, shared with the groups that lie between them and are as busy."""
    closed: bool
    """Its ranks go all round."""


def axes_of(
    shape: Sequence[int], closes: Sequence[bool], size: int, stride: int
) -> tuple[Axis, ...]:
    """The axes of ``size`` ranks that lie ``stride`` apart, the first side varying fastest.

    ``closes``: which axes have links that close them. Ranks ``apart`` chips from each other share
    every link between them with the ``apart`` - 1 groups that lie in between. Both directions of
    an axis that closes on itself count, one of a line.
    """
    first, last = max(stride, 1), max(stride, 1) * size
    found, reach = [], 1
    for side, shuts in zip(shape, closes, strict=True):
        apart = max(first / reach, 1.0)
        ranks = max(min(last / reach, side) / apart, 1.0)
        closed = shuts and side > 2 and ranks * apart >= side * (1 - 1e-9)
        links = (2.0 if closed else 1.0) / apart if ranks > 1 else 0.0
        found.append(Axis(math.ceil(ranks - 1e-9), links, closed))
        reach *= side
    return tuple(found)


def torus_shape(chips: int, dims: int, multiple: int = 1) -> tuple[int, ...]:
    """The most cubic ``dims``-dimensional torus of exactly ``chips`` chips, sides ascending.

    All sides are multiples of ``multiple`` where that is possible (TPU cubes are 4x4x4); a slice
    smaller than a cube is simply the most cubic: 2x2x1, 2x2x2, 2x2x4.
    """
    best: tuple[int, ...] | None = None
    for shape in _factorisations(chips, dims):
        if best is None or _cubic_rank(shape, multiple) < _cubic_rank(best, multiple):
            best = shape
    return best if best is not None else (1,) * (dims - 1) + (chips,)


def _cubic_rank(shape: tuple[int, ...], multiple: int) -> tuple[bool, float, tuple[int, ...]]:
    whole = all(side % multiple == 0 for side in shape)
    return not whole, max(shape) / min(shape), shape


def _factorisations(n: int, dims: int, least: int = 1) -> list[tuple[int, ...]]:
    if dims == 1:
        return [(n,)] if n >= least else []
    found: list[tuple[int, ...]] = []
    for side in range(least, math.floor(n ** (1 / dims) + 1e-9) + 1):
        if n % side == 0:
            found += [(side, *rest) for rest in _factorisations(n // side, dims - 1, side)]
    return found
