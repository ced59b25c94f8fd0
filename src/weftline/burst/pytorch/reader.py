"""Loading through torch.distributed.checkpoint from a burst store: any world size, any sharding."""

from __future__ import annotations

import dataclasses
import io
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec
import torch
from torch.distributed import ProcessGroup
from torch.distributed.checkpoint._nested_dict import flatten_state_dict
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadItemType, LoadPlan, LoadPlanner, ReadItem
from torch.distributed.checkpoint.storage import StorageReader
from torch.futures import Future

from weftline.burst.commit.view import Source
from weftline.burst.files import local_folder
from weftline.burst.log.values import Ref, decode
from weftline.burst.nodes.agree import Seen
from weftline.burst.nodes.cluster import Nodes, open_to_restore
from weftline.burst.pytorch.tensors import numpy_view
from weftline.burst.pytorch.values import dtype_name, dtype_of, restore_special
from weftline.burst.pytorch.writer import EXTRA_KEY, store_and_step
from weftline.burst.read.restore import Target, TensorInfo
from weftline.burst.store import Store
from weftline.errors import InputError

TREE_KEY = "torch.state"
"""Under this key of the manifest stands the state dict with a ``Ref`` for every tensor."""


class Leaves(NamedTuple):
    """A checkpoint that one process saved as a tree, under the names that torch's planner gives."""

    tensors: dict[str, str]
    """Name -> what the tensor is stored as; tied ones are stored once."""
    plain: dict[str, Any]
    mapping: dict[str, Any]
    """Name -> path in the nested state dict."""


