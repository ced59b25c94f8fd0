"""A recipe: all that the ranks of one run must know, as one frozen value and one JSON file.

The parent makes it once (from a plan, ``asked.py``); every rank, in whatever launcher, reads it and
its own place from the environment. Nothing of it is decided twice.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from weftline.errors import InputError, InputErrors
from weftline.spec import Layout
from weftline.spec.serialize import write_text

__all__ = ["CHECKPOINTS", "RECIPE_FILE", "Recipe", "read_recipe", "write_recipe"]

RECIPE_FILE: Final = "recipe.json"
RECIPE_FORMAT: Final = 1
CHECKPOINTS: Final = "checkpoints"
"""The folder of a run that is its burst store."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What is trained, on what, cut how, for how long."""

    format: int = RECIPE_FORMAT
    model: str
    """What the plan calls it."""
    config: Mapping[str, Any]
    """The fields of its config.json, as transformers reads them."""
    parameters: int
    """Trainable parameters by weftline's own count; the module's must be the same."""
    flops_per_token: float
    """Model FLOP a token of training, as MFU counts them."""
    layout: Layout
    seq_len: int
    """Tokens a sequence."""
    steps: int
    """The run ends after this many optimizer steps."""
    data: str = ""
    """Folder that ``weftline prepare`` wrote."""
    weights: str = ""
    """Folder of weights to begin with; empty begins at random."""
    dtype: Literal["fp32", "bf16"] = "fp32"
    """Of the products; weights, gradients and moments are fp32."""
    device: Literal["cpu", "cuda"] = "cpu"
    backend: Literal["gloo", "nccl", "weftline"] = "gloo"
    """Who exchanges: torch's gloo or NCCL, or our own group."""
    algorithm: str = ""
    """Schedule that our own group executes; empty sums and gathers directly."""
    network: str = ""
    """Network that our own group emulates, as ``simulate collective`` takes it; empty for none."""
    link: str = ""
    """Its rate a link, where the text does not say it."""
    latency: str = ""
    policy: str = ""
    """What queries see in the place of full attention; empty as the model itself says."""
    sequence_parallel: bool = False
    """With tp: norms and residuals are split along the sequence."""
    compile: bool = False
    optimizer: Literal["adamw", "muon"] = "adamw"
    learning_rate: float = 3e-4
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_steps: int = 0
    weight_decay: float = 0.1
    """On matrices; norms, biases and embeddings have none."""
    clip_norm: float = 1.0
    """Gradients are scaled down to this norm; 0 leaves them."""
    tune: Literal["full", "lora"] = "full"
    rank: int = 16
    """Of the adapters."""
    seed: int = 0
    checkpoint_every: int = 50
    """Steps between checkpoints; 0 makes none but the last."""
    keep: int = 2
    """Checkpoints kept."""
    threads: int = 1
    """Compute threads of one rank on CPUs."""
    profile_step: int = 0
    """This step is run under torch's profiler, for ``weftline compare``; 0 for none."""
    trace: bool = False
    """Every event of that step is written, too."""
    predicted_step_s: float | None = None
    """What the plan says of this very layout and machine; None where it is for another."""
    notes: tuple[str, ...] = field(default=())
    """What runs otherwise than the plan's framework would do it, and why."""

    @property
    def global_batch(self) -> int:
        """Sequences a step."""
        return self.layout.global_batch

    @property
    def tokens_per_step(self) -> int:
        """Tokens a step."""
        return self.global_batch * self.seq_len


def write_recipe(recipe: Recipe, folder: Path) -> None:
    """Write ``recipe.json`` into a run's folder, whole or not at all. Raises InputError."""
    write_text(json.dumps(asdict(recipe), indent=1) + "\n", folder / RECIPE_FILE)


def read_recipe(folder: Path) -> Recipe:
    """The recipe of a run. Raises InputError(s) where there is none, or a field is wrong."""
    from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

    path = folder / RECIPE_FILE
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        hint = "give the folder that `weftline train ... -o RUN` wrote"
        raise InputError(error.strerror or "cannot read", where=str(path), hint=hint) from None
    except ValueError:
        raise InputError("not JSON", where=str(path)) from None
    adapter = TypeAdapter(with_config(ConfigDict(extra="forbid"))(Recipe))
    try:
        found: Recipe = adapter.validate_python(raw)
    except ValidationError as error:
        raise InputErrors([
            InputError(f"{'.'.join(map(str, e['loc']))}: {e['msg'].lower()}", where=str(path))
            for e in error.errors()[:20]
        ]) from None  # fmt: skip
    return found
