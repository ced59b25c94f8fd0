"""Splitting along the sequence: styles for transformers' tensor plans, and gathered attention.

Sequence parallelism (arXiv:2205.05198): between the blocks a rank of a tensor group holds its share
of the tokens, so norms and residuals are not computed tp times. transformers 5.23 has the switch
and does not wire it up; these styles do, beside its own.

Context parallelism: a rank holds its share of the tokens throughout; keys and values are gathered
for attention. torch's own ``context_parallel`` has no rule for attention on CPUs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed._functional_collectives import all_gather_tensor_autograd
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard
from transformers import AttentionInterface
from transformers.distributed.parallel_utils import ALL_PARALLEL_STYLES
from transformers.distributed.tensor_parallel import (
    ColwiseParallel,
    EmbeddingParallel,
    RowwiseParallel,
    TensorParallelLayer,
)
from transformers.masking_utils import AttentionMaskInterface

from weftline.attention.masks import mask_mod
from weftline.spec.attention import DENSE, AttentionPolicy, Rule

__all__ = ["ATTENTION", "Place", "place", "tensor_plan"]

ATTENTION: Final = "weftline"
"""How our attention is called in transformers' table of implementations."""
_SEQUENCE: Final = 1
"""Hidden states are (batch, sequence, hidden)."""


@dataclass(slots=True)
class Place:
    """This rank's share of every sequence."""

    group: Any = None
    """Its context group; None where it holds whole sequences."""
    index: int = 0
    policy: AttentionPolicy | None = None
    """In the place of full attention, by layer."""


place: Final = Place()
"""Of this process: a rank has one."""


def gathered_attention(
    module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
    attention_mask: torch.Tensor | None, dropout: float = 0.0, scaling: float | None = None,
    sliding_window: int | None = None, **_: Any,
) -> tuple[torch.Tensor, None]:  # fmt: skip
    """Causal attention of this rank's queries over the whole sequence's keys and values, as the
    policy says where there is one and the model does not limit the layer itself.

    Tensors are (batch, heads, tokens, head). The mask follows from the places of the tokens.
    """
    del attention_mask  # no mask is made: see the registration below
    mine = query.shape[2]
    if place.group is not None:
        key = all_gather_tensor_autograd(key.contiguous(), 2, place.group)
        value = all_gather_tensor_autograd(value.contiguous(), 2, place.group)
    begin = place.index * mine
    key, value = key[:, :, : begin + mine], value[:, :, : begin + mine]
    total = key.shape[2]
    mask = None
    rule: Rule = DENSE
    if place.policy is not None and sliding_window is None:
        rule = place.policy.rule(int(getattr(module, "layer_idx", 0)), "prefill")
    if begin or rule != DENSE or (sliding_window is not None and total > sliding_window):
        rows = torch.arange(begin, total, device=query.device)[:, None]
        columns = torch.arange(total, device=query.device)[None, :]
        mask = mask_mod(rule)(0, 0, rows, columns)
        if sliding_window is not None:
            mask &= columns > rows - sliding_window
    out = nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, dropout_p=dropout, is_causal=mask is None,
        scale=scaling, enable_gqa=query.shape[1] != key.shape[1],
    )  # fmt: skip
    return out.transpose(1, 2).contiguous(), None


def _no_mask(*_: Any, **__: Any) -> None:
    return None


AttentionInterface.register(ATTENTION, gathered_attention)
AttentionMaskInterface.register(ATTENTION, _no_mask)


class _SplitEmbedding(EmbeddingParallel):
    """Rows of the vocabulary on each rank; what comes out is split along the sequence."""

    def transform_output_post_forward(self, module: Any, output: Any, mesh: Any) -> Any:
        del module
        if not isinstance(output, DTensor):
            output = DTensor.from_local(output, mesh, [Partial()], run_check=False)
        return output.redistribute(placements=[Shard(_SEQUENCE)]).to_local()


