"""DeepSpeed in a burst store: ``engine.checkpoint_engine = BurstCheckpointEngine("/nvme/run")``.

Every rank hands over several files of a tag. They become one checkpoint of all ranks, committed
when DeepSpeed commits the tag; where the files would have been stand pointers then, so that
``load_checkpoint``, ``latest`` and tags work as they do.
"""

from __future__ import annotations

import enum
import os
from typing import Any, Final

import torch.distributed as dist
from deepspeed.runtime.checkpoint_engine.checkpoint_engine import (
    CheckpointCommitInfo,
    CheckpointEngine,
)
from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
from deepspeed.runtime.zero.config import ZeroStageEnum
from deepspeed.utils.tensor_fragment import fragment_address

from weftline.burst.frameworks.pointers import Keeper, Pointer, read_pointer
from weftline.burst.nodes.cluster import Nodes
from weftline.burst.options import Options
from weftline.burst.pytorch.joint import own_rank
from weftline.burst.pytorch.state import load, save
from weftline.errors import InputError

__all__ = ["BurstCheckpointEngine"]

_KINDS: Final[dict[str, Any]] = {
    k.__name__: k for k in (LossScaler, DynamicLossScaler, fragment_address, ZeroStageEnum)
}
"""Objects of DeepSpeed's own that stand in its state: taken apart into plain values, made again."""
_KIND: Final = "deepspeed.kind"


class BurstCheckpointEngine(CheckpointEngine):
    """Keeps DeepSpeed's files of a tag as one checkpoint of the burst store at ``store``.

    ``commit`` returns when all ranks' shares are durable and committed: DeepSpeed writes ``latest``
    after it. Values that cannot be stored are refused by name, on all ranks.
    """

    def __init__(
        self,
        store: str | os.PathLike[str],
        *,
        options: Options | None = None,
        nodes: Nodes | None = None,
    ) -> None:
        super().__init__()
        self.name = "BurstCheckpointEngine"
        self._nodes = nodes
        self._keeper = Keeper(store, writer=f"rank{own_rank()}", options=options, nodes=nodes)
        self._files: dict[str, Any] = {}

    def create(self, info: CheckpointCommitInfo) -> None:
        """A tag begins."""
        del info
        self._files = {}

    def save(self, state_dict: Any, path: str) -> None:
        """Note a file of this tag; it is written by :meth:`commit`."""
        self._files[os.path.abspath(path)] = _apart(state_dict)  # noqa: PTH100

    def commit(self, info: CheckpointCommitInfo) -> bool:
        """Save the files of all ranks as one checkpoint, then put the pointers in their places.

        Raises CommitError, on all ranks, where one rank cannot.
        """
        store = self._keeper.store()
        root = os.path.abspath(info.save_dir)  # noqa: PTH100
        named = {os.path.relpath(path, root): state for path, state in self._files.items()}
        handle = save(named, store, wait=True)
        for path in self._files:
            part = os.path.relpath(path, root)
            Pointer(store=store.root, step=handle.step, part=part).write(path)
        self._files = {}
        if dist.is_initialized():
            dist.barrier()
        return True

    def load(self, path: str, map_location: Any = None) -> Any:
        """What was saved as this file, every byte checked; nothing else of the tag is read."""
        pointer = read_pointer(path)
        if not pointer.part:
            raise InputError("this is a whole checkpoint, and no file of one", where=path)
        device = map_location if isinstance(map_location, str) else "cpu"
        return _together(load(pointer.store, step=pointer.step, device=device, only=pointer.part))

    def cleanup(self) -> None:
        """Close the store."""
        self._keeper.close()


def _apart(value: Any) -> Any:
    """A tree with DeepSpeed's own objects as dictionaries that say what they were."""
    kind = type(value)
    if _KINDS.get(kind.__name__) is kind:
        inner = value.value if isinstance(value, enum.Enum) else dict(vars(value))
        return {_KIND: kind.__name__, "value": _apart(inner)}
    if isinstance(value, dict):
        made: Any = kind() if kind is not dict else {}
        made.update((k, _apart(v)) for k, v in value.items())
        if hasattr(value, "_metadata"):
            made._metadata = value._metadata
        return made
    return kind(_apart(v) for v in value) if kind in (list, tuple) else value


def _together(value: Any) -> Any:
    """What :func:`_apart` took apart."""
    if isinstance(value, dict):
        if _KIND in value:
            kind, inner = _KINDS[value[_KIND]], _together(value["value"])
            if issubclass(kind, enum.Enum):
                return kind(inner)
            made = kind.__new__(kind)
            made.__dict__.update(inner)
            return made
        for key in value:
            value[key] = _together(value[key])
        return value
    return type(value)(_together(v) for v in value) if type(value) in (list, tuple) else value
