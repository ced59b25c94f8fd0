"""Whole state dicts in and out: nested dictionaries and lists of tensors and plain values."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.distributed.checkpoint._traverse import set_element
from torch.distributed.tensor import DTensor

from weftline.burst.errors import MismatchError
from weftline.burst.handle import SaveHandle
from weftline.burst.log.values import MAX_DEPTH, Ref, decode, encode
from weftline.burst.nodes.cluster import Nodes, open_to_restore
from weftline.burst.options import Options
from weftline.burst.pytorch.devices import pinning
from weftline.burst.pytorch.group import save_jointly
from weftline.burst.pytorch.joint import own_rank
from weftline.burst.pytorch.planner import plain_states
from weftline.burst.pytorch.reader import (
    TREE_KEY,
    BurstStorageReader,
    find_on,
    rank_extra,
    read_plain,
    tied_in,
    torch_extras,
)
from weftline.burst.pytorch.tensors import identity_of, place_of, shard_of, tensor_of
from weftline.burst.pytorch.values import DICTIONARIES, dtype_of, like, restore_special, special
from weftline.burst.stage.state import Shard
from weftline.burst.store import Store
from weftline.errors import InputError


def save(
    state: Any,
    path: str | os.PathLike[str] | Store,
    *,
    step: int | None = None,
    wait: bool = True,
    options: Options | None = None,
    nodes: Nodes | None = None,
    alone: bool = False,
) -> SaveHandle:
    """Save a state dict into the burst store at ``path`` (made if there is none).

    ``state`` is any nesting of dictionaries, lists, tuples and sets of tensors and plain values;
    tensors that are one object or share one block of memory are stored once and loaded as one.
    ``step`` numbers the checkpoint: the newest plus one by default. With ``wait=False``, on an open
    ``Store``, the call returns once the tensors are staged and may change; wait on the handle.
    Under torch.distributed with more than one rank all ranks must call, with a dictionary each;
    torch's planner divides the work. ``path`` may then be a folder that all ranks see or one of
    each node's own; ``nodes`` says who keeps copies of whose shares. With ``alone`` this process
    saves by itself, whatever others it trains with. What has a ``state_dict`` of its own (a module,
    a loader) may stand for it, as for ``dcp.save``; :class:`PerRank` keeps one of every rank.

    Raises InputError for values that cannot be stored, and what :meth:`Store.save` raises.
    """
    many = torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1
    many = many and not alone
    put = save_jointly if many else _save
    state = plain_states(state)
    if isinstance(path, Store):
        handle = put(state, path, step)
        return handle.wait() if wait else handle
    if not wait:
        raise InputError(
            "wait=False needs an open store", hint="with Store.open(path) as store: save(..., store"
        )
    with Store.open(
        os.fspath(path), options=pinning(options),
        writer=f"rank{own_rank()}" if many else "w0",
        run=None if nodes is None else nodes.run,
        copier=None if nodes is None else nodes.copier(),
    ) as store:  # fmt: skip
        return put(state, store, step).wait()


def load(
    path: str | os.PathLike[str] | Store,
    *,
    step: int | None = None,
    into: dict[str, Any] | None = None,
    device: str | torch.device = "cpu",
    verify: bool = True,
    allow_older: bool = False,
    nodes: Nodes | None = None,
    only: str | None = None,
) -> Any:
    """The state dict of a checkpoint, by default the newest; checksums are verified.

    A damaged newest checkpoint is an error; with ``allow_older`` the one before it is taken (with
    ``into``, where its commit record is what is damaged).

    A checkpoint that many ranks wrote comes back whole; with ``only``, what stands under that key,
    and nothing else is read. With ``into``, its tensors (DTensors too) are filled in place and it
    is returned; under torch.distributed all ranks must call. With ``nodes`` it is the newest that
    is whole somewhere on them, as for BurstStorageReader.

    Raises what :meth:`Store.load` raises.
    """
    if into is not None:
        place = path.root if isinstance(path, Store) else os.fspath(path)
        reader = BurstStorageReader(
            place, step=step, verify=verify, allow_older=allow_older, nodes=nodes
        )
        try:
            from torch.distributed.checkpoint.state_dict_loader import load as dcp_load

            dcp_load(into, storage_reader=reader)
        finally:
            reader.close()
        return into
    if isinstance(path, Store):
        return _load(path, step, device, verify=verify, allow_older=allow_older, only=only)
    if nodes is not None:
        with open_to_restore(path) as store:
            step = find_on(nodes, store, step)
            return _load(store, step, device, verify=verify, allow_older=False, only=only)
    with Store.open(os.fspath(path), read_only=True) as store:
        return _load(store, step, device, verify=verify, allow_older=allow_older, only=only)


def _save(state: Any, store: Store, step: int | None) -> SaveHandle:
    shards: dict[str, Shard] = {}
    tree = _Flattener(shards).walk(state, ())
    if step is None:
        step = store.next_step()
    extra = {TREE_KEY: encode(tree, "state", special)}
    return store.save(shards, step, extra=extra)


class _Flattener:
    """Puts the tensors of a tree aside and leaves a ``Ref`` in each place."""

    def __init__(self, shards: dict[str, Shard]) -> None:
        self._shards = shards
        self._met: dict[tuple[Any, ...], str] = {}

    def walk(self, value: Any, path: tuple[str, ...]) -> Any:
        """``value`` with its tensors replaced."""
        if isinstance(value, torch.Tensor):
            return Ref(self._put(value, ".".join(path) or "tensor"))
        if len(path) > MAX_DEPTH:
            raise InputError(
                f"`{'.'.join(path[:3])}...` is nested deeper than {MAX_DEPTH} levels, or holds "
                "itself"
            )
        kind = type(value)
        if kind in DICTIONARIES:
            return like(value, [(k, self.walk(v, (*path, str(k)))) for k, v in value.items()])
        if kind in (list, tuple):
            return kind(self.walk(v, (*path, str(i))) for i, v in enumerate(value))
        if isinstance(value, Mapping | list | tuple) and not isinstance(value, torch.Size):
            raise InputError(
                f"`{'.'.join(path) or 'state'}` is a {kind.__module__}.{kind.__qualname__}, which "
                "would come back as something else",
                hint="turn it into a dict, list or tuple first, and back after loading",
            )
        return value

    def _put(self, tensor: torch.Tensor, name: str) -> str:
        if isinstance(tensor, DTensor):
            shape, offsets = place_of(tensor)
            shard = shard_of(tensor.to_local(), name, global_shape=shape, offsets=offsets)
        else:
            shard = shard_of(tensor, name)
        same = identity_of(tensor)
        if same in self._met:
            return self._met[same]
        free, count = name, 1
        while free in self._shards:
            count += 1
            free = f"{name}#{count}"
        self._met[same] = free
        self._shards[free] = shard
        return free


def _load(
    store: Store, step: int | None, device: str | torch.device, *, verify: bool, allow_older: bool,
    only: str | None,
) -> Any:  # fmt: skip
    names = None
    if only is not None:
        step = store.read_commit(step, allow_older=allow_older).step
        names = _names_under(store, step, only)
    loaded = store.load(step, names, verify=verify, allow_older=allow_older)
    step = loaded.step
    tensors = {
        name: tensor_of(loaded[name], dtype_of(loaded.dtypes[name], name)).to(device)
        for name in loaded
    }
    extra = rank_extra(store, step, 0)
    if TREE_KEY in extra:
        tree = decode(extra[TREE_KEY], restore_special)
        return _fill(tree if only is None else tree[only], tensors)
    found = _from_planner(store, step, tensors, verify=verify, only=only)
    return found if only is None else found[only]


def _names_under(store: Store, step: int, key: str) -> list[str]:
    """The stored tensors under one key of a state dict. Raises MismatchError where it has none."""
    extra = rank_extra(store, step, 0)
    if TREE_KEY in extra:
        tree = decode(extra[TREE_KEY], restore_special)
        if isinstance(tree, dict) and key in tree:
            return sorted(set(_refs(tree[key])))
    else:
        extras = torch_extras(store, step)
        paths = _mappings(extras)
        plain = {name for e in extras for name in e["plain"]}
        tied = tied_in(extras)
        names = [n for n, path in paths.items() if path[0] == key]
        if names:
            return sorted({tied.get(n, n) for n in names if n not in plain})
    raise MismatchError(f"the checkpoint of step {step} has no key `{key}`", where=store.root)


def _refs(tree: Any) -> Iterator[str]:
    if isinstance(tree, Ref):
        yield tree.name
    elif isinstance(tree, dict | list | tuple):
        for one in tree.values() if isinstance(tree, dict) else tree:
            yield from _refs(one)


def _mappings(extras: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Name -> path in the nested state dict, as all ranks' planners have it."""
    found: dict[str, Any] = {}
    for extra in extras:
        if isinstance(extra["planner"], dict):
            found |= extra["planner"]
    return found


