"""What the parts of a planned step are, by name, and the step where some of them are slower."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from weftline.spec.plan import Plan

COMPUTE: Final = ("matrix products", "attention", "norms and activations", "optimizer")
"""Parts that every chip takes part in: the slowest chip holds all of them back."""
AXES: Final = {"tensor-parallel": "tp", "context-parallel": "cp", "expert": "ep",
               "pipeline": "pp", "gradient": "dp"}  # fmt: skip
"""How a part that exchanges begins, and the axis whose groups it is in."""


def slowed(plan: Plan, *, work: float = 1.0, exchange: Mapping[str, float] | None = None) -> float:
    """Step time over the planned one where chips compute ``work`` times slower and exchanges of an
    axis take ``exchange[axis]`` times as long.

    What was hidden stays hidden up to its own share, so this is a floor for what lies beyond it.
    """
    total = sum(part.value for part in plan.step_parts)
    if total <= 0:
        return 1.0
    extra = 0.0
    for part in plan.step_parts:
        if part.name in COMPUTE:
            extra += part.value * (work - 1.0)
        axis = next((a for word, a in AXES.items() if part.name.startswith(word)), None)
        if axis is not None and "bubble" not in part.name:
            extra += part.value * ((exchange or {}).get(axis, 1.0) - 1.0)
    return 1.0 + max(0.0, extra) / total
