"""All interleavings of small programs of the process group, explored state by state.

The oracle knows nothing of the interpreter: ranks are lists of instructions, memory is a set of
cells that hold which ranks' numbers are in them. Reading and writing take time here: an instruction
that touches others' memory begins and ends, and whoever writes what another is reading, or reads
what another is writing, has raced. A socket holds nothing: a send is over once it was received.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from weftline.runtime.group.program import (
    ADD,
    COPY,
    FETCH,
    FLUSH,
    IN,
    MIRROR,
    MOVE,
    OUT,
    POST,
    PUT,
    RECV,
    SEND,
    SLOT,
    SUM,
    WAIT,
    Program,
)  # fmt: skip

Cell = tuple[Any, ...]
"""(kind, rank[, peer], chunk): slot, out or mirror of a rank."""


class RacedError(AssertionError):
    """What an interleaving brought about, with the way there."""


class System:
    """One slot, used by pieces one after the other: ``uses[piece][rank]`` is a program."""

    def __init__(
        self, uses: Sequence[Sequence[Program]], *, holds: Any, guarded: bool = True
    ) -> None:
        self.ranks, self.pieces = len(uses[0]), len(uses)
        self.holds, self.guarded = holds, guarded
        self.wanted: Any = None
        self.values = max(p.values for each in uses for p in each)
        self.ops = [[p.streams[0] for p in each] for each in uses]

    def explore(self, wanted: Any, most: int = 2_000_000) -> int:
        """States seen; ``wanted(piece, rank)`` is what each chunk of an output sums.

        Raises RacedError for a race, a wrong result or a circle of waiting.
        """
        self.wanted = wanted
        first = (tuple((0, 0, -1) for _ in range(self.ranks)), (), (0,) * self.ranks,
                 (0,) * self.ranks, ())  # fmt: skip
        seen = {first}
        stack = [first]
        while stack:
            state = stack.pop()
            moves = [m for rank in range(self.ranks) for m in self._moves(state, rank)]
            places = state[0]
            if not moves:
                if all(piece == self.pieces for piece, _, _ in places):
                    continue
                raise RacedError(f"nobody can go on: {places}, flags {state[2]}")
            for move in moves:
                if move not in seen:
                    seen.add(move)
                    stack.append(move)
            assert len(seen) < most, "too many states for a test"
        return len(seen)

    # state: places (piece, instruction, -1 or 0 when within it) a rank; memory, sorted cells;
    # flags a rank; uses a rank; sends under way (owner, reader, chunk)

    def _moves(self, state: Any, rank: int) -> list[Any]:
        places, memory, flags, uses, wire = state
        piece, at, inside = places[rank]
        if piece == self.pieces:
            return []
        ops = self.ops[piece][rank]
        near = [r for r in range(self.ranks) if ("far", rank, r) not in self.holds]
        late = any(uses[r] < piece for r in near)
        if at == 0 and inside < 0 and self.guarded and late:
            return []
        if at == len(ops):
            self._check(state, rank, piece)
            return [self._place(state, rank, (piece + 1, 0, -1), uses=self._plus(uses, rank))]
        op, start = ops[at], piece * self.values
        after = (piece, at + 1, -1)
        if op.op == WAIT:
            ready = flags[op.peer] >= start + op.value
            return [self._place(state, rank, after)] if ready else []
        if op.op == POST:
            told = list(flags)
            told[rank] = start + op.value
            return [self._place(state, rank, after, flags=tuple(told))]
        if op.op == SEND:
            new = tuple(sorted({*wire, *((rank, op.peer, piece, c) for c in _chunks(op))}))
            return [self._place(state, rank, after, wire=new)]
        if op.op == FLUSH:
            free = not any(owner == rank for owner, *_ in wire)
            return [self._place(state, rank, after)] if free else []
        if op.op == RECV:
            asked = {(op.peer, rank, piece, c) for c in _chunks(op)}
            if not asked <= set(wire):
                return []
        if inside < 0:
            self._meet(state, rank, op)
            return [self._place(state, rank, (piece, at, 0))]
        cells = dict(memory)
        left = wire
        if op.op == RECV:
            left = tuple(w for w in wire if w not in asked)
        self._do(cells, rank, piece, op)
        return [self._place(state, rank, after, memory=tuple(sorted(cells.items())), wire=left)]

    def _place(
        self, state: Any, rank: int, place: tuple[int, int, int], *, memory: Any = None,
        flags: Any = None, uses: Any = None, wire: Any = None,
    ) -> Any:  # fmt: skip
        places, m, f, u, w = state
        new = list(places)
        new[rank] = place
        return (tuple(new), m if memory is None else memory, f if flags is None else flags,
                u if uses is None else uses, w if wire is None else wire)  # fmt: skip

    def _plus(self, uses: Any, rank: int) -> Any:
        new = list(uses)
        new[rank] += 1
        return tuple(new)

    def _touched(self, rank: int, op: Any) -> tuple[set[Cell], set[Cell]]:
        """Slot cells that an instruction reads and writes."""
        chunks = _chunks(op)
        reads: set[Cell] = set()
        if op.op in (COPY, ADD, FETCH) and not op.where & MIRROR:
            reads |= {("slot", op.peer, c) for c in chunks}
        if op.op == RECV:
            reads |= {("slot", op.peer, c) for c in chunks}
        if op.op == SUM:
            reads |= {("slot", r, c) for r in range(self.ranks) if r != rank
                      and ("far", rank, r) not in self.holds for c in chunks}  # fmt: skip
        writes = op.op == PUT or (op.op in (COPY, ADD, SUM) and op.where & SLOT)
        return reads, {("slot", rank, c) for c in chunks} if writes else set()

    def _meet(self, state: Any, rank: int, op: Any) -> None:
        """Raise RacedError if another is inside an instruction that this one must not overlap."""
        reads, writes = self._touched(rank, op)
        for other, (piece, at, inside) in enumerate(state[0]):
            if other == rank or inside < 0 or piece == self.pieces:
                continue
            theirs = self.ops[piece][other][at]
            their_reads, their_writes = self._touched(other, theirs)
            if reads & their_writes or writes & (their_reads | their_writes):
                raise RacedError(f"rank {rank} {op} while rank {other} is in {theirs}")

    def _do(self, cells: dict[Cell, Any], rank: int, piece: int, op: Any) -> None:
        def given(c: int) -> Any:
            return ((piece, rank),) if ("has", rank, c) in self.holds else None

        for c in _chunks(op):
            mine, out = ("slot", rank, c), ("out", rank, c)
            peer = ("mirror", rank, op.peer, c) if op.where & MIRROR else ("slot", op.peer, c)
            if op.op == PUT:
                cells[mine] = given(c)
            elif op.op == MOVE:
                cells[out] = given(c)
            elif op.op in (FETCH, RECV):
                cells["mirror", rank, op.peer, c] = cells.get(("slot", op.peer, c))
            else:
                if op.op == SUM:
                    value: Any = ()
                    for r in range(self.ranks):
                        far = ("far", rank, r) in self.holds
                        place = ("mirror", rank, r, c) if far else ("slot", r, c)
                        value += given(c) if r == rank else cells.get(place) or ("nothing",)
                elif op.op == COPY:
                    value = cells.get(peer)
                else:
                    own = given(c) if op.where & IN else cells.get(mine)
                    value = (own or ("nothing",)) + (cells.get(peer) or ("nothing",))
                value = tuple(sorted(value or ("nothing",), key=str))
                if op.where & SLOT:
                    cells[mine] = value
                if op.where & OUT:
                    cells[out] = value

    def _check(self, state: Any, rank: int, piece: int) -> None:
        """Whether a rank that is through with a piece holds what it must of it."""
        cells = dict(state[1])
        for c, ranks in self.wanted(piece, rank).items():
            right = tuple(sorted(((piece, r) for r in ranks), key=str))
            found = cells.get(("out", rank, c))
            if found != right:
                raise RacedError(f"rank {rank} has {found} of chunk {c}, not {right}")


def _chunks(op: Any) -> range:
    return range(op.first, op.first + op.many)
