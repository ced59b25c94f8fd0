"""Rings in rank order on a grid: hops, shared links and time, for any map of ranks to chips.

Every group runs a ring in the order of its ranks, half of the bytes each way round, all groups of
an axis at once; messages go by dimension order, the shortest way, and share links.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from weftline.errors import InputError
from weftline.fabric.graph import Grid, IntArray
from weftline.fabric.placement.model import AxisTraffic, GridSpeeds
from weftline.fabric.placement.orders import ring_hops


@dataclass(frozen=True, slots=True, kw_only=True)
class RingQuality:
    """Hops between consecutive ranks of a closed walk, and what the busiest link carries."""

    hops_most: int
    hops_mean: float
    flows_most: int
    """Messages on one directed link when each rank sends to the next (dimension-order routes)."""


def ring_quality(chips: IntArray, grid: Grid) -> RingQuality:
    """How good an order of the chips is for a ring; raises InputError if it is no permutation."""
    check_map(chips, grid.size)
    points = grid.coordinates(chips)
    hops = ring_hops(points, grid)
    load = _loads(points, np.roll(points, -1, axis=0), grid)
    return RingQuality(hops_most=int(hops.max()), hops_mean=float(hops.mean()),
                       flows_most=int(load.max(initial=0)))  # fmt: skip


def check_map(chips: IntArray, size: int) -> None:
    """Raise InputError for a rank map that uses a chip twice or one that is not there."""
    values = np.asarray(chips)
    bad = np.flatnonzero((values < 0) | (values >= size))
    if bad.size:
        raise InputError(f"rank {int(bad[0])} is put on chip {int(values[bad[0]])} of {size}")
    found, count = np.unique(values, return_counts=True)
    if (count > 1).any():
        chip = int(found[np.argmax(count > 1)])
        twice = np.flatnonzero(values == chip)[:2]
        raise InputError(
            f"ranks {int(twice[0])} and {int(twice[1])} are both put on chip {chip}",
            hint="a rank map is a permutation: every chip once",
        )


def _loads(source: IntArray, destination: IntArray, grid: Grid) -> IntArray:
    """[chips, axes, 2] messages over each directed link under dimension-order routing, shortest
    way round; of two equal ways the one up the axis."""
    load = np.zeros((grid.size, len(grid.shape), 2), dtype=np.int64)
    here = source.copy()
    for axis, side in enumerate(grid.shape):
        move = destination[:, axis] - here[:, axis]
        if grid.wraps[axis]:
            move = (move + (side - 1) // 2) % side - (side - 1) // 2
        for _ in range(int(np.abs(move).max(initial=0))):
            going = move != 0
            down = (move < 0).astype(np.int64)
            np.add.at(load, (grid.rank(here)[going], axis, down[going]), 1)
            here[:, axis] = np.where(going, (here[:, axis] + np.sign(move)) % side, here[:, axis])
            move -= np.sign(move)
    return load


def ring_time_s(
    speeds: GridSpeeds, rank_to_chip: IntArray, axes: Mapping[str, int],
    traffic: Sequence[AxisTraffic],
) -> float:  # fmt: skip
    """Step time of any rank map when every collective is a ring in rank order (see the head)."""
    sizes = list(axes.values())
    names = list(axes)
    number = np.arange(math.prod(sizes)).reshape(sizes)
    points = speeds.grid.coordinates(rank_to_chip)
    rates = np.asarray(speeds.link_bytes_per_s)
    total = 0.0
    for entry in traffic:
        wanted = [names.index(a) for a in entry.axes]
        n = math.prod(sizes[w] for w in wanted)
        if n == 1:
            continue
        groups = np.moveaxis(number, wanted, list(range(-len(wanted), 0))).reshape(-1, n)
        here = points[groups.reshape(-1)]
        there = points[np.roll(groups, -1, axis=1).reshape(-1)]
        up = _loads(here, there, speeds.grid)
        down = _loads(there, here, speeds.grid)
        busiest = ((up + down).max(axis=(0, 2)) / rates).max() / 2 if n > 2 else (
            (up.max(axis=(0, 2)) / rates).max())  # fmt: skip
        hop = float(np.max(speeds.latency_s)) * _hops(here, there, speeds.grid)
        total += entry.count * _ring_call_s(entry, n, float(busiest), hop)
    return total


def _hops(here: IntArray, there: IntArray, grid: Grid) -> float:
    apart = np.abs(here - there)
    around = np.where(np.asarray(grid.wraps), np.asarray(grid.shape) - apart, apart)
    return float(np.minimum(apart, around).sum(axis=1).max(initial=0))


def _ring_call_s(entry: AxisTraffic, n: int, s_per_byte: float, hop_s: float) -> float:
    if entry.collective == "send":
        return hop_s + entry.size_bytes * s_per_byte * (2 if n > 2 else 1)
    if entry.collective == "all-to-all":
        # Around a ring both ways a byte goes n/4 hops in the mean.
        return n / 2 * hop_s + entry.size_bytes * n / 4 * s_per_byte
    passes = 2 if entry.collective == "all-reduce" else 1
    return passes * ((n - 1) * hop_s + entry.size_bytes * (n - 1) / n * s_per_byte)


def axis_hops(grid: Grid, chips: IntArray, axes: Mapping[str, int]) -> dict[str, int]:
    """Most hops between consecutive ranks of each axis' rings."""
    sizes = list(axes.values())
    number = np.arange(math.prod(sizes)).reshape(sizes)
    points = grid.coordinates(chips)
    found: dict[str, int] = {}
    for i, (name, size) in enumerate(axes.items()):
        groups = np.moveaxis(number, i, -1).reshape(-1, size)
        here, there = points[groups.reshape(-1)], points[np.roll(groups, -1, 1).reshape(-1)]
        found[name] = int(_hops(here, there, grid)) if size > 1 else 0
    return found
