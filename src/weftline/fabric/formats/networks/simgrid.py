"""SimGrid platforms (XML, version 4): zones of hosts, routers, links and routes; clusters.

A route names the links between two ends. A cable is a link whose two ends the routes of a zone
agree on; where they do not, the zone is refused with its line. Of clusters the stars, with or
without a backbone, TORUS, FAT_TREE and DRAGONFLY are read, of wide areas (Vivaldi, peers) nothing.
Routes are then the shortest ones; how many of the file's are longer is written in ``basis``.

Source: SimGrid's manual ("XML reference", "Routing models"), read 2026-11-30.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass
from itertools import combinations
from typing import Final

import numpy as np

from weftline.errors import InputError, UnknownNameError
from weftline.fabric.formats.networks.simgrid_clusters import (
    Link,
    Network,
    Point,
    hub_of,
    kind_of,
    link_name,
    link_of,
    read_cluster,
    read_star,
    whole_torus,
)
from weftline.fabric.formats.xml_tree import Element, parse_xml
from weftline.fabric.graph import Topology

_ZONES: Final = ("zone", "AS")
_ROUTINGS: Final = ("full", "floyd", "dijkstra", "dijkstracache", "cluster", "none", "star")
_ROUTES: Final = ("route", "zoneRoute", "ASroute")
_PASSED: Final = ("prop", "config", "storage", "storage_type", "mount", "disk", "host_link",
                  "trace", "trace_connect", "actor", "process")  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Route:
    source: str
    destination: str
    links: tuple[str, ...]
    both_ways: bool
    line: int


def detect(text: str) -> bool:
    """Whether the text is a platform of SimGrid."""
    return bool(re.search(r"<platform\b", text)) and bool(re.search(r"<(zone|AS|cluster)\b", text))


def read(text: str, where: str) -> Topology:
    """The platform as a network whose chips are the hosts; raises InputError with the line."""
    root = parse_xml(text, where, doctype=True)
    clusters = [e for e in root.walk() if e.name == "cluster"]
    others = any(e.name in ("host", "router", "link", "cabinet", "peer") for e in root.walk())
    net = Network(where)
    if len(clusters) == 1 and not others and kind_of(clusters[0]) == "TORUS":
        made = whole_torus(net, clusters[0])
        if made is not None:
            return made
    for element in root.children:
        _read_any(net, element)
    if len(net.hosts) < 2:
        raise InputError(f"{len(net.hosts)} hosts", where=f"{where}:{root.line}")
    return _made(net)


def _read_any(net: Network, element: Element) -> None:
    if element.name in _ZONES:
        _read_zone(net, element)
    elif element.name == "cluster":
        read_cluster(net, element)
    elif element.name == "host":
        net.node(_named(net, element), host=True)
    elif element.name == "router":
        net.node(_named(net, element))
    elif element.name not in (*_PASSED, *_ROUTES, "link", "cabinet", "backbone"):
        raise UnknownNameError("element", element.name, (*_ZONES, "cluster", "host", "router"),
                               where=net.at(element))  # fmt: skip


def _read_zone(net: Network, zone: Element) -> None:
    routing = zone.attributes.get("routing", "").lower()
    if routing not in _ROUTINGS:
        raise UnknownNameError("routing", zone.attributes.get("routing", ""), _ROUTINGS,
                               where=net.at(zone))  # fmt: skip
    for element in zone.children:
        _read_any(net, element)
    net.links |= {_named(net, e): link_of(net, e) for e in zone.children if e.name == "link"}
    links = net.links
    if routing == "cluster":
        read_star(net, zone, links)
    routes = [_route(net, e, links) for e in zone.children if e.name in _ROUTES]
    _lay(net, zone, links, [r for r in routes if r.source != r.destination])


# --- links and routes ---------------------------------------------------------------------------


def _named(net: Network, element: Element) -> str:
    name = element.attributes.get("id", "")
    if not name or (element.name in ("host", "router") and name in net.points):
        raise InputError(f"<{element.name}> without an id of its own", where=net.at(element))
    return name


def _route(net: Network, element: Element, links: dict[str, Link]) -> _Route:
    given = element.attributes
    ends = ("src", "dst") if element.name == "route" else ("gw_src", "gw_dst")
    for key in ends:
        if given.get(key, "") not in net.points:
            raise InputError(f"a route from or to `{given.get(key, '')}`, which is no host or "
                             "router before it", where=net.at(element))  # fmt: skip
    used = tuple(link_name(e.attributes.get("id", ""), links)
                 for e in element.children if e.name == "link_ctn")  # fmt: skip
    for name in used:
        if name not in links:
            raise UnknownNameError("link", name, links, where=net.at(element))
    if not used:
        raise InputError("a route without links", where=net.at(element))
    return _Route(given[ends[0]], given[ends[1]], used,
                  given.get("symmetrical", "YES").upper() != "NO", element.line)  # fmt: skip


class _Ends:
    """Which ends of links, and which points, are one place: a forest of sets."""

    def __init__(self) -> None:
        self._above: dict[object, object] = {}

    def of(self, key: object) -> object:
        """What stands for the place of an end or a point."""
        while (above := self._above.get(key, key)) != key:
            key = above
        return key

    def known(self, key: object) -> bool:
        """Whether anything was joined to it."""
        return key in self._above

    def join(self, a: object, b: object) -> None:
        """Make two places one."""
        one, other = self.of(a), self.of(b)
        self._above.setdefault(one, one)
        self._above[other] = one


def _lay(net: Network, zone: Element, links: dict[str, Link], routes: list[_Route]) -> None:
    """The cables of a zone: the ends of each link, from the routes that use it."""
    routes = _without_buses(net, links, routes)
    ends = _Ends()
    for route in sorted(routes, key=lambda r: len(r.links)):
        here: object = ("point", route.source)
        for name in route.links:
            first, second = (name, 0), (name, 1)
            if ends.known(first) and ends.of(here) in (ends.of(first), ends.of(second)):
                here = second if ends.of(here) == ends.of(first) else first
            elif not ends.known(first):
                ends.join(here, first)
                ends.join(second, second)
                here = second
            else:
                raise _no_path(net, route)
        goal = ("point", route.destination)
        if ends.of(here) != ends.of(goal):
            ends.join(goal, here)
    ways: dict[str, set[bool]] = {}
    hosts = {ends.of(("point", net.names[n])) for n in net.hosts}
    for route in routes:
        _follow(net, ends, route, ways, hosts)
    for a, b in combinations([p for p in net.points if ends.known(("point", p))], 2):
        if ends.of(("point", a)) == ends.of(("point", b)):
            raise InputError(f"the routes of <{zone.name}> join `{a}` and `{b}` by nothing",
                             where=net.at(zone))  # fmt: skip
    _cables(net, links, ends, ways)
    _count_detours(net, ends, routes)


def _without_buses(net: Network, links: dict[str, Link], routes: list[_Route]) -> list[_Route]:
    """The routes but those of one link that joins more than two ends: a backbone between them."""
    ends: dict[str, set[str]] = {}
    for route in routes:
        if len(route.links) == 1:
            ends.setdefault(route.links[0], set()).update((route.source, route.destination))
    buses = {name for name, joined in ends.items() if len(joined) > 2}
    for name in sorted(buses):
        link = links[name]
        hub = hub_of(net, f"({name})", link)
        for point in (net.points[end] for end in sorted(ends[name])):
            net.rows += [(point.leave, hub.enter, link.bytes_per_s, 0.0),
                         (hub.leave, point.enter, link.bytes_per_s, 0.0)]  # fmt: skip
    return [r for r in routes if len(r.links) > 1 or r.links[0] not in buses]


def _no_path(net: Network, route: _Route) -> InputError:
    return InputError(
        f"the links from `{route.source}` to `{route.destination}` are no path of cables",
        where=f"{net.where}:{route.line}",
        hint="a link that many routes share is a backbone: <cluster bb_bw=...>",
    )


def _follow(
    net: Network, ends: _Ends, route: _Route, ways: dict[str, set[bool]], hosts: set[object]
) -> None:
    """Check a route on the cables, and note in which directions it uses them."""
    here = ends.of(("point", route.source))
    for index, name in enumerate(route.links):
        net.through_hosts |= index > 0 and here in hosts
        first, second = ends.of((name, 0)), ends.of((name, 1))
        if here not in (first, second):
            raise _no_path(net, route)
        ahead = here == first
        here = second if ahead else first
        ways.setdefault(name, set()).update((ahead, not ahead) if route.both_ways else (ahead,))
    if here != ends.of(("point", route.destination)):
        raise _no_path(net, route)


def _cables(net: Network, links: dict[str, Link], ends: _Ends, ways: dict[str, set[bool]]) -> None:
    places = {ends.of(("point", name)): point for name, point in net.points.items()
              if ends.known(("point", name))}  # fmt: skip
    for name, used in ways.items():
        link = links[name]
        a, b = (_place(net, places, ends.of((name, i)), name, i) for i in (0, 1))
        net.shared += link.shared and len(used) > 1
        if True in used:
            net.rows.append((a.leave, b.enter, link.bytes_per_s, link.latency_s))
        if False in used:
            net.rows.append((b.leave, a.enter, link.bytes_per_s, link.latency_s))


def _place(net: Network, places: dict[object, Point], key: object, link: str, end: int) -> Point:
    """The point of a place, a switch without a name where no host or router stands."""
    if key not in places:
        number = net.node(f"({link}.{end})")
        places[key] = Point(number, number)
    return places[key]


def _count_detours(net: Network, ends: _Ends, routes: list[_Route]) -> None:
    """Routes of more links than the cables need."""
    beside: dict[object, set[object]] = {}
    for name in {n for r in routes for n in r.links}:
        a, b = ends.of((name, 0)), ends.of((name, 1))
        beside.setdefault(a, set()).add(b)
        beside.setdefault(b, set()).add(a)
    net.routes += len(routes)
    for source in {r.source for r in routes}:
        start = ends.of(("point", source))
        steps, front = {start: 0}, deque([start])
        while front:
            here = front.popleft()
            for there in beside.get(here, ()):
                if there not in steps:
                    steps[there] = steps[here] + 1
                    front.append(there)
        net.longer += sum(
            len(r.links) > steps[ends.of(("point", r.destination))]
            for r in routes if r.source == source
        )  # fmt: skip


def _made(net: Network) -> Topology:
    hosts = set(net.hosts)
    used = {n for row in net.rows for n in row[:2]}
    order = [*net.hosts, *(n for n in range(len(net.names)) if n not in hosts and n in used)]
    number = {n: i for i, n in enumerate(order)}
    table = np.array([(number[a], number[b], rate, delay) for a, b, rate, delay in net.rows],
                     dtype=np.float64).reshape(-1, 4)  # fmt: skip
    basis = {"links": "SimGrid platform, one direction"}
    if net.shared:
        basis["shared"] = (f"{net.shared} links that SimGrid shares between both directions count "
                           "in full each way")  # fmt: skip
    if net.longer:
        basis["routes"] = (f"{net.longer} of {net.routes} routes in the file are longer than the "
                           "shortest, which is taken")  # fmt: skip
    if net.left_out:
        basis["left_out"] = ", ".join(sorted(net.left_out))
    return Topology(
        name="simgrid", ranks=len(net.hosts), switches=len(order) - len(net.hosts),
        source=table[:, 0].astype(np.int64), destination=table[:, 1].astype(np.int64),
        bandwidth_bytes_per_s=table[:, 2], latency_s=table[:, 3], chips_forward=net.through_hosts,
        labels=tuple(net.names[n] for n in order), basis=basis,
    )  # fmt: skip
