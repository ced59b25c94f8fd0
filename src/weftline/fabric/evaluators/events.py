"""Event by event, message by message, in plain Python: slow, and easy to see that it is right.

The oracle of the other evaluators. It shares with them the routes, and nothing else: it finds by
itself which message waits for which chunk, and at each event fills all links anew.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np

from weftline.fabric.evaluators.timing import Timing, timing_of
from weftline.fabric.graph import Topology
from weftline.fabric.routing import schedule_routes
from weftline.fabric.schedule import Schedule

SAME = 1e-12


@dataclass(slots=True)
class _Message:
    size_bytes: float
    latency_s: float
    use: dict[int, float]
    """Link -> part of the message on it."""
    source: int
    destination: int
    step: int
    chunks: set[int] = field(default_factory=set)
    waits_data: set[int] = field(default_factory=set)
    waits_turn: int | None = None
    starts_s: float = math.inf
    done_s: float = math.inf


def event_time(topology: Topology, schedule: Schedule, size_bytes: float) -> Timing:
    """Time of a flat schedule, one event after the other. Meant for up to some thousand rows."""
    schedule.check_form(topology)
    messages = _gather(topology, schedule, size_bytes)
    now, flowing, waiting = 0.0, set[int](), set(range(len(messages)))
    remaining = [m.size_bytes for m in messages]
    while flowing or waiting:
        for index in waiting:
            messages[index].starts_s = _start_of(messages, messages[index])
        begun = {i for i in waiting if messages[i].starts_s <= now * (1 + SAME)}
        waiting -= begun
        for index in begun:
            if remaining[index] > 0 and messages[index].use:
                flowing.add(index)
            else:
                messages[index].done_s = messages[index].starts_s
        if any(i not in flowing for i in begun):
            continue
        rates = _fair_rates(topology, [messages[i] for i in sorted(flowing)])
        rate = dict(zip(sorted(flowing), rates, strict=True))
        ends = {i: now + remaining[i] / rate[i] for i in flowing}
        following = min([*ends.values(), *(messages[i].starts_s for i in waiting)])
        for index in sorted(flowing):
            if ends[index] <= following * (1 + SAME):
                messages[index].done_s = following
                flowing.remove(index)
            else:
                remaining[index] -= rate[index] * (following - now)
        now = following
    load = np.zeros(topology.links)
    for message in messages:
        for link, part in message.use.items():
            if link < topology.links:
                load[link] += part * message.size_bytes
    time_s = max((m.done_s for m in messages), default=0.0)
    return timing_of(topology, "events", time_s, load, schedule.steps)


def _gather(topology: Topology, schedule: Schedule, size_bytes: float) -> list[_Message]:
    """Messages by (step, colour, source, destination, path), and what each waits for."""
    taken = schedule_routes(topology, schedule)
    fractions = schedule.fractions()
    by_key: dict[tuple[object, ...], _Message] = {}
    connection: dict[int, tuple[object, ...]] = {}
    for row in sorted(range(schedule.rows), key=lambda r: int(schedule.step[r])):
        part = slice(int(taken.start[row]), int(taken.start[row + 1]))
        path = tuple(int(x) for x in taken.links[part])
        source, destination = int(schedule.source[row]), int(schedule.destination[row])
        place = (int(schedule.colour[row]), source, destination, path)
        key = (int(schedule.step[row]), *place)
        if key not in by_key:
            use: dict[int, float] = defaultdict(float)
            for link, weight in zip(path, taken.weights[part], strict=True):
                use[link] += float(weight)
            if topology.injection_bytes_per_s is not None and path and source < topology.ranks:
                use[topology.links + source] = 1.0
            connection[len(by_key)] = place
            by_key[key] = _Message(
                0.0, float(taken.latency_s[row]), dict(use), source, destination,
                int(schedule.step[row]),
            )  # fmt: skip
        message = by_key[key]
        message.size_bytes += float(fractions[row]) * size_bytes
        first = int(schedule.first_chunk[row])
        message.chunks |= set(range(first, first + int(schedule.chunk_count[row])))
    messages = list(by_key.values())
    arriving: dict[tuple[int, int], list[int]] = defaultdict(list)
    last: dict[tuple[object, ...], int] = {}
    for index, message in enumerate(messages):
        for chunk in message.chunks:
            arriving[message.destination, chunk].append(index)
    for index, message in enumerate(messages):
        for chunk in message.chunks:
            message.waits_data |= {
                i for i in arriving[message.source, chunk] if messages[i].step < message.step
            }
        message.waits_turn = last.get(connection[index])
        last[connection[index]] = index
    return messages


def _start_of(messages: list[_Message], message: _Message) -> float:
    """When the bytes of a message begin to flow, as far as is known now (inf: not known)."""
    data = max((messages[i].done_s for i in message.waits_data), default=0.0)
    turn = 0.0 if message.waits_turn is None else messages[message.waits_turn].done_s
    return max(data + message.latency_s, turn)


def _fair_rates(topology: Topology, flows: list[_Message]) -> list[float]:
    """Max-min fair rates: raise all together, stop those on a link that is full, go on."""
    limit = topology.injection_bytes_per_s
    rate = [0.0] * len(flows)
    open_flows = set(range(len(flows)))
    while open_flows:
        used: dict[int, float] = defaultdict(float)
        rising: dict[int, float] = defaultdict(float)
        for index, flow in enumerate(flows):
            for link, part in flow.use.items():
                used[link] += part * rate[index]
                if index in open_flows:
                    rising[link] += part
        room: dict[int, float] = {}
        for link, part in rising.items():
            if link < topology.links:
                capacity = float(topology.bandwidth_bytes_per_s[link])
            else:
                capacity = float(limit[link - topology.links]) if limit is not None else math.inf
            room[link] = max(capacity - used[link], 0.0) / part
        lift = min(room.values())
        full = {link for link, more in room.items() if more <= lift + SAME * (lift + 1.0)}
        for index in open_flows:
            rate[index] += lift
        open_flows -= {i for i in open_flows if full & flows[i].use.keys()}
    return rate
