"""Networks: counts, symmetry, names and their sources, faults, and what cannot be."""

from __future__ import annotations

import math
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weftline.catalog import fabrics
from weftline.errors import InputError, UnknownNameError
from weftline.fabric import (
    COLLECTIVES,
    Grid,
    OrbitSchedule,
    Topology,
    algorithms_for,
    build,
    evaluate,
    expand,
    fail_links,
    named_fabric,
    named_fabrics,
    parse_topology,
    slow_links,
    without_links,
)
from weftline.fabric.algorithms.ring import cycle_of
from weftline.fabric.failures import cables_of
from weftline.fabric.formats import write_topology

SIZED = ("clos", "efa", "p5", "p6")
"""Parts of names of fabrics that need a number of chips."""


def _graph(network: Topology) -> nx.MultiDiGraph:
    graph = nx.MultiDiGraph()
    graph.add_nodes_from(range(network.nodes))
    for link in range(network.links):
        graph.add_edge(
            int(network.source[link]), int(network.destination[link]),
            speed=float(network.bandwidth_bytes_per_s[link]),
        )  # fmt: skip
    return graph


# --- counts against independent constructions -----------------------------------------------------


@given(st.lists(st.integers(1, 4), min_size=1, max_size=3), st.booleans())
def test_grids_are_products_of_rings_and_paths(sides: list[int], wraps: bool) -> None:
    network = parse_topology(f"{'torus' if wraps else 'mesh'}:{'x'.join(map(str, sides))}", 1e9)
    expected = nx.Graph()
    expected.add_node(())
    for side in sides:
        axis = nx.cycle_graph(side) if wraps and side > 2 else nx.path_graph(side)
        expected = nx.cartesian_product(expected, axis)
    assert network.links == 2 * expected.number_of_edges()
    assert nx.is_isomorphic(nx.Graph(_graph(network)), expected)


def test_known_networks_have_the_counts_of_their_papers() -> None:
    tree = parse_topology("fat-tree:8", "1GB/s")
    assert (tree.ranks, tree.switches, tree.links) == (128, 80, 2 * 3 * 128)
    fly = parse_topology("dragonfly:2x4x2", "1GB/s")
    assert (fly.ranks, fly.switches) == (72, 36)
    assert fly.links == 2 * (72 + 9 * 6 + 36)
    degree = np.bincount(fly.source, minlength=fly.nodes)[fly.ranks :]
    assert set(degree) == {2 + 3 + 2}
    mesh = parse_topology("hammingmesh:2x2x4x4", "1GB/s")
    assert (mesh.ranks, mesh.switches) == (64, 16)
    assert set(np.bincount(mesh.source, minlength=mesh.nodes)[:64]) == {4}
    leaves = parse_topology("clos:64,leaf=16,oversubscription=4", "1GB/s")
    assert leaves.switches == 5
    assert leaves.bandwidth_bytes_per_s.max() == 16e9 / 4


@pytest.mark.parametrize("text", [
    "torus:3x4", "torus:2x4", "ring:5", "switch:4", "full-mesh:5", "clos:12,leaf=4", "fat-tree:4",
    "switch:3/clos:4", "torus:2x3/clos:2", "switch:4,nvls/clos:2,rails=no",
    "mesh:2x2/ring:4", "switch:2/torus:2x3",
])  # fmt: skip
def test_shifts_of_the_group_change_nothing(text: str) -> None:
    """Distances and cuts between chips are the same after every shift of one along an axis."""
    network = parse_topology(text, "4GB/s,1GB/s" if "/" in text else "1GB/s", "1us")
    assert network.is_symmetric
    assert network.group is not None
    graph = _graph(network)
    far = dict(nx.all_pairs_shortest_path_length(graph))
    chips = range(network.ranks)
    distance = np.array([[far[a][b] for b in chips] for a in chips])
    flow = nx.DiGraph()
    for a, b, data in graph.edges(data=True):
        before = flow[a][b]["capacity"] if flow.has_edge(a, b) else 0.0
        flow.add_edge(a, b, capacity=before + data["speed"])
    wide = np.array([
        [0.0 if a == b else nx.maximum_flow_value(flow, a, b) for b in chips] for a in chips
    ])  # fmt: skip
    points = network.group.coordinates(np.arange(network.ranks))
    for axis in range(len(network.group.shape)):
        step = np.zeros(len(network.group.shape), dtype=np.int64)
        step[axis] = 1
        moved = network.group.rank(points + step)
        assert (distance[np.ix_(moved, moved)] == distance).all()
        assert np.allclose(wide[np.ix_(moved, moved)], wide)


