"""Ways from chip to chip: single links, and paths through switches that lead past no other chip."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from weftline.errors import InputError
from weftline.fabric.graph import FloatArray, IntArray, Topology

MAX_WAYS = 200_000
"""Ways that a synthesis weighs at most."""
ALTERNATIVES = 4
"""Paths without a common link that are taken between two chips, shortest first."""


@dataclass(frozen=True, slots=True, eq=False)
class Ways:
    """Ways between neighbouring chips, each with the links it holds while it carries a message."""

    source: IntArray
    target: IntArray
    path_start: IntArray
    path_links: IntArray
    seconds_per_byte: FloatArray
    latency_s: FloatArray
    plain: bool
    """Whether every way is the only link between its chips: routes need not be written down."""

    def users(self, links: int) -> tuple[IntArray, IntArray]:
        """The ways that use each link, in compressed rows."""
        way = np.repeat(np.arange(len(self.source)), np.diff(self.path_start))
        order = np.argsort(self.path_links, kind="stable")
        start = np.zeros(links + 1, dtype=np.int64)
        start[1:] = np.cumsum(np.bincount(self.path_links, minlength=links))
        return start, way[order]


def ways_of(topology: Topology) -> Ways:
    """All ways of a network. Raises InputError where there are too many to weigh."""
    if topology.switches == 0:
        pair = topology.source * topology.ranks + topology.destination
        links = np.arange(topology.links)
        return Ways(
            topology.source, topology.destination, np.arange(topology.links + 1), links,
            1.0 / topology.bandwidth_bytes_per_s, topology.latency_s,
            plain=len(np.unique(pair)) == topology.links,
        )  # fmt: skip
    if topology.ranks * topology.ranks > MAX_WAYS:
        raise InputError(
            f"a synthesis on `{topology.name}` would weigh {topology.ranks**2:,} ways through "
            "switches",
            hint="name an algorithm (`hierarchical`, `ring`), or synthesize for a smaller group",
        )
    out: list[list[int]] = [[] for _ in range(topology.nodes)]
    for link, node in enumerate(topology.source.tolist()):
        out[node].append(link)
    found: list[tuple[int, int, list[int]]] = []
    for chip in range(topology.ranks):
        found += [(chip, to, path) for to, path in _paths(topology, out, chip)]
    hops = [len(path) for _, _, path in found]
    links = np.array([link for _, _, path in found for link in path], dtype=np.int64)
    start = np.concatenate([[0], np.cumsum(hops)]).astype(np.int64)
    slowest = np.maximum.reduceat(1.0 / topology.bandwidth_bytes_per_s[links], start[:-1])
    return Ways(
        np.array([f[0] for f in found], dtype=np.int64),
        np.array([f[1] for f in found], dtype=np.int64), start, links, slowest,
        np.add.reduceat(topology.latency_s[links], start[:-1]), plain=False,
    )  # fmt: skip


def _paths(topology: Topology, out: list[list[int]], chip: int) -> list[tuple[int, list[int]]]:
    """(chip, links) of shortest paths through switches; more where they share no link."""
    destination = topology.destination
    found: list[tuple[int, list[int]]] = []
    used: set[int] = set()
    best: dict[int, int] = {}
    for _ in range(ALTERNATIVES):
        before: dict[int, int] = {}
        queue, reached = [chip], list[int]()
        for node in queue:
            for link in out[node]:
                to = int(destination[link])
                if link in used or to in before or to == chip:
                    continue
                before[to] = link
                (reached if to < topology.ranks else queue).append(to)
        taken: set[int] = set()
        for to in reached:
            path: list[int] = []
            node = to
            while node != chip:
                path.append(before[node])
                node = int(topology.source[before[node]])
            if len(path) > best.setdefault(to, len(path)):
                continue
            found.append((to, path[::-1]))
            taken |= set(path)
        # The first link and the last are often the only ones; only those between are taken away.
        taken = {k for k in taken if topology.source[k] >= topology.ranks
                 and destination[k] >= topology.ranks}  # fmt: skip
        if not taken:
            break
        used |= taken
    return found
