"""Schedules cut into equal units, and the order their rows must keep: what exporters stand on.

Executors know buffers of equal pieces. A chunk of another size becomes several pieces; a range of
chunks may become several runs, because all-gather and reduce-scatter want a rank's own pieces
together and all-to-all those for one target.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import groupby
from typing import Literal

import numpy as np

from weftline.errors import InputError
from weftline.fabric.graph import IntArray
from weftline.fabric.orbit import OrbitSchedule, expand
from weftline.fabric.schedule import Schedule

UNITS_MOST = 1 << 16
"""Pieces an executor's buffer is cut into at most."""
Slot = tuple[str, int]
"""A buffer (i, o or s) and an offset in units."""
Copy = tuple[int, Slot, Slot, int]
"""Rank, from, to, units: a copy within one rank."""


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
    in_place: bool
    """Whether input and output are one buffer."""
    before: tuple[Copy, ...] = ()
    """Copies within a rank before its moves."""
    after: tuple[Copy, ...] = ()
    """Copies within a rank after all its moves."""


def in_units(schedule: Schedule | OrbitSchedule, *, in_place: bool = True) -> Units:
    """Cut a schedule into equal units; raises InputError where switches take part.

    In place, all-reduce, reduce-scatter and broadcast work in the input buffer and all-gather in
    the output. Out of place a rank first copies its input to where the work is done: to the output,
    for a reduce-scatter to scratch. All-to-all always has two buffers.
    """
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
    if flat.collective == "send" and not in_place:
        raise InputError("a send has no second buffer", hint="write it in place")
    place = _places(flat, each, total)
    own = total // flat.ranks
    buffer = "o" if flat.collective == "all-gather" else "i"
    if not in_place:
        buffer = "s" if flat.collective == "reduce-scatter" else "o"
    moves: list[Move] = []
    for row in _in_order(flat):
        low = int(first[flat.first_chunk[row]])
        high = int(first[flat.first_chunk[row] + flat.chunk_count[row]])
        for a, b in _runs(np.sort(place[low:high])):
            moves.append(_move(flat, row, (buffer, a), (buffer, a), (a, b)))
    before, after = ((), ()) if in_place else _around(flat, buffer, total, own)
    return Units(
        schedule=flat, total=total, buffer_units=total,
        input_units=own if flat.collective == "all-gather" else total,
        output_units=own if flat.collective == "reduce-scatter" else total,
        moves=tuple(moves), in_place=in_place, before=before, after=after,
        scratch_units=np.full(flat.ranks, total if buffer == "s" else 0, dtype=np.int64),
    )  # fmt: skip


def in_instances(flat: Schedule, instances: int) -> Schedule:
    """The schedule as ``instances`` of itself side by side, each on an even share of every chunk.

    Each instance has colours, and so channels and thread blocks, of its own.
    """
    if instances == 1:
        return flat
    colours = int(flat.colour.max(initial=0)) + 1

    def repeated(values: IntArray, shift: int) -> IntArray:
        return np.concatenate([values + i * shift for i in range(instances)])

    def tiled(values: IntArray | None) -> IntArray | None:
        return None if values is None else np.tile(values, instances)

    order = np.argsort(np.tile(flat.step, instances), kind="stable")
    return replace(
        flat, share=np.tile(flat.share, instances) / instances, owner=tiled(flat.owner),
        target=tiled(flat.target), path_start=None, path_links=None,
        step=np.tile(flat.step, instances)[order],
        source=np.tile(flat.source, instances)[order],
        destination=np.tile(flat.destination, instances)[order],
        chunk_count=np.tile(flat.chunk_count, instances)[order],
        reduce=np.tile(flat.reduce, instances)[order],
        first_chunk=repeated(flat.first_chunk, flat.chunks)[order],
        colour=repeated(flat.colour, colours)[order],
    )  # fmt: skip


def _around(
    flat: Schedule, buffer: str, total: int, own: int
) -> tuple[tuple[Copy, ...], tuple[Copy, ...]]:
    """Out of place: what each rank copies to where the work is done, and what from there."""
    if flat.collective == "all-gather":
        first = ((r, ("i", 0), (buffer, r * own), own) for r in range(flat.ranks))
    elif flat.collective == "broadcast":
        first = ((r, ("i", 0), (buffer, 0), total) for r in (flat.root,))
    else:
        first = ((r, ("i", 0), (buffer, 0), total) for r in range(flat.ranks))
    if flat.collective != "reduce-scatter":
        return tuple(first), ()
    return tuple(first), tuple((r, (buffer, r * own), ("o", 0), own) for r in range(flat.ranks))


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
        output_units=ranks * per, moves=tuple(moves), scratch_units=used, in_place=False,
        before=kept,
    )  # fmt: skip


