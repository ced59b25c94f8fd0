"""Hugging Face Accelerate's state in a burst store, in the place of ``Accelerator.save_state``.

with BurstState(accelerator, "/nvme/run") as state:
    step = state.load()  # None where nothing was saved yet
    ...
    state.save(step)  # returns after the copy
"""

from __future__ import annotations

import os
from types import TracebackType
from typing import Any, Self

from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch.distributed.checkpoint.state_dict import (
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from weftline.burst.errors import BurstError
from weftline.burst.frameworks.pointers import Keeper, has_checkpoints
from weftline.burst.frameworks.randomness import random_states, set_random_states
from weftline.burst.handle import SaveHandle
from weftline.burst.nodes.cluster import Nodes
from weftline.burst.options import Options
from weftline.burst.pytorch.planner import PerRank
from weftline.burst.pytorch.state import load, save
from weftline.errors import InputError

__all__ = ["BurstState"]

_THEIRS = (DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM)


class BurstState:
    """All that an accelerator has prepared, saved and loaded by all ranks together.

    Models, optimizers, schedulers, stateful data loaders, the gradient scaler, what was given to
    ``register_for_checkpointing``, every rank's random numbers, and the accelerator's own step.
    Under FSDP2 the shards are saved as they are, and load into any number of ranks.

    Raises InputError for DeepSpeed and Megatron-LM, which have checkpoints of their own.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        store: str | os.PathLike[str],
        *,
        options: Options | None = None,
        nodes: Nodes | None = None,
    ) -> None:
        if accelerator.distributed_type in _THEIRS:
            kind = accelerator.distributed_type.value
            raise InputError(
                f"under {kind} Accelerate hands its checkpoints on", where="BurstState",
                hint="weftline.burst.deepspeed and weftline.burst.megatron save those",
            )  # fmt: skip
        self._accelerator = accelerator
        self._nodes = nodes
        self._keeper = Keeper(
            store, writer=f"rank{accelerator.process_index}", options=options,
            nodes=nodes,
        )  # fmt: skip

    def save(self, step: int, *, wait: bool = False) -> SaveHandle:
        """Save as ``step``; returns once this rank's share is staged. All ranks must call.

        Raises InputError for what cannot be stored, and the error of an earlier save.
        """
        handle = save(self._state(step), self._keeper.store(), step=step, wait=wait)
        self._keeper.then(handle, lambda: None)
        return handle

    def load(self, step: int | None = None) -> int | None:
        """Load a checkpoint, the newest by default, into what is prepared; its step.

        None where no step was asked for and there is no checkpoint. All ranks must call. Raises
        CheckpointMissingError, CorruptionError, and torch's error for states that differ.
        """
        self._keeper.settle()
        if step is None and self._nodes is None and not has_checkpoints(self._keeper.path):
            return None
        if self._sharded:
            state: Any = self._state(0)
            load(self._keeper.path, step=step, into=state, nodes=self._nodes)
        else:
            state = load(self._keeper.path, step=step, nodes=self._nodes)
        self._put(state)
        return int(state["about"]["step"])

    def wait(self) -> None:
        """Until every save is committed; raises the first error."""
        self._keeper.settle()

    def close(self) -> None:
        """Wait, and close the store."""
        self._keeper.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        try:
            self.close()
        except BurstError:
            if error is None:
                raise

    @property
    def _sharded(self) -> bool:
        return bool(self._accelerator.distributed_type == DistributedType.FSDP)

    def _state(self, step: int) -> dict[str, Any]:
        """Everything, by kind and number; what each rank has for itself under its own name."""
        a: Any = self._accelerator
        state: dict[str, Any] = {
            "model": {str(i): self._model(m) for i, m in enumerate(a._models)},
            "optimizer": {str(i): self._optimizer(i) for i in range(len(a._optimizers))},
            "scheduler": {str(i): s.state_dict() for i, s in enumerate(a._schedulers)},
            "custom": {str(i): o.state_dict() for i, o in enumerate(a._custom_objects)},
            "about": {"step": step, "accelerator_step": a.step},
            "random": PerRank(_Random()),
        }
        if a.scaler is not None:
            state["scaler"] = a.scaler.state_dict()
        state |= {name: PerRank(loader) for name, loader in self._loaders()}
        return state

    def _put(self, state: dict[str, Any]) -> None:
        """What was loaded, where it belongs. In a sharded load the ranks' own are there already."""
        a: Any = self._accelerator
        for i, model in enumerate(a._models):
            if self._sharded:
                set_model_state_dict(model, state["model"][str(i)])
            else:
                a.unwrap_model(model).load_state_dict(state["model"][str(i)])
        for i, optimizer in enumerate(a._optimizers):
            found = state["optimizer"][str(i)]
            if self._sharded:
                set_optimizer_state_dict(a._models[i], optimizer.optimizer, found)
            else:
                optimizer.load_state_dict(found)
        for kind, owners in (("scheduler", a._schedulers), ("custom", a._custom_objects)):
            for i, owner in enumerate(owners):
                owner.load_state_dict(state[kind][str(i)])
        if a.scaler is not None:
            a.scaler.load_state_dict(state["scaler"])
        a.step = state["about"]["accelerator_step"]
        if not self._sharded:
            own = [("random", _Random()), *self._loaders()]
            for name, owner in own:
                PerRank(owner).load_state_dict(state[name])

    def _model(self, model: Any) -> dict[str, Any]:
        if self._sharded:
            return get_model_state_dict(model)
        found: dict[str, Any] = self._accelerator.unwrap_model(model).state_dict()
        return found

    def _optimizer(self, number: int) -> dict[str, Any]:
        a: Any = self._accelerator
        optimizer = a._optimizers[number]
        if self._sharded:
            return get_optimizer_state_dict(a._models[number], optimizer.optimizer)
        found: dict[str, Any] = optimizer.state_dict()
        return found

    def _loaders(self) -> list[tuple[str, Any]]:
        """Data loaders that know where they are."""
        loaders: Any = self._accelerator._dataloaders
        return [
            (f"loader{i}", loader) for i, loader in enumerate(loaders)
            if getattr(loader, "use_stateful_dataloader", False)
        ]  # fmt: skip


class _Random:
    """The random numbers of this process, as something that has a state."""

    def state_dict(self) -> dict[str, Any]:
        return random_states()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        set_random_states(state)
