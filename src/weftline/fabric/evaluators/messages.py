"""From rows to messages: what travels together, over which links, and what waits for what.

Rows of one step, colour, source, destination and path are one message. A message waits for data:
every message of an earlier step that brings its source a chunk it sends. And it waits for its
turn: the connection (colour, source, destination, path) sends in the order of the steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from weftline.errors import InputError
from weftline.fabric.graph import FloatArray, IntArray, Topology
from weftline.fabric.routing import Routes, routes, schedule_routes
from weftline.fabric.schedule import Schedule

MAX_PLACES = 400_000_000
"""Chunks times ranks up to which data dependencies are worked out (4 bytes each)."""


@dataclass(frozen=True, slots=True, eq=False)
class Waiting:
    """Who waits for whom: pairs of messages in compressed rows, and the turn on a connection."""

    data_start: IntArray
    """[messages + 1] into ``data_next``: who waits for the data of each message."""
    data_next: IntArray
    data_missing: IntArray
    """[messages] how many messages each waits for."""
    turn_next: IntArray
    """[messages] the next one on the same connection, -1: none."""
    turn_missing: IntArray


@dataclass(frozen=True, slots=True, eq=False)
class Messages:
    """The messages of a schedule on a network, sorted by step."""

    fraction: FloatArray
    """[messages] share of the buffer."""
    step: IntArray
    colour: IntArray
    source: IntArray
    destination: IntArray
    routes: Routes
    waiting: Waiting
    of_row: IntArray
    """[rows] the message of each row."""


def messages_of(topology: Topology, schedule: Schedule) -> Messages:
    """The messages of a flat schedule. Raises InputError for rows that do not fit the network."""
    schedule.check_form(topology)
    path = _path_numbers(schedule)
    columns = [schedule.step, schedule.colour, schedule.source, schedule.destination, path]
    order = np.lexsort(columns[::-1])
    sorted_columns = [np.asarray(c)[order] for c in columns]
    new = np.ones(schedule.rows, dtype=np.bool_)
    if schedule.rows:
        new[1:] = np.any([c[1:] != c[:-1] for c in sorted_columns], axis=0)
    number = np.cumsum(new) - 1
    count = int(number[-1]) + 1 if schedule.rows else 0
    fraction = np.bincount(number, weights=schedule.fractions()[order], minlength=count)
    step, colour, source, destination, path = (c[new] for c in sorted_columns)
    if schedule.path_links is None:
        taken = routes(topology, source, destination)
    else:
        taken = _rows_of(schedule_routes(topology, schedule), order[new])
    turn_next, turn_missing = turns([colour, source, destination, path], step)
    before, after = _data_pairs(schedule, order, number)
    data_start, data_next, data_missing = compress(before, after, count)
    of_row = np.empty(schedule.rows, dtype=np.int64)
    of_row[order] = number
    waiting = Waiting(data_start, data_next, data_missing, turn_next, turn_missing)
    return Messages(
        fraction.astype(np.float64), step, colour, source, destination, taken, waiting, of_row
    )


def compress(before: IntArray, after: IntArray, count: int) -> tuple[IntArray, IntArray, IntArray]:
    """Pairs as (start of each ``before``'s list, the lists, how many each ``after`` waits for)."""
    by_first = np.argsort(before, kind="stable")
    start = np.zeros(count + 1, dtype=np.int64)
    start[1:] = np.cumsum(np.bincount(before, minlength=count))
    missing = np.bincount(after, minlength=count).astype(np.int64)
    return start, after[by_first].astype(np.int64), missing


def turns(connection: list[IntArray], step: IntArray) -> tuple[IntArray, IntArray]:
    """(the next message of the same connection or -1, whether one goes before)."""
    count = len(step)
    following, missing = np.full(count, -1, dtype=np.int64), np.zeros(count, dtype=np.int64)
    if count == 0:
        return following, missing
    order = np.lexsort([step, *connection])
    same = np.all([np.asarray(c)[order[1:]] == np.asarray(c)[order[:-1]] for c in connection], 0)
    following[order[:-1][same]] = order[1:][same]
    missing[order[1:][same]] = 1
    return following, missing


def _path_numbers(schedule: Schedule) -> IntArray:
    """[rows] equal where two rows take the same links."""
    if schedule.path_start is None or schedule.path_links is None:
        return np.zeros(schedule.rows, dtype=np.int64)
    start = np.asarray(schedule.path_start)
    hops = np.diff(start)
    width = int(hops.max()) if len(hops) else 0
    table = np.full((schedule.rows, width), -1, dtype=np.int64)
    place = np.arange(len(schedule.path_links)) - np.repeat(start[:-1], hops)
    table[np.repeat(np.arange(schedule.rows), hops), place] = schedule.path_links
    _, number = np.unique(table, axis=0, return_inverse=True)
    return np.asarray(number, dtype=np.int64).reshape(-1)


def _rows_of(taken: Routes, rows: IntArray) -> Routes:
    hops = np.diff(taken.start)[rows]
    start = np.concatenate([[0], np.cumsum(hops)])
    index = np.arange(start[-1]) - np.repeat(start[:-1] - taken.start[rows], hops)
    return Routes(start, taken.links[index], taken.weights[index], taken.latency_s[rows])


def _data_pairs(schedule: Schedule, order: IntArray, number: IntArray) -> tuple[IntArray, IntArray]:
    if schedule.steps <= 1:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    from weftline.fabric.kernels import evaluate as kernels

    if schedule.nodes * schedule.chunks > MAX_PLACES:
        raise InputError(
            f"{schedule.chunks:,} chunks on {schedule.nodes:,} ranks are too many to time one by "
            "one",
            hint="the orbit evaluator times symmetric schedules from one chip's rows",
        )
    args = (
        number, schedule.step[order], schedule.source[order], schedule.destination[order],
        schedule.first_chunk[order], schedule.chunk_count[order], schedule.nodes, schedule.chunks,
    )  # fmt: skip
    none = np.zeros(0, np.int64)
    found = kernels.waits(*args, none, none)
    before, after = np.empty(found, np.int64), np.empty(found, np.int64)
    if found:
        kernels.waits(*args, before, after)
    return before, after
