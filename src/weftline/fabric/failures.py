"""Networks with faults: cables taken out or slowed, chosen at random from a seed or by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from weftline.errors import InputError
from weftline.fabric.graph import IntArray, Topology

__all__ = ["cables_of", "fail_links", "slow_links", "without_links"]


def cables_of(topology: Topology) -> IntArray:
    """[cables, 2] the two links of every cable; a link without a way back is paired with itself."""
    ends = topology.source * topology.nodes + topology.destination
    back = topology.destination * topology.nodes + topology.source
    by_end = np.argsort(ends, kind="stable")
    by_back = np.argsort(back, kind="stable")
    # The n-th link from u to v goes with the n-th from v to u: equal places in the two orders.
    if np.array_equal(ends[by_end], back[by_back]):
        pairs = np.stack([by_end, by_back], axis=1)
        return np.asarray(pairs[pairs[:, 0] < pairs[:, 1]])
    partner = {int(e): i for i, e in enumerate(ends)}
    other = np.array([partner.get(int(b), i) for i, b in enumerate(back)], dtype=np.int64)
    pairs = np.stack([np.arange(len(ends)), other], axis=1)
    kept = (pairs[:, 0] <= pairs[:, 1]) | (other[other] != np.arange(len(ends)))
    return np.asarray(pairs[kept])


def _chosen(topology: Topology, count: int, seed: int) -> IntArray:
    if count < 0:
        raise InputError(f"{count} links cannot fail", hint="a whole number from 0")
    cables = cables_of(topology)
    if count > len(cables):
        raise InputError(f"`{topology.name}` has {len(cables)} cables, {count} of them cannot fail")
    picked = np.random.default_rng(seed).choice(len(cables), size=count, replace=False)
    return np.unique(cables[np.sort(picked)])


def fail_links(topology: Topology, count: int, seed: int = 0) -> Topology:
    """The network without ``count`` random cables, both directions of each.

    Raises InputError when the chips that are left cannot all reach each other.
    """
    return without_links(topology, _chosen(topology, count, seed)) if count else topology


def without_links(topology: Topology, links: Sequence[int] | IntArray) -> Topology:
    """The network without the links of those indices; InputError if that cuts it in two."""
    gone = np.unique(np.asarray(links, dtype=np.int64))
    if not len(gone):
        return topology
    if gone.min() < 0 or gone.max() >= topology.links:
        raise InputError(f"`{topology.name}` has links 0 .. {topology.links - 1}")
    keep = np.ones(topology.links, dtype=np.bool_)
    keep[gone] = False
    cut = f"{topology.name} without {len(gone)} links"
    return replace(
        topology,
        name=cut,
        source=topology.source[keep],
        destination=topology.destination[keep],
        bandwidth_bytes_per_s=topology.bandwidth_bytes_per_s[keep],
        latency_s=topology.latency_s[keep],
        link_class=None if topology.link_class is None else topology.link_class[keep],
        failed=(*topology.failed, *(int(i) for i in gone)),
        interchangeable=False,
    ).require_connected()


def slow_links(topology: Topology, count: int, factor: float, seed: int = 0) -> Topology:
    """The network with ``count`` random cables at ``factor`` of their speed (0 < factor <= 1)."""
    if not 0 < factor <= 1:
        raise InputError(
            f"a link at {factor:g} of its speed", hint="above 0 and at most 1; fail it otherwise"
        )
    slow = _chosen(topology, count, seed)
    if not len(slow):
        return topology
    speed = topology.bandwidth_bytes_per_s.copy()
    speed[slow] *= factor
    return replace(
        topology,
        name=f"{topology.name} with {len(slow)} links slowed to {factor:.0%}",
        bandwidth_bytes_per_s=speed,
        failed=(*topology.failed, *(int(i) for i in slow)),
        interchangeable=False,
    )
