"""A cluster's switches as volcano's HyperNodes, for the scheduler to place by."""

from __future__ import annotations

import yaml

from weftline.errors import InputError
from weftline.fabric.formats import Description


def write_volcano(described: Description) -> str:
    """A HyperNode a switch, leaves first; raises InputError for a description without switches."""
    parents = described.parents
    if not parents:
        raise InputError(f"a {described.kind} without switches has no HyperNodes")
    tier = {h.path[i]: i + 1 for h in described.hosts for i in range(len(h.path))}
    members: dict[str, list[tuple[str, str]]] = {name: [] for name in parents}
    for host in described.hosts:
        if host.path:
            members[host.path[0]].append(("Node", host.name))
    for name, above in parents.items():
        if above is not None:
            members[above].append(("HyperNode", name))
    documents = [
        {
            "apiVersion": "topology.volcano.sh/v1alpha1", "kind": "HyperNode",
            "metadata": {"name": name},
            "spec": {"tier": tier[name], "members": [
                {"type": kind, "selector": {"exactMatch": {"name": child}}}
                for kind, child in members[name]
            ]},
        }
        for name in sorted(parents, key=lambda n: tier[n])
    ]  # fmt: skip
    return yaml.safe_dump_all(documents, sort_keys=False)
