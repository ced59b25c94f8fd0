"""InfraGraph (Keysight, MIT): devices of components, instances of devices, edges between them.

An edge joins endpoints such as ``host[0:2]`` / ``npu[0:8]`` (indices as Python slices) by a link,
``one2one`` in order, ``many2many`` each with each, ``ring`` in a circle. Components of choice
``xpu`` or ``npu`` are chips; everything else they are joined through is a switch. Links say their
speed as gigabits_per_second or gigabytes_per_second, their latency as ms, us or ns.
"""

from __future__ import annotations

import re
from itertools import product
from typing import Any

import numpy as np
import yaml

from weftline.errors import InputError, UnknownNameError
from weftline.fabric.graph import Topology
from weftline.spec.located import Located, read_located

FORMAT = "infragraph"
CHIPS = ("xpu", "npu", "gpu")
_RATE = {"gigabits_per_second": 1e9 / 8, "gigabytes_per_second": 1e9}
_DELAY = {"ms": 1e-3, "us": 1e-6, "ns": 1e-9}
_Link = tuple[float | None, float]
_Key = tuple[str, int, str, int]
"""Instance, its index, component, its index: ``host.0.npu.3``."""


_WHOLE = ("devices", "instances", "edges")
_DEVICE = ("components", "links", "edges")
COUNT_MOST = 1_000_000


def detect(text: str) -> bool:
    """Whether the text has InfraGraph's three lists, or those of one device."""
    return any(
        all(re.search(rf'^\s*"?{key}"?\s*:', text, re.M) for key in keys)
        for keys in (_WHOLE, _DEVICE)
    )


def read(
    text: str, where: str, *, link_bytes_per_s: float | None = None, latency_s: float = 0.0
) -> Topology:
    """The Topology; ``link_bytes_per_s`` stands in for links without a speed of their own.

    Raises InputError with the line of an edge that names what does not exist.
    """
    root = read_located(text, where)
    devices = {str(d.get("name")): d for d in root.items("devices")}
    links = _links(root.items("links"), where)
    instances: dict[str, tuple[Located, int]] = {}
    if not devices and root.items("components"):
        # A file of one device: a network of its one instance.
        name = str(root.get("name") or "device")
        return _expanded({name: root}, {name: (root, 1)}, links, [], name, where,
                         link_bytes_per_s, latency_s)  # fmt: skip
    for entry in root.items("instances"):
        device = str(entry.get("device"))
        if device not in devices:
            raise UnknownNameError("device", device, devices, where=f"{where}:{entry.line}")
        instances[str(entry.get("name"))] = (devices[device], _count(entry, where))
    if not instances:
        raise InputError("no `instances`", where=f"{where}:{root.line}")
    return _expanded(devices, instances, links, root.items("edges"),
                     str(root.get("name") or "infragraph"), where, link_bytes_per_s,
                     latency_s)  # fmt: skip


def _expanded(
    devices: dict[str, Located], instances: dict[str, tuple[Located, int]],
    links: dict[str, _Link], across: list[Located], name: str, where: str,
    link_bytes_per_s: float | None, latency_s: float,
) -> Topology:  # fmt: skip
    """Every instance's own edges and the edges between instances, as one network."""
    chips = {(d, c) for d, entry in devices.items() for c in _chip_components(entry)}
    edges: list[tuple[_Key, _Key, _Link, str]] = []
    for instance, (held, count) in instances.items():
        own = _links(held.items("links"), where)
        sizes = _sizes(held, where)
        for edge in held.items("edges"):
            ends = [
                _indices(str(_end(edge, k, where).get("component")), sizes, edge, where)
                for k in ("ep1", "ep2")
            ]
            for i in range(count):
                first, second = ([(instance, i, *part) for part in end] for end in ends)
                edges += _edge(edge, own, where, first, second)
    for edge in across:
        first, second = (_across(edge, k, instances, where) for k in ("ep1", "ep2"))
        edges += _edge(edge, links, where, first, second)
    device_of = {n: str(d.get("name")) for n, (d, _) in instances.items()}
    return _built(edges, chips, device_of, name, link_bytes_per_s, latency_s)


def _chip_components(device: Located) -> list[str]:
    return [str(c.get("name")) for c in device.items("components") if c.get("choice") in CHIPS]


