"""Checkpoints that other tools wrote, into a store: DCP folders, torch.save files, safetensors.

Nothing in them is executed. ``torch.save`` files and values are read with ``weights_only``; the
``.metadata`` of a DCP folder, a pickle, by an unpickler that makes nothing but what describes
tensors. What would need more is refused by name.
"""

from __future__ import annotations

import io
import json
import os
import pickle
from enum import Enum
from pathlib import Path
from typing import Any, Final

import torch
from torch.distributed.checkpoint._nested_dict import unflatten_state_dict
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.planner import ReadItem
from torch.distributed.checkpoint.state_dict_loader import _load_state_dict

from weftline.burst.errors import MismatchError, storage_error
from weftline.burst.formats.tensorfiles import read_state
from weftline.burst.handle import SaveHandle
from weftline.burst.pytorch.state import save
from weftline.burst.store import Store
from weftline.errors import InputError

__all__ = ["import_into"]

TORCH_SUFFIXES: Final = (".pt", ".pth", ".bin", ".ckpt")
_INDEXES: Final = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_MAY_BE_MADE: Final = {
    "torch.distributed.checkpoint.metadata": {
        "BytesStorageMetadata", "ChunkStorageMetadata", "Metadata", "MetadataIndex", "StorageMeta",
        "TensorProperties", "TensorStorageMetadata", "_MEM_FORMAT_ENCODING",
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo", "_StoragePrefix"},
    "torch": {"Size", "device"},
    "torch.serialization": {"_get_layout"},
    "collections": {"OrderedDict"},
    "pathlib": {"PosixPath", "PurePosixPath", "Path"},
    "pathlib._local": {"PosixPath", "PurePosixPath", "Path"},
}  # fmt: skip


def import_into(
    store: Store, path: str | os.PathLike[str], step: int | None = None
) -> tuple[SaveHandle, str]:
    """Save what stands at ``path`` as a checkpoint of ``store``, committed; and what it was.

    The whole state is in memory meanwhile. ``step`` is one above every other by default. Raises
    InputError for what is no checkpoint, is not whole, or would need code to be read.
    """
    place = Path(path)
    if not place.exists():
        raise InputError("there is no such file or folder", where=str(path))
    if place.is_dir() and (place / ".metadata").is_file():
        state, kind = _dcp(place), "torch.distributed.checkpoint"
    elif place.is_dir():
        state, kind = _folder(place)
    elif place.suffix in TORCH_SUFFIXES:
        state, kind = _torch_file(place), "torch.save"
    elif place.suffix == ".safetensors":
        return _save_tensors(store, [place], step), "safetensors"
    else:
        raise InputError(
            f"`{place.name}` is no kind of checkpoint that is known here", where=str(path),
            hint=f"a DCP folder, .safetensors, or one of {', '.join(TORCH_SUFFIXES)}",
        )  # fmt: skip
    if isinstance(state, list):
        return _save_tensors(store, state, step), kind
    return save(state, store, step=step, wait=True, alone=True), kind


def _save_tensors(store: Store, files: list[Path], step: int | None) -> SaveHandle:
    """Files of plain tensors, mapped: torch is not needed for them, nor their copy."""
    state, metadata = read_state(files)
    return store.save(
        state, store.next_step() if step is None else step,
        extra={"metadata": metadata} if metadata else {}, wait=True,
    )  # fmt: skip


def _folder(place: Path) -> tuple[Any, str]:
    """Shards as Hugging Face splits them, by their index; else the one file that is there."""
    for name in _INDEXES:
        if (place / name).is_file():
            files = _indexed(place / name)
            if name.startswith("model"):
                return files, "safetensors"
            merged: dict[str, Any] = {}
            for file in files:
                merged.update(_torch_file(file))
            return merged, "torch.save"
    found = sorted(p for p in place.iterdir() if p.suffix == ".safetensors")
    if found:
        return found, "safetensors"
    raise InputError("there is no checkpoint in this folder", where=str(place))


def _indexed(index: Path) -> list[Path]:
    """The files an index names, all of which must be there and hold what it says."""
    try:
        named = json.loads(index.read_text())["weight_map"]
        files = sorted({str(name) for name in named.values()})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"the index cannot be read: {error}", where=str(index)) from None
    odd = [f for f in files if Path(f).name != f]
    if odd:
        raise InputError(f"`{odd[0]}` is a path that leads elsewhere", where=str(index))
    gone = [f for f in files if not (index.parent / f).is_file()]
    if gone:
        raise InputError(
            f"{len(gone)} of {len(files)} files are missing: {', '.join(gone[:5])}",
            where=str(index), hint="download the rest, or name single files",
        )  # fmt: skip
    return [index.parent / f for f in files]


