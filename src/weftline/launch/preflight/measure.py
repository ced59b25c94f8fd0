"""What is measured, in an order and to a budget that every rank knows.

A pair: round trips of 8 bytes (latency, and the clocks' offset as NTP has it: the round trip with
the least time bounds the error by half of it), then one-way bulk each way, acknowledged. The first
bulk is small, and tells how much the second may be within ``BULK_S``. Every time is the best of its
repeats: what disturbs a measurement only ever makes it longer.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from weftline.launch.preflight.discover import discover
from weftline.launch.preflight.rounds import disjoint, rounds_of, turns_of
from weftline.launch.preflight.transport import Transport

PINGS: Final = 12
PROBE_BYTES: Final = 256 << 10
BULK_S: Final = 0.15
BULK_BYTES: Final = {"cpu": 4 << 20, "cuda": 256 << 20}
REPEATS: Final = 3
WORK_S: Final = 0.1
WORK_WINDOWS: Final = 4
PASSES: Final = 6
PAUSE_S: Final = 0.2
ROUNDS_AGAIN: Final = 4
CONFIRM_UNTIL_S: Final = 35.0
"""No pass begins later: 1,000 chips are done within a minute (tests/unit/launch, simulated)."""
"""How often what looks slow is measured again before it is said to be."""
Suspects = Callable[[list[dict[str, Any]]], tuple[list[tuple[int, int]], list[int]]]
"""Reports so far -> pairs and ranks to measure again."""
DISK_BYTES: Final = 8 << 20
STORE_TIMEOUT_S: Final = 5


@dataclass(slots=True, kw_only=True)
class Link:
    """One pair as its lower rank saw it; rates in bytes/s, times in seconds."""

    low: int
    high: int
    round_trip_s: float | None = None
    there: float | None = None
    """Rate from the lower rank to the higher."""
    back: float | None = None
    probe: float | None = None
    """Rate of the small bulk there."""
    offset_s: float | None = None
    """Clock of the higher rank minus that of the lower."""
    lost: str = ""
    """What did not arrive: ``small`` or ``bulk``."""


@dataclass(slots=True, kw_only=True)
class Report:
    """What one rank found out."""

    rank: int
    facts: dict[str, Any]
    device: str = "cpu"
    links: list[Link] = field(default_factory=list)
    work_per_s: float = 0.0
    disk_bytes_per_s: float | None = None
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
    report = Report(rank=world.rank, facts=discover(), device=world.device)
    began = began_all = time.monotonic()

    def took(name: str) -> None:
        nonlocal began
        report.took_s[name], began = time.monotonic() - began, time.monotonic()

    world.tell("host", report.facts["host"])
    if world.rank == 0:  # one reader, one list: not every rank asks for every other
        world.tell("hosts", [str(world.hear("host", rank)) for rank in range(world.size)])
    hosts = list(world.hear("hosts", 0))
    for number, pairs in enumerate(rounds_of(world.size)):
        _round(world, f"round{number}", pairs, report.links)
    took("links")
    turns = turns_of(hosts)
    for number, ranks in enumerate(turns):
        world.meet(f"work{number}")
        if world.rank in ranks:
            report.work_per_s = work_per_s(world.device)
    took("work")
    confirm(world, report, suspects, hosts, began_all)
    took("again")
    first = world.rank in turns[0]
    if first:  # one of each host: disks and stores are the host's
        _disk(report, folder)
        if store:
            _store(report, store)
    confirm_disks(world, report, folder)
    took("storage")
    world.count("lost", int(any(link.lost for link in report.links)))
    world.meet("lost")
    lost = world.count("lost", 0) > 0
    reduced = getattr(world, "reduced_s", None)
    if not lost and reduced is not None:
        for axis, members in groups.items():
            world.meet(f"group.{axis}")
            seconds = reduced(members, group_bytes, REPEATS)
            if seconds is not None:
                report.groups[axis] = seconds
    took("groups")
    world.tell("report", asdict(report))
    if world.rank:
        return None
    return [world.hear("report", rank) for rank in range(world.size)]


def _round(
    world: Transport, name: str, pairs: Sequence[tuple[int, int]], links: list[Link]
) -> None:
    """Measure disjoint pairs at once; where one was lost, all connections are made anew."""
    world.meet(name)
    for low, high in pairs:
        if world.rank == low:
            links.append(lead_pair(world, low, high, name))
            if links[-1].lost:
                world.count(f"lost.{name}", 1)
        elif world.rank == high:
            follow_pair(world, low, name)
    world.meet(f"{name}.end")
    if world.count(f"lost.{name}", 0):
        world.renew()


def confirm(
    world: Transport, report: Report, suspects: Suspects, hosts: list[str], began: float
) -> None:
    """Measure again what looks slow, and keep the best: what is broken stays so, what was held up
    by something else does not. Rank 0 chooses; all hear its choice."""
    for number in range(PASSES):
        world.tell(
            f"so-far{number}",
            {
                "facts": report.facts,
                "work_per_s": report.work_per_s,
                "links": [asdict(link) for link in report.links],
            },
        )
        if world.rank == 0:
            told = [world.hear(f"so-far{number}", rank) for rank in range(world.size)]
            pairs, ranks = suspects(told)
            if time.monotonic() - began > CONFIRM_UNTIL_S:
                pairs, ranks = [], []
            rounds = disjoint([tuple(pair) for pair in pairs])[:ROUNDS_AGAIN]
            turns = turns_of([hosts[rank] for rank in ranks])
            again = [[ranks[n] for n in turn] for turn in turns]
            world.tell(f"again{number}", {"rounds": rounds, "turns": again})
        chosen = world.hear(f"again{number}", 0)
        if not chosen["rounds"] and not chosen["turns"]:
            return
        time.sleep(PAUSE_S)
        for n, some in enumerate(chosen["rounds"]):
            links: list[Link] = []
            _round(world, f"again{number}.{n}", some, links)
            for link in links:
                _keep_best(report, link)
        for n, turn in enumerate(chosen["turns"]):
            world.meet(f"again{number}.work{n}")
            if world.rank in turn:
                report.work_per_s = max(report.work_per_s, work_per_s(world.device))


def _keep_best(report: Report, link: Link) -> None:
    for old in report.links:
        if (old.low, old.high) == (link.low, link.high) and not link.lost:
            old.there = max(old.there or 0.0, link.there or 0.0)
            old.back = max(old.back or 0.0, link.back or 0.0)
            old.probe = max(old.probe or 0.0, link.probe or 0.0)


def lead_pair(world: Transport, low: int, high: int, name: str) -> Link:
    """The lower rank's part: it keeps the times."""
    link = Link(low=low, high=high)
    name = f"{name}.{low}.{high}"
    try:
        offsets = []
        for _ in range(PINGS):
            sent = time.time()
            tick = time.perf_counter()
            world.send(high, 8)
            world.receive(high, 8)
            trip = time.perf_counter() - tick
            offsets.append((trip, sent + trip / 2))
        trips = [trip for trip, _ in offsets]
        link.round_trip_s = min(trips)
        stamps = world.hear(name, high)
        best = trips.index(min(trips))
        link.offset_s = stamps[best] - offsets[best][1]
    except TimeoutError:
        link.lost = "small"
        return link
    try:
        link.probe = _sent(world, high, PROBE_BYTES, link.round_trip_s, 1)
        most = BULK_BYTES[world.device.split(":")[0]]
        size = int(min(most, max(PROBE_BYTES, link.probe * BULK_S)))
        world.tell(f"{name}.size", size)
        link.there = _sent(world, high, size, link.round_trip_s, REPEATS)
        link.back = _received(world, high, size, link.round_trip_s, REPEATS)
    except TimeoutError:
        link.lost = "bulk"
        world.tell(f"{name}.size", 0)
    return link


