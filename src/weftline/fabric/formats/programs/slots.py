"""Who holds which unit where: programs of executors run on names instead of numbers.

Readers of MSCCL and MSCCL++ files step through the program in an order it allows. Every place of a
buffer holds the name of a unit, the ranks whose contributions are in its value, the moves that
brought it, and those that read it since. What moves between ranks becomes rows; the order the data
needs becomes their steps. At the end the places where the collective's result belongs are looked
at: that proves the program itself, place by place; the checker then proves the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from weftline.errors import InputError
from weftline.fabric.schedule import Collective, Schedule

PLACES_MOST = 1 << 21
Place = tuple[int, str, int]
"""Rank, buffer (i, o, s), offset."""


@dataclass(slots=True)
class _Held:
    unit: int
    has: int
    """Ranks whose contributions are in the value, as bits."""
    brought: tuple[int, ...] = ()
    """Rows whose arrival made this value."""
    pending: int | None = None
    """The row that put it here and whose kind (reduce or copy) is not settled yet."""
    read: list[int] = field(default_factory=list)


@dataclass(slots=True)
class _Row:
    source: int
    destination: int
    unit: int
    has: int
    colour: int
    reduce: bool = False


class Slots:
    """The buffers of all ranks while a program runs. Raises InputError for what moves nothing.

    ``switches`` nodes beyond the ranks add up what comes to them and pass it to many.
    """

    def __init__(self, ranks: int, switches: int = 0) -> None:
        self.ranks = ranks
        self.switches = switches
        self.held: dict[Place, _Held] = {}
        self.named: Callable[[Place], Place] = lambda place: place
        """One name for places that are the same memory."""
        self.rows: list[_Row] = []
        self.after: list[tuple[int, int, int]] = []
        """(earlier row, later row, steps between them at least)."""

    def start(self, buffers: Buffers) -> None:
        """Every rank holds its input."""
        self.named = buffers.named
        for place, unit in buffers.start:
            self.held[place] = _Held(unit, 1 << place[0])

    def look(self, place: Place, where: str) -> _Held:
        """What lies at a place; raises InputError where nothing does."""
        held = self.held.get(place)
        if held is None:
            rank, buffer, offset = place
            raise InputError(f"rank {rank} reads {buffer}[{offset}], which holds nothing yet",
                             where=where)  # fmt: skip
        return held

    def holds(self, place: Place) -> bool:
        """Whether something lies at a place."""
        return place in self.held

    def send(self, place: Place, destination: int, colour: int, where: str) -> int:
        """A new row that carries what lies at a place."""
        held = self.look(place, where)
        held.pending = None
        number = len(self.rows)
        self.rows.append(_Row(place[0], destination, held.unit, held.has, colour))
        self.after += [(b, number, 1) for b in held.brought]
        held.read.append(number)
        return number

    def land(self, row: int, place: Place, *, pending: bool = False) -> None:
        """A row's unit is written over what lies at a place."""
        self._order_before(row, place, apart=1)
        came = self.rows[row]
        self.held[place] = _Held(came.unit, came.has, (row,), row if pending else None)

    def add(self, row: int, operand: Place, place: Place, where: str) -> None:
        """A row's unit is added to what lies at ``operand``, the sum written to ``place``."""
        own, came = self.look(operand, where), self.rows[row]
        has = _sum(own, came, place[0], where)
        self._order_before(row, place)
        came.reduce = True
        self.held[place] = _Held(own.unit, has, (*own.brought, row))

    def copy(self, source: Place, place: Place, where: str) -> None:
        """A local copy; nothing happens between two names of one place."""
        if source == place:
            return
        held = self.look(source, where)
        self._order_before(None, place)
        self.held[place] = _Held(held.unit, held.has, held.brought, held.pending)
        held.pending = None

    def reduce(self, source: Place, place: Place, where: str) -> None:
        """A local addition of what lies at ``source`` to ``place``."""
        self.total((place, source), place, where)

    def total(self, operands: Sequence[Place], place: Place, where: str) -> None:
        """The sum of what lies at ``operands``, written to ``place``.

        All but one of them must just have come from other ranks: those rows are reductions.
        """
        values = [self.look(operand, where) for operand in operands]
        base = next((v for v in values if v.pending is None), values[0])
        has, brought = base.has, list(base.brought)
        for extra in values:
            if extra is base:
                continue
            has = _sum(_Held(base.unit, has), extra, place[0], where)
            if extra.pending is None:
                raise InputError(
                    "a local sum whose parts did not just arrive from ranks has no row of ours",
                    where=where,
                )
            self.after += [(r, extra.pending, 0) for r in base.read]
            self.rows[extra.pending].reduce = True
            brought += extra.brought
        self.held[place] = _Held(base.unit, has, tuple(dict.fromkeys(brought)))

    def through(self, sources: Sequence[Place], hub: int, targets: Sequence[Place],
                where: str) -> None:  # fmt: skip
        """What a switch does in one go: add up the sources, write the sum to all targets.

        A single source is only copied. The switch is node ``ranks + hub`` of the rows.
        """
        node = self.ranks + hub
        first = self.look(sources[0], where)
        value = _Held(first.unit, 0)
        rows: list[int] = []
        for place in sources:
            value.has = _sum(value, self.look(place, where), place[0], where)
            row = self.send(place, node, 0, where)
            self.rows[row].reduce = len(sources) > 1
            rows.append(row)
        for place in targets:
            if place in sources and len(sources) == 1:
                continue
            number = len(self.rows)
            self.rows.append(_Row(node, place[0], value.unit, value.has, 0))
            self.after += [(row, number, 1) for row in rows]
            self._order_before(number, place, apart=1)
            self.held[place] = _Held(value.unit, value.has, (number,))

    def finish(self, collective: Collective, buffers: Buffers, where: str) -> None:
        """Raise InputError for the first place that lacks its unit or somebody's contribution."""
        wanted = buffers.end
        if collective == "send" and len({row.source for row in self.rows} - {
            row.destination for row in self.rows}) != 1:  # fmt: skip
            raise InputError("several ranks send and receive: that is no one send", where=where,
                             hint="ranks that exchange are read as an all-to-all")  # fmt: skip
        if collective == "broadcast":
            full = 1 << self._root()
            wanted = tuple((self.named((rank, "o", k)), k, full)
                           for rank in range(self.ranks) for k in range(buffers.units)
                           if rank != self._root())  # fmt: skip
        for place, unit, full in wanted:
            rank, buffer, offset = place
            held = self.held.get(place)
            name = f"the program ends with {buffer}[{offset}] of rank {rank}"
            if held is None:
                raise InputError(f"{name} empty, where unit {unit} belongs", where=where)
            if held.unit != unit:
                raise InputError(f"{name} holding unit {held.unit} instead of {unit}", where=where)
            lacks = full & ~held.has
            if lacks:
                first = (lacks & -lacks).bit_length() - 1
                more = lacks.bit_count() - 1
                raise InputError(
                    f"{name} lacking the contribution of rank {first}"
                    + (f" and {more} more" if more else ""),
                    where=where,
                )

    def _order_before(self, row: int | None, place: Place, *, apart: int = 0) -> None:
        """What read this place must not come after what is written now; writers ``apart`` before.

        Sums may come in one step, in any order; what is written over them comes after.
        """
        old = self.held.get(place)
        if old is not None and row is not None:
            self.after += [(r, row, 0) for r in old.read if r != row]
            self.after += [(b, row, apart) for b in old.brought if b != row]

    def schedule(
        self, collective: Collective, algorithm: str, units: int, per_rank: int, root: int = 0
    ) -> Schedule:
        """The rows with their steps, ranges of neighbouring units joined."""
        step = self._steps()
        order = sorted(
            range(len(self.rows)),
            key=lambda i: (step[i], self.rows[i].colour, self.rows[i].source,
                           self.rows[i].destination, self.rows[i].reduce, self.rows[i].unit),
        )  # fmt: skip
        joined: list[list[int]] = []
        for i in order:
            row = self.rows[i]
            key = [int(step[i]), row.source, row.destination, row.unit, 1, int(row.reduce),
                   row.colour]  # fmt: skip
            last = joined[-1] if joined else None
            if last and last[:3] == key[:3] and last[5:] == key[5:] and last[3] + last[4] == key[3]:
                last[4] += 1
            else:
                joined.append(key)
        table = np.asarray(joined, dtype=np.int64).reshape(-1, 7)
        owner, target = _ends(collective, units, per_rank, self.ranks)
        if collective in ("broadcast", "send"):
            root = self._root()
        if collective == "send":
            final = next((r.destination for r in self.rows
                         if all(o.source != r.destination for o in self.rows)), root)  # fmt: skip
            target = np.full(units, final, dtype=np.int64)
        share = np.full(units, 1.0 / units)
        if collective == "all-to-all":
            share = np.full(units, self.ranks / units)
        one_colour = len(set(table[:, 6].tolist())) > 1 and not _colours_apart(self.rows)
        return Schedule(
            collective=collective, algorithm=algorithm, ranks=self.ranks, step=table[:, 0],
            source=table[:, 1], destination=table[:, 2], first_chunk=table[:, 3],
            chunk_count=table[:, 4], reduce=table[:, 5].astype(np.bool_),
            colour=np.zeros_like(table[:, 6]) if one_colour else table[:, 6],
            share=share, owner=owner, target=target, root=root, switches=self.switches,
        )  # fmt: skip

    def _root(self) -> int:
        """The files name no root: it is who sends and gets nothing."""
        reached = {row.destination for row in self.rows}
        return next((row.source for row in self.rows if row.source not in reached), 0)

    def _steps(self) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """[rows] the least steps that keep every order; orders never run in a circle."""
        step = np.zeros(len(self.rows), dtype=np.int64)
        if not self.after:
            return step
        pairs = np.unique(np.asarray(self.after, dtype=np.int64), axis=0)
        for _ in range(len(self.rows) + 1):
            found = step.copy()
            np.maximum.at(found, pairs[:, 1], step[pairs[:, 0]] + pairs[:, 2])
            if (found == step).all():
                return step
            step = found
        raise InputError("the program's own order runs in a circle")


