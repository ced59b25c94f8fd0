"""Which links a message takes: dimension-ordered on grids, all shortest routes elsewhere.

On a grid a message corrects one coordinate after the other, first axis first, the shorter way
round; where both ways are equally short it goes half and half. A route that meets a missing link
tries other orders of the axes, then one step aside, then the long way round, then any shortest
route. Everywhere else a message spreads over all shortest routes, evenly at each node (ECMP). Where
chips forward (``Topology.chips_forward``) and a network has levels, chips that cables alone join
use these cables alone, as the torus of an instance whose chips also have NICs; where they do not,
they pass on what is not theirs only if no switches connect a pair.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np

from weftline.errors import InputError
from weftline.fabric.graph import BoolArray, FloatArray, Grid, IntArray, Topology
from weftline.fabric.schedule import Schedule

MAX_ORDERS = 24
"""Orders of the axes that a detour tries; all of them up to four axes."""


@dataclass(frozen=True, slots=True, eq=False)
class Routes:
    """The links of each row: ``links[start[r]:start[r+1]]``, with the part of it on each."""

    start: IntArray
    """[rows + 1] into ``links``."""
    links: IntArray
    weights: FloatArray
    """Part of the row's bytes that a link carries: 1 on a single route."""
    latency_s: FloatArray
    """[rows] sum of latencies along the route (the mean route, where it splits)."""

    def loads(self, links: int, size_bytes: FloatArray) -> FloatArray:
        """[links] bytes that rows of [rows] ``size_bytes`` put on each link."""
        each = np.repeat(size_bytes, np.diff(self.start)) * self.weights
        return np.bincount(self.links, weights=each, minlength=links).astype(np.float64)


@dataclass(frozen=True, slots=True, eq=False)
class GridLinks:
    """The links of a grid by place: ``table[(rank * axes + axis) * 2 + direction]``, -1: none."""

    grid: Grid
    table: IntArray
    single: BoolArray
    """[axes] whether the axis is two chips with one cable, which counts as direction +."""

    @property
    def shape(self) -> IntArray:
        """[axes] sides."""
        return np.array(self.grid.shape, dtype=np.int64)

    @property
    def stride(self) -> IntArray:
        """[axes] ranks between neighbours."""
        sides = [*self.grid.shape[1:], 1]
        return np.array(np.cumprod(sides[::-1])[::-1], dtype=np.int64)

    @property
    def wraps(self) -> BoolArray:
        """[axes] whether an axis closes; a side of 1 never does."""
        pairs = zip(self.grid.wraps, self.grid.shape, strict=True)
        return np.array([w and s > 1 for w, s in pairs], dtype=np.bool_)

    def orders(self) -> IntArray:
        """[orders, axes] orders of the axes for detours, the plain one first."""
        every = itertools.permutations(range(len(self.grid.shape)))
        return np.array(list(itertools.islice(every, MAX_ORDERS)), dtype=np.int64)

    def broken_ports(self) -> IntArray:
        """Places where the whole grid would have a link and this one has none."""
        axes = len(self.grid.shape)
        table = self.table.reshape(self.grid.size, axes, 2)
        expected = np.zeros_like(table, dtype=np.bool_)
        at = self.grid.coordinates(np.arange(self.grid.size))
        for axis, side in enumerate(self.grid.shape):
            closed = bool(self.wraps[axis])
            expected[:, axis, 0] = (side > 1) & (closed | (at[:, axis] < side - 1))
            expected[:, axis, 1] = (side > 1) & (closed | (at[:, axis] > 0))
            if self.single[axis]:
                expected[:, axis, 1] = False
        return np.flatnonzero(expected.ravel() & (self.table < 0))


