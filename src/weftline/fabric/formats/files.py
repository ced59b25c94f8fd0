"""One door for files: which format it is, what it describes, and the Topology it means."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from weftline.catalog import accelerator
from weftline.errors import InputError, UnknownNameError
from weftline.fabric.formats.clusters import (
    adjacency,
    clouds,
    kubernetes,
    schedulers,
    slurm_conf,
    slurm_yaml,
    topograph,
)
from weftline.fabric.formats.clusters.description import Description
from weftline.fabric.formats.hosts import nccl, smi
from weftline.fabric.formats.networks import (
    astra_sim,
    fabric_file,
    ibnetdiscover,
    infragraph,
    networkx_json,
    simgrid,
    simulators,
    tenstorrent,
)
from weftline.fabric.formats.speeds import LinkSpeeds
from weftline.fabric.graph import Topology

BYTES_MOST = 512 * 2**20
"""A larger file is no description of a cluster."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a user says beside the file."""

    speeds: LinkSpeeds = field(default_factory=LinkSpeeds)
    chip: str | None = None
    part: str | None = None
    """Which of the topologies in one file: ``topology.yaml#racks``."""
    beside: Path | None = None
    """The file itself, for what stands in its folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """What a file says: a network with its speeds, or a description that needs the catalogue's."""

    format: str = ""
    topology: Topology | None = None
    description: Description | None = None
    ends_are_hosts: bool = False
    """Whether the network's ends are machines, whose chips the file does not know."""


Reader = Callable[[str, str, Asked], Imported]


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """One kind of file: how it is told, how it is read, and what a table of formats says of it."""

    looks: Callable[[str], object]
    read: Reader
    title: str
    reads: str
    writes: str = ""
    holds: str


def _network(read: Callable[[str, str], Topology], *, hosts: bool = False) -> Reader:
    return lambda text, where, _: Imported(topology=read(text, where), ends_are_hosts=hosts)


def _described(read: Callable[[str, str], Description]) -> Reader:
    return lambda text, where, _: Imported(description=read(text, where))


def _system(text: str, where: str, asked: Asked) -> Imported:
    """ASTRA-sim's system file: the network file is looked for in its folder."""
    beside: dict[str, str] = {}
    if asked.beside is not None:
        for path in sorted(asked.beside.resolve().parent.iterdir()):
            if path.suffix in (".yml", ".yaml", ".json") and path.name != asked.beside.name:
                body = read_text(path)
                if astra_sim.detect(body):
                    beside[str(path.name)] = body
    return Imported(topology=astra_sim.read_system(text, where, beside))


