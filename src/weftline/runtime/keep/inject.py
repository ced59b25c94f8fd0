"""Failures on command, for drills: a rank killed, hung or slowed, a checkpoint corrupted."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any, Final

from weftline.errors import InputError
from weftline.runtime.keep.watch import started_at

__all__ = ["PROCESSES_FILE", "corrupt", "hang", "kill", "slow"]

PROCESSES_FILE: Final = "processes.json"
_PULSE_S: Final = 0.2


def _process(run: Path, rank: int) -> int:
    """The process of a rank of a run that is going on. Raises InputError where there is none."""
    path = run / PROCESSES_FILE
    try:
        rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["ranks"]
    except (OSError, ValueError, KeyError):
        raise InputError(
            "no run goes on here", where=str(run), hint="give the folder of `weftline train -o`"
        ) from None
    found = {row["rank"]: row for row in rows}
    if rank not in found:
        raise InputError(f"rank {rank} is not of this run", where="--rank",
                         hint=f"0 to {len(found) - 1}")  # fmt: skip
    pid = int(found[rank]["pid"])
    if started_at(pid) != found[rank]["started"]:
        raise InputError("the run has ended", where=str(run))
    return pid


def kill(run: Path, rank: int) -> int:
    """End a rank at once, as a lost machine would; its process. Raises InputError."""
    pid = _process(run, rank)
    os.kill(pid, signal.SIGKILL)
    return pid


def hang(run: Path, rank: int) -> int:
    """Stop a rank without ending it; its process. Raises InputError."""
    pid = _process(run, rank)
    os.kill(pid, signal.SIGSTOP)
    return pid


def slow(run: Path, rank: int, *, seconds: float, share: float) -> int:
    """Hold a rank for ``share`` of every 200 ms, for so long; its process. Raises InputError."""
    if not 0 < share < 1:
        raise InputError(f"{share:g} is no share between 0 and 1", where="--share")
    pid = _process(run, rank)
    until = time.monotonic() + seconds
    try:
        while time.monotonic() < until:
            os.kill(pid, signal.SIGSTOP)
            time.sleep(share * _PULSE_S)
            os.kill(pid, signal.SIGCONT)
            time.sleep((1 - share) * _PULSE_S)
    except ProcessLookupError:
        return pid  # it ended meanwhile
    finally:
        if started_at(pid) >= 0:
            os.kill(pid, signal.SIGCONT)
    return pid


def corrupt(run: Path) -> int:
    """Flip a byte of the newest checkpoint on disk; its step. Raises InputError."""
    from weftline.burst import Store
    from weftline.burst.errors import BurstError
    from weftline.burst.log.record import chunks_of
    from weftline.runtime.train.recipe import CHECKPOINTS

    folder = run / CHECKPOINTS
    try:
        with Store.open(folder, read_only=True) as store:
            commit = store.read_commit()
            found = store.manifest(commit.step, 0)
            chunk = next(c for c in chunks_of(found.parts) if c.stored_bytes)
            name = f"seg-{chunk.segment:012d}.seg"
            path = Path(store.root) / "writers" / found.seal.writer / name
    except (BurstError, StopIteration) as error:
        raise InputError(f"no checkpoint to damage: {error}", where=str(folder)) from None
    with path.open("r+b") as file:
        file.seek(chunk.offset_bytes + chunk.head_bytes)
        byte = file.read(1)
        file.seek(chunk.offset_bytes + chunk.head_bytes)
        file.write(bytes([byte[0] ^ 0xFF]))
    return commit.step
