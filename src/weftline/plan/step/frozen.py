"""Parts of a model that full fine-tuning leaves as they are: weights without gradients or states.

The backward pass still goes through them, so only the products that would give their gradients are
saved; adapters are another thing (:func:`weftline.plan.step.compiled.adapter_parameters`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from weftline.model import Model, Operator
from weftline.model.once import once_per_model
from weftline.spec import Tune

__all__ = ["FREEZABLE", "Frozen", "frozen_of", "spared_flops_per_token", "trained_parameters"]

FREEZABLE: Final = ("embeddings", "attention", "mlp", "experts")
"""What ``--freeze`` takes: embedding and head, attention (or recurrent) blocks, dense feed-forwards
(shared experts too), routed experts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Frozen:
    """Shares that are not trained."""

    dense: float = 0.0
    """Of the layers' parameters without routed experts."""
    experts: float = 0.0
    """Of routed experts: all or none."""
    ends: float = 0.0
    """Of embedding and head: all or none."""
    products: float = 0.0
    """Of the layers' products by FLOP."""


@once_per_model
def frozen_of(model: Model, parts: tuple[str, ...]) -> Frozen:
    """What freezing ``parts`` (words of :data:`FREEZABLE`) leaves out of a step."""
    if not parts:
        return Frozen()
    dense = kept = flops = left = 0.0
    for layer in model.layers:
        for op in layer.operators:
            frozen = _part(op) in parts
            if op.kind != "grouped_gemm":
                dense, kept = dense + op.parameters, kept + op.parameters * frozen
            if op.kind in ("gemm", "grouped_gemm"):
                work = op.forward_flops_per_token(1)
                flops, left = flops + work, left + work * frozen
    return Frozen(
        dense=kept / max(dense, 1.0), experts=float("experts" in parts),
        ends=float("embeddings" in parts), products=left / max(flops, 1.0),
    )  # fmt: skip


def _part(op: Operator) -> str:
    """The word of :data:`FREEZABLE` that an operator of a layer belongs to."""
    if op.kind == "grouped_gemm":
        return "experts"
    return "mlp" if op.name.partition(".")[0] in ("mlp", "moe") else "attention"


def trained_parameters(model: Model, parts: tuple[str, ...]) -> float:
    """Parameters that stay trained."""
    frozen = frozen_of(model, parts)
    expert = float(sum(layer.expert_parameters for layer in model.layers))
    dense = float(sum(layer.parameters for layer in model.layers)) - expert
    ends = float(model.parameters) - dense - expert
    return dense * (1 - frozen.dense) + expert * (1 - frozen.experts) + ends * (1 - frozen.ends)


def spared_flops_per_token(model: Model, tune: Tune, parts: tuple[str, ...]) -> float:
    """FLOP a token that full training would take for gradients of weights that are frozen."""
    share = frozen_of(model, parts).products if tune == "full" else 1.0
    products = sum(
        op.forward_flops_per_token(1)
        for op in model.operators if op.kind in ("gemm", "grouped_gemm")
    )  # fmt: skip
    return share * products
