"""Files of clusters and networks: what is written is read back, and joined with link speeds."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weftline.errors import InputError
from weftline.fabric.formats import (
    Description,
    Host,
    from_networkx,
    read_topology,
    to_networkx,
    topology_of,
    write_description,
    write_topology,
)
from weftline.fabric.formats.clusters import (
    kubernetes,
    schedulers,
    slurm_conf,
    slurm_yaml,
    topograph,
)
from weftline.fabric.formats.networks import astra_sim, infragraph, networkx_json, tenstorrent
from weftline.fabric.graph import Topology
from weftline.fabric.parse import parse_topology
from weftline.fabric.routing import routes
from weftline.launch.hypernodes import write_volcano

TREE = """\
SwitchName=leaf0 Nodes=n[00-15]
SwitchName=leaf1 Nodes=n[16-31]
SwitchName=spine Switches=leaf[0-1]
"""
TORUS = """\
- topology: pod
  cluster_default: true
  torus3d:
    toruses:
      - name: p0
        dims: {x: 4, y: 2, z: 2}
        nodes: t[00-15]
"""


def _path(tmp_path: Path, text: str, name: str = "file") -> Path:
    path = tmp_path / name
    path.write_text(text, "utf-8")
    return path


# --- round trips --------------------------------------------------------------------------------

_NAME = st.from_regex(r"[a-z][a-z0-9-]{0,5}", fullmatch=True)


@st.composite
def _trees(draw: st.DrawFn) -> Description:
    """Hosts under one to three tiers of switches; names of the parts do not collide."""
    tiers = draw(st.integers(1, 3))
    hosts: list[Host] = []
    for i in range(draw(st.integers(1, 12))):
        leaf = draw(st.integers(0, 5))
        path = tuple(f"s{t}-{leaf // 2**t}" for t in range(tiers))
        domain = draw(st.sampled_from([None, "d0", "d1"]))
        kind = draw(st.sampled_from([None, "p5.48xlarge"]))
        hosts.append(Host(name=f"h{i}", path=path, domain=domain, instance_type=kind))
    return Description(format="x", kind="tree", hosts=tuple(hosts))


def _placed(described: Description) -> dict[str, tuple[str, ...]]:
    return {h.name: h.path for h in described.hosts}


@given(_trees())
@settings(max_examples=40, deadline=None)
def test_trees_round_trip_through_every_format_that_has_them(described: Description) -> None:
    for to, read in (
        ("slurm-conf", slurm_conf.read), ("slurm-yaml", slurm_yaml.read),
        ("kubernetes", kubernetes.read), ("topograph", topograph.read),
        ("topograph-model", topograph.read), ("volcano", schedulers.read),
    ):  # fmt: skip
        text = write_volcano(described) if to == "volcano" else write_description(described, to)
        back = read(text, "f")
        assert _placed(back) == _placed(described), to
        if to not in ("slurm-conf", "slurm-yaml", "volcano"):
            assert {h.name: (h.domain, h.instance_type) for h in back.hosts} == {
                h.name: (h.domain, h.instance_type) for h in described.hosts
            }, to


@given(st.lists(st.integers(1, 6), min_size=1, max_size=4), st.booleans())
@settings(max_examples=30, deadline=None)
def test_blocks_and_rings_round_trip(sizes: list[int], rings: bool) -> None:
    hosts, shapes = [], {}
    for b, size in enumerate(sizes):
        for i in range(size):
            name = f"h{b}-{i}"
            hosts.append(Host(name=name, group=f"r{b}", point=(i,)) if rings
                         else Host(name=name, domain=f"b{b}"))  # fmt: skip
        shapes[f"r{b}"] = (size,)
    described = Description(
        format="x", kind="ring" if rings else "block", hosts=tuple(hosts),
        shapes=shapes if rings else {}, block_sizes=() if rings else (4, 8),
    )  # fmt: skip
    for to, read in (("slurm-conf", slurm_conf.read), ("slurm-yaml", slurm_yaml.read)):
        back = read(write_description(described, to), "f")
        assert (back.kind, back.hosts, dict(back.shapes), back.block_sizes) == (
            described.kind, described.hosts, dict(described.shapes), described.block_sizes
        )  # fmt: skip


@given(st.tuples(*[st.integers(1, 3)] * 3), st.data())
@settings(max_examples=30, deadline=None)
def test_tori_round_trip_whole_and_with_holes(shape: tuple[int, ...], data: st.DataObject) -> None:
    hosts = [
        Host(name=f"t{i}", group="p", point=(i % shape[0], i // shape[0] % shape[1],
                                             i // (shape[0] * shape[1])))
        for i in range(math.prod(shape))
    ]  # fmt: skip
    kept = data.draw(st.lists(st.sampled_from(hosts), min_size=1, unique=True))
    for some in (hosts, sorted(kept, key=lambda h: int(h.name[1:]))):
        described = Description(format="x", kind="torus3d", hosts=tuple(some), shapes={"p": shape})
        back = slurm_yaml.read(write_description(described, "slurm-yaml"), "f")
        assert (back.hosts, dict(back.shapes)) == (described.hosts, {"p": shape})


def _same(one: Topology, two: Topology, *, rel: float = 0.0) -> None:
    """The same links, whatever their order."""
    assert (one.ranks, one.switches, one.links) == (two.ranks, two.switches, two.links)

    def rows(t: Topology) -> Any:
        return np.asarray(sorted(zip(t.source, t.destination, t.bandwidth_bytes_per_s, t.latency_s,
                                     strict=True)))  # fmt: skip

    np.testing.assert_allclose(rows(one), rows(two), rtol=max(rel, 1e-12))


NETWORKS = (
    "torus:4x3", "mesh:3x2", "ring:5", "switch:4,nvls", "full-mesh:4", "fat-tree:4",
    "dragonfly:2x2x1", "torus:4x8,twist=0x2", "clos:8,leaf=4,oversubscription=2",
)  # fmt: skip


@pytest.mark.parametrize("text", NETWORKS)
def test_networks_round_trip(text: str, tmp_path: Path) -> None:
    topology = parse_topology(text, link="100GB/s", latency="1us")
    path = _path(tmp_path, write_topology(topology), "f.json")
    back = read_topology(path)
    _same(topology, back)
    for name in ("grid", "group", "kind", "levels", "interchangeable", "chips_forward", "name"):
        assert getattr(back, name) == getattr(topology, name), name
    for name in ("reducing", "link_class"):
        assert np.array_equal(getattr(back, name), getattr(topology, name)), name
    _same(topology, networkx_json.read(networkx_json.write(topology), "f"))
    _same(topology, from_networkx(to_networkx(topology)))
    _same(topology, infragraph.read(infragraph.write(topology), "f"), rel=1e-9)


@pytest.mark.parametrize(
    ("text", "writer"),
    [("torus:4x3", "astra-sim"), ("ring:5", "astra-sim"), ("switch:4", "astra-sim"),
     ("full-mesh:4", "astra-sim"), ("torus:4x8", "tenstorrent"), ("mesh:4x8", "tenstorrent")],
)  # fmt: skip
def test_regular_networks_round_trip_in_formats_of_few_words(text: str, writer: str) -> None:
    topology = parse_topology(text, link="100GB/s", latency="1us")
    written = write_topology(topology, writer)
    back = (astra_sim.read(written, "f") if writer == "astra-sim"
            else tenstorrent.read(written, "f", latency_s=1e-6))  # fmt: skip
    _same(topology, back, rel=1e-9)


def test_what_a_format_cannot_say_is_refused() -> None:
    dragonfly = parse_topology("dragonfly:2x2x1", link="1GB/s")
    for to in ("astra-sim", "tenstorrent"):
        with pytest.raises(InputError):
            write_topology(dragonfly, to)
    torus = slurm_yaml.read(TORUS, "f")
    with pytest.raises(InputError, match="torus3d"):
        write_description(torus, "slurm-conf")


# --- joined with the catalogue ------------------------------------------------------------------


def test_a_slurm_tree_of_h100_gets_the_catalogues_speeds() -> None:
    found = topology_of(slurm_conf.read(TREE, "f"), "h100", oversubscription=2.0)
    assert (found.ranks, found.levels) == (256, (8, 256))
    assert found.egress_bytes_per_s()[0] == pytest.approx(450e9 + 50e9)
    assert found.reduces()
    assert found.labels[8] == "n01/0"
    # 16 hosts of 8 chips below a leaf, 50 GB/s each, halved.
    assert found.bandwidth_bytes_per_s.max() == pytest.approx(16 * 8 * 50e9 / 2)
    found.require_connected()
    assert "assumed" in found.basis["uplinks"]


def _switches(topology: Topology) -> int:
    """Switches without the NICs."""
    return sum(not label.endswith(" nic") for label in topology.labels[topology.ranks :])


@pytest.mark.parametrize("chip", ["h100", "mi300x", "trn2"])
def test_traffic_inside_a_host_stays_off_its_nics(chip: str) -> None:
    found = topology_of(slurm_conf.read("SwitchName=s Nodes=n[0-3]\n", "f"), chip)
    per_host = found.levels[0]
    pairs = [(a, b) for a in range(per_host) for b in range(per_host) if a != b]
    near = routes(found, np.array([a for a, _ in pairs]), np.array([b for _, b in pairs]))
    nics = {i for i, label in enumerate(found.labels) if label.endswith(" nic")}
    used = set(found.destination[near.links].tolist())
    assert nics
    if chip == "trn2":
        # Routes let no chip of a network with switches pass on what is not its own: only
        # neighbours of the torus are joined without.
        near = routes(found, np.array([0, 0]), np.array([1, 4]))
        used = set(found.destination[near.links].tolist())
    assert not used & nics
    far = routes(found, np.array([0]), np.array([per_host]))
    assert nics & set(found.destination[far.links].tolist())


def test_nvlink_domains_over_hosts_are_one_switch_and_capacity_blocks_are_not() -> None:
    text = "BlockName=nvl0 Nodes=g[00-17]\nBlockName=nvl1 Nodes=g[18-35]\n"
    wide = topology_of(slurm_conf.read(text, "f"), "gb200-nvl72")
    assert (wide.ranks, wide.levels) == (144, (4, 72, 144))
    assert _switches(wide) == 3
    narrow = topology_of(slurm_conf.read(text, "f"), "h100", chips_per_host=8)
    assert narrow.levels == (8, 288)
    assert _switches(narrow) == 36 + 1


def test_a_torus_of_single_chips_keeps_its_grid_and_order() -> None:
    found = topology_of(slurm_yaml.read(TORUS, "f"), "tpu-v5p", chips_per_host=1)
    assert found.grid is not None
    assert found.grid.shape == (2, 2, 4)
    assert found.labels[1] == "t01"
    assert found.is_symmetric
    hosts = topology_of(slurm_yaml.read(TORUS, "f"), "tpu-v5p")
    assert (hosts.ranks, hosts.switches) == (64, 16)
    hosts.require_connected()


@given(_trees(), st.sampled_from(["h100", "mi300x", "trn2", "tpu-v5e", "gb200-nvl72"]))
@settings(max_examples=25, deadline=None)
def test_every_description_joins_into_a_connected_network(
    described: Description, chip: str
) -> None:
    found = topology_of(described, chip)
    assert found.ranks % len(described.hosts) == 0
    if found.ranks > 1:
        found.require_connected()