def follow_pair(world: Transport, low: int, name: str) -> None:
    """The higher rank's part: it answers."""
    stamps = []
    name = f"{name}.{low}.{world.rank}"
    try:
        for _ in range(PINGS):
            world.receive(low, 8)
            stamps.append(time.time())
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
        for _ in range(REPEATS if size else 0):
            world.receive(low, size)
            world.send(low, 8)
        for _ in range(REPEATS if size else 0):
            world.receive(low, 8)
            world.send(low, size)
    except TimeoutError:
        return


def _sent(world: Transport, peer: int, size: int, trip_s: float, repeats: int) -> float:
    """Rate one way: sent whole, acknowledged, the round trip taken off."""
    best = 0.0
    for _ in range(repeats):
        tick = time.perf_counter()
        world.send(peer, size)
        world.receive(peer, 8)
        best = max(best, size / max(time.perf_counter() - tick - trip_s, 1e-9))
    return best


def _received(world: Transport, peer: int, size: int, trip_s: float, repeats: int) -> float:
    best = 0.0
    for _ in range(repeats):
        tick = time.perf_counter()
        world.send(peer, 8)
        world.receive(peer, size)
        best = max(best, size / max(time.perf_counter() - tick - trip_s, 1e-9))
    return best


def work_per_s(device: str) -> float:
    """Products of fixed matrices a second, the best of several windows: float32 on a CPU, bf16 on
    a GPU."""
    if device == "cpu":
        import numpy as np

        value = np.full((96, 96), 0.5, dtype=np.float32)

        def some() -> int:
            for _ in range(8):
                np.matmul(value, value)
            return 8
    else:
        import torch

        large = torch.full((8192, 8192), 0.01, dtype=torch.bfloat16, device=device)

        def some() -> int:
            for _ in range(4):
                torch.matmul(large, large)
            torch.cuda.synchronize()
            return 4

    some()
    best = 0.0
    for _ in range(WORK_WINDOWS):
        done, began, waited = 0, time.perf_counter(), _waited_s()
        while time.perf_counter() - began < WORK_S:
            done += some()
        took = time.perf_counter() - began - (_waited_s() - waited if device == "cpu" else 0.0)
        best = max(best, done / max(took, WORK_S / 100))
    return best


