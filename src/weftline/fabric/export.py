"""From a user's words to an executor's file: build, choose, cut, write."""

from __future__ import annotations

from dataclasses import dataclass

from weftline.errors import InputError, UnknownNameError
from weftline.fabric.algorithms import algorithms_for, build
from weftline.fabric.evaluators import evaluate
from weftline.fabric.formats.schedules import EXECUTORS, SCHEDULE_FORMATS, Program, write_schedule
from weftline.fabric.graph import Topology
from weftline.fabric.orbit import OrbitSchedule, expand
from weftline.fabric.parse import parse_topology
from weftline.fabric.schedule import COLLECTIVES, Schedule
from weftline.units import parse_bytes

ROWS_MOST = 200_000
"""Rows of a schedule that is written out: an executor could not hold more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """A schedule, the network it is for, and the files that say it."""

    topology: Topology
    schedule: Schedule
    size_bytes: float
    contents: dict[str, bytes]


def export_of(
    collective: str,
    size: str,
    *,
    on: str,
    to: str,
    algorithm: str = "auto",
    link: str | None = None,
    latency: str | None = None,
    how: Program | None = None,
) -> Export:
    """Build and write a collective. Raises InputError for what cannot be built or written.

    ``auto`` tries the algorithms of the network and takes the fastest that the format can express.
    """
    if to not in SCHEDULE_FORMATS:
        raise UnknownNameError("schedule format", to, SCHEDULE_FORMATS, where="--to",
                               hint=f"one of {', '.join(SCHEDULE_FORMATS)}")  # fmt: skip
    if how is not None and how.executor not in EXECUTORS:
        raise UnknownNameError("executor", how.executor, EXECUTORS, where="--executor",
                               hint=f"one of {', '.join(EXECUTORS)}")  # fmt: skip
    kind = next((c for c in COLLECTIVES if c == collective.strip().lower().replace("_", "-")), None)
    if kind is None:
        raise UnknownNameError("collective", collective, COLLECTIVES,
                               hint=f"one of {', '.join(COLLECTIVES)}")  # fmt: skip
    size_bytes = parse_bytes(size, where="SIZE")
    topology = parse_topology(on, link=link, latency=latency, where="--on")
    names = algorithms_for(topology, kind) if algorithm == "auto" else (algorithm,)
    best: tuple[float, Schedule, dict[str, bytes]] | None = None
    refused: list[str] = []
    for name in names:
        try:
            made = build(topology, kind, name)
            flat = _flat(made)
            contents = write_schedule(flat, to, size_bytes, how)
        except InputError as error:
            if algorithm != "auto":
                raise
            refused.append(f"{name}: {error.what}")
            continue
        seconds = evaluate(topology, made, size_bytes).time_s if len(names) > 1 else 0.0
        if best is None or seconds < best[0]:
            best = (seconds, flat, contents)
    if best is None:
        raise InputError(f"no algorithm on `{topology.name}` can be written for {to}",
                         hint="; ".join(refused) or None)  # fmt: skip
    return Export(topology=topology, schedule=best[1], size_bytes=size_bytes, contents=best[2])


def _flat(made: Schedule | OrbitSchedule) -> Schedule:
    rows = made.flat_rows if isinstance(made, OrbitSchedule) else made.rows
    if rows > ROWS_MOST:
        raise InputError(f"{made.algorithm} has {rows:,} rows here, at most {ROWS_MOST:,} "
                         "can be written", hint="export it for fewer ranks")  # fmt: skip
    return expand(made) if isinstance(made, OrbitSchedule) else made
