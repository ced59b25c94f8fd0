"""Files of clusters and networks: exact examples, round trips, and mistakes with their line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weftline.cli.main import run
from weftline.errors import InputError, InputErrors
from weftline.fabric.formats import Host, import_fabric, read_topology
from weftline.fabric.formats.clusters import (
    clouds,
    kubernetes,
    schedulers,
    slurm_conf,
    slurm_yaml,
    topograph,
)
from weftline.fabric.formats.clusters.hostlist import compress_hosts, expand_hosts
from weftline.fabric.formats.networks import (
    astra_sim,
    fabric_file,
    ibnetdiscover,
    infragraph,
    tenstorrent,
)
from weftline.fabric.formats.speeds import LinkSpeeds
from weftline.fabric.parse import parse_topology

TREE = """\
SwitchName=leaf0 Nodes=n[00-15]
SwitchName=leaf1 Nodes=n[16-31]  # the second
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
EC2 = """\
{"Instances": [
  {"InstanceId": "i-1", "InstanceType": "trn2.48xlarge", "GroupName": "pg",
   "NetworkNodes": ["nn-root", "nn-mid", "nn-leaf"], "CapacityBlockId": "cb-1"},
  {"InstanceId": "i-2", "InstanceType": "trn2.48xlarge",
   "NetworkNodes": ["nn-root", "nn-mid", "nn-leaf2"]}
]}
"""
GCE = """\
[{"name": "vm-0", "machineType": "zones/z/machineTypes/a3-megagpu-8g",
  "resourceStatus": {"physicalHostTopology": {"cluster": "c", "block": "b", "subblock": "s"}}}]
"""
OCI = """\
{"items": [{"instanceId": "ocid1", "hpcIslandId": "isl", "networkBlockId": "nb",
            "localBlockId": "lb", "gpuMemoryFabricId": "gmf", "shape": "BM.GPU.H100.8"}]}
"""
NODES = """\
apiVersion: v1
kind: List
items:
- metadata:
    name: a
    labels: {topology.k8s.aws/network-node-layer-1: nn-1, topology.k8s.aws/ultraserver-id: us-1,
             topology.k8s.aws/network-node-layer-2: nn-2,
             topology.k8s.aws/network-node-layer-3: nn-3}
- metadata:
    name: b
    labels: {nvidia.com/gpu.clique: uuid.1, topology.k8s.aws/network-node-layer-3: nn-4}
"""
TPU_NODES = "items:\n" + "".join(
    f"- metadata: {{name: t{i}, labels: {{cloud.google.com/gke-tpu-topology: 4x4x4, "
    "cloud.google.com/gke-tpu-partition-4x4x4-id: p0}}}\n".replace("}}}", "}}")
    for i in range(16)
)
MODEL = """\
switches:
  core: {switches: [leaf]}
  leaf: {nodes: ["n[1-2]", n3]}
capacity_blocks:
  cb1: {nodes: ["n[1-2]"], attributes: {nvlink: nvl1}}
nodes:
  n1: {type: H100}
"""
BLOCK_MODEL = """\
switches: {core: {switches: [leaf1]}}
blocks: [{switch: leaf1, nodes: ["n[1-4]"], annotations: {accelerator.topology.test/domain: nvl1}}]
"""
GRAPH = """\
{"instances": [{"id": "i-n1", "network_layers": ["leaf1", "core"],
                "labels": {"accelerator.topograph.run/domain": "nvl1"}}]}
"""
VOLCANO = """\
# two racks
apiVersion: topology.volcano.sh/v1alpha1
kind: HyperNode
metadata: {name: s0}
spec: {tier: 1, members: [
  {type: Node, selector: {exactMatch: {name: n1}}}]}
---
kind: HyperNode
metadata: {name: s1}
spec: {tier: 1, members: [{type: Node, selector: {exactMatch: {name: n2}}}]}
---
kind: HyperNode
metadata: {name: core}
spec: {tier: 2, members: [{type: HyperNode, selector: {exactMatch: {name: s0}}},
                          {type: HyperNode, selector: {exactMatch: {name: s1}}}]}
"""
IB = """\
vendid=0x2c9
switchguid=0xaa(aa)
Switch\t65 "S-aa"\t\t# "leaf01" enhanced port 0 lid 7 lmc 0
[1]\t"H-bb"[1](bb) \t\t# "node01 mlx5_0" lid 9 4xNDR
[2]\t"H-cc"[1](cc) \t\t# "node02 mlx5_0" lid 10 4xNDR
[63]\t"S-dd"[1]\t\t# "spine" lid 3 4xNDR

switchguid=0xdd(dd)
Switch\t65 "S-dd"\t\t# "spine" enhanced port 0 lid 3 lmc 0
[1]\t"S-aa"[63]\t\t# "leaf01" lid 7 4xNDR

Ca\t1 "H-bb"\t\t# "node01 mlx5_0"
[1](bb) \t"S-aa"[1]\t\t# lid 9 lmc 0 "leaf01" lid 7 4xNDR
"""
TENSTORRENT = """\
mesh_descriptors { name: "M0" arch: BLACKHOLE
  device_topology { dims: [8,4] dim_types: [RING, LINE] }
  host_topology { dims: [2,1] } channels { count: 2 policy: RELAXED } }
top_level_instance { mesh { mesh_descriptor: "M0" mesh_id: 0 } }
"""
INFRAGRAPH = """\
name: pod
devices:
  - name: board
    components: [{name: chip, choice: xpu, count: 4}]
    links:
      - {name: ici, physical: {latency: {choice: ns, ns: 800}, bandwidth: {
          choice: gigabits_per_second, gigabits_per_second: 1400}}}
    edges: [{ep1: {component: "chip[0:4]"}, ep2: {component: "chip[0:4]"}, scheme: ring, link: ici}]
instances: [{name: b, device: board, count: 2}]
links: [{name: z, physical: {bandwidth: {choice: gigabytes_per_second, gigabytes_per_second: 100}}}]
edges:
  - {ep1: {instance: "b[0]", component: "chip[0]"}, ep2: {instance: "b[1]", component: "chip[0]"},
     scheme: one2one, link: z}
"""
ASTRA = (
    "topology: [Ring, Switch]\nnpus_count: [4, 2]\nbandwidth: [50.0, 25.0]\nlatency: [500, 1000]\n"
)


