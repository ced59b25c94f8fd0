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
from weftline.fabric.formats.speeds import LinkSpeeds
from weftline.fabric.graph import Topology
from weftline.spec.located import Located, read_located

FORMAT = "infragraph"
CHIPS = ("xpu", "npu", "gpu")
_RATE = {"gigabits_per_second": 1e9 / 8, "gigabytes_per_second": 1e9}
_DELAY = {"ms": 1e-3, "us": 1e-6, "ns": 1e-9}
_Link = tuple[float | None, float, str]
"""Bytes a second, seconds, name."""
_Key = tuple[str, int, str, int]
"""Instance, its index, component, its index: ``host.0.npu.3``."""


_WHOLE = ("devices", "instances", "edges")
_DEVICE = ("components", "links", "edges")
COUNT_MOST = 1_000_000


def detect(text: str) -> bool:
    """Whether the text has InfraGraph's three lists, or those of one device."""
    return any(
        all(re.search(rf'(?:^|[{{,])\s*"?{key}"?\s*:', text, re.M) for key in keys)
        for keys in (_WHOLE, _DEVICE)
    )


def read(
    text: str, where: str, *, speeds: LinkSpeeds | None = None, latency_s: float = 0.0
) -> Topology:
    """The Topology; ``speeds`` stand in for links without a speed of their own, by their names.

    Links that stay without one are left out where the chips are joined without them, and counted
    in ``basis``. Raises InputError with the line of an edge that names what does not exist.
    """
    speeds = speeds or LinkSpeeds()
    root = read_located(text, where)
    devices = {str(d.get("name")): d for d in root.items("devices")}
    links = _links(root.items("links"), where)
    instances: dict[str, tuple[Located, int]] = {}
    if not devices and root.items("components"):
        # A file of one device: a network of its one instance.
        name = str(root.get("name") or "device")
        return _expanded({name: root}, {name: (root, 1)}, links, [], name, where,
                         speeds, latency_s)  # fmt: skip
    for entry in root.items("instances"):
        device = str(entry.get("device"))
        if device not in devices:
            raise UnknownNameError("device", device, devices, where=f"{where}:{entry.line}")
        instances[str(entry.get("name"))] = (devices[device], _count(entry, where))
    if not instances:
        raise InputError("no `instances`", where=f"{where}:{root.line}")
    return _expanded(devices, instances, links, root.items("edges"),
                     str(root.get("name") or "infragraph"), where, speeds,
                     latency_s)  # fmt: skip


def _expanded(
    devices: dict[str, Located], instances: dict[str, tuple[Located, int]],
    links: dict[str, _Link], across: list[Located], name: str, where: str,
    speeds: LinkSpeeds, latency_s: float,
) -> Topology:  # fmt: skip
    """Every instance's own edges and the edges between instances, as one network."""
    chips = {(d, str(c.get("name"))): str(c.get("choice")) for d, entry in devices.items()
             for c in entry.items("components")}  # fmt: skip
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
    return _built(edges, chips, device_of, name, speeds, latency_s)


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
        name = str(entry.get("name"))
        if rate is None:
            rate = _pcie(f"{name} {entry.get('description') or ''}")
        found[name] = (rate, delay or 0.0, name)
    return found


_PCIE_GT_PER_S = {"1": 2.5, "2": 5.0, "3": 8.0, "4": 16.0, "5": 32.0, "6": 64.0}


def _pcie(text: str) -> float | None:
    """One way of a PCIe link whose name or description says generation and lanes."""
    match = re.search(r"pcie?[ _-]*gen[ _-]*(\d).*?x(\d+)", text, re.IGNORECASE)
    if match is None or match[1] not in _PCIE_GT_PER_S:
        return None
    rate = _PCIE_GT_PER_S[match[1]]
    return rate * 1e9 * int(match[2]) / 8 * (128 / 130 if rate >= 8 else 0.8)


