"""What a checkpoint is made of: named tensors, whole or blocks of a larger one, and dtypes.

Nothing here knows NumPy's limits: a dtype is a name and a width, so bfloat16, fp8 and packed fp4
pass through as raw bytes under their own names.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

from weftline.burst.errors import BadNameError, MismatchError

__all__ = [
    "DTYPES",
    "Bytes1d",
    "Fill",
    "Part",
    "Shard",
    "State",
    "check_name",
    "check_word",
    "dtype_bytes",
    "parts_of",
    "view_dtype",
]

Bytes1d: TypeAlias = Any
"""A 1-d ndarray of uint8. ``Any``, because its stubs call it a buffer only from Python 3.12 on."""

DTYPES: Final[Mapping[str, tuple[int, str]]] = {
    "bool": (1, "bool"),
    "int8": (1, "int8"),
    "int16": (2, "int16"),
    "int32": (4, "int32"),
    "int64": (8, "int64"),
    "uint8": (1, "uint8"),
    "uint16": (2, "uint16"),
    "uint32": (4, "uint32"),
    "uint64": (8, "uint64"),
    "float16": (2, "float16"),
    "float32": (4, "float32"),
    "float64": (8, "float64"),
    "complex32": (4, "uint32"),
    "complex64": (8, "complex64"),
    "complex128": (16, "complex128"),
    "bfloat16": (2, "uint16"),
    "float8_e4m3fn": (1, "uint8"),
    "float8_e4m3fnuz": (1, "uint8"),
    "float8_e5m2": (1, "uint8"),
    "float8_e5m2fnuz": (1, "uint8"),
    "float8_e8m0fnu": (1, "uint8"),
    "float4_e2m1fn_x2": (1, "uint8"),
}
"""Name -> bytes an element, and the NumPy dtype its bytes are shown as.

``float4_e2m1fn_x2`` holds two values in a byte; shapes count bytes, as in PyTorch.
"""

_NAME_BYTES_MAX: Final = 1024
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")


@runtime_checkable
class Fill(Protocol):
    """Data that is not in host memory: it copies itself into the staging area."""

    def fill(self, out: Bytes1d) -> None:
        """Write all bytes, row-major, into ``out``; return when they are there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """One block of a tensor, as this rank holds it."""

    data: Any
    """An ndarray (any strides), anything with the buffer protocol, or a :class:`Fill`."""
    dtype: str | None = None
    """A name in ``DTYPES``; taken from the array where there is one."""
    shape: tuple[int, ...] | None = None
    """Shape of this block; taken from the array where there is one."""
    global_shape: tuple[int, ...] | None = None
    """Shape of the whole tensor; the block's own shape by default."""
    offsets: tuple[int, ...] | None = None
    """Where the block starts in the whole, one index a dimension; zeros by default."""


State = Mapping[str, Any]
"""Tensor name -> ndarray, :class:`Shard`, or a list of shards of that tensor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A shard with everything filled in and checked."""

    name: str
    index: int
    """Number of the block among those of this tensor on this rank."""
    data: Any
    dtype: str
    shape: tuple[int, ...]
    global_shape: tuple[int, ...]
    offsets: tuple[int, ...]
    nbytes: int
    """Bytes of the block."""


def dtype_bytes(dtype: str, *, where: str | None = None) -> int:
    """Bytes an element. Raises MismatchError for a dtype that is not in ``DTYPES``."""
    try:
        return DTYPES[dtype][0]
    except KeyError:
        raise MismatchError(
            f"dtype `{dtype}` cannot be stored", where=where, hint=f"one of {', '.join(DTYPES)}"
        ) from None


def view_dtype(dtype: str) -> np.dtype[Any]:
    """The NumPy dtype that shows these bytes; an unsigned integer where NumPy has none."""
    dtype_bytes(dtype)
    return np.dtype(DTYPES[dtype][1]).newbyteorder("<")


def check_name(name: str, *, what: str = "tensor name", where: str | None = None) -> None:
    """Refuse a name that could not be stored, or that as a path would lead elsewhere.

    Raises BadNameError. ``/`` may part a name; ``..``, ``.``, a leading ``/`` and control
    characters may not stand in it.
    """
    if not isinstance(name, str) or not name:
        raise BadNameError(f"{what} `{name!r}` is empty or not text", where=where)
    pieces = name.replace("\\", "/").split("/")
    if ".." in pieces or "." in pieces or "" in pieces:
        raise BadNameError(
            f"{what} `{name}` is a path that leads elsewhere",
            where=where,
            hint="leave out `..`, `.`, `//` and a slash at either end",
        )
    if _CONTROL.search(name):
        raise BadNameError(f"{what} {name!r} has a control character", where=where)
    try:
        length = len(name.encode())
    except UnicodeEncodeError:
        raise BadNameError(f"{what} {name!r} is not valid text", where=where) from None
    if length > _NAME_BYTES_MAX:
        raise BadNameError(
            f"{what} `{name[:40]}...` has {length} bytes, more than {_NAME_BYTES_MAX}", where=where
        )


