"""Cables of SimGrid's clusters: stars with or without a backbone, tori, fat trees, dragonflies.

Source: ``src/kernel/routing`` of simgrid/simgrid for what ``topo_parameters`` mean (FatTreeZone,
TorusZone, DragonflyZone), and SimGrid's manual ("XML reference"); read 2026-11-30.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations, product
from typing import Final

from weftline.errors import InputError, UnknownNameError
from weftline.fabric import topologies
from weftline.fabric.formats.xml_tree import Element
from weftline.fabric.graph import Topology
from weftline.units import parse_duration_s, parse_rate_bytes_per_s

HOSTS_MOST: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Point:
    """Where cables end: the node they lead into, and the one they come from."""

    enter: int
    leave: int


@dataclass(frozen=True, slots=True)
class Link:
    bytes_per_s: float
    latency_s: float
    shared: bool
    """Both directions share the rate."""


@dataclass(slots=True)
class Network:
    """What has been read so far; nodes are numbered as they come."""

    where: str
    hosts: list[int] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    points: dict[str, Point] = field(default_factory=dict)
    rows: list[tuple[int, int, float, float]] = field(default_factory=list)
    links: dict[str, Link] = field(default_factory=dict)
    shared: int = 0
    longer: int = 0
    routes: int = 0
    through_hosts: bool = False
    """Whether some route passes a host on its way."""
    left_out: set[str] = field(default_factory=set)

    def at(self, element: Element) -> str:
        """File and line of an element."""
        return f"{self.where}:{element.line}"

    def node(self, name: str, *, host: bool = False) -> int:
        """A new node; a name stands for it."""
        number = len(self.names)
        self.names.append(name)
        self.points[name] = Point(number, number)
        if host:
            self.hosts.append(number)
            if len(self.hosts) > HOSTS_MOST:
                raise InputError(f"more than {HOSTS_MOST:,} hosts", where=f"{self.where}:1")
        return number

    def cable(self, a: int, b: int, link: Link, times: float = 1.0) -> None:
        """Both ways."""
        rate = link.bytes_per_s * times
        self.rows += [(a, b, rate, link.latency_s), (b, a, rate, link.latency_s)]
        self.shared += link.shared


def _rate(net: Network, element: Element, key: str) -> float:
    text = element.attributes.get(key, "")
    if re.fullmatch(r"[\d.]+(e[+-]?\d+)?", text, re.IGNORECASE) and float(text) > 0:
        return float(text)
    if not text:
        raise InputError(f"<{element.name}> has no {key}", where=net.at(element))
    return parse_rate_bytes_per_s(text, where=net.at(element))


def _latency(net: Network, element: Element, key: str) -> float:
    text = element.attributes.get(key, "0")
    found = re.fullmatch(r"([\d.]+(?:e[+-]?\d+)?)\s*([a-z]*)", text, re.IGNORECASE)
    if found and (not found[2] or float(found[1]) == 0):
        return float(found[1])
    return parse_duration_s(text, where=net.at(element))


def link_of(net: Network, element: Element) -> Link:
    """What a <link> or <backbone> says."""
    policy = element.attributes.get("sharing_policy", "SHARED")
    if policy not in ("SHARED", "SPLITDUPLEX", "FULLDUPLEX", "FATPIPE"):
        raise InputError(f"a link of {policy}", where=net.at(element),
                         hint="SHARED, SPLITDUPLEX and FATPIPE are read")  # fmt: skip
    return Link(_rate(net, element, "bandwidth"), _latency(net, element, "latency"),
                 policy == "SHARED")  # fmt: skip


def link_name(said: str, links: Mapping[str, Link]) -> str:
    """The link of a name, or of one direction of it: ``l1_UP``."""
    return said if said in links else re.sub(r"_(UP|DOWN)$", "", said)


def kind_of(cluster: Element) -> str:
    """FLAT, TORUS, FAT_TREE or DRAGONFLY."""
    return cluster.attributes.get("topology", "FLAT").upper()


def _hosts(net: Network, element: Element) -> list[str]:
    """Names of a cluster's hosts: prefix, numbers of the radical, suffix."""
    given, names = element.attributes, []
    for part in given.get("radical", "").split(","):
        found = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if not found:
            raise InputError(f'radical="{given.get("radical", "")}"', where=net.at(element),
                             hint="0-15 or 0-7,9")  # fmt: skip
        first, last = int(found[1]), int(found[2] or found[1])
        if last - first >= HOSTS_MOST:
            raise InputError(f"more than {HOSTS_MOST:,} hosts", where=net.at(element))
        names += [f"{given.get('prefix', '')}{i}{given.get('suffix', '')}"
                  for i in range(first, last + 1)]  # fmt: skip
    return names


