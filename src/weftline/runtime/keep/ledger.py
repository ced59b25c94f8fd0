"""Where the wall time of a run went: a partition of it, so that the shares add up to the whole."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from weftline.burst.advise.interval import poisson_availability

__all__ = ["KINDS", "Ledger", "Shares"]

KINDS: Final = ("start", "productive", "stall", "between", "lost", "restart", "end")
"""start: until ranks are ready for the first step; productive: steps that count; stall: saves that
these waited for; between: from step to step of these; lost: steps that a failure undid, and the one
it broke off; restart: from the failure, as far as its moment is known, until ranks are ready to go
on, those included that another failure met; end: after the last step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """Seconds by kind, and goodput beside what the interval model says for such failures."""

    wall_s: float
    seconds: dict[str, float]
    failures: int
    goodput: float
    """Productive over wall."""
    forecast: float | None
    """What the interval model expects of failures that come at random; None without checkpoints."""


@dataclass(slots=True)
class Ledger:
    """Fed with what happens, in order, in Unix seconds."""

    began: float
    _spans: list[tuple[str, float, int]] = field(default_factory=list)
    """(kind, seconds, step or -1)."""
    _at: float = 0.0
    _waits: str = "start"
    failures: int = 0
    _struck: int = 0
    """Failures that met ranks at their steps: only these undo work."""
    _whole_s: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._at = self.began

    def _until(self, time: float, kind: str, step: int = -1) -> None:
        # Clocks of processes differ by less than a step; a span is never negative.
        time = max(time, self._at)
        self._spans.append((kind, time - self._at, step))
        self._at = time

    def step(self, number: int, begin: float, end: float, stall_s: float) -> None:
        """A step was taken; ``stall_s`` of it went to a save."""
        # What lies before a step that is undone is undone with it.
        self._until(begin, "between", number)
        self._until(max(begin, end - stall_s), "productive", number)
        self._until(end, "stall", number)

    def whole(self, seconds: float) -> None:
        """A save was whole so long after its call."""
        self._whole_s.append(seconds)

    def failed(self, time: float, since: float | None = None) -> None:
        """A failure was noticed that had begun at ``since`` (None: now).

        What ran until it began and was no step is lost. A start that fails before ranks are ready
        is part of that start.
        """
        self.failures += 1
        if self._waits == "between":
            self._struck += 1
            self._until(time if since is None else min(since, time), "lost")
            self._waits = "restart"
        self._until(time, self._waits)

    def goes_on(self, step: int, time: float) -> None:
        """Ranks are ready for this step (from 0): what was done of it and later is undone."""
        self._until(time, self._waits)
        self._waits = "between"
        for at in range(len(self._spans) - 1, -1, -1):
            _, seconds, number = self._spans[at]
            if 0 <= number < step:  # and so is all before it
                break
            if number >= step:
                self._spans[at] = ("lost", seconds, -1)

    def close(self, time: float, every: int = 0) -> Shares:
        """The shares up to ``time``; ``every`` so many steps a checkpoint was made, 0 for none."""
        self._until(time, "end")
        seconds = dict.fromkeys(KINDS, 0.0)
        for kind, spent, _ in self._spans:
            seconds[kind] += spent
        wall = time - self.began
        steps = sum(kind == "productive" for kind, _, _ in self._spans)
        return Shares(
            wall_s=wall, seconds=seconds, failures=self.failures,
            goodput=seconds["productive"] / wall if wall else 0.0,
            forecast=self._forecast(wall, every / steps, seconds) if every and steps else None,
        )  # fmt: skip

    def _forecast(self, wall: float, saves: float, seconds: dict[str, float]) -> float:
        """Expected goodput, given what a step, a save and a restart took and how often one failed.

        ``saves``: checkpoints' interval over all steps that count. Restarts, the start and the end
        are taken as they were. On the rest, the time in which ranks step, failures are a Poisson
        process of the rate that was met there: of lives of random length X the model keeps
        floor((X - p) / T) intervals (``poisson_availability``). T is a save's interval with stall
        and what lies between steps, none of which is progress; p the time from the end of a save's
        stall until it is whole.
        """
        stall_s = saves * seconds["stall"]
        idle_s = stall_s + saves * seconds["between"]
        interval_s = idle_s + saves * seconds["productive"]
        runs_s = sum(seconds[kind] for kind in ("productive", "stall", "between", "lost"))
        if not self._struck:
            share = 1 - idle_s / interval_s
        else:
            whole_s = sum(self._whole_s) / len(self._whole_s) if self._whole_s else 0.0
            share = poisson_availability(
                idle_s, interval_s, runs_s / self._struck, 0.0, max(0.0, whole_s - stall_s)
            )
        return share * runs_s / wall
