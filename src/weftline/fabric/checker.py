"""Proof that a schedule does its collective, by following the contributions of every rank.

Each place (rank or switch, chunk) holds the set of ranks whose contributions are in it, as bits.
Rows of a step read what was there before the step. A reduction must add a set that shares nothing
with what it meets; a copy replaces. At the end every place that must hold the answer holds every
contribution once. Chunks never touch each other, so they are followed in blocks of bounded memory.

Found and named, with rank, chunk and step: a contribution that is missing or added twice, a chunk
sent before it has arrived, two rows that write one place in one step where their order matters, a
chunk in two colours (whose steps have no order), steps out of order, shares that do not sum up.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from weftline.errors import InputError
from weftline.fabric.graph import IntArray, Topology
from weftline.fabric.orbit import OrbitSchedule
from weftline.fabric.schedule import Schedule

__all__ = ["Proof", "check", "check_orbit"]

BLOCK_BYTES = 64 * 2**20
"""Memory of the sets of one block of chunks."""
_WORD = 64
Words = np.ndarray[tuple[int, ...], np.dtype[np.uint64]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What was proved: the schedule does its collective on these many ranks, chunks and rows."""

    collective: str
    algorithm: str
    ranks: int
    chunks: int
    rows: int
    by_symmetry: bool = False
    """One chunk of each colour was followed, as shifts map it on the others."""


def check(schedule: Schedule, topology: Topology | None = None) -> Proof:
    """Prove a schedule; raises InputError naming the first thing that is wrong.

    With ``topology`` its ranks must be the network's, and only switches that reduce may add up.
    """
    schedule.check_form(topology)
    if topology is not None and schedule.switches:
        _check_switches(schedule, topology)
    _check_order(schedule)
    _check_chunks(schedule)
    _follow(schedule)
    return Proof(collective=schedule.collective, algorithm=schedule.algorithm,
                 ranks=schedule.ranks, chunks=schedule.chunks, rows=schedule.rows)  # fmt: skip


def _check_switches(schedule: Schedule, topology: Topology) -> None:
    if schedule.switches > topology.switches:
        raise InputError(f"`{topology.name}` has {topology.switches} switches, "
                         f"the schedule uses {schedule.switches}")  # fmt: skip
    can = np.zeros(topology.switches, np.bool_) if topology.reducing is None else topology.reducing
    into = schedule.destination[schedule.destination >= schedule.ranks] - schedule.ranks
    bad = np.flatnonzero(~can[into])
    if len(bad):
        raise InputError(f"switch {int(into[bad[0]])} of `{topology.name}` keeps and adds nothing")


def _check_order(schedule: Schedule) -> None:
    falls = np.flatnonzero(np.diff(schedule.step) < 0)
    if len(falls):
        row = int(falls[0]) + 1
        raise InputError(
            f"row {row} of the schedule is of step {int(schedule.step[row])}, after step "
            f"{int(schedule.step[row - 1])}",
            hint="sort the rows by step",
        )
    own = np.flatnonzero(schedule.source == schedule.destination)
    if len(own):
        row = int(own[0])
        raise InputError(
            f"row {row} (step {int(schedule.step[row])}): rank {int(schedule.source[row])} sends "
            "to itself"
        )


