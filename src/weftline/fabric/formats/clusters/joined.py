"""A cluster's own description joined with the catalogue's link speeds: the Topology it means.

Each host has so many chips. Inside a scale-up domain (of one host, or of several where the file
says so and the chip reaches that far) chips are joined as the catalogue says; each chip has its
share of the network, a link to its leaf switch. Uplinks of a switch carry what is below it, divided
by ``oversubscription``; what no file states is written down in ``basis``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from weftline.catalog import Accelerator, accelerator
from weftline.errors import InputError
from weftline.fabric.cluster import cluster_of
from weftline.fabric.formats.clusters.description import Description, Host
from weftline.fabric.graph import Grid, Topology
from weftline.fabric.named import named_fabric
from weftline.fabric.nests import nested, product
from weftline.fabric.topologies import clos, full_mesh, grid
from weftline.fabric.topologies import switch as one_switch
from weftline.fabric.torus import torus_shape
from weftline.spec import Level

_Switch = Callable[[str, bool], int]
"""Name and whether it adds up -> the number of the new switch."""
FOLDED_FROM = 512
"""Chips from which a network is kept as its symmetric equivalent, where it has one."""
OWN_NETWORK = "the cluster's own network"
NVLS_CHIPS = ("h100-sxm", "h200-sxm", "h800-sxm", "b200", "b300", "gb200-nvl72", "gb300-nvl72")
"""Chips whose NVSwitches add up what passes them (NVLink SHARP)."""


@dataclass(slots=True)
class Links:
    """Links as they are found."""

    rows: list[tuple[int, int, float, float]] = field(default_factory=list)

    def cable(self, a: int, b: int, rate: float, latency_s: float) -> None:
        """Both directions."""
        self.rows += [(a, b, rate, latency_s), (b, a, rate, latency_s)]


@dataclass(frozen=True, slots=True)
class Speeds:
    """What one chip has: inside its domain and to the network."""

    acc: Accelerator
    up: Level | None
    out_bytes_per_s: float
    out_latency_s: float
    basis: dict[str, str]


def topology_of(
    described: Description,
    chip: str | None = None,
    *,
    chips_per_host: int | None = None,
    oversubscription: float = 1.0,
    link_bytes_per_s: float | None = None,
) -> Topology:
    """The Topology of a cluster of ``chip``; ranks are the chips of the hosts in the file's order.

    ``chip`` may be left out where the file says what its hosts have. ``link_bytes_per_s`` replaces
    the catalogue's speed of a chip's network link (of a ring's or torus's links, where the file
    describes one). Raises InputError for a description without hosts, UnknownNameError for a chip
    the catalogue lacks.
    """
    if not described.hosts:
        raise InputError(f"the {described.kind} topology names no hosts",
                         hint="a flat topology says nothing of the network")  # fmt: skip
    if not oversubscription > 0:
        raise InputError(f"an oversubscription of {oversubscription:g} cannot be")
    if described.fabric is not None and chip is None:
        return _slices(described)
    name, count, rate = _said(described, chip)
    acc = accelerator(name)
    per_host = chips_per_host or count or acc.chips_per_host or 1
    if per_host < 1:
        raise InputError(f"{per_host} chips a host")
    basis = {}
    if link_bytes_per_s is None and rate is not None:
        link_bytes_per_s, basis["scale_out"] = rate, "network of the hosts' instance type"
    if described.kind in ("ring", "torus3d"):
        return _grid_topology(described, acc, per_host, link_bytes_per_s)
    speeds = speeds_of(acc, per_host, len(described.hosts) * per_host, link_bytes_per_s)
    speeds.basis.update(basis)
    chips = per_host * len(described.hosts)
    if chips >= FOLDED_FROM:
        folded = _folded(described, speeds, per_host, oversubscription)
        if folded is not None:
            return folded
    made = _switched(described, speeds, per_host, oversubscription)
    # What is measured of the chips counts; the network's own speed stands, its kind is unsaid.
    several = len(made.levels) > 1
    return replace(made, chip=speeds.acc.id, across=_network(described) if several else "")


def _network(described: Description) -> str:
    """The hosts' network as measured rows may name it: by their instance type, where it is one."""
    kinds = {h.instance_type for h in described.hosts}
    kind = kinds.pop() if len(kinds) == 1 else None
    return f"{OWN_NETWORK} ({kind})" if kind else OWN_NETWORK


