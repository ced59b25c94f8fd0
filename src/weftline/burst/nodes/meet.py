"""One commit by many processes that share no folder: they meet over a small key-value store.

``torch.distributed``'s own store is one: it is there before any process group, and asking it needs
no collective, so a commit in the background never crosses one of training's. Keys, under the name
of the try:

    share/<rank>   what a rank hands over once its share is durable
    failed         what went wrong on a rank, instead: nothing will be committed
    handed, taken  counters: shares handed over, records put in place
    record         the commit record, durable in the coordinator's store
    end            empty, or why nothing was committed

The checkpoint exists from the moment the record stands in the coordinator's store. Rank 0 is the
coordinator; every other rank puts the same bytes into its own store. All return once all have.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

from weftline.burst.errors import BurstError, CommitError
from weftline.burst.log.record import Prepared

if TYPE_CHECKING:
    from weftline.burst.commit.commits import CheckpointInfo
    from weftline.burst.store import Store

__all__ = ["Meeting", "commit_together", "hand_over", "publish", "take_over"]

_POLL_S: Final = (0.002, 0.05)
"""Least and most between two looks."""


class Meeting(Protocol):
    """A key-value store that all ranks see, such as ``torch.distributed.Store``."""

    def set(self, key: str, value: bytes) -> None:
        """Put a value."""

    def get(self, key: str) -> bytes:
        """The value of a key that is there."""

    def check(self, keys: list[str]) -> bool:
        """Whether all of these keys are there."""

    def add(self, key: str, amount: int) -> int:
        """Add to a counter and return it."""

    def delete_key(self, key: str) -> bool:
        """Remove a key."""


def commit_together(
    store: Store,
    share: Prepared | BaseException,
    meeting: Meeting,
    *,
    rank: int,
    world: int,
    name: str,
    timeout_s: float = 600.0,
) -> CheckpointInfo:
    """Commit a checkpoint with all other ranks, each of which calls this with its own share.

    ``share``: or the error that kept this rank from saving; then nobody commits. ``name``: that of
    the try, the same on all ranks and new for every save. Raises CommitError on every rank where
    one failed or did not come in time; nothing that was committed before has changed then.
    """
    if isinstance(share, BaseException):
        meeting.set(f"{name}/failed", f"rank {rank}: {share}".encode())
        raise share
    hand_over(share, meeting, name)
    if rank == 0:
        try:
            shares = _gathered(meeting, world, name, share.step, timeout_s)
            info = store.commit(share.step, prepared=shares)
        except BurstError as error:
            meeting.set(f"{name}/end", str(error).encode() or b"?")
            raise
        publish(store, share.step, meeting, world=world, name=name, timeout_s=timeout_s)
        return info
    return take_over(store, meeting, name=name, step=share.step, timeout_s=timeout_s)


def hand_over(share: Prepared, meeting: Meeting, name: str) -> None:
    """Say that this rank's share is durable."""
    meeting.set(f"{name}/share/{share.rank}", share.encode())
    meeting.add(f"{name}/handed", 1)


def _gathered(
    meeting: Meeting, world: int, name: str, step: int, timeout_s: float
) -> list[Prepared]:
    """The shares of all ranks. Raises CommitError."""

    def ready() -> bool:
        return meeting.add(f"{name}/handed", 0) == world or meeting.check([f"{name}/failed"])

    if not _await(ready, timeout_s):
        missing = [r for r in range(world) if not meeting.check([f"{name}/share/{r}"])]
        raise CommitError(
            f"step {step}: after {timeout_s:g} s these ranks are not durable: {missing}",
            hint="nothing was committed; the checkpoints before stand as they were",
        )
    if meeting.check([f"{name}/failed"]):
        raise CommitError(
            f"step {step} was not committed: {meeting.get(f'{name}/failed').decode()}",
            hint="the checkpoints before stand as they were",
        )
    shares = [Prepared.decode(bytes(meeting.get(f"{name}/share/{r}"))) for r in range(world)]
    for rank in range(world):
        meeting.delete_key(f"{name}/share/{rank}")
    return shares


def publish(
    store: Store, step: int, meeting: Meeting, *, world: int, name: str, timeout_s: float = 600.0
) -> None:
    """Rank 0, once its own store has the record: give it to all and wait until they have it too.

    A node that cannot put it in place is noted: the checkpoint is there without it, and that node
    takes the record from another when it is asked next.
    """
    meeting.set(f"{name}/record", store.commit_bytes(step))
    everyone = _await(lambda: meeting.add(f"{name}/taken", 0) == world - 1, timeout_s)
    trouble = meeting.get(f"{name}/trouble").decode() if meeting.check([f"{name}/trouble"]) else ""
    if not everyone:
        trouble = f"not all ranks took it within {timeout_s:g} s"
    if trouble:
        store.note(f"step {step} is committed, but its record is not on every node: {trouble}")
    meeting.set(f"{name}/end", b"")


def take_over(
    store: Store,
    meeting: Meeting,
    *,
    name: str,
    step: int,
    timeout_s: float = 600.0,
    cancelled: threading.Event | None = None,
) -> CheckpointInfo:
    """Another rank: put the coordinator's record into this store, and wait for all to have it.

    Raises CommitError where nothing was committed, or that is not known in time.
    """

    def ready() -> bool:
        gone = cancelled is not None and cancelled.is_set()
        return gone or any(meeting.check([f"{name}/{k}"]) for k in ("record", "end", "failed"))

    said = _await(ready, timeout_s)
    for key in ("end", "failed"):
        if meeting.check([f"{name}/{key}"]) and not meeting.check([f"{name}/record"]):
            what = meeting.get(f"{name}/{key}").decode()
            raise CommitError(f"step {step} was not committed: {what}", where=store.root)
    if not said or not meeting.check([f"{name}/record"]):
        raise CommitError(
            f"step {step}: no word from rank 0 within {timeout_s:g} s", where=store.root,
            hint="whether it was committed is told by the next restore",
        )  # fmt: skip
    try:
        info = store.adopt(bytes(meeting.get(f"{name}/record")))
    except BurstError as error:
        meeting.set(f"{name}/trouble", str(error).encode())
        raise
    finally:
        meeting.add(f"{name}/taken", 1)
    _await(lambda: meeting.check([f"{name}/end"]), timeout_s)
    return info


def _await(ready: Callable[[], bool], timeout_s: float) -> bool:
    """Look until it is so, ever less often; False when the time is over."""
    end = time.monotonic() + timeout_s
    pause = _POLL_S[0]
    while not ready():
        if time.monotonic() > end:
            return False
        time.sleep(pause)
        pause = min(_POLL_S[1], 1.25 * pause)
    return True
