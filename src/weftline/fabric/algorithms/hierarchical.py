"""Algorithms for networks in levels: straight to everyone, and inside first, then across.

Hierarchical: reduce-scatter inside a unit, all-reduce of each piece across units, all-gather
inside: 2(g-1)/g M/B_in + 2(K-1)/K (M/g)/B_out. It is the bucket algorithm on (unit, place inside).
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from weftline.errors import InputError
from weftline.fabric.algorithms.bucket import (
    Colour,
    balanced,
    bucket_flat,
    bucket_orbit,
    in_pieces,
)
from weftline.fabric.graph import Grid, IntArray, Topology
from weftline.fabric.orbit import OrbitSchedule
from weftline.fabric.routing import routes
from weftline.fabric.schedule import Collective, Schedule


def direct(topology: Topology, collective: Collective) -> OrbitSchedule:
    """Every rank sends every other its block at once: one step each for the two halves.

    Raises InputError unless all chips reach each other alike (one switch, a full mesh).
    """
    if not (topology.interchangeable and topology.is_symmetric):
        raise InputError(
            f"the direct exchange needs chips that all reach each other alike; `{topology.name}` "
            "is a " + topology.kind,
            hint="`ring`, `bucket` and `hierarchical` take the rest",
        )
    grid = Grid(shape=(topology.ranks,), wraps=(True,))
    return bucket_orbit(
        grid, collective, [Colour(share=1.0, order=(0,))], algorithm="direct", direct=frozenset({0})
    )


def hierarchical(
    topology: Topology, collective: Collective, *, pieces: int = 1
) -> Schedule | OrbitSchedule:
    """Reduce-scatter inside every unit, all-reduce across units, all-gather inside.

    Units are those of the network's innermost level. ``pieces`` follow each other, so that one is
    inside while another is across; then a linear programme may send some across first, where that
    keeps the links of all levels busy. Under switches blocks go straight to their homes, else round
    rings. Raises InputError where there is one level only. Where shifts of units and of places map
    the network on itself, one chip's rows are given.
    """
    levels = topology.levels
    if len(levels) < 2 or levels[-1] != topology.ranks or levels[0] in (1, topology.ranks):
        raise InputError(
            f"`{topology.name}` has one level only",
            hint="nested networks have two: switch:8/clos:128",
        )
    if any(outer % inner for inner, outer in pairwise(levels)):
        raise InputError(f"the levels of `{topology.name}` do not divide each other: {levels}")
    group = topology.group
    inner = [] if group is None else _inner_axes(group, levels[0])
    if topology.is_symmetric and group is not None and inner:
        direct_axes = _alike_axes(topology, group)
        speed = _own_links(topology, group, direct_axes) if pieces > 1 else None
        if speed is None:
            ways = _inside_first(group, inner)
        else:
            ways = _shared_out(group, speed, direct_axes)
        apart = max([1, *(s - 1 for a, s in enumerate(group.shape) if a not in direct_axes)])
        return bucket_orbit(
            group, collective, in_pieces(ways, pieces, apart), algorithm="hierarchical",
            direct=direct_axes,
        )  # fmt: skip
    sizes = [levels[0], *(outer // inside for inside, outer in pairwise(levels))]
    grid = Grid(shape=tuple(reversed(sizes)), wraps=(True,) * len(sizes))
    order = tuple(reversed(range(len(sizes))))
    colours = in_pieces([(1.0, order, False)], pieces, max(sizes) - 1)
    return bucket_flat(grid, collective, colours, algorithm="hierarchical")


def _own_links(topology: Topology, group: Grid, direct_axes: frozenset[int]) -> list[float] | None:
    """What chip 0 sends along each axis, bytes a second; None where axes share a link.

    On a direct axis the links to all shifts together, else the one to the next chip.
    """
    speed, seen = [1.0] * len(group.shape), set[int]()
    for axis, side in enumerate(group.shape):
        if side == 1:
            continue
        points = np.zeros((side - 1 if axis in direct_axes else 1, len(group.shape)), np.int64)
        points[:, axis] = np.arange(1, len(points) + 1)
        taken = routes(topology, np.zeros(len(points), dtype=np.int64), group.rank(points))
        own = {int(k) for k in taken.links if topology.source[k] == 0}
        if not own or own & seen:
            return None
        seen |= own
        speed[axis] = float(topology.bandwidth_bytes_per_s[sorted(own)].sum())
    return speed


def _shared_out(
    group: Grid, speed: list[float], direct_axes: frozenset[int]
) -> list[tuple[float, tuple[int, ...], bool]]:
    """(share, order, down) that give the links of all axes the same to do."""
    axes = [a for a, side in enumerate(group.shape) if side > 1]
    rest = tuple(a for a, side in enumerate(group.shape) if side == 1)
    ways = (False, True) if any(a not in direct_axes for a in axes) else (False,)
    return [
        (share / len(ways), order + rest, down)
        for share, order in balanced(group, axes, speed, direct=direct_axes)
        for down in ways
    ]


def _alike_axes(topology: Topology, group: Grid) -> frozenset[int]:
    """Axes along which all shifts of a chip are equally many hops away: switches, full meshes."""
    hops = _hops_from_first(topology)
    found = set()
    for axis, side in enumerate(group.shape):
        points = np.zeros((max(side - 1, 1), len(group.shape)), dtype=np.int64)
        points[: side - 1, axis] = np.arange(1, side)
        far = hops[group.rank(points)]
        if side > 1 and (far == far[0]).all():
            found.add(axis)
    return frozenset(found)


def _hops_from_first(topology: Topology) -> IntArray:
    """[nodes] links from chip 0 to each node."""
    hops = np.full(topology.nodes, -1, dtype=np.int64)
    hops[0] = 0
    edge = np.array([0])
    while len(edge):
        reached = np.isin(topology.source, edge)
        following = np.unique(topology.destination[reached])
        following = following[hops[following] < 0]
        hops[following] = hops[edge[0]] + 1
        edge = following
    return hops


def _inner_axes(group: Grid, inside: int) -> list[int]:
    """The last axes of the group that together number the places of a unit; none if none do."""
    size = 1
    for axis in reversed(range(len(group.shape))):
        size *= group.shape[axis]
        if size == inside:
            return list(range(axis, len(group.shape)))
        if size > inside:
            break
    return []


def _inside_first(group: Grid, inner: list[int]) -> list[tuple[float, tuple[int, ...], bool]]:
    """(share, order, down): rotations over the axes inside a unit, both ways, then outer axes."""
    outer = tuple(reversed([a for a in range(len(group.shape)) if a not in inner]))
    real = [a for a in inner if group.shape[a] > 1]
    rest = tuple(a for a in inner if group.shape[a] == 1)
    turns = [tuple(real[i:] + real[:i]) + rest + outer for i in range(len(real))] or [rest + outer]
    ways = (False, True) if len(real) > 1 else (False,)
    share = 1.0 / (len(turns) * len(ways))
    return [(share, turn, down) for turn in turns for down in ways]
