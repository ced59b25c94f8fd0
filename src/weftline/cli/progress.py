"""How far long work is: on the status line of a terminal, a plain line now and then in a pipe."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from weftline.cli.status import status

QUIET_S = 1.0
PLAIN_EVERY_S = 15.0


def progress() -> Callable[[str, float], None]:
    """A function that shows a name and a share done, on stderr."""
    start = time.monotonic()
    last = start

    def show(name: str, share: float) -> None:
        nonlocal last
        now = time.monotonic()
        if status.on and now - start > QUIET_S:
            done = "#" * round(share * 30)
            status.say(f"[{done:<30}] {name:<24}")
        elif not status.on and now - last > PLAIN_EVERY_S:
            last = now
            print(f"{share:.0%} {name}", file=sys.stderr, flush=True)

    return show
