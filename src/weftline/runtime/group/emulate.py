"""A network imposed on a group: every message takes its turn on every link of its route.

A link is a clock in shared memory that says until when it is taken. A packet of a message asks all
links of its route, takes each for its bytes at the link's rate, and arrives after the last has let
it go and the route's latency has passed; its reader waits for that moment. Messages that share a
link take turns packet by packet, so each gets its part. A late process may use at most the bucket's
depth of what a link did not carry. Routes are those of the simulation (``fabric.routing``).
"""

from __future__ import annotations

import ctypes
from typing import Any, Final

import numpy as np

from weftline.errors import InputError
from weftline.fabric import Schedule, Topology
from weftline.fabric.graph import FloatArray, IntArray
from weftline.fabric.routing import routes, schedule_routes
from weftline.runtime.group.arena import CLOCKS
from weftline.runtime.group.program import Linked

__all__ = ["Links"]

_CREDIT_NS: Final = 1_000_000
_TIMER_SLACK: Final = 29
"""prctl's PR_SET_TIMERSLACK."""


class Links:
    """The links of one network as all ranks of a run share them."""

    def __init__(self, topology: Topology, clocks: int) -> None:
        self.topology, self.clocks = topology, clocks
        self.credit_ns = _CREDIT_NS
        speeds = topology.bandwidth_bytes_per_s
        limit = topology.injection_bytes_per_s
        if limit is not None:  # what a chip sends in all is one more link
            speeds = np.concatenate([speeds, limit])
        if len(speeds) > CLOCKS:
            raise InputError(
                f"`{topology.name}` has {len(speeds)} links, {CLOCKS} can be emulated",
                hint="a smaller network",
            )
        self.ns_per_byte: FloatArray = 1e9 / speeds
        # Naps end when they should: 1 us late instead of the 50 that Linux allows itself.
        ctypes.CDLL(None).prctl(_TIMER_SLACK, 1000, 0, 0, 0)

    def tables(self, linked: Linked) -> tuple[Any, ...]:
        """What the interpreter needs of the routes of a program."""
        return linked.start, linked.links, linked.parts, self.ns_per_byte, linked.delay_ns

    def of(self, schedule: Schedule, members: IntArray) -> Linked:
        """The routes of a schedule whose rank i is chip ``members[i]``."""
        t = self.topology
        if len(members) == t.ranks and np.array_equal(members, np.arange(t.ranks)):
            found = schedule_routes(t, schedule)
        else:
            found = routes(t, members[schedule.source], members[schedule.destination])
        return self._linked(found.start, found.links, found.weights, found.latency_s,
                            members[schedule.source])  # fmt: skip

    def pairs(self, members: IntArray, rank: int) -> Linked:
        """The routes of messages to rank ``rank`` of a group from each of its ranks."""
        others = np.flatnonzero(np.arange(len(members)) != rank)
        to = np.full(len(others), members[rank])
        found = routes(self.topology, members[others], to)
        counts = np.zeros(len(members), np.int64)
        counts[others] = np.diff(found.start)
        delay = np.zeros(len(members))
        delay[others] = found.latency_s
        return self._linked(np.concatenate([[0], np.cumsum(counts)]), found.links, found.weights,
                            delay, members)  # fmt: skip

    def _linked(
        self, start: IntArray, links: IntArray, parts: FloatArray, latency_s: FloatArray,
        source: IntArray,
    ) -> Linked:  # fmt: skip
        if self.topology.injection_bytes_per_s is not None:
            ends = start[1:]
            links = np.insert(links, ends, self.topology.links + source)
            parts = np.insert(parts, ends, 1.0)
            start = start + np.arange(len(start))
        return Linked(
            start=np.ascontiguousarray(start, np.int64),
            links=np.ascontiguousarray(links, np.int64),
            parts=np.ascontiguousarray(parts, np.float64),
            delay_ns=np.ascontiguousarray(latency_s * 1e9, np.float64).astype(np.int64),
        )  # fmt: skip
