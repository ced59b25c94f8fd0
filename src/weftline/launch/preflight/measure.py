"""What is measured, in an order and to a budget that every rank knows.

A pair: round trips of 8 bytes (latency, and the clocks' offset as NTP has it: the round trip with
the least time bounds the error by half of it), then one-way bulk each way, acknowledged. The first
bulk is small, and tells how much the second may be within ``BULK_S``. Everything is measured once;
what looks slow is sampled again, beside some that do not (``noise`` says what follows from it).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from weftline.launch.preflight.rounds import disjoint, rounds_of, turns_of
from weftline.launch.preflight.transport import Transport

PINGS: Final = 12
PROBE_BYTES: Final = 256 << 10
BULK_S: Final = 0.15
BULK_BYTES: Final = {"cpu": 4 << 20, "cuda": 256 << 20}
REPEATS: Final = 3
PASSES: Final = 9
"""How often what looks slow is sampled again at most. Two members, one of them slow, want 7."""
PAUSE_S: Final = 0.2
ROUNDS_AGAIN: Final = 4
CONFIRM_UNTIL_S: Final = 35.0
"""No pass begins later: 1,000 chips are done within a minute (tests/unit/launch, simulated)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Again:
    """What rank 0 wants sampled again: pairs, ranks that compute, ranks that write."""

    pairs: tuple[tuple[int, int], ...] = ()
    ranks: tuple[int, ...] = ()
    disks: tuple[int, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.pairs or self.ranks or self.disks)


Suspects = Callable[[list[dict[str, Any]]], Again]
"""Reports so far -> what is to be sampled again."""


@dataclass(slots=True, kw_only=True)
class Link:
    """One pair as its lower rank saw it: samples of its rates in bytes/s, times in seconds."""

    low: int
    high: int
    round_trip_s: float | None = None
    there: list[float] = field(default_factory=list)
    """Rate from the lower rank to the higher."""
    back: list[float] = field(default_factory=list)
    probe: list[float] = field(default_factory=list)
    """Rate of the small bulk there."""
    offset_s: float | None = None
    """Clock of the higher rank minus that of the lower."""
    lost: str = ""
    """What did not arrive: ``small`` or ``bulk``."""


@dataclass(slots=True, kw_only=True)
class Report:
    """What one rank found out; lists are samples, the first of the time when all were measured."""

    rank: int
    facts: dict[str, Any]
    device: str = "cpu"
    links: list[Link] = field(default_factory=list)
    work_per_s: list[float] = field(default_factory=list)
    disk_bytes_per_s: list[float] = field(default_factory=list)
    disk_error: str = ""
    store_error: str = ""
    store_s: float | None = None
    groups: dict[str, float] = field(default_factory=dict)
    """Axis -> seconds of an all-reduce in this rank's group."""
    took_s: dict[str, float] = field(default_factory=dict)


def measure(
    world: Transport, *, folder: str, store: str, groups: Mapping[str, list[list[int]]],
    group_bytes: int, suspects: Suspects,
) -> list[dict[str, Any]] | None:  # fmt: skip
    """Measure everything; the reports of all ranks on rank 0, None elsewhere."""
    report = Report(rank=world.rank, facts=world.facts(), device=world.device)
    began = began_all = world.now()

    def took(name: str) -> None:
        nonlocal began
        report.took_s[name], began = world.now() - began, world.now()

    world.tell("host", report.facts["host"])
    if world.rank == 0:  # one reader, one list: not every rank asks for every other
        world.tell("hosts", [str(world.hear("host", rank)) for rank in range(world.size)])
    hosts = list(world.hear("hosts", 0))
    for number, pairs in enumerate(rounds_of(world.size)):
        _round(world, f"round{number}", pairs, report.links, REPEATS)
    took("links")
    turns = turns_of(hosts)
    _work(world, "work", turns, report)
    took("work")
    if world.rank in turns[0]:  # one of each host: disks and stores are the host's
        _disk(world, report, folder)
        if store:
            try:
                report.store_s = world.store_s(store)
            except OSError as error:
                report.store_error = str(error)
    took("storage")
    confirm(world, report, suspects, hosts, folder, began_all)
    took("again")
    world.count("lost", int(any(link.lost for link in report.links)))
    world.meet("lost")
    if not world.count("lost", 0):
        for axis, members in groups.items():
            world.meet(f"group.{axis}")
            seconds = world.reduced_s(members, group_bytes, REPEATS)
            if seconds is not None:
                report.groups[axis] = seconds
    took("groups")
    world.tell("report", asdict(report))
    if world.rank:
        return None
    return [world.hear("report", rank) for rank in range(world.size)]


def _round(
    world: Transport, name: str, pairs: Sequence[tuple[int, int]], links: list[Link], repeats: int
) -> None:
    """Measure disjoint pairs at once; where one was lost, all connections are made anew."""
    world.meet(name)
    for low, high in pairs:
        if world.rank == low:
            links.append(lead_pair(world, low, high, name, repeats))
            if links[-1].lost:
                world.count(f"lost.{name}", 1)
        elif world.rank == high:
            follow_pair(world, low, name, repeats)
    world.meet(f"{name}.end")
    if world.count(f"lost.{name}", 0):
        world.renew()