def _count(entry: Located, where: str) -> int:
    """``count`` of a component or an instance; raises InputError unless from 1 to a million."""
    count = entry.get("count")
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= COUNT_MOST:
        raise InputError(f"`count: {count}` is no whole number from 1 to {COUNT_MOST:,}",
                         where=f"{where}:{entry.line}")  # fmt: skip
    return count


def _sizes(device: Located, where: str) -> dict[str, int]:
    return {str(c.get("name")): _count(c, where) for c in device.items("components")}


def _end(edge: Located, key: str, where: str) -> dict[str, Any]:
    end = edge.get(key)
    if not isinstance(end, dict):
        raise InputError("an edge needs `ep1` and `ep2`", where=f"{where}:{edge.line}")
    return end


def _links(entries: list[Located], where: str) -> dict[str, _Link]:
    found: dict[str, _Link] = {}
    for entry in entries:
        physical = entry.get("physical") or {}
        at = f"{where}:{entry.line}"
        if not isinstance(physical, dict):
            raise InputError("`physical` is no mapping", where=at)
        rate = _chosen(physical.get("bandwidth"), _RATE, at)
        delay = _chosen(physical.get("latency"), _DELAY, at)
        found[str(entry.get("name"))] = (rate, delay or 0.0)
    return found


def _chosen(entry: Any, units: dict[str, float], where: str) -> float | None:
    if not isinstance(entry, dict):
        return None
    unit = entry.get("choice") or next((u for u in units if u in entry), None)
    if unit not in units:
        raise UnknownNameError("unit", str(unit), units, where=where,
                               hint=f"one of {', '.join(units)}")  # fmt: skip
    value = entry.get(str(unit))
    if isinstance(value, str) and re.fullmatch(r"\d+(\.\d*)?[eE][+-]?\d+", value):
        value = float(value)  # YAML takes 1e9 for a word, JSON for a number
    if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
        raise InputError(f"`{unit}: {value}` is no positive number", where=where)
    return float(value) * units[str(unit)]


def _indices(text: str, sizes: dict[str, int], at: Located, where: str) -> list[tuple[str, int]]:
    """``npu[0:2]`` -> (npu, 0), (npu, 1); without brackets all of them."""
    match = re.fullmatch(r"\s*([^\[\]]+?)\s*(?:\[(-?\d*)(:)?(-?\d*)\])?\s*", text)
    if match is None:
        raise InputError(f"`{text}` is no name with a slice", where=f"{where}:{at.line}",
                         hint="for example npu[0:8]")  # fmt: skip
    name, low, colon, high = match.groups()
    if name not in sizes:
        raise UnknownNameError("component or instance", name, sizes, where=f"{where}:{at.line}")
    every = range(sizes[name])
    if low is None and colon is None:
        return [(name, i) for i in every]
    if colon is None:
        if not low or not -len(every) <= int(low) < len(every):
            raise InputError(f"`{text}`: there are {len(every)}", where=f"{where}:{at.line}")
        return [(name, every[int(low)])]
    chosen = every[slice(int(low) if low else None, int(high) if high else None)]
    return [(name, i) for i in chosen]


def _across(
    at: Located, key: str, instances: dict[str, tuple[Located, int]], where: str
) -> list[_Key]:
    end = _end(at, key, where)
    counts = {name: count for name, (_, count) in instances.items()}
    found: list[_Key] = []
    for name, i in _indices(str(end.get("instance")), counts, at, where):
        sizes = _sizes(instances[name][0], where)
        found += [(name, i, c, k) for c, k in _indices(str(end.get("component")), sizes, at, where)]
    return found


def _edge(
    edge: Located, links: dict[str, _Link], where: str, first: list[_Key], second: list[_Key]
) -> list[tuple[_Key, _Key, _Link, str]]:
    """Every cable that one edge stands for, with the link it is made of and its line."""
    name = str(edge.get("link"))
    at = f"{where}:{edge.line}"
    if name not in links:
        raise UnknownNameError("link", name, links, where=at)
    scheme = edge.get("scheme") or ("many2many" if edge.get("many2many") else "one2one")
    if scheme == "one2one":
        pairs = list(zip(first, second, strict=False))
    elif scheme == "ring":
        pairs = [(a, first[(i + 1) % len(first)]) for i, a in enumerate(first)]
        pairs = pairs[:1] if len(first) == 2 else pairs
    elif scheme == "many2many":
        pairs = list(product(first, second))
    else:
        known = ("one2one", "many2many", "ring")
        raise UnknownNameError("scheme", str(scheme), known, where=at)
    seen: set[tuple[_Key, _Key]] = set()
    found: list[tuple[_Key, _Key, _Link, str]] = []
    for a, b in pairs:
        key = (min(a, b), max(a, b))
        if a != b and key not in seen:
            seen.add(key)
            found.append((a, b, links[name], at))
    return found


