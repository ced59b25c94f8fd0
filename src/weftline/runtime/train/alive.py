"""How many bytes of tensors are alive at once, counted as operators make them."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["Alive"]


class Alive(TorchDispatchMode):
    """Counts what is made while it is in force; what was there before does not count."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0
        self.peak_bytes = 0
        self._met: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        known = {id(_storage(t)) for t in tree_leaves((args, kwargs)) if _plain(t)}
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if _plain(tensor):
                self._note(_storage(tensor), known)
        return made

    def _note(self, storage: Any, known: set[int]) -> None:
        key = id(storage)
        if key in self._met or key in known:
            return
        size = int(storage.nbytes())
        self._met.add(key)
        self.bytes += size
        self.peak_bytes = max(self.peak_bytes, self.bytes)
        weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self._met.discard(key)
        self.bytes -= size


def _plain(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.layout == torch.strided


def _storage(tensor: torch.Tensor) -> Any:
    return tensor.untyped_storage()
