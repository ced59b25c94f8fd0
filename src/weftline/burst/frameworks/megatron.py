"""Megatron-Core's dist-checkpointing with the sharded part in a burst store.

dist_checkpointing.save(state, folder, sharded_strategy=BurstSaveStrategy("/nvme/run"))
dist_checkpointing.load(state, folder)  # once this module has been imported

The folder keeps what Megatron writes itself: ``metadata.json``, and ``common.pt`` with what is the
same on all ranks. Beside them a pointer says which checkpoint of the store belongs to it.
"""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import Any, Final

import torch.distributed as dist
from megatron.core.dist_checkpointing.core import CheckpointingException
from megatron.core.dist_checkpointing.mapping import ShardedObject, ShardedTensor
from megatron.core.dist_checkpointing.strategies import torch as theirs
from megatron.core.dist_checkpointing.strategies.async_utils import AsyncRequest
from megatron.core.dist_checkpointing.strategies.base import (
    AsyncSaveShardedStrategy,
    LoadShardedStrategy,
    StrategyAction,
    register_default_strategy,
)
from torch.distributed.checkpoint.metadata import BytesStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load

from weftline.burst.frameworks.pointers import Keeper, Pointer, read_pointer
from weftline.burst.handle import SaveHandle
from weftline.burst.nodes.cluster import Nodes
from weftline.burst.options import Options
from weftline.burst.pytorch.group import save_jointly
from weftline.burst.pytorch.joint import own_rank
from weftline.burst.pytorch.reader import BurstStorageReader

__all__ = ["BurstLoadStrategy", "BurstSaveStrategy"]

BACKEND: Final = "weftline_burst"
POINTER: Final = "burst.json"
_ITERATION: Final = re.compile(r"(\d{1,18})$")
_POLL_S: Final = 0.2


class BurstSaveStrategy(AsyncSaveShardedStrategy):
    """Saves sharded tensors and objects of all ranks as one checkpoint of the store at ``store``.

    Its step is the number that the folder's name ends in (``iter_0000100``), else the next. With
    ``async_sharded_save=True`` training goes on after the copy, and the folder is finished once the
    checkpoint is committed. Sharded objects are stored as plain values, or refused by name.
    """

    def __init__(
        self,
        store: str | os.PathLike[str],
        *,
        options: Options | None = None,
        nodes: Nodes | None = None,
    ) -> None:
        super().__init__(BACKEND, 1)
        self._keeper = Keeper(store, writer=f"rank{own_rank()}", options=options, nodes=nodes)

    def can_handle_sharded_objects(self) -> bool:
        """They are stored with the tensors."""
        return True

    def save(self, sharded_state_dict: Any, checkpoint_dir: str | os.PathLike[str]) -> None:
        """Save, and return when it is committed. Raises CommitError on all ranks."""
        self._finish(self._stage(sharded_state_dict, checkpoint_dir), checkpoint_dir)

    def async_save(
        self, sharded_state_dict: Any, checkpoint_dir: str | os.PathLike[str]
    ) -> AsyncRequest:
        """Save behind training: what Megatron schedules only waits, in a process of its own."""
        handle = self._stage(sharded_state_dict, checkpoint_dir)
        ended = Path(checkpoint_dir, f".burst-ended-{own_rank()}")
        self._keeper.when_ended(handle, ended.touch)

        def finalize() -> None:
            ended.unlink(missing_ok=True)
            self._finish(handle, checkpoint_dir)

        return AsyncRequest(_until_there, (str(ended),), [finalize])

    def close(self) -> None:
        """Wait for every save, and close the store."""
        self._keeper.close()

    def _stage(self, sharded: Any, folder: str | os.PathLike[str]) -> SaveHandle:
        flat, _, _ = theirs._replace_state_dict_keys_with_sharded_keys(sharded, True)
        number = _ITERATION.search(os.path.basename(os.path.normpath(folder)))  # noqa: PTH119
        planner = theirs.MCoreSavePlanner(dedup_replicated_tensors=False, flatten_state_dict=False)
        return save_jointly(
            _for_torch(flat, loading=False), self._keeper.store(),
            None if number is None else int(number[1]), planner=planner,
        )  # fmt: skip

    def _finish(self, handle: SaveHandle, folder: str | os.PathLike[str]) -> None:
        handle.wait()
        if dist.get_rank() == 0:
            Pointer(store=self._keeper.path, step=handle.step).write(Path(folder, POINTER))
        dist.barrier()


