"""Schedules for what no named algorithm fits: failed links, odd speeds, odd groups of chips.

On symmetric networks of chips the work is done on the symmetry quotient. Elsewhere a greedy in
continuous time lets every link that is free take the rarest chunk its far end lacks (as TACOS does
in equal steps, with chunks of a size that keeps both latency and the ends small). A reduce-scatter
is an all-gather of the network with its links turned round, run backwards.

An all-reduce need not give every chip an equal share between its two halves. A chip that receives
little gets more of the buffer to gather at: with share 1 - T B for bandwidth B all chips' links are
busy for the same time T. That reaches, on networks with failed links, the bound of any schedule,
where equal shares stay above it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from weftline.errors import InputError
from weftline.fabric._quotient import generators_of, symmetric_schedule
from weftline.fabric._ways import Ways, ways_of
from weftline.fabric.bounds import Bound, bound
from weftline.fabric.evaluators import Timing, evaluate
from weftline.fabric.graph import FloatArray, IntArray, Topology
from weftline.fabric.orbit import OrbitSchedule
from weftline.fabric.schedule import Collective, Schedule

SYNTHESIZED: tuple[Collective, ...] = ("all-reduce", "reduce-scatter", "all-gather", "broadcast")
PIECES = (1, 2, 4, 6, 12)
"""Pieces of a share that the quotient tries."""
MAX_QUOTIENT_ROWS = 60_000
MAX_TRANSFERS = 80_000
"""Messages of one half of a schedule at most; sets how fine the chunks are."""
SWITCH_PARTS = (1, 2, 8)
"""Messages that share a port through switches, tried in turn: with one at a time no bytes wait for
others, with more ports need not wait for free partners."""
CHUNK_TO_LATENCY = 4.0
"""A chunk takes at least this many latencies of a link, so that latency stays in the shade."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Synthesis:
    """A schedule made for one network, its time, and how far at most it is from the best."""

    schedule: Schedule | OrbitSchedule
    timing: Timing
    bound: Bound
    method: str
    seed: int

    @property
    def ratio_to_bound(self) -> float:
        """Its time over a lower bound of any schedule's: the certified gap is this less 1."""
        return self.timing.time_s / self.bound.time_s if self.bound.time_s > 0 else 1.0


def synthesize(
    topology: Topology,
    collective: Collective,
    size_bytes: float,
    *,
    chunks: int | None = None,
    root: int = 0,
    seed: int = 0,
) -> Synthesis:
    """A schedule of a collective of ``size_bytes`` for this network, timed and bounded.

    ``chunks``: about how many pieces the buffer is cut into (default: by size and latency);
    ``seed`` breaks ties. Raises InputError for all-to-all and send (one step does them),
    for one chip alone, a network in parts, and where it is too large without symmetry.
    """
    if collective not in SYNTHESIZED:
        raise InputError(
            f"nothing to synthesize for {collective}: it has no copies or sums to arrange",
            hint="`direct` sends every message over all its shortest routes at once",
        )
    if topology.ranks < 2:
        raise InputError(f"`{topology.name}` has one chip: nothing has to move")
    topology.require_connected()
    limit = bound(topology, collective, size_bytes, root=root)
    candidates: list[tuple[Schedule | OrbitSchedule, Timing, str]] = []
    found = generators_of(topology) if collective != "broadcast" else None
    if found is not None:
        for pieces in PIECES:
            if candidates and pieces * topology.ranks > MAX_QUOTIENT_ROWS:
                break
            orbit = symmetric_schedule(found, collective, pieces, size_bytes)
            candidates.append((orbit, evaluate(topology, orbit, size_bytes), "symmetry quotient"))
    else:
        ways = ways_of(topology)
        for shares in _share_choices(topology, collective, root):
            owner, share = _chunk_owners(topology, ways, shares, size_bytes, chunks)
            for parts in SWITCH_PARTS if topology.switches else (1,):
                flat = _greedy(
                    topology, ways, collective, owner, share, size_bytes, root, seed, parts
                )
                timing = evaluate(topology, flat, size_bytes)
                candidates.append((flat, timing, "rarest chunk first"))
    best = min(candidates, key=lambda c: c[1].time_s)
    return Synthesis(schedule=best[0], timing=best[1], bound=limit, method=best[2], seed=seed)


