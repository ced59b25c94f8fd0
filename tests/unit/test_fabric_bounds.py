"""Lower bounds: against all subsets of small graphs, published figures, and networkx."""

from __future__ import annotations

import dataclasses
import itertools

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weftline.errors import InputError, UnknownNameError
from weftline.fabric import topologies
from weftline.fabric._cuts import gather_cut, pair_bandwidth, set_bandwidth
from weftline.fabric.bounds import bound
from weftline.fabric.graph import Topology

LINK, HOP_S, SIZE = 50e9, 1e-6, 1e9


@st.composite
def graphs(draw: st.DrawFn) -> Topology:
    """Connected directed graphs of a few chips and at most two switches."""
    ranks, switches = draw(st.integers(2, 5)), draw(st.integers(0, 2))
    nodes = ranks + switches
    ring = [(i, (i + 1) % nodes) for i in range(nodes)]
    pair = st.tuples(st.integers(0, nodes - 1), st.integers(0, nodes - 1))
    links = ring + [(a, b) for a, b in draw(st.lists(pair, max_size=8)) if a != b]
    speeds = [draw(st.integers(1, 5)) * 1e9 for _ in links]
    return Topology(
        name="any", ranks=ranks, switches=switches, source=np.array([a for a, _ in links]),
        destination=np.array([b for _, b in links]), bandwidth_bytes_per_s=np.array(speeds),
        latency_s=np.zeros(len(links)),
    )  # fmt: skip


def out_of(topology: Topology, inside: set[int]) -> float:
    ends = zip(topology.source.tolist(), topology.destination.tolist(), strict=True)
    leaves = [a in inside and b not in inside for a, b in ends]
    return float(topology.bandwidth_bytes_per_s[leaves].sum())


def subsets(topology: Topology):
    for count in range(1, topology.nodes):
        for inside in itertools.combinations(range(topology.nodes), count):
            chips = sum(node < topology.ranks for node in inside)
            if 0 < chips < topology.ranks:
                yield set(inside), chips


@settings(max_examples=60, deadline=None)
@given(graphs(), st.booleans())
def test_worst_gather_cut_is_the_worst_of_all_subsets(topology: Topology, turned: bool) -> None:
    every = range(topology.nodes)
    worst = max(
        chips / out_of(topology, set(every) - inside if turned else inside)
        for inside, chips in subsets(topology)
    )
    found, _ = gather_cut(topology, np.arange(topology.ranks), 0.0, reverse=turned)
    assert found == pytest.approx(worst, rel=1e-4)
    assert found <= worst * (1 + 1e-9)  # a true bound, whatever the rounding of the flow
    collective = "reduce-scatter" if turned else "all-gather"
    limit = bound(topology, collective, SIZE)
    assert limit.bandwidth_s >= worst * SIZE / topology.ranks * (1 - 1e-4)


@settings(max_examples=60, deadline=None)
@given(graphs(), st.data())
def test_cuts_between_sets_are_least(topology: Topology, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, topology.ranks - 1))
    members = set(range(count))
    rest = set(range(count, topology.ranks))
    least = min(
        out_of(topology, inside) for inside, _ in subsets(topology)
        if members <= inside and not rest & inside
    )  # fmt: skip
    assert set_bandwidth(topology, np.array(sorted(members)))[0] == pytest.approx(least, rel=1e-5)


@settings(max_examples=30, deadline=None)
@given(graphs())
def test_pair_bandwidth_is_networkx_max_flow(topology: Topology) -> None:
    graph = nx.DiGraph()
    ends = zip(topology.source.tolist(), topology.destination.tolist(), strict=True)
    for (a, b), speed in zip(ends, topology.bandwidth_bytes_per_s.tolist(), strict=True):
        before = graph.get_edge_data(a, b, {"capacity": 0.0})["capacity"]
        graph.add_edge(a, b, capacity=before + speed)
    wanted = nx.maximum_flow_value(graph, 0, topology.ranks - 1)
    assert pair_bandwidth(topology, 0, topology.ranks - 1) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("side", [4, 8, 16])
