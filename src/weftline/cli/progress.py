"""A bar on a terminal for work over a second; one plain line now and then in a pipe."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

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


def compiling_notice(module: str, seconds: int) -> None:
    """Say on a terminal that the loops of a module are compiled for once, if they are not yet.

    ``module`` keeps its compiled loops in files beside it (``__pycache__``) or in numba's own
    cache; ``seconds`` is how long compiling took on one core of a server.
    """
    if not sys.stderr.isatty() or not _cold(module):
        return
    print(f"compiling for the first run, about {seconds} s; later runs start at once",
          file=sys.stderr, flush=True)  # fmt: skip


def _cold(module: str) -> bool:
    """Whether no compiled loop of ``module`` is kept for this Python."""
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        return False
    source = Path(spec.origin)
    own = os.environ.get("NUMBA_CACHE_DIR")
    wanted = f"{source.stem}.*py{sys.version_info[0]}{sys.version_info[1]}.*nbi"
    if own:
        return not any(Path(own).glob(f"*/{wanted}"))
    if os.access(source.parent, os.W_OK):
        return not any((source.parent / "__pycache__").glob(wanted))
    kept = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "numba"
    return not any(kept.glob(f"*/{wanted}"))
