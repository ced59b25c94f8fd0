"""One rank of a run, from its environment to its last step.

Forked by our supervisor, or started by torchrun, Slurm, Kubernetes or Ray as ``python -m
weftline.runtime.train.worker RUN``: the place comes from RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR
and MASTER_PORT, everything else from the run's recipe.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import torch
import torch.distributed as dist

from weftline.burst.errors import BurstError
from weftline.errors import InputError, WeftlineError
from weftline.runtime.data.shards import open_shards
from weftline.runtime.record import StepLog, StepRecord
from weftline.runtime.train import models
from weftline.runtime.train.checkpoint import Checkpoints
from weftline.runtime.train.exchange import own_group
from weftline.runtime.train.profile import profiled
from weftline.runtime.train.recipe import Recipe, read_recipe
from weftline.runtime.train.trainer import StepTimes, Trainer

__all__ = ["Report", "join", "main", "memory_now", "memory_peak", "reference_s", "run_rank", "work"]

Report = Callable[..., None]
_TIMEOUT: Final = timedelta(minutes=30)
_REFERENCE: Final = 512
"""Side of the product whose speed stands for this machine's."""
_REFERENCE_TRIES: Final = (3, 12)
"""Fewest and most products."""
_REFERENCE_ALIKE: Final = 1.05
_REFERENCE_EVERY: Final = 10
"""Steps: a few milliseconds of it are less than a hundredth of what they stand beside."""


class NotFiniteError(WeftlineError):
    """The loss is no number any more."""


def run_rank(run: Path, recipe: Recipe, report: Report, *, generation: int = 0) -> bool:
    """Train from the newest checkpoint to the last step, or until told to stop.

    ``report(kind, **values)`` hears of every step. True when all steps were taken. Raises
    WeftlineError: data or checkpoints that cannot be read, a loss that is no number.
    """
    torch.set_num_threads(recipe.threads)
    told = _Signals()
    with models.quietly():
        trainer = Trainer(recipe)
        shards = open_shards(Path(recipe.data), seq_len=recipe.seq_len)
        checkpoints = Checkpoints(run, keep=recipe.keep)
        first = checkpoints.restore(
            trainer.named, trainer.optimizers, note=lambda text: report("note", text=text)
        )
        loop = _Loop(run, recipe, trainer, checkpoints, report, generation)
        report("ready", step=first)
        try:
            for step in range(first, recipe.steps):
                if loop.take(step, shards, told.stop):
                    return step + 1 == recipe.steps
        finally:
            loop.close()
    return True


class _Signals:
    """SIGTERM asks for an end after the step: a spot notice, Slurm's signal, a user."""

    def __init__(self) -> None:
        self.stop = False
        signal.signal(signal.SIGTERM, self._told)

    def _told(self, _number: int, _frame: Any) -> None:
        self.stop = True


class _Loop:
    """What surrounds a step: data, checkpoints, records."""

    def __init__(
        self, run: Path, recipe: Recipe, trainer: Trainer, checkpoints: Checkpoints,
        report: Report, generation: int,
    ) -> None:  # fmt: skip
        self.run, self.recipe, self.trainer = run, recipe, trainer
        self.checkpoints, self.report, self.generation = checkpoints, report, generation
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self.peak = _reference_flops(recipe)
        self.reference_s = reference_s(recipe.device)
        self.log = StepLog(run, recipe.model) if self.rank == 0 else None
        self.began = time.time()

    def take(self, step: int, shards: Any, stop: bool) -> bool:
        """One step; True when the run is to end after it."""
        begin = time.time()
        clock = time.perf_counter()
        ids, targets = self.trainer.batch(shards, step)
        data_s = time.perf_counter() - clock
        if step + 1 == self.recipe.profile_step and self.rank == 0:
            done = profiled(
                lambda: self.trainer.step(ids, targets, step, stop=stop), self.run, step,
                ranks=self.recipe.layout.chips, trace=self.recipe.trace,
            )  # fmt: skip
        else:
            done = self.trainer.step(ids, targets, step, stop=stop)
        done.parts["data"] = data_s
        if not math.isfinite(done.loss) or not math.isfinite(done.gradient_norm):
            self.report("nan", step=step, loss=str(done.loss))
            raise NotFiniteError(
                f"the loss of step {step + 1} is {done.loss}, the gradient norm "
                f"{done.gradient_norm}", hint="a lower --lr, or look at the data of that step",
            )  # fmt: skip
        last = done.stop or step + 1 == self.recipe.steps
        every = self.recipe.checkpoint_every
        saves = last or bool(every and (step + 1) % every == 0)
        if saves:
            # What a checkpoint holds is not done again after a kill: its record comes before it.
            done.parts["checkpoint"] = 0.0
            self._write(step, begin, time.time(), done)
        clock = time.perf_counter()
        if saves:
            self._save(step + 1)
        done.parts["checkpoint"] = time.perf_counter() - clock
        self._tell(step, begin, done)
        if step % _REFERENCE_EVERY == 0:
            self.reference_s = reference_s(self.recipe.device)
        return last

    def _save(self, step: int) -> None:
        """A save that fails (a full disk) is told and tried again at the next turn."""
        try:
            self.checkpoints.save(self.trainer.named, self.trainer.optimizers, step)
        except (BurstError, OSError) as error:
            self.report("save-failed", step=step, why=str(error).splitlines()[0])

    def _tell(self, step: int, begin: float, done: StepTimes) -> None:
        end = time.time()
        try:
            self.checkpoints.settle(wait=False)
        except BurstError as error:
            self.report("save-failed", step=step, why=str(error).splitlines()[0])
        self.report(
            "step", step=step, begin=begin, end=end, loss=done.loss,
            stall=done.parts["checkpoint"], saved=self.checkpoints.saved,
            durable=self.checkpoints.durable_s, mfu=self._mfu(end - begin),
        )  # fmt: skip
        self._write(step, begin, end, done)

    def _write(self, step: int, begin: float, end: float, done: StepTimes) -> None:
        """Rank 0's record of a step; the last one written of a step counts."""
        if self.log is None:
            return
        tokens = self.recipe.tokens_per_step
        seconds = end - begin
        self.log.write(
            StepRecord(
                step=step + 1, generation=self.generation, time=end, step_s=seconds,
                loss=done.loss, gradient_norm=done.gradient_norm,
                learning_rate=done.learning_rate, tokens=tokens, tokens_per_s=tokens / seconds,
                mfu=self._mfu(seconds),
                memory_peak_bytes=memory_peak(self.recipe), saved_step=self.checkpoints.saved,
                reference_s=self.reference_s,
                parts=dict(done.parts),
            )
        )  # fmt: skip

    def _mfu(self, seconds: float) -> float:
        """Model FLOP of a step that took so long, over what a square product reaches here."""
        return self.recipe.flops_per_token * self.recipe.tokens_per_step / seconds / self.peak

    def close(self) -> None:
        """Wait for the saves that are on their way."""
        try:
            self.checkpoints.close()
        except BurstError as error:
            self.report("save-failed", step=-1, why=str(error).splitlines()[0])
        self.report("closed", saved=self.checkpoints.saved)
        if self.log is not None:
            self.log.close()


