"""One pipeline of a step as events: which stage computes which micro-batch from when until when.

Stages take turns in the order of their schedule, each task as soon as what it needs has come:
1F1B, interleaved where a stage holds several chunks (arXiv:2104.04473, section 2.2). Under a
zero-bubble schedule backward is two tasks, and the gradients of weights fill what would stand idle
(ZB-H1 of arXiv:2401.10241).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Literal

from weftline.spec.drawn import Pipeline

__all__ = ["Event", "events_of"]

Pass = Literal["forward", "backward", "weights"]
_Task = tuple[Pass, int, int]
"""Pass, chunk, micro-batch."""


@dataclass(frozen=True, slots=True)
class Event:
    """A stage computes one chunk's pass over one micro-batch; seconds from the step's start."""

    stage: int
    what: Pass
    chunk: int
    micro_batch: int
    starts_s: float
    ends_s: float

    @property
    def name(self) -> str:
        """``forward 3``, with its chunk where a stage has several."""
        return f"{self.what} {self.micro_batch}"


def events_of(pipeline: Pipeline) -> list[Event]:
    """Every event of the pipeline, by stage and then by time."""
    p, split = pipeline.stages, pipeline.zero_bubble
    orders = [deque(_order(stage, pipeline)) for stage in range(p)]
    later: list[deque[_Task]] = [deque() for _ in range(p)]
    free = [0.0] * p
    done: dict[tuple[int, _Task], float] = {}
    events: list[list[Event]] = [[] for _ in range(p)]

    def run(stage: int, task: _Task, begins: float) -> None:
        what, chunk, micro = task
        takes = pipeline.forward_s[stage] if what == "forward" else (
            pipeline.backward_s[stage] / (2 if split else 1))  # fmt: skip
        free[stage] = done[stage, task] = begins + takes
        events[stage].append(Event(stage, what, chunk, micro, begins, free[stage]))
        if split and what == "backward":
            later[stage].append(("weights", chunk, micro))

    while any(orders):
        moved = False
        for stage in range(p):
            while orders[stage]:
                ready = _ready(stage, orders[stage][0], pipeline, done)
                if ready is None:
                    break
                # Gradients of weights fit into the wait for what comes from other stages.
                if later[stage] and free[stage] < ready:
                    run(stage, later[stage].popleft(), free[stage])
                    continue
                run(stage, orders[stage].popleft(), max(free[stage], ready))
                moved = True
        if not moved:
            raise ValueError("the schedule waits for itself")
    for stage in range(p):
        while later[stage]:
            run(stage, later[stage].popleft(), free[stage])
    return [event for row in events for event in row]


def _order(stage: int, pipeline: Pipeline) -> list[_Task]:
    """A stage's tasks in its order: warm-up, one forward and one backward, the rest."""
    p, v, m = pipeline.stages, pipeline.chunks, pipeline.micro_batches
    ahead: list[tuple[int, int]] = [
        (chunk, micro)
        for first in range(0, m, p) for chunk in range(v)
        for micro in range(first, min(first + p, m))
    ] if v > 1 else [(0, micro) for micro in range(m)]  # fmt: skip
    back = [
        (v - 1 - chunk, micro)
        for first in range(0, m, p) for chunk in range(v)
        for micro in range(first, min(first + p, m))
    ] if v > 1 else ahead  # fmt: skip
    warm = 2 * (p - 1 - stage) + (v - 1) * p if v > 1 else p - 1 - stage
    # Where the last group is short, chunks of it come before their turn in full groups.
    warm = len(ahead) if v > 1 and m % p else min(warm, len(ahead))
    tasks: list[_Task] = [("forward", *unit) for unit in ahead[:warm]]
    for i, unit in enumerate(ahead[warm:]):
        tasks += [("forward", *unit), ("backward", *back[i])]
    return tasks + [("backward", *unit) for unit in back[len(ahead) - warm :]]


def _ready(
    stage: int, task: _Task, pipeline: Pipeline, done: dict[tuple[int, _Task], float]
) -> float | None:
    """When what a task needs is there; None where it is not computed yet."""
    (what, chunk, micro), last = task, pipeline.stages - 1
    step = 1 if what == "forward" else -1
    before, of_chunk = stage - step, chunk
    needs: list[tuple[tuple[int, _Task], float]] = []
    if what == "backward":
        needs.append(((stage, ("forward", chunk, micro)), 0.0))
    if not 0 <= before <= last:  # the neighbouring chunk is on the other end
        before, of_chunk = (last if step == 1 else 0), chunk - step
    if 0 <= of_chunk < pipeline.chunks:
        wait = pipeline.send_s if before != stage else 0.0
        needs.append(((before, (what, of_chunk, micro)), wait))
    if any(need not in done for need, _ in needs):
        return None
    return max((done[need] + wait for need, wait in needs), default=0.0)