def _check_chunks(schedule: Schedule) -> None:
    share, chunks = schedule.share, schedule.chunks
    if not chunks or not (np.isfinite(share) & (share >= 0)).all():
        raise InputError("a chunk's share of the buffer is no number from 0")
    covered = np.zeros(chunks, dtype=np.int64)
    colour_of = np.full(chunks, -1, dtype=np.int64)
    for colour in np.unique(schedule.colour):
        rows = schedule.colour == colour
        edge = np.zeros(chunks + 1, dtype=np.int64)
        np.add.at(edge, schedule.first_chunk[rows], 1)
        np.add.at(edge, schedule.first_chunk[rows] + schedule.chunk_count[rows], -1)
        touched = np.cumsum(edge[:-1]) > 0
        twice = np.flatnonzero(touched & (covered > 0))
        if len(twice):
            c = int(twice[0])
            raise InputError(
                f"chunk {c} is in colour {int(colour_of[c])} and in colour {int(colour)}: the "
                "steps of two colours have no order",
                hint="give every chunk one colour",
            )
        covered += touched
        colour_of[touched] = colour
    kind, ranks = schedule.collective, schedule.ranks
    for name, needed in (("owner", kind in ("all-gather", "reduce-scatter", "all-to-all")),
                         ("target", kind in ("all-to-all", "send"))):  # fmt: skip
        values = getattr(schedule, name)
        if needed and values is None:
            raise InputError(f"a schedule of {kind} needs the {name} of every chunk")
        if values is not None and (
            len(values) != chunks or (chunks and (values.min() < 0 or values.max() >= ranks))
        ):
            raise InputError(f"the {name}s of the chunks are not ranks 0 .. {ranks - 1}")
    if not 0 <= schedule.root < ranks:
        raise InputError(f"root {schedule.root} is no rank", hint=f"ranks are 0 .. {ranks - 1}")
    _check_shares(schedule)


def _check_shares(schedule: Schedule) -> None:
    kind, ranks, share = schedule.collective, schedule.ranks, schedule.share
    if kind == "all-to-all":
        assert schedule.owner is not None  # noqa: S101
        assert schedule.target is not None  # noqa: S101
        pair = np.bincount(
            schedule.owner * ranks + schedule.target, weights=share, minlength=ranks * ranks
        ).reshape(ranks, ranks)
        off = np.abs(pair - 1.0 / ranks) > 1e-9
        np.fill_diagonal(off, False)
        if off.any():
            s, d = (int(i[0]) for i in np.nonzero(off))
            raise InputError(
                f"rank {s} has {pair[s, d]:.4g} of its buffer for rank {d}, not 1/{ranks}",
                hint="the chunks from one rank to another make up 1/N of its buffer",
            )
        return
    if abs(float(share.sum()) - 1.0) > 1e-9:
        raise InputError(f"the chunks make up {float(share.sum()):.6g} of the buffer, not 1")
    if kind in ("all-gather", "reduce-scatter"):
        own = np.bincount(np.asarray(schedule.owner), weights=share, minlength=ranks)
        bad = np.flatnonzero(np.abs(own - 1.0 / ranks) > 1e-9)
        if len(bad):
            raise InputError(
                f"rank {int(bad[0])} has {own[bad[0]]:.4g} of the buffer at home, not 1/{ranks}"
            )


def _reduces(schedule: Schedule) -> bool:
    return schedule.collective in ("all-reduce", "reduce-scatter")


