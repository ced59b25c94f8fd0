"""Saving through torch.distributed.checkpoint into a burst store, without pickle.

Torch decides which rank writes which block; every rank writes its blocks into its own log, and the
coordinator commits once all are durable. ``dcp.save`` and ``dcp.async_save`` both take the writer.
Ranks may share one folder or have one on each node: then every node's store gets the commit record,
over torch's own key-value store, before ``dcp.save`` returns.
"""

from __future__ import annotations

import dataclasses
import os
import re
import threading
from collections import deque
from typing import Any

import numpy as np
import torch
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex, StorageMeta
from torch.distributed.checkpoint.planner import (
    SavePlan,
    SavePlanner,
    WriteItem,
    WriteItemType,
)
from torch.distributed.checkpoint.storage import StorageWriter, WriteResult
from torch.futures import Future

from weftline.burst.errors import CommitError
from weftline.burst.files import local_folder
from weftline.burst.log.record import Prepared
from weftline.burst.log.values import encode
from weftline.burst.nodes.cluster import Nodes
from weftline.burst.options import Options
from weftline.burst.pytorch.devices import pinning
from weftline.burst.pytorch.joint import Joint, about_store, job_of, own_rank
from weftline.burst.pytorch.planner import Planned, tied_among
from weftline.burst.pytorch.staging import stage_into
from weftline.burst.pytorch.tensors import shard_of
from weftline.burst.pytorch.values import special
from weftline.burst.stage.arena import Lease
from weftline.burst.stage.state import Shard
from weftline.burst.store import Store
from weftline.errors import InputError

EXTRA_KEY = "torch.distributed.checkpoint"
"""Under this key a rank's manifest holds what the planner needs to load."""
_BEGINS_S = 60.0
_STEP = re.compile(r"step-(\d{1,18})")
_PREPARED = MetadataIndex("\x00burst.prepared")


class _Save(threading.local):
    """What holds for one save: torch runs each in one thread from its beginning to its end."""

    label: int | None = None
    """The step it was called with."""
    named: int | None = None
    """What the ``checkpoint_id`` of the save that is about to begin says."""
    lease: Lease | None = None
    """Memory that the state was staged into."""

    def __init__(self) -> None:
        self.job: dict[str, Any] = {}