class BurstStorageReader(StorageReader):
    """Reads a checkpoint of the burst store at ``path`` for ``torch.distributed.checkpoint``.

    ``step`` chooses the checkpoint, the newest one by default; ``sources`` are asked for what is
    damaged here; ``verify=False`` skips checksums; ``allow_older`` passes over newest
    checkpoints whose commit record is damaged. Reads only the blocks that this rank asks for.

    With ``nodes``, whose stores are their own, the checkpoint is the newest that is whole somewhere
    (on a disk, in another node's memory, in the bucket), the same for all ranks of ``group``: every
    rank must load. What was passed over is in the notices of :meth:`store`.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        step: int | None = None,
        sources: Sequence[Source] = (),
        verify: bool = True,
        allow_older: bool = False,
        nodes: Nodes | None = None,
        group: ProcessGroup | None = None,
    ) -> None:
        self.path = os.fspath(path)
        local_folder(path)
        self.step = step
        self._nodes = nodes
        self._group = group
        self._allow_older = allow_older
        self._sources = tuple(sources)
        self._verify = verify
        self._store: Store | None = None
        self._step: int | None = None
        self._named: int | None = None
        self._leaves: Leaves | None = None
        self._tied: dict[str, str] = {}

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """Begin another load; ``checkpoint_id`` is the path of the store, or ``PATH/step-10``."""
        self.close()
        self._named = None
        if checkpoint_id:
            self.path, self._named = store_and_step(checkpoint_id)

    def store(self) -> Store:
        """The store, open for reading."""
        if self._store is None and self._nodes is not None:
            self._store = open_to_restore(self.path)
        elif self._store is None:
            self._store = Store.open(self.path, read_only=True, sources=self._sources)
        return self._store

    def close(self) -> None:
        """Close the store."""
        if self._store is not None:
            self._store.close()
            self._store = None

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """Names, shapes and blocks of the checkpoint; fixes which checkpoint this load reads."""
        del args, kwargs
        store = self.store()
        wanted = self.step if self._named is None else self._named
        if self._nodes is not None:
            self._step = find_on(self._nodes, store, wanted, self._group)
        else:
            self._step = store.read_commit(wanted, allow_older=self._allow_older).step
        self._leaves = leaves_of(store, self._step)
        self._tied = {} if self._leaves else tied_in(torch_extras(store, self._step))
        return read_torch_metadata(store, self._step, self._leaves)

    def set_up_storage_reader(
        self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any
    ) -> None:
        """Nothing to do: the metadata holds no places."""

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        """Note which checkpoint this rank has found."""
        return dataclasses.replace(plan, storage_data=self._step)

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        """Refuse to mix two checkpoints: one may be committed while the ranks start to load."""
        found = sorted({p.storage_data for p in plans})
        if len(found) > 1:
            raise InputError(
                f"the ranks found different newest checkpoints: {found}",
                hint=f"pass step={found[0]}, or load when no one saves",
            )
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Fill the tensors of this rank, blocks of one round in parallel."""
        step = plan.storage_data
        tensors: list[ReadItem] = []
        for item in plan.items:
            if item.type == LoadItemType.BYTE_IO:
                self._read_plain(step, item, planner)
            else:
                tensors.append(item)
        for batch in _rounds(tensors, self._stored):
            self._read_tensors(step, batch, planner)
        future: Future[None] = Future()
        future.set_result(None)
        return future

    def _stored(self, name: str) -> str:
        """What a tensor is stored as."""
        return self._tied.get(name, name) if self._leaves is None else self._leaves.tensors[name]

    def _read_plain(self, step: int, item: ReadItem, planner: LoadPlanner) -> None:
        if self._leaves is None:
            value = read_plain(self.store(), step, item.storage_index.fqn, verify=self._verify)
        else:
            value = self._leaves.plain[item.storage_index.fqn]
        # The planner takes torch.save's bytes; they live in memory only, made here from a value
        # that was decoded without pickle.
        handed = io.BytesIO()
        torch.save(value, handed)
        handed.seek(0)
        planner.load_bytes(item, handed)

    def _read_tensors(self, step: int, batch: Sequence[ReadItem], planner: LoadPlanner) -> None:
        store = self.store()
        known = store.tensors(step)
        into: dict[str, Target] = {}
        late: list[tuple[torch.Tensor, torch.Tensor]] = []
        done: list[tuple[ReadItem, torch.Tensor]] = []
        for item in batch:
            name = self._stored(item.storage_index.fqn)
            wanted = planner.resolve_tensor(item).detach()
            stored = dtype_of(known[name].dtype, name)
            if tuple(wanted.shape) != tuple(item.lengths):
                raise InputError(
                    f"`{name}`: the planner wants {tuple(item.lengths)} into {tuple(wanted.shape)}"
                )
            view = numpy_view(wanted) if wanted.dtype == stored else None
            if view is None:
                # Another device or dtype: read beside it and let torch convert.
                beside = torch.empty(tuple(item.lengths), dtype=stored)
                late.append((wanted, beside))
                view = numpy_view(beside)
            if view is None:
                raise InputError(f"`{name}`: dtype {dtype_name(stored)} has no host view")
            into[name] = Target(data=view, offsets=_begin(item))
            done.append((item, wanted))
        store.load(step, into=into, verify=self._verify)
        for wanted, beside in late:
            wanted.copy_(beside)
        for item, wanted in done:
            planner.commit_tensor(item, wanted)

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """Whether it is a path."""
        return "://" not in os.fspath(checkpoint_id)


def find_on(nodes: Nodes, store: Store, step: int | None, group: ProcessGroup | None = None) -> int:
    """The step that all ranks of ``group`` load, found on the nodes; ``store`` can load it then."""
    many = torch.distributed.is_initialized() and torch.distributed.get_world_size(group) > 1

    def gather(seen: list[Seen]) -> list[Seen]:
        every: list[Any] = [None] * torch.distributed.get_world_size(group)
        torch.distributed.all_gather_object(every, seen, group=group)
        return [one for found in every for one in found]

    choice = nodes.choose(
        store, step=step, gather=gather if many else None,
        rank=torch.distributed.get_rank(group) if many else 0,
        world=torch.distributed.get_world_size(group) if many else 1,
    )  # fmt: skip
    nodes.ready(store, choice)
    return choice.commit.step


def _begin(item: ReadItem) -> tuple[int, ...]:
    """Where the wanted block begins in the whole tensor."""
    base = item.storage_index.offset
    within = tuple(item.storage_offsets)
    if base is None:
        return within
    return tuple(b + w for b, w in zip(base, within, strict=True))


def _rounds(items: Sequence[ReadItem], stored: Callable[[str], str]) -> list[list[ReadItem]]:
    """The items in rounds that read no tensor twice."""
    rounds: list[list[ReadItem]] = []
    met: dict[str, int] = {}
    for item in items:
        name = stored(item.storage_index.fqn)
        turn = met[name] = met.get(name, -1) + 1
        if turn == len(rounds):
            rounds.append([])
        rounds[turn].append(item)
    return rounds