def _waited_s() -> float:
    """Seconds this process was ready to run while others had its core: no fault of the chip.

    Linux's count (Documentation/scheduler/sched-stats.rst); 0 where it is not kept.
    """
    try:
        return int(Path("/proc/self/schedstat").read_text("ascii").split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0


def _disk(report: Report, folder: str) -> None:
    """Write, flush to the device, and delete a file where checkpoints go."""
    block = os.urandom(1 << 20)
    try:
        handle, name = tempfile.mkstemp(prefix=".weftline-preflight-", dir=folder or None)
        try:
            best = report.disk_bytes_per_s or 0.0
            for _ in range(REPEATS):
                tick = time.perf_counter()
                for _ in range(DISK_BYTES // len(block)):
                    os.write(handle, block)
                os.fsync(handle)
                best = max(best, DISK_BYTES / (time.perf_counter() - tick))
            report.disk_bytes_per_s = best
        finally:
            os.close(handle)
            Path(name).unlink(missing_ok=True)
    except OSError as error:
        report.disk_error = f"{folder or tempfile.gettempdir()}: {error.strerror}"


def confirm_disks(world: Transport, report: Report, folder: str) -> None:
    """Measure disks that look slow again, each alone: hosts may share one."""
    for number in range(PASSES):
        world.tell(f"disk{number}", report.disk_bytes_per_s)
        if world.rank == 0:
            rates = [world.hear(f"disk{number}", rank) or 0.0 for rank in range(world.size)]
            slow = [rank for rank, rate in enumerate(rates) if 0 < rate < max(rates) / 3]
            world.tell(f"disks{number}", slow)
        chosen = world.hear(f"disks{number}", 0)
        if not chosen:
            return
        for rank in chosen:
            world.meet(f"disk{number}.{rank}")
            if rank == world.rank:
                _disk(report, folder)


def _store(report: Report, url: str) -> None:
    """Put, get and delete an object of one MB."""
    import obstore
    from obstore.exceptions import BaseError
    from obstore.store import from_url

    key = f"weftline-preflight-{report.rank}-{os.getpid()}"
    tick = time.perf_counter()
    try:
        local = url.startswith(("file:", "memory:"))
        place: Any = from_url(url) if local else from_url(
            url, client_options={"timeout": f"{STORE_TIMEOUT_S}s", "connect_timeout": "2s",
                                 "allow_http": True},
            retry_config={"max_retries": 1, "retry_timeout": timedelta(seconds=STORE_TIMEOUT_S)},
        )  # fmt: skip
        obstore.put(place, key, os.urandom(1 << 20))
        obstore.get(place, key).bytes()
        obstore.delete(place, key)
        report.store_s = time.perf_counter() - tick
    except (BaseError, OSError, ValueError, TypeError) as error:
        report.store_error = f"{url}: {str(error).splitlines()[0][:120]}"
