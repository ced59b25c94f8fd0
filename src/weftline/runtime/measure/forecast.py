"""A plan's step and memory from what was measured of its own operators and shallow layouts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from weftline.runtime.train.recipe import Recipe

__all__ = ["EXCHANGE", "PARTS", "Forecast", "forecast"]

PRODUCTS: Final = "matrix products"
ATTENTION: Final = "attention"
REST: Final = "norms and activations"
LOSS: Final = "loss"
HOST: Final = "between operators (host)"
EXCHANGE: Final = "exchanges and wrappers, exposed"
BUBBLE: Final = "pipeline bubble"
OPTIMIZER: Final = "optimizer"
PARTS: Final = (PRODUCTS, ATTENTION, REST, LOSS, HOST, EXCHANGE, BUBBLE, OPTIMIZER)
_STATE_BYTES: Final = 12.0
"""fp32 weight and two moments."""
Forecast = tuple[dict[str, float], float]
"""Seconds by part, and bytes."""


def forecast(recipe: Recipe, found: Sequence[Mapping[str, Any]]) -> Forecast:
    """(seconds of a step by part, bytes of the fullest rank), of what every rank has measured."""
    ranks = [_of_rank(recipe, one) for one in found]
    step_s = max(step for step, _, _ in ranks)
    parts = _shared_out(recipe, step_s, ranks[0][1], found[0])
    return parts, max(memory for _, _, memory in ranks)


def _of_rank(recipe: Recipe, one: Mapping[str, Any]) -> tuple[float, float, float]:
    """(step, its optimizer, memory) of one rank."""
    rows, times = one["rows"], float(one["depths"][2])
    low = {key: _median([r[key] for r in rows["low"]]) for key in ("step", "optimizer")}
    step_s, optimizer_s = low["step"], low["optimizer"]
    if times:
        pairs = list(zip(rows["low"], rows["high"], strict=True))
        step_s += times * _median([high["step"] - lo["step"] for lo, high in pairs])
        optimizer_s += times * _median([high["optimizer"] - lo["optimizer"] for lo, high in pairs])
    return step_s, optimizer_s, _memory(recipe, one, times)


def _memory(recipe: Recipe, one: Mapping[str, Any], times: float) -> float:
    held = one["memory"]

    def deep(name: str) -> float:
        low = float(held["low"][name])
        return low + (times * (float(held["high"][name]) - low) if times else 0.0)

    gathered = float(held["low"]["gathered_bytes"])
    copies = 2.0 if recipe.layout.zero >= 3 else 0.0
    # On hosts a save's copy of the state is memory of the same kind.
    states = 2.0 if recipe.device == "cpu" else 1.0
    return (
        float(one["base_bytes"]) + states * _STATE_BYTES * deep("parameters")
        + deep("alive_bytes") + copies * gathered
    )  # fmt: skip


def _shared_out(
    recipe: Recipe, step_s: float, optimizer_s: float, one: Mapping[str, Any]
) -> dict[str, float]:
    """The step by part as rank 0 spends it; what no operator explains is exchange and bubble."""
    layout = recipe.layout
    runs = layout.num_micro_batches
    layers = float(recipe.config["num_hidden_layers"]) / layout.pp
    first, last = _ends(recipe)
    # Layers computed again go forward twice.
    again = 0.0
    if layout.recompute == "full":
        again = min(1.0, layout.recompute_layers / layers) if layout.recompute_layers else 1.0
    parts = dict.fromkeys(PARTS, 0.0)
    inside = 0.0
    chain = 0.0
    for name, part, count in one["operators"]:
        forward = _median([f for f, _ in one["times"][name]])
        backward = _median([b for _, b in one["times"][name]])
        each = forward * (1 + again) + backward
        if part not in parts:
            chain = each
        elif count:
            parts[part] += runs * layers * count * each
            inside += count * each
        elif first if name == "embedding" else last:
            parts[part] += runs * (forward + backward)
    parts[HOST] = runs * layers * max(0.0, chain - inside)
    parts[OPTIMIZER] = optimizer_s
    left = step_s - sum(parts.values())
    if left < 0:
        # Alone an operator may take longer than among others: the step is what was timed.
        scale = (step_s - optimizer_s) / (sum(parts.values()) - optimizer_s)
        parts = {n: v if n == OPTIMIZER else v * scale for n, v in parts.items()}
    elif layout.pp > 1:
        bubble = step_s * (layout.pp - 1) / (layout.vp * runs + layout.pp - 1)
        bubble *= 1 / 3 if layout.schedule == "zero-bubble" else 1.0
        parts[BUBBLE] = min(left, bubble)
        parts[EXCHANGE] = left - parts[BUBBLE]
    else:
        parts[EXCHANGE] = left
    return parts


def _ends(recipe: Recipe) -> tuple[bool, bool]:
    """Whether rank 0 holds the first and the last stage."""
    layout = recipe.layout
    if layout.pp == 1:
        return True, True
    return True, layout.schedule == "zero-bubble"


def _median(values: Sequence[float]) -> float:
    return float(np.median(values))
