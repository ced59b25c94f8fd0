"""A plan's step and memory from what was measured of its own operators and shallow layouts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from weftline.runtime.train.recipe import Recipe

__all__ = ["EXCHANGE", "PARTS", "forecast", "held"]

PRODUCTS: Final = "matrix products"
ATTENTION: Final = "attention"
REST: Final = "norms and activations"
LOSS: Final = "loss"
HOST: Final = "between operators (host)"
EXCHANGE: Final = "exchanges and wrappers, exposed"
BUBBLE: Final = "pipeline bubble"
OPTIMIZER: Final = "optimizer"
PARTS: Final = (PRODUCTS, ATTENTION, REST, LOSS, HOST, EXCHANGE, BUBBLE, OPTIMIZER)


def forecast(recipe: Recipe, found: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Seconds of a step by part, of what every rank has measured."""
    ranks = [_of_rank(one) for one in found]
    return _shared_out(recipe, max(step for step, _ in ranks), ranks[0][1], found[0])


def _of_rank(one: Mapping[str, Any]) -> tuple[float, float]:
    """(step, its optimizer) of one rank."""
    rows, times = one["rows"], float(one["depths"][2])
    low = {key: _median([r[key] for r in rows["low"]]) for key in ("step", "optimizer")}
    step_s, optimizer_s = low["step"], low["optimizer"]
    if times:
        pairs = list(zip(rows["low"], rows["high"], strict=True))
        # More layers never take less: where they seem to, it is the machine's noise.
        step_s += times * max(0.0, _median([high["step"] - lo["step"] for lo, high in pairs]))
        optimizer_s += times * max(
            0.0, _median([high["optimizer"] - lo["optimizer"] for lo, high in pairs])
        )
    return step_s, optimizer_s


def held(low_bytes: float, high_bytes: float, times: float) -> float:
    """Bytes of the fullest rank, of what its layout with few layers has held, and with more."""
    return low_bytes + times * max(0.0, high_bytes - low_bytes)


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
