"""``weftline inject``: failures on command, for drills."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

app = App(
    name="inject", help="Break a run on purpose: kill, hang or slow a rank, corrupt a save.",
    help_format="plaintext",
)  # fmt: skip
Run = Annotated[Path, Parameter(help="Folder of a run that goes on: `weftline train -o`.")]
Rank = Annotated[int, Parameter(help="Which rank.")]


@app.command
def kill(run: Run, *, rank: Rank = 0) -> int:
    """End a rank at once, as a lost machine would."""
    from weftline.runtime.keep import inject

    pid = inject.kill(run, rank)
    print(f"rank {rank} (process {pid}) killed", file=sys.stderr)
    return 0


@app.command
def hang(run: Run, *, rank: Rank = 0) -> int:
    """Stop a rank without ending it."""
    from weftline.runtime.keep import inject

    pid = inject.hang(run, rank)
    print(f"rank {rank} (process {pid}) stopped", file=sys.stderr)
    return 0


@app.command
def slow(run: Run, *, rank: Rank = 0, seconds: float = 10.0, share: float = 0.5) -> int:
    """Hold a rank for a part of the time.

    Parameters
    ----------
    seconds
        For so long.
    share
        Part of the time that it is held.
    """
    from weftline.runtime.keep import inject

    pid = inject.slow(run, rank, seconds=seconds, share=share)
    print(f"rank {rank} (process {pid}) was held {share:.0%} of {seconds:g} s", file=sys.stderr)
    return 0


@app.command
def corrupt(run: Run) -> int:
    """Flip a byte of the newest checkpoint on disk."""
    from weftline.runtime.keep import inject

    step = inject.corrupt(run)
    print(f"a byte of checkpoint {step} flipped", file=sys.stderr)
    return 0
