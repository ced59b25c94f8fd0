"""A checkpoint as safetensors files in the layout that Hugging Face reads; torch is not needed.

One file ``model.safetensors``, or ``model-00001-of-00003.safetensors`` and so on with
``model.safetensors.index.json``, written last. Tensors pass one at a time, so the memory needed is
that of the largest.
"""

from __future__ import annotations

import fnmatch
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from weftline.burst.errors import MismatchError, TensorMissingError
from weftline.burst.files import Buffer, Files, RealFiles, local_folder, write_atomic
from weftline.burst.formats.safetensors import Entry, in_order, write_safetensors
from weftline.errors import InputError

if TYPE_CHECKING:
    from weftline.burst.read.restore import TensorInfo
    from weftline.burst.store import Store

__all__ = ["Exported", "export", "select"]

SHARD_BYTES: Final = 5_000_000_000
"""The size at which Hugging Face splits."""
BATCH_BYTES: Final = 1 << 30
"""Read at once: large enough for parallel reads, small beside a model."""
COMPANIONS: Final = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "tokenizer.model", "vocab.json", "merges.txt", "added_tokens.json",
    "preprocessor_config.json", "chat_template.json", "chat_template.jinja",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What an export wrote."""

    step: int
    tensors: int
    total_bytes: int
    files: tuple[str, ...]


def select(names: Iterable[str], only: Sequence[str]) -> list[str]:
    """The names that match one of the patterns (``model.*``), all if there are none.

    Raises TensorMissingError for a pattern that matches nothing.
    """
    names = sorted(names)
    if not only:
        return names
    for pattern in only:
        if not any(fnmatch.fnmatchcase(n, pattern) for n in names):
            raise TensorMissingError(pattern, names, where="--only")
    return [n for n in names if any(fnmatch.fnmatchcase(n, p) for p in only)]


def export(
    store: Store,
    folder: str | os.PathLike[str],
    *,
    step: int | None = None,
    only: Sequence[str] = (),
    strip: str = "",
    shard_bytes: int = SHARD_BYTES,
    companions: str | os.PathLike[str] | None = None,
    files: Files | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Exported:
    """Write the tensors of a checkpoint (the newest if ``step`` is None) into ``folder``.

    ``only`` are patterns of names, ``strip`` a prefix that is taken off them, ``companions`` a
    folder whose config and tokenizer files are copied along. Refuses a folder that holds an export
    already. Raises InputError, CorruptionError, StorageError.
    """
    files = RealFiles() if files is None else files
    target = str(local_folder(folder, "an export").absolute())
    known = store.tensors(step)
    names = select(known, only)
    if step is None:
        step = store.read_commit().step
    batches = _Batches(store, step)
    entries = _entries(batches, known, names, strip)
    shards = [in_order(shard) for shard in _split(entries, shard_bytes)]
    origin = {e.name: name for e, name in zip(entries, names, strict=True)}
    batches.left = [(origin[e.name], e.nbytes) for shard in shards for e in shard][::-1]
    total = sum(e.nbytes for e in entries)
    _prepare(files, target)
    done = 0

    def heard(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, total)

    metadata = {"format": "pt", "burst_step": str(step)}
    written, where = [], {}
    for number, shard in enumerate(shards, 1):
        single = len(shards) == 1
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        name = "model.safetensors" if single else name
        write_safetensors(f"{target}/{name}", shard, metadata=metadata, files=files, progress=heard)
        written.append(name)
        where.update({e.name: name for e in shard})
    if companions is not None:
        written += _copy(files, os.path.abspath(companions), target)  # noqa: PTH100
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))}
        name = "model.safetensors.index.json"
        write_atomic(files, f"{target}/{name}", json.dumps(index, indent=2).encode() + b"\n")
        written.append(name)
    return Exported(
        step=step, tensors=len(entries), total_bytes=total,
        files=tuple(f"{target}/{n}" for n in written),
    )  # fmt: skip


class _Batches:
    """Tensors in the order they are asked for, read from the store in groups of some size."""

    def __init__(self, store: Store, step: int) -> None:
        self._store, self._step = store, step
        self._read: dict[str, Any] = {}
        self.left: list[tuple[str, int]] = []
        """Names and bytes, those that come first at the end."""

    def take(self, name: str) -> Buffer:
        """The bytes of one tensor; each is asked for once."""
        while name not in self._read:
            group: list[str] = []
            size = 0
            while self.left and (not group or size + self.left[-1][1] <= BATCH_BYTES):
                group.append(self.left[-1][0])
                size += self.left.pop()[1]
            self._read.update(self._store.load(self._step, group))
        array = np.ascontiguousarray(self._read.pop(name))
        return memoryview(array.reshape(-1).view(np.uint8).data)


def _entries(
    batches: _Batches, known: Mapping[str, TensorInfo], names: Sequence[str], strip: str
) -> list[Entry]:
    found: dict[str, Entry] = {}
    for name in names:
        short = name.removeprefix(strip)
        if not short or short in found:
            raise MismatchError(
                f"tensor `{name}` would be called `{short}`, which is taken", where="--strip"
            )
        found[short] = Entry(
            name=short, dtype=known[name].dtype, shape=tuple(known[name].shape),
            data=partial(batches.take, name),
        )  # fmt: skip
    return list(found.values())


def _split(entries: Sequence[Entry], most_bytes: int) -> list[list[Entry]]:
    """Entries in order of name, a new file where the next would not fit."""
    shards: list[list[Entry]] = [[]]
    size = 0
    for entry in sorted(entries, key=lambda e: e.name):
        if shards[-1] and size + entry.nbytes > most_bytes:
            shards.append([])
            size = 0
        shards[-1].append(entry)
        size += entry.nbytes
    return shards


def _prepare(files: Files, target: str) -> None:
    there = [n for n in files.list_dir(target) if n.startswith("model") and "safetensors" in n]
    there = [n for n in there if not n.endswith(".tmp")]
    if there:
        raise InputError(
            f"an export is there already ({there[0]})", where=target, hint="name another folder"
        )
    if not files.exists(target):
        files.make_dir(target)
        files.sync_dir(target.rpartition("/")[0] or "/")


def _copy(files: Files, source: str, target: str) -> list[str]:
    names = [n for n in COMPANIONS if files.exists(f"{source}/{n}")]
    if not names:
        raise InputError("no config or tokenizer files are here", where=source)
    for name in names:
        write_atomic(files, f"{target}/{name}", files.read_bytes(f"{source}/{name}"))
    return names
