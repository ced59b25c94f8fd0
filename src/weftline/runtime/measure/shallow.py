"""A plan's own layout with few layers: what wrapping, exchanges, bubbles and the ends add.

Layers are alike, so the step of a deep model is that of a shallow one and as many times the
difference that a layer makes. What a layer takes beyond its operators is what exchanges it waits
for, and what its wrappers cost the host. Where layers are not alike, depths are whole periods.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import torch

from weftline.model.config import HFConfig
from weftline.model.load import load_config
from weftline.runtime.train.pipeline import layers_of_stages, stage_count, stages_of_rank
from weftline.runtime.train.recipe import Recipe
from weftline.runtime.train.trainer import Trainer

__all__ = ["Depths", "Shallow", "depths_of", "shallow"]

_APART: Final = 2
"""Layers a stage by which the depths differ: one would show more of the noise than of a layer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Depths:
    """Layers of the shallow models, and how many of their differences make the plan's."""

    low: int
    high: int
    times: float
    """Steps of the plan are ``low + times * (high - low)``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shallow:
    """One shallow model of a plan's layout on this rank."""

    trainer: Trainer
    ids: torch.Tensor
    targets: torch.Tensor

    def step(self, number: int) -> dict[str, float]:
        """Take a step; its seconds by part."""
        return self.trainer.step(self.ids, self.targets, number, stop=False).parts


def depths_of(recipe: Recipe) -> Depths:
    """One layer a stage and three, or whole periods where layers differ."""
    layers = int(recipe.config.get("num_hidden_layers") or 1)
    stages = stage_count(recipe.layout) if recipe.layout.pp > 1 else 1
    period = _period(recipe.config)
    low = stages * period
    high = low * (1 + _APART)
    if low >= layers:
        return Depths(low=layers, high=layers, times=0.0)
    high = min(high, layers - layers % low) if layers % low == 0 or stages == 1 else high
    high = max(high, 2 * low)
    return Depths(low=low, high=high, times=(_paced(recipe, layers) - low) / (high - low))


def _paced(recipe: Recipe, layers: int) -> int:
    """Layers of a pipeline whose every rank has as many as the fullest: that one sets the pace."""
    layout = recipe.layout
    if layout.pp == 1:
        return layers
    ranges = layers_of_stages(layout, layers)
    held = [sum(ranges[s][1] - ranges[s][0] for s in stages_of_rank(layout, p))
            for p in range(layout.pp)]  # fmt: skip
    return max(held) * layout.pp


def _period(config: Mapping[str, Any]) -> int:
    """Layers after which kinds repeat; 1 where all are alike."""
    kinds = config.get("layer_types")
    if not isinstance(kinds, list) or len(set(kinds)) < 2:
        return 1
    for size in range(2, len(kinds) + 1):
        if all(kind == kinds[i % size] for i, kind in enumerate(kinds)):
            return size
    return len(kinds)


def shallow(recipe: Recipe, layers: int) -> Shallow:
    """The plan's layout over that many layers; every rank of the world must call."""
    fields = dict(recipe.config) | {"num_hidden_layers": layers}
    if isinstance(fields.get("layer_types"), list):
        fields["layer_types"] = fields["layer_types"][:layers]
    if "max_window_layers" in fields:
        fields["max_window_layers"] = min(int(fields["max_window_layers"] or 0), layers)
    layout = recipe.layout
    if layout.recompute == "full" and layout.recompute_layers:
        stages = stage_count(layout) if layout.pp > 1 else 1
        layout = replace(layout, recompute_layers=min(layout.recompute_layers, layers // stages))
    count = load_config(HFConfig(json.dumps(fields), recipe.model)).parameters
    trainer = Trainer(replace(recipe, config=fields, parameters=count, layout=layout, weights="",
                              tune="full"))  # fmt: skip
    rows = layout.micro_batch * layout.num_micro_batches
    vocab = int(fields["vocab_size"])
    maker = torch.Generator().manual_seed(recipe.seed + trainer.at["dp"])
    drawn = torch.randint(0, vocab, (rows, recipe.seq_len // layout.cp + 1), generator=maker)
    drawn = drawn.to(recipe.device)
    return Shallow(trainer=trainer, ids=drawn[:, :-1].contiguous(),
                   targets=drawn[:, 1:].contiguous())  # fmt: skip
