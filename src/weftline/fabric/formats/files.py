"""One door for files: which format it is, what it describes, and the Topology it means."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from weftline.errors import InputError, UnknownNameError
from weftline.fabric.formats.clusters import (
    clouds,
    kubernetes,
    schedulers,
    slurm_conf,
    slurm_yaml,
    topograph,
)
from weftline.fabric.formats.clusters.description import Description
from weftline.fabric.formats.networks import (
    astra_sim,
    fabric_file,
    ibnetdiscover,
    infragraph,
    networkx_json,
    tenstorrent,
)
from weftline.fabric.graph import Topology

BYTES_MOST = 512 * 2**20
"""A larger file is no description of a cluster."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """What a file says: a network with its speeds, or a description that needs the catalogue's."""

    format: str
    topology: Topology | None = None
    description: Description | None = None


def _network(read: Callable[[str, str], Topology]) -> Callable[[str, str, float | None], Imported]:
    return lambda text, where, _: Imported(format="", topology=read(text, where))


def _described(
    read: Callable[[str, str], Description],
) -> Callable[[str, str, float | None], Imported]:
    return lambda text, where, _: Imported(format="", description=read(text, where))


def _linked(
    read: Callable[..., Topology],
) -> Callable[[str, str, float | None], Imported]:
    return lambda text, where, link: Imported(
        format="", topology=read(text, where, link_bytes_per_s=link)
    )


IMPORTERS: Mapping[
    str, tuple[Callable[[str], object], Callable[[str, str, float | None], Imported]]
] = {
    "weftline": (fabric_file.detect, _network(fabric_file.read)),
    "slurm-yaml": (slurm_yaml.detect, _described(slurm_yaml.read)),
    "slurm-conf": (slurm_conf.detect, _described(slurm_conf.read)),
    "volcano": (schedulers.detect, _described(schedulers.read)),
    "topograph": (topograph.detect, _described(topograph.read)),
    "kubernetes": (kubernetes.detect, _described(kubernetes.read)),
    "cloud": (clouds.detect, _described(clouds.read)),
    "ibnetdiscover": (ibnetdiscover.detect, _network(ibnetdiscover.read)),
    "tenstorrent": (tenstorrent.detect, _linked(tenstorrent.read)),
    "infragraph": (infragraph.detect, _linked(infragraph.read)),
    "astra-sim": (astra_sim.detect, _network(astra_sim.read)),
    "networkx": (networkx_json.detect, _network(networkx_json.read)),
}
"""Name -> (does this text look like it, read it). Tried in this order."""


def import_fabric(
    path: str | Path, *, kind: str | None = None, link_bytes_per_s: float | None = None
) -> Imported:
    """Read a cluster's or a network's file; told apart by content unless `kind` is given.

    Raises InputError where the file cannot be read or is none of the known formats, with the line
    of what is wrong in it.
    """
    path = Path(path)
    text = read_text(path)
    if kind is not None and kind not in IMPORTERS:
        raise UnknownNameError("format", kind, IMPORTERS, where="--format",
                               hint=f"one of {', '.join(IMPORTERS)}")  # fmt: skip
    name = kind or next((n for n, (looks, _) in IMPORTERS.items() if looks(text)), None)
    if name is None:
        raise InputError(
            "this is none of the known formats", where=str(path),
            hint=f"known are {', '.join(IMPORTERS)}; --kind says which one is meant",
        )  # fmt: skip
    found = IMPORTERS[name][1](text, str(path), link_bytes_per_s)
    label = found.description.format if found.description is not None else name
    return Imported(format=label, topology=found.topology, description=found.description)


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
    """A cluster's description as text of a scheduler or a cloud; raises InputError if it cannot."""
    writers: Mapping[str, Callable[[Description], str]] = {
        "slurm-conf": slurm_conf.write, "slurm-yaml": slurm_yaml.write,
        "kubernetes": kubernetes.write, "ec2": lambda d: clouds.write(d, clouds.EC2),
        "gce": lambda d: clouds.write(d, clouds.GCE), "oci": lambda d: clouds.write(d, clouds.OCI),
        "topograph": lambda d: topograph.write(d, topograph.GRAPH),
        "volcano": schedulers.write_volcano, "kueue": schedulers.write_kueue,
        "topograph-model": lambda d: topograph.write(d, topograph.MODEL),
    }  # fmt: skip
    if to not in writers:
        raise UnknownNameError("format", to, writers, hint=f"one of {', '.join(writers)}")
    return writers[to](described)
