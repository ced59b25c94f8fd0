"""Networks whose ends are hosts, with the hosts' chips in place of each.

A host's ports go to its chips in order, as rails do; where there are fewer ports than chips, chips
share one. Inside a host chips are joined as the catalogue says.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from weftline.catalog import accelerator
from weftline.errors import InputError
from weftline.fabric.formats.clusters.description import Host
from weftline.fabric.formats.clusters.joined import OWN_NETWORK, Links, inside_host, speeds_of
from weftline.fabric.graph import Topology


def with_chips(hosts: Topology, chip: str, chips_per_host: int | None = None) -> Topology:
    """The network with every host's chips; raises UnknownNameError for an unknown chip."""
    acc = accelerator(chip)
    per = chips_per_host or acc.chips_per_host or 1
    if per < 1:
        raise InputError(f"{per} chips a host")
    ranks = hosts.ranks * per
    labels = [f"{hosts.label(h)}/{i}" for h in range(hosts.ranks) for i in range(per)]
    labels += [hosts.label(hosts.ranks + s) for s in range(hosts.switches)]
    adds = [False] * hosts.switches if hosts.reducing is None else hosts.reducing.tolist()

    def switch(name: str, reduces: bool) -> int:
        labels.append(name)
        adds.append(reduces)
        return len(labels) - 1

    links = Links()
    ports: list[list[tuple[int, float, float]]] = [[] for _ in range(hosts.ranks)]
    back: dict[tuple[int, int], list[float]] = {}
    for a, b, rate, delay in zip(
        hosts.source.tolist(), hosts.destination.tolist(), hosts.bandwidth_bytes_per_s.tolist(),
        hosts.latency_s.tolist(), strict=True,
    ):  # fmt: skip
        if a >= hosts.ranks and b >= hosts.ranks:
            links.rows.append((a - hosts.ranks + ranks, b - hosts.ranks + ranks, rate, delay))
        elif a < hosts.ranks:
            ports[a].append((b, rate, delay))
        else:
            back.setdefault((a, b), []).append(rate)
    for host, own in enumerate(ports):
        for i in range(per if own else 0):
            mine = own[i * len(own) // per : (i + 1) * len(own) // per]
            share = 1.0
            if not mine:
                mine, share = [own[i * len(own) // per]], len(own) / per
            for end, rate, delay in mine:
                links.cable(host * per + i, end - hosts.ranks + ranks, rate * share, delay)
        inside_host(links, speeds_of(acc, per, ranks, None), host * per, per,
                    Host(name=hosts.label(host)), switch)  # fmt: skip
    table = np.asarray(links.rows, dtype=np.float64)
    inside = speeds_of(acc, per, ranks, None).basis.get("scale_up", "datasheet")
    several = 1 < per < ranks
    return replace(
        hosts, chip=acc.id, across=(hosts.across or OWN_NETWORK) if several else "", ranks=ranks,
        switches=len(labels) - ranks, labels=tuple(labels),
        source=table[:, 0].astype(np.int64), destination=table[:, 1].astype(np.int64),
        bandwidth_bytes_per_s=table[:, 2], latency_s=table[:, 3],
        levels=tuple(v for v in (per, ranks) if v > 1) or (ranks,), chips_forward=False,
        reducing=np.asarray(adds, dtype=np.bool_) if any(adds) else None, group=None,
        basis={**hosts.basis, "scale_up": inside,
               "ports": "a host's ports go to its chips in order"},
    )  # fmt: skip