def _of_cluster(net: Network, cluster: Element) -> Link:
    for key in ("limiter_link", "loopback_bw"):
        if key in cluster.attributes:
            net.left_out.add({"limiter_link": "limiters of hosts", "loopback_bw": "loopbacks"}[key])
    policy = cluster.attributes.get("sharing_policy", "SPLITDUPLEX")
    return Link(_rate(net, cluster, "bw"), _latency(net, cluster, "lat"), policy == "SHARED")


def read_cluster(net: Network, cluster: Element) -> None:
    """Hosts and cables of a <cluster>; raises InputError with its line."""
    names, link, kind = _hosts(net, cluster), _of_cluster(net, cluster), kind_of(cluster)
    hosts = [net.node(name, host=True) for name in names]
    if kind == "FLAT":
        _read_flat(net, cluster, hosts, link)
    elif kind == "TORUS":
        _torus(net, hosts, _sides(net, cluster, len(hosts)), link)
    elif kind == "FAT_TREE":
        _fat_tree(net, cluster, hosts, link)
    elif kind == "DRAGONFLY":
        _dragonfly(net, cluster, hosts, link)
    else:
        raise UnknownNameError("topology", kind, ("FLAT", "TORUS", "FAT_TREE", "DRAGONFLY"),
                               where=net.at(cluster))  # fmt: skip


def _read_flat(net: Network, cluster: Element, hosts: list[int], link: Link) -> None:
    given = cluster.attributes
    usual = f"{given.get('prefix', '')}{given.get('id', '')}_router{given.get('suffix', '')}"
    backbone = None
    if "bb_bw" in given:
        times = len(hosts) if given.get("bb_sharing_policy") == "FATPIPE" else 1
        backbone = Link(_rate(net, cluster, "bb_bw") * times, _latency(net, cluster, "bb_lat"),
                         shared=False)  # fmt: skip
    hub = hub_of(net, given.get("router_id") or usual, backbone)
    for host in hosts:
        _plug(net, host, hub, link)


def hub_of(net: Network, name: str, backbone: Link | None) -> Point:
    """A switch; all that passes a backbone crosses it once, whichever way."""
    inward = net.node(name)
    if backbone is None:
        return net.points[name]
    outward = net.node(f"{name} (backbone)")
    net.rows.append((inward, outward, backbone.bytes_per_s, backbone.latency_s))
    net.points[name] = Point(inward, outward)
    return net.points[name]


def _plug(net: Network, host: int, hub: Point, link: Link) -> None:
    net.rows += [(host, hub.enter, link.bytes_per_s, link.latency_s),
                 (hub.leave, host, link.bytes_per_s, link.latency_s)]  # fmt: skip
    net.shared += link.shared


def read_star(net: Network, zone: Element, links: dict[str, Link]) -> None:
    """A zone of routing Cluster: cabinets and hosts with links of their own, and a backbone."""
    router = next((e.attributes["id"] for e in zone.children if e.name == "router"), None)
    bones = [link_of(net, e) for e in zone.children if e.name == "backbone"]
    name = router or f"{zone.attributes.get('id', '')} router"
    if router:
        del net.points[router]
    hub = hub_of(net, name, bones[0] if bones else None)
    for element in zone.children:
        if element.name == "cabinet":
            link = _of_cluster(net, element)
            for host in _hosts(net, element):
                _plug(net, net.node(host, host=True), hub, link)
        elif element.name == "host_link":
            at = net.points.get(element.attributes.get("id", ""))
            pair = [
                links.get(link_name(element.attributes.get(key, ""), links))
                for key in ("up", "down")
            ]
            if at is None or pair[0] is None or pair[1] is None:
                raise InputError("<host_link> names a host or a link that is not there",
                                 where=net.at(element))  # fmt: skip
            net.rows += [
                (at.leave, hub.enter, pair[0].bytes_per_s, pair[0].latency_s),
                (hub.leave, at.enter, pair[1].bytes_per_s, pair[1].latency_s),
            ]


def _numbers(net: Network, cluster: Element, form: str) -> list[list[int]]:
    """``topo_parameters`` as lists; ``form`` says what is meant where it is something else."""
    text = cluster.attributes.get("topo_parameters", "")
    if not re.fullmatch(r"[\d,; ]+", text) or not all(p.strip(", ") for p in text.split(";")):
        raise InputError(f'topo_parameters="{text}"', where=net.at(cluster), hint=form)
    return [[int(n) for n in part.split(",")] for part in text.replace(" ", "").split(";")]


