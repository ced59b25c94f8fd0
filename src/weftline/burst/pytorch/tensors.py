"""Tensors as the store sees them: a name for the dtype, raw bytes, a place in a larger tensor."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.distributed._functional_collectives import AsyncCollectiveTensor
from torch.distributed.tensor import DTensor

from weftline.burst.errors import MismatchError
from weftline.burst.pytorch.devices import DeviceCopies
from weftline.burst.pytorch.values import dtype_name
from weftline.burst.stage.state import Bytes1d, Shard, dtype_bytes, view_dtype


class TensorFill:
    """A tensor that must be copied element by element or from a device into the staging area."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self._tensor = tensor
        self._copies: DeviceCopies | None = None
        if tensor.device.type != "cpu":
            self._copies = DeviceCopies()
            self._copies.note(tensor.device)

    def fill(self, out: Bytes1d) -> None:
        """Write the tensor, row-major, into ``out`` and return when it has arrived."""
        target = torch.from_numpy(out).view(self._tensor.dtype).view(self._tensor.shape)
        # When this returns, training may change the tensor.
        if self._copies is None:
            target.copy_(self._tensor)
        else:
            self._copies.start(target, self._tensor)
            self._copies.finish()


def check_storable(tensor: torch.Tensor, name: str) -> None:
    """Raise MismatchError for a tensor whose bytes are not a plain row-major block."""
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        layout = f"{tensor.layout}".removeprefix("torch.")
        kind = "a meta tensor" if tensor.is_meta else "quantized" if tensor.is_quantized else layout
        raise MismatchError(
            f"tensor `{name}` cannot be stored: it is {kind}",
            hint="store its parts (indices, values, scales) as plain tensors",
        )
    dtype_bytes(dtype_name(tensor.dtype), where=name)


def shard_of(
    tensor: torch.Tensor,
    name: str,
    *,
    global_shape: tuple[int, ...] | None = None,
    offsets: tuple[int, ...] | None = None,
) -> Shard:
    """A shard that shares the memory of a contiguous host tensor, and copies any other late.

    The caller keeps the tensor unchanged until the store has staged it.
    """
    if type(tensor) is AsyncCollectiveTensor:
        tensor = tensor.wait()
    if type(tensor) not in (torch.Tensor, torch.nn.Parameter):
        kind = type(tensor)
        raise MismatchError(
            f"tensor `{name}` cannot be stored: it is a {kind.__module__}.{kind.__qualname__}",
            hint="store the plain tensors that it is made of",
        )
    if tensor.is_nested:
        raise MismatchError(
            f"tensor `{name}` cannot be stored: it is nested",
            hint="store its parts (values, offsets)",
        )
    plain = tensor.detach().resolve_conj().resolve_neg()
    check_storable(plain, name)
    data: Any = TensorFill(plain)
    if plain.device.type == "cpu" and plain.is_contiguous() and plain.numel():
        data = np.asarray(plain.reshape(-1).view(torch.uint8).numpy()).data
    elif not plain.numel():
        data = b""
    return Shard(
        data=data,
        dtype=dtype_name(plain.dtype),
        shape=tuple(plain.shape),
        global_shape=global_shape,
        offsets=offsets,
    )


def identity_of(tensor: torch.Tensor) -> tuple[Any, ...]:
    """Equal for tensors that are one: the same memory, read in the same way."""
    if isinstance(tensor, DTensor) or not tensor.numel():
        return (id(tensor),)
    return (
        tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype,
        tensor.device, tensor.is_conj(), tensor.is_neg(), type(tensor),
    )  # fmt: skip


def numpy_view(tensor: torch.Tensor) -> np.ndarray[Any, np.dtype[Any]] | None:
    """The host memory of ``tensor`` as NumPy sees its dtype; None where it must go by a copy."""
    plain = tensor.detach()
    if plain.device.type != "cpu" or plain.is_conj() or plain.is_neg():
        return None
    wanted = view_dtype(dtype_name(plain.dtype))
    if plain.dtype == torch.bool:
        return np.asarray(plain.numpy())
    try:
        same_width = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
        width = dtype_bytes(dtype_name(plain.dtype))
        if width == 16:
            return np.asarray(plain.numpy())
        return np.asarray(plain.view(same_width[width]).numpy().view(wanted))
    except (RuntimeError, ValueError):
        return None


def tensor_of(array: np.ndarray[Any, np.dtype[Any]], dtype: torch.dtype) -> torch.Tensor:
    """An array from the store (bfloat16 as uint16, fp8 as uint8) as a tensor on the same memory."""
    shape = tuple(array.shape)
    if not array.size:
        return torch.empty(shape, dtype=dtype)
    raw = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    if not raw.flags.writeable:
        raw = raw.copy()
    return torch.from_numpy(raw).view(dtype).view(shape)


def place_of(tensor: DTensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Global shape of a DTensor and the offsets at which this rank's block begins."""
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    _, offsets = compute_local_shape_and_global_offset(
        tensor.shape, tensor.device_mesh, tensor.placements
    )
    return tuple(tensor.shape), tuple(offsets)
