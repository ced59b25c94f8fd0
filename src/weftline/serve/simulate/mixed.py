"""A fleet of several kinds of replicas behind one router, simulated part by part.

The router deals requests out by fixed shares, as gateways with weights do: each part gets what it
works off of all, request by request, a session always to the same part. Within a part the replicas
are chosen as in a fleet of one kind. A router that looked at queues across kinds would do no worse.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import numpy as np

from weftline.serve.engine.config import ServingConfig
from weftline.serve.simulate.fleet import Outcome, Timeline, simulate
from weftline.spec import Routing, Traffic

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Ints = NDArray[np.int64]

__all__ = ["Part", "dealt", "part_of", "shares_of", "simulate_parts"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Replicas of one kind."""

    config: ServingConfig
    replicas: int
    each_per_s: float = 1.0
    """Requests a second that one of them works off for ever."""

    @property
    def capacity_per_s(self) -> float:
        """The same of all of them."""
        return self.replicas * self.each_per_s

    @property
    def workers(self) -> int:
        """Replicas, or workers that decode."""
        return self.replicas * self.config.decode_workers


def shares_of(parts: Sequence[Part]) -> list[float]:
    """What each part takes of the requests: what it works off of all."""
    whole = sum(p.capacity_per_s for p in parts)
    return [p.capacity_per_s / whole for p in parts]


def simulate_parts(parts: Sequence[Part], traffic: Traffic, *, routing: Routing) -> Outcome:
    """What happens to each request of ``traffic``; the timeline is that of all parts together.

    Raises InputError(s), and NoFeasiblePlanError where a part's weights do not fit.
    """
    if len(parts) == 1:
        return simulate(parts[0].config, traffic, replicas=parts[0].replicas, routing=routing)
    owner = dealt(traffic, shares_of(parts))
    done, places = [], []
    for k, part in enumerate(parts):
        place = np.flatnonzero(owner == k)
        if place.size:
            done.append((part, simulate(part.config, part_of(traffic, place),
                                        replicas=part.replicas, routing=routing)))  # fmt: skip
            places.append(place)
    return _joined(traffic.requests, done, places)


def dealt(traffic: Traffic, shares: Sequence[float]) -> Ints:
    """The part that takes each request, so that after every request each part has had its share to
    within one; those that follow another go where it went."""
    n = traffic.requests
    starts = np.ones(n, dtype=bool) if traffic.follows is None else traffic.follows < 0
    count = int(starts.sum())
    owed = np.outer(np.arange(1, count + 1), np.asarray(shares))
    given = np.zeros(len(shares))
    first = np.empty(count, dtype=np.int64)
    for i in range(count):
        k = int(np.argmax(owed[i] - given))
        first[i] = k
        given[k] += 1.0
    owner = np.full(n, -1, dtype=np.int64)
    owner[starts] = first
    if traffic.follows is not None:
        for later in np.flatnonzero(~starts):
            owner[later] = owner[traffic.follows[later]]
    return owner


def part_of(traffic: Traffic, place: Ints) -> Traffic:
    """The requests in ``place`` alone, at their own times."""
    starts = ids = follows = None
    if traffic.hash_starts is not None and traffic.hash_ids is not None:
        own = [traffic.hash_ids[traffic.hash_starts[i] : traffic.hash_starts[i + 1]] for i in place]
        starts = np.concatenate([[0], np.cumsum([len(ids) for ids in own])]).astype(np.int64)
        ids = np.concatenate(own).astype(np.int64) if own else np.zeros(0, np.int64)
    if traffic.follows is not None:
        now = np.full(traffic.requests, -1, dtype=np.int64)
        now[place] = np.arange(place.size)
        before = traffic.follows[place]
        follows = np.where(before >= 0, now[before], -1)
    return replace(
        traffic, arrived_s=traffic.arrived_s[place], prefill_tokens=traffic.prefill_tokens[place],
        decode_tokens=traffic.decode_tokens[place], hash_starts=starts, hash_ids=ids,
        follows=follows, wait_s=None if traffic.wait_s is None else traffic.wait_s[place],
    )  # fmt: skip


def _joined(requests: int, done: Sequence[tuple[Part, Outcome]], places: Sequence[Ints]) -> Outcome:
    """Outcomes of parts as one, requests in their own order."""
    found: dict[str, NDArray[np.generic]] = {}
    for f in fields(Outcome):
        if f.name == "timeline":
            continue
        first = getattr(done[0][1], f.name)
        found[f.name] = np.zeros(requests, first.dtype)
        before = 0
        for (part, outcome), place in zip(done, places, strict=True):
            own = getattr(outcome, f.name)
            if f.name == "replica":  # numbered through
                own = np.where(own >= 0, own + before, own)
                before += part.workers
            found[f.name][place] = own
    return Outcome(**found, timeline=_line(done))  # type: ignore[arg-type]


def _line(done: Sequence[tuple[Part, Outcome]]) -> Timeline:
    """Timelines in bins of one width: sums over all parts, the cache's share by replicas."""
    ends = [o.timeline.width_s * o.timeline.busy.size for _, o in done]
    width_s = max(o.timeline.width_s for _, o in done)
    edges = np.arange(int(np.ceil(max(ends) / width_s - 1e-9)) + 1) * width_s

    def rebinned(outcome: Outcome, name: str) -> NDArray[np.float64]:
        line = outcome.timeline
        values = getattr(line, name)
        sums = np.concatenate([[0.0], np.cumsum(values) * line.width_s])
        at = np.arange(values.size + 1) * line.width_s
        return np.asarray(np.diff(np.interp(edges, at, sums)) / width_s)

    workers = sum(part.workers for part, _ in done)
    return Timeline(
        width_s=width_s,
        busy=sum((rebinned(o, "busy") for _, o in done), start=np.zeros(edges.size - 1)),
        running=sum((rebinned(o, "running") for _, o in done), start=np.zeros(edges.size - 1)),
        waiting=sum((rebinned(o, "waiting") for _, o in done), start=np.zeros(edges.size - 1)),
        kv_share=sum((rebinned(o, "kv_share") * p.workers / workers for p, o in done),
                     start=np.zeros(edges.size - 1)),
    )  # fmt: skip