def torch_extras(store: Store, step: int) -> list[dict[str, Any]]:
    """What each rank's planner left, by rank; empty where torch did not write the checkpoint."""
    world = store.read_commit(step).world
    extras = [rank_extra(store, step, rank) for rank in range(world)]
    if any(EXTRA_KEY not in extra for extra in extras):
        return []
    return [decode(extra[EXTRA_KEY], restore_special) for extra in extras]


def tied_in(extras: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Name -> the name that a tied tensor is stored under."""
    return {k: v for extra in extras for k, v in extra.get("tied", {}).items()}


def rank_extra(store: Store, step: int, rank: int) -> dict[str, Any]:
    """What one rank saved beside its tensors."""
    data = store.manifest(step, rank).seal.extra
    return msgspec.msgpack.decode(data, type=dict[str, Any]) if data else {}


def read_plain(store: Store, step: int, name: str, *, verify: bool = True) -> Any:
    """The value stored under ``name`` by the planner for something that is no tensor."""
    return decode(store.read(step, name, verify=verify).tobytes(), restore_special)


def leaves_of(store: Store, step: int) -> Leaves | None:
    """The tree that one process saved, as the planner of many would have it; None for others'."""
    extra = rank_extra(store, step, 0)
    if TREE_KEY not in extra:
        return None
    names: dict[int, str] = {}
    places: list[torch.Tensor] = []  # torch goes into lists for the sake of tensors alone

    def with_tensors(value: Any) -> Any:
        if isinstance(value, Ref):
            places.append(torch.empty(0))
            names[id(places[-1])] = value.name
            return places[-1]
        if isinstance(value, dict):
            return {k: with_tensors(v) for k, v in value.items()}
        if isinstance(value, list):
            return [with_tensors(v) for v in value]
        if isinstance(value, tuple) and not isinstance(value, torch.Size):
            return tuple(with_tensors(v) for v in value)
        return value

    tree = with_tensors(decode(extra[TREE_KEY], restore_special))
    if not isinstance(tree, dict):
        return None
    flat, mapping = flatten_state_dict(tree)
    found = {name: names[id(v)] for name, v in flat.items() if id(v) in names}
    return Leaves(found, {k: v for k, v in flat.items() if k not in found}, mapping)


def read_torch_metadata(store: Store, step: int, leaves: Leaves | None = None) -> Metadata:
    """Torch's ``Metadata`` of a checkpoint; also for one that was saved without torch."""
    if leaves is not None:
        infos = store.tensors(step)
        entries = {name: _entry(infos[stored], name) for name, stored in leaves.tensors.items()}
        entries |= {name: BytesStorageMetadata() for name in leaves.plain}
        return _metadata(store, entries, leaves.mapping)
    extras = torch_extras(store, step)
    plain = {name for extra in extras for name in extra["plain"]}
    entries = {}
    for name, info in store.tensors(step).items():
        if name in plain:
            entries[name] = BytesStorageMetadata()
            continue
        entries[name] = _entry(info, name)
    entries |= {name: entries[first] for name, first in tied_in(extras).items()}
    mappings = [extra["planner"] for extra in extras if extra["planner"] is not None]
    merged: Any = mappings[0] if mappings else None
    if mappings and all(isinstance(m, dict) for m in mappings):
        merged = {key: value for m in reversed(mappings) for key, value in m.items()}
    return _metadata(store, entries, merged)


def _entry(info: TensorInfo, name: str) -> TensorStorageMetadata | BytesStorageMetadata:
    blocks = {offsets: shape for _, offsets, shape in info.parts}
    return TensorStorageMetadata(
        properties=TensorProperties(dtype=dtype_of(info.dtype, name)),
        size=torch.Size(info.shape),
        chunks=[
            ChunkStorageMetadata(offsets=torch.Size(o), sizes=torch.Size(s))
            for o, s in sorted(blocks.items())
        ],
    )


def _metadata(store: Store, entries: dict[str, Any], planner_data: Any) -> Metadata:
    return Metadata(
        state_dict_metadata=entries,
        planner_data=planner_data,
        storage_data={},
        storage_meta=StorageMeta(checkpoint_id=store.root),
    )
