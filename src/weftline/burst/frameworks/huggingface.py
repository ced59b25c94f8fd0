"""transformers' Trainer and a burst store: a callback that saves, a folder to resume from.

trainer = Trainer(..., callbacks=[BurstCallback("/nvme/run")])
trainer.train(resume_from_checkpoint=resume_from_checkpoint("/nvme/run", trainer.args))

The callback saves when ``save_steps`` or ``save_strategy`` says so, in the place of the Trainer's
own saving, and training goes on after the copy. Resuming writes the newest checkpoint out as the
folder that the Trainer reads.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Final

import torch
from transformers import TrainerCallback
from transformers.trainer_callback import TrainerControl, TrainerState
from transformers.training_args import TrainingArguments

from weftline.burst.frameworks.pointers import Keeper, has_checkpoints
from weftline.burst.frameworks.randomness import random_states
from weftline.burst.log.values import decode
from weftline.burst.nodes.cluster import Nodes
from weftline.burst.options import Options
from weftline.burst.pytorch.planner import PerRank
from weftline.burst.pytorch.state import load, save
from weftline.burst.pytorch.values import restore_special
from weftline.errors import InputError

__all__ = ["BurstCallback", "resume_from_checkpoint"]

_FOLDER: Final = "burst-resume-"


class BurstCallback(TrainerCallback):
    """Saves model, optimizer, scheduler, scaler, random numbers and the Trainer's state in burst.

    All ranks of a DDP training save together. A failed save is raised by the next, or at the end of
    the training, which waits for all. Raises InputError at the start of a training for what needs
    the Trainer's own folders, by name.
    """

    def __init__(
        self,
        store: str | os.PathLike[str],
        *,
        options: Options | None = None,
        nodes: Nodes | None = None,
    ) -> None:
        self._path, self._options, self._nodes = store, options, nodes
        self._keeper: Keeper | None = None
        self._due = False
        self._logged_step = -1

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Refuse what would not come back as it was."""
        del state, control
        told = [what for what, there in _foreign(args, kwargs["model"]).items() if there]
        if told:
            raise InputError(
                f"these need the Trainer's own checkpoints: {', '.join(told)}",
                where="BurstCallback", hint="leave them out, or let the Trainer save",
            )  # fmt: skip
        self._keeper = Keeper(
            self._path, writer=f"rank{args.process_index}", options=self._options, nodes=self._nodes
        )

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """Take over a save that is due; it is made once what comes before it has been done."""
        _remove_folders(args)
        return self._take_over(args, state, control, kwargs)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """The same, where an epoch is over."""
        return self._take_over(args, state, control, kwargs)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """After a training log is where a save is due, unless an evaluation follows."""
        self._logged_step = state.global_step
        if self._due and not control.should_evaluate:
            self._save(args, state, kwargs)

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """After an evaluation, which may have drawn random numbers."""
        del control
        if self._due:
            self._save(args, state, kwargs)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Wait for every save, and close the store."""
        del args, state, control, kwargs
        if self._keeper is not None:
            self._keeper.close()

    def _take_over(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl,
        kwargs: dict[str, Any],
    ) -> TrainerControl:  # fmt: skip
        if control.should_save:
            control.should_save = False
            self._due = True
            logs = control.should_log and state.global_step > self._logged_step
            if not control.should_evaluate and not logs:
                self._save(args, state, kwargs)
        return control

    def _save(self, args: TrainingArguments, state: TrainerState, kwargs: dict[str, Any]) -> None:
        """What the Trainer would have written, from all ranks."""
        self._due = False
        assert self._keeper is not None  # noqa: S101  (the training has begun)
        optimizer = kwargs["optimizer"]
        found: dict[str, Any] = {
            "model": kwargs["model"].state_dict(),
            "optimizer": optimizer.state_dict(),
            "scheduler": kwargs["lr_scheduler"].state_dict(),
            "random": PerRank(_Random()),
        }
        if getattr(optimizer, "scaler", None) is not None:
            found["scaler"] = optimizer.scaler.state_dict()
        if args.process_index == 0:
            found["trainer"] = json.dumps(dataclasses.asdict(state))
        handle = save(found, self._keeper.store(), step=state.global_step, wait=False)
        self._keeper.then(handle, lambda: None)


class _Random:
    """The random numbers of this process, as the Trainer names them."""

    def state_dict(self) -> dict[str, Any]:
        found = random_states()
        if "accelerator" in found:
            found[torch.accelerator.current_accelerator().type] = found.pop("accelerator")  # type: ignore[union-attr]
        return found

    def load_state_dict(self, state: dict[str, Any]) -> None:
        raise NotImplementedError  # the Trainer reads it from the folder


def _foreign(args: TrainingArguments, model: Any) -> dict[str, bool]:
    return {
        "load_best_model_at_end": args.load_best_model_at_end,
        'save_strategy="best"': args.save_strategy == "best",
        "metric_for_best_model": args.metric_for_best_model is not None,
        "restore_callback_states_from_checkpoint": args.restore_callback_states_from_checkpoint,
        "FSDP": bool(args.fsdp),
        "DeepSpeed": bool(args.deepspeed),
        "PEFT": hasattr(model, "peft_config"),
    }


def resume_from_checkpoint(
    store: str | os.PathLike[str],
    args: TrainingArguments,
    *,
    step: int | None = None,
    nodes: Nodes | None = None,
) -> str | None:
    """A folder that ``Trainer.train(resume_from_checkpoint=...)`` reads, made from a checkpoint.

    None where there is no checkpoint yet and no step was asked for. The folder stands in
    ``args.output_dir`` and is removed after the first step of a training that has a BurstCallback.
    All ranks must call; on each machine one of them writes. Raises CheckpointMissingError,
    CorruptionError.
    """
    if step is None and nodes is None and not has_checkpoints(store):
        return None
    many = args.world_size > 1
    found: Any = None
    if nodes is not None:  # all ranks look for it together
        found = load(store, step=step, nodes=nodes)
    with args.main_process_first(local=True) if many else nullcontext():
        if found is None:
            found = load(store, step=step)
        said = json.loads(found["trainer"])
        folder = Path(str(args.output_dir), f"{_FOLDER}{said['global_step']}")
        if not folder.exists():
            _write_folder(found, folder)
    return str(folder)


def _write_folder(found: dict[str, Any], folder: Path) -> None:
    """The files of a checkpoint under the Trainer's names, all of them or none."""
    making = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    making.mkdir(parents=True)
    torch.save(found["model"], making / "pytorch_model.bin")
    torch.save(found["optimizer"], making / "optimizer.pt")
    torch.save(found["scheduler"], making / "scheduler.pt")
    if "scaler" in found:
        torch.save(found["scaler"], making / "scaler.pt")
    ranks = {int(name.removeprefix("rank")): data for name, data in found["random"].items()}
    for rank, data in ranks.items():
        name = "rng_state.pth" if len(ranks) == 1 else f"rng_state_{rank}.pth"
        torch.save(decode(data, restore_special), making / name)
    (making / "trainer_state.json").write_text(found["trainer"])
    try:
        making.rename(folder)
    except OSError:  # another machine has made it in a folder that both see
        if not folder.is_dir():
            raise
        shutil.rmtree(making)


def _remove_folders(args: TrainingArguments) -> None:
    """What was resumed from is loaded by now."""
    if args.local_process_index == 0:
        for folder in Path(str(args.output_dir)).glob(f"{_FOLDER}*"):
            shutil.rmtree(folder, ignore_errors=True)
