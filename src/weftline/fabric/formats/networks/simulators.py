"""Topology files of packet simulators: htsim's fat trees and ns-3's lists of links (SimAI, HPCC).

htsim (Broadcom/csg-htsim, fat_tree_topology.cpp): ``Nodes``, ``Tiers``, ``Podsize``, then for each
``Tier`` the speed and latency of its links down, and the ports of its switches up and down.
ns-3: a first line of counts (nodes, switches, links; in SimAI also GPUs a server, NVSwitches and
the GPU), a line of the nodes that are switches, then a line a link: ends, rate, delay, errors.
"""

from __future__ import annotations

import re
from typing import Final

import numpy as np

from weftline.errors import InputError, UnknownNameError
from weftline.fabric.graph import Topology
from weftline.units import parse_duration_s, parse_rate_bytes_per_s

HTSIM_KEYS: Final = (
    "nodes", "tiers", "podsize", "tier", "downlink_speed_gbps", "radix_up", "radix_down",
    "queue_up", "queue_down", "oversubscribed", "bundle", "switch_latency_ns",
    "downlink_latency_ns",
)  # fmt: skip
TIERS_MOST: Final = 3
NODES_MOST: Final = 1_000_000
_RATE: Final = re.compile(r"^[\d.]+\s*[GMTk]?bps$", re.IGNORECASE)
_Row = tuple[int, int, float, float]


def detect_htsim(text: str) -> bool:
    """Whether the text has htsim's keys."""
    return (
        bool(re.search(r"^\s*Tiers\s+\d", text, re.M | re.I)) and "downlink_speed" in text.lower()
    )


def read_htsim(text: str, where: str) -> Topology:
    """The fat tree; raises InputError with the line of an unknown key or a count that is off.

    Latency of a link is its own and half of the switch's at its upper end.
    """
    head: dict[str, int] = {}
    tiers: dict[int, dict[str, float]] = {}
    here: dict[str, float] | None = None
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.split("#", 1)[0].split()
        if not words:
            continue
        key, at = words[0].lower(), f"{where}:{number}"
        if key not in HTSIM_KEYS:
            raise UnknownNameError("key", words[0], HTSIM_KEYS, where=at)
        if len(words) != 2 or not re.fullmatch(r"\d+(\.\d+)?", words[1]):
            raise InputError(f"`{line.strip()}` is no key and number", where=at, hint="Nodes 16")
        if key == "tier":
            here = tiers.setdefault(int(float(words[1])), {})
        elif here is None:
            head[key] = int(float(words[1]))
        else:
            here[key] = float(words[1])
    nodes, count = head.get("nodes", 0), head.get("tiers", 0)
    if (
        not 1 <= nodes <= NODES_MOST
        or count not in (2, TIERS_MOST)
        or sorted(tiers) != list(range(count))
    ):
        raise InputError(f"{nodes} nodes, {count} tiers, {len(tiers)} described",
                         where=f"{where}:1", hint="2 or 3 tiers, each described")  # fmt: skip
    tree = _FatTree(nodes, head.get("podsize", nodes), [tiers[t] for t in range(count)], where)
    return tree.made()