def _follow(schedule: Schedule) -> None:
    words = -(-schedule.ranks // _WORD) if _reduces(schedule) else 1
    block = max(1, BLOCK_BYTES // (schedule.nodes * words * 8))
    for low in range(0, schedule.chunks, block):
        _follow_block(schedule, low, min(low + block, schedule.chunks), words)


def _start(schedule: Schedule, low: int, high: int, words: int) -> Words:
    """[nodes, chunks, words] who is in what at the start."""
    state = np.zeros((schedule.nodes, high - low, words), dtype=np.uint64)
    ranks = np.arange(schedule.ranks)
    if _reduces(schedule):
        bit = np.uint64(1) << (ranks % _WORD).astype(np.uint64)
        state[ranks, :, ranks // _WORD] = bit[:, None]
    elif schedule.owner is not None and schedule.collective in ("all-gather", "all-to-all"):
        state[schedule.owner[low:high], np.arange(high - low), 0] = 1
    else:
        state[schedule.root, :, 0] = 1
    return state


def _follow_block(schedule: Schedule, low: int, high: int, words: int) -> None:
    state = _start(schedule, low, high, words)
    last = schedule.first_chunk + schedule.chunk_count
    rows = np.flatnonzero((schedule.first_chunk < high) & (last > low))
    first = np.maximum(schedule.first_chunk[rows], low) - low
    count = np.minimum(last[rows], high) - low - first
    step = schedule.step[rows]
    cuts = np.flatnonzero(np.diff(step)) + 1
    bounds = [0, *cuts.tolist(), len(rows)] if len(rows) else [0]
    written = np.full((schedule.nodes, high - low), -1, dtype=np.int64)
    for begin, end in pairwise(bounds):
        here = slice(begin, end)
        row = np.repeat(rows[here], count[here])
        start = np.cumsum(count[here]) - count[here]
        chunk = np.arange(len(row)) - np.repeat(start - first[here], count[here])
        _step(schedule, state, written, row, chunk, low)
    _check_end(schedule, state, written, low)


def _step(
    schedule: Schedule, state: Words, written: IntArray, row: IntArray, chunk: IntArray, low: int
) -> None:
    """One step of one block: all reads, then all writes."""
    source, destination = schedule.source[row], schedule.destination[row]
    now = int(schedule.step[row[0]])
    sent = state[source, chunk]
    empty = np.flatnonzero(~sent.any(axis=1))
    if len(empty):
        i = int(empty[0])
        raise InputError(
            f"step {now}: {_node(schedule, source[i])} sends chunk {low + int(chunk[i])} to "
            f"{_node(schedule, destination[i])} before it has it"
        )
    adds = schedule.reduce[row]
    place = destination * state.shape[1] + chunk
    _check_races(schedule, place, adds, destination, chunk + low, now)
    copies = ~adds
    if adds.any():
        _add(schedule, state, place[adds], sent[adds], source[adds], low, now)
    state[destination[copies], chunk[copies]] = sent[copies]
    written[destination, chunk] = now


def _check_races(
    schedule: Schedule, place: IntArray, adds: np.ndarray, destination: IntArray, chunk: IntArray,
    now: int,
) -> None:  # fmt: skip
    """Two writes of one place in one step are well defined only if both add."""
    order = np.argsort(place, kind="stable")
    same = place[order][1:] == place[order][:-1]
    clash = same & ~(adds[order][1:] & adds[order][:-1])
    if clash.any():
        i = int(order[1:][np.flatnonzero(clash)[0]])
        raise InputError(
            f"step {now}: two rows write chunk {int(chunk[i])} of {_node(schedule, destination[i])}"
            " at once, and one of them copies: the result depends on which comes first",
            hint="put them into different steps",
        )


def _add(
    schedule: Schedule, state: Words, place: IntArray, sent: Words, source: IntArray, low: int,
    now: int,
) -> None:  # fmt: skip
    """Add what is sent to what is there; InputError for a contribution that is there twice."""
    order = np.argsort(place, kind="stable")
    where, what = place[order], sent[order]
    heads = np.flatnonzero(np.concatenate([[True], where[1:] != where[:-1]]))
    width = state.shape[1]
    node, chunk = np.divmod(where[heads], width)
    before = state[node, chunk]
    after = before | np.bitwise_or.reduceat(what, heads, axis=0)
    expected = _count(before) + np.add.reduceat(_count(what), heads)
    wrong = np.flatnonzero(_count(after) != expected)
    if len(wrong):
        at = int(wrong[0])
        end = int(heads[at + 1]) if at + 1 < len(heads) else len(where)
        seen = before[at].copy()
        for i in range(int(heads[at]), end):
            twice = seen & what[i]
            if twice.any():
                raise InputError(
                    f"step {now}: the contribution of rank {_lowest(twice)} to chunk "
                    f"{low + int(chunk[at])} comes to {_node(schedule, node[at])} a second time, "
                    f"from {_node(schedule, source[order[i]])}",
                    hint="a reduction must bring only what is not yet there",
                )
            seen |= what[i]
    state[node, chunk] = after


def _count(words: Words) -> IntArray:
    return np.asarray(np.bitwise_count(words).sum(axis=-1, dtype=np.int64))


def _lowest(words: Words) -> int:
    word = int(np.flatnonzero(words)[0])
    value = int(words[word])
    return word * _WORD + (value & -value).bit_length() - 1


def _check_end(schedule: Schedule, state: Words, written: IntArray, low: int) -> None:
    ranks, chunks = schedule.ranks, state.shape[1]
    if _reduces(schedule):
        full = np.zeros(state.shape[2], dtype=np.uint64)
        everyone = np.arange(ranks)
        np.bitwise_or.at(
            full, everyone // _WORD, np.uint64(1) << (everyone % _WORD).astype(np.uint64)
        )
    else:
        full = np.ones(1, dtype=np.uint64)
    if schedule.collective == "reduce-scatter":
        chunk = np.arange(chunks)
        rank = np.asarray(schedule.owner)[low : low + chunks]
    elif schedule.collective in ("all-to-all", "send"):
        chunk = np.arange(chunks)
        rank = np.broadcast_to(np.asarray(schedule.target), (schedule.chunks,))
        rank = rank[low : low + chunks]
    else:
        chunk, rank = (a.reshape(-1) for a in np.indices((chunks, ranks)))
    held = state[rank, chunk]
    lacking = np.flatnonzero((held != full).any(axis=1))
    if not len(lacking):
        return
    i = int(lacking[0])
    missing = full & ~held[i]
    when = int(written[rank[i], chunk[i]])
    after = f"last written in step {when}" if when >= 0 else "never written"
    place = f"chunk {low + int(chunk[i])} of rank {int(rank[i])} ({after})"
    count = int(_count(missing))
    if _reduces(schedule):
        raise InputError(
            f"{place} lacks the contribution of rank {_lowest(missing)}"
            + (f" and {count - 1} more" if count > 1 else ""),
            hint=f"after step {schedule.steps - 1} it must hold those of all {ranks} ranks",
        )
    raise InputError(f"{place} never comes to rank {int(rank[i])}")


def _node(schedule: Schedule, node: int) -> str:
    return f"rank {int(node)}" if node < schedule.ranks else f"switch {int(node) - schedule.ranks}"


def check_orbit(orbit: OrbitSchedule, topology: Topology | None = None) -> Proof:
    """Prove a symmetric schedule from one chunk of each colour, or one rank's pieces.

    Shifts of the group map these on all others. Raises InputError as ``check`` does.
    """
    if topology is not None and topology.ranks != orbit.ranks:
        raise InputError(
            f"a schedule of {orbit.ranks} ranks on `{topology.name}` with {topology.ranks} chips"
        )
    _check_fractions(orbit)
    if orbit.displacement is not None:
        _check_pieces(orbit)
        rows = orbit.rows
    else:
        flat = _representatives(orbit)
        _check_order(flat)
        _follow(flat)
        rows = flat.rows
        if abs(float(orbit.colour_share.sum()) - 1.0) > 1e-9:
            raise InputError("the colours do not make up the buffer")
    return Proof(collective=orbit.collective, algorithm=orbit.algorithm, ranks=orbit.ranks,
                 chunks=len(orbit.colour_share), rows=rows, by_symmetry=True)  # fmt: skip


def _check_fractions(orbit: OrbitSchedule) -> None:
    """Each row must carry the share of the buffer that its blocks, or its pieces, make up."""
    if orbit.displacement is None:
        sides = np.asarray(orbit.grid.shape, dtype=np.float64)
        blocks = np.where(orbit.whole, sides, 1.0).prod(axis=1) / orbit.ranks
        carried = orbit.colour_share[orbit.colour] * blocks
    else:
        start, piece, share = orbit.piece_start, orbit.piece, orbit.piece_share
        if start is None or piece is None or share is None:
            raise InputError("an all-to-all by symmetry needs its pieces")
        row = np.repeat(np.arange(orbit.rows), np.diff(start))
        carried = np.bincount(row, weights=share[piece], minlength=orbit.rows)
    wrong = np.flatnonzero(np.abs(carried - orbit.fraction) > 1e-9 * np.maximum(carried, 1e-12))
    if len(wrong):
        first = int(wrong[0])
        raise InputError(
            f"row {first} (step {int(orbit.step[first])}) says it carries "
            f"{orbit.fraction[first]:.4g} of the buffer, its blocks make up {carried[first]:.4g}"
        )


def _representatives(orbit: OrbitSchedule) -> Schedule:
    """All rows of the chunk whose home is rank 0, of every colour: colour c's is chunk c."""
    shape = np.asarray(orbit.grid.shape)
    parts: list[tuple[IntArray, IntArray, IntArray]] = []
    # Rows that carry the same axes whole are followed together: on the others the sender stands
    # where the block's home is rank 0, on these everywhere.
    patterns, pattern = np.unique(orbit.whole, axis=0, return_inverse=True)
    for number, whole in enumerate(patterns):
        rows = np.flatnonzero(pattern.reshape(-1) == number)
        sides = np.where(whole, shape, 1)
        every = np.stack(np.unravel_index(np.arange(int(sides.prod())), tuple(sides)), axis=-1)
        fixed = np.where(whole, 0, -orbit.block[rows] % shape)
        point = fixed[:, None, :] + every[None, :, :]
        there = orbit.grid.rank(point + orbit.offset[rows][:, None, :])
        parts.append((np.repeat(rows, len(every)), orbit.grid.rank(point).reshape(-1),
                      there.reshape(-1)))  # fmt: skip
    nothing = (np.zeros(0, np.int64),) * 3
    row, source, destination = (
        np.concatenate([p[i] for p in parts or [nothing]]) for i in range(3)
    )
    by_row = np.lexsort([source, row])
    row, source, destination = row[by_row], source[by_row], destination[by_row]
    order = np.argsort(orbit.step[row], kind="stable")
    row = row[order]
    colours = len(orbit.colour_share)
    return Schedule(
        collective=orbit.collective, algorithm=orbit.algorithm, ranks=orbit.ranks,
        step=orbit.step[row], source=source[order], destination=destination[order],
        first_chunk=orbit.colour[row], chunk_count=np.ones(len(row), dtype=np.int64),
        reduce=orbit.reduce[row], colour=orbit.streams[row], share=orbit.colour_share,
        owner=np.zeros(colours, dtype=np.int64),
    )  # fmt: skip


def _check_pieces(orbit: OrbitSchedule) -> None:
    """All-to-all: every piece goes its whole way step by step, and together they reach everyone."""
    moved, share, start = orbit.displacement, orbit.piece_share, orbit.piece_start
    piece, came = orbit.piece, orbit.came
    if moved is None or share is None or start is None or piece is None or came is None:
        raise InputError("an all-to-all by symmetry needs its pieces")
    row = np.repeat(np.arange(orbit.rows), np.diff(start))
    by_piece = np.lexsort((orbit.step[row], piece))
    row, piece, came = row[by_piece], piece[by_piece], came[by_piece]
    step, offset = orbit.step[row], orbit.offset[row]
    same = np.concatenate([[False], piece[1:] == piece[:-1]])
    stands = np.zeros_like(came)
    stands[1:] = np.where(same[1:, None], came[:-1] + offset[:-1], 0)
    tied = np.concatenate([[False], same[1:] & (step[1:] == step[:-1])])
    bad = np.flatnonzero((stands != came).any(axis=1) | tied)
    if len(bad):
        i = int(bad[0])
        raise InputError(
            f"step {int(step[i])}: piece {int(piece[i])} is sent on from where it is not"
        )
    ends = np.zeros_like(moved)
    np.add.at(ends, piece, offset)
    lost = np.flatnonzero((ends != moved).any(axis=1))
    if len(lost):
        raise InputError(f"piece {int(lost[0])} of every rank never comes to its target")
    target = orbit.grid.rank(moved)
    reached = np.bincount(target, weights=share, minlength=orbit.ranks)
    uneven = np.flatnonzero(np.abs(reached[1:] - 1.0 / orbit.ranks) > 1e-9)
    if len(uneven):
        rank = int(uneven[0]) + 1
        raise InputError(f"rank 0 sends rank {rank} {reached[rank]:.4g} of its buffer, "
                         f"not 1/{orbit.ranks}")  # fmt: skip
