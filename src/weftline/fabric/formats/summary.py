"""What an import found, as a dictionary: hosts, tiers, domains, links."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from weftline.fabric.formats.clusters.description import Description
from weftline.fabric.graph import Topology


def summary_of(
    format_name: str, described: Description | None, topology: Topology | None
) -> dict[str, Any]:
    """The dictionary of ``weftline import --json``; raises nothing."""
    return {
        "read_as": format_name,
        "cluster": None if described is None else _cluster(described),
        "network": None if topology is None else network_summary(topology),
    }


def _cluster(described: Description) -> dict[str, Any]:
    tiers = [Counter[str]() for _ in range(max((len(h.path) for h in described.hosts), default=0))]
    for host in described.hosts:
        for tier, switch in enumerate(host.path):
            tiers[tier][switch] += 1
    domains = described.domains
    return {
        "name": described.name, "kind": described.kind, "hosts": len(described.hosts),
        "tiers": [
            {"switches": len(t), "hosts_least": min(t.values()), "hosts_most": max(t.values())}
            for t in tiers
        ],
        "domains": len(domains),
        "domain_hosts_most": max(map(len, domains.values()), default=0),
        "shapes": {k: list(v) for k, v in described.shapes.items()},
        "left_out": dict(described.left_out), "notes": list(described.notes),
        "chips": sorted({h.chip for h in described.hosts if h.chip}),
        "instance_types": dict(Counter(h.instance_type for h in described.hosts
                                       if h.instance_type)),
    }  # fmt: skip


def network_summary(topology: Topology) -> dict[str, Any]:
    """A Topology in numbers: chips, switches, links by speed, what a chip can send."""
    egress = topology.egress_bytes_per_s()
    speeds = Counter(np.round(topology.bandwidth_bytes_per_s, 3).tolist())
    parts = len(np.unique(topology.components()[: topology.ranks]))
    return {
        "name": topology.name, "kind": topology.kind, "chips": topology.ranks,
        "switches": topology.switches, "links": topology.links,
        "levels": list(topology.levels), "parts": parts,
        "link_bytes_per_s": {f"{rate:.6g}": count for rate, count in sorted(speeds.items())},
        "egress_bytes_per_s_least": float(egress.min()) if len(egress) else 0.0,
        "egress_bytes_per_s_most": float(egress.max()) if len(egress) else 0.0,
        "basis": dict(topology.basis),
    }  # fmt: skip