def _path(tmp_path: Path, text: str, name: str = "file") -> Path:
    path = tmp_path / name
    path.write_text(text, "utf-8")
    return path


# --- host lists ---------------------------------------------------------------------------------


def test_host_lists_expand_as_slurm_does() -> None:
    assert expand_hosts("n[08-11,2],x,r[1-2]c[1-2]") == [
        "n08", "n09", "n10", "n11", "n2", "x", "r1c1", "r1c2", "r2c1", "r2c2"]  # fmt: skip


@given(st.lists(st.from_regex(r"[a-z]{1,3}(-[a-z])?[0-9]{0,4}", fullmatch=True), max_size=30))
def test_compressed_hosts_expand_to_the_same_list(hosts: list[str]) -> None:
    assert expand_hosts(compress_hosts(hosts)) == hosts


@pytest.mark.parametrize("text", ["n[1-", "n[3-1]", "n[a]", "n]1[", "n[[1]]", "n[0-9999999999]"])
def test_broken_host_lists_are_refused(text: str) -> None:
    with pytest.raises(InputError):
        expand_hosts(text)


# --- what each format says ----------------------------------------------------------------------


def test_every_format_is_told_from_its_content(tmp_path: Path) -> None:
    for text, said in (
        (TREE, slurm_conf.FORMAT), (TORUS, slurm_yaml.FORMAT), (EC2, clouds.EC2),
        (GCE, clouds.GCE), (OCI, clouds.OCI), (NODES, kubernetes.FORMAT),
        (VOLCANO, "volcano HyperNode"), (MODEL, topograph.MODEL),
        (BLOCK_MODEL, topograph.MODEL), (GRAPH, topograph.GRAPH),
        (IB, "ibnetdiscover"), (TENSTORRENT, "tenstorrent"), (INFRAGRAPH, "infragraph"),
        (ASTRA, "astra-sim"),
    ):  # fmt: skip
        assert import_fabric(_path(tmp_path, text)).format == said


def test_slurm_tree() -> None:
    found = slurm_conf.read(TREE, "f")
    assert len(found.hosts) == 32
    assert found.hosts[16] == Host(name="n16", path=("leaf1", "spine"))
    assert found.parents == {"leaf0": "spine", "leaf1": "spine", "spine": None}


