"""What every rank does to measure a plan: operators and shallow steps in turn, all ranks at once.

Rounds go through everything, a reference product first, so that what disturbs the machine for a
second disturbs all of it, and medians pass it over.
"""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch
import torch.distributed as dist

from weftline.burst.pytorch import save
from weftline.runtime.measure.operators import Operator, operators_of
from weftline.runtime.measure.shallow import Shallow, depths_of, shallow
from weftline.runtime.train import models
from weftline.runtime.train.checkpoint import Checkpoints
from weftline.runtime.train.recipe import Recipe
from weftline.runtime.train.worker import join, reference_s
from weftline.spec.serialize import write_text

__all__ = ["FOUND_FILE", "ROUNDS", "measuring", "together"]

FOUND_FILE: Final = "found.json"
ROUNDS: Final = (5, 15)
"""Fewest and most rounds."""
_WARM: Final = 2


def together() -> None:
    """Wait for all ranks; nothing in a world of one."""
    if dist.is_initialized():
        dist.barrier()


def measuring(
    seconds: float, *, deep: bool = False, rounds: tuple[int, int] = ROUNDS
) -> Callable[..., bool]:
    """The work of a rank that measures for about so long; ``deep`` times the plan's own steps,
    too, in the same rounds."""

    def work(
        run: Path, recipe: Recipe, report: Any, *, rank: int, world: int, store: Any,
        generation: int,
    ) -> bool:  # fmt: skip
        del report, generation
        join(recipe, rank, world, store)
        torch.set_num_threads(recipe.threads)
        with models.quietly():
            _keeping(run)
            found = _rounds(recipe, seconds, rounds, deep=deep)
        everyone: list[Any] = [found]
        if world > 1:
            everyone = [None] * world
            dist.all_gather_object(everyone, found)
        if rank == 0:
            write_text(json.dumps(everyone) + "\n", run / FOUND_FILE)
        together()
        return True

    return work


def _keeping(run: Path) -> None:
    """Save something small, as a run does: its machinery is resident from then on."""
    checkpoints = Checkpoints(run, keep=1)
    save({"model": {"x": torch.zeros(8)}, "step": 1}, checkpoints.store, step=1, wait=True)
    checkpoints.close()


def _rounds(
    recipe: Recipe, seconds: float, rounds: tuple[int, int], *, deep: bool
) -> dict[str, Any]:
    base = _resident_bytes(recipe)
    depths = depths_of(recipe)
    operators = operators_of(recipe)
    tries = {"low": shallow(recipe, depths.low)}
    if depths.times:
        tries["high"] = shallow(recipe, depths.high)
    if deep:
        tries["deep"] = shallow(recipe, int(recipe.config["num_hidden_layers"]))
    for number in range(_WARM):
        for tried in tries.values():
            tried.step(number)
    memory = {
        name: {"parameters": tried.parameters, "alive_bytes": tried.alive_bytes(_WARM),
               "gathered_bytes": tried.gathered} for name, tried in tries.items()
    }  # fmt: skip
    rows: dict[str, list[Any]] = {"reference": [], **{name: [] for name in tries}}
    times: dict[str, list[tuple[float, float]]] = {o.name: [] for o in operators}
    begin = time.perf_counter()
    done = 0
    while done < rounds[0] or (done < rounds[1] and _goes_on(begin, seconds)):
        _round(recipe, operators, tries, rows, times, _WARM + 1 + done)
        done += 1
    return {
        "base_bytes": base, "depths": [depths.low, depths.high, depths.times], "memory": memory,
        "rows": rows, "times": times,
        "operators": [[o.name, o.part, o.count] for o in operators],
    }  # fmt: skip


def _goes_on(begin: float, seconds: float) -> bool:
    """Whether there is time for another round: rank 0 says."""
    told = torch.tensor([time.perf_counter() - begin < seconds], dtype=torch.int64)
    if dist.is_initialized():
        dist.broadcast(told, 0)
    return bool(told[0])


def _round(
    recipe: Recipe, operators: list[Operator], tries: dict[str, Shallow],
    rows: dict[str, list[Any]], times: dict[str, list[tuple[float, float]]], number: int,
) -> None:  # fmt: skip
    together()
    rows["reference"].append(reference_s(recipe.device))
    for operator in operators:
        # The second of two: the first still finds the last operator's data in the caches.
        operator.run()
        times[operator.name].append(operator.run())
    # In another order each round: what runs after a larger one finds other memory.
    turn = number % len(tries)
    names = list(tries)
    for name in names[turn:] + names[:turn]:
        tried = tries[name]
        together()
        begin = time.perf_counter()
        parts = dict(tried.step(number))
        parts["step"] = time.perf_counter() - begin
        rows[name].append(parts)


def _resident_bytes(recipe: Recipe) -> float:
    """What this rank holds before there is a model, on its device or of its host's memory: torch,
    transformers, and what saves need."""
    if recipe.device == "cuda":
        free, total = torch.cuda.mem_get_info()
        return float(total - free)
    resident = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return float(int(resident) * resource.getpagesize())