class BurstLoadStrategy(LoadShardedStrategy):
    """Loads what :class:`BurstSaveStrategy` saved, into any sharding; every byte is checked."""

    def __init__(self, *, nodes: Nodes | None = None) -> None:
        super().__init__()
        self._nodes = nodes

    def can_handle_sharded_objects(self) -> bool:
        """They are stored with the tensors."""
        return True

    def load(self, sharded_state_dict: Any, checkpoint_dir: str | os.PathLike[str]) -> Any:
        """The state dict with tensors and objects in the places of their shards."""
        tensors = [
            one for one in theirs.nested_values(sharded_state_dict)
            if isinstance(one, ShardedTensor)
        ]  # fmt: skip
        flat, mapping, renamed = theirs._replace_state_dict_keys_with_sharded_keys(
            sharded_state_dict
        )
        found = _for_torch(flat, loading=True)
        planner = theirs.MCoreLoadPlanner(
            shapes_validation_sharded_tensors=[t for t in tensors if not t.allow_shape_mismatch],
            allow_shape_mismatch_sharded_tensors={
                t.key: t for t in tensors if t.allow_shape_mismatch
            },
        )
        reader = self._reader(checkpoint_dir)
        try:
            load(found, storage_reader=reader, planner=planner)
        finally:
            reader.close()
        plain = {k: theirs._unwrap_pyt_sharded_tensor(v) for k, v in found.items()}
        nested = theirs._replace_sharded_keys_with_state_dict_keys(plain, mapping, renamed)
        theirs._restore_dict_types(nested, sharded_state_dict)
        return nested

    def load_tensors_metadata(self, checkpoint_dir: str | os.PathLike[str]) -> Any:
        """Key -> ShardedTensor of the whole shape, without data."""
        metadata = self._metadata(checkpoint_dir)
        return theirs.TorchDistLoadShardedStrategy().load_tensors_metadata(
            Path(checkpoint_dir), metadata
        )

    def load_sharded_metadata(self, checkpoint_dir: str | os.PathLike[str]) -> Any:
        """The same for tensors and objects."""
        metadata = self._metadata(checkpoint_dir)
        found = {
            key: ShardedObject.empty_from_unique_key(key)
            for key, about in metadata.state_dict_metadata.items()
            if isinstance(about, BytesStorageMetadata)
        }
        return found | self.load_tensors_metadata(checkpoint_dir)

    def check_backend_compatibility(self, loaded_backend: str) -> None:
        """Raises CheckpointingException for a folder that another strategy wrote."""
        if loaded_backend != BACKEND:
            raise CheckpointingException(f"this was saved as {loaded_backend}, not {BACKEND}")

    def check_version_compatibility(self, loaded_version: int) -> None:
        """Raises CheckpointingException for what a newer strategy wrote."""
        if loaded_version > 1:
            raise CheckpointingException(f"{BACKEND} version {loaded_version} is not known here")

    def _reader(self, folder: str | os.PathLike[str]) -> BurstStorageReader:
        pointer = read_pointer(Path(folder, POINTER))
        return BurstStorageReader(pointer.store, step=pointer.step, nodes=self._nodes)

    def _metadata(self, folder: str | os.PathLike[str]) -> Any:
        reader = self._reader(folder)
        try:
            return reader.read_metadata()
        finally:
            reader.close()


def _for_torch(flat: dict[str, list[Any]], *, loading: bool) -> dict[str, Any]:
    """Lists of shards by key, tensors as Megatron gives them to torch, objects as plain values."""
    tensors = {k: v for k, v in flat.items() if isinstance(v[0], ShardedTensor)}
    found: dict[str, Any] = dict(theirs.mcore_to_pyt_state_dict(tensors, loading))
    for key, shards in flat.items():
        if key not in tensors:
            found[key] = [None if loading else one.data for one in shards]
    return found


def _until_there(path: str) -> None:
    """Return once a file is there."""
    while not os.path.exists(path):  # noqa: PTH110  (runs in a process that Megatron forks)
        time.sleep(_POLL_S)


register_default_strategy(StrategyAction.LOAD_SHARDED, BACKEND, 1, BurstLoadStrategy())
