"""The placement search: every way to cut a job's axes over a grid's, by modelled step time.

Each physical axis holds an ordered list of factors of job axes; the products over physical axes
give the job's sizes. Physical axes that are alike (side, speed, wrap) take their lists in one order
only: the others are the same placement turned. A job smaller than the grid is tried on every box
of its size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from weftline.errors import InputError
from weftline.fabric.graph import IntArray, Topology
from weftline.fabric.placement.model import (
    Arrangement,
    AxisTraffic,
    GridSpeeds,
    check_traffic,
    grid_speeds,
    span_time_s,
    spans_of,
    step_time_s,
)
from weftline.fabric.placement.orders import ORDERS, order_points, ring_points
from weftline.fabric.placement.rings import ring_time_s

Measure = Literal["links", "rings"]
RINGS_LOOKED_AT = 256
ARRANGEMENTS_MOST = 400_000
"""More than these are not looked at: the search stops with the best so far and says so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """A job's ranks on a grid's chips. Ranks are row-major over ``axes``, the first one slowest."""

    axes: Mapping[str, int]
    """Job axis -> size, outermost first."""
    rank_to_chip: IntArray
    """[ranks] chip of each rank."""
    box: tuple[int, ...]
    """The part of the grid that is used, from its origin."""
    arrangement: Arrangement
    physical: Mapping[str, tuple[tuple[int, int, int], ...]]
    """Job axis -> its (physical axis, members, chips apart)."""
    cost_s: float
    cost_by_axis_s: Mapping[str, float]
    looked_at: int = 1
    complete: bool = True
    """Whether the search looked at every arrangement."""
    method: str = "search"
    basis: Mapping[str, str] = field(default_factory=dict)


def place(
    axes: Mapping[str, int],
    topology: Topology,
    traffic: Sequence[AxisTraffic],
    measure: Measure = "links",
) -> Placement:
    """The mapping of ``axes`` (outermost first) onto a torus or mesh with the least step time.

    ``measure`` is what the collectives do: use every link of the part an axis spans (``links``), or
    run rings in rank order (``rings``: of the ``RINGS_LOOKED_AT`` best by links and the usual
    orders; where one of those wins there are no ``physical`` axes).
    Raises InputError for a network without a grid, for sizes below 1, for a job with more ranks
    than chips, and for one whose size no box of the grid has.
    """
    sizes = {name: int(size) for name, size in axes.items()}
    if not sizes or min(sizes.values()) < 1:
        raise InputError("a job needs axes of 1 rank or more", hint="tp=4,dp=16")
    check_traffic(sizes, traffic)
    speeds = grid_speeds(topology)
    ranks = math.prod(sizes.values())
    found: list[tuple[float, float, tuple[int, ...], Arrangement]] = []
    looked = 0
    complete = True
    for box in boxes(speeds, ranks):
        cost = _Costs(speeds, box, list(sizes), traffic)
        for arrangement in arrangements(speeds, box, list(sizes.values())):
            looked += 1
            # Among equals the one that cuts least.
            cuts = float(sum(len(a) for a in arrangement))
            found.append((cost(arrangement), cuts, box, arrangement))
            if len(found) >= 2 * RINGS_LOOKED_AT:
                found = sorted(found, key=lambda f: f[:2])[:RINGS_LOOKED_AT]
            if looked >= ARRANGEMENTS_MOST:
                complete = False
                break
        if not complete:
            break
    if not found:
        raise InputError(*_no_box(speeds, ranks))
    found = sorted(found, key=lambda f: f[:2])

    def made(entry: tuple[float, float, tuple[int, ...], Arrangement], rings: bool) -> Placement:
        return placement_of(sizes, speeds, entry[2], entry[3], traffic, looked_at=looked,
                            complete=complete, rings=rings)  # fmt: skip

    if measure == "links":
        return made(found[0], True)
    both = [made(entry, rings) for entry in found[:RINGS_LOOKED_AT] for rings in (True, False)]
    habits = ORDERS if ranks == speeds.grid.size else ()
    both += [
        replace(
            both[0], rank_to_chip=speeds.grid.rank(order_points(speeds.grid.shape, order)),
            arrangement=(), physical={}, method=order,
        )
        for order in habits
    ]  # fmt: skip
    timed = [replace(p, cost_s=ring_time_s(speeds, p.rank_to_chip, sizes, traffic)) for p in both]
    best = min(timed, key=lambda p: p.cost_s)
    by_axis = {
        "+".join(t.axes): ring_time_s(speeds, best.rank_to_chip, sizes, [t]) for t in traffic
    }
    basis = {"time": "rings in rank order, dimension-order routes, shared links"}
    return replace(best, cost_by_axis_s=by_axis, basis=basis)


def _no_box(speeds: GridSpeeds, ranks: int) -> tuple[str]:
    shape = "x".join(map(str, speeds.grid.shape))
    if ranks > speeds.grid.size:
        return (f"a job of {ranks} ranks on {speeds.grid.size} chips ({shape})",)
    return (f"no box of {shape} has {ranks} chips: its sides would have to multiply to that",)


