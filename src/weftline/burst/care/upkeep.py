"""Retention and free space, beside training: one thread, and never in the way of a commit."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Final

__all__ = ["Upkeep"]

_PAUSE_S: Final = 0.25
"""After one rank's share is durable its checkpoint is about to be committed: that comes first."""


class Upkeep:
    """Runs ``act(committed)`` in the background after saves and commits.

    Requests that come while one waits or runs become one run. ``act`` is not meant to raise; what
    it raises all the same comes out of :meth:`settle`.
    """

    def __init__(self, act: Callable[[bool], None]) -> None:
        self._act = act
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="burst-upkeep")
        self._changed = threading.Condition()
        self._committed = self._hurry = False
        self._waiting: Future[None] | None = None
        self._running: Future[None] | None = None

    def request(self, *, committed: bool) -> None:
        """Ask for a run: soon after a commit, after a pause when one may be about to come."""
        with self._changed:
            self._committed |= committed
            self._changed.notify_all()
            if self._waiting is None:
                self._waiting = self._pool.submit(self._run)

    def _run(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._committed or self._hurry, _PAUSE_S)
            committed, self._committed = self._committed, False
            self._running, self._waiting = self._waiting, None
        self._act(committed)

    def settle_running(self) -> None:
        """Return when the run that has begun, if any, has ended, well or not."""
        with self._changed:
            running = self._running
        if running is not None:
            wait([running])

    def settle(self) -> None:
        """Return when everything that was asked for is done; raises what ``act`` did raise."""
        with self._changed:
            self._hurry = True
            self._changed.notify_all()
            futures = [f for f in (self._running, self._waiting) if f is not None]
        wait(futures)
        with self._changed:
            self._hurry = False
        for future in futures:
            future.result()

    def close(self) -> None:
        """Do what was asked for, and end the thread."""
        with self._changed:
            self._hurry = True
            self._changed.notify_all()
        self._pool.shutdown(wait=True)
