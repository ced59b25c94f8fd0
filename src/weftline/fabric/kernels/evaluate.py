"""Compiled parts of the flow evaluator: what waits for what, and max-min fair sharing in time."""

from __future__ import annotations

import heapq
from typing import Any

import numpy as np

from weftline._compiled import compiled

SAME = 1e-12
"""Relative difference below which two times or two shares count as one."""


@compiled
def waits(
    message: Any, step: Any, source: Any, destination: Any, first: Any, count: Any,
    nodes: int, chunks: int, before: Any, after: Any,
) -> int:  # fmt: skip
    """Pairs (message, a later one that sends what it delivers); how many there are.

    Rows are sorted by message, messages by step. Pairs are written only where ``before`` has room
    (call it empty to count). A list of deliveries is kept for every chunk at every node.
    """
    last = np.full(nodes * chunks, -1, np.int32)
    delivered = np.empty(count.sum(), np.int32)
    earlier = np.empty(len(delivered), np.int32)
    mark = np.full(message[-1] + 1 if len(message) else 0, -1, np.int32)
    used, found, row = 0, 0, 0
    while row < len(message):
        end = row
        while end < len(message) and step[end] == step[row]:
            end += 1
        for r in range(row, end):
            at = source[r] * chunks + first[r]
            for c in range(count[r]):
                entry = last[at + c]
                while entry >= 0:
                    if mark[delivered[entry]] != message[r]:
                        mark[delivered[entry]] = message[r]
                        if len(before):
                            before[found] = delivered[entry]
                            after[found] = message[r]
                        found += 1
                    entry = earlier[entry]
        for r in range(row, end):
            at = destination[r] * chunks + first[r]
            for c in range(count[r]):
                delivered[used] = message[r]
                earlier[used] = last[at + c]
                last[at + c] = used
                used += 1
        row = end
    return found


@compiled
def fill(
    flows: Any, members: Any, start: Any, links: Any, weights: Any, capacity: Any,
    head: Any, after: Any, owner: Any, rate: Any, frozen: Any, left: Any, total: Any,
) -> None:  # fmt: skip
    """Max-min fair rates of ``flows``, which use exactly the links ``members``: all rise together
    until a link is full; its flows keep their rate, the others rise on (water filling)."""
    for link in members:
        left[link] = capacity[link]
        total[link] = 0.0
    for flow in flows:
        frozen[flow] = False
        for i in range(start[flow], start[flow + 1]):
            total[links[i]] += weights[i]
    heap = [(left[link] / total[link], link) for link in members if total[link] > 0]
    heapq.heapify(heap)
    open_flows = len(flows)
    while open_flows and heap:
        level, link = heapq.heappop(heap)
        if total[link] <= SAME:
            continue
        now = left[link] / total[link]
        if now > level * (1 + SAME):  # stale: others on it have stopped at less since
            heapq.heappush(heap, (now, link))
            continue
        slot = head[link]
        while slot >= 0:
            flow = owner[slot]
            slot = after[slot]
            if frozen[flow]:
                continue
            frozen[flow] = True
            rate[flow] = level
            open_flows -= 1
            for i in range(start[flow], start[flow + 1]):
                other = links[i]
                left[other] = max(left[other] - weights[i] * level, 0.0)
                total[other] -= weights[i]


@compiled
def listed(links: Any, count: int) -> Any:
    """The places in ``links`` where each link stands, as lists: (head of each link, next place)."""
    head, after = np.full(count, -1, np.int64), np.empty(len(links), np.int64)
    for place in range(len(links) - 1, -1, -1):
        after[place] = head[links[place]]
        head[links[place]] = place
    return head, after


@compiled
def touched(
    dirty: Any, start: Any, links: Any, head: Any, after: Any, owner: Any,
    link_seen: Any, flow_seen: Any, stamp: int,
) -> Any:  # fmt: skip
    """The flows and links that share, directly or through others, with the ``dirty`` links."""
    members = [np.int64(0) for _ in range(0)]
    flows = [np.int64(0) for _ in range(0)]
    for link in dirty:
        if link_seen[link] != stamp:
            link_seen[link] = stamp
            members.append(link)
    at = 0
    while at < len(members):
        slot = head[members[at]]
        at += 1
        while slot >= 0:
            flow = owner[slot]
            slot = after[slot]
            if flow_seen[flow] == stamp:
                continue
            flow_seen[flow] = stamp
            flows.append(flow)
            for i in range(start[flow], start[flow + 1]):
                if link_seen[links[i]] != stamp:
                    link_seen[links[i]] = stamp
                    members.append(links[i])
    return flows, members