def test_equal_chips_have_the_bound_of_nccl_tests(side: int) -> None:
    topology = topologies.torus((side,) * 3, LINK, HOP_S)
    ranks = side**3
    wanted = 2 * (ranks - 1) / ranks * SIZE / (6 * LINK)
    limit = bound(topology, "all-reduce", SIZE)
    assert limit.bandwidth_s == pytest.approx(wanted)
    assert limit.two_phase_s == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("shape", "torus", "mesh"), [((4, 4), 213.3, 106.7), ((4, 4, 4), 304.8, 152.4)]
)
def test_all_gather_optima_of_torus_and_mesh_are_those_of_forestcoll(
    shape: tuple[int, ...], torus: float, mesh: float
) -> None:
    """GB/s of the whole buffer at 50 GB/s links: fabric_facts.yaml, mesh_no_wrap (exactly 2 x)."""
    whole = bound(topologies.torus(shape, LINK, HOP_S), "all-gather", SIZE).bandwidth_s
    cut = bound(topologies.mesh(shape, LINK, HOP_S), "all-gather", SIZE).bandwidth_s
    assert SIZE / whole / 1e9 == pytest.approx(torus, rel=5e-4)
    assert SIZE / cut / 1e9 == pytest.approx(mesh, rel=5e-4)
    assert cut == pytest.approx(2 * whole)


def test_an_all_to_all_on_a_16_cube_is_12_times_its_injection_bound() -> None:
    topology = topologies.torus((16, 16, 16), LINK, HOP_S)
    limit = bound(topology, "all-to-all", SIZE).bandwidth_s
    assert limit == pytest.approx(SIZE * 16 / (8 * LINK))
    assert limit / (SIZE / (6 * LINK)) == pytest.approx(12.0)
    mesh = bound(topologies.mesh((4, 4), LINK, HOP_S), "all-to-all", SIZE).bandwidth_s
    assert mesh == pytest.approx(SIZE * 4 / (4 * LINK))


def test_oversubscription_and_hosts_bound_what_crosses() -> None:
    clos = topologies.clos(16, LINK, HOP_S, leaf=4, oversubscription=2.0)
    limit = bound(clos, "all-to-all", SIZE)
    assert limit.name == "cut"
    assert limit.bandwidth_s == pytest.approx(12 / 16 * SIZE * 2 / LINK)
    nest = topologies.nested(topologies.switch(8, 9 * LINK, HOP_S), 4, LINK / 8, HOP_S)
    limit = bound(nest, "all-reduce", SIZE)
    assert limit.bandwidth_s == pytest.approx(2 * 3 / 4 * SIZE / LINK)


def test_switches_that_add_up_lift_the_sum() -> None:
    plain = bound(topologies.switch(8, LINK, HOP_S), "all-reduce", SIZE)
    adding = bound(topologies.switch(8, LINK, HOP_S, reducing=True), "all-reduce", SIZE)
    assert plain.bandwidth_s == pytest.approx(2 * 7 / 8 * SIZE / LINK)
    assert adding.bandwidth_s == pytest.approx(SIZE / LINK)
    assert adding.two_phase_s is None


def test_latency_bounds_small_messages() -> None:
    limit = bound(topologies.torus((8, 8), LINK, HOP_S), "all-reduce", 1.0)
    assert limit.name == "latency"
    assert limit.time_s == pytest.approx(8 * HOP_S)
    away = bound(topologies.line(5, LINK, HOP_S), "send", 1.0, root=0, target=3)
    assert away.time_s == pytest.approx(3 * HOP_S)


def test_broadcast_and_send_are_bounded_by_max_flow() -> None:
    line = topologies.line(4, LINK, HOP_S)
    assert bound(line, "broadcast", SIZE, root=1).bandwidth_s == pytest.approx(SIZE / LINK)
    torus = topologies.torus((4, 4), LINK, HOP_S)
    assert bound(torus, "send", SIZE, target=5).bandwidth_s == pytest.approx(SIZE / (4 * LINK))


def test_bad_questions_are_refused() -> None:
    ring = topologies.ring(4, LINK, HOP_S)
    with pytest.raises(UnknownNameError, match="all-redcue"):
        bound(ring, "all-redcue", SIZE)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"chips 0\.\.3"):
        bound(ring, "broadcast", SIZE, root=4)
    assert bound(ring, "send", SIZE, target=0).time_s == 0.0
    assert bound(ring, "send", SIZE).time_s == 0.0


def test_switches_inside_hosts_leave_the_sum_between_hosts() -> None:
    """NVLS in every host: between 16 hosts each byte still travels 2 x 15 times."""
    inside = topologies.switch(8, 450e9, HOP_S, reducing=True)
    network = topologies.nested(inside, 16, 50e9, HOP_S)
    found = bound(network, "all-reduce", SIZE)
    assert found.name == "sum"
    assert found.time_s == pytest.approx(2 * 15 * SIZE / (16 * 8 * 50e9))
    # A spine that adds up would carry each byte once up and once down.
    spine = dataclasses.replace(network, reducing=np.ones(network.switches, bool))
    assert bound(spine, "all-reduce", SIZE).time_s < found.time_s / 1.5
