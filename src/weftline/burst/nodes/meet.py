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

__all__ = ["JointCommit", "Meeting"]

_POLL_S: Final = (0.002, 0.05)
"""Least and most between two looks."""
_WORDS: Final = ("record", "end", "failed")
"""Keys that end the wait of the others."""


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


class JointCommit:
    """The commits of one process among others, one after the other."""

    def __init__(
        self, store: Store, meeting: Meeting, *, rank: int, world: int, timeout_s: float = 600.0
    ) -> None:
        self.store = store
        self._meeting = meeting
        self._rank = rank
        self._world = world
        self._timeout_s = timeout_s
        self._ended = threading.Event()
        self._over: list[str] = []
        """Tries whose keys are still there: the others may be looking at those of the last."""

    def cancel(self) -> None:
        """Wait no longer for ranks that will not come."""
        self._ended.set()

    def fail(self, name: str, error: BaseException) -> None:
        """Say that this rank could not save: nobody commits this try."""
        self._meeting.set(f"{name}/failed", f"rank {self._rank}: {error}".encode())

    def commit(self, share: Prepared, name: str) -> CheckpointInfo:
        """Commit a checkpoint with all other ranks, each of which calls this with its own share.

        ``name``: that of the try, the same on all ranks and new for every save. Raises CommitError
        on every rank where one failed or did not come in time; nothing that was committed before
        has changed then.
        """
        self._meeting.set(f"{name}/share/{share.rank}", share.encode())
        self._meeting.add(f"{name}/handed", 1)
        if self._rank:
            return self.take_over(name, share.step)
        try:
            info = self.store.commit(share.step, prepared=self._gathered(name, share.step))
        except BurstError as error:
            self._meeting.set(f"{name}/end", str(error).encode() or b"?")
            raise
        self.publish(name, share.step)
        return info

    def _gathered(self, name: str, step: int) -> list[Prepared]:
        """The shares of all ranks. Raises CommitError."""
        meeting, ranks = self._meeting, range(self._world)

        def ready() -> bool:
            everyone = meeting.add(f"{name}/handed", 0) == self._world
            return everyone or meeting.check([f"{name}/failed"])

        said = self._await(ready)
        if meeting.check([f"{name}/failed"]):
            raise CommitError(
                f"step {step} was not committed: {meeting.get(f'{name}/failed').decode()}",
                hint="the checkpoints before stand as they were",
            )
        if not said:
            missing = [r for r in ranks if not meeting.check([f"{name}/share/{r}"])]
            raise CommitError(
                f"step {step}: after {self._timeout_s:g} s these ranks are not durable: {missing}",
                hint="nothing was committed; the checkpoints before stand as they were",
            )
        shares = [Prepared.decode(bytes(meeting.get(f"{name}/share/{r}"))) for r in ranks]
        for rank in ranks:
            meeting.delete_key(f"{name}/share/{rank}")
        return shares

    def publish(self, name: str, step: int) -> None:
        """Rank 0, once its own store has the record: give it to all and wait until they have it.

        A node that cannot put it in place is noted: the checkpoint is there without it, and that
        node takes the record from another when it restores.
        """
        meeting = self._meeting
        meeting.set(f"{name}/record", self.store.commit_bytes(step))
        everyone = self._await(lambda: meeting.add(f"{name}/taken", 0) == self._world - 1)
        trouble = [] if everyone else [f"not all ranks took it within {self._timeout_s:g} s"]
        if meeting.check([f"{name}/trouble"]):
            trouble.append(meeting.get(f"{name}/trouble").decode())
        for what in trouble:
            self.store.note(f"step {step} is committed, but not every node has its record: {what}")
        meeting.set(f"{name}/end", b"")
        self._forget(name)

    def take_over(self, name: str, step: int) -> CheckpointInfo:
        """Another rank: put the coordinator's record into this store, and wait for all to have it.

        Raises CommitError where nothing was committed, or that is not known in time.
        """
        meeting = self._meeting
        self._await(lambda: any(meeting.check([f"{name}/{k}"]) for k in _WORDS))
        if not meeting.check([f"{name}/record"]):
            for key in ("failed", "end"):
                if meeting.check([f"{name}/{key}"]):
                    what = meeting.get(f"{name}/{key}").decode()
                    raise CommitError(f"step {step}: {what}", where=self.store.root)
            raise CommitError(
                f"step {step}: no word from rank 0 within {self._timeout_s:g} s",
                where=self.store.root, hint="whether it was committed is told by the next restore",
            )  # fmt: skip
        try:
            info = self.store.adopt(bytes(meeting.get(f"{name}/record")))
        except BurstError as error:
            meeting.set(f"{name}/trouble", f"rank {self._rank}: {error}".encode())
            raise
        finally:
            meeting.add(f"{name}/taken", 1)
        self._await(lambda: meeting.check([f"{name}/end"]))
        return info

    def _forget(self, name: str) -> None:
        """Take away what the try before left: whoever is at this one has done with it."""
        for old in self._over:
            for key in (*_WORDS, "handed", "taken", "trouble"):
                if self._meeting.check([f"{old}/{key}"]):
                    self._meeting.delete_key(f"{old}/{key}")
        self._over = [name]

    def _await(self, ready: Callable[[], bool]) -> bool:
        """Look until it is so, ever less often; False when time is over or it was cancelled."""
        end = time.monotonic() + self._timeout_s
        pause = _POLL_S[0]
        while not ready():
            if time.monotonic() > end or self._ended.wait(pause):
                return False
            pause = min(_POLL_S[1], 1.25 * pause)
        return True
