"""What the ranks of a save must agree on beyond torch's own plan, told before anything is written.

Torch keeps one rank's value of every key and drops the others' without a look. Here values that
differ are an error, with :class:`PerRank` as the way to keep them all. And tensors that are tied,
which torch writes once a name, are written once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import blake3
import torch
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.planner import SavePlan, WriteItem, WriteItemType
from torch.distributed.checkpoint.stateful import Stateful

from weftline.burst.log.values import decode, encode
from weftline.burst.pytorch.joint import own_rank
from weftline.burst.pytorch.tensors import identity_of
from weftline.burst.pytorch.values import like, restore_special, special
from weftline.errors import InputError

__all__ = ["BurstSavePlanner", "PerRank", "Planned", "plain_states", "tied_among"]


class PerRank:
    """In a state dict, an object whose state every rank keeps for itself: a data loader's, say.

    It stands for ``owner``, anything with ``state_dict`` and ``load_state_dict``, in the state that
    is saved and in the one that is loaded into. All ranks' states are in the checkpoint, as
    ``rank0``, ``rank1``, ...; a rank that was not there when it was saved finds none, which is an
    error of the load.
    """

    def __init__(self, owner: Any) -> None:
        if not isinstance(owner, Stateful):
            raise InputError(
                f"a {type(owner).__qualname__} has no state_dict and load_state_dict",
                where="PerRank",
            )
        self.owner = owner

    def state_dict(self) -> dict[str, Any]:
        """The state of this rank, under its own name, in one piece whatever is in it."""
        return {self._name: encode(self.owner.state_dict(), self._name, special)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Give the owner what this rank saved."""
        self.owner.load_state_dict(decode(state_dict[self._name], restore_special))

    @property
    def _name(self) -> str:
        return f"rank{own_rank()}"


def plain_states(state: Any) -> Any:
    """A state dict with the states of what has one (modules, optimizers, loaders) in its place."""
    if not isinstance(state, dict):
        return state
    return {k: v.state_dict() if isinstance(v, Stateful) else v for k, v in state.items()}


@dataclasses.dataclass(frozen=True)
class Planned:
    """What a plan says beside the blocks."""

    mappings: Any
    """Torch's own: the path of every name in the nested state dict."""
    tied: dict[str, str]
    """Name -> the name it is stored under."""
    digests: dict[str, bytes] = dataclasses.field(default_factory=dict)
    """Of every value that is no tensor."""
    kinds: list[tuple[list[Any], Any, list[Any]]] = dataclasses.field(default_factory=list)
    """Containers that torch would give back as others, by path: an empty one of the kind, and the
    keys. It makes text of every key, plain dictionaries and lists of every kind, and drops what is
    empty; an optimizer or a scheduler would not come back as it was."""


class BurstSavePlanner(DefaultSavePlanner):
    """Torch's planner, with ties kept and values that would be lost refused.

    :func:`save` uses it; give it to ``dcp.save(..., planner=BurstSavePlanner())``. Raises
    InputError on all ranks where values under one key differ.
    """

    def set_up_planner(
        self, state_dict: Any, storage_meta: StorageMeta | None = None,
        is_coordinator: bool = False,
    ) -> None:  # fmt: skip
        """Note the containers that torch will change."""
        self._kinds = list(odd_kinds(state_dict, ()))
        super().set_up_planner(state_dict, storage_meta, is_coordinator)

    def create_local_plan(self) -> SavePlan:
        """This rank's blocks, which of them are one, and the digests of its plain values."""
        plan = super().create_local_plan()
        plain = [i.index for i in plan.items if i.type == WriteItemType.BYTE_IO]
        digests = {
            index.fqn: blake3.blake3(
                encode(self.lookup_object(index), index.fqn, special)
            ).digest(16)
            for index in plain
        }  # fmt: skip
        said = Planned(plan.planner_data, self._tied(plan.items), digests, self._kinds)
        self.plan = dataclasses.replace(plan, planner_data=said)
        return self.plan

    def create_global_plan(self, all_plans: list[SavePlan]) -> tuple[list[SavePlan], Metadata]:
        """Torch's division of the work, without what is tied on every rank that has it."""
        said: list[Planned] = [p.planner_data for p in all_plans]
        _check_alike([s.digests for s in said])
        names = [{i.index.fqn for i in p.items} for p in all_plans]
        tied = {
            name: first
            for name, first in {k: v for s in said for k, v in s.tied.items()}.items()
            if all(s.tied.get(name) == first for s, has in zip(said, names, strict=True)
                   if name in has or first in has)
        }  # fmt: skip
        plans, metadata = super().create_global_plan(
            [
                dataclasses.replace(
                    plan, items=[i for i in plan.items if i.index.fqn not in tied],
                    planner_data=s.mappings,
                )
                for plan, s in zip(all_plans, said, strict=True)
            ]
        )  # fmt: skip
        final = [
            dataclasses.replace(p, planner_data=Planned(p.planner_data, tied, kinds=s.kinds))
            for p, s in zip(plans, said, strict=True)
        ]
        return final, metadata

    def _tied(self, items: list[WriteItem]) -> dict[str, str]:
        return tied_among(
            [i for i in items if i.tensor_data is not None],
            {i.index: self.lookup_object(i.index) for i in items if i.tensor_data is not None},
        )


