"""A plan tried without its cluster: rank 0 of the whole world, on torch's ``fake`` backend.

Exchanges return at once and move nothing, so the numbers are not a model's; shapes, groups and
sizes are those of the real run. Weights and activations have no memory: tensors are fakes.
"""

from __future__ import annotations

import gc
import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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
    with _uncollected():
        found = _of_rank_0(plan, asked, where)
    return replace(found, seconds=time.perf_counter() - begin)


@contextmanager
def _uncollected() -> Iterator[None]:
    """No garbage collection: over the 300,000 objects of torch and transformers, which all stay, it
    takes a fifth of a dry run. Tensors go when nothing refers to them, as ever."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _of_rank_0(plan: Plan, asked: TrainOptions, where: str) -> DryRun:
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
    with _environment({"RANK": "0", "WORLD_SIZE": str(world), "LOCAL_RANK": "0"}):
        dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=world)
        try:
            return _tried(recipe, torch)
        finally:
            dist.destroy_process_group()


@contextmanager
def _environment(said: dict[str, str]) -> Iterator[None]:
    """These variables, and afterwards what was there: libraries read a stale world as a job."""
    before = {name: os.environ.get(name) for name in said}
    os.environ |= said
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _tried(recipe: Recipe, torch: Any) -> DryRun:
    """Rank 0 with one and with two layers a stage: layers are alike, the rest follows exactly.

    Where they are not alike the whole stage is tried.
    """
    from weftline.runtime.train import models
    from weftline.runtime.train.pipeline import layers_of_stages, stage_count

    with models.quietly():
        whole = models.build(models.config_of(recipe.config), attention="eager")
        models.check_count(whole, recipe.parameters)
        depth = len(whole.base_model.layers)  # type: ignore[union-attr, arg-type]
        first, last = layers_of_stages(recipe.layout, depth)[0]
        stages = stage_count(recipe.layout)
        if len({_kind(layer) for layer in whole.base_model.layers}) > 1:  # type: ignore[union-attr]
            sizes: tuple[int, ...] = (last - first,)
        else:
            sizes = (1, 2)
        tries = [_with_layers(recipe, size * stages, torch) for size in sizes]
    one, more = tries[0], tries[-1]
    left = last - first - sizes[-1]
    local = more.local_parameters + left * (more.local_parameters - one.local_parameters)
    return replace(
        more, parameters=recipe.parameters, local_parameters=local, state_bytes=16.0 * local,
        activation_bytes=more.activation_bytes
        + left * (more.activation_bytes - one.activation_bytes),
    )  # fmt: skip


def _kind(layer: Any) -> tuple[Any, ...]:
    """What tells layers apart: their shapes by name."""
    return tuple((name, tuple(p.shape)) for name, p in layer.named_parameters())


def _with_layers(recipe: Recipe, depth: int, torch: Any) -> DryRun:
    from torch._subclasses.fake_tensor import FakeTensorMode

    from weftline.model.config import HFConfig
    from weftline.model.load import load_config
    from weftline.runtime.train import models
    from weftline.runtime.train.trainer import Trainer

    fields = dict(recipe.config) | {"num_hidden_layers": depth}
    if isinstance(fields.get("layer_types"), list):
        fields["layer_types"] = fields["layer_types"][:depth]
    if "max_window_layers" in fields:
        fields["max_window_layers"] = min(int(fields["max_window_layers"] or 0), depth)
    count = load_config(HFConfig(json.dumps(fields), recipe.model)).parameters
    trainer = Trainer(replace(recipe, config=fields, parameters=count), filled=False)
    held = sum(math.prod(_local(p)) for p in trainer.named.values())
    gathered = max(sum(4.0 * p.numel() for p in layer.parameters())
                   for model in trainer.models for layer in model.base_model.layers)  # fmt: skip
    ties = models.ties_of(trainer.models[0])
    with FakeTensorMode(allow_non_fake_inputs=True):
        trainer.models[0].to_empty(device="cpu")
        models.tie(trainer.models[0], ties)
        peak = _micro_batch(recipe, trainer, torch)
    return DryRun(
        model=recipe.model, ranks=recipe.layout.chips, layout=recipe.layout.short(),
        parameters=count, local_parameters=held, state_bytes=16.0 * held,
        gathered_bytes=gathered, groups=_groups(trainer), shapes=_shapes(trainer),
        activation_bytes=peak, seconds=0.0, notes=recipe.notes,
    )  # fmt: skip


def _micro_batch(recipe: Recipe, trainer: Any, torch: Any) -> float:
    """Forward and backward of rank 0's first stage; most bytes alive at once, weights left out."""
    from weftline.runtime.train.alive import Alive
    from weftline.runtime.train.trainer import loss_of

    tokens = recipe.seq_len // recipe.layout.cp
    ids = torch.zeros(recipe.layout.micro_batch, tokens, dtype=torch.long)
    with Alive() as alive:
        out = trainer.stages[0](ids)
        loss = loss_of(out, ids) if recipe.layout.pp == 1 else out.float().mean()
        loss.backward()
    return float(alive.peak_bytes)


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
