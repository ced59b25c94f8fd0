"""A bar on a terminal for work over a second; one plain line now and then in a pipe."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

QUIET_S = 1.0
PLAIN_EVERY_S = 15.0


def progress() -> Callable[[str, float], None]:
    """A function that shows a name and a share done, on stderr."""
    start = time.monotonic()
    terminal = sys.stderr.isatty()
    last = start

    def show(name: str, share: float) -> None:
        nonlocal last
        now = time.monotonic()
        if terminal and now - start > QUIET_S:
            done = "#" * round(share * 30)
            print(f"\r[{done:<30}] {name:<24}", end="", file=sys.stderr, flush=True)
            if share >= 1:
                print(file=sys.stderr)
        elif not terminal and now - last > PLAIN_EVERY_S:
            last = now
            print(f"{share:.0%} {name}", file=sys.stderr, flush=True)

    return show
