"""Schedules cut into equal units, and the order their rows must keep: what exporters stand on.

Executors know buffers of equal pieces. A chunk of another size becomes several pieces; a range of
chunks may become several runs, because all-gather and reduce-scatter want a rank's own pieces
together and all-to-all those for one target.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from weftline.errors import InputError
from weftline.fabric.graph import IntArray
from weftline.fabric.orbit import OrbitSchedule, expand
from weftline.fabric.schedule import Schedule

UNITS_MOST = 1 << 16
"""Pieces an executor's buffer is cut into at most."""
Slot = tuple[str, int]
"""A buffer (i, o or s) and an offset in units."""


@dataclass(frozen=True, slots=True)
class Move:
    """Units that one row moves together: their place at the source and at the destination."""

    row: int
    step: int
    source: int
    destination: int
    colour: int
    reduce: bool
    count: int
    from_slot: Slot
    to_slot: Slot
    units: tuple[int, int]
    """First unit and one past the last, as positions of the plan."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Units:
    """A schedule in equal units, each at its place in the executor's buffers."""

    schedule: Schedule
    total: int
    """Units of the buffer (of all ranks' parts together for all-to-all)."""
    buffer_units: int
    """Units of the largest of input and output of one rank."""
    input_units: int
    output_units: int
    moves: tuple[Move, ...]
    """In the order of steps."""
    scratch_units: IntArray
    """[ranks] units of scratch that each rank needs."""
    local_copies: tuple[tuple[int, Slot, Slot, int], ...] = ()
    """All-to-all: what each rank keeps: rank, from, to, units."""


def in_units(schedule: Schedule | OrbitSchedule) -> Units:
    """Cut a schedule into equal units; raises InputError where switches take part."""
    flat = expand(schedule) if isinstance(schedule, OrbitSchedule) else schedule
    if flat.switches:
        raise InputError(
            f"{flat.algorithm} adds up in the switch, which this format has no rows for",
            hint="export another algorithm: ring, double-binary-tree, halving-doubling",
        )
    each = _units_of(flat)
    first = np.concatenate([[0], np.cumsum(each)])
    total = int(first[-1])
    if flat.collective == "all-to-all":
        return _exchange(flat, each, first)
    place = _places(flat, each, total)
    buffer = "o" if flat.collective == "all-gather" else "i"
    moves: list[Move] = []
    for row in _in_order(flat):
        low = int(first[flat.first_chunk[row]])
        high = int(first[flat.first_chunk[row] + flat.chunk_count[row]])
        for a, b in _runs(np.sort(place[low:high])):
            moves.append(_move(flat, row, (buffer, a), (buffer, a), (a, b)))
    own = total // flat.ranks
    return Units(
        schedule=flat, total=total, buffer_units=total,
        input_units=own if flat.collective == "all-gather" else total,
        output_units=own if flat.collective == "reduce-scatter" else total,
        moves=tuple(moves), scratch_units=np.zeros(flat.ranks, dtype=np.int64),
    )  # fmt: skip


def _move(flat: Schedule, row: int, here: Slot, there: Slot, units: tuple[int, int]) -> Move:
    return Move(
        row, int(flat.step[row]), int(flat.source[row]), int(flat.destination[row]),
        int(flat.colour[row]), bool(flat.reduce[row]), units[1] - units[0], here, there, units,
    )  # fmt: skip


def _in_order(flat: Schedule) -> list[int]:
    return [int(r) for r in np.argsort(flat.step, kind="stable")]


