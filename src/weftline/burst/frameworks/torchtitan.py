"""torchtitan's checkpoint manager on a burst store, under the folder that torchtitan would use.

In a config: ``checkpointer = BurstCheckpointManager.Config(enable=True, interval=100)``. Steps are
those of the training; ``async_mode`` other than "disabled" returns after the copy.
"""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import torch
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import AsyncSaveResponse, async_save, save
from torchtitan.components.checkpoint import AsyncMode, CheckpointManager

from weftline.burst.frameworks.pointers import has_checkpoints
from weftline.burst.nodes.cluster import Nodes
from weftline.burst.options import Options, Retention
from weftline.burst.pytorch.planner import BurstSavePlanner
from weftline.burst.pytorch.reader import BurstStorageReader
from weftline.burst.pytorch.writer import BurstStorageWriter
from weftline.burst.store import Store

__all__ = ["BurstCheckpointManager"]


class BurstCheckpointManager(CheckpointManager):
    """Saves every rank's shards into ``folder`` as one burst store; ``keep_latest_k`` is retention.

    Loading takes the newest checkpoint, or the step asked for, into any number of ranks; an empty
    store is a fresh start, with the ``initial_load_*`` options as they are. What is written as
    Hugging Face safetensors stays torchtitan's own.
    """

    @dataclass(kw_only=True, slots=True)
    class Config(CheckpointManager.Config):
        """torchtitan's options; nothing is added."""

    nodes: Nodes | None = None
    """Where nodes have disks of their own: set it on the class before it is built."""

    def __init__(self, config: Config, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        self._writer: BurstStorageWriter | None = None

    def dcp_save(
        self,
        state_dict: dict[str, Any],
        checkpoint_id: str,
        async_mode: AsyncMode,
        enable_garbage_collection: bool = False,
        to_hf: bool = False,
    ) -> Any:
        """Save as a step of the store; asynchronous modes return after the copy."""
        if to_hf:
            return super().dcp_save(
                state_dict, checkpoint_id, async_mode, enable_garbage_collection, to_hf
            )
        writer = self._own_writer()
        if async_mode == AsyncMode.DISABLED:
            return save(
                state_dict, storage_writer=writer, checkpoint_id=checkpoint_id,
                planner=BurstSavePlanner(),
            )  # fmt: skip
        saving: Any = async_save(
            state_dict, storage_writer=writer, checkpoint_id=checkpoint_id,
            process_group=self.pg, planner=BurstSavePlanner(),
        )  # fmt: skip
        if async_mode == AsyncMode.ASYNC:
            return saving
        staged: Future[None] = Future()
        staged.set_result(None)  # async_save has returned: all is copied
        return AsyncSaveResponse(staging_completion=staged, upload_completion=saving)

    def dcp_load(
        self, state_dict: dict[str, Any], checkpoint_id: str, from_hf: bool, from_quantized: bool
    ) -> None:
        """Load a step of the store, or torchtitan's own where it is to begin from."""
        if from_hf or checkpoint_id == self.initial_load_path:
            super().dcp_load(state_dict, checkpoint_id, from_hf, from_quantized)
            return
        reader = BurstStorageReader(self.folder, nodes=self.nodes)
        try:
            load(state_dict, storage_reader=reader, checkpoint_id=checkpoint_id)
        finally:
            reader.close()
        self.states["model"].load_state_dict(state_dict)

    @torch.no_grad()
    def _load(self, step: int = -1) -> bool:
        """The step asked for, the newest, or what torchtitan is to begin from."""
        found = self._find_load_step() if step == -1 else step
        if found == -1:
            return bool(super()._load(-1))
        self.dcp_load(
            self._states_to_load(found == 0), self._create_checkpoint_id(found),
            from_hf=False, from_quantized=False,
        )  # fmt: skip
        return True

    def _find_load_step(self, folder: str = "") -> int:
        """The newest checkpoint, whatever its step; -1 where there is none."""
        place = folder or self.folder
        if not has_checkpoints(place):
            return -1
        with Store.open(place, create=False, read_only=True) as store:
            return store.read_commit().step

    def _should_purge(self) -> bool:
        """Never: retention is the store's."""
        return False

    def _own_writer(self) -> BurstStorageWriter:
        if self._writer is None:
            keep = Retention(last=self.keep_latest_k) if self.keep_latest_k else None
            self._writer = BurstStorageWriter(
                self.folder, options=Options(retention=keep), nodes=self.nodes
            )
        return self._writer

    def _close(self) -> None:
        super()._close()
        writer, self._writer = getattr(self, "_writer", None), None
        if writer is not None:
            writer.close()
