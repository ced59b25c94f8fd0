"""Save and load in one call each, for scripts; a training loop opens a store once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from weftline.burst.commit.commits import CheckpointInfo
from weftline.burst.read.restore import Loaded
from weftline.burst.stage.state import State
from weftline.burst.store import Store

__all__ = ["load", "save"]


def save(
    state: State, path: str | Path, step: int = 0, *, extra: Mapping[str, Any] | None = None
) -> CheckpointInfo:
    """Save a state and return when it is committed. For loops, open a :class:`Store` once."""
    with Store.open(path) as store:
        store.save(state, step, extra=extra, wait=True)
        return next(c for c in store.checkpoints() if c.step == step)


def load(
    path: str | Path,
    step: int | None = None,
    names: Iterable[str] | None = None,
    *,
    verify: bool = True,
) -> Loaded:
    """Load a checkpoint, the newest by default, every byte checked."""
    with Store.open(path, read_only=True) as store:
        return store.load(step, names, verify=verify)
