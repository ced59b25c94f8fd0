"""Tensor files that others make and read: .safetensors and .npz, single or a folder of them."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from weftline.burst.errors import MismatchError, storage_error
from weftline.burst.files import local_folder
from weftline.burst.formats.safetensors import Entry, read_safetensors, write_safetensors
from weftline.burst.stage.state import DTYPES, check_name
from weftline.errors import InputError

if TYPE_CHECKING:
    from weftline.burst.read.restore import Loaded

__all__ = ["check_target", "read_state", "write_state"]

SUFFIXES = (".safetensors", ".npz")


def read_state(paths: Iterable[Path]) -> tuple[dict[str, Any], dict[str, str]]:
    """All tensors of files and folders, by name, and the metadata of the safetensors among them.

    Raises InputError for what is no tensor file, and for a name that two files have.
    """
    state: dict[str, Any] = {}
    origin: dict[str, Path] = {}
    metadata: dict[str, str] = {}
    for path in _files(paths):
        found, said = (
            read_safetensors(str(path)) if path.suffix == ".safetensors" else (_read_npz(path), {})
        )
        metadata.update(said)
        for name, value in found.items():
            if name in state:
                raise InputError(
                    f"tensor `{name}` stands in {origin[name].name} as well", where=str(path),
                    hint="save them as two checkpoints, or rename one",
                )  # fmt: skip
            state[name], origin[name] = value, path
    return state, metadata


def _files(paths: Iterable[Path]) -> list[Path]:
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.suffix in SUFFIXES)
            if not inside:
                raise InputError("no .safetensors or .npz files in this folder", where=str(path))
            found += inside
        elif not path.exists():
            raise InputError("there is no such file", where=str(path))
        elif path.suffix not in SUFFIXES:
            raise InputError(
                f"`{path.suffix or path.name}` files cannot be saved", where=str(path),
                hint="name .safetensors or .npz files; pickles (.pt, .bin) are never opened",
            )  # fmt: skip
        else:
            found.append(path)
    if not found:
        raise InputError("nothing to save", where="burst save", hint="name a file or a folder")
    return found


def _read_npz(path: Path) -> dict[str, Any]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            found = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, zipfile.BadZipFile, KeyError, EOFError) as error:
        what = "holds Python objects" if "pickle" in str(error) else f"cannot be read: {error}"
        raise InputError(f"{what}", where=str(path), hint="name an .npz of plain arrays") from error
    for name in found:
        check_name(name, where=str(path))
    return found


def check_target(path: Path) -> None:
    """Refuse a file that exists, or of a kind that cannot be written. Raises InputError."""
    local_folder(path, "what is restored to")
    if path.suffix not in SUFFIXES:
        raise InputError(
            f"`{path.name}` is not .safetensors or .npz", where=str(path), hint="end the name so"
        )
    if path.exists():
        raise InputError("this exists already", where=str(path), hint="name a new file")
    if not path.absolute().parent.is_dir():
        raise InputError("there is no such folder", where=str(path.parent))


def write_state(path: Path, loaded: Loaded) -> None:
    """Write loaded tensors so that the file is whole or absent after any crash.

    Raises MismatchError for a dtype that the kind of file lacks, and StorageError.
    """
    if path.suffix == ".safetensors":
        metadata = loaded.extra.get("metadata", {})
        entries = [
            Entry(
                name=name, dtype=loaded.dtypes[name], shape=tuple(array.shape), data=_bytes(array)
            )
            for name, array in loaded.items()
        ]
        write_safetensors(
            str(path.absolute()), entries,
            metadata={str(k): str(v) for k, v in metadata.items()},
        )  # fmt: skip
        return
    for name, dtype in loaded.dtypes.items():
        if DTYPES[dtype][1] != dtype:
            raise MismatchError(
                f"tensor `{name}` is {dtype}, which .npz cannot hold", where=str(path),
                hint="restore to .safetensors, or leave it out with --only",
            )  # fmt: skip
    temporary = path.absolute().with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            # Not np.savez: it takes names as arguments, and `file` may be a tensor's name.
            with zipfile.ZipFile(file, "w", allowZip64=True) as archive:
                for name, array in loaded.items():
                    with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                        np.lib.format.write_array(entry, array, allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        folder = os.open(path.absolute().parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise storage_error(error, "write", str(path)) from error


def _bytes(array: Any) -> Any:
    def data() -> memoryview:
        return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data

    return data