def _folded(
    described: Description, speeds: Speeds, per_host: int, oversubscription: float
) -> Topology | None:
    """A large cluster as what it is: equal units below one Clos, seen the same from every unit.

    Without oversubscription the switches of the file limit nothing. With it the leaves limit what
    leaves them, and nothing above does: every switch's uplinks carry the same share of what is
    below it. Schedules are timed from one chip. None where domains differ in size, a host's inside
    is not one of a kind, or oversubscribed leaves cannot be taken as equal ones.
    """
    up, acc, hosts = speeds.up, speeds.acc, described.hosts
    domains = _domains(described, acc, per_host)
    members = list(domains.values()) or [
        list(range(h * per_host, (h + 1) * per_host)) for h in range(len(hosts))
    ]
    size = len(members[0])
    if len({len(m) for m in members}) > 1 or up is None or up.kind == "torus":
        return None
    if up.kind == "full-mesh":
        ways = max((acc.scale_up_domain or size) - 1, 1)
        inner = full_mesh(size, up.bandwidth_bytes_per_s / ways, up.latency_s)
    else:
        inner = one_switch(size, up.bandwidth_bytes_per_s, up.latency_s,
                           reducing=acc.id in NVLS_CHIPS)  # fmt: skip
    order = [rank for group in members for rank in group]
    out, latency_s = speeds.out_bytes_per_s, speeds.out_latency_s
    one = f"the switches above {len(hosts):,} hosts are taken as one Clos"
    if oversubscription == 1.0:
        basis = {**speeds.basis, "uplinks": f"assumed to carry what is below them: {one}"}
        made = nested(inner, len(members), out, latency_s, name=described.name, basis=basis)
    else:
        leaves = _leaves(described, members, per_host)
        even = _even_leaf([len(units) for units in leaves])
        if even is None:
            return None
        order = [rank for units in leaves for unit in units for rank in members[unit]]
        outer = clos(len(members), out, latency_s, leaf=even, oversubscription=oversubscription)
        uplinks = f"assumed: what is below a leaf / {oversubscription:g}; {one}"
        if any(len(units) != even for units in leaves):
            uplinks += f", its {len(leaves)} unequal leaves as {len(members) // even} of {even}"
        basis = {**speeds.basis, "uplinks": uplinks}
        made = replace(product(inner, outer, name=described.name), basis=basis,
                       chips_forward=inner.chips_forward)  # fmt: skip
    labels = tuple(f"{hosts[r // per_host].name}/{r % per_host}" for r in order)
    return replace(made, labels=labels, chip=speeds.acc.id, across=_network(described))


