"""Tensors in memory that all ranks of a host reach: their sums need no copy to and from slots.

torch moves a storage into a shared memory file without a name, in place, so that every view of it
(DDP's buckets and the gradients in them) moves along; the others map the file through ``/proc``.
"""

from __future__ import annotations

import mmap
import os
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch

from weftline.fabric.graph import IntArray

__all__ = ["Shared", "share_buckets"]

_SPARE: Final = 1 << 20
"""Left in /dev/shm by a storage that moves there."""


@dataclass(frozen=True, slots=True, eq=False)
class Shared:
    """A storage of every rank, mapped here."""

    storage: Any
    """This rank's: while it is held its memory is no other tensor's."""
    addresses: IntArray
    """[ranks] of the tensor in each rank's storage."""
    size_bytes: int
    maps: tuple[mmap.mmap, ...]

    def holds(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor that begins where this one does is all of it, or its begin."""
        return tensor.numel() * tensor.element_size() <= self.size_bytes

    @classmethod
    def of(cls, group: Any, tensor: torch.Tensor) -> bool:
        """Move a tensor's storage there, on all ranks; False where it stays."""
        storage: Any = tensor.untyped_storage()
        size, offset = storage.nbytes(), tensor.data_ptr() - storage.data_ptr()
        here = group.ranks_.one_host and tensor.is_contiguous() and _room(size)
        said = torch.tensor([int(here), -int(here), size, -size])
        group._reduce(said, torch.distributed.ReduceOp.MIN)
        if said[0] != 1 or said[2] != -said[3]:
            return False
        file, _ = storage._share_fd_cpu_()  # in place; the file stays the storage's
        mine = torch.tensor([os.getpid(), file, offset])
        every = torch.empty((group.many, 3), dtype=torch.int64)
        group.all_gather_single(every, mine)
        addresses = np.zeros(group.many, np.int64)
        maps = []
        for rank, (pid, number, begin) in enumerate(every.tolist()):
            if rank == group.me:
                addresses[rank] = tensor.data_ptr()
                continue
            other = os.open(f"/proc/{pid}/fd/{number}", os.O_RDWR)
            maps.append(mmap.mmap(other, size))
            os.close(other)
            addresses[rank] = np.frombuffer(maps[-1], np.uint8).ctypes.data + begin
        group.barrier()
        bytes_ = tensor.numel() * tensor.element_size()
        group.shared[tensor.data_ptr()] = cls(storage, addresses, bytes_, tuple(maps))
        return True


def _room(size: int) -> bool:
    """Whether a file of that size fits into the host's shared memory."""
    try:
        found = os.statvfs("/dev/shm")  # noqa: S108
    except OSError:
        return False
    return found.f_bavail * found.f_frsize > size + _SPARE


class _Buckets:
    """Which buckets of a DDP module are shared: decided alike on all ranks."""

    def __init__(self, group: Any) -> None:
        self.group = group
        self.rounds = 0
        self.known: set[int] = set()

    def hook(self, bucket: Any) -> Any:
        """The mean of a bucket of gradients."""
        buffer = bucket.buffer()
        # DDP lays its buckets out anew after the first backward pass, and then keeps them.
        if self.rounds > 0 and bucket.index() not in self.known:
            self.known.add(bucket.index())
            self.group.share(buffer)
        if bucket.is_last():
            self.rounds += 1
        self.group.allreduce([buffer])
        future: Any = torch.futures.Future()
        future.set_result(buffer.div_(self.group.many))
        return future


def share_buckets(module: Any, group: Any) -> None:
    """Let the gradients of a DDP module live in shared memory, where ``group`` is ours.

    For modules with ``gradient_as_bucket_view``: gradients are summed where backward wrote them.
    """
    buckets = _Buckets(group)
    module.register_comm_hook(buckets, _hook)


def _hook(buckets: _Buckets, bucket: Any) -> Any:
    return buckets.hook(bucket)


# torch asks for the class itself, not for its name.
_hook.__annotations__ = {"bucket": torch._C._distributed_c10d.GradBucket}
