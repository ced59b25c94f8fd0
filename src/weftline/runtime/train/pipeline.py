"""Pipeline stages of a rank, and torch's schedule over them.

Stage order on the ranks: 1F1B has one stage a rank, interleaved 1F1B stage ``p + v * pp`` on rank
p, and zero-bubble is ZBV (arXiv:2401.10241, section 6): rank p has stages p and ``2 pp - 1 - p``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from weftline.errors import InputError
from weftline.runtime.train.meshes import Meshes, rank_grid
from weftline.runtime.train.recipe import Recipe
from weftline.spec import Layout

__all__ = ["Ends", "ends_of", "layers_of_stages", "schedule_over", "stages_of_rank"]

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def stages_of_rank(layout: Layout, at: int) -> tuple[int, ...]:
    """Numbers of the stages that pipeline rank ``at`` holds, in forward order."""
    if layout.schedule == "zero-bubble" and layout.pp > 1:
        return (at, 2 * layout.pp - 1 - at)
    return tuple(at + v * layout.pp for v in range(layout.vp))


def stage_count(layout: Layout) -> int:
    """Stages of the whole pipeline."""
    return layout.pp * len(stages_of_rank(layout, 0))


def layers_of_stages(layout: Layout, layers: int) -> tuple[tuple[int, int], ...]:
    """(first, last exclusive) of each stage: even, what is left over in the middle of the pipe.

    The ends hold the embedding and the loss beside their layers. Raises InputError for a stage
    without a layer.
    """
    count = stage_count(layout)
    if layers < count:
        raise InputError(
            f"{layers} layers cannot fill {count} stages of the {layout.schedule} schedule",
            hint=f"plan with at most pp={max(1, layers // (count // layout.pp))}",
        )
    each, rest = divmod(layers, count)
    begin_rest = (count - rest) // 2
    sizes = [each + (begin_rest <= s < begin_rest + rest) for s in range(count)]
    starts = [sum(sizes[:s]) for s in range(count)]
    return tuple((first, first + size) for first, size in zip(starts, sizes, strict=True))


def schedule_over(
    recipe: Recipe, stages: Sequence[nn.Module], meshes: Meshes, loss: Loss, *, hidden: int,
    vocab: int,
) -> Any:  # fmt: skip
    """torch's schedule for the layout, over this rank's stages."""
    # Loads torch's compiler, which nothing else here does.
    from torch.distributed.pipelining import PipelineStage
    from torch.distributed.pipelining.schedules import (
        Schedule1F1B,
        ScheduleInterleaved1F1B,
        ScheduleZBVZeroBubble,
    )

    layout = recipe.layout
    group = meshes.group("pp")
    at = dist.get_rank(group)
    numbers, count = stages_of_rank(layout, at), stage_count(layout)
    tokens = recipe.seq_len // layout.cp
    between = tokens // layout.tp if recipe.sequence_parallel else tokens
    half = torch.bfloat16 if recipe.dtype == "bf16" else torch.float32
    made = []
    for number, module in zip(numbers, stages, strict=True):
        ids = torch.empty(layout.micro_batch, tokens, dtype=torch.long, device="meta")
        # torch sends a gradient back for what says that it wants one. Residuals stay in fp32.
        grown: dict[str, Any] = {"device": "meta", "requires_grad": True}
        states = torch.empty(layout.micro_batch, between, hidden, **grown)
        logits = torch.empty(layout.micro_batch, tokens, vocab, dtype=half, **grown)
        made.append(
            PipelineStage(
                module, number, count, torch.device(recipe.device), group=group,
                input_args=(ids if number == 0 else states,),
                output_args=(logits if number == count - 1 else states,),
            )
        )  # fmt: skip
    kinds: dict[str, Any] = {
        "interleaved": ScheduleInterleaved1F1B, "zero-bubble": ScheduleZBVZeroBubble,
    }  # fmt: skip
    kind = kinds.get(layout.schedule)
    if kind is None:
        return Schedule1F1B(made[0], layout.num_micro_batches, loss_fn=loss)
    return kind(made, layout.num_micro_batches, loss_fn=loss)


@dataclass(slots=True, kw_only=True)
class Ends:
    """The embedding on the first stage and its copy, the output projection, on the last."""

    here: list[nn.Parameter]
    """Those of the two that this rank holds."""
    group: Any
    """Both ranks; None where one rank holds both, or neither."""

    def add_up(self) -> None:
        """Give both the sum of their gradients, so that they stay one weight."""
        grads = [_local(p.grad) for p in self.here if p.grad is not None]
        if not grads:
            return
        total = grads[0].clone() if len(grads) > 1 else grads[0]
        for other in grads[1:]:
            total += other
        if self.group is not None:
            dist.all_reduce(total, group=self.group)
        for grad in grads:
            grad.copy_(total)


def ends_of(recipe: Recipe, models: Sequence[Any]) -> Ends:
    """The ends of a tied model cut into stages; every rank must call."""
    layout = recipe.layout
    grid = rank_grid(layout)
    count = stage_count(layout)
    last_at = next(p for p in range(layout.pp) if count - 1 in stages_of_rank(layout, p))
    group = None
    if last_at != 0:
        pairs = torch.stack([grid[0].flatten(), grid[last_at].flatten()], 1).tolist()
        make: Any = dist.new_subgroups_by_enumeration
        mine, _ = make(pairs)
        group = mine if any(dist.get_rank() in pair for pair in pairs) else None
    here = []
    for number, model in zip(stages_of_rank(layout, _at(grid)), models, strict=True):
        if number == 0:
            here.append(model.base_model.embed_tokens.weight)
        elif number == count - 1:
            here.append(model.lm_head.weight)
    return Ends(here=here, group=group)


def _at(grid: torch.Tensor) -> int:
    return int((grid == dist.get_rank()).nonzero()[0][0])


def _local(grad: Any) -> torch.Tensor:
    found: torch.Tensor = grad.to_local() if hasattr(grad, "to_local") else grad
    return found
