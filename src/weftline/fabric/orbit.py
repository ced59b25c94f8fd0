"""Schedules of symmetric networks, kept as the rows of one chip.

Where every shift of a group of ranks maps the network and the schedule on themselves, the rows that
leave one chip say it all: 65,536 chips need a few thousand rows instead of 1e8. ``expand`` writes
the flat schedule for the checker and the other evaluators.

Chunks. A colour (all collectives but all-to-all) has one chunk for every rank, its home; a row
carries those whose home is ``block`` away from the row's source on the axes that are not
``whole``, and anywhere on those that are. All-to-all instead carries pieces: piece p of every rank
goes ``displacement[p]`` far, and row r moves the pieces ``piece[piece_start[r]:piece_start[r+1]]``
of those ranks that lie where each piece came from.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from weftline.errors import InputError
from weftline.fabric.graph import BoolArray, FloatArray, Grid, IntArray
from weftline.fabric.schedule import Collective, Schedule

MAX_FLAT_ROWS = 50_000_000
"""Rows of a flat schedule that ``expand`` writes at most: about 3 GB."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OrbitSchedule:
    """The rows that leave rank 0 of a schedule that every shift of ``grid`` maps on itself."""

    collective: Collective
    algorithm: str
    grid: Grid
    """The group of shifts: ranks are numbered on it, every axis taken to wrap."""
    step: IntArray
    """[rows] from 0, counted for each colour."""
    offset: IntArray
    """[rows, axes] destination minus source as travelled, never taken modulo the side: +8 and -8
    on a side of 16 end at the same chip and take different links. Routes go axis by axis."""
    block: IntArray
    """[rows, axes] home of the chunks minus source; 0 where ``whole``."""
    whole: BoolArray
    """[rows, axes] whether chunks of every coordinate on the axis are carried."""
    reduce: BoolArray
    colour: IntArray
    fraction: FloatArray
    """[rows] share of the buffer that each row carries."""
    colour_share: FloatArray
    """[colours] share of the buffer; they sum to 1."""
    colour_order: IntArray
    """[colours, axes] axes from the slowest digit of the chunk numbers to the fastest."""
    stream: IntArray | None = None
    """[rows] connection: pieces of a pipeline are colours of their own, with their own chunks, and
    take turns, in the order of steps, on the connections of their stream. None: the colour."""
    displacement: IntArray | None = None
    """[pieces, axes] all-to-all: how far each piece goes, as travelled."""
    piece_share: FloatArray | None = None
    """[pieces] share of a rank's send buffer; with what stays at home they sum to 1."""
    piece_colour: IntArray | None = None
    piece_start: IntArray | None = None
    """[rows + 1] into ``piece``."""
    piece: IntArray | None = None
    came: IntArray | None = None
    """[pieces carried, axes] how far each piece of each row has come before the row."""

    @property
    def ranks(self) -> int:
        """Chips of the network."""
        return self.grid.size

    @property
    def rows(self) -> int:
        """Rows of one chip."""
        return len(self.step)

    @property
    def steps(self) -> int:
        """Steps of the longest colour."""
        return int(self.step.max()) + 1 if self.rows else 0

    @property
    def streams(self) -> IntArray:
        """[rows] the stream of each row: what shares its connections."""
        return self.colour if self.stream is None else self.stream

    @property
    def flat_rows(self) -> int:
        """Rows of the flat schedule."""
        per_chip = self.rows if self.piece is None else len(self.piece)
        return per_chip * self.ranks

    def destination_offset(self) -> IntArray:
        """[rows, axes] offset of the destination, taken modulo the sides."""
        return np.asarray(self.offset % np.asarray(self.grid.shape))


