"""Closed forms of collectives over groups of ranks, on arrays of groups at once.

A group is ``size`` ranks that lie ``stride`` apart. Every form splits it over the cluster's levels
(NVLink domain, NIC rail, torus axis, data-centre network) by where its ranks really lie, and gives
the cost as ``latency_s + bytes * s_per_byte``. ``bytes`` is the full buffer: what every rank holds
after an all-gather, before a reduce-scatter, or sends in an all-to-all. All-reduce is the sum of
reduce-scatter and all-gather.

Sources: the bandwidth bound 2(N-1)/N * M/B of nccl-tests' PERFORMANCE.md; the hierarchical and
torus forms follow from applying it per level with the chip's egress at that level; latencies are
alpha times the hops of the cheaper of ring and double binary tree, as NCCL's tuner counts them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from weftline.errors import InputError
from weftline.spec import Level

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class LinearCost:
    """``latency_s + bytes * s_per_byte``, one entry a group."""

    latency_s: FloatArray
    s_per_byte: FloatArray

    def seconds(self, nbytes: FloatArray) -> FloatArray:
        """Time to move ``nbytes`` (broadcast against the groups)."""
        out: FloatArray = self.latency_s + nbytes * self.s_per_byte
        return out


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


def gather_cost(
    levels: Sequence[Level],
    size: FloatArray,
    stride: FloatArray,
    efficiency: Sequence[float | FloatArray],
) -> LinearCost:
    """Cost of an all-gather or a reduce-scatter of ``bytes`` over each group.

    ``efficiency`` is the fraction of each level's link rate that collectives reach there. Levels
    work as a pipeline, so the slowest decides: at a level with ``n`` members, each holding
    ``inner`` chips of the group below, a chip moves (n-1)/n of its ``1/inner`` share.
    """
    spread = members_per_level(levels, size, stride)
    inner = np.ones_like(spread[0])
    latency = np.zeros_like(inner)
    worst = np.zeros_like(inner)
    below = 1
    for level, n, eff in zip(levels, spread, efficiency, strict=True):
        rate = eff * _group_rate(level, n, stride, inner, below)
        worst = np.maximum(worst, (n - 1) / n / inner / rate)
        hops = np.minimum(n - 1, 2 * np.log2(np.maximum(n, 1)))
        latency = latency + level.latency_s * hops
        inner = inner * n
        below = level.size
    return LinearCost(latency_s=latency, s_per_byte=worst)


def all_to_all_cost(
    levels: Sequence[Level],
    size: FloatArray,
    stride: FloatArray,
    efficiency: Sequence[float | FloatArray],
) -> LinearCost:
    """Cost of an all-to-all in which each rank sends ``bytes`` in all, evenly to every member.

    A level carries what leaves the level below: (size - inner) / size of the bytes. On a torus side
    of ``k`` chips the bisection bound M*k/(8b) of an even ring with wrap-around holds per axis.
    """
    spread = members_per_level(levels, size, stride)
    inner = np.ones_like(spread[0])
    total = np.broadcast_to(np.asarray(size, dtype=np.float64), inner.shape)
    latency = np.zeros_like(inner)
    worst = np.zeros_like(inner)
    below = 1
    for level, n, eff in zip(levels, spread, efficiency, strict=True):
        rate = eff * _group_rate(level, n, stride, inner, below)
        crossing = np.where(n > 1, (total - inner) / total, 0.0)
        if level.kind == "torus":
            # Mean hops of a shortest-path ring route are k/4: links are shared by so many flows.
            side = np.minimum(n, float(max(level.shape, default=level.size)))
            crossing = crossing * np.maximum(side / 4, 1.0)
        worst = np.maximum(worst, crossing / rate)
        latency = latency + level.latency_s * np.where(n > 1, np.minimum(n - 1, 8.0), 0.0)
        inner = inner * n
        below = level.size
    return LinearCost(latency_s=latency, s_per_byte=worst)


def send_cost(
    levels: Sequence[Level], stride: FloatArray, efficiency: Sequence[float | FloatArray]
) -> LinearCost:
    """Cost of one send to the rank ``stride`` away, over the innermost level that reaches it.

    On a torus one of the 2d links carries it; on a switch all of a chip's links do.
    """
    stride = np.asarray(stride, dtype=np.float64)
    latency = np.full_like(stride, levels[-1].latency_s)
    per_byte = np.ones_like(stride)
    for level, eff in reversed(list(zip(levels, efficiency, strict=True))):
        reached = stride < level.size
        links = 2 * max(1, len(level.shape)) if level.kind == "torus" else 1
        rate = eff * level.bandwidth_bytes_per_s / links
        per_byte = np.where(reached | (level is levels[-1]), 1.0 / rate, per_byte)
        latency = np.where(reached, level.latency_s, latency)
    return LinearCost(latency_s=latency, s_per_byte=per_byte)


def _group_rate(
    level: Level, n: FloatArray, stride: FloatArray, inner: FloatArray, below: int
) -> FloatArray:
    """Bytes a second one chip can send inside its group at this level, before efficiency.

    Switches and Clos networks give the whole egress. A full mesh of ``size`` chips has one link to
    each other, so ``n`` members see (n-1)/(size-1) of it. On a torus the group owns the links of
    the axes it spans: both directions of an axis that closes on itself, one where it is a line.
    """
    full = np.full_like(n, level.bandwidth_bytes_per_s)
    if level.kind == "full-mesh":
        return full * np.clip((n - 1) / max(level.size - 1, 1), 1e-12, 1.0)
    if level.kind != "torus" or not level.shape:
        return full
    per_link = level.bandwidth_bytes_per_s / (2 * len(level.shape))
    first = np.maximum(np.asarray(stride, dtype=np.float64), 1.0) * inner / max(below, 1)
    first = np.maximum(first, 1.0)
    last = first * n
    links = np.zeros_like(n)
    reach = 1.0
    for side in level.shape:
        span = np.minimum(last, reach * side) / np.maximum(first, reach)
        whole = span >= side * (1 - 1e-9)
        links = links + np.where(span > 1, np.where(whole & (side > 2), 2.0, 1.0), 0.0)
        reach *= side
    return per_link * np.maximum(links, 1.0)


def torus_shape(chips: int, dims: int, multiple: int = 1) -> tuple[int, ...]:
    """The most cubic ``dims``-dimensional torus of exactly ``chips`` chips, sides ascending.

    Sides are multiples of ``multiple`` where that is possible at all (TPU cubes are 4x4x4).
    """
    best: tuple[int, ...] | None = None
    for shape in _factorisations(chips, dims):
        rank = (sum(side % multiple != 0 for side in shape), max(shape) / min(shape), shape)
        if best is None or rank < (
            sum(side % multiple != 0 for side in best),
            max(best) / min(best),
            best,
        ):
            best = shape
    return best if best is not None else (1,) * (dims - 1) + (chips,)


def _factorisations(n: int, dims: int, least: int = 1) -> list[tuple[int, ...]]:
    if dims == 1:
        return [(n,)] if n >= least else []
    found: list[tuple[int, ...]] = []
    for side in range(least, math.floor(n ** (1 / dims) + 1e-9) + 1):
        if n % side == 0:
            found += [(side, *rest) for rest in _factorisations(n // side, dims - 1, side)]
    return found