def grid_links(topology: Topology) -> GridLinks | None:
    """The links by place, where the network is a plain grid; None where it is anything else.

    Anything else: switches, a twist, links that do not join neighbours, or three and more links
    between two chips.
    """
    grid = topology.grid
    if grid is None or topology.switches or any(grid.twist) or grid.size != topology.ranks:
        return None
    shape = np.array(grid.shape)
    axes = len(shape)
    moved = grid.coordinates(topology.destination) - grid.coordinates(topology.source)
    axis = np.argmax(moved != 0, axis=1) if topology.links else np.zeros(0, np.int64)
    step = moved[np.arange(topology.links), axis]
    side = shape[axis] if topology.links else np.zeros(0, np.int64)
    closes = np.array(grid.wraps)[axis] if topology.links else np.zeros(0, np.bool_)
    ahead = (step == 1) | (closes & (step == 1 - side))
    back = (step == -1) | (closes & (step == side - 1))
    if not (((moved != 0).sum(axis=1) == 1) & (ahead | back)).all():
        return None
    two = closes & (side == 2)
    port = (topology.source * axes + axis) * 2
    # Of two parallel links between the chips of a closed side of two, the first counts as +.
    pair = np.lexsort((np.arange(topology.links), port))
    again = np.zeros(topology.links, dtype=np.bool_)
    again[pair[1:]] = port[pair[1:]] == port[pair[:-1]]
    port = port + np.where(two, again, ~ahead)
    table = np.full(topology.ranks * axes * 2, -1, dtype=np.int64)
    if topology.links and np.bincount(port, minlength=len(table)).max() > 1:
        return None
    table[port] = np.arange(topology.links)
    by_place = table.reshape(-1, axes, 2)
    single = np.array(
        [w and s == 2 and bool((by_place[:, i, 1] < 0).all())
         for i, (w, s) in enumerate(zip(grid.wraps, grid.shape, strict=True))], dtype=np.bool_,
    )  # fmt: skip
    return GridLinks(grid, table, single)


def routes(topology: Topology, source: IntArray, destination: IntArray) -> Routes:
    """The links each (source, destination) pair of chips uses, and its latency.

    Raises InputError for a pair without any route.
    """
    source = np.ascontiguousarray(source, dtype=np.int64)
    destination = np.ascontiguousarray(destination, dtype=np.int64)
    on_grid = grid_links(topology)
    if on_grid is None:
        return _graph_routes(topology, source, destination)
    return _grid_routes(topology, on_grid, source, destination)


def schedule_routes(topology: Topology, schedule: Schedule) -> Routes:
    """The links of every row of a schedule: its own paths where it gives them.

    Raises InputError for a path that does not lead from a row's source to its destination.
    """
    if schedule.path_start is None or schedule.path_links is None:
        return routes(topology, schedule.source, schedule.destination)
    start = np.asarray(schedule.path_start, dtype=np.int64)
    links = np.asarray(schedule.path_links, dtype=np.int64)
    if len(links) and (links.min() < 0 or links.max() >= topology.links):
        raise InputError(
            f"a path of the schedule uses link {int(links.max())}; `{topology.name}` has "
            f"{topology.links}"
        )
    hops = np.diff(start)
    row = np.repeat(np.arange(schedule.rows), hops)
    joined = topology.destination[links[:-1]] == topology.source[links[1:]]
    wrong = np.zeros(schedule.rows, dtype=np.bool_)
    wrong[row[1:][~joined & (row[1:] == row[:-1])]] = True
    wrong |= (hops == 0) & (schedule.source != schedule.destination)
    some = hops > 0
    wrong[some] |= topology.source[links[start[:-1][some]]] != schedule.source[some]
    wrong[some] |= topology.destination[links[start[1:][some] - 1]] != schedule.destination[some]
    if wrong.any():
        bad = int(np.argmax(wrong))
        raise InputError(
            f"row {bad} of the schedule: its path does not lead from chip "
            f"{int(schedule.source[bad])} to chip {int(schedule.destination[bad])}"
        )
    latency = np.bincount(row, weights=topology.latency_s[links], minlength=schedule.rows)
    return Routes(start, links, np.ones(len(links)), latency.astype(np.float64))