def odd_kinds(value: Any, path: tuple[Any, ...]) -> Iterator[tuple[list[Any], Any, list[Any]]]:
    """Containers that torch changes, the inner ones first: path, an empty one, and the keys."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from odd_kinds(inner, (*path, str(key)))
        if type(value) is not dict or not value or any(type(key) is not str for key in value):
            yield list(path), like(value, []), list(value)
    elif isinstance(value, list | tuple) and not isinstance(value, torch.Size) and _taken(value):
        for i, inner in enumerate(value):
            yield from odd_kinds(inner, (*path, i))
        if isinstance(value, tuple):
            yield list(path), (), []


def _taken(value: Any) -> bool:
    """Whether torch takes a list apart: for a dictionary or a tensor somewhere in it."""
    if isinstance(value, list | tuple):
        return any(_taken(inner) for inner in value)
    return isinstance(value, dict | torch.Tensor)


def tied_among(items: list[WriteItem], tensors: Mapping[Any, Any]) -> dict[str, str]:
    """Names whose blocks are all another name's, and that name; ``tensors`` by index of an item."""
    blocks: dict[str, list[tuple[Any, ...]]] = {}
    for item in items:
        assert item.tensor_data is not None  # noqa: S101  (the caller has sorted them out)
        tensor = tensors[item.index]
        same = identity_of(tensor) if isinstance(tensor, torch.Tensor) else (id(tensor),)
        chunk = item.tensor_data.chunk
        about = (tuple(item.tensor_data.size), tuple(chunk.offsets), tuple(chunk.sizes), same)
        blocks.setdefault(item.index.fqn, []).append(about)
    met: dict[Any, str] = {}
    found: dict[str, str] = {}
    for name, about_all in blocks.items():
        key = tuple(sorted(about_all, key=repr))
        first = met.setdefault(key, name)
        if first != name:
            found[name] = first
    return found


def _check_alike(digests: list[dict[str, bytes]]) -> None:
    """Refuse values that differ between ranks: one rank's would be kept, and no one told."""
    known: dict[str, tuple[int, bytes]] = {}
    differ: dict[str, tuple[int, int]] = {}
    for rank, of_rank in enumerate(digests):
        for name, digest in of_rank.items():
            first, value = known.setdefault(name, (rank, digest))
            if value != digest:
                differ.setdefault(name, (first, rank))
    if differ:
        told = [f"`{name}` (ranks {a} and {b})" for name, (a, b) in sorted(differ.items())]
        more = f", and {len(told) - 5} more" if len(told) > 5 else ""
        raise InputError(
            f"these values differ between ranks: {', '.join(told[:5])}{more}",
            hint="give each rank's a key of its own, or wrap what has the state: "
            "weftline.burst.pytorch.PerRank(loader)",
        )
