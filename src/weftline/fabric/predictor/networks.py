"""The machine that a topology is, or that a group of ranks on a cluster's levels is."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace

from weftline.catalog import Accelerator, accelerator
from weftline.errors import InputError
from weftline.fabric.graph import Topology
from weftline.fabric.predictor.machines import (
    Machine,
    Network,
    library_of,
    machine,
    machine_facts,
    usual_network,
    with_host,
)
from weftline.spec import Cluster, Level


def machine_of(
    topology: Topology,
    *,
    ranks: int | None = None,
    library: str = "auto",
    version: str = "",
    host: str = "auto",
) -> Machine | None:
    """The machine a topology's chips and library make; None where they are not known.

    Rates are the topology's own links', so that what a user says of them counts. ``ranks`` is how
    many of its chips take part, the first ones. ``library`` none asks for no machine. Raises
    InputError for ranks that are not there and a way of the host that is not known.
    """
    if library == "none" or not topology.chip or topology.ranks < 2:
        return None
    acc = accelerator(topology.chip)
    domains, out_rate = _domains(topology)
    count = topology.ranks if ranks is None else ranks
    if not 1 < count <= topology.ranks:
        raise InputError(f"`{topology.name}` has {topology.ranks} chips, not {count}")
    inside = _egress(topology) - out_rate
    if count < topology.ranks:
        domains, inside = _part(topology, count, domains, inside)
    network = None
    if domains > 1:
        network = network_named(acc, topology.across, out_rate, host)
        if topology.basis.get("out.latency", "").startswith("given"):
            hop_s = 2 * float(topology.latency_s[_outward(topology)])
            network = replace(network, hop_s=hop_s, source="given by the user")
    elif host not in ("auto", "bypass"):
        raise InputError(
            f"`{topology.name}` is one domain: no host lies between its chips",
            hint="the host counts where a network joins domains: h100-clos:16",
        )
    shape, is_line = _shape(topology)
    found = tuple(int(p) for p in version.split(".") if p.isdigit())
    return machine(
        acc, count, domains, network=network, wire_bytes_per_s=inside, shape=shape,
        is_line=is_line, library=library_of(acc, library), version=found,
        assumed=topology.basis.get("out.assumed", ""),
    )  # fmt: skip


def network_named(acc: Accelerator, name: str, chip_bytes_per_s: float, host: str) -> Network:
    """A network between domains by the name measured rows give it, at a rate of one chip."""
    entry = next((e for e in machine_facts()["networks"] if name
                  and re.search(e["match"], name.lower())), None)  # fmt: skip
    usual = usual_network(acc)
    found = Network(
        family=entry["family"] if entry else usual.family,
        name=entry["name"] if entry else usual.name,
        chip_bytes_per_s=chip_bytes_per_s,
        hop_s=entry["hop_s"] if entry else usual.hop_s,
        source=entry["source"] if entry else usual.source,
    )
    if host == "auto":
        return with_host(found, "tcp") if found.family == "tcp" else found
    return with_host(found, host)


def _outward(topology: Topology) -> int:
    """The last link of chip 0: where units are nested, the one that leads out of its unit."""
    return int((topology.source == 0).nonzero()[0][-1])


def _domains(topology: Topology) -> tuple[int, float]:
    """Scale-up domains, and what one chip sends out of its own."""
    if not topology.across or len(topology.levels) < 2:
        return 1, 0.0
    domains = max(1, topology.ranks // topology.levels[-2])
    return domains, float(topology.bandwidth_bytes_per_s[_outward(topology)])


def _part(topology: Topology, count: int, domains: int, inside: float) -> tuple[int, float]:
    """Domains of the first ``count`` chips, and what one of them sends to the others of its own."""
    domain = topology.ranks // domains
    if topology.grid is not None:
        raise InputError(
            f"a part of `{topology.name}` is no torus of its own",
            hint="name the slice: tpu-v5p:2x2x4",
        )
    if count < domain and "mesh" in topology.kind:
        inside *= (count - 1) / (domain - 1)
    return max(1, math.ceil(count / domain)), inside


def _egress(topology: Topology) -> float:
    """One way out of the chip that has least, links out of the domain among them."""
    return float(topology.egress_bytes_per_s().min())


def _shape(topology: Topology) -> tuple[tuple[int, ...], bool]:
    grid = topology.grid
    if grid is None:
        return (), False
    is_line = any(s > 2 and not w for s, w in zip(grid.shape, grid.wraps, strict=True))
    return grid.shape, is_line


def machine_on(
    cluster: Cluster, ranks: int, per_domain: int, *, library: str = "auto", host: str = "auto"
) -> Machine:
    """``ranks`` of a cluster's chips, ``per_domain`` of them in each scale-up domain.

    Raises InputError where no rate is known.
    """
    acc = accelerator(cluster.accelerator)
    domains = max(1, math.ceil(ranks / max(per_domain, 1)))
    inner, outer = _two(cluster.levels)
    network = None
    if domains > 1:
        network = network_named(acc, "", outer.bandwidth_bytes_per_s, host)
    here = math.ceil(ranks / domains)
    wire, shape = inner.bandwidth_bytes_per_s, inner.shape
    if inner.kind == "full-mesh" and inner.size > 1:
        wire = wire * max(here - 1, 1) / (inner.size - 1)
    return machine(
        acc, ranks, domains, network=network, wire_bytes_per_s=wire if here > 1 else None,
        shape=shape, is_line=inner.open_sides, library=library_of(acc, library),
    )  # fmt: skip


def _two(levels: Sequence[Level]) -> tuple[Level, Level]:
    """The scale-up level, and the one beyond it (itself where there is none)."""
    return levels[0], levels[-1]