def exchange_load(topology: Topology) -> FloatArray:
    """[links] messages over each link when every chip sends one to every other chip.

    On grids in closed form, corrected pair by pair for broken links; elsewhere by target over all
    shortest routes. Raises InputError where the network is in parts.
    """
    from weftline.fabric.kernels import graph as kernels

    on_grid = grid_links(topology)
    if on_grid is not None:
        return _grid_exchange(topology, on_grid)
    near = _adjacency(topology)
    joined = cabled(topology)
    unit = np.arange(topology.ranks) if joined is None else joined
    for forwards in (True,) if topology.chips_forward else (False, True):
        load = np.zeros(topology.links)
        lost = kernels.graph_exchange(*near, topology.ranks, forwards, unit, False, load)
        if lost < 0:
            break
    if lost >= 0:
        raise _no_route(topology, int(lost), None)
    if joined is not None:
        cables = _adjacency(topology, _is_cable(topology))
        kernels.graph_exchange(*cables, topology.ranks, True, unit, True, load)
    return load


def _is_cable(topology: Topology) -> BoolArray:
    """[links] whether a link joins two chips."""
    return np.maximum(topology.source, topology.destination) < topology.ranks


def cabled(topology: Topology) -> IntArray | None:
    """[ranks] equal numbers for chips that reach each other over chips and cables alone.

    None where that decides nothing: chips do not forward, there are cables only or none, or the
    network has no levels of which the cables would be one (a group of processes on a torus).
    """
    is_cable = _is_cable(topology)
    mixed = bool(is_cable.any()) and not is_cable.all()
    if not (topology.chips_forward and mixed and len(topology.levels) > 1):
        return None
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    ends = (topology.source[is_cable], topology.destination[is_cable])
    graph = csr_array(
        (np.ones(len(ends[0]), np.int8), ends), shape=(topology.ranks, topology.ranks)
    )
    _, label = connected_components(graph, directed=True, connection="strong")
    return np.asarray(label, dtype=np.int64)


