"""A collective as one rank's program: what it waits for, reads, adds and tells.

Every collective of the group is such a program, be it a fabric schedule or one of the direct forms
in ``direct.py``; one interpreter (``kernel.py``) runs them all over one set of flags and slots, so
no two protocols can meet in one memory. The rules, which tests check over all interleavings:

- A rank reads others' slots and writes its own alone.
- ``POST v`` says that all up to there is done; values of a stream only grow. A read of a peer's
  slot follows a ``WAIT`` for the value after the write that it needs; a write to one's own slot
  follows a ``WAIT`` for all who read what was there.
- A slot is entered when every rank has left its last use, and only then.

Values of a schedule: 1 after what peers may read at once is in the slot, ``2 t + 3`` after step t,
``2 t + 2`` after the reads of a step in which somebody writes what another reads.
Between hosts a read becomes ``SEND`` there and ``RECV`` here (``across.py``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np

from weftline.errors import InputError
from weftline.fabric import OrbitSchedule, Schedule, expand
from weftline.fabric.graph import FloatArray, IntArray

__all__ = ["Chunks", "Linked", "Op", "Program", "chunks_of", "laid_on", "schedule_streams"]

WAIT, POST, PUT, MOVE, COPY, ADD, SUM, FETCH, SEND, RECV, FLUSH, START, ARRIVE, JOIN = range(14)
NAMES: Final = (
    "wait", "post", "put", "move", "copy", "add", "sum", "fetch", "send", "recv", "flush", "start",
    "arrive", "join",
)  # fmt: skip
IN, SLOT, OUT, MIRROR, COMPACT = 1, 2, 4, 8, 16
"""Where: the local operand is the caller's input; the result goes to the slot, to the caller's
output; the peer's operand is in the mirror; offsets in slots are those within a segment."""
STREAMS: Final = 32
"""Streams of a program at most."""
_GRAIN: Final = 16
"""Elements that chunk edges fall on, where chunks are long."""


