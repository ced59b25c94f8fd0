"""The line of a run that goes on: loss, speed, how it stands against the plan, when it ends."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

from weftline.cli.status import status
from weftline.units import format_duration

if TYPE_CHECKING:
    from weftline.runtime.train.recipe import Recipe

PLAIN_EVERY_S = 10.0
"""Between lines where stderr is no terminal."""


class Live:
    """Hears the events of a run; shows them on stderr."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._shown = 0.0
        self._saved: tuple[int | None, float] = (None, time.time())
        self._recent: list[float] = []

    def __call__(self, event: dict[str, Any]) -> None:
        """One event: a step on the live line, anything else a line of its own."""
        if event["kind"] == "step":
            self._step(event)
        elif text := _text(event):
            print(text, file=sys.stderr, flush=True)

    def _step(self, event: dict[str, Any]) -> None:
        recipe, now = self._recipe, time.time()
        self._recent = [*self._recent[-19:], event["end"] - event["begin"]]
        step_s = sorted(self._recent)[len(self._recent) // 2]
        if event["saved"] != self._saved[0]:
            self._saved = (event["saved"], now)
        left = (recipe.steps - event["step"] - 1) * step_s
        plan = recipe.predicted_step_s
        parts = [
            f"step {event['step'] + 1}/{recipe.steps}", f"loss {event['loss']:.4f}",
            f"{recipe.tokens_per_step / step_s:,.0f} tokens/s", f"step {format_duration(step_s)}"
            + (f" ({step_s / plan:.0%} of plan)" if plan else ""), f"MFU {event['mfu']:.0%}",
            f"saved {event['saved']}, {format_duration(now - self._saved[1])} ago"
            if event["saved"] else "nothing saved yet",
            f"{format_duration(left)} left",
        ]  # fmt: skip
        line = ", ".join(parts)
        if status.on:
            status.say(line)
        elif now - self._shown > PLAIN_EVERY_S or event["step"] + 1 == recipe.steps:
            self._shown = now
            print(line, file=sys.stderr, flush=True)


def _text(event: dict[str, Any]) -> str:
    kind = event["kind"]
    if kind == "start" and event["generation"]:
        return f"restart {event['generation']} on {event['ranks']} ranks"
    if kind == "ready" and event["step"]:
        return f"goes on from step {event['step']}"
    said = {
        "death": "rank {rank} ended: {how}", "hang": "hung: {why}", "note": "note: {text}",
        "nan": "loss of step {step} is {loss}",
        "slow": "rank {rank} holds others up: they wait {others:.0%} of the time, it {sleeps:.0%}",
        "save-failed": "a checkpoint failed, training goes on: {why}",
    }  # fmt: skip
    return said[kind].format(**event) if kind in said else ""