def test_slurm_blocks_and_rings() -> None:
    text = "BlockName=nvl0 Nodes=g[00-17]\nBlockName=nvl1 Nodes=g[18-35]\nBlockSizes=18,36\n"
    found = slurm_conf.read(text, "f")
    assert found.block_sizes == (18, 36)
    assert {k: len(v) for k, v in found.domains.items()} == {"nvl0": 18, "nvl1": 18}
    ring = slurm_conf.read("RingName=r0 Nodes=t[0-7]\n", "f")
    assert ring.shapes == {"r0": (8,)}
    assert ring.hosts[3].point == (3,)


def test_slurm_torus_runs_x_first_and_regions_place_boxes() -> None:
    found = slurm_yaml.read(TORUS, "f")
    by_name = {h.name: h.point for h in found.hosts}
    assert by_name["t01"] == (1, 0, 0)
    assert by_name["t04"] == (0, 1, 0)
    assert by_name["t08"] == (0, 0, 1)
    regions = TORUS.replace(
        "        nodes: t[00-15]\n",
        "        regions:\n        - {anchor: {x: 2, y: 0, z: 0}, dims: {x: 2, y: 2, z: 2}, "
        "nodes: 'u[0-7]'}\n",
    )
    placed = {h.name: h.point for h in slurm_yaml.read(regions, "f").hosts}
    assert placed["u0"] == (2, 0, 0)
    assert placed["u2"] == (2, 1, 0)


def test_clouds_give_the_leaf_first() -> None:
    ec2 = clouds.read(EC2, "f").hosts[0]
    assert ec2.path == ("nn-leaf", "nn-mid", "nn-root")
    assert (ec2.domain, ec2.group, ec2.instance_type) == ("cb-1", "pg", "trn2.48xlarge")
    assert clouds.read(GCE, "f").hosts[0].path == ("c/b/s", "c/b", "c")
    oci = clouds.read(OCI, "f").hosts[0]
    assert (oci.path, oci.domain) == (("lb", "nb", "isl"), "gmf")


def test_kubernetes_labels_and_a_tpu_slice() -> None:
    a, b = kubernetes.read(NODES, "f").hosts
    assert (a.path, a.domain) == (("nn-3", "nn-2", "nn-1"), "us-1")
    assert (b.path, b.domain) == (("nn-4",), "uuid.1")
    slice_ = kubernetes.read(TPU_NODES, "f")
    assert slice_.kind == "torus3d"
    assert slice_.shapes == {"p0": (2, 2, 4)}
    assert slice_.hosts[4].point == (0, 0, 1)


def test_volcano_hypernodes() -> None:
    found = schedulers.read(VOLCANO, "f")
    assert [(h.name, h.path) for h in found.hosts] == [
        ("n1", ("s0", "core")),
        ("n2", ("s1", "core")),
    ]


def test_topograph_models_and_graphs() -> None:
    found = topograph.read(MODEL, "f")
    by_name = {h.name: h for h in found.hosts}
    assert by_name["n1"] == Host(name="n1", path=("leaf", "core"), domain="nvl1",
                                 instance_type="H100")  # fmt: skip
    assert by_name["n3"].domain is None
    blocks = topograph.read(BLOCK_MODEL, "f").hosts
    assert [(h.path, h.domain) for h in blocks] == [(("leaf1", "core"), "nvl1")] * 4
    assert topograph.read(GRAPH, "f").hosts[0].domain == "nvl1"


def test_infragraph_expands_instances_slices_and_rings() -> None:
    found = infragraph.read(INFRAGRAPH, "f")
    assert (found.ranks, found.switches, found.links) == (8, 0, 2 * (4 + 4 + 1))
    rates = sorted(set(found.bandwidth_bytes_per_s.tolist()))
    assert rates == [pytest.approx(100e9), pytest.approx(175e9)]
    assert found.latency_s.max() == pytest.approx(800e-9)
    assert found.labels[4] == "b.1.chip.0"


