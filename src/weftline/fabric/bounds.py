"""The least time any schedule can take, with what proves it.

Bandwidth. Each bound is a true one by itself; the greatest counts.

- Chip: what a chip must send or receive over its own links. An all-reduce takes each chip's
  contribution out and the result in.
- Sum: an all-reduce of N chips needs 2(N-1) transfers of every byte, N-1 to gather and N-1 to tell
  (the one-way gossip number); all links together carry no more. On equal chips this is the bound of
  nccl-tests' PERFORMANCE.md, 2(N-1)/N * M/B. The same holds with hosts in place of chips.
- Cut: what must leave a set of chips. All-gather: |A| shares leave A (the optimum over A is found
  by max-flow, as in ForestColl); all-to-all: |A| (N-|A|) messages; broadcast and send: all of it.
- Way: an all-to-all's messages travel no less than shortest routes do; links carry no more.

Switches that add up what passes (NVLS, SHARP) void the sums, but for those between groups that each
hold their own such switches; the rest holds with them.
Latency. No schedule is faster than the slowest shortest route between two chips that must meet.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from weftline.errors import InputError, UnknownNameError
from weftline.fabric._cuts import gather_cut, own_groups, pair_bandwidth, set_bandwidth
from weftline.fabric.graph import FloatArray, IntArray, Topology
from weftline.fabric.schedule import COLLECTIVES, Collective

MAX_EXACT = 256
"""Chips up to which the worst cut of an all-gather is searched to every chip; above, to chip 0
and to those with least bandwidth (a true bound, perhaps not the best)."""
MAX_PAIRS = 1024
"""Chips up to which shortest ways between all pairs are measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """A lower bound of the time of any schedule."""

    time_s: float
    """The greater of bandwidth and latency: no schedule is faster."""
    bandwidth_s: float
    latency_s: float
    name: str
    """Which bound it is: chip, sum, cut, way or latency."""
    certificate: str
    """What proves it, in words and numbers."""
    two_phase_s: float | None = None
    """All-reduce: the least bandwidth time of those that reduce-scatter to equal shares, then
    gather them (ForestColl's optimum)."""


def bound(
    topology: Topology,
    collective: Collective,
    size_bytes: float,
    *,
    root: int = 0,
    target: int | None = None,
) -> Bound:
    """The best lower bound known for a collective of ``size_bytes`` (nccl-tests' size).

    ``root``: of a broadcast or send; ``target``: of a send. Raises UnknownNameError for a
    collective that does not exist, InputError for chips outside the network.
    """
    if collective not in COLLECTIVES:
        raise UnknownNameError("collective", collective, COLLECTIVES)
    ends = [root, target if target is not None else root]
    if topology.ranks and not all(0 <= chip < topology.ranks for chip in ends):
        raise InputError(f"`{topology.name}` has chips 0..{topology.ranks - 1}, not {max(ends)}")
    if topology.ranks <= 1 or (collective == "send" and target is None):
        return Bound(time_s=0.0, bandwidth_s=0.0, latency_s=0.0, name="chip",
                     certificate="nothing has to move")  # fmt: skip
    two_phase: float | None = None
    found: list[tuple[float, str, str]]
    if collective == "all-reduce":
        found = _all_reduce(topology, size_bytes)
        gather = [max(_gather(topology, size_bytes, turned))[0] for turned in (False, True)]
        two_phase = sum(gather)
        if topology.reduces():
            two_phase = None
    elif collective in ("all-gather", "reduce-scatter"):
        found = _gather(topology, size_bytes, collective == "reduce-scatter")
    elif collective == "all-to-all":
        found = _all_to_all(topology, size_bytes)
    elif collective == "broadcast":
        found = _broadcast(topology, size_bytes, root)
    else:
        rate = pair_bandwidth(topology, root, ends[1]) if root != ends[1] else np.inf
        found = [(size_bytes / rate, "cut", f"{rate:.4g} bytes/s over all routes")]
    best = max(found)
    latency_s = _latency(topology, collective, root, target)
    name, proof = best[1], best[2]
    if latency_s > best[0]:
        name, proof = "latency", f"the longest shortest route takes {latency_s:.3g} s"
    return Bound(
        time_s=max(best[0], latency_s), bandwidth_s=best[0], latency_s=latency_s, name=name,
        certificate=proof, two_phase_s=two_phase,
    )  # fmt: skip