@pytest.mark.parametrize("text", [
    "torus:2x3/clos:4", "mesh:2x2/ring:4", "switch:4/torus:2x3", "full-mesh:4/clos:3",
    "switch:2/clos:6,leaf=2,oversubscription=2",
])  # fmt: skip
def test_nests_take_as_long_by_symmetry_as_written_out(text: str) -> None:
    """Link classes of a nest are right: one chip's rows tell the time of all."""
    network = parse_topology(text, "5GB/s,1GB/s", "2us,1us")
    for collective in COLLECTIVES:
        for name in algorithms_for(network, collective):
            made = build(network, collective, name, pieces=2)
            if isinstance(made, OrbitSchedule):
                short, long = (
                    evaluate(network, made, 1e7, how="orbit"),
                    evaluate(network, expand(made), 1e7, how="flow"),
                )
                assert short.time_s == pytest.approx(long.time_s, rel=1e-6), (collective, name)


def test_a_product_of_tori_is_the_torus_of_all_axes() -> None:
    nest = parse_topology("torus:4x4/ring:4", "128GB/s,64GB/s", "1us")
    whole = parse_topology("torus:4x4x4", "64GB/s,128GB/s,128GB/s", "1us")
    assert nx.is_isomorphic(nx.Graph(_graph(nest)), nx.Graph(_graph(whole)))
    links = [
        sorted(zip(t.source.tolist(), t.destination.tolist(),
                   t.bandwidth_bytes_per_s.tolist(), strict=True)) for t in (nest, whole)
    ]  # fmt: skip
    assert links[0] == links[1]


def test_a_twisted_torus_is_regular_and_has_a_shorter_diameter() -> None:
    """k x 2k twisted by k: as many links, each chip alike, farthest chips nearer."""
    plain, twisted = parse_topology("torus:8x4", 1e9), parse_topology("torus:8x4,twist=0x4", 1e9)
    one, two = _graph(plain), _graph(twisted)
    assert twisted.links == plain.links
    assert set(dict(two.out_degree()).values()) == {4}
    assert not twisted.is_symmetric
    assert nx.diameter(two) < nx.diameter(one)


@settings(max_examples=80)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=3), st.booleans())
def test_a_cycle_through_all_chips_takes_single_links(sides: list[int], wraps: bool) -> None:
    """Wherever one exists: always with wrap-arounds, and on meshes with an even number of chips."""
    grid = Grid(shape=tuple(sides), wraps=(wraps,) * len(sides))
    order = cycle_of(grid)
    assert sorted(order) == list(range(grid.size))
    step = np.abs(np.diff(grid.coordinates(np.append(order, order[0])), axis=0))
    if wraps:
        step = np.minimum(step, np.array(sides) - step)
    real = [s for s in sides if s > 1]
    one_way = (wraps and len(real) == 1) or grid.size <= 2
    exists = one_way or (len(real) > 1 and ((wraps and max(real) > 2) or grid.size % 2 == 0))
    jumps = step.sum(axis=1)
    assert (jumps[:-1] <= 1).all()
    if exists:
        assert jumps[-1] <= 1


# --- named fabrics --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", named_fabrics())
def test_every_named_fabric_is_connected_and_says_what_it_rests_on(name: str) -> None:
    needs_size = any(part in name for part in SIZED) and not name.startswith("nvlink")
    network = named_fabric(name, (1152,)) if needs_size else named_fabric(name)
    network.require_connected()
    assert "latency" in network.basis or "out.latency" in network.basis
    speeds = [text for key, text in network.basis.items() if "link" in key or "tier" in key]
    assert speeds
    assert all("one direction" in text for text in speeds)
    assert all("source" in text or "assumed" in text for text in network.basis.values()
               if "wrap" not in text and "close" not in text)  # fmt: skip


