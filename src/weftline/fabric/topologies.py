"""Builders of the regular networks: rings, grids, switches, Clos, dragonfly, HammingMesh.

Bandwidths are one direction of one link, in bytes a second. Latencies are seconds from a chip to
the next one: over a cable between chips, or through one switch (each of its two links takes half).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from weftline.errors import InputError
from weftline.fabric.graph import Grid, IntArray, Topology
from weftline.fabric.nests import nested, product

__all__ = [
    "cables", "clos", "dragonfly", "fat_tree", "full_mesh", "grid", "hammingmesh", "line", "mesh",
    "nested", "product", "ring", "switch", "torus",
]  # fmt: skip

_NO_BASIS: Mapping[str, str] = {}
_REDUCING: Mapping[str, str] = {"switch": ",nvls", "clos": ",sharp"}


def _counted(value: int, what: str, least: int) -> int:
    if value < least:
        raise InputError(f"{value} {what}: at least {least} are needed")
    return value


def grid(
    shape: Sequence[int],
    link_bytes_per_s: float | Sequence[float],
    latency_s: float | Sequence[float],
    *,
    wraps: bool | Sequence[bool] = True,
    twist: Sequence[int] = (),
    name: str | None = None,
    basis: Mapping[str, str] = _NO_BASIS,
) -> Topology:
    """Chips at integer points with cables to their neighbours; speeds and wraps given per axis.

    A side of 2 has one cable whether it wraps or not. ``twist[i]`` shifts the first coordinate of
    what leaves axis i over its wrap-around. Raises InputError for a shape that cannot be.
    """
    sides = tuple(int(s) for s in shape)
    axes = len(sides)
    closed = (wraps,) * axes if isinstance(wraps, bool) else tuple(wraps)
    lattice = Grid(shape=sides, wraps=closed, twist=tuple(twist))
    _check_twist(lattice)
    speeds = _per_axis(link_bytes_per_s, axes, "link speeds")
    delays = _per_axis(latency_s, axes, "latencies")
    ranks = np.arange(lattice.size, dtype=np.int64)
    points = lattice.coordinates(ranks)
    parts: list[tuple[IntArray, IntArray, int, int]] = []
    for axis, side in enumerate(sides):
        if side == 1:
            continue
        for down in (0, 1):
            here, there = _neighbours(lattice, ranks, points, axis, down)
            parts.append((here, there, axis, down))
    source = np.concatenate([p[0] for p in parts]) if parts else np.zeros(0, np.int64)
    destination = np.concatenate([p[1] for p in parts]) if parts else np.zeros(0, np.int64)
    axis_of = np.concatenate([np.full(len(p[0]), p[2]) for p in parts] or [np.zeros(0, np.int64)])
    down_of = np.concatenate([np.full(len(p[0]), p[3]) for p in parts] or [np.zeros(0, np.int64)])
    all_wrap = all(c or s <= 2 for c, s in zip(closed, sides, strict=True))
    kind = "torus" if all_wrap else "mesh"
    if axes == 1:
        kind = "ring" if all_wrap else "line"
    return Topology(
        name=name or f"{kind}:{'x'.join(map(str, sides))}",
        ranks=lattice.size,
        source=source,
        destination=destination,
        bandwidth_bytes_per_s=np.asarray(speeds)[axis_of],
        latency_s=np.asarray(delays)[axis_of],
        kind=kind,
        grid=lattice,
        levels=(lattice.size,),
        group=lattice if lattice.is_symmetric else None,
        interchangeable=lattice.size <= 2,
        link_class=2 * axis_of + down_of,
        basis=basis,
    )


def _neighbours(
    lattice: Grid, ranks: IntArray, points: IntArray, axis: int, down: int
) -> tuple[IntArray, IntArray]:
    """Ends of the links along one axis in one direction; of a side of 2 the half that leads so."""
    side = lattice.shape[axis]
    move = -1 if down else 1
    moved = points.copy()
    moved[:, axis] += move
    over = (moved[:, axis] < 0) | (moved[:, axis] >= side)
    if lattice.twist and lattice.twist[axis]:
        moved[over, 0] += move * lattice.twist[axis]
    keep = ~over if side == 2 or not lattice.wraps[axis] else np.ones(len(ranks), np.bool_)
    return ranks[keep], lattice.rank(moved[keep])


def _check_twist(lattice: Grid) -> None:
    for axis, by in enumerate(lattice.twist):
        if by and (axis == 0 or not lattice.wraps[axis] or lattice.shape[axis] <= 2):
            raise InputError(
                f"axis {axis} cannot be twisted",
                hint="a twist shifts the first coordinate at the wrap-around of a later axis of "
                "3 chips or more",
            )


def _per_axis(value: float | Sequence[float], axes: int, what: str) -> list[float]:
    if isinstance(value, int | float):
        return [float(value)] * axes
    if len(value) == 1:
        return [float(value[0])] * axes
    if len(value) != axes:
        raise InputError(
            f"{len(value)} {what} for {axes} axes", hint="give one, or one for each axis"
        )
    return [float(v) for v in value]


def torus(
    shape: Sequence[int],
    link_bytes_per_s: float | Sequence[float],
    latency_s: float | Sequence[float],
) -> Topology:
    """A torus: every axis closes on itself."""
    return grid(shape, link_bytes_per_s, latency_s)


def mesh(
    shape: Sequence[int],
    link_bytes_per_s: float | Sequence[float],
    latency_s: float | Sequence[float],
) -> Topology:
    """A mesh: no axis closes on itself."""
    return grid(shape, link_bytes_per_s, latency_s, wraps=False)


def ring(chips: int, link_bytes_per_s: float, latency_s: float) -> Topology:
    """A ring of cables that work both ways."""
    return grid((chips,), link_bytes_per_s, latency_s)


def line(chips: int, link_bytes_per_s: float, latency_s: float) -> Topology:
    """A ring cut open."""
    return grid((chips,), link_bytes_per_s, latency_s, wraps=False)


def full_mesh(
    chips: int,
    link_bytes_per_s: float,
    latency_s: float,
    *,
    name: str | None = None,
    basis: Mapping[str, str] = _NO_BASIS,
) -> Topology:
    """A cable between every two chips."""
    _counted(chips, "chips", 1)
    source = np.repeat(np.arange(chips), chips - 1)
    offset = np.tile(np.arange(1, chips), chips)
    return Topology(
        name=name or f"full-mesh:{chips}",
        ranks=chips,
        source=source,
        destination=(source + offset) % chips,
        bandwidth_bytes_per_s=np.full(len(source), float(link_bytes_per_s)),
        latency_s=np.full(len(source), float(latency_s)),
        kind="full-mesh",
        levels=(chips,),
        group=Grid(shape=(chips,), wraps=(True,)),
        interchangeable=True,
        link_class=offset - 1,
        chips_forward=False,
        basis=basis,
    )


def switch(
    chips: int,
    link_bytes_per_s: float,
    latency_s: float,
    *,
    reducing: bool = False,
    name: str | None = None,
    kind: str = "switch",
    basis: Mapping[str, str] = _NO_BASIS,
) -> Topology:
    """One non-blocking switch; ``reducing`` if it adds up what passes it (NVLS, SHARP).

    ``link_bytes_per_s`` is what one chip sends into it in one direction. Planes of switches that
    share a chip's traffic evenly (four NVSwitches) are one switch of their summed links.
    """
    _counted(chips, "chips", 1)
    chip, hub = np.arange(chips), np.full(chips, chips)
    return Topology(
        name=name or f"{kind}:{chips}{_REDUCING[kind] if reducing else ''}",
        ranks=chips,
        switches=1,
        source=np.concatenate([chip, hub]),
        destination=np.concatenate([hub, chip]),
        bandwidth_bytes_per_s=np.full(2 * chips, float(link_bytes_per_s)),
        latency_s=np.full(2 * chips, latency_s / 2),
        kind=kind,
        levels=(chips,),
        group=Grid(shape=(chips,), wraps=(True,)),
        interchangeable=True,
        link_class=np.repeat([0, 1], chips),
        reducing=np.array([True]) if reducing else None,
        chips_forward=False,
        basis=basis,
    )


def clos(
    chips: int,
    link_bytes_per_s: float,
    latency_s: float,
    *,
    leaf: int | None = None,
    oversubscription: float = 1.0,
    reducing: bool = False,
    name: str | None = None,
    basis: Mapping[str, str] = _NO_BASIS,
) -> Topology:
    """A Clos network. Without ``leaf`` an ideal one: as far as bandwidth goes, one switch.

    With ``leaf`` ports down a leaf switch the leaves are there, and a leaf's uplinks are one link
    of their summed bandwidth, ``oversubscription`` times less than what its chips can send: traffic
    spread evenly over all paths. A route within a leaf passes one switch, between leaves three.
    """
    if leaf is None:
        if oversubscription != 1.0:
            raise InputError(
                "an oversubscribed Clos needs the size of its leaves",
                hint="clos:1024,leaf=32,oversubscription=2",
            )
        return switch(
            chips, link_bytes_per_s, latency_s, kind="clos", reducing=reducing, name=name,
            basis=basis,
        )  # fmt: skip
    _counted(chips, "chips", 1)
    _counted(leaf, "chips a leaf", 1)
    if not oversubscription > 0:
        raise InputError(f"an oversubscription of {oversubscription:g} cannot be")
    leaves = -(-chips // leaf)
    chip = np.arange(chips, dtype=np.int64)
    own = chips + chip // leaf
    nodes = chips + np.arange(leaves, dtype=np.int64)
    spine = np.full(leaves, chips + leaves, dtype=np.int64)
    size = np.bincount(chip // leaf, minlength=leaves)
    up = size * link_bytes_per_s / oversubscription
    whole = chips == leaves * leaf
    return Topology(
        name=name or f"clos:{chips},leaf={leaf},oversubscription={oversubscription:g}",
        ranks=chips,
        switches=leaves + 1,
        source=np.concatenate([chip, own, nodes, spine]),
        destination=np.concatenate([own, chip, spine, nodes]),
        bandwidth_bytes_per_s=np.concatenate([np.full(2 * chips, float(link_bytes_per_s)), up, up]),
        latency_s=np.full(2 * (chips + leaves), latency_s / 2),
        kind="fat-tree",
        levels=(leaf, chips),
        group=Grid(shape=(leaves, leaf), wraps=(True, True)) if whole else None,
        link_class=np.repeat([0, 1, 2, 3], [chips, chips, leaves, leaves]),
        reducing=np.ones(leaves + 1, np.bool_) if reducing else None,
        chips_forward=False,
        basis=basis,
    )


def cables(pairs: Sequence[tuple[int, int]] | IntArray) -> tuple[IntArray, IntArray]:
    """(source, destination) of both directions of every cable."""
    ends = np.asarray(pairs, dtype=np.int64).reshape(-1, 2)
    return np.concatenate([ends[:, 0], ends[:, 1]]), np.concatenate([ends[:, 1], ends[:, 0]])


def fat_tree(
    ports: int, link_bytes_per_s: float, latency_s: float, *, name: str | None = None
) -> Topology:
    """The three-level fat tree of switches with ``ports`` ports (Al-Fares et al. 2008).

    ports**3 / 4 chips in ``ports`` pods, every link as fast as a chip's; all its paths are there.
    Raises InputError unless ``ports`` is even.
    """
    if ports < 2 or ports % 2:
        raise InputError(f"a fat tree of switches with {ports} ports", hint="an even number")
    half = ports // 2
    edges = ports * half
    chips = edges * half
    edge0, agg0, core0 = chips, chips + edges, chips + 2 * edges
    chip = np.arange(chips)
    pod, edge, agg = np.unravel_index(np.arange(ports * half * half), (ports, half, half))
    down = np.stack([edge0 + pod * half + edge, agg0 + pod * half + agg], axis=1)
    pod, agg, core = np.unravel_index(np.arange(ports * half * half), (ports, half, half))
    high = np.stack([agg0 + pod * half + agg, core0 + agg * half + core], axis=1)
    low = np.stack([chip, edge0 + chip // half], axis=1)
    source, destination = cables(np.concatenate([low, down, high]))
    once = np.repeat([0, 2, 4], chips)
    return Topology(
        name=name or f"fat-tree:{ports}",
        ranks=chips,
        switches=2 * edges + half * half,
        source=source,
        destination=destination,
        bandwidth_bytes_per_s=np.full(len(source), float(link_bytes_per_s)),
        latency_s=np.full(len(source), latency_s / 2),
        kind="fat-tree",
        levels=(half, half * half, chips),
        group=Grid(shape=(ports, half, half), wraps=(True, True, True)),
        link_class=np.concatenate([once, once + 1]),
        chips_forward=False,
    )


def dragonfly(
    chips_per_router: int,
    routers_per_group: int,
    global_links: int,
    link_bytes_per_s: float,
    latency_s: float,
    *,
    global_bytes_per_s: float | None = None,
    name: str | None = None,
) -> Topology:
    """The largest dragonfly (Kim et al. 2008): one cable between any two of a*h + 1 groups.

    p chips a router, a routers a group, all joined, h global cables a router; router k of a group
    holds its cables k*h .. k*h+h-1, and cable j of group g leads to group g + j + 1.
    """
    p = _counted(chips_per_router, "chips a router", 1)
    a = _counted(routers_per_group, "routers a group", 1)
    h = _counted(global_links, "global links a router", 1)
    groups = a * h + 1
    routers, chips = a * groups, p * a * groups
    chip = np.arange(chips)
    low = np.stack([chip, chips + chip // p], axis=1)
    one, two = np.triu_indices(a, 1)
    base = chips + a * np.repeat(np.arange(groups), len(one))
    local = np.stack([base + np.tile(one, groups), base + np.tile(two, groups)], axis=1)
    first, second = np.triu_indices(groups, 1)
    from_first, from_second = second - first - 1, (first - second - 1) % groups
    far = np.stack(
        [chips + a * first + from_first // h, chips + a * second + from_second // h], axis=1
    )
    counts = (len(low), len(local), len(far))
    speeds = (link_bytes_per_s, link_bytes_per_s, global_bytes_per_s or link_bytes_per_s)
    source, destination = cables(np.concatenate([low, local, far]))
    return Topology(
        name=name or f"dragonfly:{p}x{a}x{h}",
        ranks=chips,
        switches=routers,
        source=source,
        destination=destination,
        bandwidth_bytes_per_s=np.tile(np.repeat(np.asarray(speeds, np.float64), counts), 2),
        latency_s=np.full(len(source), latency_s / 2),
        kind="dragonfly",
        levels=(p, p * a, chips),
        chips_forward=False,
    )


def hammingmesh(
    board: tuple[int, int],
    boards: tuple[int, int],
    link_bytes_per_s: float,
    latency_s: float,
    *,
    name: str | None = None,
) -> Topology:
    """HammingMesh (Hoefler et al. 2022): boards of 2-D meshes, their edges joined by switches.

    Each row of chips across a row of boards shares one switch, to which every board gives the two
    ends of its piece of the row; columns likewise. Ranks are row-major over the whole plane.
    """
    (a, b), (x, y) = board, boards
    for value in (a, b, x, y):
        _counted(value, "chips or boards on a side", 1)
    rows, columns = a * x, b * y
    chips = rows * columns
    number = np.arange(chips).reshape(rows, columns)
    pairs: list[tuple[int, int]] = []
    for lines, span in ((number, b), (number.T, a)):
        for row in lines:
            pairs += [(int(u), int(v)) for i, (u, v) in enumerate(pairwise(row)) if (i + 1) % span]
    inside = len(pairs)
    hub = chips
    for lines, span in ((number, b), (number.T, a)):
        for row in lines:
            ends = sorted({i for i in range(len(row)) if i % span in (0, span - 1)})
            pairs += [(int(row[i]), hub) for i in ends]
            hub += 1
    source, destination = cables(pairs)
    delay = np.full(len(pairs), float(latency_s))
    delay[inside:] /= 2
    return Topology(
        name=name or f"hammingmesh:{a}x{b}/{x}x{y}",
        ranks=chips,
        switches=hub - chips,
        source=source,
        destination=destination,
        bandwidth_bytes_per_s=np.full(len(source), float(link_bytes_per_s)),
        latency_s=np.tile(delay, 2),
        kind="hammingmesh",
        levels=(a * b, chips),
    )