def _work(world: Transport, name: str, turns: Sequence[Sequence[int]], report: Report) -> None:
    for number, ranks in enumerate(turns):
        world.meet(f"{name}{number}")
        if world.rank in ranks:
            report.work_per_s.append(world.work_per_s())


def _disk(world: Transport, report: Report, folder: str) -> None:
    try:
        report.disk_bytes_per_s.append(world.disk_bytes_per_s(folder))
    except OSError as error:
        report.disk_error = f"{folder or 'the folder for temporary files'}: {error.strerror}"


def confirm(
    world: Transport, report: Report, suspects: Suspects, hosts: list[str], folder: str,
    began: float,
) -> None:  # fmt: skip
    """Sample again what looks slow, beside some that do not, until it is settled or time is up.
    Rank 0 chooses; all hear its choice."""
    for number in range(PASSES):
        name = f"again{number}"
        world.tell(f"so-far{number}", asdict(report))
        if world.rank == 0:
            again = suspects([world.hear(f"so-far{number}", rank) for rank in range(world.size)])
            if world.now() - began > CONFIRM_UNTIL_S:
                again = Again()
            turns = turns_of([hosts[rank] for rank in again.ranks])
            world.tell(name, {
                "rounds": disjoint(list(again.pairs))[:ROUNDS_AGAIN], "disks": again.disks,
                "turns": [[again.ranks[n] for n in turn] for turn in turns],
            })  # fmt: skip
        chosen = world.hear(name, 0)
        if not any(chosen.values()):
            return
        world.pause(PAUSE_S)
        for n, some in enumerate(chosen["rounds"]):
            links: list[Link] = []
            _round(world, f"{name}.{n}", some, links, 1)
            for link in links:
                _add(report, link)
        _work(world, f"{name}.work", chosen["turns"], report)
        for rank in chosen["disks"]:  # each alone: hosts may share one
            world.meet(f"{name}.disk{rank}")
            if rank == world.rank:
                _disk(world, report, folder)


def _add(report: Report, link: Link) -> None:
    for old in report.links:
        if (old.low, old.high) == (link.low, link.high) and not link.lost:
            for name in ("there", "back", "probe"):
                getattr(old, name).extend(getattr(link, name))


def lead_pair(world: Transport, low: int, high: int, name: str, repeats: int) -> Link:
    """The lower rank's part: it keeps the times."""
    link = Link(low=low, high=high)
    name = f"{name}.{low}.{high}"
    try:
        offsets = []
        for _ in range(PINGS):
            sent, tick = world.clock(), world.now()
            world.send(high, 8)
            world.receive(high, 8)
            trip = world.now() - tick
            offsets.append((trip, sent + trip / 2))
        trips = [trip for trip, _ in offsets]
        trip = link.round_trip_s = min(trips)
        stamps = world.hear(name, high)
        link.offset_s = stamps[trips.index(trip)] - offsets[trips.index(trip)][1]
    except TimeoutError:
        link.lost = "small"
        return link
    try:
        probe = _one_way(world, high, (PROBE_BYTES, 8), trip, 1)
        most = BULK_BYTES[world.device.split(":")[0]]
        size = int(min(most, max(PROBE_BYTES, probe * BULK_S)))
        world.tell(f"{name}.size", size)
        there = _one_way(world, high, (size, 8), trip, repeats)
        back = _one_way(world, high, (8, size), trip, repeats)
        link.probe, link.there, link.back = [probe], [there], [back]
    except TimeoutError:
        link.lost = "bulk"
        world.tell(f"{name}.size", 0)
    return link


def follow_pair(world: Transport, low: int, name: str, repeats: int) -> None:
    """The higher rank's part: it answers."""
    stamps = []
    name = f"{name}.{low}.{world.rank}"
    try:
        for _ in range(PINGS):
            world.receive(low, 8)
            stamps.append(world.clock())
            world.send(low, 8)
    except TimeoutError:
        return
    finally:
        world.tell(name, stamps)
    try:
        with contextlib.suppress(TimeoutError):  # the lower rank then says a size of 0
            world.receive(low, PROBE_BYTES)
            world.send(low, 8)
        size = int(world.hear(f"{name}.size", low))
        for _ in range(repeats if size else 0):
            world.receive(low, size)
            world.send(low, 8)
        for _ in range(repeats if size else 0):
            world.receive(low, 8)
            world.send(low, size)
    except TimeoutError:
        return


def _one_way(
    world: Transport, peer: int, sizes: tuple[int, int], trip_s: float, repeats: int
) -> float:
    """Rate of the larger of (what is sent, what comes back), the round trip taken off; the best."""
    best = 0.0
    for _ in range(repeats):
        tick = world.now()
        world.send(peer, sizes[0])
        world.receive(peer, sizes[1])
        best = max(best, max(sizes) / max(world.now() - tick - trip_s, 1e-9))
    return best