def _leaves(described: Description, members: list[list[int]], per_host: int) -> list[list[int]]:
    """Of each leaf switch the units below it; none where a unit has no leaf, or several."""
    leaves: dict[str, list[int]] = {}
    for unit, ranks in enumerate(members):
        above = {described.hosts[r // per_host].path[:1] for r in ranks}
        if len(above) > 1 or () in above:
            return []
        leaves.setdefault(above.pop()[0], []).append(unit)
    return list(leaves.values())


def _even_leaf(sizes: list[int]) -> int | None:
    """Units of equal leaves that limit traffic as leaves of ``sizes`` do, or a little more.

    The most that divide all units and are no more than the smallest leaf; None below half of it.
    """
    if len(sizes) < 2:
        return None
    least = min(sizes)
    return next((n for n in range(least, (least + 1) // 2 - 1, -1) if sum(sizes) % n == 0), None)


def _said(described: Description, chip: str | None) -> tuple[str, int | None, float | None]:
    """Chip, chips a host and a chip's share of the network, as asked for or as the hosts say.

    Raises InputError where they say nothing, or different things.
    """
    chips = {h.chip for h in described.hosts}
    if chip is None and (len(chips) > 1 or None in chips):
        names = ", ".join(sorted(str(c) for c in chips if c)) or "nothing"
        raise InputError(
            f"the file says of its hosts' accelerators: {names}"
            + (", and of some nothing" if None in chips and len(chips) > 1 else ""),
            hint="name the one meant: --chip h100; hosts of several kinds are several clusters",
        )
    name = chip or str(next(iter(chips)))
    same = chip is None or accelerator(chip).id in chips
    counts = {h.chips for h in described.hosts}
    rates = {h.network_bytes_per_s for h in described.hosts}
    count = next(iter(counts)) if len(counts) == 1 and same else None
    return name, count, next(iter(rates)) if len(rates) == 1 and same else None


def _slices(described: Description) -> Topology:
    """TPU slices as the tori they are; slices of one shape are joined by the data-centre network.

    Chips are named by their host and place in it, x fastest, as GKE numbers both.
    """
    fabric = str(described.fabric)
    shapes = set(described.slices.values())
    if len(shapes) != 1:
        raise InputError(
            "slices of different shapes: " + ", ".join(
                f"{g} {'x'.join(map(str, s))}" for g, s in described.slices.items()),
            hint="import one pool of nodes at a time",
        )  # fmt: skip
    shape = shapes.pop()
    one = named_fabric(fabric, shape)
    chips = [label for group in described.slices for label in _slice_labels(described, group)]
    if len(described.slices) == 1:
        return replace(one, labels=tuple(chips))
    acc = accelerator(fabric)
    out = acc.scale_out_bytes_per_s or 6.25e9
    joined = nested(one, len(described.slices), out, 14e-6, rails=False)
    basis = {**joined.basis, "slices": "joined by the data-centre network, a share for each chip"}
    return replace(joined, labels=tuple(chips), basis=basis)


def _slice_labels(described: Description, group: str) -> list[str]:
    """[chips of a slice, row-major] host and place of each."""
    shape, hosts = described.slices[group], described.shapes[group]
    box = [s // h for s, h in zip(shape, hosts, strict=True)]
    name = {h.point: h.name for h in described.hosts if h.group == group}
    found = []
    for point in np.ndindex(*shape):
        at = tuple(p // b for p, b in zip(point, box, strict=True))
        place, step = 0, 1
        for p, b in zip(point, box, strict=True):
            place, step = place + p % b * step, step * b
        found.append(f"{name[at]}/{place}")
    return found


def speeds_of(acc: Accelerator, per_host: int, chips: int, link: float | None) -> Speeds:
    """The catalogue's levels of this chip; beyond its domain at least one more host is assumed."""
    reach = max(chips, 2 * per_host, (acc.scale_up_domain or 1) + 1)
    cluster = cluster_of(acc, reach)
    inner = [lev for lev in cluster.levels if lev.name not in ("scale-out", "chip")]
    out = cluster.levels[-1]
    basis = {k: v for k, v in cluster.basis.items() if k in ("scale_up", "scale_out")}
    rate = out.bandwidth_bytes_per_s if out.name == "scale-out" else acc.scale_out_bytes_per_s
    if link is not None:
        basis["scale_out"] = "given"
    return Speeds(acc, inner[0] if inner else None, link or rate or 12.5e9, out.latency_s, basis)


def _switched(
    described: Description, speeds: Speeds, per_host: int, oversubscription: float
) -> Topology:
    hosts = described.hosts
    ranks = len(hosts) * per_host
    links = Links()
    labels = [f"{h.name}/{i}" for h in hosts for i in range(per_host)]
    reducing: list[bool] = []

    def switch(name: str, adds: bool) -> int:
        labels.append(name)
        reducing.append(adds)
        return len(labels) - 1

    levels = [per_host]
    spanning = _domains(described, speeds.acc, per_host)
    if spanning:
        adds = speeds.acc.id in NVLS_CHIPS
        for domain, members in spanning.items():
            hub = switch(f"domain {domain}", adds)
            for rank in members:
                _to_switch(links, rank, hub, speeds.up)
        levels.append(max(len(m) for m in spanning.values()))
    elif per_host > 1:
        for h, host in enumerate(hosts):
            inside_host(links, speeds, h * per_host, per_host, host, switch)
    _tree(links, described, speeds, per_host, oversubscription, switch)
    table = np.asarray(links.rows, dtype=np.float64)
    basis = dict(speeds.basis)
    basis["uplinks"] = f"assumed: what is below a switch / {oversubscription:g}"
    levels.append(ranks)
    return Topology(
        name=described.name, ranks=ranks, switches=len(labels) - ranks, kind="graph",
        source=table[:, 0].astype(np.int64), destination=table[:, 1].astype(np.int64),
        bandwidth_bytes_per_s=table[:, 2], latency_s=table[:, 3],
        levels=tuple(sorted({v for v in levels if v > 1})) or (ranks,),
        labels=tuple(labels), basis=basis,
        chips_forward=speeds.up is not None and speeds.up.kind == "torus",
        reducing=np.asarray(reducing) if any(reducing) else None,
    )  # fmt: skip


def _domains(described: Description, acc: Accelerator, per_host: int) -> dict[str, list[int]]:
    """Domains of more than one host, with their ranks, where the chip's scale-up reaches them."""
    reach = acc.scale_up_domain or 1
    if reach <= per_host:
        return {}
    found: dict[str, list[int]] = {}
    for h, host in enumerate(described.hosts):
        key = host.domain or f"of {host.name}"
        found.setdefault(key, []).extend(range(h * per_host, (h + 1) * per_host))
    if all(len(m) <= per_host for m in found.values()):
        return {}
    big = next((k for k, m in found.items() if len(m) > reach), None)
    if big is not None and described.kind != "block":
        # A capacity block or reservation can be wider than a scale-up domain: it is none then.
        return {}
    return found


def _to_switch(links: Links, rank: int, hub: int, up: Level | None) -> None:
    if up is None:
        return
    links.cable(rank, hub, up.bandwidth_bytes_per_s, up.latency_s / 2)


def inside_host(
    links: Links, speeds: Speeds, first: int, per_host: int, host: Host, switch: _Switch
) -> None:
    """A host's own scale-up network: full mesh, torus or switch, as the catalogue has it."""
    up, acc = speeds.up, speeds.acc
    if up is None:
        return
    if up.kind == "full-mesh":
        rate = up.bandwidth_bytes_per_s / max((acc.scale_up_domain or per_host) - 1, 1)
        for a in range(per_host):
            for b in range(a + 1, per_host):
                links.cable(first + a, first + b, rate, up.latency_s)
    elif up.kind == "torus":
        dims = len(up.shape) or 2
        rate = up.bandwidth_bytes_per_s / (2 * dims)
        inner = grid(torus_shape(per_host, min(dims, 2)), rate, up.latency_s)
        for u, v in zip(inner.source.tolist(), inner.destination.tolist(), strict=True):
            links.rows.append((first + u, first + v, rate, up.latency_s))
    else:
        hub = switch(f"{host.name}/switch", acc.id in NVLS_CHIPS)
        for i in range(per_host):
            _to_switch(links, first + i, hub, up)


def _tree(
    links: Links, described: Description, speeds: Speeds, per_host: int, over: float,
    switch: _Switch,
) -> None:  # fmt: skip
    """Leaf switches, the switches above them, and one that joins what the file leaves apart."""
    half = speeds.out_latency_s / 2
    parents = described.parents
    below: dict[str, int] = {}
    for host in described.hosts:
        for name in host.path:
            below[name] = below.get(name, 0) + per_host
    number = {name: switch(name, False) for name in below}
    loose = [h for h, host in enumerate(described.hosts) if not host.path]
    roots = [n for n in number if parents.get(n) is None]
    core = None
    if (loose and len(described.hosts) > 1) or len(roots) > 1:
        core = switch("core (assumed)", False)
    rate = speeds.out_bytes_per_s
    joined_inside = speeds.up is not None and (speeds.acc.scale_up_domain or 1) > 1
    for h, host in enumerate(described.hosts):
        above = number[host.path[0]] if host.path else core
        if above is not None:
            for i in range(per_host):
                rank = h * per_host + i
                if joined_inside:
                    # A NIC of its own: the way through the leaf must not seem as short as the
                    # scale-up switch between two chips of one host.
                    nic = switch(f"{host.name}/{i} nic", False)
                    links.cable(rank, nic, rate, 0.0)
                    rank = nic
                links.cable(rank, above, rate, half)
    for name, node in number.items():
        parent = parents.get(name)
        above = number[parent] if parent is not None else core
        if above is not None:
            links.cable(node, above, below[name] * rate / over, half)


def _grid_topology(
    described: Description, acc: Accelerator, per_host: int, link: float | None
) -> Topology:
    """Hosts at the points of rings or tori, joined to their neighbours; chips behind their host."""
    dims = len(next(iter(described.shapes.values())))
    up = acc.scale_up_bytes_per_s or 0.0
    chip_dims = {"torus3d": 3, "torus2d": 2, "ring": 1}.get(acc.topology_kind or "", dims)
    rate = link or up / (2 * max(chip_dims, 1))
    if rate <= 0:
        raise InputError(f"no link rate of `{acc.id}` is known", hint="give one: --link 50GB/s")
    latency_s = 1.0e-6
    basis = {"link": "given" if link else "datasheet: scale-up rate of the chip / its links"}
    whole = len(described.shapes) == 1 and per_host == 1
    shape = next(iter(described.shapes.values()))
    if whole and len(described.hosts) == int(np.prod(shape)):
        return _whole_grid(described, shape, rate, latency_s, basis)
    return _host_grid(described, per_host, rate, latency_s, acc, basis)


def _whole_grid(
    described: Description, shape: tuple[int, ...], rate: float, latency_s: float,
    basis: dict[str, str],
) -> Topology:  # fmt: skip
    """One full torus of chips: ranks in the order of the grid, first coordinate fastest."""
    built = grid(shape[::-1], rate, latency_s, name=described.name, basis=basis)
    ordered = sorted(described.hosts, key=lambda h: tuple(reversed(h.point or ())))
    return Topology(
        name=built.name, ranks=built.ranks, source=built.source, destination=built.destination,
        bandwidth_bytes_per_s=built.bandwidth_bytes_per_s, latency_s=built.latency_s,
        kind=built.kind, grid=built.grid, levels=built.levels, group=built.group,
        interchangeable=built.interchangeable, link_class=built.link_class,
        labels=tuple(h.name for h in ordered), basis=basis,
    )  # fmt: skip


def _host_grid(
    described: Description, per_host: int, rate: float, latency_s: float, acc: Accelerator,
    basis: dict[str, str],
) -> Topology:  # fmt: skip
    hosts = described.hosts
    ranks = len(hosts) * per_host
    labels = [f"{h.name}/{i}" for h in hosts for i in range(per_host)]
    links = Links()
    routers = list(range(ranks)) if per_host == 1 else []
    if per_host > 1:
        inside = acc.scale_up_bytes_per_s or rate
        for h, host in enumerate(hosts):
            labels.append(host.name)
            routers.append(ranks + h)
            for i in range(per_host):
                links.cable(h * per_host + i, ranks + h, inside, latency_s / 2)
    for name, shape in described.shapes.items():
        at = {h.point: routers[i] for i, h in enumerate(hosts) if h.group == name}
        lattice = Grid(shape=shape, wraps=(True,) * len(shape))
        for point, node in at.items():
            for axis, side in enumerate(lattice.shape):
                there = list(point or ())
                there[axis] = (there[axis] + 1) % side
                other = at.get(tuple(there))
                if other is not None and side > 1 and not (side == 2 and there[axis] == 0):
                    links.cable(node, other, rate * (per_host if per_host > 1 else 1), latency_s)
    if len(described.shapes) > 1:
        labels.append("core (assumed)")
        out = acc.scale_out_bytes_per_s or 12.5e9
        for node in routers:
            links.cable(node, len(labels) - 1, out * per_host, latency_s)
        basis["core"] = "assumed: rings and tori joined by the chips' network"
    table = np.asarray(links.rows, dtype=np.float64).reshape(-1, 4)
    return Topology(
        name=described.name, ranks=ranks, switches=len(labels) - ranks,
        source=table[:, 0].astype(np.int64), destination=table[:, 1].astype(np.int64),
        bandwidth_bytes_per_s=table[:, 2], latency_s=table[:, 3], labels=tuple(labels),
        levels=tuple(v for v in (per_host, ranks) if v > 1) or (ranks,), basis=basis,
        chips_forward=per_host == 1,
    )  # fmt: skip