def _all_reduce(topology: Topology, size_bytes: float) -> list[tuple[float, str, str]]:
    ranks = topology.ranks
    out, into = topology.egress_bytes_per_s(), topology.ingress_bytes_per_s()
    least = float(min(out.min(), into.min()))
    found = [(size_bytes / least, "chip", f"a chip with {least:.4g} bytes/s takes part")]
    if not topology.reduces():
        total = float(min(out.sum(), into.sum()))
        found.append((
            2 * (ranks - 1) * size_bytes / total, "sum",
            f"2 x {ranks - 1:,} transfers of every byte, {total:.4g} bytes/s in all",
        ))  # fmt: skip
    for members in _groups(topology):
        if not _reduces_within(topology, len(members)):
            continue
        parts = ranks // len(members)
        total = _between(topology, members)
        found.append((
            2 * (parts - 1) * size_bytes / total, "sum",
            f"2 x {parts - 1:,} transfers of every byte between {parts:,} groups of "
            f"{len(members)}, {total:.4g} bytes/s in all",
        ))  # fmt: skip
    return found


def _gather(topology: Topology, size_bytes: float, turned: bool) -> list[tuple[float, str, str]]:
    """All-gather, or with ``turned`` reduce-scatter: the same on the network turned round."""
    ranks, share = topology.ranks, size_bytes / topology.ranks
    out, into = topology.egress_bytes_per_s(), topology.ingress_bytes_per_s()
    if turned:
        out, into = into, out
    words = ("receive", "send") if turned else ("send", "receive")
    least_out, least_in = float(out.min()), float(into.min())
    found = [
        (share / least_out, "chip", f"a chip must {words[0]} 1/{ranks} at {least_out:.4g} bytes/s"),
        ((ranks - 1) * share / least_in, "chip",
         f"a chip must {words[1]} {ranks - 1}/{ranks} at {least_in:.4g} bytes/s"),
    ]  # fmt: skip
    if not topology.reduces():
        total = float(min(out.sum(), into.sum()))
        found.append((
            (ranks - 1) * size_bytes / total, "sum",
            f"{ranks - 1:,} transfers of every byte, {total:.4g} bytes/s in all",
        ))  # fmt: skip
    known = max(found)[0] / share if share else 0.0
    for members in _groups(topology):
        leaves, enters = set_bandwidth(topology, members)
        rates = (enters, leaves) if turned else (leaves, enters)
        for chips, rate in zip((len(members), ranks - len(members)), rates, strict=True):
            known = max(known, chips / rate)
            found.append((chips * share / rate, "cut", f"{chips:,} shares over {rate:.4g} bytes/s"))
    if share and topology.nodes <= 4096:
        worst, chips = gather_cut(topology, _targets(topology, into), known, reverse=turned)
        if chips:
            found.append((worst * share, "cut", f"{chips:,} chips' shares over the worst cut"))
    return found


def _targets(topology: Topology, into: FloatArray) -> IntArray:
    """Chips to which the worst cut is searched: one where all are alike, all where few."""
    if topology.is_symmetric or topology.interchangeable:
        return np.array([0])
    if topology.ranks <= MAX_EXACT:
        return np.arange(topology.ranks)
    return np.unique(np.append(np.argsort(into, kind="stable")[:8], 0))


def _all_to_all(topology: Topology, size_bytes: float) -> list[tuple[float, str, str]]:
    ranks, message = topology.ranks, size_bytes / topology.ranks
    out, into = topology.egress_bytes_per_s(), topology.ingress_bytes_per_s()
    least = float(min(out.min(), into.min()))
    found = [((ranks - 1) * message / least, "chip",
              f"a chip must send {ranks - 1}/{ranks} at {least:.4g} bytes/s")]  # fmt: skip
    sets = [*_groups(topology), *_slabs(topology)]
    for members in sets:
        rate = min(set_bandwidth(topology, members))
        crossing = len(members) * (ranks - len(members))
        found.append((crossing * message / rate, "cut",
                      f"{crossing:,} messages between {len(members):,} chips and the rest over "
                      f"{rate:.4g} bytes/s"))  # fmt: skip
    total = float(topology.bandwidth_bytes_per_s.sum())
    hops = _hops(topology)
    if hops:
        found.append((hops * message / total, "way", f"{hops:,.0f} hops over {total:.4g} bytes/s"))
    return found


def _broadcast(topology: Topology, size_bytes: float, root: int) -> list[tuple[float, str, str]]:
    out, into = topology.egress_bytes_per_s(), topology.ingress_bytes_per_s()
    others = np.delete(into, root)
    least = float(min(out[root], others.min()))
    found = [(size_bytes / least, "chip", f"{least:.4g} bytes/s out of the root or into a chip")]
    if not topology.reduces():
        total = float(out.sum())
        sent = (topology.ranks - 1) * size_bytes
        found.append((sent / total, "sum", f"every byte to {topology.ranks - 1:,} chips"))
        for members in _groups(topology):
            rate = min(set_bandwidth(topology, members))
            found.append((size_bytes / rate, "cut",
                          f"{rate:.4g} bytes/s into each group of {len(members):,}"))  # fmt: skip
    if topology.ranks <= MAX_EXACT and not topology.is_symmetric:
        rest = [c for c in range(topology.ranks) if c != root]
        rates = [pair_bandwidth(topology, root, chip) for chip in rest]
        chip = rest[int(np.argmin(rates))]
        found.append((size_bytes / min(rates), "cut",
                      f"{min(rates):.4g} bytes/s from the root to chip {chip}"))  # fmt: skip
    return found


