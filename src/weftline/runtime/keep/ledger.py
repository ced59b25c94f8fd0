"""Where the wall time of a run went: a partition of it, so that the shares add up to the whole."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from weftline.cost.goodput import availability

__all__ = ["KINDS", "Ledger", "Shares"]

KINDS: Final = ("start", "productive", "stall", "between", "lost", "restart", "end")
"""start: until the first step; productive: steps that count; stall: saves that steps waited for;
between: from step to step; lost: steps that a failure undid, and the one it broke off; restart:
from noticing to the first step again; end: after the last step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """Seconds by kind, and goodput beside what the interval model says for such failures."""

    wall_s: float
    seconds: dict[str, float]
    failures: int
    goodput: float
    """Productive over wall."""
    forecast: float | None
    """Availability with the measured stall, interval, recovery and time until a save is whole, for
    this many failures."""


@dataclass(slots=True)
class Ledger:
    """Fed with what happens, in order, in Unix seconds."""

    began: float
    _spans: list[tuple[str, float, int]] = field(default_factory=list)
    """(kind, seconds, step or -1)."""
    _at: float = 0.0
    _waits: str = "start"
    failures: int = 0
    persist_s: float = 0.0
    """From the call of a save until it is whole, as last measured."""

    def __post_init__(self) -> None:
        self._at = self.began

    def _until(self, time: float, kind: str, step: int = -1) -> None:
        # Clocks of processes differ by less than a step; a span is never negative.
        time = max(time, self._at)
        self._spans.append((kind, time - self._at, step))
        self._at = time

    def step(self, number: int, begin: float, end: float, stall_s: float) -> None:
        """A step was taken; ``stall_s`` of it went to a save."""
        self._until(begin, self._waits)
        self._waits = "between"
        self._until(max(begin, end - stall_s), "productive", number)
        self._until(end, "stall", number)

    def failed(self, time: float) -> None:
        """A failure was noticed; what ran until then and was no step is lost."""
        self.failures += 1
        self._until(time, "lost")
        self._waits = "restart"

    def goes_on(self, step: int) -> None:
        """The run goes on from this step (from 0): what was done of it and later is undone."""
        self._spans = [
            ("lost" if number >= step else kind, seconds, -1 if number >= step else number)
            for kind, seconds, number in self._spans
        ]

    def close(self, time: float, every: int = 0) -> Shares:
        """The shares up to ``time``; ``every`` so many steps a checkpoint was made, 0 for none."""
        self._until(time, "end")
        seconds = dict.fromkeys(KINDS, 0.0)
        for kind, spent, _ in self._spans:
            seconds[kind] += spent
        wall = time - self.began
        steps = sum(kind == "productive" for kind, _, _ in self._spans)
        interval_s = every * seconds["productive"] / steps if steps else None
        return Shares(
            wall_s=wall, seconds=seconds, failures=self.failures,
            goodput=seconds["productive"] / wall if wall else 0.0,
            forecast=self._forecast(wall, interval_s, seconds),
        )  # fmt: skip

    def _forecast(
        self, wall: float, interval_s: float | None, seconds: dict[str, float]
    ) -> float | None:
        """The interval model on the part of the wall that runs, without the start and the end."""
        runs = wall - seconds["start"] - seconds["end"]
        if not interval_s or runs <= 0:
            return None
        saves = max(1.0, seconds["productive"] / interval_s)
        stall = seconds["stall"] / saves
        if not self.failures:
            share = interval_s / (interval_s + stall)
        else:
            recovery = seconds["restart"] / self.failures
            share = availability(
                max(stall, 1e-9), interval_s, runs / self.failures, recovery, self.persist_s
            )
        return max(0.0, share) * runs / wall