def subgroup(topology: Topology, members: Sequence[int]) -> Topology:
    """The network as a group of its chips sees it: they are chips 0, 1, ... in the order given,
    all other chips only forward. Raises InputError for an empty, repeated or unknown member."""
    group = np.asarray(members, dtype=np.int64)
    if not len(group):
        raise InputError("a group of no chips")
    if group.min() < 0 or group.max() >= topology.ranks or len(np.unique(group)) != len(group):
        bad = next(int(m) for i, m in enumerate(group)
                   if not 0 <= m < topology.ranks or m in group[:i])  # fmt: skip
        raise InputError(
            f"chip {bad} is not one of `{topology.name}`, or is named twice",
            hint=f"a group names each of its chips once, from 0 to {topology.ranks - 1}",
        )
    others = np.setdiff1d(np.arange(topology.nodes), group)
    number = np.empty(topology.nodes, dtype=np.int64)
    number[np.concatenate([group, others])] = np.arange(topology.nodes)
    if not len(others):
        return topology if np.array_equal(number, np.arange(topology.nodes)) else replace(
            topology, source=number[topology.source], destination=number[topology.destination],
            grid=None, group=None, link_class=None, kind="graph", levels=(),
        )  # fmt: skip
    limit = topology.injection_bytes_per_s
    return replace(
        topology, name=f"{len(group)} chips of {topology.name}", ranks=len(group),
        switches=len(others), source=number[topology.source],
        destination=number[topology.destination], kind="graph", grid=None, group=None,
        interchangeable=False, link_class=None, levels=(), reducing=None, chips_forward=True,
        labels=tuple(topology.labels[i] for i in np.concatenate([group, others])
                     if i < len(topology.labels)) if topology.labels else (),
        injection_bytes_per_s=None if limit is None else limit[group],
    )  # fmt: skip


def _share_choices(topology: Topology, collective: Collective, root: int) -> list[FloatArray]:
    """Ways to share the buffer out among chips: equal, and for an all-reduce by bandwidth."""
    if collective == "broadcast":
        whole = np.zeros(topology.ranks)
        whole[root] = 1.0
        return [whole]
    equal = np.full(topology.ranks, 1.0 / topology.ranks)
    if collective != "all-reduce":
        return [equal]
    fair = balanced_shares(
        np.minimum(topology.egress_bytes_per_s(), topology.ingress_bytes_per_s())
    )
    return [equal] if np.allclose(fair, equal, rtol=1e-6) else [fair, equal]


def balanced_shares(bandwidth: FloatArray) -> FloatArray:
    """[chips] shares max(0, 1 - T B) with the least T for which they sum to 1.

    A chip of bandwidth B that keeps a share s receives (and before, sends) 1 - s, which takes
    (1 - s) / B: T for all chips whose share is above 0.
    """
    if len(bandwidth) == 1:
        return np.ones(1)
    order = np.sort(bandwidth)
    for count in range(len(order), 0, -1):
        # The slowest ``count`` chips have shares: count - T * (sum of their bandwidths) = 1.
        seconds = (count - 1) / float(order[:count].sum())
        if count == 1 or 1.0 - seconds * order[count - 1] >= 0:
            break
    shares = np.maximum(0.0, 1.0 - seconds * bandwidth)
    return np.asarray(shares / shares.sum())


