"""Saving through torch.distributed.checkpoint into a burst store, without pickle.

Torch decides which rank writes which block; every rank writes its blocks into its own log, and the
coordinator commits once all are durable. ``dcp.save`` and ``dcp.async_save`` both take the writer.
"""

from __future__ import annotations

import dataclasses
import os
import re
import threading
import uuid
from collections import deque
from typing import Any

import numpy as np
import torch
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex, StorageMeta
from torch.distributed.checkpoint.planner import (
    SavePlan,
    SavePlanner,
    WriteItem,
    WriteItemType,
)
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.storage import StorageWriter, WriteResult
from torch.futures import Future

from weftline.burst.errors import CommitError
from weftline.burst.log.record import Prepared
from weftline.burst.log.values import encode
from weftline.burst.options import Options
from weftline.burst.pytorch.tensors import shard_of
from weftline.burst.pytorch.values import special
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
    kept. Errors are those of :class:`Store`.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        step: int | None = None,
        writer: str | None = None,
        options: Options | None = None,
        store: Store | None = None,
    ) -> None:
        self.path = os.fspath(path)
        self.step = step
        self._writer = writer
        self._options = Options() if options is None else options
        self._store = store
        self._owns_store = store is None
        self._rank = 0
        self._mine = _Save()
        self._staged: deque[tuple[int, int | None]] = deque()
        """Thread that staged, and label, of the save that async_save has not yet begun."""
        self._begun = threading.Condition(threading.RLock())

    def stage(self, state_dict: dict[str, Any]) -> Any:
        """Called by ``dcp.async_save`` in the caller's thread: copies, and fixes the label.

        As torch's own default, each save into memory of its own. Torch runs every save in a thread
        of its own and tells it nothing: the next is staged only when the one before has begun and
        has taken its label.
        """
        step = self.step
        staged = DefaultStager(StagingOptions(False, False, False, False)).stage(state_dict)
        with self._begun:
            if not self._begun.wait_for(lambda: not self._staged, _BEGINS_S):
                self._staged.clear()
                raise CommitError(
                    f"an earlier save was staged and did not begin within {_BEGINS_S:g} s",
                    where=self.path, hint="look at the future that async_save returned",
                )  # fmt: skip
            self._staged.append((threading.get_ident(), step))
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
        if rank is None and torch.distributed.is_initialized():
            rank = torch.distributed.get_rank()
        self._rank = int(rank or 0)

    def _take_label(self) -> None:
        """What this save was called with: by ``checkpoint_id``, as staged, or as it is now."""
        mine, staged = self._mine, None
        with self._begun:
            if self._staged and self._staged[0][0] != threading.get_ident():
                staged = self._staged.popleft()
                self._begun.notify_all()
        mine.label = self.step if staged is None else staged[1]
        if mine.named is not None:
            mine.label, mine.named = mine.named, None

    def store(self) -> Store:
        """The open store of this rank; opened at the first use."""
        with self._begun:
            if self._store is None:
                name = self._writer or f"rank{self._rank}"
                self._store = Store.open(self.path, writer=name, options=self._options)
            return self._store

    def close(self) -> None:
        """Wait for what is being written and close the store, unless the caller gave it."""
        if self._store is not None and self._owns_store:
            self._store.close()
            self._store = None

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """Open the store, so that a store in use or a full disk is told before work begins."""
        self.store()
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """Give every rank the same step, and a name for this try that no other try has."""
        step = self._mine.label
        if step is None:
            step = self.store().next_step()
        attempt = uuid.uuid4().hex
        return [
            dataclasses.replace(
                plan,
                storage_data={"step": step, "attempt": attempt, "rank": r, "world": len(plans)},
            )
            for r, plan in enumerate(plans)
        ]

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Stage and write this rank's blocks; done when they are durable on this machine."""
        job = self._mine.job = plan.storage_data
        state: dict[str, list[Shard]] = {}
        plain: list[str] = []
        results: list[WriteResult] = []
        for item in plan.items:
            if item.type == WriteItemType.BYTE_IO:
                shard = _plain_shard(item, planner)
                plain.append(item.index.fqn)
            else:
                shard = _tensor_shard(item, planner)
            state.setdefault(item.index.fqn, []).append(shard)
            results.append(WriteResult(item.index, _nbytes(item), None))
        extra = {
            EXTRA_KEY: encode(
                {"planner": plan.planner_data, "plain": plain}, "planner data", special
            )
        }
        prepared = self.store().prepare(
            state, job["step"], rank=job["rank"], world=job["world"], attempt=job["attempt"],
            extra=extra,
        )  # fmt: skip
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
        elsewhere = [p.rank for p in prepared if p.store_id != self.store().view.store_id]
        if elsewhere:
            # Shares in stores of their own are not found by each other: such a checkpoint could
            # be committed, and never loaded.
            raise CommitError(
                f"ranks {elsewhere} saved to another store: nothing was committed", where=self.path,
                hint="give every rank a folder that all of them see, on a shared file system",
            )  # fmt: skip
        metadata.storage_meta = self.storage_meta()
        self.store().commit(prepared[0].step, prepared=prepared)

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


def _nbytes(item: WriteItem) -> int:
    if item.tensor_data is None:
        return 0
    width = torch.empty(0, dtype=item.tensor_data.properties.dtype).element_size()
    return width * int(np.prod(item.tensor_data.chunk.sizes, dtype=np.int64))


def _tensor_shard(item: WriteItem, planner: SavePlanner) -> Shard:
    tensor = planner.resolve_data(item)
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