def _units_of(flat: Schedule) -> IntArray:
    """[chunks] equal units in each chunk, as few as the shares allow."""
    shares = [Fraction(float(s)).limit_denominator(UNITS_MOST) for s in flat.share]
    scale = math.lcm(*(s.denominator for s in shares)) if shares else 1
    counts = [int(s * scale) for s in shares]
    common = math.gcd(*counts) or 1
    counts = [c // common for c in counts]
    sent = math.fsum(float(s) for s in flat.share)
    # Of all-to-all every owner's chunks sum to one buffer.
    off = max(
        (abs(c / sum(counts) - s / sent) * sent for c, s in zip(counts, flat.share, strict=True)),
        default=0.0,
    )
    if min(counts, default=1) < 1 or sum(counts) > UNITS_MOST * flat.ranks or off > 1e-6:
        raise InputError(
            f"the chunks of {flat.algorithm} have no common unit below 1/{UNITS_MOST}",
            hint="executors know equal pieces only: take an algorithm of equal chunks",
        )
    return np.asarray(counts, dtype=np.int64)


def _places(flat: Schedule, each: IntArray, total: int) -> IntArray:
    """[units] position in the buffer: a rank's own units together where it owns some."""
    if flat.collective not in ("all-gather", "reduce-scatter") or flat.owner is None:
        return np.arange(total, dtype=np.int64)
    owner = np.repeat(flat.owner, each)
    counts = np.bincount(owner, minlength=flat.ranks)
    if len(set(counts.tolist())) != 1:
        raise InputError(f"{flat.algorithm} gives ranks parts of unequal size",
                         hint="executors know equal parts only")  # fmt: skip
    place = np.empty(total, dtype=np.int64)
    place[np.argsort(owner, kind="stable")] = np.arange(total)
    return place


def _runs(places: Sequence[int] | IntArray) -> Iterator[tuple[int, int]]:
    """Runs of consecutive numbers in sorted places, as (first, one past the last)."""
    values = np.asarray(places)
    cuts = np.flatnonzero(np.diff(values) != 1) + 1
    for part in np.split(values, cuts):
        yield int(part[0]), int(part[-1]) + 1


def _exchange(flat: Schedule, each: IntArray, first: IntArray) -> Units:
    """All-to-all: input by target, output by sender, scratch for what is only passing through."""
    if flat.owner is None or flat.target is None:
        raise InputError("an all-to-all schedule without owner and target")
    ranks = flat.ranks
    pair = flat.owner * ranks + flat.target
    filled = np.bincount(pair, weights=each, minlength=ranks * ranks)
    others = filled.reshape(ranks, ranks)[~np.eye(ranks, dtype=np.bool_)]
    if len(set(others.tolist())) > 1:
        raise InputError(f"{flat.algorithm} sends unequal parts", hint="equal parts are needed")
    per = int(others[0]) if len(others) else int(each.sum())
    within = np.zeros(len(each), dtype=np.int64)
    fill: dict[int, int] = {}
    for chunk, key in enumerate(pair.tolist()):
        within[chunk] = fill.get(key, 0)
        fill[key] = int(within[chunk] + each[chunk])
    scratch: list[dict[int, int]] = [{} for _ in range(ranks)]
    used = np.zeros(ranks, dtype=np.int64)

    def slot(rank: int, chunk: int) -> Slot:
        owner, target = int(flat.owner[chunk]), int(flat.target[chunk])  # type: ignore[index]
        if rank == owner:
            return "i", target * per + int(within[chunk])
        if rank == target:
            return "o", owner * per + int(within[chunk])
        if chunk not in scratch[rank]:
            scratch[rank][chunk] = int(used[rank])
            used[rank] += int(each[chunk])
        return "s", scratch[rank][chunk]

    moves: list[Move] = []
    for row in _in_order(flat):
        s, d = int(flat.source[row]), int(flat.destination[row])
        low = int(flat.first_chunk[row])
        for chunk in range(low, low + int(flat.chunk_count[row])):
            units = (int(first[chunk]), int(first[chunk]) + int(each[chunk]))
            here, there = slot(s, chunk), slot(d, chunk)
            last = moves[-1] if moves and moves[-1].row == row else None
            if last and _follows(last.from_slot, here, last.count) and _follows(
                last.to_slot, there, last.count) and last.units[1] == units[0]:  # fmt: skip
                joined = (last.units[0], units[1])
                moves[-1] = _move(flat, row, last.from_slot, last.to_slot, joined)
            else:
                moves.append(_move(flat, row, here, there, units))
    kept = tuple((r, ("i", r * per), ("o", r * per), per) for r in range(ranks))
    return Units(
        schedule=flat, total=int(first[-1]), buffer_units=ranks * per, input_units=ranks * per,
        output_units=ranks * per, moves=tuple(moves), scratch_units=used, local_copies=kept,
    )  # fmt: skip


def _follows(first: Slot, second: Slot, count: int) -> bool:
    return first[0] == second[0] and first[1] + count == second[1]


def prerequisites(units: Units) -> tuple[list[list[int]], list[list[int]]]:
    """What each move must wait for: at its source before sending, then before landing.

    Both are lists of moves. Before sending: those that brought what it sends. Before landing, at
    the destination: those that read or wrote the same place before. ``moves`` are in order of
    steps, and a row sees what earlier steps of its colour brought, nothing of its own step.
    """
    writers: dict[tuple[int, str, int], list[int]] = {}
    readers: dict[tuple[int, str, int], list[int]] = {}
    send: list[list[int]] = [[] for _ in units.moves]
    land: list[list[int]] = [[] for _ in units.moves]
    at = 0
    while at < len(units.moves):
        end = at
        while end < len(units.moves) and units.moves[end].step == units.moves[at].step:
            end += 1
        for i in range(at, end):
            move = units.moves[i]
            found: set[int] = set()
            for key in _keys(move.source, move.from_slot, move.count):
                found.update(writers.get(key, ()))
                readers.setdefault(key, []).append(i)
            send[i] = sorted(found)
        for i in range(at, end):
            move = units.moves[i]
            found = set()
            for key in _keys(move.destination, move.to_slot, move.count):
                found.update(readers.pop(key, ()))
                held = writers.setdefault(key, [])
                found.update(held)
                if not move.reduce:
                    held.clear()
                held.append(i)
            land[i] = sorted(found - {i})
        at = end
    return send, land


def _keys(rank: int, slot: Slot, count: int) -> Iterator[tuple[int, str, int]]:
    buffer, first = slot
    return ((rank, buffer, u) for u in range(first, first + count))
