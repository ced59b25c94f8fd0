"""A line on stderr when something takes longer than a second, and what would be quicker."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

AFTER_S: Final = 1.0


@contextmanager
def slow_said(what: str, quicker: str = "", *, after_s: float = AFTER_S) -> Iterator[None]:
    """Say once on stderr that ``what`` still runs, and what is ``quicker``; terminal or not."""

    def say() -> None:
        line = f"still {what}" + (f"; quicker: {quicker}" if quicker else "")
        print(line, file=sys.stderr, flush=True)

    timer = threading.Timer(after_s, say)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
