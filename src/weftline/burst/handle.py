"""What a save returns: how long training stood still, and what became of the rest."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from weftline.burst.errors import BurstError
from weftline.burst.log.record import Prepared

__all__ = ["SaveHandle"]


@dataclass(slots=True, kw_only=True, eq=False)
class SaveHandle:
    """One save, in flight or ended. Times in seconds, measured from the call."""

    step: int
    rank: int
    raw_bytes: int
    stored_bytes: int = 0
    """Bytes added to the log, known once durable."""
    stall_s: float = 0.0
    """From the call to its return, without the wait for an earlier save."""
    queue_wait_s: float = 0.0
    """Wait for an earlier save to be durable."""
    durable_s: float = 0.0
    """From the call until durable (and committed, for a world of one)."""
    prepared: Prepared | None = None
    """What the coordinator needs, once durable."""
    committed: bool = False
    error: BaseException | None = None
    _done: threading.Event = field(default_factory=threading.Event)
    _seen: bool = False

    @property
    def done(self) -> bool:
        """Whether the save has ended, well or not."""
        return self._done.is_set()

    @property
    def unseen(self) -> bool:
        """Whether it failed and nobody has been told."""
        return self.error is not None and not self._seen

    def finish(self, durable_s: float) -> None:
        """Called once, by the thread that wrote."""
        self.durable_s = durable_s
        self._done.set()

    def join(self, timeout_s: float | None = None) -> bool:
        """Wait for the end without asking how it went; False when the time ran out first."""
        return self._done.wait(timeout_s)

    def wait(self, timeout_s: float | None = None) -> SaveHandle:
        """Wait until the save is durable; raises its error, or BurstError when time runs out."""
        if not self._done.wait(timeout_s):
            raise BurstError(f"the save of step {self.step} is not durable after {timeout_s:g} s")
        self._seen = True
        if self.error is not None:
            raise self.error
        return self