def _chosen(entry: Any, units: dict[str, float], where: str) -> float | None:
    if not isinstance(entry, dict):
        return None
    unit = entry.get("choice") or next((u for u in units if u in entry), None)
    if unit is not None and entry.get(str(unit)) is None:
        return None  # the library writes a choice without its value where none was set
    if unit == "gigatransfers_per_second":
        return None  # a lane's rate; how many lanes is not said
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
    match = re.fullmatch(r"\s*([^\[\]]+?)\s*(?:\[(-?\d*)(:)?(-?\d*)(?::(-?\d*))?\])?\s*", text)
    if match is None:
        raise InputError(f"`{text}` is no name with a slice", where=f"{where}:{at.line}",
                         hint="for example npu[0:8]")  # fmt: skip
    name, low, colon, high, step = match.groups()
    if name not in sizes:
        raise UnknownNameError("component or instance", name, sizes, where=f"{where}:{at.line}")
    every = range(sizes[name])
    if low is None and colon is None:
        return [(name, i) for i in every]
    if colon is None:
        if not low or not -len(every) <= int(low) < len(every):
            raise InputError(f"`{text}`: there are {len(every)}", where=f"{where}:{at.line}")
        return [(name, every[int(low)])]
    if step in ("0", "-0"):
        raise InputError(f"`{text}`: a step of 0", where=f"{where}:{at.line}")
    ends = (int(part) if part else None for part in (low, high, step))
    chosen = every[slice(*ends)]
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
    edges: list[tuple[_Key, _Key, _Link, str]], chips: dict[tuple[str, str], str],
    device_of: dict[str, str], name: str, speeds: LinkSpeeds, latency_s: float,
) -> Topology:  # fmt: skip
    rows, lacking = [], []
    for a, b, (rate, delay, link), at in edges:
        speed = rate if rate is not None else speeds.of(link)
        if speed is None:
            lacking.append((a, b, link, at))
        else:
            rows += [(u, v, speed, delay or latency_s) for u, v in ((a, b), (b, a))]
    nodes = sorted({end for u, v, _, _ in rows for end in (u, v)}, key=_order(device_of))
    is_chip = [chips.get((device_of[n[0]], n[2])) in CHIPS for n in nodes]
    ordered = [n for n, c in zip(nodes, is_chip, strict=True) if c]
    ranks = len(ordered)
    ordered += [n for n, c in zip(nodes, is_chip, strict=True) if not c]
    named = sorted({link for _, _, link, _ in lacking})
    if needed := [(link, at) for a, b, link, at in lacking if _joins(a, b, chips, device_of)]:
        raise _asked_for(sorted({link for link, _ in needed}), needed[0][1])
    if ranks < 1:
        raise InputError("no component of choice xpu is joined to anything", where=name)
    number = {n: i for i, n in enumerate(ordered)}
    table = np.asarray([(number[u], number[v], s, d) for u, v, s, d in rows], dtype=np.float64)
    basis = {"links": "infragraph, physical bandwidth taken as one direction"}
    if lacking:
        classes = ",".join(f"{link}=SPEED" for link in named)
        basis["left out"] = (
            f"{len(lacking)} links of {', '.join(named)}, which state no bandwidth; --link "
            f"{classes} adds them"
        )
    topology = Topology(
        name=name, ranks=ranks, switches=len(ordered) - ranks,
        source=table[:, 0].astype(np.int64), destination=table[:, 1].astype(np.int64),
        bandwidth_bytes_per_s=table[:, 2], latency_s=table[:, 3],
        labels=tuple(f"{i}.{k}.{c}.{j}" for i, k, c, j in ordered),
        chips_forward=len(ordered) == ranks, basis=basis,
    )  # fmt: skip
    if lacking and len(np.unique(topology.components()[:ranks])) > 1:
        raise _asked_for(named, lacking[0][3])
    return topology


def _joins(a: _Key, b: _Key, chips: dict[tuple[str, str], str], device_of: dict[str, str]) -> bool:
    """Whether a link leads from a chip to a chip or a switch: no network can do without it."""
    ends = [chips.get((device_of[n[0]], n[2]), "") for n in (a, b)]
    return any(e in CHIPS for e in ends) and all(e in (*CHIPS, "switch") for e in ends)


def _asked_for(named: list[str], at: str) -> InputError:
    classes = ",".join(f"{link}=SPEED" for link in named)
    return InputError(
        f"a link without bandwidth: {', '.join(named)}", where=at,
        hint=f"state it under physical, or give each: --link {classes}",
    )  # fmt: skip


def _order(device_of: dict[str, str]) -> Any:
    places = {n: i for i, n in enumerate(device_of)}
    return lambda key: (places[key[0]], key[1], key[2], key[3])


def write(topology: Topology) -> str:
    """The graph as one device of chips and switches, an edge for every cable.

    Raises InputError where a link has no fellow of the same speed the other way.
    """
    pairs: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for u, v, rate, delay in zip(
        topology.source.tolist(), topology.destination.tolist(),
        topology.bandwidth_bytes_per_s.tolist(), topology.latency_s.tolist(), strict=True,
    ):  # fmt: skip
        pairs.setdefault((u, v), []).append((rate, delay))
    links: dict[tuple[float, float], str] = {}
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
              "links": [_written(n, rate, d) for (rate, d), n in links.items()]}  # fmt: skip
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
