"""Who holds which unit where: programs of executors run on names instead of numbers.

Readers of MSCCL and MSCCL++ files step through the program in an order it allows. Every place of a
buffer holds the name of a unit, the moves that brought its value, and the moves that read it since.
What moves between ranks becomes rows; the order the data needs becomes their steps.
"""

from __future__ import annotations

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
    colour: int
    reduce: bool = False


class Slots:
    """The buffers of all ranks while a program runs. Raises InputError for what moves nothing."""

    def __init__(self, ranks: int) -> None:
        self.ranks = ranks
        self.held: dict[Place, _Held] = {}
        self.rows: list[_Row] = []
        self.after: list[tuple[int, int, int]] = []
        """(earlier row, later row, steps between them at least)."""

    def fill(self, place: Place, unit: int) -> None:
        """A rank starts with this unit here."""
        self.held[place] = _Held(unit)

    def look(self, place: Place, where: str) -> _Held:
        """What lies at a place; raises InputError where nothing does."""
        held = self.held.get(place)
        if held is None:
            rank, buffer, offset = place
            raise InputError(f"rank {rank} reads {buffer}[{offset}], which holds nothing yet",
                             where=where)  # fmt: skip
        return held

    def send(self, place: Place, destination: int, colour: int, where: str) -> int:
        """A new row that carries what lies at a place."""
        held = self.look(place, where)
        held.pending = None
        number = len(self.rows)
        self.rows.append(_Row(place[0], destination, held.unit, colour))
        self.after += [(b, number, 1) for b in held.brought]
        held.read.append(number)
        return number

    def land(self, row: int, place: Place, *, pending: bool = False) -> None:
        """A row's unit is written over what lies at a place."""
        self._order_before(row, place, apart=1)
        self.held[place] = _Held(self.rows[row].unit, (row,), row if pending else None)

    def add(self, row: int, operand: Place, place: Place, where: str) -> None:
        """A row's unit is added to what lies at ``operand``, the sum written to ``place``."""
        own = self.look(operand, where)
        if own.unit != self.rows[row].unit:
            raise InputError(
                f"rank {place[0]} adds unit {self.rows[row].unit} to unit {own.unit}", where=where
            )
        self._order_before(row, place)
        self.rows[row].reduce = True
        self.held[place] = _Held(own.unit, (*own.brought, row))

    def copy(self, source: Place, place: Place, where: str) -> None:
        """A local copy."""
        held = self.look(source, where)
        self._order_before(None, place)
        self.held[place] = _Held(held.unit, held.brought, held.pending)
        held.pending = None

    def reduce(self, source: Place, place: Place, where: str) -> None:
        """A local addition of what lies at ``source`` to ``place``."""
        extra, own = self.look(source, where), self.look(place, where)
        if extra.unit != own.unit:
            raise InputError(f"rank {place[0]} adds unit {extra.unit} to unit {own.unit}",
                             where=where)  # fmt: skip
        if extra.pending is None:
            raise InputError(
                "a local sum whose second part did not just arrive from a rank has no row of ours",
                where=where,
            )
        row = extra.pending
        self.after += [(r, row, 0) for r in own.read]
        self.rows[row].reduce = True
        self.held[place] = _Held(own.unit, tuple(dict.fromkeys((*own.brought, *extra.brought))))

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
            # The files name no root: nothing is sent to it; who gets the message sends nothing.
            root = next((r.source for r in self.rows
                         if all(o.destination != r.source for o in self.rows)), root)  # fmt: skip
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
            share=share, owner=owner, target=target, root=root,
        )  # fmt: skip

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


def initial_places(
    collective: Collective, ranks: int, inputs: int
) -> tuple[list[tuple[Place, int]], int, int]:
    """Where units lie at the start: places, units in all, units of one rank's part.

    Both the buffers of in-place programs (all-gather in o, the rest in i) and of the others hold.
    """
    if not 1 <= inputs <= PLACES_MOST // max(ranks, 1):
        raise InputError(f"{inputs} units of input on each of {ranks} ranks",
                         hint=f"from 1, and at most {PLACES_MOST:,} together")  # fmt: skip
    places: list[tuple[Place, int]] = []
    for rank in range(ranks):
        for k in range(inputs):
            if collective == "all-gather":
                unit = rank * inputs + k
                places += [((rank, "i", k), unit), ((rank, "o", unit), unit)]
            elif collective == "all-to-all":
                places.append(((rank, "i", k), rank * inputs + k))
            else:
                places.append(((rank, "i", k), k))
    if collective == "all-gather":
        return places, ranks * inputs, inputs
    if collective == "all-to-all":
        return places, ranks * inputs, inputs // ranks
    return places, inputs, inputs // ranks if collective == "reduce-scatter" else inputs