def test_every_fabric_of_the_catalogue_has_a_name_here() -> None:
    assert set(fabrics()) <= set(named_fabrics())


def test_named_fabrics_have_the_speeds_of_their_facts() -> None:
    ultra = parse_topology("trn2-ultraserver")
    assert ultra.grid is not None
    by_axis = [ultra.bandwidth_bytes_per_s[ultra.link_class == 2 * a].max() for a in range(3)]
    assert by_axis == [128e9, 128e9, 64e9]
    assert set(ultra.egress_bytes_per_s()) == {640e9}
    assert set(parse_topology("tpu-v5p:4x4x8").bandwidth_bytes_per_s) == {100e9}
    assert set(parse_topology("mi300x").egress_bytes_per_s()) == {448e9}
    assert set(parse_topology("gaudi3").egress_bytes_per_s()) == {525e9}
    assert set(parse_topology("h100-clos:64").egress_bytes_per_s()) == {450e9 + 50e9}
    assert parse_topology("h100").reduces()
    assert not parse_topology("mi300x").reduces()


def test_tpu_slices_close_only_where_they_do() -> None:
    def wraps(text: str) -> tuple[bool, ...]:
        grid = parse_topology(text).grid
        assert grid is not None
        return grid.wraps

    assert wraps("tpu-v5e:4x16") == (False, True)
    assert wraps("tpu-v6e:16x16") == (True, True)
    assert wraps("tpu-v4:2x2x4") == (False,) * 3
    assert wraps("tpu-v5p:4x4x8") == (True,) * 3
    twisted = parse_topology("tpu-v4:4x4x8,twisted").grid
    assert twisted is not None
    assert (twisted.shape, twisted.twist) == ((8, 4, 4), (0, 4, 4))


# --- faults ---------------------------------------------------------------------------------------


def test_failed_cables_go_both_ways_and_come_from_the_seed() -> None:
    whole = parse_topology("torus:4x4x4", 1e9)
    one, again, other = fail_links(whole, 3, 5), fail_links(whole, 3, 5), fail_links(whole, 3, 6)
    assert one.links == whole.links - 6
    assert one.failed == again.failed != other.failed
    gone = set(zip(whole.source[list(one.failed)].tolist(),
                   whole.destination[list(one.failed)].tolist(), strict=True))  # fmt: skip
    assert gone == {(b, a) for a, b in gone}
    assert not one.is_symmetric
    assert fail_links(whole, 0) is whole


def test_every_link_is_in_one_cable() -> None:
    for text in ("torus:2x4", "full-mesh:5", "dragonfly:1x2x1", "switch:3/clos:2"):
        network = parse_topology(text, "2GB/s,1GB/s" if "/" in text else "1GB/s")
        pairs = cables_of(network)
        assert sorted(pairs.reshape(-1)) == list(range(network.links))
        assert (network.source[pairs[:, 0]] == network.destination[pairs[:, 1]]).all()


def test_slowed_links_keep_a_share_of_their_speed() -> None:
    slow = slow_links(parse_topology("ring:8", 1e9), 2, 0.25, seed=1)
    assert sorted(slow.bandwidth_bytes_per_s.tolist()) == [0.25e9] * 4 + [1e9] * 12
    assert not slow.is_symmetric


