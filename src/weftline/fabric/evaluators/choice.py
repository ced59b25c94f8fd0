"""Which evaluator answers: the one asked for, or the cheapest that is exact."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from weftline.errors import InputError, UnknownNameError
from weftline.fabric.evaluators.closed_form import closed_form
from weftline.fabric.evaluators.events import event_time
from weftline.fabric.evaluators.flow import Background, flow_time
from weftline.fabric.evaluators.orbit import applies, orbit_time
from weftline.fabric.evaluators.steps import exchange_time, is_exchange, step_time
from weftline.fabric.evaluators.timing import Timing
from weftline.fabric.graph import Topology
from weftline.fabric.orbit import OrbitSchedule, expand
from weftline.fabric.schedule import Schedule

MAX_FLAT_PIECES = 8_000_000
"""Chunks moved up to which a schedule is written out to follow it message by message."""
MAX_FLAT_EXCHANGE = 20_000
"""Messages of an all-to-all that are followed one by one: all of them share links with all."""
EVALUATORS: Final = ("auto", "closed-form", "orbit", "flow", "steps", "events")


def evaluate(
    topology: Topology,
    schedule: Schedule | OrbitSchedule,
    size_bytes: float,
    how: str = "auto",
    background: Sequence[Background] = (),
) -> Timing:
    """Time of a schedule on a network for a buffer of ``size_bytes`` (nccl-tests' size).

    ``auto`` takes the formula where one is exact for a schedule kept as one chip's rows, the orbit
    evaluator where the network has the schedule's symmetry, else max-min fair flow, and for
    schedules too large to be written out the estimate by steps; the answer names the one used and
    whether it is exact. Raises UnknownNameError for any other ``how``, InputError where one does
    not apply.
    """
    if how not in EVALUATORS:
        raise UnknownNameError("evaluator", how, EVALUATORS)
    if not size_bytes >= 0:
        raise InputError(f"a collective of {size_bytes:g} bytes", hint="sizes are 0 or more")
    if background and how not in ("auto", "flow"):
        raise InputError(
            f"evaluator `{how}` knows no other tenants", hint="`flow` shares links with them"
        )
    if how == "auto":
        return _cheapest(topology, schedule, size_bytes, background)
    if how == "closed-form":
        found = closed_form(topology, schedule, size_bytes)
        if found is None:
            raise InputError(
                f"no formula is exact for {schedule.algorithm} {schedule.collective} on "
                f"`{topology.name}`",
                hint="leave the evaluator to `auto`",
            )
        return found
    if how in ("orbit", "steps"):
        if not isinstance(schedule, OrbitSchedule):
            raise InputError(
                f"the {how} evaluator needs a schedule kept as one chip's rows; this "
                f"{schedule.algorithm} is written out",
                hint="evaluate it with `flow`",
            )
        if how == "orbit":
            return orbit_time(topology, schedule, size_bytes)
        return _by_steps(topology, schedule, size_bytes)
    flat = expand(schedule) if isinstance(schedule, OrbitSchedule) else schedule
    if how == "events":
        return event_time(topology, flat, size_bytes)
    return flow_time(topology, flat, size_bytes, background)


def _cheapest(
    topology: Topology,
    schedule: Schedule | OrbitSchedule,
    size_bytes: float,
    background: Sequence[Background],
) -> Timing:
    if not isinstance(schedule, OrbitSchedule):
        return flow_time(topology, schedule, size_bytes, background)
    formula = None if background else closed_form(topology, schedule, size_bytes)
    if formula is not None and formula.exact:
        return formula
    if not background and applies(topology, schedule):
        return orbit_time(topology, schedule, size_bytes)
    if not background and _is_large(schedule):
        return _by_steps(topology, schedule, size_bytes)
    return flow_time(topology, expand(schedule), size_bytes, background)


def _by_steps(topology: Topology, orbit: OrbitSchedule, size_bytes: float) -> Timing:
    if is_exchange(orbit):
        return exchange_time(topology, size_bytes)
    return step_time(topology, orbit, size_bytes)


def _is_large(orbit: OrbitSchedule) -> bool:
    """Whether following every message would take minutes."""
    if is_exchange(orbit):
        return orbit.flat_rows > MAX_FLAT_EXCHANGE
    if orbit.piece is not None:
        return len(orbit.piece) * orbit.ranks > MAX_FLAT_PIECES
    whole = np.where(orbit.whole, np.asarray(orbit.grid.shape), 1).prod(axis=1)
    return int(whole.sum()) * orbit.ranks > MAX_FLAT_PIECES