class _FatTree:
    """A fat tree from its tiers' speeds and ports."""

    def __init__(
        self, nodes: int, pod_size: int, tiers: list[dict[str, float]], where: str
    ) -> None:
        self.nodes, self.pod_size, self.tiers, self.where = nodes, pod_size, tiers, where
        self.rows: list[_Row] = []

    def _ports(self, tier: int, key: str) -> int:
        value = int(self.tiers[tier].get(key, 0))
        if value < 1:
            raise InputError(f"tier {tier} has no {key}", where=f"{self.where}:1")
        return value

    def _even(self, many: int, each: int, what: str) -> int:
        if each < 1 or many % each:
            raise InputError(f"{many} {what} do not fill switches of {each}",
                             where=f"{self.where}:1")  # fmt: skip
        return many // each

    def _cable(self, below: int, above: int, tier: int) -> None:
        t = self.tiers[tier]
        if t.get("downlink_speed_gbps", 0) <= 0:
            raise InputError(f"tier {tier} has no Downlink_speed_Gbps", where=f"{self.where}:1")
        rate = t["downlink_speed_gbps"] * 1e9 / 8
        delay = (t.get("downlink_latency_ns", 0) + t.get("switch_latency_ns", 0) / 2) * 1e-9
        self.rows += [(below, above, rate, delay), (above, below, rate, delay)]

    def made(self) -> Topology:
        """The network: leaves of a pod to every switch above them in turn, these to the cores."""
        nodes, three = self.nodes, len(self.tiers) == TIERS_MOST
        leaves = self._even(nodes, self._ports(0, "radix_down"), "nodes")
        for node in range(nodes):
            self._cable(node, nodes + node // self._ports(0, "radix_down"), 0)
        pods = self._even(nodes, self.pod_size, "nodes") if three else 1
        each = self._even(leaves, pods, "leaves")
        up = self._ports(0, "radix_up")
        above = self._even(each * up, self._ports(1, "radix_down"), "uplinks")
        second = nodes + leaves
        for leaf in range(leaves):
            for port in range(up):
                self._cable(nodes + leaf, second + leaf // each * above + port % above, 1)
        total = second + pods * above
        if three:
            more = self._ports(1, "radix_up")
            cores = self._even(pods * above * more, self._ports(2, "radix_down"), "uplinks")
            for switch in range(pods * above):
                for port in range(more):
                    core = (switch % above * more + port) % cores
                    self._cable(second + switch, total + core, 2)
            total += cores
        basis = {"links": "htsim topology file, one direction"}
        return _made("htsim", nodes, total - nodes, self.rows, basis)


def detect_ns3(text: str) -> bool:
    """Whether the first lines are counts, switches and a link with a rate in bit/s."""
    lines = [line.split() for line in text.splitlines() if line.strip()][:3]
    return (
        len(lines) == 3
        and len(lines[0]) >= 3
        and all(w.isdigit() for w in lines[0][:3])
        and all(w.isdigit() for w in lines[1])
        and len(lines[2]) >= 4
        and bool(_RATE.match(lines[2][2]))
    )


def read_ns3(text: str, where: str) -> Topology:
    """The network of links; raises InputError with the line of an end or a rate that is wrong."""
    lines = [(n, line.split()) for n, line in enumerate(text.splitlines(), start=1) if line.strip()]
    counts = [int(w) for w in lines[0][1] if w.isdigit()] if lines else []
    if len(counts) < 3 or len(lines) < 2 or not all(w.isdigit() for w in lines[1][1]):
        raise InputError("no line of counts and no line of switches", where=f"{where}:1",
                         hint="12 4 10 and the numbers of the 4 switches")  # fmt: skip
    nodes = counts[0]
    links_said = counts[4] if len(counts) >= 5 else counts[2]
    switches = [int(w) for w in lines[1][1]]
    if not 1 <= nodes <= NODES_MOST or any(s >= nodes for s in switches):
        raise InputError(f"{nodes} nodes, and switches {switches[:8]}", where=f"{where}:1")
    chips = [n for n in range(nodes) if n not in set(switches)]
    number = {n: i for i, n in enumerate([*chips, *switches])}
    rows: list[_Row] = []
    for line, words in lines[2:]:
        at = f"{where}:{line}"
        if len(words) < 4 or not words[0].isdigit() or not words[1].isdigit():
            raise InputError(f"`{' '.join(words)}` is no link", where=at,
                             hint="0 8 400Gbps 0.0005ms 0")  # fmt: skip
        a, b = int(words[0]), int(words[1])
        if max(a, b) >= nodes:
            raise InputError(f"node {max(a, b)} of {nodes}", where=at)
        rate = parse_rate_bytes_per_s(words[2], where=at)
        delay = parse_duration_s(words[3], where=at)
        rows += [(number[a], number[b], rate, delay), (number[b], number[a], rate, delay)]
    if len(rows) // 2 != links_said:
        raise InputError(f"{links_said} links are said, {len(rows) // 2} stand in the file",
                         where=f"{where}:1")  # fmt: skip
    basis = {"links": "ns-3 topology file, one direction"}
    used = {n for row in rows for n in row[:2]}
    if loose := [n for n in switches if number[n] not in used]:
        basis["loose"] = f"switches without a link: {', '.join(map(str, loose))}"
    return _made("ns3", len(chips), len(switches), rows, basis)


def _made(
    name: str, ranks: int, switches: int, rows: list[_Row], basis: dict[str, str]
) -> Topology:
    table = np.asarray(rows, dtype=np.float64).reshape(-1, 4)
    return Topology(
        name=name, ranks=ranks, switches=switches, source=table[:, 0].astype(np.int64),
        destination=table[:, 1].astype(np.int64), bandwidth_bytes_per_s=table[:, 2],
        latency_s=table[:, 3], chips_forward=False, basis=basis,
    )  # fmt: skip
