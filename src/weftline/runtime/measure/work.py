"""What every rank does to measure a plan: operators and shallow steps in turn, all ranks at once.

Rounds go through everything, a reference product first, so that what disturbs the machine for a
second disturbs all of it, and medians pass it over.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch
import torch.distributed as dist

from weftline.runtime.measure.operators import Operator, operators_of
from weftline.runtime.measure.shallow import Shallow, depths_of, shallow
from weftline.runtime.train import models
from weftline.runtime.train.checkpoint import Checkpoints
from weftline.runtime.train.recipe import Recipe
from weftline.runtime.train.worker import join, memory_now, memory_peak, reference_s
from weftline.spec.serialize import write_text

__all__ = ["FOUND_FILE", "ROUNDS", "holding", "measuring", "together"]

FOUND_FILE: Final = "found.json"
ROUNDS: Final = (5, 15)
"""Fewest and most rounds."""
_WARM: Final = 2
_HELD: Final = 3
"""Steps before each save, where memory is asked for: the allocator takes two to settle."""


def together() -> None:
    """Wait for all ranks; nothing in a world of one."""
    if dist.is_initialized():
        dist.barrier()


def measuring(seconds: float, *, deep: bool = False) -> Callable[..., bool]:
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
            found = _rounds(recipe, seconds, deep=deep)
        everyone: list[Any] = [found]
        if world > 1:
            everyone = [None] * world
            dist.all_gather_object(everyone, found)
        if rank == 0:
            write_text(json.dumps(everyone) + "\n", run / FOUND_FILE)
        together()
        return True

    return work


def _rounds(recipe: Recipe, seconds: float, *, deep: bool) -> dict[str, Any]:
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
    rows: dict[str, list[Any]] = {"reference": [], **{name: [] for name in tries}}
    times: dict[str, list[tuple[float, float]]] = {o.name: [] for o in operators}
    begin = time.perf_counter()
    done = 0
    while done < ROUNDS[0] or (done < ROUNDS[1] and _goes_on(begin, seconds)):
        _round(recipe, operators, tries, rows, times, _WARM + 1 + done)
        done += 1
    return {
        "depths": [depths.low, depths.high, depths.times],
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


def holding(layers: int) -> Callable[..., bool]:
    """The work of a rank that takes steps of a shallow layout, saves, takes more and saves again.

    It says the most that steps held before a save, what was held right after it, and the most in
    all: steps that follow a save begin with the memory it was copied to, which stays. Each of the
    three grows with the layers alike; the more of two would not.
    """

    def work(
        run: Path, recipe: Recipe, report: Any, *, rank: int, world: int, store: Any,
        generation: int,
    ) -> bool:  # fmt: skip
        del report, generation
        join(recipe, rank, world, store)
        torch.set_num_threads(recipe.threads)
        with models.quietly():
            tried = shallow(recipe, layers)
            checkpoints = Checkpoints(run, keep=1)
            mine: dict[str, float] = {}
            for number in range(1, 2 * _HELD + 1):
                tried.step(number)
                if number % _HELD == 0:
                    mine.setdefault("stepped", memory_peak(recipe))
                    checkpoints.save(tried.trainer.named, tried.trainer.optimizers, number)
                    checkpoints.settle(wait=True)
                    mine.setdefault("saved", memory_now(recipe))
            checkpoints.close()
            mine["in all"] = memory_peak(recipe)
        every: list[Any] = [mine]
        if world > 1:
            every = [None] * world
            dist.all_gather_object(every, mine)
        if rank == 0:
            most = {name: max(one[name] for one in every) for name in mine}
            write_text(json.dumps(most) + "\n", run / FOUND_FILE)
        together()
        return True

    return work
