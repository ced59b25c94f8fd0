"""A plan tried without its cluster: rank 0 of the whole world, on torch's ``fake`` backend.

Exchanges return at once and move nothing, so the numbers are not a model's; shapes, groups and
sizes are those of the real run. Weights and activations have no memory: tensors are fakes.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from weftline.errors import InputError
from weftline.runtime.train.asked import recipe_of
from weftline.runtime.train.machine import Machine
from weftline.runtime.train.options import TrainOptions
from weftline.runtime.train.recipe import Recipe
from weftline.spec import Plan

__all__ = ["DryRun", "dry_run"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DryRun:
    """What rank 0 of a plan holds and does."""

    model: str
    ranks: int
    layout: str
    parameters: int
    """Of the whole model, counted by transformers' module and by weftline alike."""
    local_parameters: int
    """On rank 0."""
    state_bytes: float
    """fp32 weights, gradients and moments of rank 0."""
    gathered_bytes: float
    """The largest group of weights that FSDP2 gathers on rank 0 at a time."""
    groups: Mapping[str, tuple[int, ...]]
    """Axis -> the ranks of rank 0's group, in order."""
    shapes: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]
    """(parameter, whole shape, rank 0's shape) of the first layer that it holds, and the ends."""
    activation_bytes: float
    """Peak of rank 0's forward and backward of one micro-batch beside its state."""
    seconds: float
    notes: tuple[str, ...]


def dry_run(plan: Plan, asked: TrainOptions, *, where: str) -> DryRun:
    """Lay the plan out for rank 0 and take one micro-batch. Raises InputError(s)."""
    begin = time.perf_counter()
    try:
        import torch
        import torch.distributed as dist
    except ImportError:
        raise InputError(
            "torch and transformers are needed for a dry run", hint="pip install 'weftline[run]'"
        ) from None
    layout = plan.layout
    machine = Machine(
        kind="cpu", name="none", chips=layout.chips, cores=layout.chips, memory_bytes=math.inf
    )
    tried = replace(asked, emulate=True, dtype="fp32", nproc=asked.nproc or layout.chips)
    recipe = recipe_of(plan, tried, machine, where=where, without_data=True)
    from torch.testing._internal.distributed.fake_pg import FakeStore

    world = recipe.layout.chips
    os.environ |= {"RANK": "0", "WORLD_SIZE": str(world), "LOCAL_RANK": "0"}
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=world)
    try:
        found = _tried(recipe, torch)
    finally:
        dist.destroy_process_group()
    return replace(found, seconds=time.perf_counter() - begin)


def _tried(recipe: Recipe, torch: Any) -> DryRun:
    from torch._subclasses.fake_tensor import FakeTensorMode

    from weftline.runtime.train import models
    from weftline.runtime.train.trainer import Trainer, loss_of

    with models.quietly():
        trainer = Trainer(recipe, filled=False)
        local = [_local(p) for p in trainer.named.values()]
        count = sum(math.prod(shape) for shape in local)
        ties = models.ties_of(trainer.models[0])
        with FakeTensorMode(allow_non_fake_inputs=True):
            trainer.models[0].to_empty(device="cpu")
            models.tie(trainer.models[0], ties)
            peak = _micro_batch(recipe, trainer, torch, loss_of)
    gathered = 0.0
    for model in trainer.models:
        layers = getattr(model.base_model, "layers", ())
        for layer in layers:
            gathered = max(gathered, sum(4.0 * p.numel() for p in layer.parameters()))
    return DryRun(
        model=recipe.model, ranks=recipe.layout.chips, layout=recipe.layout.short(),
        parameters=recipe.parameters, local_parameters=count, state_bytes=16.0 * count,
        gathered_bytes=gathered, groups=_groups(trainer), shapes=_shapes(trainer),
        activation_bytes=peak, seconds=0.0, notes=recipe.notes,
    )  # fmt: skip


def _micro_batch(recipe: Recipe, trainer: Any, torch: Any, loss_of: Any) -> float:
    """Forward and backward of rank 0's first stage; most bytes alive beside the weights."""
    from torch.distributed._tools.mem_tracker import MemTracker

    tokens = recipe.seq_len // recipe.layout.cp
    ids = torch.zeros(recipe.layout.micro_batch, tokens, dtype=torch.long)
    tracker = MemTracker()
    tracker.track_external(*trainer.stages)
    with tracker:
        out = trainer.stages[0](ids)
        loss = loss_of(out, ids) if recipe.layout.pp == 1 else out.float().mean()
        loss.backward()
    peaks = tracker.get_tracker_snapshot("peak")
    kinds: dict[str, float] = {}
    for by_kind in peaks.values():
        for kind, held in by_kind.items():
            name = getattr(kind, "value", str(kind))
            kinds[name] = kinds.get(name, 0.0) + float(held)
    return sum(v for k, v in kinds.items() if k in ("Activation", "Temp"))


def _local(parameter: Any) -> tuple[int, ...]:
    local = parameter.to_local() if hasattr(parameter, "to_local") else parameter
    return tuple(local.shape)


def _shapes(trainer: Any) -> tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]:
    first = next((n.split(".layers.")[1].split(".")[0] for n in trainer.named if ".layers." in n),
                 None)  # fmt: skip
    return tuple(
        (name, tuple(p.shape), _local(p))
        for name, p in trainer.named.items()
        if ".layers." not in name or f".layers.{first}." in name
    )


def _groups(trainer: Any) -> dict[str, tuple[int, ...]]:
    import torch.distributed as dist

    found = {}
    meshes = trainer.meshes
    if meshes is None:
        return {}
    for axis in ("tp", "cp", "dp", "pp"):
        ranks = tuple(dist.get_process_group_ranks(meshes.group(axis)))
        if len(ranks) > 1:
            found[axis] = ranks
    for axis in ("fsdp", "dp_replicate", "ep"):
        if axis == "ep" and meshes.expert is None:
            continue
        ranks = tuple(dist.get_process_group_ranks(meshes.get_mesh(axis).get_group()))
        if len(ranks) > 1:
            found[axis] = ranks
    return found
