"""One checkpoint of many ranks: who has which store, what the save is called, and its commit.

Ranks agree on a save when they plan it. The commit itself needs no collective: shares and records
go over the key-value store that ``torch.distributed`` was started with.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Sequence
from typing import Any

import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, _get_default_store

from weftline.burst.errors import BurstError, MismatchError
from weftline.burst.nodes.meet import JointCommit
from weftline.burst.store import Store
from weftline.errors import InputError

__all__ = ["Joint", "about_store", "job_of", "joint_commit", "own_rank"]


def own_rank() -> int:
    """This process's rank in the default group; 0 without one."""
    return dist.get_rank() if dist.is_initialized() else 0


def about_store(store: Store) -> dict[str, Any]:
    """What the coordinator must know of a rank's store."""
    return {
        "store": store.view.store_id, "run": store.view.run, "next": store.next_step(),
        "has": bool(store.view.commits.steps()), "told": store.view.run != store.view.store_id,
    }  # fmt: skip


def job_of(stores: Sequence[dict[str, Any] | None], step: int | None) -> dict[str, Any]:
    """What all ranks must know of a save; ``stores`` by rank, ``step`` as the caller gave it.

    The run is that of whichever stores belong to one already, else of rank 0's. Raises
    MismatchError where they belong to several.
    """
    known = [s for s in stores if s is not None]
    runs: dict[str, list[int]] = {}
    for rank, store in enumerate(stores):
        if store is not None and (store["has"] or store["told"]):
            runs.setdefault(store["run"], []).append(rank)
    if len(runs) > 1:
        told = "; ".join(f"`{run}`: ranks {ranks}" for run, ranks in sorted(runs.items()))
        raise MismatchError(
            f"the stores of these ranks belong to different runs: {told}",
            hint="give a new run empty folders, or go on with the stores of one",
        )
    return {
        "step": max(s["next"] for s in known) if step is None else step,
        "attempt": uuid.uuid4().hex,
        "world": len(stores),
        "run": next(iter(runs), known[0]["run"]),
        "joint": len({s["store"] for s in known}) > 1 or len(known) < len(stores),
    }


def joint_commit(store: Store, *, rank: int, world: int) -> JointCommit:
    """This process's part in commits with the other ranks of the default group."""
    if not dist.is_initialized():
        raise InputError(
            "ranks with stores of their own need torch.distributed to be initialised",
            hint="start with torchrun, and call init_process_group",
        )
    meeting: Any = PrefixStore("weftline.burst", _get_default_store())
    return JointCommit(store, meeting, rank=rank, world=world)


class Joint:
    """Joint commits of saves that torch runs: it carries the shares, this the record."""

    def __init__(self, store: Store, *, rank: int, world: int) -> None:
        self._commit = joint_commit(store, rank=rank, world=world)
        self._threads: list[threading.Thread] = []

    def publish(self, job: dict[str, Any]) -> None:
        """The coordinator: give the record to all, and wait until they have it."""
        self._commit.publish(job["attempt"], job["step"])

    def take_over(self, job: dict[str, Any]) -> None:
        """Another rank: wait for the record in the background.

        The coordinator's save, and so this rank's, does not return before it is in place.
        """

        def run() -> None:
            try:
                self._commit.take_over(job["attempt"], job["step"])
            except BurstError as error:
                self._commit.store.note(str(error))

        self._threads = [t for t in self._threads if t.is_alive()]
        self._threads.append(threading.Thread(target=run, name="burst-joint", daemon=True))
        self._threads[-1].start()

    def close(self) -> None:
        """Wait no longer for anything."""
        self._commit.cancel()
        for thread in self._threads:
            thread.join()