def expand(orbit: OrbitSchedule) -> Schedule:
    """The flat schedule. Raises InputError above ``MAX_FLAT_ROWS`` rows.

    Ranges that are not one run of chunk numbers become several rows of one step.
    """
    if orbit.flat_rows > MAX_FLAT_ROWS:
        raise InputError(
            f"{orbit.algorithm} on {orbit.ranks:,} chips has {orbit.flat_rows:,} rows written out",
            hint="time it with the orbit evaluator, which needs one chip's rows only",
        )
    if orbit.displacement is not None:
        return _expand_pieces(orbit)
    ranks = orbit.ranks
    shape = np.asarray(orbit.grid.shape)
    points = orbit.grid.coordinates(np.arange(ranks))
    parts: list[tuple[IntArray, ...]] = []
    for row in range(orbit.rows):
        there = orbit.grid.rank(points + orbit.offset[row])
        home = (points + orbit.block[row]) % shape
        colour = int(orbit.colour[row])
        order = [int(a) for a in orbit.colour_order[colour]]
        firsts, count = _runs(shape, home, orbit.whole[row], order)
        first = colour * ranks + firsts
        runs = first.shape[1]
        parts.append((
            np.full(ranks * runs, orbit.step[row]), np.repeat(np.arange(ranks), runs),
            np.repeat(there, runs), first.reshape(-1), np.full(ranks * runs, count),
            np.full(ranks * runs, orbit.reduce[row], dtype=np.int64),
            np.full(ranks * runs, orbit.streams[row]),
        ))  # fmt: skip
    nothing = (np.zeros(0, dtype=np.int64),) * 7
    columns = [np.concatenate([p[i] for p in parts or [nothing]]) for i in range(7)]
    by_step = np.argsort(columns[0], kind="stable")
    step, source, destination, first, counts, reduce, colour_of = (c[by_step] for c in columns)
    return Schedule(
        collective=orbit.collective, algorithm=orbit.algorithm, ranks=ranks,
        step=step, source=source, destination=destination, first_chunk=first, chunk_count=counts,
        reduce=reduce.astype(np.bool_), colour=colour_of,
        share=np.repeat(orbit.colour_share / ranks, ranks), owner=_homes(orbit),
        root=0,
    )  # fmt: skip


def _homes(orbit: OrbitSchedule) -> IntArray:
    """[chunks] home rank of every chunk: digits of the chunk number in the colour's own order."""
    homes = []
    for order in orbit.colour_order:
        sides = tuple(orbit.grid.shape[int(a)] for a in order)
        digits = np.unravel_index(np.arange(orbit.ranks), sides)
        point = np.empty((orbit.ranks, len(sides)), dtype=np.int64)
        for digit, axis in zip(digits, order, strict=True):
            point[:, int(axis)] = digit
        homes.append(orbit.grid.rank(point))
    return np.concatenate(homes)


def _runs(
    shape: IntArray, home: IntArray, whole: BoolArray, order: list[int]
) -> tuple[IntArray, int]:
    """[ranks, runs] first chunk number of each run of a block, and the length of the runs."""
    weight: dict[int, int] = {}
    size = 1
    for axis in reversed(order):
        weight[axis] = size
        size *= int(shape[axis])
    fast = len(order)
    while fast and whole[order[fast - 1]]:
        fast -= 1
    count = math.prod(int(shape[a]) for a in order[fast:])
    first = np.zeros((len(home), 1), dtype=np.int64)
    for axis in order[:fast]:
        if whole[axis]:
            every = np.arange(int(shape[axis])) * weight[axis]
            first = (first[:, :, None] + every[None, None, :]).reshape(len(home), -1)
        else:
            first = first + home[:, axis : axis + 1] * weight[axis]
    return first, count


def _expand_pieces(orbit: OrbitSchedule) -> Schedule:
    """All-to-all: chunk number = piece * ranks + owner; every piece carried is a row of its own."""
    moved, shares = orbit.displacement, orbit.piece_share
    start, piece, came = orbit.piece_start, orbit.piece, orbit.came
    colour_of = orbit.piece_colour
    if moved is None or shares is None or colour_of is None:
        raise InputError("an all-to-all by symmetry needs its pieces")
    if start is None or piece is None or came is None:
        raise InputError("an all-to-all by symmetry needs the pieces of each row")
    ranks, pieces = orbit.ranks, len(moved)
    points = orbit.grid.coordinates(np.arange(ranks))
    row = np.repeat(np.arange(orbit.rows), np.diff(start))
    owner = np.tile(np.arange(ranks), len(piece))
    entry = np.repeat(np.arange(len(piece)), ranks)
    source = orbit.grid.rank(points[owner] + came[entry])
    destination = orbit.grid.rank(points[owner] + came[entry] + orbit.offset[row[entry]])
    target = orbit.grid.rank((points[None, :, :] + moved[:, None, :]).reshape(-1, points.shape[1]))
    step = orbit.step[row[entry]]
    by_step = np.argsort(step, kind="stable")
    chunk = piece[entry] * ranks + owner
    # What stays at home is a chunk that never moves: the buffer is whole with it.
    homes = np.arange(ranks)
    stays = max(0.0, 1.0 - float(shares.sum()))
    return Schedule(
        collective="all-to-all", algorithm=orbit.algorithm, ranks=ranks,
        step=step[by_step], source=source[by_step], destination=destination[by_step],
        first_chunk=chunk[by_step], chunk_count=np.ones(len(chunk), dtype=np.int64),
        reduce=np.zeros(len(chunk), dtype=np.bool_), colour=colour_of[piece[entry]][by_step],
        share=np.concatenate([np.repeat(shares, ranks), np.full(ranks, stays)]),
        owner=np.concatenate([np.tile(homes, pieces), homes]),
        target=np.concatenate([target, homes]),
    )  # fmt: skip
