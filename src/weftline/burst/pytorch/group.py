"""A save by all ranks that returns once each has its copy, and is committed in the background.

What the ranks must agree on they agree on first, in the caller's thread, where collectives are
safe: who writes which block, under which step. Then each stages its share; what follows (the disk,
copies on other nodes, the commit) needs no collective and does not disturb training's.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch.distributed as dist
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.planner import SavePlan

from weftline.burst.errors import BurstError, CommitError
from weftline.burst.handle import SaveHandle
from weftline.burst.nodes.meet import JointCommit
from weftline.burst.pytorch.joint import about_store, job_of, joint_commit
from weftline.burst.pytorch.planner import BurstSavePlanner
from weftline.burst.pytorch.writer import shards_of
from weftline.burst.store import Store
from weftline.errors import InputError, WeftlineError

__all__ = ["save_jointly"]


class _Group:
    """The joint saves of one store, committed one after the other."""

    def __init__(self, store: Store) -> None:
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.joint: JointCommit = joint_commit(store, rank=self.rank, world=self.world)
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="burst-group")


_groups: weakref.WeakKeyDictionary[Store, _Group] = weakref.WeakKeyDictionary()


def save_jointly(
    state: Any, store: Store, step: int | None, *, planner: DefaultSavePlanner | None = None
) -> SaveHandle:
    """Save a state dict by all ranks of the default group; all must call.

    ``planner`` divides the work: BurstSavePlanner by default.

    Returns once this rank's share is staged: the state may change. The handle ends when the
    checkpoint is committed on every node, and raises CommitError on all ranks where one failed.
    """
    start = time.perf_counter()
    group = _groups.get(store)
    if group is None:
        group = _groups[store] = _Group(store)
    planner = BurstSavePlanner() if planner is None else planner
    plan, job = _planned(state, store, step, group, planner)
    try:
        shards, extra = shards_of(plan, planner)
        store.join(job["run"])
        part = store.save(
            shards, job["step"], rank=group.rank, world=group.world, attempt=job["attempt"],
            extra=extra,
        )  # fmt: skip
    except WeftlineError as error:
        group.joint.fail(job["attempt"], error)
        raise
    whole = SaveHandle(step=job["step"], rank=group.rank, raw_bytes=part.raw_bytes)
    whole.queue_wait_s = part.queue_wait_s
    whole.stall_s = time.perf_counter() - start - part.queue_wait_s
    store.follow(whole, group.thread.submit(_finish, group, part, whole, job["attempt"], start))
    return whole


def _planned(
    state: Any, store: Store, step: int | None, group: _Group, planner: DefaultSavePlanner
) -> tuple[SavePlan, dict[str, Any]]:
    """What this rank writes, by torch's planner, and the save's name; the same job on all ranks.

    A rank that cannot plan says so to all, and all raise.
    """
    said: dict[str, Any]
    try:
        if not isinstance(state, dict):
            raise InputError("with several ranks the state must be a dictionary")
        planner.set_up_planner(state, is_coordinator=group.rank == 0)
        plan = planner.create_local_plan()
        said = {"plan": plan, "store": about_store(store), "step": step}
    except (WeftlineError, ValueError, TypeError, RuntimeError) as error:
        said = {"error": f"rank {group.rank}: {error}"}
    every: list[Any] | None = [None] * group.world if group.rank == 0 else None
    dist.gather_object(said, every)
    orders = _orders(planner, every) if every is not None else None
    mine: list[Any] = [None]
    dist.scatter_object_list(mine, orders)
    if "error" in mine[0]:
        raise CommitError(f"nothing was saved: {mine[0]['error']}", where=store.root)
    final = planner.finish_plan(mine[0]["plan"])
    return final, mine[0]["job"]


def _orders(planner: DefaultSavePlanner, every: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the coordinator tells each rank."""
    failed = [said["error"] for said in every if "error" in said]
    steps = {said.get("step") for said in every}
    if not failed and len(steps) > 1:
        failed = [f"the ranks gave different steps: {sorted(steps, key=str)}"]
    if not failed:
        try:
            plans, _ = planner.create_global_plan([said["plan"] for said in every])
            job = job_of([said["store"] for said in every], steps.pop())
            return [{"plan": plan, "job": job} for plan in plans]
        except (WeftlineError, ValueError, RuntimeError) as error:
            failed = [str(error)]
    return [{"error": "; ".join(failed)}] * len(every)


def _finish(group: _Group, part: SaveHandle, whole: SaveHandle, name: str, start: float) -> None:
    """The background half: this rank's share durable, then the commit by all."""
    try:
        part.wait()
        assert part.prepared is not None  # noqa: S101  (a save that ended well has it)
        whole.prepared, whole.stored_bytes = part.prepared, part.stored_bytes
        group.joint.commit(part.prepared, name)
        whole.committed = True
    except BaseException as error:
        if part.error is not None:
            group.joint.fail(name, error)
        whole.error = error if isinstance(error, BurstError) else CommitError(str(error))
    whole.finish(time.perf_counter() - start)
