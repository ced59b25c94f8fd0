"""Large symmetric schedules on networks whose symmetry is broken here and there.

65,536 chips with sixteen failed links: the schedule is that of the whole network, all but a few
thousand of its 1e8 messages flow as on the whole network, and those near a fault take their real
links. Healthy messages stand for their orbit; the others are followed one by one, with all who
share the links of a detour or a slow link. A step of a colour waits for all of its step before;
real chips do not, and their colours drift apart and meet on the detours: the time is an estimate,
between what the whole network or the busiest link takes and ``MOST_OVER`` times this one. Where
the schedule is one step of equal messages (direct all-to-all) the answer needs no simulation:
max-min fair flows of equal size that start together end when the busiest link is done, since each
of them always gets at least an equal part of its most crowded link.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from weftline.errors import InputError
from weftline.fabric.evaluators.messages import compress, turns
from weftline.fabric.evaluators.timing import Timing, timing_of
from weftline.fabric.graph import BoolArray, FloatArray, IntArray, Topology
from weftline.fabric.orbit import OrbitSchedule
from weftline.fabric.routing import Routes, exchange_load, grid_links, routes

MOST_OVER = 1.26
"""What the flow evaluator took at most for what this one gave 1: bucket collectives of 100 kB to
1 GB in 1 and 4 pieces on tori of 64 to 1,024 chips with 1 to 3 failed cables. At 1 GB it took 0.94
to 1.26; small messages, whose steps need not wait for the longest detour, down to 0.13."""


def is_exchange(orbit: OrbitSchedule) -> bool:
    """Whether every chip sends an equal message to every other one, all at once."""
    if orbit.displacement is None or orbit.steps != 1:
        return False
    to = orbit.grid.rank(orbit.offset)
    share = np.bincount(to, weights=orbit.fraction, minlength=orbit.ranks)
    return bool(np.allclose(share[1:], 1.0 / orbit.ranks, rtol=1e-9)) and share[0] == 0


def exchange_time(topology: Topology, size_bytes: float) -> Timing:
    """Time of a direct all-to-all on any network: the busiest link's, and a route's latency."""
    load = exchange_load(topology) * (size_bytes / topology.ranks)
    busiest_s = float((load / topology.bandwidth_bytes_per_s).max())
    if topology.injection_bytes_per_s is not None:
        sent = size_bytes * (topology.ranks - 1) / topology.ranks
        busiest_s = max(busiest_s, float((sent / topology.injection_bytes_per_s).max()))
    far = _longest_latency(topology)
    return timing_of(
        topology, "steps", busiest_s + far, load, 1, exact=False,
        note=f"all messages at once end when the busiest link is done; which of them pass it last "
        f"adds between 0 and {far:.3g} s of latency, all of it taken here",
        between_s=(busiest_s, busiest_s + far),
    )  # fmt: skip


def _longest_latency(topology: Topology) -> float:
    """Seconds of the longest route between two chips (on grids: of the whole grid)."""
    if topology.grid is None:
        chips = np.arange(topology.ranks)
        return float(routes(topology, np.zeros_like(chips), chips).latency_s.max())
    grid, most = topology.grid, float(topology.latency_s.max())
    hops = sum(s // 2 if w else s - 1 for s, w in zip(grid.shape, grid.wraps, strict=True))
    return hops * most


@dataclass(frozen=True, slots=True, eq=False)
class _Near:
    """For one orbit row: the chips whose message is followed by itself, and its links."""

    chips: IntArray
    taken: Routes


def step_time(topology: Topology, orbit: OrbitSchedule, size_bytes: float) -> Timing:
    """Estimate of the time of a large schedule on a grid with faults.

    Raises InputError off a grid.
    """
    on_grid = grid_links(topology)
    limited = topology.injection_bytes_per_s is not None
    if on_grid is None or orbit.grid != topology.grid or limited:
        raise InputError(
            f"a schedule of {orbit.flat_rows:,} rows on `{topology.name}` is too large to follow "
            "message by message, and the network is no grid with few faults",
        )
    moves, which = np.unique(orbit.offset, axis=0, return_inverse=True)
    which = np.asarray(which).reshape(-1)
    chips = np.arange(topology.ranks)
    each = [
        routes(topology, chips, orbit.grid.rank(orbit.grid.coordinates(chips) + move))
        for move in moves
    ]
    size = orbit.fraction * size_bytes
    load = np.zeros(topology.links)
    for taken, total in zip(each, np.bincount(which, weights=size), strict=True):
        load += taken.loads(topology.links, np.full(topology.ranks, total))
    watched = _watched_links(topology, moves, each)
    near = [_near(taken, watched) for taken in each]
    time_s = _simulate(topology, orbit, size, moves, which, near)
    none = [_near(taken, np.zeros(topology.links, dtype=np.bool_)) for taken in each]
    whole_s = _simulate(topology, orbit, size, moves, which, none)
    busiest_s = float((load / topology.bandwidth_bytes_per_s).max(initial=0.0))
    followed = sum(len(near[w].chips) for w in which)
    return timing_of(
        topology, "steps", time_s, load, orbit.steps, exact=False,
        note="each step of a colour waits for all of its step before, and "
        f"{followed:,} messages near faults follow their own links, the others their symmetry. Not "
        "below what the whole network or the busiest link takes; where every message was followed "
        f"too, that took up to {MOST_OVER:g} times as long",
        between_s=(min(max(whole_s, busiest_s), time_s), MOST_OVER * time_s),
    )  # fmt: skip


def _watched_links(topology: Topology, moves: IntArray, each: list[Routes]) -> BoolArray:
    """Links of detours, and slow links: what crosses them is followed message by message."""
    watched = np.zeros(topology.links, dtype=np.bool_)
    classes = topology.link_class
    if classes is not None and topology.failed:
        usual = np.zeros(int(classes.max()) + 1)
        np.maximum.at(usual, classes, topology.bandwidth_bytes_per_s)
        watched |= topology.bandwidth_bytes_per_s < usual[classes] * (1 - 1e-12)
    for move, taken in zip(moves, each, strict=True):
        hops = np.add.reduceat(taken.weights, taken.start[:-1]) if len(taken.links) else 0
        strays = np.flatnonzero(hops > np.abs(move).sum() + 1e-9)
        for chip in strays:
            watched[taken.links[taken.start[chip] : taken.start[chip + 1]]] = True
    return watched


def _near(taken: Routes, watched: BoolArray) -> _Near:
    row = np.repeat(np.arange(len(taken.latency_s)), np.diff(taken.start))
    chips = np.unique(row[watched[taken.links]])
    hops = np.diff(taken.start)[chips]
    start = np.concatenate([[0], np.cumsum(hops)])
    index = np.arange(start[-1]) - np.repeat(start[:-1] - taken.start[chips], hops)
    return _Near(chips, Routes(start, taken.links[index], taken.weights[index],
                               taken.latency_s[chips]))  # fmt: skip


def _simulate(
    topology: Topology, orbit: OrbitSchedule, size: FloatArray, moves: IntArray, which: IntArray,
    near: list[_Near],
) -> float:  # fmt: skip
    """Fair flow of: the real messages near faults, one message a row for all others on links that
    stand for their class, and one empty message a step of a colour, which the next step awaits."""
    from weftline.fabric.kernels import evaluate as kernels

    axes = moves.shape[1]
    usual, latency = _class_links(topology, axes)
    kinds = [_of_kind(topology, move, own, latency) for move, own in zip(moves, near, strict=True)]
    many = np.array([len(kind.latency_s) for kind in kinds])[which]
    row = np.repeat(np.arange(orbit.rows), many)
    count = len(row)
    chip = np.concatenate([np.append(-1, near[w].chips) for w in which])
    gate = (orbit.colour * (orbit.steps + 1) + orbit.step)[row]
    gates, number = np.unique(gate, return_inverse=True)
    number = np.asarray(number).reshape(-1)
    message = np.arange(count)
    # A gate opens when all of its step have arrived; the next step of the same colour waits for it.
    colour = gates // (orbit.steps + 1)
    has = (number > 0) & (colour[number - 1] == colour[number])
    before = np.concatenate([message, count + number[has] - 1])
    after = np.concatenate([count + number, message[has]])
    total = count + len(gates)
    data_start, data_next, missing = compress(before, after, total)
    next_turn, turns_missing = turns([orbit.streams[row], which[row], chip], orbit.step[row])
    nothing = np.zeros(len(gates))
    hops = np.concatenate([*(np.diff(kinds[w].start) for w in which), nothing.astype(np.int64)])
    done = kernels.flow_times(
        np.concatenate([[0], np.cumsum(hops)]),
        np.concatenate([kinds[w].links for w in which]),
        np.concatenate([kinds[w].weights for w in which]),
        np.concatenate([topology.bandwidth_bytes_per_s, usual]),
        np.concatenate([size[row], nothing]),
        np.concatenate([*(kinds[w].latency_s for w in which), nothing]),
        data_start, data_next, missing,
        np.append(next_turn, np.full(len(gates), -1)),
        np.append(turns_missing, np.zeros(len(gates), dtype=np.int64)),
    )  # fmt: skip
    return float(done.max()) if total else 0.0


def _of_kind(topology: Topology, move: IntArray, own: _Near, latency: FloatArray) -> Routes:
    """The messages of one displacement: first the one that stands for its orbit, on the links that
    stand for classes (they follow the real ones in number), then those near faults."""
    port = np.concatenate([np.flatnonzero(move > 0) * 2, np.flatnonzero(move < 0) * 2 + 1])
    hops = np.abs(move[port // 2]).astype(np.float64)
    return Routes(
        np.concatenate([[0], len(port) + own.taken.start]).astype(np.int64),
        np.concatenate([topology.links + port, own.taken.links]).astype(np.int64),
        np.concatenate([hops, own.taken.weights]),
        np.concatenate([[float(hops @ latency[port])], own.taken.latency_s]),
    )


def _class_links(topology: Topology, axes: int) -> tuple[FloatArray, FloatArray]:
    """([ports] bandwidth, [ports] latency) of a healthy link of each axis and direction."""
    usual, latency = np.full(2 * axes, np.inf), np.zeros(2 * axes)
    classes = topology.link_class
    if classes is not None:
        for port in range(2 * axes):
            own = np.flatnonzero(classes // 2 * 2 == port // 2 * 2)
            if len(own):
                usual[port] = float(topology.bandwidth_bytes_per_s[own].max())
                latency[port] = float(np.median(topology.latency_s[own]))
    return usual, latency
