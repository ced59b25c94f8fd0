"""networkx: graphs as objects, and as the node-link JSON that ``networkx.node_link_data`` makes.

A node is a chip unless its ``type`` (or ``kind``) is ``switch``. An edge carries its speed one way
as ``bandwidth_bytes_per_s``, ``bandwidth_gbps`` (bits) or ``bandwidth`` in GB/s, and its latency as
``latency_s`` or ``latency_ns``. An undirected edge is a cable that works both ways.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from weftline.errors import InputError
from weftline.fabric.graph import Topology
from weftline.spec.located import read_located

FORMAT = "networkx node-link"
_RATES = (("bandwidth_bytes_per_s", 1.0), ("bandwidth_gbps", 1e9 / 8), ("bandwidth", 1e9),
          ("capacity", 1e9))  # fmt: skip
_DELAYS = (("latency_s", 1.0), ("latency_us", 1e-6), ("latency_ns", 1e-9))


def detect(text: str) -> bool:
    """Whether the text is node-link data."""
    return '"nodes"' in text and ('"links"' in text or '"edges"' in text) and '"directed"' in text


def read(text: str, where: str) -> Topology:
    """The Topology; raises InputError with the line of an edge that has no speed or no ends."""
    try:
        root = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"not JSON: {error.msg}", where=f"{where}:{error.lineno}") from error
    nodes, edges = _entries(root, "nodes"), _entries(root, "links", "edges")
    if not nodes or not edges:
        raise InputError("no nodes or no links", where=f"{where}:1")
    graph = root.get("graph")
    try:
        return _topology(
            [(str(n.get("id")), n) for n in nodes],
            [_ends(e, str(i)) for i, e in enumerate(edges)],
            directed=bool(root.get("directed")), wheres=[str(i) for i in range(len(edges))],
            name=str(graph.get("name", "networkx")) if isinstance(graph, dict) else "networkx",
        )  # fmt: skip
    except InputError as error:
        # Lines are looked up only now: a large graph is read faster without.
        if error.where is not None and error.where.isdigit():
            held = read_located(text, where)
            entry = (held.items("links") or held.items("edges"))[int(error.where)]
            error.where = f"{where}:{entry.line}"
        raise


def _entries(root: Any, *keys: str) -> list[dict[str, Any]]:
    found: Any = next((root[k] for k in keys if root.get(k)), []) if isinstance(root, dict) else []
    good = isinstance(found, list) and all(isinstance(e, dict) for e in found)
    return found if good else []


def _ends(edge: dict[str, Any], at: str) -> tuple[str, str, dict[str, Any]]:
    if "source" not in edge or "target" not in edge:
        raise InputError("a link needs `source` and `target`", where=at)
    return str(edge["source"]), str(edge["target"]), edge


def from_networkx(graph: Any, *, name: str | None = None) -> Topology:
    """A networkx graph as a Topology; node order is kept, chips first. Raises InputError."""
    edges = [(str(u), str(v), dict(d)) for u, v, d in graph.edges(data=True)]
    return _topology(
        [(str(n), d) for n, d in graph.nodes(data=True)], edges,
        directed=bool(graph.is_directed()), wheres=[f"edge {u} -> {v}" for u, v, _ in edges],
        name=name or str(graph.graph.get("name", "networkx")),
    )  # fmt: skip


def _topology(
    nodes: list[tuple[str, Mapping[str, Any]]], edges: list[tuple[str, str, dict[str, Any]]],
    *, directed: bool, wheres: list[str], name: str,
) -> Topology:  # fmt: skip
    switches = [n for n, d in nodes if str(d.get("type", d.get("kind", ""))).lower() == "switch"]
    is_switch = set(switches)
    chips = [n for n, _ in nodes if n not in is_switch]
    number = {n: i for i, n in enumerate([*chips, *switches])}
    if len(number) != len(nodes):
        raise InputError("two nodes have one id", where=wheres[0] if wheres else None)
    rows: list[tuple[int, int, float, float]] = []
    for (u, v, data), at in zip(edges, wheres, strict=True):
        if u not in number or v not in number:
            raise InputError(f"the link {u} -> {v} ends at no node", where=at)
        rate = _first(data, _RATES)
        if rate is None or not rate > 0:
            hint = "bandwidth_bytes_per_s, bandwidth_gbps or bandwidth (GB/s)"
            raise InputError(f"the link {u} -> {v} has no bandwidth", where=at, hint=hint)
        delay = _first(data, _DELAYS) or 0.0
        rows.append((number[u], number[v], rate, delay))
        if not directed:
            rows.append((number[v], number[u], rate, delay))
    links = np.asarray(rows, dtype=np.float64).reshape(-1, 4)
    reducing = np.array([bool(dict(nodes)[s].get("reducing")) for s in switches], dtype=np.bool_)
    return Topology(
        name=name, ranks=len(chips), switches=len(switches),
        source=links[:, 0].astype(np.int64), destination=links[:, 1].astype(np.int64),
        bandwidth_bytes_per_s=links[:, 2], latency_s=links[:, 3], labels=(*chips, *switches),
        reducing=reducing if reducing.any() else None, chips_forward=not switches,
        basis={"links": "as the graph states them, one direction"},
    )  # fmt: skip


def _first(data: Mapping[str, Any], keys: Iterable[tuple[str, float]]) -> float | None:
    for key, scale in keys:
        value = data.get(key)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value) * scale
    return None


def to_networkx(topology: Topology) -> Any:
    """A networkx MultiDiGraph: nodes named as the topology labels them, links one way each."""
    import networkx

    graph = networkx.MultiDiGraph(name=topology.name)
    labels = [topology.label(i) for i in range(topology.nodes)]
    for i, label in enumerate(labels):
        is_switch = i >= topology.ranks
        extra = {}
        if is_switch and topology.reducing is not None and topology.reducing[i - topology.ranks]:
            extra["reducing"] = True
        graph.add_node(label, type="switch" if is_switch else "chip", **extra)
    for u, v, rate, delay in zip(
        topology.source, topology.destination, topology.bandwidth_bytes_per_s,
        topology.latency_s, strict=True,
    ):  # fmt: skip
        graph.add_edge(labels[u], labels[v], bandwidth_bytes_per_s=float(rate),
                       latency_s=float(delay))  # fmt: skip
    return graph


def write(topology: Topology) -> str:
    """Node-link JSON of the directed graph."""
    import networkx

    return (
        json.dumps(networkx.node_link_data(to_networkx(topology), edges="links"), indent=1) + "\n"
    )
