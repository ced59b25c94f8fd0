"""The machine that two lines of free text name: a system, and the fabric that joins it."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

from weftline.catalog import Accelerator, accelerator
from weftline.errors import InputError
from weftline.fabric.facts import machine_facts
from weftline.fabric.predictor.machines import (
    Machine,
    Network,
    machine,
    slice_of,
    usual_network,
    usual_shape,
    with_host,
)

_PORTS = re.compile(r"(\d+)\s*x\s*(\d+(?:\.\d+)?)\s*(gbps|gb/s|gbit|gbe|g\b)")
_PORT = re.compile(r"\b(\d+(?:\.\d+)?)\s*(gbps|gbit|gbe)")


def read_machine(
    system: str,
    fabric: str,
    ranks: int,
    nodes: int | None,
    *,
    domain: int | None = None,
    library: str = "",
    version: str = "",
) -> Machine:
    """The machine that ``system`` and ``fabric`` describe; raises InputError where they do not.

    Both texts are free: a chip or an instance type must be in one of them, and for several domains
    a network, else the chip's usual one is taken and said so in ``assumed``. ``domain`` is how many
    ranks reach each other over the scale-up network, where that is more than a node. Nodes that
    are not stated are as many as the chip's usual hosts hold the ranks.
    """
    if ranks < 2 or (nodes is not None and not 1 <= nodes <= ranks):
        raise InputError(f"{ranks} ranks on {nodes} nodes are no collective")
    acc, assumed = _chip(system, fabric, library)
    if nodes is None:
        nodes = -(-ranks // max(acc.chips_per_host or 8, 1))
    domains = _domains(acc, f"{system} {fabric}".lower(), ranks, nodes, domain)
    network = None
    if domains > 1:
        network, unsaid = _network(acc, system, fabric, -(-ranks // nodes))
        assumed = "; ".join(t for t in (assumed, unsaid) if t)
    # What a row calls its library is a word among others: one that does not run here is left.
    runs = machine_facts()["libraries"].get(acc.vendor, [])
    word = library.lower() if library.lower() in runs else ""
    common: dict[str, Any] = {"library": word, "version": _version(version, system)}
    if acc.vendor in ("google", "aws"):
        shape, is_line, wire = _torus(acc, system, -(-ranks // domains))
        common |= {"shape": shape, "is_line": is_line, "wire_bytes_per_s": wire}
    return machine(acc, ranks, domains, network=network, assumed=assumed, **common)


def _domains(acc: Accelerator, text: str, ranks: int, nodes: int, domain: int | None) -> int:
    """Scale-up domains: a rack or a slice is one, however many nodes stand in it."""
    reach = domain or acc.scale_up_domain or 1
    if domain is None and acc.vendor == "aws" and "ultraserver" not in text:
        return nodes
    return -(-ranks // reach) if reach > (acc.chips_per_host or 8) else nodes


def _chip(system: str, fabric: str, library: str) -> tuple[Accelerator, str]:
    low = f"{system} {fabric}".lower()
    for entry in machine_facts()["chips"]:
        if re.search(entry["match"], low):
            return accelerator(entry["id"]), ""
    if library.lower() == "nccl" or re.search(r"\bgpus?\b", low):
        unnamed = machine_facts()["unnamed_gpu"]
        return accelerator(unnamed["id"]), str(unnamed["why"])
    raise InputError(
        f"no accelerator is named in `{system.strip()} {fabric.strip()}`",
        hint="name a chip or an instance type: H100, MI300X, TPU v5e, p5.48xlarge",
    )


def _version(text: str, system: str) -> tuple[int, ...]:
    """``2.27.7`` as numbers; of Neuron's runtime, whose versions are seldom stated, old or new."""
    found = re.search(r"\d+(?:\.\d+)+", text)
    if found:
        return tuple(int(p) for p in found[0].split("."))
    low = f"{text} {system}".lower()
    if "older runtime" in low or "trn1-era" in low:
        return (0,)
    return ()


def _network(acc: Accelerator, system: str, fabric: str, per_node: int) -> tuple[Network, str]:
    """The network between domains; ``8x400Gbps`` in the text gives the ports of a node.

    Ranks that fill a node share its ports; one that has the node to itself reaches the port, or
    ports, beside it.
    """
    text = f"{fabric} {system}".lower()
    entry = next((e for e in machine_facts()["networks"] if re.search(e["match"], text)), None)
    stated = _PORTS.search(text)
    usual = usual_network(acc)
    per_host = acc.chips_per_host or 8
    assumed = ""
    if stated:
        # 4x100Gbps counts ports in bits; nobody writes ports in bytes with a count.
        count, port = int(stated[1]), float(stated[2]) * 1e9 / 8
        rate = min(count * port / per_node, port * max(1.0, count / per_host))
    elif entry and "node_bytes_per_s" in entry:
        rate = entry["node_bytes_per_s"] / per_host
    elif entry and "port_bytes_per_s" in entry:
        rate = entry["port_bytes_per_s"]
    elif single := _PORT.search(text):
        # One port with a rate: a node's where sockets share it, each chip's own otherwise.
        shared = per_host if entry and entry["family"] == "tcp" else 1
        rate = float(single[1]) * 1e9 / 8 / shared
    else:
        rate, assumed = usual.chip_bytes_per_s, "the chip's usual scale-out network"
        if re.search(machine_facts()["unnamed_gpu"]["match"], text):
            rate = machine_facts()["usual_chip_bytes_per_s"]
    if entry is None:
        return replace(usual, chip_bytes_per_s=rate), assumed
    found = Network(family=entry["family"], name=entry["name"], chip_bytes_per_s=rate,
                    hop_s=entry["hop_s"], source=entry["source"])  # fmt: skip
    return (with_host(found, "tcp") if entry["family"] == "tcp" else found), assumed


def _torus(acc: Accelerator, system: str, ranks: int) -> tuple[tuple[int, ...], bool, float]:
    """Shape, whether it is open, and one way out of a chip over the links the ranks can use.

    A shape in the text (4x4x4) is used where its chips are the ranks; ``one axis`` says that the
    ranks lie on one; otherwise the most cubic shape counts.
    """
    text = system.lower()
    found = re.search(r"\d+(?:x\d+){1,2}", text)
    shape = tuple(int(s) for s in found[0].split("x")) if found else ()
    if "axis" in text:
        shape = (ranks,)
    elif math.prod(shape or (0,)) != ranks:
        shape = usual_shape(acc, ranks)
    is_line, wire = slice_of(acc, shape, is_open=bool(re.search(r"no wrap|line\b|mesh", text)))
    return shape, is_line, wire
