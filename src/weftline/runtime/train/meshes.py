"""Process groups in the order in which the plan numbers its ranks.

Axes: p pipeline stage, d data, c context, t tensor. transformers takes two views of the same ranks:
dense (pp, dp_replicate, fsdp, tp), where fsdp runs over context and data together, and expert
(pp, dp_replicate, efsdp, ep), where ep runs over tensor, context and data, innermost first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import torch
from torch.distributed.device_mesh import DeviceMesh

from weftline.errors import InputError
from weftline.spec import Layout

__all__ = ["Meshes", "data_degrees", "meshes_of", "rank_grid"]

_AXES: Final = ("pp", "dp", "cp", "tp")


@dataclass(frozen=True, slots=True, kw_only=True)
class Meshes:
    """The groups of one run; every rank makes the same."""

    grid: DeviceMesh
    """(pp, dp, cp, tp)."""
    dense: DeviceMesh
    expert: DeviceMesh | None
    data: DeviceMesh
    """All ranks that share a stage and a tensor shard, in one axis."""

    def get_mesh(self, dims: str | tuple[str, ...]) -> DeviceMesh:
        """One or several axes, as transformers asks for them."""
        names = (dims,) if isinstance(dims, str) else dims
        mesh = self.expert if {"ep", "efsdp"} & set(names) else self.dense
        assert mesh is not None  # noqa: S101  (asked for where ep > 1)
        return mesh[names if len(names) > 1 else names[0]]

    def group(self, axis: str) -> Any:
        """The process group of one axis of the grid."""
        return self.grid[axis].get_group()


def rank_grid(layout: Layout) -> torch.Tensor:
    """[pp, dp, cp, tp] rank numbers, as ``Layout.coordinates`` numbers them."""
    outer = list(reversed(layout.order))
    grid = torch.arange(layout.chips).reshape([getattr(layout, axis) for axis in outer])
    return grid.permute([outer.index(axis) for axis in _AXES]).contiguous()


def data_degrees(layout: Layout) -> tuple[int, int]:
    """(replicas, ranks that share one copy of the state) of the data axis, context in it.

    Experts are dealt to ranks that must share the state, so without ZeRO they still do.
    """
    ranks = layout.cp * layout.dp
    if layout.zero == 0 and layout.ep == 1:
        return ranks, 1
    shard = layout.shard or ranks
    return ranks // shard, shard


def meshes_of(layout: Layout, device: str) -> Meshes:
    """Make the groups; every rank of the world must call. Raises InputError for odd experts."""
    grid = rank_grid(layout)
    replicas, shard = data_degrees(layout)
    dense = grid.reshape(layout.pp, replicas, shard, layout.tp)
    expert = None
    if layout.ep > 1:
        check_experts(layout)
        copies = shard * layout.tp // layout.ep
        shape = (layout.pp, replicas, copies, layout.ep)
        expert = DeviceMesh(
            device, grid.reshape(shape), mesh_dim_names=("pp", "dp_replicate", "efsdp", "ep")
        )
    made = DeviceMesh(device, dense, mesh_dim_names=("pp", "dp_replicate", "fsdp", "tp"))
    return Meshes(
        grid=DeviceMesh(device, grid, mesh_dim_names=_AXES),
        dense=made,
        expert=expert,
        data=DeviceMesh(
            device, grid.reshape(layout.pp, -1, layout.tp), mesh_dim_names=("pp", "data", "tp")
        )["data"],
    )


def check_experts(layout: Layout) -> None:
    """Raise InputError where transformers cannot deal the experts out as planned."""
    _, shard = data_degrees(layout)
    if layout.etp > 1:
        raise InputError(
            f"etp={layout.etp}: transformers does not split single experts when ep > 1",
            hint="plan with --layout etp=1",
        )
    if layout.ep % layout.tp or (shard * layout.tp) % layout.ep:
        raise InputError(
            f"ep={layout.ep} must be a multiple of tp={layout.tp} and divide the "
            f"{shard * layout.tp} ranks that share the state",
            hint="plan with --layout ep=..,tp=1",
        )