def _reduces_within(topology: Topology, size: int) -> bool:
    """Whether every switch that adds up joins chips of one group of ``size`` and nothing else.

    Between such groups nothing is added up on the way, so their transfers count as without it.
    """
    if topology.reducing is None or not topology.reducing.any():
        return True
    group = np.full(topology.nodes, -1)
    group[: topology.ranks] = np.arange(topology.ranks) // size
    adds = np.zeros(topology.nodes, bool)
    adds[topology.ranks :] = topology.reducing
    for near, far in ((topology.source, topology.destination),
                      (topology.destination, topology.source)):  # fmt: skip
        links = adds[near]
        joined = group[far[links]]
        if (joined < 0).any():
            return False
        least = np.full(topology.nodes, topology.ranks)
        most = np.full(topology.nodes, -1)
        np.minimum.at(least, near[links], joined)
        np.maximum.at(most, near[links], joined)
        if (most > least)[adds].any():
            return False
    return True


def _between(topology: Topology, members: IntArray) -> float:
    """Bytes a second that all groups like ``members``, the first of its level, exchange at most."""
    if topology.kind != "graph":
        return topology.ranks // len(members) * min(set_bandwidth(topology, members))
    group = own_groups(topology, len(members))
    leaves = group[topology.source] != group[topology.destination]
    rate = topology.bandwidth_bytes_per_s
    # What leaves a group leaves its chips or the switches that join nothing but them.
    return float(min(rate[leaves & (group[topology.source] >= 0)].sum(),
                     rate[leaves & (group[topology.destination] >= 0)].sum()))  # fmt: skip


def _groups(topology: Topology) -> list[IntArray]:
    """The first group of each level, like all others of it: hosts, pods.

    Of a cluster's own graph the groups are its hosts; they need not be alike.
    """
    named = topology.kind in ("nested", "clos", "fat-tree")
    if topology.failed or not (named or (topology.kind == "graph" and topology.chip)):
        return []
    return [np.arange(size) for size in topology.levels
            if 1 < size < topology.ranks and topology.ranks % size == 0]  # fmt: skip


def _slabs(topology: Topology) -> list[IntArray]:
    """Halves of a grid along each axis; every position of the cut where links have failed."""
    grid = topology.grid
    if grid is None or grid.size != topology.ranks:
        return []
    at = grid.coordinates(np.arange(grid.size))
    found = []
    for axis, side in enumerate(grid.shape):
        half = side // 2
        if half == 0:
            continue
        starts = range(half) if topology.failed and grid.wraps[axis] and side <= 16 else range(1)
        found += [np.flatnonzero((at[:, axis] - s) % side < half) for s in starts]
    return found


def _hops(topology: Topology) -> float:
    """Links that one message from every chip to every other one must cross; 0: not measured."""
    from weftline.fabric.routing import exchange_load

    if topology.ranks > MAX_PAIRS:
        # On a whole grid dimension-ordered routes are shortest ones; elsewhere leave it.
        whole = topology.is_symmetric and topology.kind in ("ring", "torus")
        return float(exchange_load(topology).sum()) if whole else 0.0
    hops = _distances(topology, np.arange(topology.ranks), np.ones(topology.links))
    return float(hops[:, : topology.ranks].sum())


def _distances(topology: Topology, sources: IntArray, length: FloatArray) -> FloatArray:
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import dijkstra

    # Of parallel links the shortest counts; scipy would add them up. No length may be 0.
    order = np.lexsort([length, topology.destination, topology.source])
    source, destination = topology.source[order], topology.destination[order]
    first = np.ones(topology.links, dtype=np.bool_)
    first[1:] = (source[1:] != source[:-1]) | (destination[1:] != destination[:-1])
    kept = np.maximum(length[order][first], 1e-15)
    graph = csr_array(
        (kept, (source[first], destination[first])), shape=(topology.nodes, topology.nodes)
    )
    return np.asarray(dijkstra(graph, indices=sources), dtype=np.float64)


def _latency(topology: Topology, collective: Collective, root: int, target: int | None) -> float:
    """Seconds of an empty message between the two chips that are farthest apart and must meet."""
    if collective in ("broadcast", "send"):
        away = _distances(topology, np.array([root]), topology.latency_s)[0, : topology.ranks]
        return float(away[target]) if target is not None else float(away.max())
    alike = topology.is_symmetric or topology.interchangeable
    some = 1 if alike or topology.ranks > MAX_PAIRS else topology.ranks
    sources = np.arange(some)
    away = _distances(topology, sources, topology.latency_s)[:, : topology.ranks]
    if not np.isfinite(away).all():
        topology.require_connected()
    return float(away.max())