def test_an_infragraph_device_alone_is_one_instance() -> None:
    device = """\
name: dgx
components: [{name: xpu, choice: xpu, count: 8}, {name: nvsw, choice: switch, count: 4}]
edges: [{ep1: {component: "nvsw[0:4]"}, ep2: {component: "xpu[0:8]"}, scheme: many2many, link: nv}]
links: [{name: nv}]
"""
    assert infragraph.detect(device)
    found = infragraph.read(device, "f", speeds=LinkSpeeds(every=112.5e9))
    assert (found.ranks, found.switches, found.links) == (8, 4, 64)
    assert found.egress_bytes_per_s()[0] == pytest.approx(450e9)
    with pytest.raises(InputError, match="f:3: a link without bandwidth"):
        infragraph.read(device, "f")


def test_astra_sim_speeds_are_one_link_one_way_in_2_to_the_30() -> None:
    """1 MiB at 50 GB/s takes ASTRA-sim 19,531 ns a link (its own test)."""
    ring = astra_sim.read("topology: [Ring]\nnpus_count: [8]\nbandwidth: [50.0]\nlatency: [500]\n",
                          "f")  # fmt: skip
    assert 2**20 / ring.bandwidth_bytes_per_s[0] == pytest.approx(19531e-9, rel=1e-4)
    both = astra_sim.read(ASTRA, "f")
    assert (both.ranks, both.switches) == (8, 4)
    # Ranks run along the first axis fastest: 0 to 3 are one ring.
    ends = {(int(a), int(b)) for a, b in zip(both.source, both.destination, strict=True)}
    assert {(0, 1), (1, 2), (2, 3), (3, 0)} <= ends


def test_ibnetdiscover_reads_switches_adapters_and_rates() -> None:
    found = ibnetdiscover.read(IB, "f")
    assert (found.ranks, found.switches, found.links) == (2, 2, 6)
    assert set(found.bandwidth_bytes_per_s.tolist()) == {50e9}
    assert found.labels == ("node01", "node02", "leaf01", "spine")
    found.require_connected()


def test_tenstorrent_closes_only_rings() -> None:
    found = tenstorrent.read(TENSTORRENT, "f")
    assert found.grid is not None
    assert (found.grid.shape, found.grid.wraps) == ((8, 4), (True, False))
    assert found.bandwidth_bytes_per_s[0] == pytest.approx(100e9)


# --- mistakes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        (VOLCANO.replace("exactMatch: {name", "regexMatch: {pattern"), 6, "exactMatch.name"),
        (VOLCANO.replace("name: n1}", "name: n2}"), 8, "below `s0` and below `s1`"),
        ("SwitchName=a Nodes=n1\nSwitchName=b Switches=c\n", 2, "unknown switch `c`"),
        ("SwitchName=a Nodes=n1\nSwitchName=a Nodes=n2\n", 2, "stands twice"),
        ("SwitchName=a Nodes=n1\nSwitchName=b Nodes=n1\n", 2, "below `a`"),
        ("SwitchName=a Nodes=n1 Node=n2\n", 1, "unknown key `Node`"),
        ("SwitchName=a\n", 1, "neither Nodes nor Switches"),
        ("SwitchName=a Nodes=n[1-\n", 1, "brackets"),
        ("BlockName=a Nodes=n1\nBlockSizes=x\n", 2, "not numbers"),
        ("RingName=a Nodes=n[0-16]\n", 1, "17 nodes"),
        (TORUS.replace("t[00-15]", "t[00-14]"), 5, "4x2x2 points and 15 nodes"),
        (TORUS.replace("z: 2", "z: two"), 5, "not a point"),
        ("- topology: a\n  tree: {}\n  flat: true\n", 1, "tree, flat"),
        (EC2.replace('"i-2"', "7"), 4, "InstanceId"),
        (NODES.replace("gpu.clique", "gpu.product").replace("network-node-layer-3: nn-4", "y: z"),
         9, "none of the labels"),
        (MODEL.replace("[leaf]", "[leef]"), 2, "unknown switch `leef`"),
        (IB.replace("4xNDR", "4xMDR"), 4, "unknown rate"),
        (TENSTORRENT.replace("LINE", "LOOP"), None, "LOOP"),
        (TENSTORRENT.replace("[8,4]", "[8,4"), 2, "`:` where"),
        (INFRAGRAPH.replace("link: ici}", "link: icy}"), 8, "unknown link `icy`"),
        (INFRAGRAPH.replace('"chip[0]"', '"chip[9]"'), 12, "there are 4"),
        (ASTRA.replace("[4, 2]", "[4]"), 1, "2 topologies, 1 npus_count"),
        (ASTRA.replace("Switch", "Swich"), 1, "unknown building block `Swich`"),
        ('{"weftline_fabric": 1, "ranks": 2, "name": "x", "links": [[0, 1, 1.0]]}', 1, "`links`"),
        ('{"weftline_fabric": 1, "rank": 2}', 1, "unknown field `rank`"),
        ('{"weftline_fabric": 1,\n "ranks": }', 2, "not JSON"),
        ('{"directed": true, "nodes": [{"id": 0}, {"id": 1}], "links":\n'
         '[{"source": 0, "target": 1}]}', 2, "no bandwidth"),
        ("nothing of this\n", None, "none of the known formats"),
    ],
)  # fmt: skip
def test_mistakes_name_the_line_and_what_was_expected(
    tmp_path: Path, text: str, line: int | None, said: str
) -> None:
    path = _path(tmp_path, text)
    with pytest.raises(InputError) as caught:
        import_fabric(path)
    errors = caught.value.errors if isinstance(caught.value, InputErrors) else (caught.value,)
    assert any(said in e.render() for e in errors), caught.value.render()
    if line is not None:
        assert any(e.where == f"{path}:{line}" for e in errors), [e.where for e in errors]


