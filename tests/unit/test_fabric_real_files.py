"""Files as they come from clusters and tools: each imports right, or says what it lacks."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from weftline.cli.main import run
from weftline.errors import InputError, UnknownNameError
from weftline.fabric.formats import import_fabric, topology_of
from weftline.fabric.formats.clusters.adjacency import read_all
from weftline.fabric.formats.clusters.clouds import read as read_cloud
from weftline.fabric.formats.clusters.description import Description
from weftline.fabric.formats.clusters.expanded import with_chips
from weftline.fabric.formats.clusters.kubernetes import read as read_nodes
from weftline.fabric.formats.hosts import nccl, smi
from weftline.fabric.formats.networks import ibnetdiscover, infragraph, simulators
from weftline.fabric.formats.speeds import LinkSpeeds, parse_speeds
from weftline.fabric.graph import Topology
from weftline.fabric.parse import parse_topology

DATA = Path(__file__).parent / "data" / "network"


def _network(name: str, **asked: object) -> Topology:
    found = import_fabric(DATA / name, **asked).topology  # type: ignore[arg-type]
    assert found is not None
    return found


def _cluster(name: str) -> Description:
    found = import_fabric(DATA / name).description
    assert found is not None
    return found


# --- hosts ----------------------------------------------------------------------------------------


def test_nccl_topology_is_the_host_with_links_by_generation() -> None:
    host = _network("nccl_topo.xml")
    assert host.ranks == 2
    assert host.labels[:2] == ("GPU 0", "GPU 1")
    assert {"CPU 0", "mlx5_0", "NVSwitch"} <= set(host.labels)
    rates = set(np.round(host.bandwidth_bytes_per_s / 1e9, 1).tolist())
    # 18 NVLinks of generation 4 at 25 GB/s; 16 lanes of 32 GT/s, 128/130 of it data.
    assert rates == {450.0, 63.0}
    assert host.reduces()
    host.require_connected()


def test_rccl_writes_xgmi_and_an_unknown_generation_is_asked_for() -> None:
    text = (DATA / "nccl_topo.xml").read_text("utf-8")
    amd = text.replace('sm="90"', 'gcn="gfx942"').replace(
        '<nvlink target="0000:05:00.0" count="18" tclass="0x068000"/>',
        '<xgmi target="0000:2b:00.0" count="1" tclass="0x030200"/>', 1,
    ).replace('<nvlink target="0000:05:00.0" count="18" tclass="0x068000"/>',
              '<xgmi target="0000:1b:00.0" count="1" tclass="0x030200"/>')  # fmt: skip
    host = nccl.read_topology(amd, "f")
    assert (host.bandwidth_bytes_per_s == 64e9).sum() == 2
    with pytest.raises(InputError, match="f:5: no link rate of a GPU of sm 0"):
        nccl.read_topology(text.replace('sm="90"', 'sm="0"'), "f")
    speeds = LinkSpeeds(classes={"nvlink": 30e9})
    given = nccl.read_topology(text, "f", speeds=speeds)
    assert given.bandwidth_bytes_per_s.max() == 18 * 30e9
    # Virtual machines hide PCIe's speed: NCCL's own default, and said.
    hidden = nccl.read_topology(
        text.replace('link_speed="32.0 GT/s PCIe" link_width="16"', 'link_speed="" link_width="0"'),
        "f",
    )
    assert 15.75e9 < hidden.bandwidth_bytes_per_s.min() < 15.76e9
    assert "generation 3, 16 lanes for 5" in hidden.basis["pcie"]
    with pytest.raises(InputError, match="f:2: a <gpu> outside any <pci>"):
        nccl.read_topology('<system version="1">\n<gpu dev="0"/><cpu/></system>', "f")


def test_several_switch_chips_of_a_baseboard_are_one_switch() -> None:
    """As H100 hosts dump it: 5, 4, 5 and 4 links to four NVSwitches make 450 GB/s."""
    text = (DATA / "nccl_topo.xml").read_text("utf-8").replace(
        '<nvlink target="0000:05:00.0" count="18" tclass="0x068000"/>',
        "".join(f'<nvlink target="0000:0{i}:00.0" count="{n}" tclass="0x068000"/>'
                for i, n in ((5, 5), (6, 4), (7, 5), (8, 4))),
    )  # fmt: skip
    host = nccl.read_topology(text, "f")
    assert (host.bandwidth_bytes_per_s == 450e9).sum() == 4


def test_nccl_graph_gives_channels_and_rings() -> None:
    graph = _network("nccl_graph.xml")
    assert graph.ranks == 2
    assert "2 channels, ring, 20 GB/s each (NVL): 0-1, 1-0" in graph.basis["graph 0"]


def test_nvidia_smi_needs_the_chip_and_knows_a_switch_from_cables() -> None:
    path = DATA / "nvidia_smi_topo_m.txt"
    with pytest.raises(InputError, match="not how fast"):
        import_fabric(path)
    host = _network("nvidia_smi_topo_m.txt", chip="h100")
    assert (host.ranks, host.switches, host.kind) == (4, 1, "switch")
    assert host.egress_bytes_per_s().tolist() == pytest.approx([450e9] * 4)
    assert host.reduces()
    assert host.basis["NICs"] == "2: NIC0 at GPU0, NIC1 at GPU2"
    # A DGX-1's cube: one or two NVLinks a pair, six a GPU, and pairs without any.
    cube = """\
        GPU0    GPU1    GPU2    GPU3