def _grid_exchange(topology: Topology, on_grid: GridLinks) -> FloatArray:
    from weftline.fabric.kernels import load as kernels

    grid, axes = on_grid.grid, len(on_grid.grid.shape)
    load = np.zeros((grid.size, axes, 2))
    at = grid.coordinates(np.arange(grid.size))
    for axis, side in enumerate(grid.shape):
        rest = grid.size / side
        if on_grid.single[axis]:
            load[:, axis, 0] = rest
        elif on_grid.wraps[axis]:
            load[:, axis, :] = rest * (side * side / 8 if side % 2 == 0 else (side * side - 1) / 8)
        else:
            here = at[:, axis]
            load[:, axis, 0] = rest * (here + 1) * (side - 1 - here)
            load[:, axis, 1] = rest * here * (side - here)
    broken = on_grid.broken_ports()
    if len(broken):
        missing = np.zeros(load.size, dtype=np.int64)
        missing[broken] = 1
        change = np.zeros(load.size)
        _, lost = kernels.reroute_loads(
            on_grid.table, on_grid.shape, on_grid.stride, on_grid.wraps, on_grid.single,
            on_grid.orders(), broken, at.astype(np.int32), _along(grid, missing), change,
            load.reshape(-1),
        )  # fmt: skip
        if lost >= 0:
            raise _no_route(topology, int(lost) // grid.size, int(lost) % grid.size)
        load = load.reshape(-1) + _along(grid, change)
    flat = load.reshape(-1)
    carried = np.zeros(topology.links)
    there = on_grid.table >= 0
    carried[on_grid.table[there]] = flat[there]
    return carried


def _along(grid: Grid, values: FloatArray | IntArray) -> Any:
    """Values of ports, summed up along the axis of each from coordinate 0 to its own."""
    axes = len(grid.shape)
    by_place = np.array(values).reshape(*grid.shape, axes, 2)
    for axis in range(axes):
        by_place[..., axis, :] = by_place[..., axis, :].cumsum(axis=axis)
    return by_place.reshape(-1)


def _grid_routes(
    topology: Topology, on_grid: GridLinks, source: IntArray, destination: IntArray
) -> Routes:
    from weftline.fabric.kernels import route as kernels

    start = np.zeros(len(source) + 1, dtype=np.int64)
    args = (
        on_grid.table, on_grid.shape, on_grid.stride, on_grid.wraps, on_grid.single,
        on_grid.orders(), source, destination,
    )  # fmt: skip
    latency = np.zeros(len(source))
    none, no_part = np.zeros(0, np.int64), np.zeros(0)
    lost = kernels.grid_routes(*args, (topology.latency_s, latency), start, none, no_part)
    if lost >= 0:
        raise _no_route(topology, int(source[lost]), int(destination[lost]))
    links, weights = np.empty(start[-1], np.int64), np.empty(start[-1])
    kernels.grid_routes(*args, (topology.latency_s, latency), start, links, weights)
    return Routes(start, links, weights, latency)


def _graph_routes(topology: Topology, source: IntArray, destination: IntArray) -> Routes:
    joined = cabled(topology)
    if joined is None:
        return _shortest(topology, source, destination, topology.chips_forward)
    inside = joined[source] == joined[destination]
    parts = [
        _shortest(topology, source[rows], destination[rows], True, cables)
        for rows, cables in ((inside, _is_cable(topology)), (~inside, None))
    ]
    place = np.argsort(np.concatenate([np.flatnonzero(inside), np.flatnonzero(~inside)]))
    sizes = np.concatenate([np.diff(p.start) for p in parts])
    begin = np.concatenate([[0], np.cumsum(sizes)])[:-1][place]
    start = np.zeros(len(source) + 1, dtype=np.int64)
    start[1:] = np.cumsum(sizes[place])
    taken = np.repeat(begin - start[:-1], sizes[place]) + np.arange(start[-1])
    links = np.concatenate([p.links for p in parts])[taken]
    weights = np.concatenate([p.weights for p in parts])[taken]
    latency = np.concatenate([p.latency_s for p in parts])[place]
    return Routes(start, links, weights, latency)


def _shortest(
    topology: Topology,
    source: IntArray,
    destination: IntArray,
    forwards: bool,
    usable: BoolArray | None = None,
) -> Routes:
    """All shortest routes of each pair over ``usable`` links; chips forward at once or at need."""
    from weftline.fabric.kernels import graph as kernels

    near = _adjacency(topology, usable)
    order = np.argsort(destination, kind="stable")
    sizes = np.zeros(len(source), dtype=np.int64)
    start = np.zeros(len(source) + 1, dtype=np.int64)
    forwarding = np.array([forwards])
    args = (*near, topology.ranks, forwarding, source, destination, order, sizes, start)
    lost = kernels.graph_routes(*args, np.zeros(0, np.int64), np.zeros(0))
    if lost >= 0:
        raise _no_route(topology, int(source[lost]), int(destination[lost]))
    start[1:] = np.cumsum(sizes)
    links, weights = np.empty(start[-1], np.int64), np.empty(start[-1])
    kernels.graph_routes(*args, links, weights)
    row = np.repeat(np.arange(len(source)), sizes)
    latency = np.bincount(row, topology.latency_s[links] * weights, len(source))
    return Routes(start, links, weights, latency.astype(np.float64))


def _adjacency(
    topology: Topology, usable: BoolArray | None = None
) -> tuple[IntArray, IntArray, IntArray, IntArray, IntArray]:
    """Links that leave and that enter each node, in compressed rows, and the [2, links] ends.

    Links that are not ``usable`` are in no row.
    """
    ends = np.stack([topology.source, topology.destination]).astype(np.int64)
    kept = np.arange(topology.links) if usable is None else np.flatnonzero(usable)
    found: list[IntArray] = []
    for side in ends:
        start = np.zeros(topology.nodes + 1, dtype=np.int64)
        start[1:] = np.cumsum(np.bincount(side[kept], minlength=topology.nodes))
        found += [start, kept[np.argsort(side[kept], kind="stable")].astype(np.int64)]
    return found[0], found[1], found[2], found[3], ends


def _no_route(topology: Topology, source: int, destination: int | None) -> InputError:
    ends = f"chip {source}" if destination is None else f"chip {source} to chip {destination}"
    what = "some other chip" if destination is None else ""
    return InputError(
        f"`{topology.name}`: no route from {ends}{' to ' + what if what else ''}",
        hint="the graph is disconnected: take fewer links out, or leave that chip out",
    )
