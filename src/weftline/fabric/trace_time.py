"""The time of Chakra traces of others: their sends and receives on a network, compute left out.

A trace says who sends how much to whom and what must be done before; not which chunks, so nothing
can be proved of it. A message starts when what its send and its receive depend on has arrived, and
shares links fairly with the others (``evaluators.flow``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from weftline.errors import InputError
from weftline.fabric.evaluators.flow import arrival_times
from weftline.fabric.evaluators.messages import Messages, Waiting, compress
from weftline.fabric.formats.programs.chakra import COLLECTIVE, NODE_TYPES, RECEIVE, SEND, Trace
from weftline.fabric.graph import IntArray, Topology
from weftline.fabric.routing import routes


def trace_time(traces: Sequence[Trace], topology: Topology, where: str) -> dict[str, Any]:
    """Seconds, messages and bytes of traces, one a rank. Raises InputError for what has no time."""
    if len(traces) != topology.ranks:
        raise InputError(
            f"{len(traces)} traces on `{topology.name}` with {topology.ranks} chips", where=where,
            hint="give all files NAME.0.et, NAME.1.et, ... and a network of as many chips",
        )  # fmt: skip
    ends, sizes, of_node = _messages(traces, where)
    if not len(sizes):
        raise InputError("the traces hold no message", where=where)
    waits = [w for rank, trace in enumerate(traces) for w in _waits(trace, rank, of_node, where)]
    pairs = sorted({(first, own) for own, held in waits for first in held})
    before, after = (np.asarray([p[i] for p in pairs], dtype=np.int64) for i in range(2))
    count = len(sizes)
    start, following, missing = compress(before, after, count)
    none = np.full(count, -1, dtype=np.int64)
    zero = np.zeros(count, dtype=np.int64)
    taken = routes(topology, ends[:, 0], ends[:, 1])
    messages = Messages(sizes, zero, zero, ends[:, 0], ends[:, 1], taken,
                        Waiting(start, following, missing, none, zero),
                        np.arange(count, dtype=np.int64))  # fmt: skip
    done = arrival_times(topology, messages, 1.0)
    compute = sum(1 for t in traces for n in t.nodes if n.type not in (SEND, RECEIVE))
    return {
        "messages": count, "bytes": float(sizes.sum()), "time_s": float(done.max()),
        "other_nodes": compute, "network": topology.name,
    }  # fmt: skip


def _messages(
    traces: Sequence[Trace], where: str
) -> tuple[IntArray, np.ndarray[Any, np.dtype[np.float64]], dict[tuple[int, int], int]]:
    """[messages] ends and bytes, and the message of each (rank, node): pairs by peers and tag."""
    sends: dict[tuple[int, int, int], list[int]] = {}
    ends: list[tuple[int, int]] = []
    sizes: list[float] = []
    of_node: dict[tuple[int, int], int] = {}
    for kind in (SEND, RECEIVE):
        for rank, trace in enumerate(traces):
            for node in trace.nodes:
                at = f"{where}: rank {rank}, node {node.id}"
                if node.type == COLLECTIVE:
                    raise InputError(
                        f"`{node.name}` is a whole collective ({NODE_TYPES[node.type]})", where=at,
                        hint="`weftline simulate collective` times one",
                    )  # fmt: skip
                if node.type != kind:
                    continue
                peer = node.attributes.get("comm_dst" if kind == SEND else "comm_src")
                size, tag = node.attributes.get("comm_size", 0), node.attributes.get("comm_tag", 0)
                if not isinstance(peer, int) or not 0 <= peer < len(traces) or peer == rank:
                    raise InputError(f"a message to or from rank {peer!r}", where=at)
                key = (rank, peer, int(tag)) if kind == SEND else (peer, rank, int(tag))  # type: ignore[arg-type]
                if kind == SEND:
                    of_node[rank, node.id] = len(ends)
                    sends.setdefault(key, []).append(len(ends))
                    ends.append((rank, peer))
                    sizes.append(float(size))  # type: ignore[arg-type]
                elif sends.get(key):
                    of_node[rank, node.id] = sends[key].pop(0)
                else:
                    raise InputError(f"rank {peer} never sends what is received here", where=at)
    lost = next((k for k, held in sends.items() if held), None)
    if lost is not None:
        raise InputError(f"rank {lost[0]} sends what rank {lost[1]} never receives", where=where)
    return np.asarray(ends, dtype=np.int64).reshape(-1, 2), np.asarray(sizes), of_node


def _waits(
    trace: Trace, rank: int, of_node: dict[tuple[int, int], int], where: str
) -> list[tuple[int, set[int]]]:
    """(message, messages before it) of one rank's sends and receives, through what lies between."""
    nodes = {n.id: n for n in trace.nodes}
    reached: dict[int, set[int]] = {}
    found: list[tuple[int, set[int]]] = []
    open_: set[int] = set()
    for first in nodes:
        stack = [first]
        while stack:
            number = stack[-1]
            node = nodes[number]
            deps = [d for d in (*node.data, *node.control) if d in nodes]
            todo = [d for d in deps if d not in reached and (rank, d) not in of_node]
            if number in reached:
                stack.pop()
                continue
            if todo and number in open_:
                raise InputError("dependences run in a circle",
                                 where=f"{where}: rank {rank}, node {number}")  # fmt: skip
            if todo:
                open_.add(number)
                stack += todo
                continue
            before: set[int] = set()
            for d in deps:
                before |= {of_node[rank, d]} if (rank, d) in of_node else reached[d]
            reached[number] = before
            stack.pop()
            if (rank, number) in of_node:
                own = of_node[rank, number]
                found.append((own, before - {own}))
    return found