def test_all_mistakes_of_a_file_are_told_at_once(tmp_path: Path) -> None:
    text = "SwitchName=a Nodes=n1 Bad=1\nSwitchName=b Nodes=\n"
    with pytest.raises(InputErrors) as caught:
        import_fabric(_path(tmp_path, text))
    assert {str(e.where).rsplit(":", maxsplit=1)[-1] for e in caught.value.errors} == {"1", "2"}


@given(
    st.sampled_from([TREE, TORUS, EC2, NODES, MODEL, VOLCANO, IB, TENSTORRENT, INFRAGRAPH, ASTRA,
                     GCE]),
    st.data(),
)  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_damaged_files_never_end_in_a_traceback(text: str, data: st.DataObject) -> None:
    """One slice of the text taken out or doubled: an answer or an InputError, nothing else."""
    low = data.draw(st.integers(0, len(text)))
    high = data.draw(st.integers(low, min(len(text), low + 12)))
    damaged = data.draw(st.sampled_from([text[:low] + text[high:], text[:high] + text[low:]]))
    for _, read in _readers():
        try:
            read(damaged, "f")
        except InputError:
            continue


def _readers() -> list[tuple[str, Any]]:
    from weftline.fabric.formats.files import FORMATS, Asked

    asked = Asked(chip="h100")
    return [(n, lambda t, w, r=f.read: r(t, w, asked)) for n, f in FORMATS.items()]


# --- the command --------------------------------------------------------------------------------


def test_import_writes_what_on_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = _path(tmp_path, TREE, "topology.conf"), tmp_path / "fabric.json"
    assert run(["import", str(source), "--chip", "h100", "-o", str(out), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["network"]["chips"] == 256
    assert said["cluster"]["tiers"][0] == {"switches": 2, "hosts_least": 16, "hosts_most": 16}
    assert parse_topology(str(out)).ranks == 256
    assert run(["import", str(source)]) == 0
    assert "--chip" in capsys.readouterr().out
    assert run(["import", str(source), "--to", "slurm-yaml", "-o", str(tmp_path / "t.yaml")]) == 0
    again = slurm_yaml.read((tmp_path / "t.yaml").read_text("utf-8"), "f")
    assert again.hosts == slurm_conf.read(TREE, "f").hosts


def test_import_without_speeds_cannot_be_written_as_a_fabric(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = _path(tmp_path, TREE, "topology.conf")
    assert run(["import", str(source), "-o", str(tmp_path / "x.json")]) == 2
    assert "--chip" in capsys.readouterr().err
    with pytest.raises(InputError, match="weftline import"):
        read_topology(source)
    assert run(["import", str(tmp_path / "none")]) == 2


def test_fabric_file_reads_only_its_own_version() -> None:
    with pytest.raises(InputError, match="version 1"):
        fabric_file.read('{"weftline_fabric": 2}', "f")