def boxes(speeds: GridSpeeds, ranks: int) -> Iterator[tuple[int, ...]]:
    """Boxes of the grid with so many chips, those that leave no axis cut first."""
    shape = speeds.grid.shape

    def sides(axis: int, left: int) -> Iterator[tuple[int, ...]]:
        if axis == len(shape):
            if left == 1:
                yield ()
            return
        for side in range(min(shape[axis], left), 0, -1):
            if left % side == 0:
                for rest in sides(axis + 1, left // side):
                    yield (side, *rest)

    yield from sorted(
        sides(0, ranks),
        key=lambda b: -sum(s == w and s > 1 for s, w in zip(b, shape, strict=True)),
    )


def arrangements(
    speeds: GridSpeeds, box: Sequence[int], sizes: Sequence[int]
) -> Iterator[Arrangement]:
    """Every arrangement of job axes of these sizes on a box, alike axes in one order only."""
    shape, wraps = speeds.grid.shape, speeds.grid.wraps
    kind = [
        (box[a], shape[a], wraps[a], speeds.link_bytes_per_s[a], speeds.latency_s[a])
        for a in range(len(box))
    ]

    def fill(axis: int, left: tuple[int, ...]) -> Iterator[tuple[tuple[tuple[int, int], ...], ...]]:
        if axis == len(box):
            if all(v == 1 for v in left):
                yield ()
            return
        # What the later axes can still hold bounds what this one must take.
        room = math.prod(box[axis + 1 :])
        for factors in _factor_lists(box[axis], left):
            after = list(left)
            for job, factor in factors:
                after[job] //= factor
            if math.prod(after) != room:
                continue
            for rest in fill(axis + 1, tuple(after)):
                if any(kind[axis] == kind[axis + 1 + k] and later < factors
                       for k, later in enumerate(rest)):  # fmt: skip
                    continue
                yield (factors, *rest)

    yield from fill(0, tuple(sizes))


def _factor_lists(
    side: int, left: Sequence[int], used: frozenset[int] = frozenset()
) -> Iterator[tuple[tuple[int, int], ...]]:
    """Ordered lists of (job axis, factor) whose factors multiply to ``side``; each axis once."""
    if side == 1:
        yield ()
        return
    for job, size in enumerate(left):
        if job in used:
            continue
        for factor in range(2, min(side, size) + 1):
            if side % factor == 0 and size % factor == 0:
                for rest in _factor_lists(side // factor, left, used | {job}):
                    yield ((job, factor), *rest)


class _Costs:
    """Step time of arrangements, each entry's part remembered by the spans it depends on."""

    def __init__(
        self, speeds: GridSpeeds, box: tuple[int, ...], names: list[str],
        traffic: Sequence[AxisTraffic],
    ) -> None:  # fmt: skip
        self.speeds, self.box = speeds, box
        number = {n: i for i, n in enumerate(names)}
        self.entries = [(t, tuple(number[a] for a in t.axes)) for t in traffic]
        self.known: dict[object, float] = {}

    def __call__(self, arrangement: Arrangement) -> float:
        total = 0.0
        for i, (entry, wanted) in enumerate(self.entries):
            spans = tuple(spans_of(self.speeds, self.box, arrangement, wanted))
            key = (i, spans)
            if key not in self.known:
                self.known[key] = entry.count * span_time_s(self.speeds, spans, entry)
            total += self.known[key]
        return total


def placement_of(
    sizes: Mapping[str, int], speeds: GridSpeeds, box: tuple[int, ...], arrangement: Arrangement,
    traffic: Sequence[AxisTraffic], *, looked_at: int = 1, complete: bool = True,
    method: str = "search", rings: bool = True,
) -> Placement:  # fmt: skip
    """The Placement of one arrangement: the rank map, and what it costs.

    ``rings``: members of an axis that spans several lie on a ring of neighbours; else row-major.
    """
    names = list(sizes)
    cost, by_axis = step_time_s(speeds, box, arrangement, names, traffic)
    physical = {
        name: tuple((s.axis, s.ranks, s.apart) for s in spans_of(speeds, box, arrangement, [job]))
        for job, name in enumerate(names)
    }
    return Placement(
        axes=dict(sizes),
        rank_to_chip=_rank_map(speeds, list(sizes.values()), arrangement, rings=rings),
        box=box, arrangement=arrangement, physical=physical, cost_s=cost, cost_by_axis_s=by_axis,
        looked_at=looked_at, complete=complete, method=method,
        basis={"time": "closed forms of bucket, torus all-to-all and send over the sub-grids"},
    )  # fmt: skip


def _rank_map(
    speeds: GridSpeeds, sizes: Sequence[int], arrangement: Arrangement, *, rings: bool
) -> IntArray:
    """[ranks] chips of one arrangement."""
    grid = speeds.grid
    ranks = math.prod(sizes)
    index = np.stack(np.unravel_index(np.arange(ranks), tuple(sizes)), axis=-1)
    point = np.zeros((ranks, len(grid.shape)), dtype=np.int64)
    for job in range(len(sizes)):
        held: list[tuple[int, int, int]] = []
        for axis, factors in enumerate(arrangement):
            stride = 1
            for other, factor in factors:
                if other == job:
                    held.append((axis, factor, stride))
                stride *= factor
        if not held:
            continue
        shape = [f for _, f, _ in held]
        closes = [grid.wraps[a] and f * s == grid.shape[a] for a, f, s in held]
        walk = ring_points(shape, closes) if rings else order_points(shape, "row-major")
        digits = walk[index[:, job]]
        for i, (axis, _, stride) in enumerate(held):
            point[:, axis] += digits[:, i] * stride
    return grid.rank(point)