def reference_s(device: str) -> float:
    """Seconds of a square fp32 product: how fast this rank's core is now.

    The fastest of some, and of more until a second took as long: where ranks outnumber cores, one
    in the middle of which another rank had its turn says nothing of the core.
    """
    a = torch.randn(_REFERENCE, _REFERENCE, device=device)
    took: list[float] = []
    for number in range(_REFERENCE_TRIES[1]):
        begin = time.perf_counter()
        a @ a
        if device == "cuda":
            torch.cuda.synchronize()
        took = sorted([*took, time.perf_counter() - begin])
        if number + 1 >= _REFERENCE_TRIES[0] and took[1] <= _REFERENCE_ALIKE * took[0]:
            break
    return took[0]


def _reference_flops(recipe: Recipe) -> float:
    """FLOP/s of a square product in the run's dtype, all ranks at once, added up."""
    dtype = torch.bfloat16 if recipe.dtype == "bf16" else torch.float32
    a = torch.randn(_REFERENCE, _REFERENCE, device=recipe.device, dtype=dtype)
    best = math.inf
    for _ in range(4):
        begin = time.perf_counter()
        a @ a
        if recipe.device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - begin)
    speed = torch.tensor(2.0 * _REFERENCE**3 / best, dtype=torch.float64, device=recipe.device)
    if dist.is_initialized():
        dist.all_reduce(speed)
    return float(speed)


def memory_peak(recipe: Recipe) -> float:
    """Most memory this rank has held: of the device, or resident on the host."""
    if recipe.device == "cuda":
        return float(torch.cuda.max_memory_allocated())
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0


def memory_now(recipe: Recipe) -> float:
    """What this rank holds now, as :func:`memory_peak` counts."""
    if recipe.device == "cuda":
        return float(torch.cuda.memory_allocated())
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return float(int(pages) * os.sysconf("SC_PAGE_SIZE"))


def join(recipe: Recipe, rank: int, world: int, store: Any = None) -> None:
    """Make the default process group; nothing for a world of one."""
    if recipe.device == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", rank)))
    if world == 1:
        return
    if recipe.backend == "weftline":
        own_group(recipe)
    dist.init_process_group(
        recipe.backend, store=store, rank=rank, world_size=world, timeout=_TIMEOUT
    )


def work(
    run: Path, recipe: Recipe, report: Report, *, rank: int, world: int, store: Any,
    generation: int,
) -> bool:  # fmt: skip
    """What a supervised rank does: meet the others over ``store``, and train."""
    join(recipe, rank, world, store)
    return run_rank(run, recipe, report, generation=generation)


def to_stderr(rank: int) -> Report:
    """A report for launchers without our supervisor: rank 0's steps, every rank's troubles."""

    def report(kind: str, **values: Any) -> None:
        if kind == "step" and rank == 0:
            sys.stderr.write(f"step {values['step'] + 1} loss {values['loss']:.4f}\n")
        elif kind not in ("step", "ready", "closed"):
            sys.stderr.write(f"rank {rank} {kind}: {json.dumps(values)}\n")

    return report


def main(argv: list[str] | None = None) -> int:
    """``RUN``: train the recipe in that folder as one rank of the environment's world."""
    given = sys.argv[1:] if argv is None else argv
    rank, world = (int(os.environ.get(k, d)) for k, d in (("RANK", "0"), ("WORLD_SIZE", "1")))
    try:
        if len(given) != 1:
            raise InputError("give the run's folder alone", where="weftline.runtime.train.worker")
        recipe = read_recipe(Path(given[0]))
        if recipe.layout.chips != world:
            raise InputError(
                f"the recipe is for {recipe.layout.chips} ranks, WORLD_SIZE is {world}",
                where=given[0], hint="launch as many processes as the plan has chips",
            )  # fmt: skip
        join(recipe, rank, world)
        run_rank(Path(given[0]), recipe, to_stderr(rank))
    except WeftlineError as error:
        sys.stderr.write(error.render() + "\n")
        return error.exit_code
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main())