def check_word(word: str, *, what: str, where: str | None = None) -> None:
    """Refuse a writer's or owner's name that is not a plain file name. Raises BadNameError."""
    fine = bool(word) and all(c.isascii() and (c.isalnum() or c in "-_.") for c in word)
    if not fine or word.startswith(".") or len(word) > 64:
        raise BadNameError(
            f"{what} `{word}` is refused",
            where=where,
            hint="up to 64 of a-z, A-Z, 0-9, `-`, `_`, `.`, not starting with a dot",
        )


def parts_of(state: State, *, where: str | None = None) -> list[Part]:
    """The state as checked parts, sorted by name. Raises BadNameError or MismatchError."""
    parts: list[Part] = []
    for name in sorted(state, key=str):
        check_name(name, where=where)
        value = state[name]
        shards: Sequence[Any] = value if isinstance(value, list | tuple) else [value]
        if not shards or (
            shards is value and not all(isinstance(s, Shard | np.ndarray) for s in shards)
        ):
            raise MismatchError(
                f"tensor `{name}` is a {type(value).__name__}, but not of shards", where=where,
                hint="make an array of it, or a list of Shard",
            )  # fmt: skip
        new = [
            _part(name, i, s if isinstance(s, Shard) else Shard(data=s), where)
            for i, s in enumerate(shards)
        ]
        first = new[0]
        for p in new[1:]:
            if (p.dtype, p.global_shape) != (first.dtype, first.global_shape):
                raise MismatchError(
                    f"shards of `{name}` disagree: {first.dtype} {first.global_shape} and "
                    f"{p.dtype} {p.global_shape}",
                    where=where,
                )
        parts += new
    return parts


def _part(name: str, index: int, shard: Shard, where: str | None) -> Part:
    dtype, shape, data = shard.dtype, shard.shape, shard.data
    if not isinstance(data, np.ndarray | np.generic) and isinstance(data, Fill):
        if dtype is None or shape is None:
            raise MismatchError(f"shard of `{name}` needs a dtype and a shape", where=where)
    else:
        data, dtype, shape = _host_data(name, data, dtype, shape, where)
    shape = tuple(int(n) for n in shape)
    whole = shape if shard.global_shape is None else tuple(int(n) for n in shard.global_shape)
    at = (0,) * len(whole) if shard.offsets is None else tuple(int(n) for n in shard.offsets)
    width = dtype_bytes(dtype, where=name if where is None else f"{where}: {name}")
    inside = len(shape) == len(whole) == len(at) and all(
        n >= 0 and o >= 0 and o + n <= w for n, o, w in zip(shape, at, whole, strict=True)
    )
    if not inside:
        raise MismatchError(
            f"shard of `{name}`: a block of shape {shape} at {at} is not inside {whole}",
            where=where,
        )
    return Part(
        name=name, index=index, data=data, dtype=dtype, shape=shape, global_shape=whole,
        offsets=at, nbytes=math.prod(shape) * width,
    )  # fmt: skip


def _host_data(
    name: str, data: Any, dtype: str | None, shape: tuple[int, ...] | None, where: str | None
) -> tuple[npt.NDArray[Any], str, tuple[int, ...]]:
    """The block as an ndarray whose bytes are the block's, row-major."""
    if isinstance(data, np.ndarray):
        array = data
    elif isinstance(data, bool | int | float | complex | np.generic):
        array = np.asarray(data)
    else:
        try:
            array = np.frombuffer(data, np.uint8)
        except (TypeError, ValueError, BufferError) as e:
            raise MismatchError(
                f"tensor `{name}` is a {type(data).__name__}: not an array, a buffer or a shard",
                where=where,
            ) from e
        if dtype is None and shape is None:
            return array, "uint8", array.shape
    if array.dtype.byteorder == ">":
        array = array.astype(array.dtype.newbyteorder("<"))
    own = array.dtype.name
    dtype = own if dtype is None else dtype
    shape = array.shape if shape is None else tuple(shape)
    width = dtype_bytes(dtype, where=where)
    if own not in DTYPES and array.dtype.itemsize != width:
        raise MismatchError(f"tensor `{name}` has dtype {own}, which has no bytes", where=where)
    if math.prod(shape) * width != array.nbytes:
        raise MismatchError(
            f"tensor `{name}`: {array.nbytes} bytes of data are not {dtype} {shape}", where=where
        )
    return array, dtype, shape
