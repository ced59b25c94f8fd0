"""One node a symmetry orbit: a schedule of 65,536 chips timed from the rows of one.

Where every shift maps network and schedule on themselves, the shifts of one message all flow at
the same rate, and all links of a class carry the same. So it is enough to share link classes among
the messages that leave chip 0: a message crosses a class as often as its route does, times chips
over links of the class. Data a message waits for is found from block arithmetic.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from weftline.errors import InputError
from weftline.fabric.evaluators.messages import compress, turns
from weftline.fabric.evaluators.timing import Timing, timing_of
from weftline.fabric.graph import FloatArray, IntArray, Topology
from weftline.fabric.orbit import OrbitSchedule
from weftline.fabric.routing import routes

SAME = 1e-12
SHORT = 3000
"""Messages up to which a plain loop is faster than loading the compiled one."""


def applies(topology: Topology, orbit: OrbitSchedule) -> bool:
    """Whether the shifts of the schedule are symmetries of this network, speeds included."""
    if topology.ranks != orbit.ranks or topology.failed or topology.link_class is None:
        return False
    if any(orbit.grid.twist):
        return False
    same = topology.group is not None and topology.group.shape == orbit.grid.shape
    if topology.injection_bytes_per_s is not None and np.ptp(topology.injection_bytes_per_s) > 0:
        return False
    return bool(topology.interchangeable or (topology.is_symmetric and same))


def orbit_time(topology: Topology, orbit: OrbitSchedule, size_bytes: float) -> Timing:
    """Time of a schedule kept as one chip's rows. Raises InputError where `applies` is not so."""
    if not applies(topology, orbit):
        raise InputError(
            f"`{topology.name}` is not symmetric under the shifts of this {orbit.algorithm} "
            "schedule",
            hint="evaluate it with `flow`, which takes the real graph",
        )
    classes, members = _classes(topology, orbit)
    message, step, place = _messages(orbit)
    count = len(step)
    size = np.bincount(message, weights=orbit.fraction, minlength=count).astype(np.float64)
    size *= size_bytes
    use, latency = _class_use(topology, orbit, classes, members, message)
    pairs = _waiting_pairs(orbit, message)
    data = compress(pairs // max(count, 1), pairs % max(count, 1), count)
    turn_next, turn_missing = turns(place, step)
    capacity = _capacity(topology, classes, len(members))
    if count > SHORT and not len(pairs) and not turn_missing.any():
        done = _together(use, capacity, size, latency)
    elif count > SHORT:
        done = _compiled(use, capacity, size, latency, data, turn_next, turn_missing)
    else:
        done = _looped(use, capacity, size, latency, data, turn_next, turn_missing)
    load = np.append(use[:, : len(members)].T @ size, 0.0)[classes]
    time_s = float(done.max()) if count else 0.0
    return timing_of(topology, "orbit", time_s, load, orbit.steps)


def _classes(topology: Topology, orbit: OrbitSchedule) -> tuple[IntArray, FloatArray]:
    """([links] class of each link, [classes] links in each). A side of two has one class.

    Links of a full mesh are alike under a group when they lead equally far on its own grid.
    """
    found = np.asarray(topology.link_class, dtype=np.int64)
    if topology.interchangeable and topology.switches == 0:
        points = orbit.grid.coordinates(np.arange(topology.ranks))
        found = orbit.grid.rank(points[topology.destination] - points[topology.source])
    found = found - found.min() if len(found) else found
    used = np.bincount(found)
    if _is_torus(topology) and topology.grid is not None:
        renumber = np.arange(len(used))
        for axis, side in enumerate(topology.grid.shape):
            if side == 2 and 2 * axis + 1 < len(used):
                renumber[2 * axis + 1] = 2 * axis
        found = renumber[found]
        used = np.bincount(found)
    number = np.cumsum(used > 0) - 1
    return number[found], used[used > 0].astype(np.float64)


def _is_torus(topology: Topology) -> bool:
    """Whether routes go axis by axis as the offsets say: a plain grid that closes everywhere."""
    grid = topology.grid
    return (
        grid is not None and grid.is_symmetric and not any(grid.twist)
        and topology.switches == 0 and grid.size == topology.ranks
        and topology.kind in ("ring", "torus")
    )  # fmt: skip


def _messages(orbit: OrbitSchedule) -> tuple[IntArray, IntArray, list[IntArray]]:
    """([rows] message, [messages] step, their connection): rows that travel together."""
    if not orbit.rows:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), [np.zeros(0, np.int64)]
    colours = int(orbit.colour.max()) + 1
    to = orbit.grid.rank(orbit.offset)
    key = (orbit.step * colours + orbit.colour) * orbit.ranks + to
    unique, number = np.unique(key, return_inverse=True)
    # Pieces of one stream are colours of their own and take turns on its connections.
    stream_of = np.zeros(colours, dtype=np.int64)
    stream_of[orbit.colour] = orbit.streams
    place = [stream_of[unique // orbit.ranks % colours], unique % orbit.ranks]
    step = unique // (orbit.ranks * colours)
    return np.asarray(number, dtype=np.int64).reshape(-1), step, place


def _class_use(
    topology: Topology, orbit: OrbitSchedule, classes: IntArray, members: FloatArray,
    message: IntArray,
) -> tuple[FloatArray, FloatArray]:  # fmt: skip
    """([messages, classes] part of a message on each link of a class, [messages] latency)."""
    count = int(message.max()) + 1 if len(message) else 0
    use = np.zeros((orbit.rows, len(members)))
    assert topology.link_class is not None  # noqa: S101  (`applies` has looked)
    if _is_torus(topology) and topology.grid == orbit.grid:
        latency = np.zeros(orbit.rows)
        own = np.flatnonzero(topology.source == 0)
        by_class = {int(c): int(k) for c, k in zip(topology.link_class[own], own, strict=True)}
        for axis in range(len(orbit.grid.shape)):
            hops = orbit.offset[:, axis]
            for down in range(2):
                mine = np.maximum(-hops if down else hops, 0).astype(np.float64)
                if mine.any():
                    link = by_class.get(2 * axis + down, by_class.get(2 * axis + 1 - down, -1))
                    use[:, classes[link]] += mine * orbit.ranks / members[classes[link]]
                    latency += mine * topology.latency_s[link]
    else:
        far = orbit.grid.rank(orbit.offset)
        some, which = np.unique(far, return_inverse=True)
        taken = routes(topology, np.zeros(len(some), dtype=np.int64), some)
        each = np.zeros((len(some), len(members)))
        row = np.repeat(np.arange(len(some)), np.diff(taken.start))
        np.add.at(each, (row, classes[taken.links]), taken.weights)
        use = (each * orbit.ranks / members)[which.reshape(-1)]
        latency = taken.latency_s[which.reshape(-1)]
    whole = np.bincount(message, weights=orbit.fraction, minlength=count)
    part = orbit.fraction / np.where(whole[message] > 0, whole[message], 1.0)
    if count == orbit.rows:
        order = np.argsort(message)
        use, latency = use[order], latency[order]
    else:
        merged, mean = np.zeros((count, len(members))), np.zeros(count)
        np.add.at(merged, message, use * part[:, None])
        np.add.at(mean, message, latency * part)
        use, latency = merged, mean
    if topology.injection_bytes_per_s is not None:
        use = np.column_stack([use, (use.sum(axis=1) > 0).astype(np.float64)])
    return use, latency


def _capacity(topology: Topology, classes: IntArray, count: int) -> FloatArray:
    capacity = np.full(count, np.inf)
    np.minimum.at(capacity, classes, topology.bandwidth_bytes_per_s)
    if topology.injection_bytes_per_s is not None and topology.ranks:
        capacity = np.append(capacity, topology.injection_bytes_per_s[0])
    return capacity


def _waiting_pairs(orbit: OrbitSchedule, message: IntArray) -> IntArray:
    """Pairs (before, after) of messages as one number, before * messages + after, each once."""
    count = int(message.max()) + 1 if len(message) else 0
    if orbit.displacement is not None:
        before, after = _piece_pairs(orbit)
    else:
        before, after = _block_pairs(orbit)
    # Sorted and thinned out by hand: numpy's hash of so many numbers takes ten times as long.
    pairs = np.sort(message[before] * count + message[after])
    new = np.ones(len(pairs), dtype=np.bool_)
    new[1:] = pairs[1:] != pairs[:-1]
    return np.asarray(pairs[new])


def _piece_pairs(orbit: OrbitSchedule) -> tuple[IntArray, IntArray]:
    """All-to-all: a piece goes on from where the row before has brought it."""
    assert orbit.piece is not None  # noqa: S101
    assert orbit.piece_start is not None  # noqa: S101
    row = np.repeat(np.arange(orbit.rows), np.diff(orbit.piece_start))
    order = np.lexsort([orbit.step[row], orbit.piece])
    same = orbit.piece[order[1:]] == orbit.piece[order[:-1]]
    before, after = row[order[:-1][same]], row[order[1:][same]]
    later = orbit.step[before] < orbit.step[after]
    return before[later], after[later]


def _block_pairs(orbit: OrbitSchedule) -> tuple[IntArray, IntArray]:
    """Rows that bring a chip blocks which a later row of the colour sends on.

    Seen from the chip that receives, a row brings the homes ``block - offset``; it meets a row that
    sends ``block`` where they agree on every axis that neither carries whole. Rows are joined
    pattern by pattern of whole axes, sorted by those coordinates.
    """
    shape = np.asarray(orbit.grid.shape, dtype=np.int64)
    sent = orbit.block % shape
    brought = (orbit.block - orbit.offset) % shape
    code = (orbit.whole << np.arange(len(shape))).sum(axis=1)
    patterns = [np.flatnonzero(code == c) for c in np.unique(code)]
    found: list[tuple[IntArray, IntArray]] = []
    for first in patterns:
        for then in patterns:
            held = ~(orbit.whole[first[0]] | orbit.whole[then[0]])
            weight = np.where(held, np.concatenate([[1], np.cumprod(shape)[:-1]]), 0)
            span = int(np.prod(shape)) + 1
            key_a = (brought[first] * weight).sum(axis=1) + orbit.colour[first] * span
            key_b = (sent[then] * weight).sum(axis=1) + orbit.colour[then] * span
            found.append(_join(first, key_a, then, key_b, orbit.step))
    before = np.concatenate([f[0] for f in found]) if found else np.zeros(0, np.int64)
    after = np.concatenate([f[1] for f in found]) if found else np.zeros(0, np.int64)
    return before, after


def _join(
    first: IntArray, key_a: IntArray, then: IntArray, key_b: IntArray, step: IntArray
) -> tuple[IntArray, IntArray]:
    """Pairs of equal keys whose first step comes before the second."""
    order = np.lexsort([step[first], key_a])
    a, keys = first[order], key_a[order]
    # Steps are made part of the key, so that one search finds the earlier ones of each key.
    span = int(step.max()) + 2 if len(step) else 1
    low = np.searchsorted(keys * span + step[a], key_b * span)
    high = np.searchsorted(keys * span + step[a], key_b * span + step[then])
    many = high - low
    index = np.arange(int(many.sum())) - np.repeat(np.cumsum(many) - many, many)
    return a[np.repeat(low, many) + index], np.repeat(then, many)


def _together(
    use: FloatArray, capacity: FloatArray, size: FloatArray, latency: FloatArray
) -> FloatArray:
    """Many messages that wait for nothing but their latency: all classes and messages at once."""
    done = np.where(use.any(axis=1) & (size > 0), np.inf, latency)
    waiting = np.flatnonzero(np.isinf(done))
    waiting = waiting[np.argsort(latency[waiting], kind="stable")]
    start, remaining = latency[waiting], size.copy()
    begun, now = 0, 0.0
    flowing = np.zeros(0, dtype=np.int64)
    while begun < len(waiting) or len(flowing):
        rate = _rates(use[flowing], capacity)
        end = now + (remaining[flowing] / rate).min() if len(flowing) else np.inf
        following = min(end, start[begun]) if begun < len(waiting) else end
        remaining[flowing] -= rate * (following - now)
        now = following
        over = remaining[flowing] <= size[flowing] * 1e-11
        done[flowing[over]] = now
        more = int(np.searchsorted(start, now * (1 + SAME), side="right"))
        flowing = np.concatenate([flowing[~over], waiting[begun:more]])
        begun = max(begun, more)
    return done


def _rates(use: FloatArray, capacity: FloatArray) -> FloatArray:
    """[messages] max-min fair rates over a few classes: the tightest class first."""
    rate = np.zeros(len(use))
    rising = np.ones(len(use), dtype=np.bool_)
    left = capacity.copy()
    while rising.any():
        total = use[rising].sum(axis=0)
        with np.errstate(divide="ignore"):
            level = np.where(total > SAME, left / np.where(total > SAME, total, 1.0), np.inf)
        tight = level <= level.min() * (1 + SAME)
        stop = rising & (use[:, tight] > 0).any(axis=1)
        rate[stop] = level.min()
        left = np.maximum(left - use[stop].sum(axis=0) * level.min(), 0.0)
        rising &= ~stop
    return rate


def _compiled(
    use: FloatArray, capacity: FloatArray, size: FloatArray, latency: FloatArray,
    data: tuple[IntArray, IntArray, IntArray], turn_next: IntArray, turn_missing: IntArray,
) -> FloatArray:  # fmt: skip
    from weftline.fabric.kernels import evaluate as kernels

    message, link = np.nonzero(use)
    start = np.concatenate([[0], np.cumsum(np.bincount(message, minlength=len(size)))])
    done = kernels.flow_times(
        start, link.astype(np.int64), use[message, link], capacity, size, latency,
        data[0], data[1], data[2].copy(), turn_next, turn_missing.copy(),
    )  # fmt: skip
    return np.asarray(done, dtype=np.float64)


def _looped(
    use: FloatArray, capacity: FloatArray, size: FloatArray, latency: FloatArray,
    data: tuple[IntArray, IntArray, IntArray], turn_next: IntArray, turn_missing: IntArray,
) -> FloatArray:  # fmt: skip
    """The same in plain Python: few messages flow at a time, and nothing needs compiling."""
    count = len(size)
    share: list[dict[int, float]] = [defaultdict(float) for _ in range(count)]
    for m, c in zip(*(x.tolist() for x in np.nonzero(use)), strict=True):
        share[m][c] = float(use[m, c])
    starts, following = data[0].tolist(), data[1].tolist()
    missing, ready = (data[2] + turn_missing).tolist(), latency.tolist()
    turn, room = turn_next.tolist(), capacity.tolist()
    delay, remaining, turn_s = latency.tolist(), size.tolist(), [0.0] * count
    done = [float("inf")] * count
    waiting = {m: ready[m] for m in range(count) if missing[m] == 0}
    flowing: dict[int, float] = {}
    now = 0.0
    while waiting or flowing:
        ends = {m: now + remaining[m] / rate for m, rate in flowing.items()}
        following_s = min([*ends.values(), *waiting.values()])
        until = following_s * (1 + SAME)
        for m, rate in flowing.items():
            remaining[m] -= rate * (following_s - now)
        now = following_s
        finished = [m for m, end in ends.items() if end <= until]
        while True:
            begun = [m for m, start in waiting.items() if start <= until]
            for m in begun:
                del waiting[m]
                if remaining[m] > 0 and share[m]:
                    flowing[m] = 0.0
                else:
                    finished.append(m)
            if not finished:
                break
            for m in finished:
                done[m] = now
                flowing.pop(m, None)
                for to in following[starts[m] : starts[m + 1]]:
                    missing[to] -= 1
                    ready[to] = max(ready[to], now + delay[to])
                    if missing[to] == 0:
                        waiting[to] = max(ready[to], turn_s[to])
                to = turn[m]
                if to >= 0:
                    missing[to] -= 1
                    turn_s[to] = now
                    if missing[to] == 0:
                        waiting[to] = max(ready[to], turn_s[to])
            finished = []
        _share_out(flowing, share, room)
    return np.array(done)


def _share_out(
    flowing: dict[int, float], share: list[dict[int, float]], capacity: list[float]
) -> None:
    """Max-min fair rates of what flows: fill the tightest class, freeze its messages, go on."""
    left: dict[int, float] = {}
    total: dict[int, float] = defaultdict(float)
    for m in flowing:
        for c, part in share[m].items():
            left[c] = capacity[c]
            total[c] += part
    rising = set(flowing)
    while rising:
        level = min(left[c] / part for c, part in total.items() if part > SAME)
        full = {c for c, t in total.items() if t > SAME and left[c] <= level * t * (1 + SAME)}
        for m in [m for m in rising if full & share[m].keys()]:
            rising.remove(m)
            flowing[m] = level
            for c, part in share[m].items():
                left[c] = max(left[c] - part * level, 0.0)
                total[c] -= part
