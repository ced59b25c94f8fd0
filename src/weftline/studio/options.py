"""How the studio is run, as a user says it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["StudioOptions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StudioOptions:
    """Where the studio listens, whom it answers, and what its answers may take.

    Parameters
    ----------
    host
        Address to listen on; any but loopback asks for a token, which is in the printed URL.
    port
        0 takes a free one and says which.
    token
        Ask for a token on loopback, too: others may have accounts on this machine.
    allow_host
        Names under which browsers may reach it beside its address, separated by commas.
    workers
        Processes that compute; half the cores if not given, two at least.
    limit
        Longest that one answer may take: 5min.
    memory
        Most memory of a process that computes: 4GB.
    history
        SQLite file of past answers; in the user's state folder if not given.
    keep
        Answers that the history keeps; 0 keeps none after the studio ends.
    """

    host: str = "127.0.0.1"
    port: int = 8321
    token: bool = False
    allow_host: str = ""
    workers: int | None = None
    limit: str = "5min"
    memory: str = "4GB"
    history: Path | None = None
    keep: int = 500