class Op(NamedTuple):
    """One instruction; ranges are chunks ``first .. first + many - 1``."""

    op: int
    peer: int = 0
    value: int = 0
    where: int = 0
    first: int = 0
    many: int = 0
    row: int = 0
    """Row of the schedule, for the links it takes."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Chunks:
    """Where each chunk lies: in a segment of the caller's input and output, and in slots.

    A buffer of several segments (the input of a reduce-scatter, the output of an all-gather) is cut
    alike in each: a piece takes the same part of every segment.
    """

    low: FloatArray
    """[chunks] begin within its segment, as a fraction."""
    high: FloatArray
    source: IntArray
    """[chunks] segment of the input."""
    target: IntArray
    """[chunks] segment of the output."""

    def edges(self, length: int) -> tuple[IntArray, IntArray]:
        """[chunks] first element and number of elements in a piece of ``length`` a segment."""
        grain = _GRAIN if length >= 4 * _GRAIN * len(self.low) else 1

        def at(fraction: FloatArray) -> IntArray:
            place = np.floor(fraction * length / grain + 1e-9).astype(np.int64) * grain
            return np.where(fraction > 1 - 1e-12, length, place)

        low = at(self.low)
        return low, at(self.high) - low


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Linked:
    """The links that a schedule's rows take through an emulated network."""

    start: IntArray
    """[rows + 1] into ``links``."""
    links: IntArray
    parts: FloatArray
    """Part of the row's bytes that a link carries."""
    delay_ns: IntArray
    """[rows] latency of the route."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Program:
    """What one rank does of a collective, piece after piece."""

    name: str
    streams: tuple[tuple[Op, ...], ...]
    """Independent of each other but for links: one, or one a colour of the schedule."""
    chunks: Chunks
    slot_share: float
    """Elements of a slot that a piece of one element a segment takes."""
    values: int
    """Values that a use of a slot takes."""
    linked: Linked | None = None
    """Where START leads, in an emulated network."""

    @property
    def mirrors(self) -> bool:
        """Whether reads go through memory of this rank."""
        return any(op.op in (FETCH, RECV) for stream in self.streams for op in stream)


def laid_on(program: Program, length: int, whole: int) -> tuple[IntArray, IntArray]:
    """[instructions, 8] for a piece of ``length`` elements of segments of ``whole``; [streams + 1].

    Columns: op, peer, value, where, offset in slots, in the input, in the output, elements; ARRIVE
    has the place of its START as value, START its row in the place of the input's offset.
    """
    ops = np.array([op for stream in program.streams for op in stream], np.int64).reshape(-1, 7)
    bounds = np.cumsum([0, *(len(s) for s in program.streams)]).astype(np.int64)
    low, length_of = program.chunks.edges(length)
    packed = np.concatenate([[0], np.cumsum(length_of)])
    first, count = ops[:, 4], ops[:, 5]
    out = np.zeros((len(ops), 8), np.int64)
    out[:, :4] = ops[:, :4]
    out[:, 4] = np.where(ops[:, 3] & COMPACT, low[first], packed[first])
    out[:, 5] = program.chunks.source[first] * whole + low[first]
    out[:, 6] = program.chunks.target[first] * whole + low[first]
    out[:, 7] = packed[first + count] - packed[first]
    for begin, end in pairwise(bounds):
        arrives = begin + np.flatnonzero(ops[begin:end, 0] == ARRIVE)
        out[arrives, 2] += begin
    starts = ops[:, 0] == START
    out[starts, 5] = ops[starts, 6]
    return out, bounds


def chunks_of(schedule: Schedule, rank: int) -> Chunks:
    """The chunks of a schedule as rank ``rank`` has them in its buffers."""
    kind, n = schedule.collective, schedule.chunks
    owner = np.zeros(n, np.int64) if schedule.owner is None else np.asarray(schedule.owner)
    target = np.zeros(n, np.int64) if schedule.target is None else np.asarray(schedule.target)
    none = np.zeros(n, np.int64)
    segment, parts = none, 1
    source = out = none
    if kind in ("all-gather", "reduce-scatter"):
        segment, parts = owner, schedule.ranks
        source, out = (none, owner) if kind == "all-gather" else (owner, none)
    elif kind == "all-to-all":
        segment, parts = owner * schedule.ranks + target, schedule.ranks
        source, out = target, owner
    low, high = np.zeros(n), np.zeros(n)
    for s in np.unique(segment):
        members = np.flatnonzero(segment == s)
        ends = np.concatenate([[0.0], np.cumsum(schedule.share[members] * parts)])
        if kind == "all-to-all" and ends[-1] <= 0:
            continue
        ends /= ends[-1]
        low[members], high[members] = ends[:-1], ends[1:]
    del rank
    return Chunks(low=low, high=high, source=source, target=out)


def schedule_streams(
    schedule: Schedule | OrbitSchedule, *, rank: int, linked: Linked | None = None
) -> Program:
    """The program of one rank of a schedule; with ``linked`` a stream a colour, over these links.

    Raises InputError where a switch adds up, which no process does.
    """
    flat = expand(schedule) if isinstance(schedule, OrbitSchedule) else schedule
    if flat.switches:
        raise InputError(
            f"`{flat.algorithm}` adds up in a switch: no process is there to do so",
            hint="take a schedule whose rows join ranks: ring, bucket, swing, direct",
        )
    flat.check_form()
    every = np.arange(flat.rows)
    colours = (
        [every[flat.colour == c] for c in np.unique(flat.colour)] if linked is not None else [every]
    )
    chunks = chunks_of(flat, rank)
    if len(colours) > STREAMS:  # rows of several colours, still in the order of their steps
        colours = [np.sort(np.concatenate(colours[i::STREAMS])) for i in range(STREAMS)]
    streams = [_Stream(flat, rows, rank, chunks, links=linked is not None) for rows in colours]
    for stream in streams[:1]:  # what no row touches comes from the input to the output, too
        stream.mine |= ~np.any([s.mine for s in streams], axis=0)
    share = float(np.sum(chunks.high - chunks.low))
    return Program(
        name=f"{flat.algorithm} {flat.collective}", streams=tuple(tuple(s.ops()) for s in streams),
        chunks=chunks, slot_share=share, values=2 * flat.steps + 4, linked=linked,
    )  # fmt: skip


def _held(
    schedule: Schedule, rank: int, *, after: bool
) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """[chunks] which a rank has before, or must have after."""
    n, kind = schedule.chunks, schedule.collective
    all_, none = np.ones(n, np.bool_), np.zeros(n, np.bool_)
    if kind == "all-reduce":
        return all_
    if kind == "reduce-scatter":
        return np.asarray(schedule.owner == rank) if after else all_
    if kind == "all-gather":
        return all_ if after else np.asarray(schedule.owner == rank)
    if kind == "all-to-all":
        return np.asarray((schedule.target if after else schedule.owner) == rank)
    if not after or kind == "broadcast":
        return all_ if after or schedule.root == rank else none
    return np.asarray(schedule.target == rank)


class _Stream:
    """The rows of a schedule (or of one colour of it) as one rank's instructions."""

    def __init__(
        self, schedule: Schedule, rows: IntArray, rank: int, chunks: Chunks, *, links: bool
    ) -> None:
        s = schedule
        self.me, self.chunks, self.links = rank, chunks, links
        self.rows = [
            (int(s.step[r]), int(s.source[r]), int(s.destination[r]), int(s.first_chunk[r]),
             int(s.chunk_count[r]), bool(s.reduce[r]), int(r)) for r in rows
        ]  # fmt: skip
        self.mine = np.zeros(s.chunks, np.bool_)
        for _, _, _, first, count, _, _ in self.rows:
            self.mine[first : first + count] = True
        self.has, self.wants = _held(s, rank, after=False), _held(s, rank, after=True)
        self.apart = s.collective in ("all-gather", "reduce-scatter", "all-to-all", "send")
        self.written = np.ones((s.ranks, s.chunks), np.int64)
        """[ranks, chunks] the value after which the newest write is there."""
        self.final = np.full(s.chunks, -1, np.int64)
        self.read_last = np.full(s.chunks, -1, np.int64)
        """[chunks] last step in which somebody reads it from me."""
        for at, (step, source, to, first, count, _, _) in enumerate(self.rows):
            if to == rank:
                self.final[first : first + count] = at
            if source == rank:
                self.read_last[first : first + count] = step
        self.readers: list[list[tuple[int, int]]] = [[] for _ in range(s.chunks)]
        self.local = np.where(self.has, IN, 0)
        self.seen: dict[int, int] = {}
        self.out: list[Op] = []

    def ops(self) -> list[Op]:
        """All of them."""
        self._before()
        steps = sorted({row[0] for row in self.rows})
        for step in steps:
            rows = [(at, row) for at, row in enumerate(self.rows) if row[0] == step]
            self._step(step, rows)
        return self.out

    def _before(self) -> None:
        """What peers read before this rank has written it; and what stays where it is."""
        put = np.zeros(len(self.local), np.bool_)
        written = np.zeros(len(self.local), np.bool_)
        for step, group in _steps(self.rows):
            del step
            for _, source, _, first, count, _, _ in group:
                if source == self.me:
                    put[first : first + count] |= ~written[first : first + count]
            for _, _, to, first, count, _, _ in group:
                if to == self.me:
                    written[first : first + count] = True
        put &= self.has
        for first, count in self._runs(np.where(put & self.mine, IN, -1)):
            self.out.append(Op(PUT, where=SLOT, first=first, many=count))
        kept = self.has & self.wants & (self.final < 0) & self.mine
        if self.apart:
            for first, count in self._runs(np.where(kept, IN | OUT, -1)):
                self.out.append(Op(MOVE, where=OUT, first=first, many=count))
        if put.any():
            self.local[put] = SLOT
            self.out.append(Op(POST, value=1))

    def _step(
        self, step: int, rows: list[tuple[int, tuple[int, int, int, int, int, bool, int]]]
    ) -> None:
        clash = self._clashes([row for _, row in rows])
        mine = [(at, row) for at, row in rows if row[2] == self.me]
        starts: dict[int, int] = {}
        for at, (_, source, _, first, count, _, number) in mine:
            self._wait(source, int(self.written[source, first : first + count].max()))
            if self.links:
                starts[at] = len(self.out)
                self.out.append(Op(START, source, 0, 0, first, count, number))
        if clash:
            for at, (_, source, _, first, count, _, _) in mine:
                self._arrive(starts, at)
                self.out.append(Op(FETCH, source, 0, 0, first, count))
            if mine:
                self.out.append(Op(POST, value=2 * step + 2))
        for _, (_, source, to, first, count, _, _) in rows:
            if source == self.me:
                for c in range(first, first + count):
                    self.readers[c].append((to, 2 * step + (2 if clash else 3)))
        plans = [(at, row, self._where(at, row, step)) for at, row in mine]
        for _, row, where in plans:
            self._settle(row, where, step, clash=clash)
        for at, row, where in plans:
            if not clash:
                self._arrive(starts, at)
            self._move(row, where, MIRROR if clash else 0)
        if mine:
            self.out.append(Op(POST, value=2 * step + 3))
        for _, (_, _, to, first, count, _, _) in rows:
            self.written[to, first : first + count] = 2 * step + 3

    def _clashes(self, rows: list[tuple[int, int, int, int, int, bool, int]]) -> bool:
        """Whether somebody writes what another reads in the same step."""
        reads: dict[int, list[tuple[int, int]]] = {}
        for _, source, _, first, count, _, _ in rows:
            reads.setdefault(source, []).append((first, first + count))
        return any(
            first < b and a < first + count
            for _, _, to, first, count, _, _ in rows
            for a, b in reads.get(to, ())
        )

    def _wait(self, peer: int, value: int) -> None:
        if peer != self.me and self.seen.get(peer, 0) < value:
            self.seen[peer] = value
            self.out.append(Op(WAIT, peer, value))

    def _arrive(self, starts: dict[int, int], at: int) -> None:
        if at in starts:
            self.out.append(Op(ARRIVE, self.rows[at][1], starts[at]))

    def _where(
        self, at: int, row: tuple[int, int, int, int, int, bool, int], step: int
    ) -> IntArray:
        """[count] where the operand of each chunk is, and where the result goes."""
        _, _, _, first, count, reduce, _ = row
        found = np.zeros(count, np.int64)
        for i, c in enumerate(range(first, first + count)):
            last = self.final[c] == at
            if reduce and self.local[c] == IN:
                found[i] |= IN
            if last and self.wants[c]:
                found[i] |= OUT
            if not last or self.read_last[c] > step or not found[i] & OUT:
                found[i] |= SLOT
                self.local[c] = SLOT
        return found

    def _settle(
        self, row: tuple[int, int, int, int, int, bool, int], where: IntArray, step: int, *,
        clash: bool,
    ) -> None:  # fmt: skip
        """Wait until nobody reads what is about to be overwritten in the slot."""
        del step, clash
        _, _, _, first, count, _, _ = row
        for i, c in enumerate(range(first, first + count)):
            if where[i] & SLOT:
                for reader, value in self.readers[c]:
                    self._wait(reader, value)
                self.readers[c].clear()

    def _move(
        self, row: tuple[int, int, int, int, int, bool, int], where: IntArray, more: int
    ) -> None:
        _, source, _, first, count, reduce, _ = row
        kinds = np.full(len(self.local), -1, np.int64)
        kinds[first : first + count] = where
        for a, n in self._runs(kinds):
            op = ADD if reduce else COPY
            self.out.append(Op(op, source, 0, int(kinds[a]) | more, a, n))

    def _runs(self, kinds: IntArray) -> Iterable[tuple[int, int]]:
        """Ranges of chunks of one kind (from 0) that lie together wherever the kind says."""
        t = self.chunks
        begin = None
        for c in range(len(kinds)):
            if begin is not None:
                kind = int(kinds[c - 1])
                joined = kinds[c] == kind
                if joined and kind & (IN | OUT):
                    joined = (
                        t.low[c] == t.high[c - 1]
                        and t.source[c] == t.source[c - 1] and t.target[c] == t.target[c - 1]
                    )  # fmt: skip
                if not joined:
                    yield begin, c - begin
                    begin = None
            if begin is None and kinds[c] >= 0:
                begin = c
        if begin is not None:
            yield begin, len(kinds) - begin


def _steps(
    rows: Sequence[tuple[int, int, int, int, int, bool, int]],
) -> Iterable[tuple[int, Sequence[tuple[int, int, int, int, int, bool, int]]]]:
    """Rows of each step, which are sorted."""
    edges = [0, *(i for i, (a, b) in enumerate(pairwise(rows), 1) if a[0] != b[0]), len(rows)]
    for a, b in pairwise(edges):
        if b > a:
            yield rows[a][0], rows[a:b]
