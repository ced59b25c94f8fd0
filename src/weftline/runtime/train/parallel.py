"""One stage of a model laid out over its ranks: tensor, sequence, expert, context, data."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn.parallel import DistributedDataParallel

from weftline.errors import InputError
from weftline.runtime.train import models
from weftline.runtime.train.meshes import Meshes, data_degrees
from weftline.runtime.train.recipe import Recipe
from weftline.runtime.train.sequence import ATTENTION, place, tensor_plan

__all__ = ["Stage", "attention_for", "laid_out", "set_sync"]

_COMPILED_WITH_TENSORS: Final = (
    "torch 2.13 cannot compile tensor-parallel modules on CPUs ('Tensor' object has no attribute "
    "'_local_tensor')"
)


class Stage(nn.Module):
    """Layers ``first`` to ``last`` of a model, with the ends that go with them.

    Takes token ids on the first stage and hidden states elsewhere; gives logits on the last.
    """

    def __init__(self, model: Any, *, first: bool, tokens: int) -> None:
        super().__init__()
        self.model = model
        self.first = first
        self.tokens = tokens
        """Tokens of a sequence on this rank."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, tokens) ids or (batch, tokens, hidden) -> hidden states or logits."""
        begin = place.index * self.tokens
        positions = torch.arange(begin, begin + self.tokens, device=x.device)[None, :]
        given = {"input_ids": x} if self.first else {"inputs_embeds": x}
        out: torch.Tensor = self.model(**given, position_ids=positions, use_cache=False).logits
        # The zero-bubble schedule detaches a stage's output in place, which a view refuses.
        return out.clone() if out._is_view() else out


def attention_for(recipe: Recipe) -> str:
    """Which attention the module is built with: ours where a rank holds part of a sequence, and
    under a policy."""
    if recipe.layout.cp > 1 or recipe.sequence_parallel or recipe.policy:
        if recipe.config.get("attn_logit_softcapping") is not None:
            raise InputError(
                "attention with soft-capped scores cannot be split along the sequence here, nor "
                "follow a policy",
                hint="plan with --layout cp=1, without --policy, and --no-sequence-parallel",
            )
        return ATTENTION
    return "eager" if recipe.config.get("attn_logit_softcapping") is not None else "sdpa"


def laid_out(
    recipe: Recipe,
    model: Any,
    meshes: Meshes | None,
    *,
    first: bool,
    read: models.Read | None,
    filled: bool = True,
) -> nn.Module:
    """The stage with its memory and its values, wrapped as the layout says.

    ``model`` is on the meta device and already cut; ``read`` gives weights to begin with.
    """
    layout = recipe.layout
    ties = models.ties_of(model)
    tokens = recipe.seq_len // layout.cp
    stage = Stage(model, first=first, tokens=tokens)
    if recipe.compile and layout.tp > 1 and recipe.device == "cpu":
        raise InputError(_COMPILED_WITH_TENSORS, hint="leave --compile out, or plan with tp=1")
    if meshes is not None:
        _split_tensors(recipe, model, meshes)
        models.tie(model, ties)
    _recompute(recipe, model)
    if meshes is not None and _shards(recipe):
        _share_state(recipe, stage, meshes, tied=bool(ties))
    if filled:
        models.materialise(model, recipe.device, seed=recipe.seed, ties=ties, read=read)
    if recipe.compile:
        for layer in model.base_model.layers:
            layer.compile()
    if meshes is not None and layout.cp * layout.dp > 1 and not _shards(recipe):
        group = meshes.data.get_group()
        wrapped = DistributedDataParallel(stage, process_group=group, gradient_as_bucket_view=True)
        if recipe.backend == "weftline":
            from weftline.runtime.group.sharing import share_buckets

            share_buckets(wrapped, group)
        return wrapped
    return stage


def _shards(recipe: Recipe) -> bool:
    """Whether FSDP2 holds the parameters: for ZeRO, and for replicas of tensor shards."""
    layout = recipe.layout
    if layout.cp * layout.dp == 1:
        return False
    return layout.zero > 0 or layout.tp > 1 or layout.ep > 1


def _split_tensors(recipe: Recipe, model: Any, meshes: Meshes) -> None:
    from transformers.distributed.configuration_utils import DistributedConfig
    from transformers.distributed.expert_parallel import apply_expert_parallelism
    from transformers.distributed.tensor_parallel import apply_tensor_parallelism

    layout = recipe.layout
    replicas, shard = data_degrees(layout)
    asked = DistributedConfig(
        tp_size=layout.tp, fsdp_size=shard, dp_replicate_size=replicas, ep_size=layout.ep
    )
    try:
        tensors, experts, shares = model._resolve_parallel_plans(asked)
    except ValueError as error:
        raise InputError(f"transformers has no plan for this layout: {error}") from None
    model.config.distributed_config = asked
    model._weftline_plans = experts, shares
    if layout.tp > 1:
        tensors = tensor_plan(model, tensors, split=recipe.sequence_parallel)
        apply_tensor_parallelism(model, meshes.get_mesh("tp"), tensors)
    if layout.ep > 1:
        apply_expert_parallelism(
            model, meshes.get_mesh("ep"), meshes.get_mesh("tp"), experts,
            ep_implementation="all_to_all",
        )  # fmt: skip


def _share_state(recipe: Recipe, stage: Stage, meshes: Meshes, *, tied: bool) -> None:
    """FSDP2 as transformers wraps it; short of ZeRO-3 gathered weights stay until the next step."""
    from transformers.distributed.fsdp import apply_fully_sharded_data_parallelism

    model: Any = stage.model
    experts, shares = model._weftline_plans
    names = {name for name, m in model.named_modules() if not isinstance(m, nn.Identity)}
    kept = {name: style for name, style in shares.items() if name in names}
    replicas, _ = data_degrees(recipe.layout)
    mesh = meshes.get_mesh(("dp_replicate", "fsdp") if replicas > 1 else "fsdp")
    if tied:
        # One weight of two modules: one group of both, which transformers leaves to its loader.
        ends = [model.base_model.embed_tokens, model.lm_head]
        fully_shard(ends, mesh=mesh, reshard_after_forward=False)
        kept = {name: s for name, s in kept.items() if model.get_submodule(name) not in ends}
    share: Any = apply_fully_sharded_data_parallelism
    share(model, meshes, kept, experts)
    fully_shard(stage, mesh=mesh)
    for module in stage.modules():
        if isinstance(module, FSDPModule) and recipe.layout.zero < 3:
            module.set_reshard_after_forward(False, recurse=False)


def _recompute(recipe: Recipe, model: Any) -> None:
    """Compute layers again in the backward pass, as many of this stage as the plan says."""
    layout = recipe.layout
    if layout.recompute != "full":
        return
    model.gradient_checkpointing_enable({"use_reentrant": False})
    count = layout.recompute_layers or len(model.base_model.layers)
    for layer in model.base_model.layers:
        if hasattr(layer, "gradient_checkpointing"):
            layer.gradient_checkpointing = count > 0
            count -= 1


def set_sync(module: nn.Module, on: bool) -> None:
    """Whether the next backward pass exchanges gradients: only the last micro-batch's does."""
    if isinstance(module, DistributedDataParallel):
        module.require_backward_grad_sync = on
    elif isinstance(module, FSDPModule):
        module.set_requires_gradient_sync(on)
