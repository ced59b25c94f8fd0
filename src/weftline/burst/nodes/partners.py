"""Which nodes keep copies of which: never in the same failure domain where there is another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from weftline.errors import InputError

__all__ = ["partners"]


def partners(domains: Sequence[str], node: int) -> list[int]:
    """All other nodes in the order in which ``node`` asks them to keep its copies.

    ``domains[i]`` is what node i fails together with: its rack, its power feed, or its own name.
    Nodes are ordered by domain and each turns to the one that stands as many places further as the
    largest domain has members, and on from there. That is a rotation, so each node is the first
    choice of exactly one other; and it leads out of the own domain while no domain has more than
    half of the nodes. Nodes of the own domain come last, nodes of a domain that has been chosen
    already after those of a new one: a second copy is in a third domain where there is one.

    Raises InputError for a node that is not there.
    """
    if not 0 <= node < len(domains):
        raise InputError(f"node {node} of {len(domains)}", hint="nodes are counted from 0")
    order = sorted(range(len(domains)), key=lambda i: (domains[i], i))
    shift = max(Counter(domains).values())
    at = order.index(node)
    ring = [order[(at + shift + k) % len(order)] for k in range(len(order))]
    seen = {domains[node]}
    fresh, again, own = [], [], []
    for other in ring:
        if other == node:
            continue
        if domains[other] == domains[node]:
            own.append(other)
        elif domains[other] in seen:
            again.append(other)
        else:
            seen.add(domains[other])
            fresh.append(other)
    return fresh + again + own
