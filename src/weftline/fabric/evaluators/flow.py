"""Max-min fair flow on the real graph: any schedule, any network, other tenants included.

Every message is a fluid that takes its fair share of each link of its route (progressive filling,
Bertsekas and Gallager 1992, section 6.5.2), from the moment its data, its turn and its latency
allow. A change recomputes only the flows that share links with it, so a large network whose
messages rarely meet costs one look at each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from weftline.errors import InputError
from weftline.fabric.evaluators.messages import Messages, messages_of
from weftline.fabric.evaluators.timing import Timing, timing_of
from weftline.fabric.graph import FloatArray, IntArray, Topology
from weftline.fabric.routing import Routes, routes
from weftline.fabric.schedule import Schedule


@dataclass(frozen=True, slots=True, kw_only=True)
class Background:
    """Traffic of another tenant: one flow that never ends, between two chips."""

    source: int
    destination: int
    limit_bytes_per_s: float = float("inf")
    """The most it would take; it takes its fair share where that is less."""


def flow_time(
    topology: Topology, schedule: Schedule, size_bytes: float,
    background: Sequence[Background] = (),
) -> Timing:  # fmt: skip
    """Time of a flat schedule by max-min fair flow. Raises InputError for rows without a route."""
    messages = messages_of(topology, schedule)
    done = arrival_times(topology, messages, size_bytes, background)
    time_s = float(done.max()) if len(done) else 0.0
    load = messages.routes.loads(topology.links, messages.fraction * size_bytes)
    return timing_of(topology, "flow", time_s, load, schedule.steps)


def arrival_times(
    topology: Topology, messages: Messages, size_bytes: float,
    background: Sequence[Background] = (),
) -> FloatArray:  # fmt: skip
    """[messages] seconds at which each has arrived."""
    from weftline.fabric.kernels import evaluate as kernels

    count, waiting = len(messages.fraction), messages.waiting
    start, links, weights, capacity = shared_links(topology, messages.routes, messages.source)
    extra = [np.zeros(len(background)) if i else np.full(len(background), np.inf) for i in range(2)]
    if background:
        more = _background_links(topology, background)
        limits = len(capacity) + np.arange(len(background))
        own = [np.append(more.links[a:b], k) for a, b, k in
               zip(more.start[:-1], more.start[1:], limits, strict=True)]  # fmt: skip
        part = [np.append(more.weights[a:b], 1.0) for a, b in
                zip(more.start[:-1], more.start[1:], strict=True)]  # fmt: skip
        start = np.concatenate([start, start[-1] + np.cumsum([len(o) for o in own])])
        links, weights = np.concatenate([links, *own]), np.concatenate([weights, *part])
        capacity = np.concatenate([capacity, [b.limit_bytes_per_s for b in background]])
    pad = np.zeros(len(background), dtype=np.int64)
    done = kernels.flow_times(
        start, links, weights, capacity,
        np.concatenate([messages.fraction * size_bytes, extra[0]]),
        np.concatenate([messages.routes.latency_s, extra[1]]),
        np.concatenate([waiting.data_start, waiting.data_start[-1] + pad]), waiting.data_next,
        np.concatenate([waiting.data_missing, pad]), np.concatenate([waiting.turn_next, pad - 1]),
        np.concatenate([waiting.turn_missing, pad]),
    )[:count]  # fmt: skip
    if not np.isfinite(done).all():
        bad = int(np.argmax(~np.isfinite(done)))
        raise InputError(
            f"message {int(messages.source[bad])} -> {int(messages.destination[bad])} of step "
            f"{int(messages.step[bad])} never arrives: other tenants leave it no bandwidth"
        )
    return np.asarray(done, dtype=np.float64)


def shared_links(
    topology: Topology, taken: Routes, source: IntArray
) -> tuple[IntArray, IntArray, FloatArray, FloatArray]:
    """What messages share, as (start, links, weights, capacity): the links and, where chips cannot
    feed all their links at once, what leaves each chip, as one more link a chip."""
    limit = topology.injection_bytes_per_s
    bandwidth = np.asarray(topology.bandwidth_bytes_per_s, dtype=np.float64)
    if limit is None:
        return taken.start, taken.links, taken.weights, bandwidth
    # A message that crosses links also crosses the limit of its chip; switches have none.
    own = (np.diff(taken.start) > 0) & (source < topology.ranks)
    at = taken.start[:-1][own]
    start = taken.start + np.concatenate([[0], np.cumsum(own)])
    links = np.insert(taken.links, at, topology.links + source[own])
    weights = np.insert(taken.weights, at, 1.0)
    return start, links, weights, np.concatenate([bandwidth, np.asarray(limit, np.float64)])


def fair_rates(topology: Topology, source: IntArray, destination: IntArray) -> FloatArray:
    """[flows] bytes a second of flows that all last, between pairs of chips, shared max-min fair.

    inf for a flow from a chip to itself. Raises InputError for a pair without a route.
    """
    from weftline.fabric.kernels import evaluate as kernels

    source = np.asarray(source, dtype=np.int64)
    taken = routes(topology, source, np.asarray(destination, dtype=np.int64))
    start, links, weights, capacity = shared_links(topology, taken, source)
    flows = np.flatnonzero(np.diff(start) > 0)
    head, after = kernels.listed(links, len(capacity))
    rate = np.full(len(source), np.inf)
    kernels.fill(
        flows, np.flatnonzero(head >= 0), start, links, weights, capacity, head, after,
        np.repeat(np.arange(len(source)), np.diff(start)), rate,
        np.zeros(len(source), dtype=np.bool_), np.empty(len(capacity)), np.empty(len(capacity)),
    )  # fmt: skip
    return rate


def _background_links(topology: Topology, background: Sequence[Background]) -> Routes:
    for tenant in background:
        for chip in (tenant.source, tenant.destination):
            if not 0 <= chip < topology.ranks:
                raise InputError(
                    f"background traffic names chip {chip}; `{topology.name}` has chips "
                    f"0..{topology.ranks - 1}"
                )
        if not tenant.limit_bytes_per_s > 0:
            raise InputError(f"background traffic of {tenant.limit_bytes_per_s:g} bytes/s")
    return routes(
        topology,
        np.array([b.source for b in background], dtype=np.int64),
        np.array([b.destination for b in background], dtype=np.int64),
    )
