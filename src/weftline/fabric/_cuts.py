"""Cuts of a network: what a set of chips can send to the rest, and the worst set of an all-gather.

Every cut found gives a true bound, whether or not a worse one exists: its bandwidth is summed from
the links themselves, however it was found.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from weftline.fabric.graph import BoolArray, FloatArray, IntArray, Topology

FLOW_UNITS = 2**20
"""Integer units of the greatest capacity in a max-flow; searches for cuts need no more."""


def own_groups(topology: Topology, size: int) -> IntArray:
    """[nodes] group of each chip, ``size`` ranks in a row, and of each switch of its own; else -1.

    A switch is a group's own where it joins several of its chips and nothing else (NVSwitches).
    """
    group = np.full(topology.nodes, -1, dtype=np.int64)
    group[: topology.ranks] = np.arange(topology.ranks) // size
    far = group[topology.destination]
    least = np.full(topology.nodes, topology.ranks, dtype=np.int64)
    most = np.full(topology.nodes, -1, dtype=np.int64)
    np.minimum.at(least, topology.source, far)
    np.maximum.at(most, topology.source, far)
    several = np.bincount(topology.source, minlength=topology.nodes) > 1
    own = (least == most) & (least >= 0) & several
    own[: topology.ranks] = False
    group[own] = least[own]
    return group


def set_bandwidth(topology: Topology, members: IntArray) -> tuple[float, float]:
    """Bytes a second that can leave and that can enter a set of chips, switches placed at worst."""
    inside = np.zeros(topology.nodes, dtype=np.bool_)
    inside[members] = True
    if topology.switches == 0:
        return _crossing(topology, inside), _crossing(topology, ~inside)
    rest = np.setdiff1d(np.arange(topology.ranks), members)
    out = _crossing(topology, _least_side(topology, members, rest))
    into = _crossing(topology, _least_side(topology, rest, members))
    return out, into


def pair_bandwidth(topology: Topology, source: int, target: int) -> float:
    """Bytes a second that can flow from one chip to another over all routes at once."""
    side = _least_side(topology, np.array([source]), np.array([target]))
    return _crossing(topology, side)


def gather_cut(
    topology: Topology, targets: IntArray, start: float, *, reverse: bool = False
) -> tuple[float, int]:
    """(seconds a byte of a chip's share, chips of the cut) of the worst cut of an all-gather.

    The worst set A of chips maximises |A| / bandwidth out of A. From a known ratio ``start`` the
    search asks, by max-flow to each of ``targets``, whether some cut is worse, and goes on from it
    (Dinkelbach). ``reverse`` asks the same of the network with all links turned round
    (reduce-scatter).
    """
    worst, size = start, 0
    for target in targets:
        while True:
            side = _worse_side(topology, int(target), worst, reverse)
            chips = int(side[: topology.ranks].sum())
            if chips == 0 or side[target]:
                break
            ratio = chips / max(_crossing(topology, side, reverse), 1e-300)
            if ratio <= worst * (1 + 1e-9):
                break
            worst, size = ratio, chips
    return worst, size


def _crossing(topology: Topology, inside: BoolArray, reverse: bool = False) -> float:
    ends = (topology.destination, topology.source) if reverse else (
        topology.source, topology.destination)  # fmt: skip
    leaves = inside[ends[0]] & ~inside[ends[1]]
    return float(topology.bandwidth_bytes_per_s[leaves].sum())


def _least_side(topology: Topology, sources: IntArray, sinks: IntArray) -> BoolArray:
    """[nodes] the sources' side of a least cut between two sets of nodes."""
    unit = FLOW_UNITS / float(topology.bandwidth_bytes_per_s.max())
    much = 2**30
    start, end = topology.nodes, topology.nodes + 1
    return _min_cut(
        topology.nodes + 2,
        np.concatenate([topology.source, np.full(len(sources), start), sinks]),
        np.concatenate([topology.destination, sources, np.full(len(sinks), end)]),
        np.concatenate([
            topology.bandwidth_bytes_per_s * unit, np.full(len(sources) + len(sinks), much)
        ]), start, end,
    )[: topology.nodes]  # fmt: skip


def _worse_side(topology: Topology, target: int, seconds: float, reverse: bool) -> BoolArray:
    """[nodes] a set of chips that cannot get its shares to ``target`` in ``seconds`` a byte."""
    links = topology.bandwidth_bytes_per_s * seconds
    unit = FLOW_UNITS / max(float(links.max()), 1.0)
    start = topology.nodes
    chips = np.arange(topology.ranks)
    ends = [topology.source, topology.destination]
    if reverse:
        ends.reverse()
    return _min_cut(
        topology.nodes + 1,
        np.concatenate([ends[0], np.full(topology.ranks, start)]),
        np.concatenate([ends[1], chips]),
        np.concatenate([links * unit, np.full(topology.ranks, unit)]), start, target,
    )[: topology.nodes]  # fmt: skip


def _min_cut(
    nodes: int, source: IntArray, destination: IntArray, capacity: FloatArray, start: int, end: int
) -> BoolArray:
    """[nodes] what can still be reached from ``start`` after a maximum flow to ``end``."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import breadth_first_order, maximum_flow

    whole = np.minimum(np.rint(capacity), 2**30).astype(np.int64)
    graph: Any = csr_array((whole, (source, destination)), shape=(nodes, nodes))
    graph.sum_duplicates()
    graph.data = np.minimum(graph.data, 2**30)
    graph = graph.astype(np.int32)
    flow = maximum_flow(graph, start, end).flow
    left = (graph - flow).tocsr()
    left.eliminate_zeros()
    reached = breadth_first_order(left, start, return_predecessors=False)
    side = np.zeros(nodes, dtype=np.bool_)
    side[reached] = True
    return side
