"""The machine that a topology is, or that a group of ranks on a cluster's levels is."""

from __future__ import annotations

import math
import re
from dataclasses import replace

from weftline.catalog import Accelerator, accelerator
from weftline.errors import InputError
from weftline.fabric._cuts import own_groups
from weftline.fabric.facts import machine_facts
from weftline.fabric.graph import Topology
from weftline.fabric.predictor.machines import (
    Machine,
    Network,
    axis_closes,
    inside_wire,
    library_of,
    machine,
    slice_of,
    usual_network,
    usual_shape,
    with_host,
)
from weftline.fabric.torus import axes_of
from weftline.spec import Cluster


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
    inside: float | None
    if topology.kind == "graph":
        inside, beyond = _rates(topology, domains)
        out_rate = beyond if domains > 1 else 0.0
    else:
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
    domains = max(1, -(-topology.ranks // topology.levels[-2]))
    return domains, float(topology.bandwidth_bytes_per_s[_outward(topology)])


def _rates(topology: Topology, domains: int) -> tuple[float | None, float]:
    """What chip 0 of a cluster's own graph sends inside its domain, None over a bus, and beyond it.

    Every link that leads neither to a chip of the domain nor to a switch of its own leads to a
    NIC, a bus or a leaf switch.
    """
    group = own_groups(topology, -(-topology.ranks // domains))
    mine = topology.source == 0
    within = group[topology.destination] == 0
    inside = float(topology.bandwidth_bytes_per_s[mine & within].sum())
    return inside or None, float(topology.bandwidth_bytes_per_s[mine & ~within].sum())


def _part(
    topology: Topology, count: int, domains: int, inside: float | None
) -> tuple[int, float | None]:
    """Domains of the first ``count`` chips, and what one of them sends to the others of its own."""
    domain = topology.ranks // domains
    if topology.grid is not None:
        raise InputError(
            f"a part of `{topology.name}` is no torus of its own",
            hint="name the slice: tpu-v5p:2x2x4",
        )
    if inside is not None and count < domain and "mesh" in topology.kind:
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


def domain_of(cluster: Cluster) -> int:
    """Chips that reach each other without a NIC: over scale-up links, or the bus of a host."""
    inner = max((level.size for level in cluster.levels if level.kind != "clos"), default=1)
    return min(max(inner, cluster.chips_per_host), cluster.chips)


def machine_on(
    cluster: Cluster, ranks: int, stride: int = 1, *, library: str = "auto", host: str = "auto"
) -> Machine:
    """``ranks`` of a cluster's chips that lie ``stride`` apart.

    ``host`` auto is the cluster's own.
    Degrees that do not divide a domain leave domains partly used. Raises InputError where no rate
    is known, and for more ranks than there are chips.
    """
    if ranks * stride > cluster.chips and ranks > max(cluster.chips // max(stride, 1), 1):
        raise InputError(
            f"a group of {ranks} ranks, {stride} apart, does not fit {cluster.chips} chips"
        )
    acc = accelerator(cluster.accelerator)
    host = cluster.host if host == "auto" else host
    per_domain = min(max(domain_of(cluster) // stride, 1), ranks)
    inner, outer = cluster.levels[0], cluster.levels[-1]
    out = outer.bandwidth_bytes_per_s if outer.kind == "clos" else None
    if any(level.shape for level in cluster.levels):
        network = None if per_domain >= ranks else _across(acc, out, outer.basis, host)
        return _on_torus(cluster, acc, ranks, per_domain, stride, network, library)
    link = inner.bandwidth_bytes_per_s if inner.size > 1 else None
    whole = acc.scale_up_domain or inner.size
    if link is not None and inner.kind == "full-mesh" and inner.size < whole:
        link *= (whole - 1) / max(inner.size - 1, 1)
    return machine_from(
        acc, ranks, per_domain, link_bytes_per_s=link, out_bytes_per_s=out, library=library,
        host=host, network=outer.basis,
    )  # fmt: skip


def _across(acc: Accelerator, rate: float | None, name: str, host: str) -> Network:
    return network_named(acc, name, rate or usual_network(acc).chip_bytes_per_s, host)


def _on_torus(
    cluster: Cluster, acc: Accelerator, ranks: int, per_domain: int, stride: int,
    network: Network | None, library: str,
) -> Machine:  # fmt: skip
    """Ranks on the axes of a cluster's tori, the innermost level's first."""
    tori = [level for level in cluster.levels if level.shape]
    shape = [side for level in tori for side in level.shape]
    rates = [level.bandwidth_bytes_per_s / (2 * len(level.shape))
             for level in tori for _ in level.shape]  # fmt: skip
    closed = [axis_closes(acc, tuple(shape), side) for side in shape]
    axes = axes_of(shape, closed, per_domain, stride)
    own = tuple(axis.links * rate for axis, rate in zip(axes, rates, strict=True))
    return machine(
        acc, ranks, -(-ranks // per_domain), network=network, axes_bytes_per_s=own,
        wire_bytes_per_s=sum(own) if per_domain > 1 else rates[0],
        shape=tuple(axis.ranks for axis in axes), library=library_of(acc, library),
        is_line=any(axis.ranks > 2 and not axis.closed for axis in axes),
    )  # fmt: skip


def machine_from(
    acc: Accelerator,
    ranks: int,
    per_domain: int,
    *,
    link_bytes_per_s: float | None = None,
    out_bytes_per_s: float | None = None,
    library: str = "auto",
    host: str = "auto",
    network: str = "",
) -> Machine:
    """``ranks`` chips, ``per_domain`` of them in each scale-up domain.

    ``link_bytes_per_s`` is what a chip sends inside a whole domain and ``out_bytes_per_s`` beyond
    it, where they are not the catalogue's; ``network`` is what is said of the network between
    domains, the chip's usual one where that names none. Raises InputError where no rate is known.
    """
    domains = max(1, math.ceil(ranks / max(per_domain, 1)))
    across = _across(acc, out_bytes_per_s, network, host) if domains > 1 else None
    here = math.ceil(ranks / domains)
    shape: tuple[int, ...] = ()
    is_line, wire = False, None
    known = acc.scale_up_bytes_per_s
    if acc.vendor in ("google", "aws") and acc.topology_kind != "switch":
        shape = usual_shape(acc, here)
        is_line, wire = slice_of(acc, shape)
    elif link_bytes_per_s is not None and here > 1 and acc.topology_kind == "switch":
        wire = link_bytes_per_s
    elif link_bytes_per_s is not None and known and here > 1:
        wire = link_bytes_per_s * inside_wire(acc, here) / known
    return machine(
        acc, ranks, domains, network=across, wire_bytes_per_s=wire, shape=shape,
        is_line=is_line, library=library_of(acc, library),
    )  # fmt: skip
