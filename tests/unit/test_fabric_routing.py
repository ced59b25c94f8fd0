"""Routes: they lead where they should, split without losing bytes, and add up to known loads."""

from __future__ import annotations

from dataclasses import replace

import networkx as nx
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from weftline.errors import InputError
from weftline.fabric import topologies
from weftline.fabric.failures import without_links
from weftline.fabric.graph import Topology
from weftline.fabric.routing import Routes, exchange_load, grid_links, routes, schedule_routes
from weftline.fabric.schedule import Schedule
from weftline.fabric.synthesis import subgroup

LINK, HOP_S = 50e9, 1e-6


def all_pairs(topology: Topology) -> tuple[np.ndarray, np.ndarray]:
    source, destination = (a.reshape(-1) for a in np.indices((topology.ranks, topology.ranks)))
    return source, destination


def assert_routes_lead_home(topology: Topology, taken: Routes, source, destination) -> None:
    """One whole message leaves each source, arrives at each destination, and none is lost."""
    rows = len(source)
    net = np.zeros((rows, topology.nodes))
    row = np.repeat(np.arange(rows), np.diff(taken.start))
    np.add.at(net, (row, topology.source[taken.links]), taken.weights)
    np.add.at(net, (row, topology.destination[taken.links]), -taken.weights)
    wanted = np.zeros_like(net)
    np.add.at(wanted, (np.arange(rows), source), 1.0)
    np.add.at(wanted, (np.arange(rows), destination), -1.0)
    np.testing.assert_allclose(net, wanted, atol=1e-9)


@st.composite
def broken_grids(draw: st.DrawFn) -> Topology:
    shape = tuple(draw(st.lists(st.integers(1, 5), min_size=1, max_size=3)))
    wraps = tuple(draw(st.booleans()) for _ in shape)
    whole = topologies.grid(shape, LINK, HOP_S, wraps=wraps)
    assume(1 < whole.ranks <= 40)
    gone = draw(st.lists(st.integers(0, whole.links - 1), max_size=3, unique=True))
    try:
        return without_links(whole, gone)
    except InputError:
        assume(False)
        raise


