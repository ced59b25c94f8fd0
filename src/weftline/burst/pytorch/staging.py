"""Staging for torch's asynchronous saves, straight into the memory that is written from.

Torch copies a state dict before it lets training go on; burst would copy it again into its arena.
Here torch's copy is the arena: every storage gets pages of it, and the save that follows writes
what it finds there from where it lies. One copy, one more state of memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch.distributed.checkpoint._state_dict_stager import StateDictStager
from torch.distributed.tensor import DTensor

from weftline.burst.files import ALIGN_BYTES
from weftline.burst.pytorch.devices import DeviceCopies
from weftline.burst.stage.arena import Lease
from weftline.burst.store import Store

__all__ = ["stage_into"]


def stage_into(store: Store, state_dict: dict[str, Any]) -> tuple[dict[str, Any], Lease]:
    """A copy of a state dict in staging memory of ``store``, and the lease on that memory.

    Waits while an earlier save has it. On return the state may change. Tensors of devices are
    copied meanwhile, on streams of their own, into memory that the store's ``pinner`` has pinned.
    """
    nbytes = sum(-(-s.nbytes() // ALIGN_BYTES) * ALIGN_BYTES for s in _storages(state_dict, set()))
    lease = store.lend(nbytes)
    stager = _Stager(store, lease)
    try:
        staged = stager.stage(state_dict, non_blocking=True)
        stager.finish()
    except BaseException:
        lease.give_back()
        raise
    return staged, lease


class _Stager(StateDictStager):
    """Torch's own deep copy, with memory of a lease for every storage."""

    def __init__(self, store: Store, lease: Lease) -> None:
        super().__init__()
        self._store = store
        self._lease = lease
        self._pairs: list[tuple[Any, Any]] = []
        self._copies = DeviceCopies()

    def _stage_untyped_storage(
        self,
        storage: torch.UntypedStorage,
        non_blocking: bool = False,  # noqa: ARG002  (torch's signature; a stager always is)
    ) -> torch.UntypedStorage:
        nbytes = storage.nbytes()
        room = self._lease.take(nbytes) if nbytes else None
        if room is None:
            # Beyond what was counted: a container whose tensors are not seen from outside.
            mine = torch.empty(nbytes, dtype=torch.uint8).untyped_storage()
            mine.copy_(storage)
            return mine
        whole = torch.from_numpy(room)
        if storage.device.type == "cpu":
            data = torch.empty(0, dtype=torch.uint8).set_(storage)
            self._pairs.append((room, data.numpy()))
        else:
            self._copies.note(storage.device)
            self._copies.start(whole.untyped_storage(), storage)
        return whole.untyped_storage()

    def finish(self) -> None:
        """Copy what lies in host memory, by all threads, and wait for devices."""
        self._store.copy_into(self._lease, self._pairs)
        self._copies.finish()


def _storages(value: Any, met: set[int]) -> Iterator[torch.UntypedStorage]:
    """Every storage in a nesting of containers, once."""
    if isinstance(value, DTensor):
        value = value.to_local()
    if isinstance(value, torch.Tensor):
        try:
            storage = value.untyped_storage()
        except (NotImplementedError, RuntimeError):
            return  # a subclass without memory of its own
        if id(storage) not in met:
            met.add(id(storage))
            yield storage
        return
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for one in value:
            yield from _storages(one, met)
