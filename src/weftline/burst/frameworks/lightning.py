"""Lightning's checkpoints in a burst store: ``Trainer(plugins=[BurstCheckpointIO("/nvme/run")])``.

Where Lightning would have written a file stands a pointer once the checkpoint is committed, so
ModelCheckpoint, ``save_top_k``, ``save_last`` and ``ckpt_path`` work as they do.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from weftline.burst.errors import CheckpointMissingError
from weftline.burst.frameworks.pointers import Keeper, Pointer, read_pointer
from weftline.burst.options import Options
from weftline.burst.pytorch.state import load, save
from weftline.burst.store import Store
from weftline.errors import InputError

try:
    from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO
except ImportError:  # the same package under its older name
    from lightning_fabric.plugins.io.checkpoint_io import CheckpointIO

__all__ = ["BurstCheckpointIO"]


class BurstCheckpointIO(CheckpointIO):
    """Saves what Lightning's strategies hand out into the burst store at ``store``.

    ``save_checkpoint`` returns after the copy; the rest is behind it, and is waited for by the next
    save and at the end of the fit. A failure is raised by the next save, or then. With
    ``wait=True`` every save is committed when it returns. ``ckpt_path`` may be the path Lightning
    gave, the store itself (the newest checkpoint), or ``STORE/step-10``.

    For strategies that hand out one state dict (single device, DDP, DeepSpeed in one file). FSDP
    and ModelParallel strategies write with torch.distributed.checkpoint by themselves.
    """

    def __init__(
        self,
        store: str | os.PathLike[str],
        *,
        options: Options | None = None,
        wait: bool = False,
    ) -> None:
        self._keeper = Keeper(store, writer="lightning", options=options)
        self._wait = wait

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str],
        storage_options: Any | None = None,
    ) -> None:  # fmt: skip
        """Save, and put a pointer at ``path`` once it is committed.

        Raises InputError for values that cannot be stored, and the error of an earlier save.
        """
        if storage_options is not None:
            raise InputError("storage_options mean nothing here", where="BurstCheckpointIO")
        keeper = self._keeper
        store = keeper.store()
        step = keeper.free_step(checkpoint.get("global_step"))
        Path(path).parent.mkdir(parents=True, exist_ok=True)  # a link may be made to it at once
        handle = save(checkpoint, store, step=step, wait=False, alone=True)
        pointer = Pointer(store=store.root, step=step)
        keeper.then(handle, lambda: _put(pointer, path, store))
        if self._wait:
            keeper.settle()

    def load_checkpoint(
        self, path: str | os.PathLike[str], map_location: Any = None,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        """The checkpoint that stands at ``path``, every byte checked; no pickle is read.

        Raises CheckpointMissingError, CorruptionError, InputError for a file of another kind.
        """
        del weights_only
        self._keeper.settle()
        device = map_location if isinstance(map_location, str) else "cpu"
        pointer = read_pointer(path)
        found = load(pointer.store, step=pointer.step, device=device)
        if not isinstance(found, dict):
            raise InputError("this checkpoint is none of Lightning's", where=os.fspath(path))
        return found

    def remove_checkpoint(self, path: str | os.PathLike[str]) -> None:
        """Delete the checkpoint and its pointer; a path where nothing is is left alone."""
        self._keeper.settle()
        place = Path(path)
        if place.is_symlink():
            place.unlink()
        elif place.exists():
            pointer = read_pointer(place)
            place.unlink()
            _drop(pointer, self._keeper.store())

    def teardown(self) -> None:
        """Wait for every save and close the store; raises the error of one that failed."""
        self._keeper.close()


def _put(pointer: Pointer, path: str | os.PathLike[str], store: Store) -> None:
    """The pointer in its place; what stood there before is dropped."""
    place = Path(path)
    try:
        before = read_pointer(place) if place.is_file() and not place.is_symlink() else None
    except InputError:
        before = None
    pointer.write(path)
    if before is not None:
        _drop(before, store)


def _drop(pointer: Pointer, store: Store) -> None:
    """Drop what a pointer meant, where it is a checkpoint of this store that is still there."""
    if pointer.step is None or pointer.store != store.root:
        return
    try:
        store.gc(drop=[pointer.step])
    except CheckpointMissingError:
        return
