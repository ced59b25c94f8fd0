"""Compiled loads of a full exchange on a grid with dead links, leg by leg instead of hop by hop."""

from __future__ import annotations

from typing import Any

import numpy as np

from weftline._compiled import compiled
from weftline.fabric.kernels.route import grid_route, plain


@compiled
def range_sum(
    prefix: Any,
    shape: Any,
    stride: Any,
    point: Any,
    node: int,
    axis: int,
    direction: int,
    hops: int,
) -> Any:
    """Broken ports on a run along one axis, from prefix counts [node, axis, direction]."""
    side, apart = shape[axis], stride[axis]
    at = point[node, axis]
    base = node - at * apart
    low = at if direction == 0 else at - hops + 1
    if low < 0:
        low += side
    high = low + hops
    axes = len(shape)
    place = axis * 2 + direction
    whole = prefix[(base + (side - 1) * apart) * axes * 2 + place]
    before = prefix[(base + (low - 1) * apart) * axes * 2 + place] if low > 0 else 0
    if high <= side:
        return prefix[(base + (high - 1) * apart) * axes * 2 + place] - before
    return whole - before + prefix[(base + (high - side - 1) * apart) * axes * 2 + place]


@compiled
def range_add(
    change: Any, shape: Any, stride: Any, point: Any, node: int, axis: int, direction: int,
    hops: int, amount: float,
) -> None:  # fmt: skip
    """Add to a run along one axis, as differences that are summed up along the axis later."""
    side, apart = shape[axis], stride[axis]
    at = point[node, axis]
    base = node - at * apart
    low = at if direction == 0 else at - hops + 1
    if low < 0:
        low += side
    high = low + hops
    axes = len(shape)
    place = axis * 2 + direction
    change[(base + low * apart) * axes * 2 + place] += amount
    if high > side:
        change[base * axes * 2 + place] += amount
        high -= side
    if high < side:
        change[(base + high * apart) * axes * 2 + place] -= amount


@compiled
def legs(
    prefix: Any, change: Any, shape: Any, stride: Any, point: Any, wraps: Any, single: Any,
    source: int, target: int, order: Any, tie: int, amount: float,
) -> int:  # fmt: skip
    """Broken ports on one route, leg by leg; with ``amount`` adds the route to ``change`` instead.

    ``tie`` 0 or 1: the way where both are equally short; 2: half and half, healthy or not; 3: half
    and half where both work, else the one that does.
    """
    bad, node = 0, source
    for i in range(len(order)):
        axis = order[i]
        side = shape[axis]
        away = point[target, axis] - point[node, axis]
        if away == 0:
            continue
        way, hops, part = (0, away, 1.0) if away > 0 else (1, -away, 1.0)
        if wraps[axis] and single[axis]:
            way, hops = 0, 1
        elif wraps[axis]:
            ahead = away if away > 0 else away + side
            way, hops = (0, ahead) if 2 * ahead <= side else (1, side - ahead)
            if 2 * ahead == side:
                first = range_sum(prefix, shape, stride, point, node, axis, 0, hops)
                second = range_sum(prefix, shape, stride, point, node, axis, 1, hops)
                if tie < 2:
                    way = tie
                elif tie == 3 and first > 0:
                    way = 1
                elif tie == 2 or second == 0:
                    part = 0.5
                    if amount != 0.0:
                        range_add(change, shape, stride, point, node, axis, 1, hops, 0.5 * amount)
                    else:
                        bad += second
        if amount != 0.0:
            range_add(change, shape, stride, point, node, axis, way, hops, part * amount)
        else:
            bad += range_sum(prefix, shape, stride, point, node, axis, way, hops)
        node += away * stride[axis]
    return bad


