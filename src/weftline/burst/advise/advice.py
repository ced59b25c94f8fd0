"""What a job would lose to saving and to failures, and how often it should save: on paper.

The state is sharded over the nodes. A save stalls training for the copy of a node's share into host
memory; it is committed when the share is on NVMe and, after that, in the memory of other nodes; it
drains to an object store behind that. Against it stands a save that blocks until the whole state is
on a shared file system. Both are given the same failures and the same time to restart, and each its
best interval.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from weftline.burst.advise.interval import (
    Level,
    Schedule,
    best_schedule,
    daly_interval_s,
    nvidia_interval_s,
    poisson_interval_s,
    young_interval_s,
)
from weftline.errors import InputError

__all__ = ["Advice", "Case", "Job", "advise", "measured_figures"]

FAILURES_PER_NODE_DAY: Final = 3.79e-3
FAILURES_BASIS: Final = (
    "published: Llama 3 405B, 419 unexpected interruptions in 54 days on 16,384 H100 in nodes of 8"
)
DAY_S: Final = 86400.0
SHARED_RATES_BYTES_PER_S: Final = (50e9, 100e9, 500e9, 2e12)
"""Shared file systems to hold against; 2 TB/s is what Llama 3's sustained (240 PB of flash)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """The job in question. Bytes, seconds, bytes a second; what is assumed has a default."""

    state_bytes: float
    """The whole of what a checkpoint holds, counted once."""
    nodes: int
    mtbf_s: float | None = None
    """Mean time between failures of the job; by default from the published rate a node."""
    staging_bytes_per_s: float = 80e9
    """A node's copy from its devices into host memory: 8 devices at 10 GB/s."""
    nvme_write_bytes_per_s: float = 4e9
    """A node's NVMe, sustained."""
    nvme_read_bytes_per_s: float = 6e9
    peer_bytes_per_s: float | None = 10e9
    """A node's link to the nodes that keep copies of its share in memory; None for no copies."""
    copies: int = 1
    """So many other nodes have a copy."""
    store_bytes_per_s: float = 100e9
    """The object store, from all nodes together."""
    shared_bytes_per_s: float = 100e9
    """The shared file system that the blocking save writes to."""
    restart_s: float = 300.0
    """From a failure until processes run again, without reading the checkpoint."""
    local_share: float | None = None
    """Share of failures after which NVMe and peers still hold the whole state; by default 0.95
    with copies, and what loses no node without."""
    node_share: float = 0.5
    """Share of failures that take a node's disk and memory with them: its share is then read from
    another node's memory, where there is a copy; after the others each node reads its own disk."""
    slowdown_share: float = 0.05
    """How much slower training runs while a save is being written; counted as further stall."""
    stall_s: float | None = None
    """Measured stall of a save, instead of the copy above."""
    persist_s: float | None = None
    """Measured time until a save is committed locally, instead of the writing above."""
    restore_s: float | None = None
    """Measured time of a local restore, instead of the reading above."""
    interval_s: float | None = None
    """Judge this interval instead of looking for the best."""
    basis: Mapping[str, str] = field(default_factory=dict)
    """What a figure rests on, by the name of its field, where that is not an assumption."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One way to save, at its best interval."""

    name: str
    persist_s: float
    """From the end of the stall until durable at the first level."""
    copy_s: float
    """Time a save keeps training from going on; the schedule adds the slow-down after it."""
    drained_s: float | None
    """Until durable at the object store."""
    recovery_s: float
    """Mean time from a failure until training runs again."""
    schedule: Schedule


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """The answer: burst, the blocking save at several speeds, and the known forms side by side."""

    job: Job
    mtbf_s: float
    mtbf_basis: str
    local_share: float
    burst: Case
    blocking: Case
    others: tuple[Case, ...]
    """Blocking saves to faster and slower file systems."""
    forms_s: dict[str, float]
    """Interval by every known form, for burst's stall."""

    @property
    def gained_nodes(self) -> float:
        """Nodes' worth of work that burst gives back, against the blocking save."""
        return self.job.nodes * (self.burst.schedule.goodput - self.blocking.schedule.goodput)


def advise(job: Job) -> Advice:
    """Stall, persist time, interval and goodput of a job. Raises InputError for what cannot be."""
    _check(job)
    mtbf_s = job.mtbf_s or DAY_S / (FAILURES_PER_NODE_DAY * job.nodes)
    share = job.local_share
    if share is None:
        share = 1 - job.node_share if job.peer_bytes_per_s is None else 0.95
    burst = _burst(job, mtbf_s, share)
    stall_s = burst.schedule.stall_s
    return Advice(
        job=job,
        mtbf_s=mtbf_s,
        mtbf_basis="given" if job.mtbf_s else FAILURES_BASIS,
        local_share=share,
        burst=burst,
        blocking=_blocking(job, mtbf_s, job.shared_bytes_per_s),
        others=tuple(
            _blocking(job, mtbf_s, rate)
            for rate in SHARED_RATES_BYTES_PER_S
            if rate != job.shared_bytes_per_s
        ),
        forms_s={
            "Young": young_interval_s(stall_s, mtbf_s),
            "Daly": daly_interval_s(stall_s, mtbf_s),
            "NVIDIA": nvidia_interval_s(stall_s, mtbf_s, burst.recovery_s),
            "Poisson": poisson_interval_s(stall_s, mtbf_s),
        },
    )