class _GatherBlock(TensorParallelLayer):
    """Before attention or a feed-forward: the whole sequence, whose gradient is summed as split.

    The input stays a DTensor, so that the gradients of several projections add up before one
    reduce-scatter. Experts take plain tensors and sum their gradient themselves.
    """

    def transform_inputs_pre_forward(
        self, module: Any, args: Any, kwargs: Any, mesh: Any
    ) -> tuple[Any, Any]:
        name = "hidden_states"
        x = kwargs[name] if name in kwargs else args[0]
        x = DTensor.from_local(x, mesh, [Shard(_SEQUENCE)], run_check=False)
        x = x.redistribute(placements=[Replicate()])
        if hasattr(module, "experts"):
            x = x.to_local(grad_placements=[Replicate()])
        if name in kwargs:
            return args, {**kwargs, name: x}
        return (x, *args[1:]), kwargs

    def transform_output_post_forward(self, module: Any, output: Any, mesh: Any) -> Any:
        if not hasattr(module, "experts"):
            return output
        first = output[0] if isinstance(output, tuple) else output
        whole = DTensor.from_local(first, mesh, [Replicate()], run_check=False)
        split = whole.redistribute(placements=[Shard(_SEQUENCE)]).to_local()
        return (split, *output[1:]) if isinstance(output, tuple) else split


class _SumBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, group: Any) -> torch.Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        total = grad.clone()
        dist.all_reduce(total, group=ctx.group)
        return total, None


_sum_backward: Any = _SumBackward.apply


class _SummedGradient(TensorParallelLayer):
    """A replicated parameter of which each rank's gradient is a part: summed as it is made.

    transformers' own style sums what has been accumulated, and so counts the earlier micro-batches
    of a step again.
    """

    @contextlib.contextmanager
    def context_around_forward(self, module: Any, mesh: Any) -> Iterator[None]:
        kept = dict(module._parameters)
        group = mesh.get_group()
        for name, p in kept.items():
            if p is not None and p.requires_grad and torch.is_grad_enabled():
                module._parameters[name] = _sum_backward(p, group)
        try:
            yield
        finally:
            module._parameters.update(kept)


SUMMED: Final = "weftline_summed_gradient"
_styles: Any = ALL_PARALLEL_STYLES
_styles.register(SUMMED, _SummedGradient())
_styles.register("weftline_split_embedding", _SplitEmbedding(shard_dim=0))
_styles.register("weftline_gather_block", _GatherBlock())
_styles.register("weftline_rowwise_split", RowwiseParallel(output_layouts=Shard(_SEQUENCE)))
_styles.register(
    "weftline_split_head",
    ColwiseParallel(input_layouts=Shard(_SEQUENCE), output_layouts=Replicate()),
)


def sequence_plan(model: Any, tp_plan: dict[str, str]) -> dict[str, str]:
    """A tensor plan (one entry a module) with the sequence split between blocks."""
    found = dict(tp_plan)
    base = model.base_model_prefix
    found[f"{base}.embed_tokens"] = "weftline_split_embedding"
    found["lm_head"] = "weftline_split_head"
    found[f"{base}.norm"] = SUMMED
    for number, layer in enumerate(model.base_model.layers):
        for name, child in layer.named_children():
            path = f"{base}.layers.{number}.{name}"
            if "norm" in name:
                found[path] = SUMMED
                continue
            found[path] = "weftline_gather_block"
            if not hasattr(child, "experts"):
                for entry, style in tp_plan.items():
                    if entry.startswith(f"{path}.") and style == "rowwise":
                        found[entry] = "weftline_rowwise_split"
    return found


def tensor_plan(model: Any, tp_plan: dict[str, str], *, split: bool) -> dict[str, str]:
    """transformers' plan as it is applied here, for what this stage has; ``split`` as above."""
    theirs = "replicated_with_grad_allreduce"
    found = {name: SUMMED if style == theirs else style for name, style in tp_plan.items()}
    if split:
        found = sequence_plan(model, found)
    return {name: style for name, style in found.items() if _has(model, name)}


def _has(model: nn.Module, name: str) -> bool:
    """Whether this stage has the module or parameter of that name."""
    try:
        found = model.get_submodule(name)
    except AttributeError:
        return name in dict(model.named_parameters())
    return not isinstance(found, nn.Identity)
