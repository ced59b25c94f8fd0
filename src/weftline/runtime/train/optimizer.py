"""The optimizer of a rank: one group a kind of tensor, the norm of all gradients, the rate by step.

torch's fused AdamW takes plain tensors or DTensors of one mesh in a group, not both.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Final

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor

from weftline.errors import InputError
from weftline.runtime.train.recipe import Recipe

__all__ = ["Optimizers", "align_gradients", "gradient_norm", "rate_at", "scale_gradients"]

_BETAS: Final = (0.9, 0.95)
_LAST_SHARE: Final = 0.1
"""Of the learning rate, at the end of the cosine."""


class Optimizers:
    """AdamW for all, or Muon for the matrices of the layers and AdamW for the rest."""

    def __init__(self, recipe: Recipe, named: Mapping[str, nn.Parameter]) -> None:
        trained = {name: p for name, p in named.items() if p.requires_grad}
        matrices = {}
        if recipe.optimizer == "muon":
            matrices = {name: p for name, p in trained.items() if _is_layer_matrix(name, p)}
            if any(isinstance(p, DTensor) for p in matrices.values()):
                raise InputError(
                    "Muon needs whole matrices on every rank: no tensor parallelism, no ZeRO",
                    hint="plan with --layout tp=1,zero=0, or take AdamW",
                )
        self.names = {id(p): name for name, p in trained.items()}
        self.parts: list[torch.optim.Optimizer] = []
        rest = [(name, p) for name, p in trained.items() if name not in matrices]
        if rest:
            self.parts.append(
                torch.optim.AdamW(
                    _groups(rest, recipe.weight_decay), lr=recipe.learning_rate, betas=_BETAS,
                    fused=True,
                )
            )  # fmt: skip
        if matrices:
            self.parts.append(
                torch.optim.Muon(
                    list(matrices.values()), lr=recipe.learning_rate,
                    weight_decay=recipe.weight_decay, adjust_lr_fn="match_rms_adamw",
                )
            )  # fmt: skip

    def step(self, rate: float) -> None:
        """One update at this learning rate; gradients are dropped."""
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = rate
            part.step()
            part.zero_grad(set_to_none=True)

    def state(self) -> dict[str, torch.Tensor]:
        """Moments by name: ``<parameter>.exp_avg``; made as zeros where no step was taken."""
        found: dict[str, torch.Tensor] = {}
        for part in self.parts:
            keys = ("exp_avg", "exp_avg_sq") if isinstance(part, torch.optim.AdamW) else (
                "momentum_buffer",)  # fmt: skip
            for group in part.param_groups:
                for p in group["params"]:
                    state = part.state[p]
                    for key in keys:
                        if key not in state:
                            state[key] = torch.zeros_like(p, memory_format=torch.preserve_format)
                        found[f"{self.names[id(p)]}.{key}"] = state[key]
        return found

    def set_steps(self, step: int) -> None:
        """How many updates the moments have seen."""
        for part in self.parts:
            for group in part.param_groups:
                for p in group["params"]:
                    if isinstance(part, torch.optim.AdamW):
                        part.state[p]["step"] = torch.tensor(float(step), device=p.device)


def _is_layer_matrix(name: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim == 2 and ".layers." in name


def _groups(named: Iterable[tuple[str, nn.Parameter]], decay: float) -> list[dict[str, Any]]:
    groups: dict[Any, dict[str, Any]] = {}
    for name, p in named:
        decays = p.ndim >= 2 and "embed_tokens" not in name
        mesh = p.device_mesh if isinstance(p, DTensor) else None
        made = groups.setdefault(
            (mesh, decays), {"params": [], "weight_decay": decay if decays else 0.0}
        )
        made["params"].append(p)
    return list(groups.values())


def rate_at(recipe: Recipe, step: int) -> float:
    """Learning rate of step ``step`` (from 0): linear warm-up, then a cosine down to a tenth."""
    top = recipe.learning_rate
    if step < recipe.warmup_steps:
        return top * (step + 1) / recipe.warmup_steps
    if recipe.schedule == "constant":
        return top
    span = max(1, recipe.steps - recipe.warmup_steps)
    share = min(1.0, (step - recipe.warmup_steps) / span)
    return top * (_LAST_SHARE + (1 - _LAST_SHARE) * 0.5 * (1 + math.cos(math.pi * share)))


def gradient_norm(parameters: Iterable[nn.Parameter], pipeline: Any) -> torch.Tensor:
    """The norm of the gradients of the whole model, the same on every rank.

    A sharded gradient counts its shards over the axes that shard it, a replicated one once.
    ``pipeline`` is the group of the stages, or None.
    """
    parts: dict[Any, list[torch.Tensor]] = {}
    device = "cpu"
    for p in parameters:
        if p.grad is None:
            continue
        grad: Any = p.grad
        kind: tuple[Any, ...] = (None, ())
        if isinstance(grad, DTensor):
            sharded = [i for i, q in enumerate(grad.placements) if not q.is_replicate()]
            kind = (grad.device_mesh, tuple(sharded))
            grad = grad.to_local()
        device = grad.device.type
        parts.setdefault(kind, []).append(grad)
    total = torch.zeros((), dtype=torch.float64, device=device)
    # Every rank has the same kinds in the same order, but on stages that hold other modules.
    for (mesh, axes), grads in parts.items():
        squares = torch.stack(torch._foreach_norm(grads)).double().square().sum()
        for axis in axes:
            dist.all_reduce(squares, group=mesh.get_group(axis))
        total += squares
    if pipeline is not None:
        dist.all_reduce(total, group=pipeline)
    return total.sqrt()


def align_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Lay every gradient out as its parameter is; an embedding's comes back whole on every rank."""
    for p in parameters:
        grad = p.grad
        if isinstance(p, DTensor) and isinstance(grad, DTensor) and (
            grad.placements != p.placements
        ):  # fmt: skip
            p.grad = grad.redistribute(placements=p.placements)


def scale_gradients(parameters: Iterable[nn.Parameter], factor: float) -> None:
    """Multiply every gradient of this rank."""
    grads = [
        p.grad.to_local() if isinstance(p.grad, DTensor) else p.grad
        for p in parameters
        if p.grad is not None
    ]
    torch._foreach_mul_(grads, factor)