def _fill(tree: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(tree, Ref):
        return tensors[tree.name]
    if isinstance(tree, dict):
        return like(tree, [(k, _fill(v, tensors)) for k, v in tree.items()])
    if isinstance(tree, list):
        return [_fill(v, tensors) for v in tree]
    if isinstance(tree, tuple) and not isinstance(tree, torch.Size):
        return tuple(_fill(v, tensors) for v in tree)
    return tree


def _from_planner(
    store: Store, step: int, tensors: dict[str, torch.Tensor], *, verify: bool, only: str | None
) -> dict[str, Any]:
    """A checkpoint of torch.distributed.checkpoint, nested again as its planner flattened it."""
    from torch.distributed.checkpoint._nested_dict import unflatten_state_dict

    extras = torch_extras(store, step)
    mappings = _mappings(extras)
    flat: dict[str, Any] = dict(tensors)
    for extra in extras:
        for name in extra["plain"]:
            if only is None or mappings[name][0] == only:
                flat[name] = read_plain(store, step, name, verify=verify)
    flat |= {name: flat[first] for name, first in tied_in(extras).items() if first in flat}
    if not mappings:
        return flat
    if set(flat) - set(mappings):
        raise MismatchError(
            f"the planner's mapping lacks `{min(set(flat) - set(mappings))}`", where=store.root
        )
    if only is not None:
        flat = {name: value for name, value in flat.items() if mappings[name][0] == only}
    nested: dict[str, Any] = unflatten_state_dict(flat, {name: mappings[name] for name in flat})
    for extra in extras:
        for path, empty, keys in extra.get("kinds", ()):
            if only is None or path[:1] == [only]:
                _put_back(nested, path, empty, keys)
    return nested


def _put_back(nested: Any, path: Sequence[Any], empty: Any, keys: Sequence[Any]) -> None:
    """One container as it was, where torch has made a plain dictionary, a list or nothing of it."""
    if not path:
        return
    if isinstance(empty, dict) and not keys:
        set_element(nested, tuple(path), {})
    for name in path[:-1]:
        nested = nested[name]
    found = nested[path[-1]]
    if isinstance(empty, tuple):
        nested[path[-1]] = tuple(found)
        return
    values = {str(key): (key, value) for key, value in found.items()}
    items = [(key, values.pop(str(key))[1]) for key in keys if str(key) in values]
    nested[path[-1]] = like(empty, [*items, *values.values()])  # the rest is other ranks'
