"""Groups and meshes in the plan's order, after ``init_process_group``.

``DeviceMesh`` sorts the ranks of every group, so that a rank order of one's own is lost in silence.
Here groups are made with ``new_group(..., sort_ranks=False)`` and the mesh from them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from weftline.errors import InputError

AXES: Final = ("pp", "dp", "cp", "tp")


def axes_of(plan: Path | str) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """(axes outermost first, their sizes) of a plan file, axes of one rank left out.

    Raises InputError where it is no plan for training.
    """
    try:
        lay = json.loads(Path(plan).read_text(encoding="utf-8"))["layout"]
        names = tuple(axis for axis in reversed(lay["order"]) if lay[axis] > 1)
        return names or ("dp",), tuple(lay[axis] for axis in names) or (1,)
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError("no plan for training", where=str(plan)) from None


def groups_of(shape: Sequence[int], order: Sequence[int], axis: int) -> list[list[int]]:
    """Groups along one axis of a row-major mesh whose places are taken by ``order``."""
    stride = 1
    for size in shape[axis + 1 :]:
        stride *= size
    size = shape[axis]
    found = []
    for first in range(len(order)):
        if first // stride % size == 0:
            found.append([order[first + n * stride] for n in range(size)])
    return found


def mesh(plan: Path | str, *, order: Sequence[int] | None = None, device: str | None = None) -> Any:
    """A ``torch.distributed.DeviceMesh`` with the plan's axes above one, the outermost first.

    The place of rank r on the mesh is r, as place() published it. ``order`` says otherwise: the
    rank of every place, row-major. Each group keeps its ranks in that order, also as seen by
    ``dist.get_group_rank``. Every rank must call it. Raises InputError where the world does not
    fit the plan.
    """
    import torch
    import torch.distributed as dist
    from torch.distributed.device_mesh import DeviceMesh

    names, shape = axes_of(plan)
    places = list(range(dist.get_world_size())) if order is None else list(order)
    total = 1
    for size in shape:
        total *= size
    if sorted(places) != list(range(total)) or total != dist.get_world_size():
        raise InputError(f"{dist.get_world_size()} ranks for a mesh of {total} places",
                         where=str(plan), hint="start as many as planned")  # fmt: skip
    kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
    mine: list[Any] = []
    for axis in range(len(shape)):
        own: Any = None
        for members in groups_of(shape, places, axis):
            group = dist.new_group(members, sort_ranks=False)
            if dist.get_rank() in members:
                own = group
        mine.append(own)
    table = torch.tensor(places).reshape(shape)
    return DeviceMesh.from_group(mine if len(mine) > 1 else mine[0], kind,
                                 mesh=table if len(mine) > 1 else None,
                                 mesh_dim_names=names)  # fmt: skip


def jax_devices(plan: Path | str, devices: Sequence[Any]) -> Any:
    """JAX devices as an array [{axes}] for ``jax.sharding.Mesh``, in the plan's rank order.

    With a rank map of one torus the device of a rank is the one at its coordinates. Raises
    InputError where a coordinate has no device, or the counts differ.
    """
    import numpy as np

    names, shape = axes_of(plan)
    raw = json.loads(Path(plan).read_text(encoding="utf-8"))
    found = raw.get("rank_map")
    ordered = list(devices)
    if len(ordered) != int(np.prod(shape)):
        raise InputError(f"{len(ordered)} devices for a mesh {names} of {shape}", where=str(plan))
    if (
        found is not None
        and not found.get("tiers")
        and len(found["shape"]) <= 3
        and hasattr(ordered[0], "coords")
    ):
        from weftline.launch.place import slots_of

        per = raw["cluster"]["chips_per_host"]
        sides = found["shape"]
        at = {tuple(d.coords): d for d in ordered}
        ordered = []
        for slot, local in slots_of(raw):
            chip, where = slot * per + local, []
            for side in reversed(sides):  # JAX's coords are x, y, z: the last axis of ours first
                chip, here = divmod(chip, side)
                where.append(here)
            key = tuple([*where, 0, 0][:3])
            if key not in at:
                raise InputError(f"no device at {key}", where=str(plan))
            ordered.append(at[key])
    return np.array(ordered, dtype=object).reshape(shape)