def _chunk_owners(
    topology: Topology, ways: Ways, shares: FloatArray, size_bytes: float, chunks: int | None
) -> tuple[IntArray, FloatArray]:
    """([chunks] owner, [chunks] share of the buffer): all equal, near the shares."""
    ranks = topology.ranks
    transfers = MAX_TRANSFERS // (2 if topology.switches else 1)
    most = max(ranks, transfers // max(ranks - 1, 1))
    slow = float(np.median(ways.latency_s / ways.seconds_per_byte)) * CHUNK_TO_LATENCY
    fine = int(size_bytes / max(slow, 1.0))
    wanted = chunks if chunks is not None else min(most, max(fine, ranks))
    if wanted < 1:
        raise InputError(f"a buffer of {wanted} chunks")
    count = np.rint(shares * wanted).astype(np.int64)
    if np.ptp(shares) == 0:
        count[:] = max(1, wanted // ranks)
    count[np.argmax(shares)] += int(count.sum() == 0)
    owner = np.repeat(np.arange(ranks), count)
    return owner, np.full(len(owner), 1.0 / len(owner))


def _greedy(
    topology: Topology, ways: Ways, collective: Collective, owner: IntArray, share: FloatArray,
    size_bytes: float, root: int, seed: int, parts: int,
) -> Schedule:  # fmt: skip
    """The schedule: all-gather, or its reverse on turned links, or first one and then the other."""
    chunk_bytes = max(size_bytes, 1.0) * float(share.mean())
    halves: list[tuple[IntArray, IntArray, IntArray, bool]] = []
    begin = 0
    if collective in ("all-reduce", "reduce-scatter"):
        way, chunk, step = _spread(topology, ways, owner, chunk_bytes, seed, parts, turned=True)
        last = int(step.max()) if len(step) else 0
        halves.append((last - step, way, chunk, True))
        begin = last + 1
    if collective != "reduce-scatter":
        way, chunk, step = _spread(topology, ways, owner, chunk_bytes, seed, parts, turned=False)
        halves.append((begin + step, way, chunk, False))
    step, way, chunk = (np.concatenate([p[i] for p in halves]) for i in range(3))
    reduce = np.concatenate([np.full(len(p[0]), p[3]) for p in halves])
    order = np.argsort(step, kind="stable")
    step, way, chunk, reduce = step[order], way[order], chunk[order], reduce[order]
    hops = np.diff(ways.path_start)[way]
    start = np.concatenate([[0], np.cumsum(hops)]).astype(np.int64)
    index = np.arange(start[-1]) - np.repeat(start[:-1] - ways.path_start[way], hops)
    return Schedule(
        collective=collective, algorithm="synthesized", ranks=topology.ranks, step=step,
        source=ways.source[way], destination=ways.target[way], first_chunk=chunk,
        chunk_count=np.ones(len(step), dtype=np.int64), reduce=reduce.astype(np.bool_),
        colour=np.zeros(len(step), dtype=np.int64), share=share,
        owner=None if collective in ("all-reduce", "broadcast") else owner, root=root,
        path_start=None if ways.plain else start,
        path_links=None if ways.plain else ways.path_links[index],
    )  # fmt: skip


def _spread(
    topology: Topology,
    ways: Ways,
    owner: IntArray,
    chunk_bytes: float,
    seed: int,
    parts: int,
    *,
    turned: bool,
) -> tuple[IntArray, IntArray, IntArray]:
    """(way, chunk, step) of an all-gather over the ways, or over the ways turned round."""
    from weftline.fabric.kernels import synthesis as kernels

    source, target = (ways.target, ways.source) if turned else (ways.source, ways.target)
    source, target = np.ascontiguousarray(source), np.ascontiguousarray(target)
    user_start, users = ways.users(topology.links)
    out_start = np.zeros(topology.ranks + 1, dtype=np.int64)
    out_start[1:] = np.cumsum(np.bincount(source, minlength=topology.ranks))
    way, chunk, step, _, _ = kernels.spread(
        source, target, ways.path_start, ways.path_links, user_start, users, out_start,
        np.argsort(source, kind="stable"), parts * ways.seconds_per_byte * chunk_bytes,
        ways.latency_s, 1.0 / (parts * ways.seconds_per_byte), topology.bandwidth_bytes_per_s,
        owner, topology.ranks, seed,
    )  # fmt: skip
    if len(way) != len(owner) * (topology.ranks - 1):
        raise InputError(f"links of `{topology.name}` do not join all its chips")
    return way, chunk, step
