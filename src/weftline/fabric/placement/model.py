"""What a mapping of a job's axes onto a grid costs: closed forms over the sub-grids they span.

A job axis of size n is cut into factors, one on each physical axis; a factor of ``ranks`` members
lies ``apart`` chips from member to member. Of each physical axis it spans, a group owns two links
where its members close into a ring and one where they are a line, divided by the groups that lie in
between and are as busy. Reduce-scatter and all-gather use all of them at once (bucket algorithm);
an all-to-all is limited by its busiest axis; a send takes the way to the next member.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from weftline.errors import InputError, UnknownNameError
from weftline.fabric.graph import Grid, Topology
from weftline.fabric.schedule import COLLECTIVES, Collective


@dataclass(frozen=True, slots=True, kw_only=True)
class AxisTraffic:
    """What one axis of a job (or several together) sends in a step.

    ``size_bytes`` is nccl-tests' size of one call, ``count`` the calls of a step. Raises
    InputError for what is not above zero, UnknownNameError for an unknown collective.
    """

    axes: tuple[str, ...]
    collective: Collective
    size_bytes: float
    count: float = 1.0

    def __post_init__(self) -> None:
        if self.collective not in COLLECTIVES:
            raise UnknownNameError("collective", self.collective, COLLECTIVES,
                                   hint=f"one of {', '.join(COLLECTIVES)}")  # fmt: skip
        if not self.axes or not self.size_bytes > 0 or not self.count > 0:
            raise InputError("traffic needs an axis, bytes and a count above zero",
                             hint="tp:all-reduce:64MB:128")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Span:
    """A group's part of one physical axis."""

    axis: int
    ranks: int
    apart: int
    closed: bool
    """Whether its members close into a ring along this axis."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GridSpeeds:
    """A grid with one speed and latency an axis, as the closed forms need it."""

    grid: Grid
    link_bytes_per_s: tuple[float, ...]
    latency_s: tuple[float, ...]


def grid_speeds(topology: Topology) -> GridSpeeds:
    """The grid of a torus or mesh and its speeds; raises InputError where there is none.

    Of failed or slowed links the slowest of an axis counts.
    """
    grid = topology.grid
    if grid is None:
        raise InputError(
            f"`{topology.name}` has no grid to place axes on",
            hint="placement is for tori and meshes; under one switch every order is as good",
        )
    links = topology.grid_links()
    rates, delays = [], []
    for axis in range(len(grid.shape)):
        index = links[:, axis, :]
        index = index[index >= 0]
        rates.append(float(topology.bandwidth_bytes_per_s[index].min()) if index.size else np.inf)
        delays.append(float(topology.latency_s[index].max()) if index.size else 0.0)
    return GridSpeeds(grid=grid, link_bytes_per_s=tuple(rates), latency_s=tuple(delays))


def span_time_s(speeds: GridSpeeds, spans: Sequence[Span], traffic: AxisTraffic) -> float:
    """Seconds of one call over a group that spans these parts of the axes."""
    parts = [s for s in spans if s.ranks > 1]
    n = int(np.prod([s.ranks for s in parts])) if parts else 1
    if n == 1:
        return 0.0
    size = traffic.size_bytes
    if traffic.collective == "all-to-all":
        return _exchange_s(speeds, parts, size)
    if traffic.collective == "send":
        return _send_s(speeds, parts, size)
    rate = sum(_owned(speeds, s) for s in parts)
    # Each colour goes once along every axis.
    steps = sum((s.ranks - 1) * s.apart * speeds.latency_s[s.axis] for s in parts)
    passes = 2 if traffic.collective == "all-reduce" else 1
    moved = size * (n - 1) / n if traffic.collective != "broadcast" else size
    return passes * (steps + moved / rate)


def _owned(speeds: GridSpeeds, span: Span) -> float:
    links = 2.0 if span.closed else 1.0
    return links * speeds.link_bytes_per_s[span.axis] / span.apart


def _exchange_s(speeds: GridSpeeds, parts: Sequence[Span], size: float) -> float:
    busiest = latency = 0.0
    for s in parts:
        # Of the k ranks along an axis, k/4 of each rank's bytes cross the middle of a line; on a
        # ring they take k/4 hops in the mean, over two links.
        even = s.ranks / 4 if s.ranks % 2 == 0 else (s.ranks**2 - 1) / (4 * s.ranks)
        busiest = max(busiest, size * even / _owned(speeds, s))
        latency += (s.ranks // 2 if s.closed else s.ranks - 1) * s.apart * speeds.latency_s[s.axis]
    return busiest + latency


def _send_s(speeds: GridSpeeds, parts: Sequence[Span], size: float) -> float:
    """One message to the next member, along the quickest axis it spans."""
    return min(
        size * s.apart / speeds.link_bytes_per_s[s.axis] + s.apart * speeds.latency_s[s.axis]
        for s in parts
    )


Arrangement = tuple[tuple[tuple[int, int], ...], ...]
"""Of each physical axis its (job axis, factor), the innermost (neighbouring chips) first."""


def spans_of(
    speeds: GridSpeeds, box: Sequence[int], arrangement: Arrangement, wanted: Sequence[int]
) -> list[Span]:
    """The part of each physical axis that groups over the job axes ``wanted`` span.

    ``box`` is the part of the grid the job runs on. Factors of ``wanted`` with others in between
    count as evenly spread over what they reach.
    """
    found: list[Span] = []
    for axis, factors in enumerate(arrangement):
        stride, first, reach, ranks = 1, 0, 0, 1
        for job_axis, factor in factors:
            if job_axis in wanted and factor > 1:
                first = first or stride
                reach = stride * factor
                ranks *= factor
            stride *= factor
        if ranks == 1:
            continue
        apart = max(first, reach // ranks)
        side = speeds.grid.shape[axis]
        closed = speeds.grid.wraps[axis] and reach == side == box[axis] and side > 2
        found.append(Span(axis, ranks, apart, closed))
    return found


def step_time_s(
    speeds: GridSpeeds, box: Sequence[int], arrangement: Arrangement, names: Sequence[str],
    traffic: Sequence[AxisTraffic],
) -> tuple[float, dict[str, float]]:  # fmt: skip
    """Seconds of all the traffic of a step under one arrangement, in sum and by axis."""
    by_axis: dict[str, float] = {}
    number = {n: i for i, n in enumerate(names)}
    for entry in traffic:
        wanted = [number[a] for a in entry.axes]
        spans = spans_of(speeds, box, arrangement, wanted)
        key = "+".join(entry.axes)
        by_axis[key] = by_axis.get(key, 0.0) + entry.count * span_time_s(speeds, spans, entry)
    return sum(by_axis.values()), by_axis


def check_traffic(sizes: Mapping[str, int], traffic: Sequence[AxisTraffic]) -> None:
    """Raise UnknownNameError for traffic on an axis the job does not have."""
    for entry in traffic:
        for axis in entry.axes:
            if axis not in sizes:
                raise UnknownNameError("axis", axis, sizes, hint=f"one of {', '.join(sizes)}")