GPU0     X      NV1     NV2     SYS
GPU1    NV1      X      SYS     NV2
GPU2    NV2     SYS      X      NV1
GPU3    SYS     NV2     NV1      X
"""
    four = smi.read_nvidia(cube, "f", chip="v100-16-sxm", link_bytes_per_s=25e9)
    assert four.switches == 0
    assert sorted(set(four.bandwidth_bytes_per_s.tolist())) == [25e9, 50e9]
    # Four A100 on one board: four links a pair, twelve a GPU, and no switch.
    board = cube.replace("NV1", "NV4").replace("NV2", "NV4").replace("SYS", "NV4")
    a100 = smi.read_nvidia(board, "f", chip="a100-80-sxm")
    assert (a100.switches, set(a100.bandwidth_bytes_per_s.tolist())) == (0, {100e9})
    with pytest.raises(InputError, match="f:3: row GPU1 has 3 entries for 4"):
        smi.read_nvidia(cube.replace("SYS     NV2\n", "NV2\n", 1), "f", chip="h100")


def test_rocm_smi_is_a_full_mesh() -> None:
    text = """\
================== Link Type between two GPUs ==================
       GPU0         GPU1         GPU2
GPU0   0            XGMI         XGMI
GPU1   XGMI         0            XGMI
GPU2   XGMI         XGMI         0
======================= Numa Nodes =======================
"""
    host = smi.read_rocm(text, "f", chip="mi300x", link_bytes_per_s=64e9)
    assert (host.ranks, host.links, host.switches) == (3, 6, 0)
    assert smi.detect_rocm(text)


# --- clusters -------------------------------------------------------------------------------------


def test_ec2_instance_types_say_chip_chips_and_network() -> None:
    found = _cluster("ec2_topology.json")
    assert [h.name for h in found.hosts] == ["i-0a1", "i-0a2", "i-0a3"]
    assert {(h.chip, h.chips) for h in found.hosts} == {("h100-sxm", 8)}
    assert dict(found.left_out) == {"m5.large (no accelerator)": 1}
    assert any("NextToken" in note for note in found.notes)
    network = topology_of(found)
    assert network.ranks == 24
    # 3,200 Gbit/s of EFA over 8 chips.
    assert 50e9 in set(network.bandwidth_bytes_per_s.tolist())


def test_instances_without_accelerators_alone_are_an_error_by_name() -> None:
    text = (DATA / "ec2_topology.json").read_text("utf-8").replace("p5.48xlarge", "c7i.metal")
    with pytest.raises(InputError, match=r"no instance has accelerators: c7i.metal, m5.large"):
        read_cloud(text, "f")


def test_kubernetes_leaves_cpu_nodes_out_and_counts_them() -> None:
    found = _cluster("k8s_nodes_list.yaml")
    assert [h.name for h in found.hosts] == ["gke-a", "gke-b"]
    assert dict(found.left_out) == {"machines (no accelerator)": 1}
    assert {h.chip for h in found.hosts} == {"h200-sxm"}
    assert topology_of(found).ranks == 16


def test_a_tpu_slice_is_the_torus_of_its_labels() -> None:
    network = topology_of(_cluster("k8s_tpu_nodes.yaml"))
    named = parse_topology("tpu-v5p:2x2x2")
    assert network.grid == named.grid
    assert network.bandwidth_bytes_per_s.tolist() == named.bandwidth_bytes_per_s.tolist()
    # Hosts are 2x2x1: z tells them apart.
    assert network.labels[0].startswith("t0/")
    assert network.labels[1].startswith("t1/")


def test_nodes_of_several_chips_are_asked_apart() -> None:
    text = (DATA / "k8s_nodes_list.yaml").read_text("utf-8").replace("h200-141gb", "b200", 1)
    found = read_nodes(text, "f")
    with pytest.raises(InputError, match="b200, h200-sxm"):
        topology_of(found)


def test_slurm_names_all_topologies_and_reads_the_one_asked_for() -> None:
    found = _cluster("slurm_yaml_all_kinds.yaml")
    assert found.kind == "tree"
    assert "read `fast`, the default" in found.notes[0]
    assert all(name in found.notes[0] for name in ("racks", "any", "any2", "cube"))
    assert _cluster("slurm_yaml_all_kinds.yaml#racks").kind == "block"
    cube = _cluster("slurm_yaml_all_kinds.yaml#cube")
    assert cube.shapes == {"pod1": (4, 4, 2)}
    assert "`pod1`: jobs may take 2x2x1, 4x4x2" in cube.notes
    with pytest.raises(UnknownNameError, match="unknown topology `rack`"):
        _cluster("slurm_yaml_all_kinds.yaml#rack")


def test_a_cycle_and_a_node_under_two_switches_are_named() -> None:
    with pytest.raises(InputError, match="switches in a cycle: a below b below a"):
        _cluster("slurm_conf_cycle.conf")


def test_topograph_switches_need_no_entry_of_their_own() -> None:
    found = _cluster("topograph_switch_without_entry.yaml")
    assert [h.path for h in found.hosts] == [("r1", "core"), ("r1", "core")]
    assert dict(found.empty_switches) == {"r2": "core"}


def test_lldp_files_of_several_hosts_join(tmp_path: Path) -> None:
    text = (DATA / "lldp.json").read_text("utf-8")
    assert _cluster("lldp.json").hosts[0].path == ("leaf-1",)
    for name, leaf in (("n1", "leaf-1"), ("n2", "leaf-2")):
        (tmp_path / f"{name}.json").write_text(text.replace("leaf-1", leaf), "utf-8")
    joined = import_fabric(tmp_path).description
    assert joined is not None
    assert {h.name: h.path for h in joined.hosts} == {"n1": ("leaf-1",), "n2": ("leaf-2",)}


def test_netq_tells_hosts_from_switches() -> None:
    leaves, spines = ("leaf01", "leaf02"), ("spine01", "spine02")
    rows = [(leaf, f"server0{s}") for leaf in leaves for s in (1, 2, 3)]
    rows += [(leaf, spine) for leaf in leaves for spine in spines]
    rows += [(spine, leaf) for leaf in leaves for spine in spines]
    entries = [{"hostname": a, "ifname": "x", "peerHostname": b} for a, b in rows]
    text = json.dumps({"lldp": entries})
    found = read_all({"f": text})
    assert [h.name for h in found.hosts if h.path == ("leaf01+leaf02", "spine01+spine02")] == [
        "server01", "server02", "server03"]  # fmt: skip


# --- networks -------------------------------------------------------------------------------------


def test_ibnetdiscover_joins_a_hosts_adapters_and_leaves_out_what_is_no_host() -> None:
    hosts = _network("ibnetdiscover_agg_node.txt")
    assert hosts.labels == ("node-1", "node-2", "MF0;leaf-1:MQM9701/U1")
    assert hosts.egress_bytes_per_s().tolist() == [100e9, 100e9]
    assert hosts.basis["left out"].startswith("1 aggregation")
    chips = with_chips(hosts, "h100", 8)
    assert chips.ranks == 16
    # Two adapters of 50 GB/s for eight chips, and NVLink inside.
    assert chips.egress_bytes_per_s()[0] == pytest.approx(450e9 + 100e9 / 8)
    chips.require_connected()


def test_adapters_called_after_their_maker_are_no_one_host() -> None:
    text = (DATA / "ibnetdiscover_agg_node.txt").read_text("utf-8")
    for name in ("node-1 mlx5_0", "node-1 mlx5_1", "node-2 mlx5_0", "node-2 mlx5_1"):
        text = text.replace(name, "MT4129 ConnectX7 Mellanox Technologies")
    assert ibnetdiscover.read(text, "f").ranks == 4


def test_infragraph_links_without_speed_are_asked_for_by_class() -> None:
    left = _network("infragraph_pcie_without_speed.yaml")
    assert set(left.bandwidth_bytes_per_s.tolist()) == {450e9}
    assert "2 links of pcie" in left.basis["left out"]
    both = _network("infragraph_pcie_without_speed.yaml", speeds=parse_speeds("pcie=64GB/s"))
    assert set(both.bandwidth_bytes_per_s.tolist()) == {450e9, 64e9}
    assert both.switches == 2
    with pytest.raises(InputError, match="gives two speeds for all"):
        parse_speeds("1GB/s,2GB/s")


def test_infragraph_slices_are_pythons() -> None:
    found = _network("infragraph_slice_with_step.yaml")
    ends = set(zip(found.source.tolist(), found.destination.tolist(), strict=True))
    cpu = next(i for i, name in enumerate(found.labels) if ".cpu." in name)
    assert {a for a, b in ends if b == cpu} == {0}


def test_infragraphs_own_dgx_takes_pcie_from_its_generation() -> None:
    with pytest.raises(InputError, match="xpu_fabric"):
        import_fabric(DATA / "infragraph_dgx_h100.json", speeds=parse_speeds("cpu_fabric=1GB/s"))
    found = _network("infragraph_dgx_h100.json", speeds=parse_speeds("xpu_fabric=112.5GB/s"))
    assert found.ranks == 8
    rates = set(np.round(found.bandwidth_bytes_per_s / 1e9, 1).tolist())
    assert rates == {112.5, 63.0}


def test_an_infragraph_choice_without_value_says_nothing() -> None:
    text = (DATA / "infragraph_pcie_without_speed.yaml").read_text()
    for value in ("", ", gigatransfers_per_second: 32"):
        unset = f"physical: {{bandwidth: {{choice: gigatransfers_per_second{value}}}}}"
        said = text.replace("- {name: pcie}", f"- {{name: pcie, {unset}}}")
        assert said != text
        found = infragraph.read(said, "f", speeds=parse_speeds("pcie=63GB/s"))
        assert 63e9 in found.bandwidth_bytes_per_s


@pytest.mark.slow
def test_every_blueprint_of_infragraph_is_the_network_its_own_library_makes(
    tmp_path: Path,
) -> None:
    """Run by a Python that has infragraph: this one, or that of INFRAGRAPH_PYTHON."""
    python = os.environ.get("INFRAGRAPH_PYTHON", sys.executable)
    script = Path(__file__).parents[1] / "support" / "infragraph_blueprints.py"
    if subprocess.run([python, "-c", "import infragraph"], capture_output=True,
                      check=False).returncode:  # fmt: skip
        pytest.skip("pip install infragraph; INFRAGRAPH_PYTHON names the Python that has it")
    made = subprocess.run([python, str(script), str(tmp_path)], capture_output=True, text=True,
                         check=True)  # fmt: skip
    told = json.loads(made.stdout)
    assert len(told) == 13
    for name, (chips, cables) in told.items():
        found = import_fabric(tmp_path / f"{name}.yaml", speeds=LinkSpeeds(every=50e9)).topology
        assert found is not None
        assert (found.ranks, len(found.source)) == (chips, 2 * cables), name


def test_simulators_topologies() -> None:
    fat = _network("htsim_leaf_spine.topo")
    assert (fat.ranks, fat.switches, fat.links) == (16, 8, 64)
    assert set(fat.bandwidth_bytes_per_s.tolist()) == {25e9}
    fat.require_connected()
    simai = _network("ns3_simai_topology.txt")
    assert simai.ranks == 8
    assert sorted(set(simai.bandwidth_bytes_per_s.tolist())) == [50e9, 360e9]
    assert simai.basis["loose"].endswith(": 11")
    text = (DATA / "ns3_simai_topology.txt").read_text("utf-8")
    with pytest.raises(InputError, match="f:3: node 99 of 12"):
        simulators.read_ns3(text.replace("0 8 2880", "99 8 2880"), "f")
    with pytest.raises(UnknownNameError, match="f:4: unknown key `Teir`"):
        simulators.read_htsim(
            (DATA / "htsim_leaf_spine.topo").read_text("utf-8").replace("Tier 0", "Teir 0"), "f"
        )


def test_an_astra_system_file_is_read_beside_its_network(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="lacks topology, npus_count"):
        import_fabric(DATA / "astra_system.json")
    shutil.copy(DATA / "astra_system.json", tmp_path)
    (tmp_path / "network.yml").write_text(
        "topology: [Ring]\nnpus_count: [8]\nbandwidth: [50.0]\nlatency: [500]\n", "utf-8"
    )
    found = import_fabric(tmp_path / "astra_system.json").topology
    assert found is not None
    assert found.ranks == 8
    assert "all-reduce by ring" in found.basis["system"]


def test_the_command_says_what_was_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["import", str(DATA / "ec2_topology.json"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["cluster"]["left_out"] == {"m5.large (no accelerator)": 1}
    assert said["network"]["chips"] == 24
    assert run(["import", str(DATA / "ibnetdiscover_agg_node.txt"), "--chip", "h100"]) == 0
    assert "16 chips" in capsys.readouterr().out
