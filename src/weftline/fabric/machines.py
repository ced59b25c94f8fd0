"""The machine a measured row names: chips, links and network, read from two lines of free text.

What is known before anything is fitted stands in ``data/collective_machines.json`` with its
sources: NCCL's own rates and latencies, those AWS's plugin tells NCCL, and the catalogue's wires.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from weftline.catalog import Accelerator, accelerator
from weftline.errors import InputError

Kind = Literal["nvlink", "pcie", "full-mesh", "torus", "neuron"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """What joins nodes: one-way bytes/s of a node and the latency of a hop, with its source."""

    name: str
    node_bytes_per_s: float
    hop_s: float
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Chips that run one collective, at the rates their makers state."""

    chip: str
    kind: Kind
    ranks: int
    nodes: int
    wire_bytes_per_s: float
    """One way, all links of a chip that the ranks can use."""
    ring_bytes_per_s: float
    """What the library counts on for rings: NCCL's figure a link times links; else the wire."""
    nvls: float = 0.0
    """NCCL's share for reductions in the switch; 0 where the switch adds nothing."""
    hop_s: float = 0.6e-6
    network: Network | None = None
    assumed: str = ""
    """What the row does not say and was taken from the chip's usual machine."""

    @property
    def per_node(self) -> int:
        """Ranks of one node."""
        return max(1, self.ranks // self.nodes)

    @property
    def group(self) -> str:
        """Chip and network: what is left out whole when errors are held out."""
        return self.chip if self.network is None else f"{self.chip} over {self.network.name}"


@cache
def machine_facts() -> Mapping[str, Any]:
    """The data file of machines."""
    text = files("weftline.fabric").joinpath("data/collective_machines.json").read_text("utf-8")
    facts: Mapping[str, Any] = json.loads(text)
    return facts


def read_machine(system: str, fabric: str, ranks: int, nodes: int) -> Machine:
    """The machine that ``system`` and ``fabric`` describe; raises InputError where they do not.

    Both texts are free: a chip or an instance type must be in one of them, and for several nodes
    a network, else the chip's usual one is taken and said so in ``assumed``.
    """
    if ranks < 2 or nodes < 1 or nodes > ranks:
        raise InputError(f"{ranks} ranks on {nodes} nodes are no collective")
    acc = _chip(f"{system} {fabric}")
    wire = acc.scale_up_bytes_per_s
    if wire is None:
        raise InputError(f"the catalogue states no link rate for `{acc.id}`")
    network, assumed = (None, "") if nodes == 1 else _network(acc, system, fabric, ranks, nodes)
    nccl = machine_facts()["nccl"].get(acc.id)
    hops = machine_facts()["hops_s"]
    common: dict[str, Any] = {"chip": acc.id, "ranks": ranks, "nodes": nodes, "network": network,
                              "assumed": assumed}  # fmt: skip
    if nccl is not None:
        rate = nccl["links"] * nccl["link_bytes_per_s"]
        return Machine(kind="nvlink", wire_bytes_per_s=wire, ring_bytes_per_s=rate,
                       nvls=nccl["nvls"], hop_s=hops["nvlink"], **common)  # fmt: skip
    if acc.vendor in ("google", "aws"):
        kind: Kind = "torus" if acc.vendor == "google" else "neuron"
        links = _torus_links(acc, system, ranks)
        rate = wire * links / _links_of(acc)
        hop = 1.0e-6 if acc.vendor == "google" else 1.5e-6
        return Machine(kind=kind, wire_bytes_per_s=rate, ring_bytes_per_s=rate, hop_s=hop,
                       **common)  # fmt: skip
    if acc.topology_kind in ("fully_connected", "mesh") and (acc.scale_up_domain or 1) > 2:
        here = min(ranks // nodes, acc.scale_up_domain or ranks)
        rate = wire * max(here - 1, 1) / max((acc.scale_up_domain or 2) - 1, 1)
        return Machine(kind="full-mesh", wire_bytes_per_s=rate, ring_bytes_per_s=rate, **common)
    return Machine(kind="pcie", wire_bytes_per_s=wire, ring_bytes_per_s=wire, hop_s=hops["pci"],
                   **common)  # fmt: skip


def _chip(text: str) -> Accelerator:
    low = text.lower()
    for entry in machine_facts()["chips"]:
        if re.search(entry["match"], low):
            return accelerator(entry["id"])
    raise InputError(
        f"no accelerator is named in `{text.strip()}`",
        hint="name a chip or an instance type: H100, MI300X, TPU v5e, p5.48xlarge",
    )


def _network(
    acc: Accelerator, system: str, fabric: str, ranks: int, nodes: int
) -> tuple[Network, str]:
    """The network between nodes; ``8x400Gbps`` in the text gives the rate of a node."""
    text = f"{fabric} {system}".lower()
    entry = next((e for e in machine_facts()["networks"] if re.search(e["match"], text)), None)
    stated = re.search(r"(\d+)\s*x\s*(\d+(?:\.\d+)?)\s*(gbps|gb/s|gbit|g\b)", text)
    usual = (acc.scale_out_bytes_per_s or 0.0) * (acc.chips_per_host or 8)
    per_node = ranks // nodes
    share = min(1.0, per_node / (acc.chips_per_host or 8))
    assumed = ""
    if stated:
        # 4x100Gbps counts ports in bits; nobody writes ports in bytes with a count.
        rate = int(stated[1]) * float(stated[2]) * 1e9 / 8
    elif entry and "node_bytes_per_s" in entry:
        rate = entry["node_bytes_per_s"]
    elif entry and "port_bytes_per_s" in entry:
        rate = entry["port_bytes_per_s"] * (acc.chips_per_host or 8)
    elif usual:
        rate, assumed = usual, "the chip's usual scale-out network"
    else:
        raise InputError(f"no network is named in `{fabric}`, and `{acc.id}` has no usual one")
    name = entry["name"] if entry else "usual network"
    hop = entry["hop_s"] if entry else 5e-6
    source = entry["source"] if entry else "nccl-tuning"
    return Network(name=name, node_bytes_per_s=rate * share, hop_s=hop, source=source), assumed


def _links_of(acc: Accelerator) -> int:
    return {"torus3d": 6, "torus2d": 4, "ring": 2}.get(acc.topology_kind or "", 4)


def _torus_links(acc: Accelerator, system: str, ranks: int) -> int:
    """One-way links a rank can use at once: two an axis that closes on itself, one on a line.

    A shape in the text (4x4x4) is used where its chips are the ranks; ``one axis`` says that the
    ranks lie on one; otherwise the most cubic shape counts.
    """
    dims = 3 if acc.topology_kind == "torus3d" else 2
    text = system.lower()
    found = re.search(r"\d+(?:x\d+){1,2}", text)
    shape = tuple(int(s) for s in found[0].split("x")) if found else ()
    if "axis" in text:
        shape = (ranks,)
    elif math.prod(shape or (0,)) != ranks:
        from weftline.fabric.closed_forms import torus_shape

        shape = torus_shape(ranks, dims)
    open_text = bool(re.search(r"no wrap|line\b|mesh", text))

    def closes(side: int) -> bool:
        if open_text or side <= 2:
            return False
        if acc.vendor == "aws":
            return side >= 4
        return side % 16 == 0 if acc.topology_kind == "torus2d" else side % 4 == 0

    return max(1, sum(2 if closes(side) else 1 for side in shape if side > 1))
