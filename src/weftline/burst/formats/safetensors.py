"""The safetensors container, read and written here: no torch, no pickle, one tensor at a time.

Bytes: header length (8, little-endian), header (JSON, padded with spaces to a multiple of 8), data.
The header maps a name to ``dtype``, ``shape`` and ``data_offsets`` (from the end of the header);
``__metadata__`` maps text to text. Data has no holes, and wide elements come first, so that every
tensor is aligned.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from weftline.burst.errors import CorruptionError, MismatchError
from weftline.burst.files import Buffer, Files, RealFiles
from weftline.burst.stage.state import Shard, check_name, dtype_bytes
from weftline.errors import InputError

__all__ = ["Entry", "in_order", "read_safetensors", "write_safetensors"]

HEADER_BYTES_MOST: Final = 100_000_000
"""As in the reference implementation: a longer header is refused, not read."""
_NAMES: Final = {
    "bool": "BOOL", "uint8": "U8", "int8": "I8", "int16": "I16", "uint16": "U16", "float16": "F16",
    "bfloat16": "BF16", "int32": "I32", "uint32": "U32", "float32": "F32", "float64": "F64",
    "int64": "I64", "uint64": "U64", "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2",
    "float8_e8m0fnu": "F8_E8M0", "float4_e2m1fn_x2": "F4", "complex64": "C64",
}  # fmt: skip
_DTYPES: Final = {theirs: ours for ours, theirs in _NAMES.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A tensor to be written; ``data`` is called when its turn comes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    """As burst counts: bytes, not values, in the last dimension of packed fp4."""
    data: Callable[[], Buffer]

    @property
    def nbytes(self) -> int:
        """Bytes of data."""
        return math.prod(self.shape) * dtype_bytes(self.dtype)


def write_safetensors(
    path: str,
    entries: Sequence[Entry],
    *,
    metadata: Mapping[str, str] | None = None,
    files: Files | None = None,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Write one file so that it is whole or absent after any crash; its length in bytes.

    Raises MismatchError for a dtype that the format lacks, and StorageError.
    """
    files = RealFiles() if files is None else files
    ordered = in_order(entries)
    head = _header(ordered, metadata or {}, path)
    temporary = f"{path}.tmp"
    files.unlink(temporary)
    handle = files.open(temporary, "x")
    try:
        handle.write_at([head], 0)
        at = len(head)
        for entry in ordered:
            data = memoryview(entry.data()).cast("B")
            if len(data) != entry.nbytes:
                raise MismatchError(
                    f"tensor `{entry.name}` has {len(data)} bytes, not {entry.nbytes}", where=path
                )
            if len(data):
                handle.write_at([data], at)
            at += len(data)
            if progress is not None:
                progress(len(data))
        handle.sync()
    except BaseException:
        handle.close()
        files.unlink(temporary)
        raise
    handle.close()
    files.rename(temporary, path)
    files.sync_dir(path.rpartition("/")[0] or ".")
    return at


def in_order(entries: Iterable[Entry]) -> list[Entry]:
    """The order in which a file holds its tensors, and asks for them."""
    return sorted(entries, key=lambda e: (-dtype_bytes(e.dtype), e.name))


def _header(entries: Iterable[Entry], metadata: Mapping[str, str], path: str) -> bytes:
    head: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    at = 0
    for entry in entries:
        if entry.dtype not in _NAMES:
            raise MismatchError(
                f"tensor `{entry.name}` is {entry.dtype}, which safetensors cannot hold",
                where=path, hint="leave it out: name those to export",
            )  # fmt: skip
        shape = list(entry.shape)
        if entry.dtype == "float4_e2m1fn_x2":
            if not shape:
                raise MismatchError(f"tensor `{entry.name}`: packed fp4 needs a dimension")
            shape[-1] *= 2  # values there, bytes here
        head[entry.name] = {
            "dtype": _NAMES[entry.dtype], "shape": shape, "data_offsets": [at, at + entry.nbytes],
        }  # fmt: skip
        at += entry.nbytes
    text = json.dumps(head, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > HEADER_BYTES_MOST:
        raise MismatchError("too many tensors for one file", where=path, hint="use smaller shards")
    return len(text).to_bytes(8, "little") + text


def read_safetensors(path: str) -> tuple[dict[str, Shard], dict[str, str]]:
    """The tensors of a file, mapped and not yet read, and its metadata.

    Raises CorruptionError for what is no such file, StorageError where it cannot be read.
    """
    import mmap

    import numpy as np

    try:
        with open(path, "rb") as file:  # noqa: PTH123
            file.seek(0, 2)
            size = file.tell()
            mapped: Any = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=path) from error
    head, start = _read_header(mapped, size, path)
    whole = np.frombuffer(mapped, np.uint8)
    metadata = head.pop("__metadata__", {})
    found: dict[str, Shard] = {}
    end = 0
    for name, item in sorted(head.items(), key=lambda kv: _offsets(kv[1], path)):
        first, last = _offsets(item, path)
        dtype = _DTYPES.get(str(item.get("dtype")))
        if dtype is None:
            raise MismatchError(f"tensor `{name}` has dtype {item.get('dtype')!r}", where=path)
        check_name(name, where=path)
        shape = tuple(int(n) for n in item.get("shape", ()))
        if dtype == "float4_e2m1fn_x2" and shape:
            shape = (*shape[:-1], shape[-1] // 2)
        wanted = math.prod(shape) * dtype_bytes(dtype)
        if first != end or last - first != wanted or start + last > size or min((0, *shape)) < 0:
            raise CorruptionError(
                f"the header says bytes {first} to {last} for {dtype} {list(shape)}",
                file=path, tensor=name, hint="the file is cut short or was not written whole",
            )  # fmt: skip
        end = last
        found[name] = Shard(data=whole[start + first : start + last], dtype=dtype, shape=shape)
    if start + end != size:
        raise CorruptionError(
            f"the file has {size} bytes, its header accounts for {start + end}", file=path,
            hint="the file is cut short or was not written whole",
        )  # fmt: skip
    return found, {str(k): str(v) for k, v in metadata.items()}


def _read_header(mapped: Any, size: int, path: str) -> tuple[dict[str, Any], int]:
    length = int.from_bytes(mapped[:8], "little") if size >= 8 else -1
    if not 2 <= length <= min(HEADER_BYTES_MOST, size - 8):
        raise CorruptionError(
            "this is not a safetensors file, or its start is damaged", file=path, offset_bytes=0,
            hint="name a .safetensors or .npz file",
        )  # fmt: skip
    try:
        head = json.loads(bytes(mapped[8 : 8 + length]))
        if not isinstance(head, dict) or not all(isinstance(v, dict) for v in head.values()):
            raise ValueError("not a table of tensors")
    except (ValueError, RecursionError) as error:
        raise CorruptionError(
            f"the header cannot be read: {error}", file=path, offset_bytes=8
        ) from None
    return head, 8 + length


def _offsets(item: Mapping[str, Any], path: str) -> tuple[int, int]:
    found = item.get("data_offsets")
    if (
        not isinstance(found, list)
        or len(found) != 2
        or not all(isinstance(n, int) and n >= 0 for n in found)
    ):
        raise CorruptionError(f"data_offsets are {found!r}", file=path, offset_bytes=8)
    return found[0], found[1]