# --- what cannot be -------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "link", "says", "hint"), [
    ("torus:0x4", "1GB/s", "`0` is no whole number from 1", "torus:8x8x16"),
    ("torus:4x-4", "1GB/s", "`-4` is no whole number", "torus:8x8x16"),
    ("torus:", "1GB/s", "has no size", "torus:8x8x16"),
    ("torus:2048x2048", "1GB/s", "4,194,304 chips", "at most"),
    ("torsu:4x4", "1GB/s", "unknown network `torsu`", "did you mean `torus`"),
    ("torus:4x4", None, "has no link speed", "--link 100GB/s"),
    ("torus:4x4", "1us", "that is a unit of a time", "46GB/s"),
    ("torus:4x4", "1GB", "that is a unit of a size", "46GB/s"),
    ("torus:4x4", "1GB/s,2GB/s,3GB/s", "3 link speeds for 2 axes", "one for each axis"),
    ("ring:4x4", "1GB/s", "a ring has one side", "ring:16"),
    ("torus:4x4,wrap=y", "1GB/s", "wrap=y", "y or n for each axis"),
    ("torus:8x4,twist=2x0", "1GB/s", "axis 0 cannot be twisted", "later axis"),
    ("fat-tree:3", "1GB/s", "switches with 3 ports", "an even number"),
    ("dragonfly:4x8", "1GB/s", "2 sizes where 3 are needed", "dragonfly:4x8x4"),
    ("clos:64,oversubscription=2", "1GB/s", "needs the size of its leaves", "leaf=32"),
    ("clos:64,leaf=0", "1GB/s", "leaf=0", "leaf=32"),
    ("clos:64,oversubscripton=2", "1GB/s", "unknown option of clos", "did you mean"),
    ("switch:8/clos:4", "1GB/s", "needs two link speeds", "450GB/s,50GB/s"),
    ("switch:8/clos:4/clos:2", "1GB/s", "only two levels", "switch:8/clos:128"),
    ("h100:16", None, "joins 8 chips at most", "h100-clos:16"),
    ("h100-clos:12", None, "whole units of 8", "h100-clos:128"),
    ("h100-clos", None, "whole units of 8", "h100-clos:128"),
    ("tpu-v5e:32x8", None, "at most 16 chips", "tpu-v5e:16x16"),
    ("tpu-v5p:64", None, "a grid of 3 axes, 1 sides", "tpu-v5p:"),
    ("tpu-v4:4x4x4,twisted", None, "cannot be twisted", "4x4x8"),
    ("h100,twisted", None, "unknown option", "tpu-v4:4x4x8"),
    ("missing.json", None, "no file `missing.json`", "weftline import"),
])  # fmt: skip
def test_networks_that_cannot_be(text: str, link: str | None, says: str, hint: str) -> None:
    with pytest.raises(InputError) as raised:
        parse_topology(text, link, where="--on")
    assert says in raised.value.what
    assert hint in (raised.value.hint or "")
    assert raised.value.where is not None


def test_what_is_no_network() -> None:
    ring = parse_topology("ring:4", 1e9)
    base = {"name": "x", "ranks": 2, "source": np.array([0]), "destination": np.array([1]),
            "bandwidth_bytes_per_s": np.array([1.0]), "latency_s": np.array([0.0])}  # fmt: skip
    for change, says in (
        ({"destination": np.array([2])}, "a link ends at node 2"),
        ({"bandwidth_bytes_per_s": np.array([0.0])}, "bandwidth 0 bytes/s"),
        ({"bandwidth_bytes_per_s": np.array([math.nan])}, "bandwidth nan"),
        ({"latency_s": np.array([-1.0])}, "latency is below zero"),
        ({"latency_s": np.zeros(2)}, "unequal lengths"),
    ):
        with pytest.raises(InputError, match=says):
            Topology(**{**base, **change})  # type: ignore[arg-type]
    with pytest.raises(InputError, match="is not connected: chip 0 and chip 1"):
        Topology(**base).require_connected()  # type: ignore[arg-type]
    with pytest.raises(InputError, match="not connected"):
        without_links(ring, [0, 1, 2, 3, 4, 5])
    with pytest.raises(InputError, match="has 4 cables, 5 of them cannot fail"):
        fail_links(ring, 5)
    with pytest.raises(InputError, match="-1 links cannot fail"):
        fail_links(ring, -1)
    with pytest.raises(InputError, match="of its speed"):
        slow_links(ring, 1, 0.0)
    with pytest.raises(UnknownNameError):
        named_fabric("h1000")


def test_a_fabric_file_is_read_where_one_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text("{}", encoding="utf-8")
    with pytest.raises(InputError):
        parse_topology(str(path))
    mesh = parse_topology("mesh:3x4", "50GB/s", "1us")
    path.write_text(write_topology(mesh), encoding="utf-8")
    again = parse_topology(str(path))
    made = build(again, "all-gather", "bucket", pieces=1)
    assert evaluate(again, made, 1e6).time_s == evaluate(mesh, made, 1e6).time_s
    with pytest.raises(InputError, match="states its own speeds"):
        parse_topology(str(path), "10GB/s")
