"""One step of a plan as a trace that Perfetto and chrome://tracing open.

The JSON is that of the Trace Event Format: complete events (``ph`` X) with ``ts`` and ``dur`` in
microseconds, a process for the pipeline and one for the step, a thread a stage, metadata events
(``ph`` M) with their names.
"""

from __future__ import annotations

import json
from typing import Any, Final

from weftline._version import __version__
from weftline.errors import InputError
from weftline.report.pipeline import events_of
from weftline.spec import Plan
from weftline.spec.drawn import Pipeline

__all__ = ["MOST_EVENTS", "trace_of"]

MOST_EVENTS: Final = 400_000
"""Beyond them the viewers themselves get slow."""
_PIPELINE, _STEP = 1, 2
_COLOURS: Final = {"forward": "good", "backward": "rail_response", "weights": "rail_animation"}


def trace_of(plan: Plan, *, where: str = "plan") -> str:
    """The trace as JSON. Raises InputError for a plan without a pipeline, or too many events."""
    line = plan.pipeline
    if line is None:
        raise InputError(
            "the plan keeps no pipeline: it is of an earlier version, or its step was measured",
            where=where, hint="make the plan again with this version",
        )  # fmt: skip
    count = line.stages * line.chunks * line.micro_batches * (3 if line.zero_bubble else 2)
    if count > MOST_EVENTS:
        raise InputError(f"{count:,} events are more than viewers hold ({MOST_EVENTS:,})",
                         where=where, hint="fewer micro-batches or chunks")  # fmt: skip
    found = [*_named(line), *_pipeline(line), *_step(plan)]
    head = {
        "displayTimeUnit": "ms",
        "otherData": {
            "model": plan.job.model, "layout": plan.layout.short(),
            "chips": f"{plan.cluster.chips} x {plan.cluster.accelerator}",
            "step_time_s": plan.estimates["step_time"].value,
            "basis": plan.estimates["step_time"].basis, "made by": f"weftline {__version__}",
        },
    }  # fmt: skip
    rows = ",\n".join(json.dumps(event, allow_nan=False) for event in found)
    return json.dumps(head)[:-1] + f',\n"traceEvents": [\n{rows}\n]}}\n'


def _named(line: Pipeline) -> list[dict[str, Any]]:
    def meta(pid: int, tid: int, kind: str, value: dict[str, Any]) -> dict[str, Any]:
        return {"ph": "M", "name": kind, "pid": pid, "tid": tid, "ts": 0, "args": value}

    found = [meta(_PIPELINE, 0, "process_name", {"name": "one pipeline"}),
             meta(_STEP, 0, "process_name", {"name": "the step, by part"})]  # fmt: skip
    for stage in range(line.stages):
        found += [
            meta(_PIPELINE, stage + 1, "thread_name", {"name": f"stage {stage}"}),
            meta(_PIPELINE, stage + 1, "thread_sort_index", {"sort_index": stage}),
        ]
    return [*found, meta(_STEP, 1, "thread_name", {"name": "shown"}),
            meta(_STEP, 2, "thread_name", {"name": "hidden behind compute"})]  # fmt: skip


def _pipeline(line: Pipeline) -> list[dict[str, Any]]:
    return [
        {"ph": "X", "name": e.name, "cat": e.what, "cname": _COLOURS[e.what], "pid": _PIPELINE,
         "tid": e.stage + 1, "ts": _us(e.starts_s), "dur": _us(e.ends_s) - _us(e.starts_s),
         "args": {"micro_batch": e.micro_batch, "chunk": e.chunk}}
        for e in events_of(line)
    ]  # fmt: skip


def _step(plan: Plan) -> list[dict[str, Any]]:
    """The parts of a step one after the other, and beside them what communication hides."""
    rows = [(1, p.name, p.value, p.basis) for p in plan.step_parts if p.value > 0]
    rows += [(2, f"{x.axis} exchange", x.hidden_s, "hidden") for x in plan.exchanges
             if x.hidden_s > 0]  # fmt: skip
    clock, found = {1: 0.0, 2: 0.0}, []
    for thread, name, seconds, basis in rows:
        begins = clock[thread]
        clock[thread] += seconds
        found.append({"ph": "X", "name": name, "cat": "part", "pid": _STEP, "tid": thread,
                      "ts": _us(begins), "dur": _us(clock[thread]) - _us(begins),
                      "args": {"basis": basis}})  # fmt: skip
    return found


def _us(seconds: float) -> float:
    """Microseconds to the nanosecond, which is what viewers keep."""
    return round(seconds * 1e6, 3)
