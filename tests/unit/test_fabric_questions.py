"""Questions of people with clusters, each with what was measured or is known: answers lie within.

n9 and n10, of placement, are in ``test_fabric_packing.py``.
"""

from __future__ import annotations

import json

import pytest

from weftline.fabric import predict
from weftline.fabric.formats import topology_of
from weftline.fabric.formats.clusters import slurm_conf
from weftline.fabric.formats.clusters.kubernetes import read as read_nodes
from weftline.fabric.graph import Topology

KIB, MIB, GIB = 2**10, 2**20, 2**30


@pytest.mark.parametrize(
    ("collective", "size_bytes", "network", "least_s", "most_s"),
    [
        # 835 to 847 GB/s of bus bandwidth measured; 1.81 ms.
        pytest.param("all-reduce", 8 * GIB, "gb200-nvl72", 18e-3, 23e-3, id="n1"),
        pytest.param("all-reduce", 512 * MIB, "gb200-nvl72", 1.5e-3, 2.2e-3, id="n2"),
        pytest.param("all-reduce", 8 * GIB, "mi300x-clos:16", 41e-3, 49e-3, id="n3"),  # 45.1
        pytest.param("all-reduce", MIB, "h100-clos:8", 33e-6, 52e-6, id="n4"),  # 42.0
        pytest.param("all-reduce", 32 * KIB, "h100-clos:8", 26e-6, 42e-6, id="n5"),  # 33.5
    ],
)
def test_times_lie_where_they_were_measured(
    collective: str, size_bytes: float, network: str, least_s: float, most_s: float
) -> None:
    assert least_s <= predict(collective, size_bytes, None, network).time_s <= most_s


def test_two_racks_lie_between_one_rack_and_what_their_network_carries() -> None:
    """n6: 144 x GB200."""
    one = predict("all-reduce", 8 * GIB, None, "gb200-nvl72").time_s
    two = predict("all-reduce", 8 * GIB, None, "gb200-clos:144").time_s
    # Hierarchically a chip sends 2/72 of the buffer to the other rack, at 50 GB/s at least.
    assert one < two < one + 2 * 8 * GIB / 72 / 50e9 * 2


def test_two_thousand_gpus_from_their_own_file() -> None:
    """n7: 248 hosts of 8 H200; nccl-tests reached 300 to 380 GB/s of bus bandwidth."""
    text = "\n".join(f"SwitchName=s{k} Nodes=n[{31 * k}-{31 * k + 30}]" for k in range(8))
    tree = slurm_conf.read(text + "\nSwitchName=top Switches=s[0-7]\n", "topology.conf")
    found = predict("all-reduce", 8 * GIB, None, topology_of(tree, "h200"))
    assert 300e9 <= found.bus_bytes_per_s <= 380e9


def test_all_to_all_over_six_nodes() -> None:
    """n8: 48 x H100 (nccl-tests, issue 267)."""
    assert 45e9 <= predict("all-to-all", 8 * GIB, None, "h100-clos:48").bus_bytes_per_s <= 60e9


def test_a_slice_from_its_nodes_labels_is_the_named_slice() -> None:
    """n11: 2x2x2 of TPU v5p takes 5.84 ms for 1 GB."""
    label = "cloud.google.com/gke-tpu-"
    nodes = {"kind": "List", "items": [
        {"metadata": {"name": f"tpu-{k}", "labels": {
            f"{label}accelerator": "tpu-v5p-slice", f"{label}topology": "2x2x2",
            "cloud.google.com/gke-nodepool": "pool"}}} for k in range(2)]}  # fmt: skip
    described = read_nodes(json.dumps(nodes), "nodes.json")
    network = topology_of(described)
    assert isinstance(network, Topology)
    for given in (network, "tpu-v5p:2x2x2"):
        assert predict("all-reduce", 1e9, None, given).time_s == pytest.approx(5.84e-3, rel=2e-3)