class BurstStorageWriter(StorageWriter):
    """Writes checkpoints of ``torch.distributed.checkpoint`` into the burst store at ``path``.

    ``step`` numbers the checkpoint: set the attribute before each save, or give
    ``checkpoint_id=".../step-10"``, which is step 10 of the store ``...``. What it is when
    ``dcp.save`` or ``dcp.async_save`` is called holds for that save, whatever is set while it is
    written (with an ``async_stager`` of your own, torch does not ask the writer: give the id).
    Without one it is a step above every other.

    ``writer`` names this process's log and must differ between the processes that save at once; it
    is ``rank<r>`` if not given. Use it again for the next save: staging memory and segments are
    kept. ``nodes`` says where copies of shares are kept, for nodes with disks of their own. Errors
    are those of :class:`Store`.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        step: int | None = None,
        writer: str | None = None,
        options: Options | None = None,
        store: Store | None = None,
        nodes: Nodes | None = None,
    ) -> None:
        self.path = os.fspath(path)
        local_folder(path)
        self._nodes = nodes
        self.step = step
        self._writer = writer
        self._options = pinning(options)
        self._store = store
        self._owns_store = store is None
        self._rank: int | None = None
        self._mine = _Save()
        self._joint: Joint | None = None
        self._staged: deque[tuple[int, int | None, Lease]] = deque()
        """Thread that staged, label, and memory, of the save that async_save has not yet begun."""
        self._begun = threading.Condition(threading.RLock())

    def stage(self, state_dict: dict[str, Any]) -> Any:
        """Called by ``dcp.async_save`` in the caller's thread: copies, and fixes the label.

        The copy is made where it is written from; while an earlier save is on its way to the disk,
        it waits for that memory. Torch runs every save in a thread of its own and tells it nothing:
        the next is staged only when the one before has begun and has taken its label.
        """
        step = self.step
        staged, lease = stage_into(self.store(), state_dict)
        with self._begun:
            if not self._begun.wait_for(lambda: not self._staged, _BEGINS_S):
                self._staged.clear()
                raise CommitError(
                    f"an earlier save was staged and did not begin within {_BEGINS_S:g} s",
                    where=self.path, hint="look at the future that async_save returned",
                )  # fmt: skip
            self._staged.append((threading.get_ident(), step, lease))
        return staged

    should_synchronize_after_execute = False
    _synchronize_after_execute = False
    """Torch takes a writer as a stager only if it has this too."""

    def synchronize_staging(self) -> None:
        """Nothing to wait for: :meth:`stage` returns when all is copied."""

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """Begin another save; ``checkpoint_id`` is the path of the store, or ``PATH/step-10``."""
        self._mine.named = None
        if not checkpoint_id:
            return
        path, self._mine.named = store_and_step(checkpoint_id)
        if path != self.path:
            if not self._owns_store:
                raise InputError(
                    f"`checkpoint_id` {os.fspath(checkpoint_id)} is not the store of this writer",
                    hint="leave it out, or make the writer with the path alone",
                )
            self.close()
            self.path = path

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """Take the rank torch tells; without one, that of the default process group."""
        del is_coordinator, args
        self._take_label()
        rank = kwargs.get("rank")
        self._rank = own_rank() if rank is None else int(rank)

    def _take_label(self) -> None:
        """What this save was called with: by ``checkpoint_id``, as staged, or as it is now."""
        mine, staged = self._mine, None
        with self._begun:
            if self._staged and self._staged[0][0] != threading.get_ident():
                staged = self._staged.popleft()
                self._begun.notify_all()
        mine.label = self.step if staged is None else staged[1]
        mine.lease = None if staged is None else staged[2]
        if mine.named is not None:
            mine.label, mine.named = mine.named, None

    def store(self) -> Store:
        """The open store of this rank; opened at the first use."""
        with self._begun:
            if self._store is None:
                rank = own_rank() if self._rank is None else self._rank
                name = self._writer or f"rank{rank}"
                nodes = self._nodes
                self._store = Store.open(
                    self.path, writer=name, options=self._options,
                    run=None if nodes is None else nodes.run,
                    copier=None if nodes is None else nodes.copier(),
                )  # fmt: skip
            return self._store

    def close(self) -> None:
        """Wait for what is being written and close the store, unless the caller gave it."""
        if self._joint is not None:
            self._joint.close()
            self._joint = None
        if self._store is not None and self._owns_store:
            self._store.close()
            self._store = None

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """Open the store, so that a store in use or a full disk is told before work begins.

        The coordinator hears which store this rank has, and of which run.
        """
        return dataclasses.replace(plan, storage_data=about_store(self.store()))

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """Give every rank the same step, and a name for this try that no other try has."""
        job = job_of([p.storage_data for p in plans], self._mine.label)
        return [
            dataclasses.replace(plan, storage_data=job | {"rank": r})
            for r, plan in enumerate(plans)
        ]

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Stage and write this rank's blocks; done when they are durable on this machine."""
        job = self._mine.job = plan.storage_data
        store, lease = self.store(), self._mine.lease
        try:
            store.join(job["run"])
            state, extra = shards_of(plan, planner)
            if lease is not None and type(planner) is not DefaultSavePlanner:
                lease.forget_hashes()  # it may have changed what was staged
            prepared = store.prepare(
                state, job["step"], rank=job["rank"], world=job["world"], attempt=job["attempt"],
                extra=extra, lease=lease,
            )  # fmt: skip
        finally:
            if lease is not None:
                lease.give_back()
        if job["joint"] and job["rank"]:
            self._joined(job).take_over(job)
        results = [WriteResult(item.index, _nbytes(item), None) for item in plan.items]
        # Torch carries the results to the coordinator; the seal of this rank goes with them.
        results.append(WriteResult(_PREPARED, 0, prepared.encode()))
        future: Future[list[WriteResult]] = Future()
        future.set_result(results)
        return future

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Commit: from here on the checkpoint is whole for every reader, and before it absent."""
        prepared = [
            Prepared.decode(result.storage_data)
            for of_rank in results
            for result in of_rank
            if result.index == _PREPARED
        ]
        if len(prepared) != len(results):
            raise CommitError(
                f"{len(prepared)} of {len(results)} ranks sealed their part",
                hint="every rank must save with a BurstStorageWriter",
            )
        metadata.storage_meta = self.storage_meta()
        job = self._mine.job
        self.store().commit(prepared[0].step, prepared=prepared)
        if job["joint"]:
            self._joined(job).publish(job)

    def _joined(self, job: dict[str, Any]) -> Joint:
        """What carries the commit record between nodes; made at the first use."""
        if self._joint is None:
            self._joint = Joint(self.store(), rank=job["rank"], world=job["world"])
        return self._joint

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """Whether it is a path (a URL names an object store: drain to it instead)."""
        return "://" not in os.fspath(checkpoint_id)

    def storage_meta(self) -> StorageMeta:
        """Names of this save, for planners that look at them."""
        return StorageMeta(checkpoint_id=self.path, save_id=self._mine.job.get("attempt"))


def store_and_step(checkpoint_id: str | os.PathLike[str]) -> tuple[str, int | None]:
    """``ckpt/step-10`` -> ``ckpt``, 10; any other path is a store, without a step."""
    path = os.fspath(checkpoint_id)
    folder, _, name = path.rstrip("/").rpartition("/")
    found = _STEP.fullmatch(name)
    if found is None:
        return path, None
    return folder or ("/" if path.startswith("/") else "."), int(found[1])


def shards_of(
    plan: SavePlan, planner: SavePlanner
) -> tuple[dict[str, list[Shard]], dict[str, Any]]:
    """What a plan has this rank write, by name, and what the planner needs to load it.

    Whole tensors that are tied are written once. Of blocks only a planner that has seen all ranks'
    can tell: BurstSavePlanner.
    """
    state: dict[str, list[Shard]] = {}
    plain: list[str] = []
    said = plan.planner_data
    if not isinstance(said, Planned):
        said = Planned(said, {})
    whole = {
        item.index: planner.resolve_data(item)
        for item in plan.items
        if item.type == WriteItemType.TENSOR and item.tensor_data is not None
    }
    tied = said.tied | tied_among([i for i in plan.items if i.index in whole], whole)
    for item in plan.items:
        if item.index.fqn in tied:
            continue
        if item.type == WriteItemType.BYTE_IO:
            shard = _plain_shard(item, planner)
            plain.append(item.index.fqn)
        else:
            # A planner may make what it hands out anew, or change it: it is asked once for each.
            tensor = whole[item.index] if item.index in whole else planner.resolve_data(item)
            shard = _tensor_shard(item, tensor)
        state.setdefault(item.index.fqn, []).append(shard)
    about = {
        "planner": said.mappings, "plain": plain, "tied": tied, "kinds": list(map(list, said.kinds))
    }  # fmt: skip
    return state, {EXTRA_KEY: encode(about, "planner data", special)}


def _nbytes(item: WriteItem) -> int:
    if item.tensor_data is None:
        return 0
    width = torch.empty(0, dtype=item.tensor_data.properties.dtype).element_size()
    return width * int(np.prod(item.tensor_data.chunk.sizes, dtype=np.int64))


def _tensor_shard(item: WriteItem, tensor: Any) -> Shard:
    name = item.index.fqn
    if not isinstance(tensor, torch.Tensor) or item.tensor_data is None:
        raise InputError(f"the planner has no tensor for `{name}`", hint="check the save planner")
    sizes = tuple(item.tensor_data.chunk.sizes)
    if tuple(tensor.shape) != sizes:
        raise InputError(f"`{name}`: the planner gave shape {tuple(tensor.shape)}, not {sizes}")
    return shard_of(
        tensor,
        name,
        global_shape=tuple(item.tensor_data.size),
        offsets=tuple(item.tensor_data.chunk.offsets),
    )


def _plain_shard(item: WriteItem, planner: SavePlanner) -> Shard:
    """A value that is no tensor. Torch's planner would pickle it; here it is encoded."""
    look_up = getattr(planner, "lookup_object", None)
    if look_up is None:
        raise InputError(
            f"`{item.index.fqn}` is no tensor, and {type(planner).__name__} has no lookup_object",
            hint="derive the planner from torch's DefaultSavePlanner",
        )
    data = encode(look_up(item.index), item.index.fqn, special)
    return Shard(data=data, dtype="uint8", shape=(len(data),))