FORMATS: Final[Mapping[str, Format]] = {
    "weftline": Format(
        looks=fabric_file.detect, read=_network(fabric_file.read), title="weftline fabric (JSON)",
        reads="yes", writes="weftline",
        holds="a network whole: links one way, speeds, latencies, symmetries, names"),
    "nccl-topology": Format(
        looks=nccl.detect_topology, title="NCCL topology XML", reads="NCCL_TOPO_DUMP_FILE, RCCL's",
        read=lambda t, w, a: Imported(topology=_of_chips(
            nccl.read_topology(t, w, speeds=a.speeds), a.chip)),
        holds="one host: GPUs, NVLink or xGMI by generation, the PCIe tree, NICs"),
    "nccl-graph": Format(
        looks=nccl.detect_graph, read=_network(nccl.read_graph), title="NCCL graph XML",
        reads="NCCL_GRAPH_DUMP_FILE", holds="the connections of its channels, and their rings"),
    "nvidia-smi": Format(
        looks=smi.detect_nvidia, title="`nvidia-smi topo -m`", reads="yes, with `--chip`",
        read=lambda t, w, a: Imported(topology=smi.read_nvidia(
            t, w, chip=a.chip, link_bytes_per_s=a.speeds.of("nvlink"))),
        holds="one host: NVLinks between GPUs, NICs beside them"),
    "rocm-smi": Format(
        looks=smi.detect_rocm, title="`rocm-smi --showtopo`", reads="yes, with `--chip`",
        read=lambda t, w, a: Imported(topology=smi.read_rocm(
            t, w, chip=a.chip, link_bytes_per_s=a.speeds.of("xgmi"))),
        holds="one host: xGMI links between GPUs"),
    "slurm-yaml": Format(
        looks=slurm_yaml.detect, title="Slurm topology.yaml", writes="slurm-yaml",
        read=lambda t, w, a: Imported(description=slurm_yaml.read(t, w, topology=a.part)),
        reads="tree, block, flat, ring, torus3d; several in one: `FILE#NAME`",
        holds="hosts and switches, no speeds; tori with x fastest, regions, placements"),
    "slurm-conf": Format(
        looks=slurm_conf.detect, read=_described(slurm_conf.read), title="Slurm topology.conf",
        reads="tree, block, ring", writes="slurm-conf", holds="hosts and switches, no speeds"),
    "volcano": Format(
        looks=schedulers.detect, read=_described(schedulers.read), title="volcano HyperNode",
        reads="members by name", writes="volcano", holds="tiers"),
    "topograph": Format(
        looks=topograph.detect, read=_described(topograph.read), title="topograph",
        reads="model, graph", writes="topograph-model`, `topograph",
        holds="tiers and NVLink domains; switches without an entry of their own"),
    "lldp": Format(
        looks=adjacency.detect, read=_described(adjacency.read), title="LLDP, netq (JSON)",
        reads="`lldpctl -f json`, a folder of hosts' files; `netq show lldp json`",
        holds="who is plugged into whom; equal switches of one tier as one"),
    "kubernetes": Format(
        looks=kubernetes.detect, read=_described(kubernetes.read), title="Kubernetes node labels",
        reads="EKS, GKE, OKE, topograph, GPU operator", writes="kubernetes",
        holds="tiers, domains, chips; TPU slices as the tori they are"),
    "cloud": Format(
        looks=clouds.detect, read=_described(clouds.read),
        title="EC2, GCE and OCI instance topology", reads="yes",
        holds="network nodes from the core to the leaf; chips by instance type"),
    "ibnetdiscover": Format(
        looks=ibnetdiscover.detect, read=_network(ibnetdiscover.read, hosts=True),
        title="ibnetdiscover", reads="yes; `--chip` puts chips and NVLink into the hosts",
        holds="switches, hosts with their adapters, port rates"),
    "simgrid": Format(
        looks=simgrid.detect, read=_network(simgrid.read, hosts=True), title="SimGrid platform XML",
        reads="zones whose routes are paths of cables; clusters: flat, TORUS, FAT_TREE, DRAGONFLY",
        holds="hosts, routers, links with speed and latency"),
    "htsim": Format(
        looks=simulators.detect_htsim, read=_network(simulators.read_htsim, hosts=True),
        title="htsim topology", reads="2 and 3 tiers", holds="fat trees, every link"),
    "tenstorrent": Format(
        looks=tenstorrent.detect, title="Tenstorrent mesh graph", reads="yes",
        read=lambda t, w, a: Imported(topology=tenstorrent.read(
            t, w, link_bytes_per_s=a.speeds.every)),
        writes="tenstorrent", holds="one mesh; RING and LINE sides"),
    "infragraph": Format(
        looks=infragraph.detect, title="InfraGraph", writes="infragraph",
        read=lambda t, w, a: Imported(topology=infragraph.read(t, w, speeds=a.speeds)),
        reads="devices, instances, slices, three schemes",
        holds="a network of links, with speeds where stated"),
    "astra-sim": Format(
        looks=astra_sim.detect, read=_network(astra_sim.read), title="ASTRA-sim network",
        reads="Ring, FullyConnected, Switch on each axis", writes="astra-sim",
        holds="speeds of one link one way, 1 GB = 2^30"),
    "astra-sim-system": Format(
        looks=astra_sim.detect_system, read=_system, title="ASTRA-sim system",
        reads="beside its network file", holds="algorithms; the network is the other file's"),
    "networkx": Format(
        looks=networkx_json.detect, read=_network(networkx_json.read), title="networkx",
        reads="objects, node-link JSON", writes="networkx", holds="any graph"),
    "ns3": Format(
        looks=simulators.detect_ns3, read=_network(simulators.read_ns3),
        title="ns-3 topology (HPCC, SimAI)", reads="yes", holds="a list of links"),
}  # fmt: skip
"""Tried in this order."""
IMPORTERS: Final = tuple(FORMATS)