def _built(
    edges: list[tuple[_Key, _Key, _Link, str]], chips: set[tuple[str, str]],
    device_of: dict[str, str], name: str, link: float | None, latency_s: float,
) -> Topology:  # fmt: skip
    nodes = sorted({end for a, b, _, _ in edges for end in (a, b)}, key=_order(device_of))
    is_chip = [(device_of[n[0]], n[2]) in chips for n in nodes]
    ordered = [n for n, c in zip(nodes, is_chip, strict=True) if c]
    ranks = len(ordered)
    ordered += [n for n, c in zip(nodes, is_chip, strict=True) if not c]
    if ranks < 1:
        raise InputError("no component of choice xpu is joined to anything", where=name)
    number = {n: i for i, n in enumerate(ordered)}
    rows = []
    for a, b, (rate, delay), at in edges:
        speed = rate if rate is not None else link
        if speed is None:
            raise InputError("a link without bandwidth", where=at,
                             hint="state it under physical, or give --link")  # fmt: skip
        for u, v in ((a, b), (b, a)):
            rows.append((number[u], number[v], speed, delay or latency_s))
    table = np.asarray(rows, dtype=np.float64)
    return Topology(
        name=name, ranks=ranks, switches=len(ordered) - ranks,
        source=table[:, 0].astype(np.int64), destination=table[:, 1].astype(np.int64),
        bandwidth_bytes_per_s=table[:, 2], latency_s=table[:, 3],
        labels=tuple(f"{i}.{k}.{c}.{j}" for i, k, c, j in ordered),
        chips_forward=len(ordered) == ranks,
        basis={"links": "infragraph, physical bandwidth taken as one direction"},
    )  # fmt: skip


def _order(device_of: dict[str, str]) -> Any:
    places = {n: i for i, n in enumerate(device_of)}
    return lambda key: (places[key[0]], key[1], key[2], key[3])


def write(topology: Topology) -> str:
    """The graph as one device of chips and switches, an edge for every cable.

    Raises InputError where a link has no fellow of the same speed the other way.
    """
    pairs: dict[tuple[int, int], list[_Link]] = {}
    for u, v, rate, delay in zip(
        topology.source.tolist(), topology.destination.tolist(),
        topology.bandwidth_bytes_per_s.tolist(), topology.latency_s.tolist(), strict=True,
    ):  # fmt: skip
        pairs.setdefault((u, v), []).append((rate, delay))
    links: dict[_Link, str] = {}
    edges = []
    for (u, v), held in pairs.items():
        if sorted(pairs.get((v, u), [])) != sorted(held):
            raise InputError(f"link {u} -> {v} has no equal way back", hint="InfraGraph joins both")
        for link in held if u < v else []:
            name = links.setdefault(link, f"link{len(links)}")
            edges.append({"ep1": {"component": _part(topology, u)},
                          "ep2": {"component": _part(topology, v)},
                          "scheme": "one2one", "link": name})  # fmt: skip
    components = [{"name": "xpu", "choice": "xpu", "count": topology.ranks}]
    if topology.switches:
        components.append({"name": "sw", "choice": "switch", "count": topology.switches})
    device = {"name": "fabric", "components": components, "edges": edges,
              "links": [_written(n, rate or 0.0, d) for (rate, d), n in links.items()]}  # fmt: skip
    body = {"name": "weftline", "devices": [device],
            "instances": [{"name": "pod", "device": "fabric", "count": 1}],
            "links": [], "edges": []}  # fmt: skip
    return yaml.safe_dump(body, sort_keys=False)


def _part(topology: Topology, node: int) -> str:
    return f"xpu[{node}]" if node < topology.ranks else f"sw[{node - topology.ranks}]"


def _written(name: str, rate: float, delay_s: float) -> dict[str, Any]:
    physical: dict[str, Any] = {
        "bandwidth": {"choice": "gigabytes_per_second", "gigabytes_per_second": rate / 1e9}
    }
    if delay_s > 0:
        physical["latency"] = {"choice": "ns", "ns": delay_s * 1e9}
    return {"name": name, "physical": physical}
