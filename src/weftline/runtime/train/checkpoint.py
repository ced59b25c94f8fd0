"""Checkpoints of a run in a burst store: by name and place in whole tensors, in no layout's form.

So a run goes on under another layout: every rank reads the blocks that it holds now.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.tensor.placement_types import _StridedShard

from weftline.burst import Options, Retention, Store
from weftline.burst.errors import BurstError
from weftline.burst.handle import SaveHandle
from weftline.burst.pytorch import load, save
from weftline.errors import InputError
from weftline.runtime.train.optimizer import Optimizers
from weftline.runtime.train.recipe import CHECKPOINTS

__all__ = ["Checkpoints"]


class Checkpoints:
    """The store of a run, open for one rank's share."""

    def __init__(self, run: Path, *, keep: int) -> None:
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self.folder = run / CHECKPOINTS
        if self.rank == 0:
            self.folder.mkdir(parents=True, exist_ok=True)
        self._options = Options(
            retention=Retention(last=keep), segment_bytes=64 << 20, chunk_bytes=4 << 20,
            copy_threads=1,
        )  # fmt: skip
        if self.rank == 0:
            self._store: Store | None = self._open()  # the first makes it
        _barrier()
        if self.rank:
            self._store = self._open()
        self.saved = self.newest()
        """Step of the newest whole checkpoint."""
        self.durable_s = 0.0
        """From the last save's call until it was whole."""
        self._handles: list[SaveHandle] = []

    def _open(self) -> Store:
        return Store.open(self.folder, writer=f"rank{self.rank}", options=self._options)

    @property
    def store(self) -> Store:
        """The open store. Raises InputError after :meth:`close`."""
        if self._store is None:
            raise InputError("the store is closed", where=str(self.folder))
        return self._store

    def steps(self) -> list[int]:
        """Steps of the checkpoints that are whole, newest first, as rank 0 sees them."""
        found = [[c.step for c in self.store.checkpoints()] if self.rank == 0 else []]
        if dist.is_initialized():
            dist.broadcast_object_list(found, src=0)
        return sorted(found[0], reverse=True)

    def newest(self) -> int | None:
        """Step of the newest whole checkpoint; None where there is none."""
        return max(self.steps(), default=None)

    def save(self, named: Mapping[str, nn.Parameter], optimizers: Optimizers, step: int) -> None:
        """Begin a save; all ranks must call. Returns when this rank's share is copied.

        Raises BurstError for an earlier save that failed.
        """
        self.settle(wait=False)
        state = _state(named, optimizers, step)
        self._handles.append(save(_contiguous(state), self.store, step=step, wait=False))

    def settle(self, *, wait: bool) -> None:
        """Look at saves that have ended, or wait for all. Raises BurstError for one that failed."""
        kept = []
        handles, self._handles = self._handles, []
        failed: BurstError | None = None
        for handle in handles:
            if not wait and not handle.done:
                kept.append(handle)
                continue
            try:
                handle.wait()
                self.saved = max(self.saved or 0, handle.step)
                self.durable_s = handle.durable_s
            except BurstError as error:
                failed = error
        self._handles += kept
        if failed is not None:
            raise failed

    def restore(
        self, named: Mapping[str, nn.Parameter], optimizers: Optimizers, *, note: Any
    ) -> int:
        """Fill model and moments from the newest checkpoint that every rank can read; its step.

        0 where there is none. A damaged one is passed over, and ``note`` is told. Raises
        InputError where all are damaged, or hold another model.
        """
        steps = self.steps()
        for step in steps:
            problem = self._restore(named, optimizers, step)
            worst = [problem]
            if dist.is_initialized():
                every: list[Any] = [None] * dist.get_world_size()
                dist.all_gather_object(every, problem)
                worst = [p for p in every if p]
            if not any(worst):
                optimizers.set_steps(step)
                self.saved = step
                return step
            note(f"checkpoint {step} was passed over: {worst[0]}")
        if steps:
            raise InputError(
                f"none of the {len(steps)} checkpoints can be read", where=str(self.folder),
                hint="`weftline burst verify` says what is damaged",
            )  # fmt: skip
        return 0

    def _restore(
        self, named: Mapping[str, nn.Parameter], optimizers: Optimizers, step: int
    ) -> str | None:
        state = _state(named, optimizers, step)
        into = _contiguous(state)
        try:
            load(self.folder, step=step, into=into)
        except CheckpointException as several:  # torch's, and no Exception
            error: BaseException = next(iter(several.failures.values()))[0]
            return f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
        except Exception as error:
            # What torch's planner raises for a state that does not fit has no bound of its own.
            return f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
        with torch.no_grad():
            for part in ("model", "moments"):
                for name, tensor in state[part].items():
                    found = into[part][name]
                    if found is not tensor:
                        tensor.copy_(found.redistribute(placements=tensor.placements))
        return None

    def close(self) -> None:
        """Wait for what is being written. Raises BurstError for a save that failed."""
        if self._store is None:
            return
        try:
            self.settle(wait=True)
        finally:
            self._store.close()
            self._store = None


def _state(named: Mapping[str, nn.Parameter], optimizers: Optimizers, step: int) -> dict[str, Any]:
    trained = {name: p.detach() for name, p in named.items() if p.requires_grad}
    return {"model": trained, "moments": optimizers.state(), "step": step}


def _contiguous(state: dict[str, Any]) -> dict[str, Any]:
    """Without shards that are strided by themselves: torch's checkpoint hooks take a block each.

    A strided shard that another axis of its mesh shards, too (FSDP over tensor parallelism), is a
    block again, and stays.
    """

    def block(tensor: Any) -> Any:
        if not isinstance(tensor, DTensor):
            return tensor
        dims = [p.dim for p in tensor.placements if isinstance(p, Shard | _StridedShard)]
        odd = [isinstance(p, _StridedShard) and dims.count(p.dim) == 1 for p in tensor.placements]
        if not any(odd):
            return tensor
        whole: Any = zip(tensor.placements, odd, strict=True)
        plain = [Shard(p.dim) if o else p for p, o in whole]
        return tensor.redistribute(placements=plain)

    return {
        key: {name: block(t) for name, t in value.items()} if isinstance(value, dict) else value
        for key, value in state.items()
    }


def _barrier() -> None:
    if dist.is_initialized():
        dist.barrier()