def _sum(own: _Held, extra: _Held | _Row, rank: int, where: str) -> int:
    """The contributions in a sum of two values; InputError where it is none of ours."""
    if extra.unit != own.unit:
        raise InputError(f"rank {rank} adds unit {extra.unit} to unit {own.unit}", where=where)
    twice = own.has & extra.has
    if twice:
        first = (twice & -twice).bit_length() - 1
        raise InputError(
            f"rank {rank} adds the contribution of rank {first} to unit {own.unit} a second time",
            where=where,
        )
    return own.has | extra.has


def _colours_apart(rows: list[_Row]) -> bool:
    seen: dict[int, int] = {}
    return all(seen.setdefault(r.unit, r.colour) == r.colour for r in rows)


def _ends(
    collective: Collective, units: int, per_rank: int, ranks: int
) -> tuple[np.ndarray[tuple[int], np.dtype[np.int64]] | None,
           np.ndarray[tuple[int], np.dtype[np.int64]] | None]:  # fmt: skip
    """Owner and target of each unit as the collective numbers them."""
    every = np.arange(units, dtype=np.int64)
    if collective in ("all-gather", "reduce-scatter"):
        return every // per_rank, None
    if collective == "all-to-all":
        return every // (ranks * per_rank), every // per_rank % ranks
    return None, None


