"""Compiled walks over a grid: dimension-ordered routes, with detours around missing links.

A *port* of a grid is (node, axis, direction): ``(node * axes + axis) * 2 + (0 for +, 1 for -)``.
Kernels speak of ports; ``table[port]`` is the link there, or -1 where none works.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from weftline._compiled import compiled, inlined


@compiled
def walk(
    table: Any, shape: Any, stride: Any, node: int, axis: int, direction: int, hops: int,
    healthy: bool, weight: float, ports: Any, weights: Any, count: int,
) -> Any:  # fmt: skip
    """Append ``hops`` ports along one axis; (count, node), count -1 where a link is missing."""
    axes = len(shape)
    side, apart = shape[axis], stride[axis]
    for _ in range(hops):
        port = (node * axes + axis) * 2 + direction
        if not healthy and table[port] < 0:
            return -1, node
        if count >= len(ports):
            return -1, node
        ports[count] = port
        weights[count] = weight
        count += 1
        at = (node // apart) % side
        if direction == 0:
            node += apart if at + 1 < side else apart * (1 - side)
        else:
            node -= apart if at > 0 else apart * (1 - side)
    return count, node


# Called, not inlined, it makes routes a third slower.
@inlined
def leg(
    shape: Any, stride: Any, wraps: Any, single: Any, node: int, target: int, axis: int,
    tie: int, turned: bool,
) -> Any:  # fmt: skip
    """Direction and hops that a route takes along one axis; a ring's tie goes ``tie``'s way.

    ``turned``: the long way round, where there is a ring.
    """
    side = shape[axis]
    away = (target // stride[axis]) % side - (node // stride[axis]) % side
    if away == 0:
        return 0, 0
    if not wraps[axis]:
        return (0, away) if away > 0 else (1, -away)
    if single[axis]:
        return 0, 1
    ahead = away % side
    way = 0 if 2 * ahead < side else 1
    if 2 * ahead == side:
        way = tie
    if turned:
        way = 1 - way
    return way, ahead if way == 0 else side - ahead


@compiled
def plain(
    table: Any, shape: Any, stride: Any, wraps: Any, single: Any, source: int, target: int,
    healthy: bool, ports: Any, weights: Any,
) -> int:  # fmt: skip
    """Dimension-ordered route, ties split in halves; its ports, or -1 where a link is missing.

    With ``healthy`` every link of the grid counts as working. ``single[axis]``: a side of two
    chips with one cable, whose only direction is +.
    """
    count, node = 0, source
    for axis in range(len(shape)):
        way, hops = leg(shape, stride, wraps, single, node, target, axis, 0, False)
        if hops == 0:
            continue
        if wraps[axis] and not single[axis] and 2 * hops == shape[axis]:
            first = count
            count, end = walk(table, shape, stride, node, axis, 0, hops, healthy, 0.5,
                              ports, weights, first)  # fmt: skip
            if count < 0:  # one way round is broken: all of it goes the other way
                count, end = walk(table, shape, stride, node, axis, 1, hops, healthy, 1.0,
                                  ports, weights, first)  # fmt: skip
                if count < 0:
                    return -1
            else:
                both, _ = walk(table, shape, stride, node, axis, 1, hops, healthy, 0.5,
                               ports, weights, count)  # fmt: skip
                if both < 0:
                    for i in range(first, count):
                        weights[i] = 1.0
                else:
                    count = both
            node = end
            continue
        count, node = walk(table, shape, stride, node, axis, way, hops, healthy, 1.0,
                           ports, weights, count)  # fmt: skip
        if count < 0:
            return -1
    return count


@compiled
def ordered(
    table: Any, shape: Any, stride: Any, wraps: Any, single: Any, source: int, target: int,
    order: Any, turned: int, tie: int, step: int, ports: Any, weights: Any,
) -> int:  # fmt: skip
    """One route by another rule: axes in ``order``; ``turned`` axis the long way round its ring;
    ``step`` >= 0: first one hop over that (axis, direction). -1 where a link is missing."""
    count, node = 0, source
    if step >= 0:
        count, node = walk(table, shape, stride, source, step // 2, step % 2, 1, False, 1.0,
                           ports, weights, 0)  # fmt: skip
        if count < 0:
            return -1
    for i in range(len(order)):
        axis = order[i]
        way, hops = leg(shape, stride, wraps, single, node, target, axis, tie, axis == turned)
        if hops == 0:
            continue
        count, node = walk(table, shape, stride, node, axis, way, hops, False, 1.0,
                           ports, weights, count)  # fmt: skip
        if count < 0:
            return -1
    return count


@compiled
def detour(
    table: Any, shape: Any, stride: Any, wraps: Any, single: Any, orders: Any,
    source: int, target: int, ports: Any, weights: Any,
) -> int:  # fmt: skip
    """A short route around missing links: other orders of the axes, then one step aside (in equal
    parts to all sides that work), then the long way round a ring. Which order of the axes is tried
    first depends on the pair, so that detours spread."""
    axes, kinds = len(shape), len(orders)
    spread = (source * 7919 + target * 104729) & 0x7FFFFFFF
    for i in range(2 * kinds):
        order = orders[(i + spread) % kinds]
        count = ordered(table, shape, stride, wraps, single, source, target, order, -1,
                        (i // kinds + spread) % 2, -1, ports, weights)  # fmt: skip
        if count >= 0:
            return count
    ways, count = 0, 0
    for step in range(2 * axes):
        order = np.empty(axes, np.int64)  # the axis stepped aside on comes last
        at = 0
        for axis in range(axes):
            if axis != step // 2:
                order[at] = axis
                at += 1
        order[axes - 1] = step // 2
        more = ordered(table, shape, stride, wraps, single, source, target, order, -1,
                       spread % 2, step, ports[count:], weights[count:])  # fmt: skip
        if more >= 0:
            ways += 1
            count += more
    if ways:
        for i in range(count):
            weights[i] /= ways
        return count
    for i in range(axes * kinds):
        count = ordered(table, shape, stride, wraps, single, source, target,
                        orders[(i // axes) % kinds], (i + spread) % axes, spread % 2, -1,
                        ports, weights)  # fmt: skip
        if count >= 0:
            return count
    return -1


@compiled
def search(
    table: Any, shape: Any, stride: Any, source: int, target: int, seen: Any, queue: Any,
    ports: Any, weights: Any,
) -> int:  # fmt: skip
    """Any shortest route over what works (breadth first); -1: none. ``seen`` is all -1 again."""
    axes = len(shape)
    queue[0] = source
    seen[source] = -2
    head, tail, found = 0, 1, False
    while head < tail and not found:
        node = queue[head]
        head += 1
        for axis in range(axes):
            at = (node // stride[axis]) % shape[axis]
            for direction in range(2):
                port = (node * axes + axis) * 2 + direction
                if table[port] < 0:
                    continue
                to = at + 1 - 2 * direction
                near = node + ((to % shape[axis]) - at) * stride[axis]
                if seen[near] == -1:
                    seen[near] = port
                    queue[tail] = near
                    tail += 1
                    if near == target:
                        found = True
    count = -1
    if found:
        count, node = 0, target
        while node != source:
            port = seen[node]
            ports[count] = port
            weights[count] = 1.0
            count += 1
            node = port // (2 * axes)
    for i in range(tail):
        seen[queue[i]] = -1
    return count


@compiled
def grid_route(
    table: Any, shape: Any, stride: Any, wraps: Any, single: Any, orders: Any,
    source: int, target: int, seen: Any, queue: Any, ports: Any, weights: Any,
) -> int:  # fmt: skip
    """The route of one pair: dimension-ordered, else a detour, else a search; -1: none."""
    count = plain(table, shape, stride, wraps, single, source, target, False, ports, weights)
    if count < 0:
        count = detour(table, shape, stride, wraps, single, orders, source, target, ports, weights)
    if count < 0:
        count = search(table, shape, stride, source, target, seen, queue, ports, weights)
    return count


@compiled
def grid_routes(
    table: Any, shape: Any, stride: Any, wraps: Any, single: Any, orders: Any,
    source: Any, target: Any, latency: Any, start: Any, links: Any, weights: Any,
) -> int:  # fmt: skip
    """Routes of all rows. With empty ``links`` only ``start`` is filled (ends of each row, summed).

    -1: all routed; else the first row without a route. ``latency[0]`` holds that of links; the
    rows' own are written to ``latency[1]`` when links are.
    """
    room = len(table) // 2 + 2 * len(shape) * (int(shape.sum()) + 4)
    seen = np.full(len(table) // (2 * len(shape)), -1, np.int64)
    queue = np.empty(len(seen), np.int64)
    ports, parts = np.empty(room, np.int64), np.empty(room, np.float64)
    at = 0
    for row in range(len(source)):
        count = grid_route(table, shape, stride, wraps, single, orders, source[row], target[row],
                           seen, queue, ports, parts)  # fmt: skip
        if count < 0:
            return row
        if len(links):
            total = 0.0
            for i in range(count):
                link = table[ports[i]]
                links[at + i] = link
                weights[at + i] = parts[i]
                total += latency[0][link] * parts[i]
            latency[1][row] = total
        at += count
        start[row + 1] = at
    return -1