def import_fabric(
    path: str | Path,
    *,
    kind: str | None = None,
    speeds: LinkSpeeds | None = None,
    chip: str | None = None,
) -> Imported:
    """Read a cluster's or a network's file; told apart by content unless `kind` is given.

    ``FILE#NAME`` names one of several topologies in it; a folder is read as LLDP's files of many
    hosts. Raises InputError where the file cannot be read or is none of the known formats, with
    the line of what is wrong in it.
    """
    path, part = _named_part(Path(path))
    if kind is not None and kind not in FORMATS:
        raise UnknownNameError("format", kind, FORMATS, where="--kind",
                               hint=f"one of {', '.join(FORMATS)}")  # fmt: skip
    if path.is_dir():
        files = {str(p): read_text(p) for p in sorted(path.iterdir()) if p.suffix == ".json"}
        if not files:
            raise InputError(f"no .json file in `{path}`",
                             hint="a folder is read as LLDP's files, one a host")  # fmt: skip
        return Imported(format=adjacency.LLDP, description=adjacency.read_all(files))
    text = read_text(path)
    name = kind or next((n for n, f in FORMATS.items() if f.looks(text)), None)
    if name is None:
        raise InputError(
            "this is none of the known formats", where=str(path),
            hint=f"known are {', '.join(FORMATS)}; --kind says which one is meant",
        )  # fmt: skip
    asked = Asked(speeds=speeds or LinkSpeeds(), chip=chip, part=part, beside=path)
    found = FORMATS[name].read(text, str(path), asked)
    label = found.description.format if found.description is not None else name
    return Imported(format=label, topology=found.topology, description=found.description,
                    ends_are_hosts=found.ends_are_hosts)  # fmt: skip


def _of_chips(topology: Topology, chip: str | None) -> Topology:
    """The network of one host as one of named chips; raises UnknownNameError for unknown ones."""
    return topology if chip is None else replace(topology, chip=accelerator(chip).id)


def _named_part(path: Path) -> tuple[Path, str | None]:
    """``topology.yaml#racks`` as the file and the name, where no file is called so."""
    head, mark, part = path.name.rpartition("#")
    if not mark or path.exists():
        return path, None
    return path.with_name(head), part


def read_text(path: Path) -> str:
    """The text of a file; raises InputError for one that is missing, huge or not UTF-8."""
    try:
        if path.stat().st_size > BYTES_MOST:
            raise InputError(f"`{path}` is larger than {BYTES_MOST >> 20} MiB")
        return path.read_text("utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"no file `{path}`") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read `{path}`: {error}") from error


def read_topology(path: str | Path) -> Topology:
    """The network in a file that states its own speeds (what ``--on FILE`` takes).

    Raises InputError for a scheduler's or a cloud's file, which states none.
    """
    found = import_fabric(path)
    if found.topology is None:
        raise InputError(
            f"`{path}` ({found.format}) states no link speeds",
            hint=f"join it with the catalogue first: weftline import {path} --chip h100 -o FILE",
        )
    return found.topology


def write_topology(topology: Topology, to: str = "weftline") -> str:
    """A network as text: weftline, networkx, infragraph, astra-sim or tenstorrent.

    Raises InputError for what a format cannot say.
    """
    writers: Mapping[str, Callable[[Topology], str]] = {
        "weftline": fabric_file.write, "networkx": networkx_json.write,
        "infragraph": infragraph.write, "astra-sim": astra_sim.write,
        "tenstorrent": tenstorrent.write,
    }  # fmt: skip
    if to not in writers:
        raise UnknownNameError("format", to, writers, hint=f"one of {', '.join(writers)}")
    return writers[to](topology)


def write_description(described: Description, to: str) -> str:
    """A cluster's description as text of a scheduler; raises InputError if it cannot."""
    writers: Mapping[str, Callable[[Description], str]] = {
        "slurm-conf": slurm_conf.write, "slurm-yaml": slurm_yaml.write,
        "kubernetes": kubernetes.write,
        "topograph": lambda d: topograph.write(d, topograph.GRAPH),
        "topograph-model": lambda d: topograph.write(d, topograph.MODEL),
    }  # fmt: skip
    if to not in writers:
        raise UnknownNameError("format", to, writers, hint=f"one of {', '.join(writers)}")
    return writers[to](described)
