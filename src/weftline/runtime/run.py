"""A recipe run on this machine, all ranks under our own supervisor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from weftline.runtime.keep.supervise import Outcome, RunFailedError, supervise
from weftline.runtime.train.export import export_weights
from weftline.runtime.train.recipe import Recipe

__all__ = ["run"]


def run(recipe: Recipe, folder: Path, *, say: Callable[[dict[str, Any]], None]) -> Outcome:
    """Train to the last step, through failures. Raises InputError and RunFailedError."""
    from weftline.runtime.train import models
    from weftline.runtime.train.exchange import load_group
    from weftline.runtime.train.worker import work

    # Loaded here once: a rank that is forked has them.
    load_group(recipe)
    with models.quietly():
        model = models.build(models.config_of(recipe.config), attention="eager")
        models.check_count(model, recipe.parameters)
        del model
    outcome = supervise(recipe, folder, work, say=say)
    if outcome.finished and outcome.saved_step != outcome.steps:
        kept = "no step" if outcome.saved_step is None else f"step {outcome.saved_step}"
        raise RunFailedError(
            f"all {outcome.steps} steps were taken, but the last checkpoint could not be written: "
            f"{kept} is kept", where=str(folder),
            hint="events.jsonl says why; make room, and --resume does again what is not kept",
        )  # fmt: skip
    if outcome.finished:
        export_weights(recipe, folder)
    return outcome
