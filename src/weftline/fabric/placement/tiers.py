"""Networks as tiers of units: hosts, scale-up racks, leaves, pods, the whole; what placing needs.

Chips are numbered through: unit ``u`` of a tier has the chips from ``u * size`` on. A tier's rate
is what one chip can send to others of its unit when all chips do; its latency that of one hop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from weftline.errors import InputError
from weftline.fabric.graph import IntArray, Topology
from weftline.spec import Cluster


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """One tier of units of equal size."""

    name: str
    size: int
    """Chips of a unit."""
    bytes_per_s: float
    latency_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiers:
    """A network of tiers, innermost first; the last one is the whole."""

    name: str
    tiers: tuple[Tier, ...]
    chips_per_host: int
    usable_hosts: int | None = None
    """Hosts of each scale-up unit that a job may take: the others are spares."""
    rails: bool = False
    """Whether a host's chips are on a leaf each, so that chips of one place share it."""

    @property
    def chips(self) -> int:
        """Chips of the whole, spares included."""
        return self.tiers[-1].size

    @property
    def unit(self) -> Tier:
        """The scale-up unit: the tier of the widest reach that is as fast as the innermost."""
        first = self.tiers[0]
        same = [t for t in self.tiers[:-1] if t.bytes_per_s >= first.bytes_per_s * (1 - 1e-9)]
        return same[-1] if same else first

    @property
    def shape(self) -> tuple[int, ...]:
        """Units of each tier in the one above, outermost first: (racks, trays, chips)."""
        sizes = [1, *(t.size for t in self.tiers)]
        return tuple(b // a for a, b in pairwise(sizes))[::-1]

    def free(self) -> list[IntArray]:
        """The usable chips of each scale-up unit, in order."""
        size = self.unit.size
        usable = size
        if self.usable_hosts is not None:
            usable = self.usable_hosts * self.chips_per_host
            if not 0 < usable <= size:
                raise InputError(
                    f"{self.usable_hosts} usable hosts in a {self.unit.name} of "
                    f"{size // self.chips_per_host}", where="--usable",
                )  # fmt: skip
        return [np.arange(u * size, u * size + usable) for u in range(self.chips // size)]


def _whole_tiers(name: str, tiers: Sequence[Tier], host: int, *, rails: bool = False) -> Tiers:
    """Tiers each of whose units holds whole units of the one below; the others are left out."""
    kept: list[Tier] = []
    for tier in tiers:
        below = kept[-1].size if kept else 1
        if tier.size > below and tier.size % below == 0:
            kept.append(tier)
        elif tier is tiers[-1]:
            whole = -(-tier.size // below) * below
            kept.append(Tier(name=tier.name, size=whole, bytes_per_s=tier.bytes_per_s,
                             latency_s=tier.latency_s))  # fmt: skip
    if len(kept) > 1 and kept[-1].size == kept[-2].size:
        kept.pop()
    return Tiers(name=name, tiers=tuple(kept), chips_per_host=host, rails=rails)


def tiers_of_cluster(cluster: Cluster) -> Tiers:
    """The tiers of a plan's cluster: its hosts inside its levels."""
    host = max(1, cluster.chips_per_host)
    levels = [lev for lev in cluster.levels if lev.size > 1] or list(cluster.levels[-1:])
    tiers: list[Tier] = []
    if 1 < host < levels[0].size and levels[0].size % host == 0:
        tiers.append(Tier(name="host", size=host, bytes_per_s=levels[0].bandwidth_bytes_per_s,
                          latency_s=levels[0].latency_s))  # fmt: skip
    for level in levels:
        name = "host" if level.size == host else level.name
        tiers.append(Tier(name=name, size=level.size, latency_s=level.latency_s,
                          bytes_per_s=level.bandwidth_bytes_per_s))  # fmt: skip
    return _whole_tiers(cluster.accelerator, tiers, host)


def tiers_of(topology: Topology, chips_per_host: int | None = None) -> Tiers:
    """The tiers of a network behind switches; raises InputError where it has none.

    Its own levels say the units; what a chip sends beyond each is read from the links: those to
    chips and switches of its unit alone are inside, and uplinks of a switch are shared by the chips
    below it.
    """
    sizes = [s for s in topology.levels if 1 < s <= topology.ranks] or [topology.ranks]
    if sizes[-1] != topology.ranks:
        sizes.append(topology.ranks)
    reach = _reach(topology)
    if chips_per_host and 1 < chips_per_host < sizes[0] and sizes[0] % chips_per_host == 0:
        sizes.insert(0, chips_per_host)
    host = chips_per_host or min(sizes[0], 8)
    tiers: list[Tier] = []
    for below, size in pairwise([1, *sizes]):
        rate, delay = _within(topology, reach, below, size)
        if rate is None:
            rate, delay = _above(topology, reach, tiers[-1] if tiers else None)
        rack = size == sizes[-2 if len(sizes) > 1 else -1] and size > host
        name = "host" if size == host else "rack" if rack else f"group of {size}"
        name = "network" if size == topology.ranks else name
        tiers.append(Tier(name=name, size=size, bytes_per_s=rate, latency_s=delay))
    return _whole_tiers(topology.name, tiers, host, rails=_has_rails(reach, sizes[0]))


def _reach(topology: Topology) -> list[set[int]]:
    """[switches] the chips that a switch's own links end at."""
    found: list[set[int]] = [set() for _ in range(topology.switches)]
    up = (topology.source < topology.ranks) & (topology.destination >= topology.ranks)
    for chip, switch in zip(
        topology.source[up].tolist(), topology.destination[up].tolist(), strict=True
    ):
        found[switch - topology.ranks].add(chip)
    return found


def _links_of(
    topology: Topology, reach: list[set[int]]
) -> list[tuple[int, set[int], float, float]]:
    """Chip 0's links: where each ends, whom it reaches there, rate, latency from chip to chip."""
    mine = topology.source == 0
    found = []
    for end, rate, wait in zip(
        topology.destination[mine].tolist(), topology.bandwidth_bytes_per_s[mine].tolist(),
        topology.latency_s[mine].tolist(), strict=True,
    ):  # fmt: skip
        direct = end < topology.ranks
        found.append((end, {0, end} if direct else reach[end - topology.ranks], rate,
                      wait if direct else 2 * wait))  # fmt: skip
    return found


def _within(
    topology: Topology, reach: list[set[int]], below: int, size: int
) -> tuple[float | None, float]:
    """(rate, latency) of chip 0's links that reach beyond its unit of ``below`` within ``size``."""
    links = [entry for entry in _links_of(topology, reach) if below <= max(entry[1]) < size]
    if not links:
        # A host is cut out of a unit that is one switch: as fast as that.
        links = [e for e in _links_of(topology, reach) if max(e[1]) >= size] if below == 1 else []
        closest = min((max(e[1]) for e in links), default=0)
        links = [e for e in links if max(e[1]) == closest]
    if not links:
        return None, 0.0
    return sum(rate for _, _, rate, _ in links), max(delay for *_, delay in links)


def _above(topology: Topology, reach: list[set[int]], lower: Tier | None) -> tuple[float, float]:
    """A chip's share of what leads up from the switches of the tier below, two hops more."""
    if lower is None:
        raise InputError(f"`{topology.name}` has no links a chip could send over")
    rate = 0.0
    for end, chips, own, _ in _links_of(topology, reach):
        if end >= topology.ranks:
            up = (topology.source == end) & (topology.destination >= topology.ranks)
            rate += min(own, float(topology.bandwidth_bytes_per_s[up].sum()) / max(len(chips), 1))
    return rate or lower.bytes_per_s, 2 * lower.latency_s


def _has_rails(reach: list[set[int]], host: int) -> bool:
    """Whether a switch that joins hosts holds one chip of each."""
    wide = [chips for chips in reach if len({c // host for c in chips}) > 1]
    return bool(wide) and all(len({c // host for c in chips}) == len(chips) for chips in wide)