def _follows(first: Slot, second: Slot, count: int) -> bool:
    return first[0] == second[0] and first[1] + count == second[1]


@dataclass(slots=True)
class Event:
    """One thing one rank does: send, land (receive) or copy, and what must be done there before."""

    kind: Literal["send", "land", "copy"]
    rank: int
    here: Slot
    there: Slot
    count: int
    move: Move | None = None
    after: tuple[int, ...] = ()
    """Events of the same rank, by number."""


def events_of(units: Units, *, most: int = UNITS_MOST) -> list[Event]:
    """Everything ranks do, in an order that can be run; moves and copies of at most ``most`` units.

    A send waits for what brought the units it reads; what lands or is copied waits for those that
    read or wrote its place before. Sends of a step come before what lands in it: a row sees what
    earlier steps brought, nothing of its own step.
    """
    found: list[Event] = []
    places = _Places()

    def add(event: Event, reads: Slot | None, writes: Slot | None, *, adds: bool = False) -> None:
        number = len(found)
        before: set[int] = set()
        if reads is not None:
            before |= places.read(number, event.rank, reads, event.count)
        if writes is not None:
            before |= places.write(number, event.rank, writes, event.count, adds=adds)
        event.after = tuple(sorted(before - {number}))
        found.append(event)

    def copy(entries: tuple[Copy, ...]) -> None:
        for rank, here, there, count in entries:
            for at, size in _cut(count, most):
                a, b = (here[0], here[1] + at), (there[0], there[1] + at)
                add(Event("copy", rank, a, b, size), a, b)

    copy(units.before)
    for _, group in groupby(units.moves, key=lambda m: m.step):
        pieces = [piece for move in group for piece in _pieces(move, most)]
        for move in pieces:
            event = Event("send", move.source, move.from_slot, move.to_slot, move.count, move)
            add(event, move.from_slot, None)
        for move in pieces:
            event = Event("land", move.destination, move.from_slot, move.to_slot, move.count, move)
            add(event, None, move.to_slot, adds=move.reduce)
    copy(units.after)
    return found


def _cut(count: int, most: int) -> Iterator[tuple[int, int]]:
    """(first, size) of pieces of at most ``most``."""
    return ((at, min(most, count - at)) for at in range(0, count, most))


def _pieces(move: Move, most: int) -> Iterator[Move]:
    if move.count <= most:
        yield move
        return
    for at, size in _cut(move.count, most):
        first = move.units[0] + at
        yield replace(
            move, count=size, units=(first, first + size),
            from_slot=(move.from_slot[0], move.from_slot[1] + at),
            to_slot=(move.to_slot[0], move.to_slot[1] + at),
        )  # fmt: skip


class _Places:
    """Who last wrote each place, and who has read it since."""

    def __init__(self) -> None:
        self.writers: dict[tuple[int, str, int], list[int]] = {}
        self.readers: dict[tuple[int, str, int], list[int]] = {}

    def read(self, number: int, rank: int, slot: Slot, count: int) -> set[int]:
        """What must be done before; the place is read by ``number`` from now on."""
        found: set[int] = set()
        for key in _keys(rank, slot, count):
            found.update(self.writers.get(key, ()))
            self.readers.setdefault(key, []).append(number)
        return found

    def write(self, number: int, rank: int, slot: Slot, count: int, *, adds: bool) -> set[int]:
        """What must be done before; an addition keeps those that brought what it adds to."""
        found: set[int] = set()
        for key in _keys(rank, slot, count):
            found.update(self.readers.pop(key, ()))
            held = self.writers.setdefault(key, [])
            found.update(held)
            if not adds:
                held.clear()
            held.append(number)
        return found


def _keys(rank: int, slot: Slot, count: int) -> Iterator[tuple[int, str, int]]:
    buffer, first = slot
    return ((rank, buffer, u) for u in range(first, first + count))
