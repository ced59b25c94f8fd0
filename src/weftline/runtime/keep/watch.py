"""Who does not move, and who is slow, seen from outside: no layout must help.

Ranks of one run wait for each other, so a slow one does not show in its own step time. It shows in
this: the others sleep in their exchanges, and it does not.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

__all__ = ["Sleep", "Watch", "Work", "started_at", "state_of"]

_STEPS: Final = 20
"""Steps that the longest is taken of."""
_SLACK_S: Final = 1.0
_SAMPLES: Final = 150
"""A window: three seconds at 50 a second."""
_WINDOWS: Final = 2
"""In a row that must name the same rank: a neighbour's burst passes."""
_STUCK: Final = 10
"""Times the limit after which even ranks that compute count as hung."""
_MOVED_S: Final = 0.5
_WAITS: Final = 0.4
"""A rank that sleeps this much of the time waits for others; assumed."""


@dataclass(slots=True)
class Watch:
    """When a run counts as hung: no step for twice the longest of late, and a second."""

    first_s: float
    """Until the first step of a generation."""
    _times: deque[float] = field(default_factory=lambda: deque(maxlen=_STEPS))
    _last: float = 0.0
    _stepped: bool = False

    def start(self, now: float) -> None:
        """A generation begins."""
        self._last, self._stepped = now, False

    def step(self, now: float, seconds: float) -> None:
        """A step ended."""
        # A generation's first step compiles, connects and allocates: no measure of the next.
        if self._stepped:
            self._times.append(seconds)
        self._last, self._stepped = now, True

    def limit_s(self) -> float:
        """How long nothing may be heard."""
        if not self._stepped or not self._times:
            return self.first_s
        return 2 * max(self._times) + _SLACK_S

    def stopped_at(self) -> float:
        """When ranks that hang began to, at the best guess: in the middle of the step they take."""
        return self._last + (sum(self._times) / len(self._times) / 2 if self._times else 0.0)

    def hung(self, now: float, *, busy: bool) -> bool:
        """Whether nothing was heard for too long, and no rank works (or for much too long)."""
        quiet_s = now - self._last
        return quiet_s > self.limit_s() * (_STUCK if busy else 1)


@dataclass(slots=True)
class Sleep:
    """Samples of each rank's main thread: asleep (waiting), or not."""

    _seen: dict[int, list[int]] = field(default_factory=dict)
    _named: list[int] = field(default_factory=list)
    _told: int = -1

    def sample(self, states: dict[int, str]) -> None:
        """One look at all ranks: R running, S asleep, T stopped, D on a disk."""
        for rank, state in states.items():
            counts = self._seen.setdefault(rank, [0, 0])
            counts[0] += 1
            counts[1] += state == "S"

    def slow(self) -> tuple[int, float, float] | None:
        """(rank, its share of sleep, the least of the others), once where one stands out."""
        if len(self._seen) < 2 or min(c for c, _ in self._seen.values()) < _SAMPLES:
            return None
        shares = {r: asleep / count for r, (count, asleep) in self._seen.items()}
        self._seen.clear()
        rank = min(shares, key=lambda r: shares[r])
        others = min(share for r, share in shares.items() if r != rank)
        if not (others > _WAITS and shares[rank] < others / 4):
            self._named.clear()
            return None
        self._named = [*(n for n in self._named if n == rank), rank]
        if len(self._named) < _WINDOWS or self._told == rank:
            return None
        self._told = rank
        return rank, shares[rank], others


@dataclass(slots=True)
class Work:
    """Whether any rank computes: its processor time grows, or it wants to run."""

    _ticks: dict[int, int] = field(default_factory=dict)
    _moved: float = 0.0

    def busy(self, now: float, pids: Iterable[int]) -> bool:
        """Look; ranks that moved within the last half second still count."""
        for pid in pids:
            found = _stat(pid)
            if not found:
                continue
            ticks = int(found[11]) + int(found[12])
            if found[0] == "R" or ticks > self._ticks.get(pid, -1):
                self._moved = now
            self._ticks[pid] = ticks
        return now - self._moved < _MOVED_S


def _stat(pid: int) -> list[str]:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return []
    return text.rpartition(")")[2].split()


def state_of(pid: int) -> str:
    """State of a process's main thread as the kernel has it; empty where there is none."""
    found = _stat(pid)
    return found[0] if found else ""


def started_at(pid: int) -> int:
    """Clock ticks from boot to its start, which tell a number used again; -1 for no process."""
    found = _stat(pid)
    return int(found[19]) if len(found) > 19 else -1
