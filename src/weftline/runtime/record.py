"""What a run leaves behind: a line of JSON a step, a page for Prometheus, and how to read them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from weftline.errors import InputError

__all__ = [
    "BOARD",
    "EVENTS_FILE",
    "STEPS_FILE",
    "StepLog",
    "StepRecord",
    "read_events",
    "read_steps",
]

STEPS_FILE: Final = "steps.jsonl"
EVENTS_FILE: Final = "events.jsonl"
METRICS_FILE: Final = "metrics.prom"
BOARD: Final = "tensorboard"


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    """One step as rank 0 saw it, times in seconds."""

    step: int
    """From 1; a step that was done again stands again, under a later generation."""
    generation: int
    """How often the run had been restarted."""
    time: float
    """When it ended, Unix seconds."""
    step_s: float
    loss: float
    gradient_norm: float
    learning_rate: float
    tokens: int
    tokens_per_s: float
    mfu: float
    """Model FLOP over what a square product reached on these ranks at the start of the run."""
    memory_peak_bytes: float
    """Most that rank 0's process or device has held."""
    saved_step: int | None
    """Step of the newest checkpoint that is whole."""
    reference_s: float | None = None
    """Seconds of a reference product on rank 0, timed last: how fast the machine was."""
    parts: dict[str, float] = field(default_factory=dict)


_GAUGES: Final = (
    ("loss", "weftline_train_loss", "mean cross-entropy of the last step, nats"),
    ("step", "weftline_train_step", "last step"),
    ("step_s", "weftline_train_step_seconds", "time of the last step"),
    ("tokens_per_s", "weftline_train_tokens_per_second", "of the last step"),
    ("mfu", "weftline_train_mfu", "share of a square product's speed on these ranks"),
    ("gradient_norm", "weftline_train_gradient_norm", "before clipping"),
    ("memory_peak_bytes", "weftline_train_memory_peak_bytes", "of rank 0"),
    ("saved_step", "weftline_train_checkpoint_step", "of the newest whole checkpoint"),
    ("generation", "weftline_train_restarts", "restarts so far"),
)


class StepLog:
    """Appends to ``steps.jsonl`` and keeps ``metrics.prom`` new; TensorBoard where it is there."""

    def __init__(self, run: Path, model: str) -> None:
        self._run = run
        self._model = model.replace("\\", "").replace('"', "")
        self._out = os.open(run / STEPS_FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._board: Any = None
        if (run / BOARD).is_dir():
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(run / BOARD))

    def write(self, record: StepRecord) -> None:
        """One step. Whole lines: a process that is killed leaves no half of one."""
        os.write(self._out, (json.dumps(asdict(record)) + "\n").encode())
        lines = []
        for name, metric, about in _GAUGES:
            value = getattr(record, name)
            if value is not None:
                lines += [f"# HELP {metric} {about}", f"# TYPE {metric} gauge",
                          f'{metric}{{model="{self._model}"}} {value:.9g}']  # fmt: skip
        temporary = self._run / f".{METRICS_FILE}"
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
        temporary.replace(self._run / METRICS_FILE)
        if self._board is not None:
            for name in ("loss", "tokens_per_s", "mfu", "gradient_norm", "learning_rate"):
                self._board.add_scalar(name, getattr(record, name), record.step)

    def close(self) -> None:
        """No more steps."""
        os.close(self._out)
        if self._board is not None:
            self._board.close()


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        hint = "give the folder that `weftline train ... -o RUN` wrote"
        raise InputError(error.strerror or "cannot read", where=str(path), hint=hint) from None
    for number, line in enumerate(lines, 1):
        try:
            yield json.loads(line)
        except ValueError:
            raise InputError("not a record", where=f"{path}:{number}") from None


def read_steps(run: Path) -> list[StepRecord]:
    """The steps of a run in order, each as it was done last. Raises InputError."""
    found: dict[int, StepRecord] = {}
    for number, row in enumerate(_rows(run / STEPS_FILE), 1):
        try:
            record = StepRecord(**row)
        except TypeError:
            raise InputError("not a record", where=f"{run / STEPS_FILE}:{number}") from None
        found[record.step] = record
    return [found[step] for step in sorted(found)]


def read_events(run: Path) -> list[dict[str, Any]]:
    """What happened beside the steps: starts, kills, checkpoints that failed, the ledger."""
    return list(_rows(run / EVENTS_FILE))