@compiled
def other_legs(
    prefix: Any, change: Any, shape: Any, stride: Any, point: Any, wraps: Any, single: Any,
    orders: Any, source: int, target: int, tied: bool,
) -> bool:  # fmt: skip
    """Add the route of a pair by the plain order (if ``tied``, else it is known to be broken) or,
    as `detour`, by another; False: none works."""
    if tied and legs(prefix, change, shape, stride, point, wraps, single, source, target,
                     orders[0], 3, 0.0) == 0:  # fmt: skip
        legs(prefix, change, shape, stride, point, wraps, single, source, target, orders[0], 3, 1.0)
        return True
    kinds = len(orders)
    spread = (source * 7919 + target * 104729) & 0x7FFFFFFF
    for i in range(2 * kinds):
        order, tie = orders[(i + spread) % kinds], (i // kinds + spread) % 2
        if (
            legs(
                prefix, change, shape, stride, point, wraps, single, source, target, order, tie, 0.0
            )
            == 0
        ):
            legs(
                prefix, change, shape, stride, point, wraps, single, source, target, order, tie, 1.0
            )
            return True
    return False


@compiled
def first_broken(
    table: Any, shape: Any, stride: Any, wraps: Any, single: Any, source: int, target: int,
    bad: Any, ports: Any, weights: Any,
) -> int:  # fmt: skip
    """The lowest broken port on a pair's plain route over the healthy grid."""
    count = plain(table, shape, stride, wraps, single, source, target, True, ports, weights)
    lowest = len(bad)
    for i in range(count):
        if bad[ports[i]]:
            lowest = min(lowest, ports[i])
    return lowest


@compiled
def reroute_loads(
    table: Any, shape: Any, stride: Any, wraps: Any, single: Any, orders: Any,
    broken: Any, point: Any, prefix: Any, change: Any, load: Any,
) -> Any:  # fmt: skip
    """Correct the port loads of a full exchange on the healthy grid for its ``broken`` ports.

    Every pair whose dimension-ordered route meets a broken port gives back its load and adds
    that of its real route: into ``change`` as differences along each axis, the few that no order
    of the axes saves into ``load`` port by port. Returns (pairs moved, a pair without route or -1).
    """
    axes = len(shape)
    nodes = len(table) // (2 * axes)
    room = len(table) // 2 + 2 * axes * (int(shape.sum()) + 4)
    seen, queue = np.full(nodes, -1, np.int64), np.empty(nodes, np.int64)
    ports, parts = np.empty(room, np.int64), np.empty(room, np.float64)
    bad = np.zeros(len(table), np.bool_)
    for port in broken:
        bad[port] = True
    moved = 0
    for port in broken:
        direction, axis, node = port % 2, (port // 2) % axes, port // (2 * axes)
        side, apart = shape[axis], stride[axis]
        at = (node // apart) % side
        # Routes here: axes before are the target's, axes after still the source's.
        lower = nodes // apart // side
        after, before = node % apart, node // (apart * side)
        for back in range(side):
            if not wraps[axis] and (back > at if direction == 0 else at + back >= side):
                break
            from_at = (at - back) % side if direction == 0 else (at + back) % side
            for ahead in range(1, side - back):
                if wraps[axis] and 2 * (back + ahead) > side:
                    break
                to_at = at + ahead if direction == 0 else at - ahead
                if not wraps[axis] and (to_at < 0 or to_at >= side):
                    break
                to_at %= side
                tied = 2 * (back + ahead) == side
                for pair in range(lower * apart):
                    source = ((pair // apart) * side + from_at) * apart + after
                    target = (before * side + to_at) * apart + pair % apart
                    met = legs(prefix, change, shape, stride, point, wraps, single, source, target,
                               orders[0], 2, 0.0)  # fmt: skip
                    if met > 1 and port != first_broken(
                        table, shape, stride, wraps, single, source, target, bad, ports, parts
                    ):
                        continue
                    legs(prefix, change, shape, stride, point, wraps, single, source, target,
                         orders[0], 2, -1.0)  # fmt: skip
                    moved += 1
                    if other_legs(prefix, change, shape, stride, point, wraps, single, orders,
                                  source, target, tied):  # fmt: skip
                        continue
                    count = grid_route(table, shape, stride, wraps, single, orders, source, target,
                                       seen, queue, ports, parts)  # fmt: skip
                    if count < 0:
                        return moved, source * nodes + target
                    for i in range(count):
                        load[ports[i]] += parts[i]
    return moved, -1