def _torch_file(file: Path) -> Any:
    try:
        return torch.load(file, map_location="cpu", weights_only=True, mmap=_zipped(file))
    except OSError as error:
        raise storage_error(error, "read", str(file)) from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise _refused(error, str(file)) from None


def _zipped(file: Path) -> bool:
    with file.open("rb") as opened:
        return opened.read(2) == b"PK"


def _refused(error: Exception, where: str) -> InputError:
    """One line of what torch has to say, without its advice to run code."""
    text = str(error)
    told = next((line.strip() for line in text.splitlines() if "Unsupported" in line), "")
    what = told or next(iter(text.strip().splitlines()), "it ends too soon")
    return InputError(
        f"it cannot be read without running code from it, or is damaged: {what[:300]}", where=where,
        hint="save the tensors and plain values alone where it was made",
    )  # fmt: skip


# --- torch.distributed.checkpoint ----------------------------------------------------------------


def _member(kind: Any, name: str) -> Any:
    """A member of an enumeration, which early Python 3.11 wrote as ``getattr(kind, name)``."""
    if isinstance(kind, type) and issubclass(kind, Enum) and name in kind.__members__:
        return kind[name]
    raise pickle.UnpicklingError("Unsupported class builtins.getattr")


class _Unpickler(pickle.Unpickler):
    """Makes the few classes that describe tensors, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("builtins", "getattr"):
            return _member
        dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if dtype or name in _MAY_BE_MADE.get(module, ()):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"Unsupported class {module}.{name}")


class _Reader(FileSystemReader):
    """Torch's reader, with metadata read by the unpickler above."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """What the folder says it holds. Raises InputError."""
        del args, kwargs
        file = Path(self.path, ".metadata")
        try:
            found = _Unpickler(io.BytesIO(file.read_bytes())).load()
        except OSError as error:
            raise storage_error(error, "read", str(file)) from error
        except Exception as error:  # a damaged pickle raises whatever its bytes lead to
            raise _refused(error, str(file)) from None
        if not isinstance(found, Metadata):
            raise InputError("this is no metadata of a checkpoint", where=str(file))
        return found


class _Planner(DefaultLoadPlanner):
    """Torch's planner, with values read without running code."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        """Put a value in its place. Raises InputError for one that is not plain."""
        name = read_item.dest_index.fqn
        try:
            self.original_state_dict[name] = torch.load(value, weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
            raise _refused(error, name) from None


def _dcp(folder: Path) -> Any:
    """The state dict of a DCP folder, whole, whatever its ranks were."""
    reader = _Reader(folder)
    metadata = reader.read_metadata()
    flat: dict[str, Any] = {
        name: torch.empty(about.size, dtype=about.properties.dtype)
        if isinstance(about, TensorStorageMetadata) else None
        for name, about in metadata.state_dict_metadata.items()
    }  # fmt: skip
    try:
        _load_state_dict(flat, reader, no_dist=True, planner=_Planner(flatten_state_dict=False))
    except CheckpointException as error:
        inner = next(iter(error.failures.values()))[0]
        if isinstance(inner, InputError):
            raise inner from None
        raise MismatchError(f"it cannot be loaded: {inner}", where=str(folder)) from None
    mappings = metadata.planner_data
    if not isinstance(mappings, dict) or set(flat) - set(mappings):
        return flat
    return unflatten_state_dict(flat, {name: mappings[name] for name in flat})
