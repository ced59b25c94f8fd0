"""A line on a terminal while kernels are compiled, which happens once on a machine."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

POLL_S = 0.05


@contextmanager
def compiling_said() -> Iterator[None]:
    """Say on stderr, if it is a terminal, that the work inside waits for a first compilation.

    Numba is loaded by the work itself, if at all: a thread looks out for it and then listens to
    its compiler, which says nothing of kernels that it finds compiled on disk.
    """
    if not sys.stderr.isatty():
        yield
        return
    ended = threading.Event()

    def loaded() -> bool:
        events = sys.modules.get("numba.core.event")
        if hasattr(events, "register") and hasattr(events, "Listener"):
            listen(events)
            return True
        return False

    def watch() -> None:
        while not ended.wait(POLL_S) and not loaded():
            pass

    def listen(events: Any) -> None:
        said = threading.Event()

        class Said(events.Listener):  # type: ignore[misc]
            """Speaks at the first compilation, once."""

            def on_start(self, event: Any) -> None:  # noqa: ARG002
                if not said.is_set() and not ended.is_set():
                    said.set()
                    print("compiling kernels, once: about 10 s", file=sys.stderr, flush=True)

            def on_end(self, event: Any) -> None:
                """Nothing is said when it is done."""

        events.register("numba:compile", Said())

    watcher = None if loaded() else threading.Thread(target=watch, daemon=True)
    if watcher is not None:
        watcher.start()
    try:
        yield
    finally:
        ended.set()
        if watcher is not None:
            watcher.join()
