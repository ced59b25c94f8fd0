"""Clusters read from their own files are answered as the named fabrics they are equal to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weftline.fabric.answer import collective_answer
from weftline.fabric.bounds import bound
from weftline.fabric.formats import import_fabric, topology_of
from weftline.fabric.formats.clusters import joined, slurm_conf
from weftline.fabric.formats.clusters.expanded import with_chips
from weftline.fabric.graph import Topology
from weftline.fabric.parse import parse_topology
from weftline.fabric.predictor.networks import machine_of
from weftline.fabric.schedule import Collective

DATA = Path(__file__).parent / "data" / "network"


def _tree(leaves: list[int], over: float = 1.0, chip: str = "h100", chips: int = 8) -> Topology:
    first, lines = 0, []
    for k, hosts in enumerate(leaves):
        lines.append(f"SwitchName=s{k} Nodes=n[{first}-{first + hosts - 1}]")
        first += hosts
    lines.append(f"SwitchName=top Switches=s[0-{len(leaves) - 1}]")
    described = slurm_conf.read("\n".join(lines) + "\n", "topology.conf")
    return topology_of(described, chip, chips_per_host=chips, oversubscription=over)


@pytest.mark.parametrize("collective", ["all-reduce", "all-gather", "all-to-all"])
def test_an_imported_cluster_gives_what_the_named_fabric_gives(collective: Collective) -> None:
    """What NCCL reaches on H100 counts however the cluster came in, below 512 chips as above."""
    own, named = _tree([1, 2]), parse_topology("h100-clos:24")
    assert own.kind == "graph"
    for size in (32e3, 1e9):
        mine = collective_answer(own, collective, size)
        theirs = collective_answer(named, collective, size)
        assert mine["time_s"] == pytest.approx(theirs["time_s"], rel=1e-12)
        assert mine["library"]["parts"] == pytest.approx(theirs["library"]["parts"])
        assert mine["bound"]["bandwidth_s"] == pytest.approx(theirs["bound"]["bandwidth_s"])


def test_an_instance_type_says_the_network() -> None:
    found = import_fabric(DATA / "ec2_topology.json").description
    assert found is not None
    answer = collective_answer(topology_of(found), "all-to-all", 1e9)
    assert answer["library"]["across"] == "EFA v2"


def test_hosts_and_their_chips_are_answered_through_their_library() -> None:
    xml = import_fabric(DATA / "nccl_topo.xml", chip="h100").topology
    smi = import_fabric(DATA / "nvidia_smi_topo_m.txt", chip="h100").topology
    assert xml is not None
    assert smi is not None
    # GPUs behind NVSwitches: their PCIe links are no part of the domain's rate.
    assert machine_of(xml) == machine_of(parse_topology("h100:2"))
    found = machine_of(smi)
    assert found is not None
    assert (found.library, found.domains, found.kind) == ("nccl", 1, "nvlink")
    fabric = import_fabric(DATA / "ibnetdiscover_agg_node.txt").topology
    assert fabric is not None
    wide = machine_of(with_chips(fabric, "h100"))
    assert wide is not None
    assert (wide.domains, wide.per_domain) == (2, 8)


@pytest.mark.parametrize(("collective", "algorithm"),
                         [("all-to-all", "direct"), ("all-reduce", "hierarchical")])  # fmt: skip
def test_a_folded_cluster_times_as_its_own_links_do(
    collective: Collective, algorithm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every message followed over the cluster's own links is the oracle of the symmetric form."""
    graph = _tree([2, 2, 2, 2], over=2.0, chips=4)
    monkeypatch.setattr(joined, "FOLDED_FROM", 1)
    folded = _tree([2, 2, 2, 2], over=2.0, chips=4)
    assert graph.kind == "graph"
    assert folded.kind == "nested"
    times = [collective_answer(t, collective, 4e9, algorithm=algorithm, library="none")["time_s"]
             for t in (graph, folded)]  # fmt: skip
    # In more pieces, which cost no rows there, the symmetric form fills its pipeline sooner.
    assert 0.95 * times[0] <= times[1] <= 1.001 * times[0]


def test_oversubscribed_uplinks_cost_an_all_to_all_what_crosses_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(joined, "FOLDED_FROM", 1)
    plain, thin = (
        collective_answer(_tree([4] * 4, over), "all-to-all", 1e9) for over in (1.0, 4.0)
    )
    # Of a chip's messages beyond its host 120 of 128 leave the host, 96 the leaf, at a quarter.
    assert thin["time_s"] / plain["time_s"] == pytest.approx(4 * 96 / 120, rel=1e-6)
    assert thin["library"]["slowed_why"] == "oversubscribed uplinks"
    assert plain["library"]["slowed_by"] == 1.0
    same = [collective_answer(_tree([4] * 4, over), "all-reduce", 1e9) for over in (1.0, 4.0)]
    assert same[0]["time_s"] == same[1]["time_s"]


def test_thousands_of_chips_below_unequal_thin_leaves_are_folded() -> None:
    sizes = [32] * 7 + [26]
    found = _tree(sizes, over=2.0)
    assert found.is_symmetric
    assert sorted(found.labels) == sorted(f"n{h}/{i}" for h in range(250) for i in range(8))
    assert "8 unequal leaves as 10 of 25" in found.basis["uplinks"]
    answer = collective_answer(found, "all-reduce", 1e9)
    assert answer["evaluator"] == "orbit"
    # Rings that follow the leaves do not feel the oversubscription.
    assert answer["link_rate_s"] <= 1.1 * answer["bound"]["time_s"]


@given(st.lists(st.integers(1, 64), min_size=1, max_size=12))
def test_equal_leaves_are_no_wider_than_the_narrowest(sizes: list[int]) -> None:
    even = joined._even_leaf(sizes)
    if even is not None:
        assert sum(sizes) % even == 0
        assert min(sizes) / 2 <= even <= min(sizes)
    if len(sizes) > 1 and len(set(sizes)) == 1:
        assert even == sizes[0]


def test_bounds_of_an_imported_cluster_count_its_hosts() -> None:
    """Unequal hosts: what all of them send together bounds an all-reduce, not the first one's."""
    own = _tree([2, 2])
    rates = own.bandwidth_bytes_per_s.copy()
    nic = np.flatnonzero((own.source < 8) & (rates == rates[own.source < 8].min()))
    rates[nic] /= 2
    slow = Topology(**{f: getattr(own, f) for f in own.__dataclass_fields__}
                    | {"bandwidth_bytes_per_s": rates})  # fmt: skip
    before, after = (bound(t, "all-reduce", 1e9).bandwidth_s for t in (own, slow))
    assert after == pytest.approx(before * 32 / 28)