def alias(
    collective: Collective, inputs: int, per_rank: int, *, in_place: bool
) -> Callable[[Place], Place]:
    """One name for places that are the same memory: in-place programs have one buffer, not two.

    As NCCL has it: the input of an all-gather is its part of the output, the output of a
    reduce-scatter its part of the input, and the buffers of the others are the same.
    """
    if not in_place:
        return lambda place: place

    def named(place: Place) -> Place:
        rank, buffer, offset = place
        if collective == "all-gather" and buffer == "i" and offset < inputs:
            return rank, "o", rank * inputs + offset
        if collective == "reduce-scatter" and buffer == "o" and offset < per_rank:
            return rank, "i", rank * per_rank + offset
        if collective not in ("all-gather", "reduce-scatter") and buffer == "o":
            return rank, "i", offset
        return place

    return named


@dataclass(frozen=True, slots=True, kw_only=True)
class Buffers:
    """What a collective's buffers hold at the start and must hold at the end."""

    units: int
    per_rank: int
    """Units of one rank's part."""
    start: tuple[tuple[Place, int], ...]
    end: tuple[tuple[Place, int, int], ...]
    """Place, unit, contributions as bits; empty where the file does not say who gets what."""
    named: Callable[[Place], Place]


def buffers_of(collective: Collective, ranks: int, inputs: int, *, in_place: bool) -> Buffers:
    """The buffers of a collective with ``inputs`` units of input on each rank.

    Raises InputError for more units than can be followed.
    """
    if not 1 <= inputs <= PLACES_MOST // max(ranks, 1):
        raise InputError(f"{inputs} units of input on each of {ranks} ranks",
                         hint=f"from 1, and at most {PLACES_MOST:,} together")  # fmt: skip
    whole = ranks * inputs if collective in ("all-gather", "all-to-all") else inputs
    part = inputs // ranks if collective in ("reduce-scatter", "all-to-all") else inputs
    named = alias(collective, inputs, part, in_place=in_place)
    start = [
        (named((rank, "i", k)), rank * inputs + k if whole > inputs or ranks == 1 else k)
        for rank in range(ranks) for k in range(inputs)
    ]  # fmt: skip
    end = ((named(place), unit, full) for place, unit, full in _end(collective, ranks, inputs))
    return Buffers(units=whole, per_rank=part, start=tuple(start), end=tuple(end), named=named)


def _end(collective: Collective, ranks: int, inputs: int) -> Iterator[tuple[Place, int, int]]:
    everyone = (1 << ranks) - 1
    part = inputs // ranks
    for rank in range(ranks):
        if collective == "all-reduce":
            yield from (((rank, "o", k), k, everyone) for k in range(inputs))
        elif collective == "reduce-scatter":
            first = rank * part
            yield from (((rank, "o", k), first + k, everyone) for k in range(part))
        elif collective == "all-gather":
            yield from (((rank, "o", u), u, 1 << u // inputs) for u in range(ranks * inputs))
        elif collective == "all-to-all":
            for sender in range(ranks):
                first = sender * inputs + rank * part
                yield from (
                    ((rank, "o", sender * part + k), first + k, 1 << sender) for k in range(part)
                )
