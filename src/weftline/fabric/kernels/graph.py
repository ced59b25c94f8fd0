"""Compiled shortest routes over any graph, and what a full exchange puts on its links."""

from __future__ import annotations

from typing import Any

import numpy as np

from weftline._compiled import compiled


@compiled
def distances(
    in_start: Any, in_link: Any, ends: Any, ranks: int, forwards: bool, target: int,
    far: Any, queue: Any,
) -> int:  # fmt: skip
    """Hops of every node to ``target`` into ``far`` (-1: none); nodes reached. Chips forward what
    is not theirs only if ``forwards``."""
    far[:] = -1
    far[target] = 0
    queue[0] = target
    head, tail = 0, 1
    while head < tail:
        node = queue[head]
        head += 1
        if node != target and node < ranks and not forwards:
            continue
        for i in range(in_start[node], in_start[node + 1]):
            near = ends[0][in_link[i]]
            if far[near] < 0:
                far[near] = far[node] + 1
                queue[tail] = near
                tail += 1
    return tail


@compiled
def spread(
    out_start: Any, out_link: Any, ends: Any, ranks: int, forwards: bool, source: int, target: int,
    far: Any, part: Any, queue: Any, links: Any, weights: Any,
) -> int:  # fmt: skip
    """All shortest routes of one pair, each node splitting evenly; ``part`` is all zero again."""
    queue[0] = source
    part[source] = 1.0
    head, tail, count = 0, 1, 0
    while head < tail:
        node = queue[head]
        head += 1
        share = part[node]
        part[node] = 0.0
        if node == target:
            continue
        ways = 0
        for i in range(out_start[node], out_start[node + 1]):
            near = ends[1][out_link[i]]
            if far[near] == far[node] - 1 and (near == target or near >= ranks or forwards):
                ways += 1
        for i in range(out_start[node], out_start[node + 1]):
            near = ends[1][out_link[i]]
            if far[near] == far[node] - 1 and (near == target or near >= ranks or forwards):
                links[count] = out_link[i]
                weights[count] = share / ways
                count += 1
                if part[near] == 0.0:
                    queue[tail] = near
                    tail += 1
                part[near] += share / ways
    return count


@compiled
def graph_routes(
    out_start: Any, out_link: Any, in_start: Any, in_link: Any, ends: Any, ranks: int,
    forwarding: Any, source: Any, target: Any, order: Any, sizes: Any, start: Any,
    links: Any, weights: Any,
) -> Any:  # fmt: skip
    """Shortest routes of all rows, visited in ``order`` (by target): sizes first, then links.

    ``forwarding[0]``: chips may forward from the start. -1: all routed; else a row without route.
    """
    nodes = len(out_start) - 1
    far, queue = np.empty(nodes, np.int64), np.empty(nodes, np.int64)
    wide = np.empty(nodes, np.int64)
    part = np.zeros(nodes, np.float64)
    mine, mine_part = np.empty(ends.shape[1], np.int64), np.empty(ends.shape[1], np.float64)
    last, has_wide = -1, False
    for row in order:
        to, of = target[row], source[row]
        if to != last:
            distances(in_start, in_link, ends, ranks, forwarding[0], to, far, queue)
            last, has_wide = to, False
        hops, forwards = far, forwarding[0]
        if far[of] < 0:
            if not has_wide:
                distances(in_start, in_link, ends, ranks, True, to, wide, queue)
                has_wide = True
            hops, forwards = wide, True
            if wide[of] < 0:
                return row
        count = spread(out_start, out_link, ends, ranks, forwards, of, to, hops, part, queue,
                       mine, mine_part)  # fmt: skip
        sizes[row] = count
        if len(links):
            at = start[row]
            for i in range(count):
                links[at + i] = mine[i]
                weights[at + i] = mine_part[i]
    return -1


@compiled
def graph_exchange(
    out_start: Any, out_link: Any, in_start: Any, in_link: Any, ends: Any, ranks: int,
    forwards: bool, unit: Any, inside: bool, load: Any,
) -> int:  # fmt: skip
    """Link loads of a full exchange (every chip to every other one message) over shortest routes,
    added to ``load``: of pairs in one ``unit`` [ranks] only, if ``inside``, else of all others.

    -1: done; else a chip that another cannot reach. Per target, parts flow down by distance.
    """
    nodes = len(out_start) - 1
    far, queue = np.empty(nodes, np.int64), np.empty(nodes, np.int64)
    part = np.zeros(nodes, np.float64)
    for to in range(ranks):
        count = distances(in_start, in_link, ends, ranks, forwards, to, far, queue)
        part[:] = 0.0
        for i in range(count - 1, 0, -1):
            node = queue[i]
            if node < ranks and (unit[node] == unit[to]) == inside:
                part[node] += 1.0
            ways = 0
            for k in range(out_start[node], out_start[node + 1]):
                near = ends[1][out_link[k]]
                if far[near] == far[node] - 1 and (near == to or near >= ranks or forwards):
                    ways += 1
            for k in range(out_start[node], out_start[node + 1]):
                near = ends[1][out_link[k]]
                if far[near] == far[node] - 1 and (near == to or near >= ranks or forwards):
                    load[out_link[k]] += part[node] / ways
                    part[near] += part[node] / ways
        for node in range(ranks):
            if far[node] < 0 and (unit[node] == unit[to]) == inside:
                return node
    return -1
