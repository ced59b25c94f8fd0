"""Closed forms of collectives over groups of ranks, on arrays of groups at once.

A group is ``size`` ranks that lie ``stride`` apart. Every form splits it over the cluster's levels
(NVLink domain, NIC rail, torus axis, data-centre network) by where its ranks really lie. The cost
keeps apart what the scale-up domain and what the network beyond it need, both at full link rate, so
that measured efficiencies can be applied later. ``bytes`` is the full buffer: what every rank holds
after an all-gather, before a reduce-scatter, or sends in an all-to-all. All-reduce is the sum of
reduce-scatter and all-gather.

Sources: the bandwidth bound 2(N-1)/N * M/B of nccl-tests' PERFORMANCE.md; the hierarchical and
torus forms follow from applying it per level with the chip's egress at that level; latencies are
alpha times the hops of the cheaper of ring and double binary tree, as NCCL's tuner counts them.

This is the planner's form: groups, no algorithm named. ``evaluators.closed_form`` times one named
schedule on one network; where both speak of the same (a level whole, no latency) they agree, and
with the evaluators that look at every link: tests hold them together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from weftline.errors import InputError
from weftline.spec import Level

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Number = float | FloatArray


@dataclass(frozen=True, slots=True)
class GroupCost:
    """Cost of moving bytes inside groups, one entry a group."""

    latency_s: FloatArray
    up_s_per_byte: FloatArray
    """Seconds a byte inside the scale-up domain, at link rate."""
    out_s_per_byte: FloatArray
    """Seconds a byte beyond it, at link rate."""
    at_once: bool = False
    """Both parts of the network work at the same time (all-to-all), not one after the other."""

    def seconds(self, nbytes: Number, up_efficiency: Number, out_efficiency: Number) -> FloatArray:
        """Time to move ``nbytes``; efficiencies are the share of link rate really reached."""
        up, out = self.up_s_per_byte / up_efficiency, self.out_s_per_byte / out_efficiency
        per_byte = np.maximum(up, out) if self.at_once else up + out
        seconds: FloatArray = self.latency_s + nbytes * per_byte
        return seconds

    def take(self, index: IntArray) -> GroupCost:
        """The cost of some of the groups."""
        return GroupCost(
            self.latency_s[index],
            self.up_s_per_byte[index],
            self.out_s_per_byte[index],
            self.at_once,
        )


def members_per_level(
    levels: Sequence[Level], size: FloatArray, stride: FloatArray
) -> list[FloatArray]:
    """How a group spreads over the levels: members beside each other at each, innermost first.

    The product over levels is ``size``. A group that outgrows the last level is an error of the
    caller: the cluster has fewer chips than the group.
    """
    size, stride = np.broadcast_arrays(
        np.asarray(size, dtype=np.float64), np.asarray(stride, dtype=np.float64)
    )
    inside = np.ones_like(size)
    found: list[FloatArray] = []
    for level in levels:
        reach = np.clip(np.floor(level.size / stride), 1.0, size)
        # Degrees that do not divide the domain leave domains partly used: the smaller share counts.
        here = np.maximum(reach / inside, 1.0)
        found.append(here)
        inside = inside * here
    if levels and bool(np.any(inside < size * (1 - 1e-9))):
        raise InputError(
            f"a group of {int(size.max())} ranks does not fit {levels[-1].size} chips",
            hint="the fabric's outermost level must hold every chip of the job",
        )
    return found


def gather_cost(levels: Sequence[Level], size: FloatArray, stride: FloatArray) -> GroupCost:
    """Cost of an all-gather or a reduce-scatter of ``bytes`` over each group.

    Levels work one after the other: at a level with ``n`` members, each standing for ``inner``
    chips of the group, a chip moves (n-1)/n of its ``1/inner`` share. A perfect pipeline would take
    only the slower part; measured runs whose groups cross nodes do not show one.
    """
    spread = members_per_level(levels, size, stride)
    inner = np.ones_like(spread[0])
    latency = np.zeros_like(inner)
    costs: list[FloatArray] = []
    below = 1
    for level, n in zip(levels, spread, strict=True):
        rate = _group_rate(level, n, stride, inner, below)
        costs.append((n - 1) / n / inner / rate)
        hops = np.minimum(n - 1, 2 * np.log2(np.maximum(n, 1)))
        latency = latency + level.latency_s * hops
        inner = inner * n
        below = level.size
    beyond = np.zeros_like(costs[0])
    for cost in costs[1:]:
        beyond = beyond + cost
    return GroupCost(latency, costs[0], beyond)


def all_to_all_cost(levels: Sequence[Level], size: FloatArray, stride: FloatArray) -> GroupCost:
    """Cost of an all-to-all in which each rank sends ``bytes`` in all, evenly to every member.

    A level carries what leaves the level below: (size - inner) / size of the bytes. On a torus the
    busiest axis decides: of ``k`` ranks along it, a rank's own among them, a shortest route takes
    k/4 hops in the mean on a ring, and k/4 of a rank's bytes cross the middle of a line.
    """
    spread = members_per_level(levels, size, stride)
    inner = np.ones_like(spread[0])
    total = np.broadcast_to(np.asarray(size, dtype=np.float64), inner.shape)
    latency = np.zeros_like(inner)
    costs: list[FloatArray] = []
    below = 1
    for level, n in zip(levels, spread, strict=True):
        if level.kind == "torus" and level.shape:
            axes = _torus_axes(level, n, stride, inner, below)
            busiest = np.zeros_like(n)
            for ranks, links in axes:
                load = np.where(ranks > 1, ranks / 4 / np.maximum(links, 1e-12), 0.0)
                busiest = np.maximum(busiest, load)
            costs.append(busiest / (level.bandwidth_bytes_per_s / (2 * len(level.shape))))
        else:
            crossing = np.where(n > 1, (total - inner) / total, 0.0)
            costs.append(crossing / _group_rate(level, n, stride, inner, below))
        latency = latency + level.latency_s * np.where(n > 1, np.minimum(n - 1, 8.0), 0.0)
        inner = inner * n
        below = level.size
    return replace(_by_reach(latency, costs), at_once=True)


def send_cost(levels: Sequence[Level], stride: FloatArray) -> GroupCost:
    """Cost of one send to the rank ``stride`` away, over the innermost level that reaches it.

    On a torus one of the 2d links carries it; on a switch all of a chip's links do.
    """
    stride = np.asarray(stride, dtype=np.float64)
    latency = np.full_like(stride, levels[-1].latency_s)
    costs = [np.zeros_like(stride) for _ in levels]
    unplaced = np.ones(stride.shape, dtype=np.bool_)
    for index, level in enumerate(levels):
        here = unplaced & ((stride < level.size) | (index == len(levels) - 1))
        links = 2 * max(1, len(level.shape)) if level.kind == "torus" else 1
        costs[index] = np.where(here, links / level.bandwidth_bytes_per_s, 0.0)
        latency = np.where(here, level.latency_s, latency)
        unplaced = unplaced & ~here
    return _by_reach(latency, costs)


def _by_reach(latency: FloatArray, costs: Sequence[FloatArray]) -> GroupCost:
    out = np.zeros_like(costs[0])
    for cost in costs[1:]:
        out = np.maximum(out, cost)
    return GroupCost(latency, costs[0], out)


def _group_rate(
    level: Level, n: FloatArray, stride: FloatArray, inner: FloatArray, below: int
) -> FloatArray:
    """Bytes a second one chip can send inside its group at this level, before efficiency.

    Switches and Clos networks give the whole egress. A full mesh of ``size`` chips has one link to
    each other, so ``n`` members see (n-1)/(size-1) of it. On a torus the group has the links of
    the axes it spans: both directions of an axis that closes on itself, one where it is a line.
    """
    full = np.full_like(n, level.bandwidth_bytes_per_s)
    if level.kind == "full-mesh":
        return full * np.clip((n - 1) / max(level.size - 1, 1), 1e-12, 1.0)
    if level.kind != "torus" or not level.shape:
        return full
    per_link = level.bandwidth_bytes_per_s / (2 * len(level.shape))
    links = np.zeros_like(n)
    for _, owned in _torus_axes(level, n, stride, inner, below):
        links = links + owned
    return per_link * np.where(links > 0, links, 1.0)


def _torus_axes(
    level: Level, n: FloatArray, stride: FloatArray, inner: FloatArray, below: int
) -> list[tuple[FloatArray, FloatArray]]:
    """Of each axis: the group's ranks along it, and the links it has there, in link rates.

    Ranks ``apart`` chips from each other share every link between them with the ``apart`` - 1
    groups that lie in between and are as busy.
    """
    first = np.maximum(np.asarray(stride, dtype=np.float64), 1.0) * inner / max(below, 1)
    first = np.maximum(first, 1.0)
    last = first * n
    found: list[tuple[FloatArray, FloatArray]] = []
    reach = 1.0
    for side in level.shape:
        apart = np.maximum(first / reach, 1.0)
        ranks = np.maximum(np.minimum(last / reach, side) / apart, 1.0)
        closed = (ranks * apart >= side * (1 - 1e-9)) & (side > 2) & (not level.open_sides)
        owned = np.where(ranks > 1, np.where(closed, 2.0, 1.0) / apart, 0.0)
        found.append((ranks, owned))
        reach *= side
    return found


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