def _as_many(net: Network, cluster: Element, there: int, meant: int) -> None:
    if there != meant:
        raise InputError(f"{there} hosts where topo_parameters mean {meant}", where=net.at(cluster))


def _sides(net: Network, cluster: Element, hosts: int) -> list[int]:
    sides = _numbers(net, cluster, "4,4,4")[0]
    _as_many(net, cluster, hosts, math.prod(sides))
    return sides


def whole_torus(net: Network, cluster: Element) -> Topology | None:
    """A file of one torus as the torus it is, the first side varying fastest."""
    hosts, link = len(_hosts(net, cluster)), _of_cluster(net, cluster)
    sides = [side for side in reversed(_sides(net, cluster, hosts)) if side > 1]
    if hosts < 2 or link.shared:
        return None
    rates = [link.bytes_per_s * (2 if side == 2 else 1) for side in sides]
    return topologies.torus(tuple(sides), rates, link.latency_s)


def _torus(net: Network, hosts: list[int], sides: list[int], link: Link) -> None:
    """Each host is joined to the next along every axis; two hosts on an axis by two cables."""
    apart = 1
    for side in sides:
        for i, host in enumerate(hosts):
            at = i // apart % side
            ahead = i + apart if at < side - 1 else i - apart * (side - 1)
            if side > 2 or (side == 2 and at == 0):
                net.cable(host, hosts[ahead], link, 2.0 if side == 2 else 1.0)
        apart *= side


def _fat_tree(net: Network, cluster: Element, hosts: list[int], link: Link) -> None:
    """Levels; children, parents and cables a pair of each: ``2;4,4;1,2;1,2``.

    A node of level l and one above are joined where their labels differ in place l alone.
    """
    form = "levels; children of each; parents of each; cables between two: 2;4,4;1,2;1,2"
    parts = _numbers(net, cluster, form)
    levels = parts[0][0]
    if len(parts) != 4 or any(len(p) != levels or min(p) < 1 for p in parts[1:]):
        raise InputError("topo_parameters of unequal length", where=net.at(cluster), hint=form)
    down, up, cables = parts[1:]
    _as_many(net, cluster, len(hosts), math.prod(down))
    prefix = cluster.attributes.get("id", "")

    def labels(level: int) -> list[tuple[int, ...]]:
        sizes = [up[j] if j < level else down[j] for j in range(levels)]
        return [label[::-1] for label in product(*(range(n) for n in reversed(sizes)))]

    below = dict(zip(labels(0), hosts, strict=True))
    for level in range(levels):
        above = {label: net.node(f"{prefix} switch {level + 1}.{i}")
                 for i, label in enumerate(labels(level + 1))}  # fmt: skip
        for label, node in below.items():
            for parent in range(up[level]):
                over = above[(*label[:level], parent, *label[level + 1 :])]
                net.cable(node, over, link, cables[level])
        below = above


def _dragonfly(net: Network, cluster: Element, hosts: list[int], link: Link) -> None:
    """Groups, chassis, blades with the cables between two of each, nodes: ``3,4;4,3;5,1;2``.

    Blades of a chassis are joined each with each, blades of one place in a group's chassis too;
    group g is joined to group h from its h-th blade.
    """
    form = "groups, cables; chassis, cables; blades, cables; nodes: 3,4;4,3;5,1;2"
    parts = _numbers(net, cluster, form)
    if len(parts) != 4 or [len(p) for p in parts] != [2, 2, 2, 1]:
        raise InputError("topo_parameters are no dragonfly's", where=net.at(cluster), hint=form)
    (groups, blue), (chassis, black), (blades, green), (nodes,) = parts
    each = chassis * blades
    _as_many(net, cluster, len(hosts), groups * each * nodes)
    if groups > each:
        raise InputError(f"{groups} groups of {each} blades: one for each other group is needed",
                         where=net.at(cluster))  # fmt: skip
    prefix = cluster.attributes.get("id", "")
    blade = [net.node(f"{prefix} blade {i}") for i in range(groups * each)]
    for i, host in enumerate(hosts):
        net.cable(host, blade[i // nodes], link)
    for first in range(0, groups * each, blades):
        for a, b in combinations(range(first, first + blades), 2):
            net.cable(blade[a], blade[b], link, green)
    for group, place in product(range(groups), range(blades)):
        for a, b in combinations(range(chassis), 2):
            base = group * each + place
            net.cable(blade[base + a * blades], blade[base + b * blades], link, black)
    for a, b in combinations(range(groups), 2):
        net.cable(blade[a * each + b], blade[b * each + a], link, blue)