@settings(max_examples=60, deadline=None)
@given(broken_grids())
def test_exchange_load_is_the_sum_of_all_routes(topology: Topology) -> None:
    source, destination = all_pairs(topology)
    taken = routes(topology, source, destination)
    assert_routes_lead_home(topology, taken, source, destination)
    one = np.ones(len(source))
    np.testing.assert_allclose(
        taken.loads(topology.links, one), exchange_load(topology), rtol=1e-9, atol=1e-9
    )
    as_graph = replace(topology, grid=None, group=None, kind="graph")
    taken = routes(as_graph, source, destination)
    assert_routes_lead_home(topology, taken, source, destination)
    np.testing.assert_allclose(
        taken.loads(topology.links, one), exchange_load(as_graph), rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize(
    "topology",
    [
        topologies.switch(5, LINK, HOP_S),
        topologies.clos(8, LINK, HOP_S, leaf=4, oversubscription=2.0),
        topologies.fat_tree(4, LINK, HOP_S),
        topologies.dragonfly(2, 2, 1, LINK, HOP_S),
        topologies.hammingmesh((2, 2), (2, 2), LINK, HOP_S),
        topologies.nested(topologies.switch(4, LINK, HOP_S), 2, LINK / 4, HOP_S),
        topologies.nested(topologies.torus((9,), LINK, HOP_S), 2, LINK / 4, HOP_S),
        topologies.torus((3, 4), LINK, HOP_S),
    ],
    ids=lambda t: t.name,
)
def test_routes_off_the_beaten_grid_are_shortest_ones(topology: Topology) -> None:
    """Hops of every route are the graph's distance: over cables alone inside a level that has
    them, else through chips where they forward, else through chips only if there is no other way.
    """
    source, destination = all_pairs(topology)
    taken = routes(topology, source, destination)
    assert_routes_lead_home(topology, taken, source, destination)
    row = np.repeat(np.arange(len(source)), np.diff(taken.start))
    hops = np.bincount(row, taken.weights, len(source))
    for chip in range(topology.ranks):
        graph = nx.DiGraph(
            zip(topology.source.tolist(), topology.destination.tolist(), strict=True)
        )
        for other in range(topology.ranks):
            reach = nx.DiGraph(graph)
            if topology.chips_forward:
                reach.remove_nodes_from(range(topology.ranks, topology.nodes))
            else:
                reach.remove_nodes_from(set(range(topology.ranks)) - {chip, other})
            if not nx.has_path(reach, chip, other):
                reach = graph
            wanted = nx.shortest_path_length(reach, chip, other)
            assert hops[chip * topology.ranks + other] == pytest.approx(wanted)


def test_what_stays_in_an_instance_keeps_off_its_network_cards() -> None:
    """64 chips on a torus, each with a NIC: six hops over cables, not four through the Clos."""
    inner = topologies.torus((4, 4, 4), LINK, HOP_S)
    topology = topologies.nested(inner, 2, LINK / 16, HOP_S)
    source, destination = all_pairs(topology)
    within = source // 64 == destination // 64
    taken = routes(topology, source[within], destination[within])
    carried = taken.loads(topology.links, np.ones(int(within.sum())))
    through = np.maximum(topology.source, topology.destination) >= topology.ranks
    assert carried[through].sum() == 0
    assert carried.sum() == pytest.approx(2 * exchange_load(inner).sum())
    both = routes(topology, source, destination).loads(topology.links, np.ones(len(source)))
    np.testing.assert_allclose(both, exchange_load(topology))
    # Each NIC carries at least the 64 messages to the other instance, and none comes back.
    assert both[through & (topology.source < topology.ranks)].sum() == pytest.approx(2 * 64 * 64)


def test_a_group_on_a_torus_passes_through_the_chips_that_are_not_in_it() -> None:
    group = subgroup(topologies.ring(8, LINK, HOP_S), range(7))
    taken = routes(group, np.array([0]), np.array([6]))
    assert len(taken.links) == 2


@pytest.mark.parametrize("side", [4, 5, 8])
def test_a_torus_carries_the_same_on_all_links(side: int) -> None:
    topology = topologies.torus((side, side), LINK, HOP_S)
    wanted = side * (side**2 // 8 if side % 2 == 0 else (side**2 - 1) // 8)
    np.testing.assert_allclose(exchange_load(topology), wanted)


def test_what_steps_aside_of_a_dead_link_spreads_over_all_sides() -> None:
    whole = topologies.torus((6, 6, 6), LINK, HOP_S)
    dead = int(np.flatnonzero((whole.source == 0) & (whole.destination == 1))[0])
    topology = without_links(whole, [dead])
    taken = routes(topology, np.array([0]), np.array([1]))
    parts = taken.loads(topology.links, np.ones(1))
    assert sorted(parts[parts > 0]) == pytest.approx([0.25] * 12)
    assert taken.latency_s[0] == pytest.approx(3 * HOP_S)


def test_grid_links_are_found_only_on_plain_grids() -> None:
    assert grid_links(topologies.torus((2, 3), LINK, HOP_S)) is not None
    assert grid_links(topologies.switch(4, LINK, HOP_S)) is None
    torus = topologies.torus((4, 4), LINK, HOP_S)
    wild = replace(torus, destination=np.where(np.arange(torus.links) == 0, 10, torus.destination))
    assert grid_links(wild) is None


def test_a_network_in_parts_is_named() -> None:
    line = topologies.line(4, LINK, HOP_S)
    keep = ~(
        ((line.source == 1) & (line.destination == 2))
        | ((line.source == 2) & (line.destination == 1))
    )
    parts = replace(
        line, source=line.source[keep], destination=line.destination[keep],
        bandwidth_bytes_per_s=line.bandwidth_bytes_per_s[keep], latency_s=line.latency_s[keep],
        link_class=None, failed=(2,),
    )  # fmt: skip
    with pytest.raises(InputError, match="no route from chip 0 to chip 3"):
        routes(parts, np.array([0]), np.array([3]))
    with pytest.raises(InputError, match="no route"):
        exchange_load(parts)


def test_a_path_that_leads_elsewhere_is_refused() -> None:
    ring = topologies.ring(4, LINK, HOP_S)
    wrong = int(np.flatnonzero((ring.source == 1) & (ring.destination == 2))[0])
    zero = np.zeros(1, dtype=np.int64)
    rows = Schedule(
        collective="send", algorithm="by hand", ranks=4, step=zero, source=zero,
        destination=zero + 1, first_chunk=zero, chunk_count=zero + 1,
        reduce=np.zeros(1, dtype=np.bool_), colour=zero, share=np.ones(1), target=zero + 1,
        path_start=np.array([0, 1]), path_links=np.array([wrong]),
    )  # fmt: skip
    with pytest.raises(InputError, match="path does not lead from chip 0 to chip 1"):
        schedule_routes(ring, rows)
