"""``weftline import``: a cluster's own description as a fabric."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from weftline.cli.answer import show
from weftline.cli.options import Format, Json
from weftline.cli.slow import slow_said


def import_fabric(
    file: Path,
    *,
    chip: str | None = None,
    chips_per_node: int | None = None,
    link: str | None = None,
    oversubscription: float = 1.0,
    kind: str | None = None,
    to: str = "weftline",
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
    json: Json = False,
    form: Format = "table",
) -> int:
    """A cluster's own topology file as a fabric, joined with the catalogue's link speeds.

    Reads NCCL's topology and graph XML, nvidia-smi topo -m, rocm-smi --showtopo, Slurm's
    topology.conf and topology.yaml, EC2 DescribeInstanceTopology, GCE and OCI host
    topology, Kubernetes node labels, volcano, topograph, LLDP and netq, InfraGraph,
    ASTRA-sim, htsim and ns-3 networks, networkx JSON, ibnetdiscover, Tenstorrent meshes.

    Parameters
    ----------
    file
        The file, its format told from its content; FILE#NAME for one of several
        topologies in it; a folder for LLDP's files of many hosts.
    chip
        Accelerator of the hosts: h100, trn2. Needed where the file says neither.
    chips_per_node
        Accelerators of one host; the chip's usual number if not given.
    link
        Speed one way of a chip's network link, in place of the catalogue's: 50GB/s; of
        links that a file leaves open by class: nvlink=450GB/s,pcie=64GB/s.
    oversubscription
        How much less a switch's uplinks carry than what is below it.
    kind
        Which format the file is, where its content does not tell.
    to
        Format to write: weftline (what --on reads), networkx, infragraph,
        astra-sim, tenstorrent, slurm-conf, slurm-yaml, kubernetes, topograph,
        topograph-model, volcano.
    output
        Where to write it.
    """

    from weftline.errors import InputError
    from weftline.fabric.formats import files, topology_of
    from weftline.fabric.formats.clusters.expanded import with_chips
    from weftline.fabric.formats.speeds import parse_speeds
    from weftline.fabric.formats.summary import summary_of
    from weftline.report.fabric_import import render_import

    speeds = parse_speeds(link)
    with slow_said(f"reading {file}", "--kind, where many formats are tried"):
        found = files.import_fabric(file, kind=kind, speeds=speeds, chip=chip)
    topology, described = found.topology, found.description
    if topology is not None and found.ends_are_hosts and chip is not None:
        topology = with_chips(topology, chip, chips_per_node)
    if topology is None and described is not None and (chip is not None or described.says_chips):
        topology = topology_of(
            described, chip, chips_per_host=chips_per_node, oversubscription=oversubscription,
            link_bytes_per_s=speeds.every,
        )  # fmt: skip
    written = None
    if output is not None:
        text = _text(found.description, topology, to, str(file))
        try:
            output.write_text(text, "utf-8")
        except OSError as error:
            raise InputError(f"cannot write `{output}`: {error.strerror}", where="-o") from error
        written = str(output)
    said = summary_of(found.format, found.description, topology) | {"written": written}
    show("fabric", said, lambda: render_import(said), json=json, form=form)
    return 0


def _text(described: object, topology: object, to: str, file: str) -> str:
    """What is written: the network where its format is asked for, else the description."""
    from weftline.errors import InputError
    from weftline.fabric.formats import Description, write_description, write_topology
    from weftline.fabric.graph import Topology

    networks = ("weftline", "networkx", "infragraph", "astra-sim", "tenstorrent")
    if to in networks:
        if not isinstance(topology, Topology):
            raise InputError(f"`{file}` states no link speeds", where="--chip",
                             hint="name the hosts' accelerator: --chip h100")  # fmt: skip
        return write_topology(topology, to)
    if not isinstance(described, Description):
        raise InputError(f"`{file}` is a network of links, no description of hosts",
                         where="--to", hint=f"--to one of {', '.join(networks)}")  # fmt: skip
    if to == "volcano":
        from weftline.launch.hypernodes import write_volcano

        return write_volcano(described)
    return write_description(described, to)
