"""A finished run's weights as a folder that transformers (or peft) reads.

Made by the parent out of the newest checkpoint, whatever the layout that wrote it.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Final

from weftline.runtime.train.recipe import CHECKPOINTS, Recipe
from weftline.spec.serialize import write_text

__all__ = ["MODEL", "export_weights"]

MODEL: Final = "model"
_KEPT: Final = (
    "generation_config.json", "tokenizer_config.json", "special_tokens_map.json",
    "chat_template.jinja",
)  # fmt: skip
"""What says how a model is talked with: its template, its special tokens, when an answer ends."""
_PREFIX: Final = "base_model.model."
"""peft's, before the names of the module that it wraps."""


def export_weights(recipe: Recipe, run: Path) -> Path:
    """Write ``model/`` into the run's folder. Raises BurstError where no checkpoint is whole."""
    from safetensors.torch import save_file

    from weftline.burst.pytorch import load

    state: dict[str, Any] = load(run / CHECKPOINTS)["model"]
    folder, target = run / f".{MODEL}.tmp", run / MODEL
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    if recipe.tune == "lora":
        names = {name: _PREFIX + name.replace(".default.", ".") for name in state}
        save_file(
            {names[n]: t.contiguous() for n, t in state.items()},
            folder / "adapter_model.safetensors",
        )
        _adapter_config(recipe, list(state)).save_pretrained(str(folder))
    else:
        tensors = {name: tensor.contiguous() for name, tensor in state.items()}
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        write_text(json.dumps(dict(recipe.config), indent=1) + "\n", folder / "config.json")
    tokenizer = Path(recipe.data) / "tokenizer.json"
    # How to talk with the model is not trained: it stays what it was of the weights.
    for kept in (tokenizer, *(Path(recipe.weights) / n for n in _KEPT if recipe.weights)):
        if kept.is_file():
            shutil.copy(kept, folder / kept.name)
    shutil.rmtree(target, ignore_errors=True)
    folder.rename(target)
    return target


def _adapter_config(recipe: Recipe, names: list[str]) -> Any:
    from weftline.runtime.train.adapters import adapter_config

    wanted = sorted({name.partition(".lora_")[0].rpartition(".")[2] for name in names})
    return adapter_config(recipe.rank, wanted, base=recipe.weights)