def measured_figures(bench: Mapping[str, Any], *, where: str) -> tuple[dict[str, float], str]:
    """Fields of a job from the answer of ``burst bench --json``, and what to call their basis.

    The copy is one within host memory, where a device's may be slower. Raises InputError.
    """
    try:
        found = {
            "staging_bytes_per_s": float(bench["state_bytes"]) / float(bench["stall_s"]),
            "nvme_write_bytes_per_s": float(bench["durable_bytes_per_s"]),
            "nvme_read_bytes_per_s": float(bench["load_bytes_per_s"]),
        }
        return found, f"measured here in {bench['folder']}"
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        raise InputError(
            "this is no answer of `burst bench`", where=where,
            hint="weftline burst bench FOLDER --json > bench.json",
        ) from None  # fmt: skip


def _burst(job: Job, mtbf_s: float, share: float) -> Case:
    own_bytes = job.state_bytes / job.nodes
    stall_s = job.stall_s
    if stall_s is None:
        stall_s = own_bytes / job.staging_bytes_per_s
    persist_s = job.persist_s
    if persist_s is None:
        persist_s = own_bytes / job.nvme_write_bytes_per_s
        if job.peer_bytes_per_s is not None:  # a share is copied from the disk's pages, after that
            persist_s += job.copies * own_bytes / job.peer_bytes_per_s
    read_s = job.restore_s
    if read_s is None:
        disk_s = own_bytes / job.nvme_read_bytes_per_s
        peer_s = own_bytes / (job.peer_bytes_per_s or float("inf"))
        lost = max(0.0, share - (1 - job.node_share)) / share if share else 0.0
        read_s = (1 - lost) * disk_s + lost * max(disk_s, peer_s)  # all wait for the slowest
    drain_s = job.state_bytes / job.store_bytes_per_s
    local = Level(
        name="NVMe and peers", persist_s=persist_s, recovery_s=job.restart_s + read_s,
        failures_per_s=share / mtbf_s,
    )  # fmt: skip
    store = Level(
        name="object store", persist_s=drain_s, recovery_s=job.restart_s + drain_s,
        failures_per_s=(1 - share) / mtbf_s,
    )  # fmt: skip
    return Case(
        name="burst",
        persist_s=persist_s,
        copy_s=stall_s,
        drained_s=persist_s + drain_s,
        recovery_s=share * local.recovery_s + (1 - share) * store.recovery_s,
        schedule=best_schedule(
            stall_s + job.slowdown_share * persist_s, [local, store], interval_s=job.interval_s
        ),
    )


def _blocking(job: Job, mtbf_s: float, rate: float) -> Case:
    """Training stands still until all of it is there; every failure reads it back from there."""
    stall_s = job.state_bytes / rate
    level = Level(
        name="shared file system", persist_s=0.0, recovery_s=job.restart_s + stall_s,
        failures_per_s=1 / mtbf_s,
    )  # fmt: skip
    return Case(
        name=f"blocking save at {rate / 1e9:,.0f} GB/s",
        persist_s=0.0,
        copy_s=stall_s,
        drained_s=None,
        recovery_s=level.recovery_s,
        schedule=best_schedule(stall_s, [level]),
    )


def _check(job: Job) -> None:
    if job.nodes < 1:
        raise InputError("at least one node is needed", where="--nodes")
    shares = {
        "--local-share": job.local_share or 0.0, "--slowdown": job.slowdown_share,
        "--node-share": job.node_share,
    }  # fmt: skip
    if job.copies < 1:
        raise InputError(f"{job.copies} copies are none: say `--peer none`", where="--copies")
    for where, value in shares.items():
        if not 0 <= value <= 1:
            raise InputError(f"{value:g} is not a share: 0 to 1", where=where)
    positive = {
        "--state": job.state_bytes, "--staging": job.staging_bytes_per_s,
        "--nvme-write": job.nvme_write_bytes_per_s, "--nvme-read": job.nvme_read_bytes_per_s,
        "--store": job.store_bytes_per_s, "--shared": job.shared_bytes_per_s,
    }  # fmt: skip
    for where, value in positive.items():
        if not value > 0:
            raise InputError(f"{value:g} is not above zero", where=where)