@compiled
def enter(first: int, last: int, links: Any, head: Any, after: Any, prior: Any, dirty: Any) -> None:
    """Put the places ``first`` .. ``last`` on the lists of their links, which become ``dirty``."""
    for i in range(first, last):
        link = links[i]
        after[i], prior[i] = head[link], -1
        if head[link] >= 0:
            prior[head[link]] = i
        head[link] = i
        dirty.append(link)


@compiled
def leave(first: int, last: int, links: Any, head: Any, after: Any, prior: Any, dirty: Any) -> None:
    """Take the places ``first`` .. ``last`` off the lists of their links."""
    for i in range(first, last):
        link = links[i]
        if prior[i] >= 0:
            after[prior[i]] = after[i]
        else:
            head[link] = after[i]
        if after[i] >= 0:
            prior[after[i]] = prior[i]
        dirty.append(link)


@compiled
def flow_times(
    start: Any, links: Any, weights: Any, capacity: Any, size: Any, latency: Any,
    data_start: Any, data_next: Any, data_missing: Any, turn_next: Any, turn_missing: Any,
) -> Any:  # fmt: skip
    """[messages] time each message has arrived (inf: never; messages of infinite size never do).

    A message waits for data (then its latency) and for its turn on its connection, flows at its
    max-min fair rate, arrives. Rates change only among flows that share links with what changed.
    """
    messages = len(size)
    done = np.full(messages, np.inf)
    ready, turn = latency.copy(), np.zeros(messages)
    due = np.full(messages, -1.0)
    remaining, rate, since = size.copy(), np.zeros(messages), np.zeros(messages)
    owner = np.empty(len(links), np.int64)
    after, prior = np.full(len(links), -1, np.int64), np.full(len(links), -1, np.int64)
    head = np.full(len(capacity), -1, np.int64)
    for m in range(messages):
        owner[start[m] : start[m + 1]] = m
    frozen = np.zeros(messages, np.bool_)
    left, total = np.empty(len(capacity)), np.empty(len(capacity))
    link_seen, flow_seen = np.full(len(capacity), -1, np.int64), np.full(messages, -1, np.int64)
    heap = [(ready[m], m) for m in range(messages) if data_missing[m] + turn_missing[m] == 0]
    heapq.heapify(heap)
    stamp = 0
    while heap:
        now = heap[0][0]
        until = now * (1 + SAME)
        dirty = [np.int64(0) for _ in range(0)]
        while heap and heap[0][0] <= until:
            when, m = heapq.heappop(heap)
            if done[m] < np.inf:
                continue
            if due[m] < 0 and size[m] > 0 and start[m + 1] > start[m]:
                due[m] = np.inf  # it starts to flow
                since[m] = now
                enter(start[m], start[m + 1], links, head, after, prior, dirty)
                continue
            if due[m] >= 0 and when != due[m]:
                continue  # its rate has changed since
            done[m] = now
            if due[m] >= 0:
                leave(start[m], start[m + 1], links, head, after, prior, dirty)
            for i in range(data_start[m], data_start[m + 1]):
                to = data_next[i]
                data_missing[to] -= 1
                ready[to] = max(ready[to], now + latency[to])
                if data_missing[to] + turn_missing[to] == 0:
                    heapq.heappush(heap, (max(ready[to], turn[to]), to))
            to = turn_next[m]
            if to >= 0:
                turn_missing[to] -= 1
                turn[to] = now
                if data_missing[to] + turn_missing[to] == 0:
                    heapq.heappush(heap, (max(ready[to], turn[to]), to))
        if not dirty:
            continue
        stamp += 1
        flows, members = touched(dirty, start, links, head, after, owner, link_seen, flow_seen,
                                 stamp)  # fmt: skip
        for flow in flows:
            remaining[flow] = max(remaining[flow] - rate[flow] * (now - since[flow]), 0.0)
            since[flow] = now
        before = np.empty(len(flows))
        for i in range(len(flows)):
            before[i] = rate[flows[i]]
        fill(flows, members, start, links, weights, capacity, head, after, owner, rate, frozen,
             left, total)  # fmt: skip
        for i in range(len(flows)):
            flow = flows[i]
            if due[flow] < np.inf and abs(rate[flow] - before[i]) <= SAME * before[i]:
                continue
            if size[flow] < np.inf:
                due[flow] = now + remaining[flow] / rate[flow]
                heapq.heappush(heap, (due[flow], flow))
    return done
