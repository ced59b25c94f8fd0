"""Collectives of a fully joined group: every rank reads from every other, sums in rank order.

What runs where no schedule is asked for: within one host all ranks reach each other's memory alike.
All ranks get the same bits, those of a sum over ranks 0, 1, 2, ...
"""

from __future__ import annotations

import numpy as np

from weftline.runtime.group.program import (
    COMPACT,
    COPY,
    JOIN,
    MOVE,
    OUT,
    POST,
    PUT,
    SLOT,
    SUM,
    WAIT,
    Chunks,
    Op,
    Program,
)  # fmt: skip

__all__ = ["all_gather", "all_reduce", "barrier", "broadcast", "gather", "reduce_scatter",
           "scatter", "shared_sum"]  # fmt: skip


def _others(rank: int, ranks: int) -> list[int]:
    """All but this one, each rank beginning with its next: readers spread over the sources."""
    return [(rank + d) % ranks for d in range(1, ranks)]


def _parts(ranks: int) -> Chunks:
    """One segment, cut into a part a rank."""
    edges = np.arange(ranks + 1) / ranks
    none = np.zeros(ranks, np.int64)
    return Chunks(low=edges[:-1], high=edges[1:], source=none, target=none)


def _segments(ranks: int, *, source: bool, target: bool) -> Chunks:
    """A whole segment a rank, in the input or the output or both."""
    every, none = np.arange(ranks), np.zeros(ranks, np.int64)
    return Chunks(
        low=np.zeros(ranks), high=np.ones(ranks), source=every if source else none,
        target=every if target else none,
    )  # fmt: skip


def _made(name: str, ops: list[Op], chunks: Chunks, share: float, values: int = 5) -> Program:
    return Program(name=name, streams=(tuple(ops),), chunks=chunks, slot_share=share, values=values)


def all_reduce(rank: int, ranks: int) -> Program:
    """Each rank sums its part of all, then reads the others' sums."""
    others = _others(rank, ranks)
    ops = []
    if rank:
        ops.append(Op(PUT, where=SLOT, first=0, many=rank))
    if rank + 1 < ranks:
        ops.append(Op(PUT, where=SLOT, first=rank + 1, many=ranks - rank - 1))
    ops.append(Op(POST, value=1))
    ops += [Op(WAIT, r, 1) for r in others]
    ops.append(Op(SUM, rank, 0, SLOT | OUT, rank, 1))
    ops.append(Op(POST, value=3))
    for r in others:
        ops += [Op(WAIT, r, 3), Op(COPY, r, 0, OUT, r, 1)]
    return _made("all-reduce", ops, _parts(ranks), 1.0)


def reduce_scatter(rank: int, ranks: int) -> Program:
    """Each rank sums its own segment of all."""
    ops = []
    for r in range(ranks):
        if r != rank:
            ops.append(Op(PUT, where=SLOT, first=r, many=1))
    ops.append(Op(POST, value=1))
    ops += [Op(WAIT, r, 1) for r in _others(rank, ranks)]
    ops.append(Op(SUM, rank, 0, OUT, rank, 1))
    return _made("reduce-scatter", ops, _segments(ranks, source=True, target=False), float(ranks))


def all_gather(rank: int, ranks: int) -> Program:
    """Each rank reads all others' segments."""
    ops = [Op(PUT, where=SLOT | COMPACT, first=rank, many=1), Op(POST, value=1)]
    ops.append(Op(MOVE, where=OUT, first=rank, many=1))
    for r in _others(rank, ranks):
        ops += [Op(WAIT, r, 1), Op(COPY, r, 0, OUT | COMPACT, r, 1)]
    return _made("all-gather", ops, _segments(ranks, source=False, target=True), 1.0)


def broadcast(rank: int, root: int) -> Program:
    """All read from one."""
    one = _segments(1, source=False, target=False)
    if rank == root:
        ops = [Op(PUT, where=SLOT, first=0, many=1), Op(POST, value=1)]
    else:
        ops = [Op(WAIT, root, 1), Op(COPY, root, 0, OUT, 0, 1)]
    return _made("broadcast", ops, one, 1.0)


def scatter(rank: int, ranks: int, root: int) -> Program:
    """Each reads its segment from one."""
    chunks = _segments(ranks, source=True, target=False)
    if rank == root:
        ops = [Op(PUT, where=SLOT, first=r, many=1) for r in range(ranks) if r != rank]
        ops += [Op(POST, value=1), Op(MOVE, where=OUT, first=rank, many=1)]
    else:
        ops = [Op(WAIT, root, 1), Op(COPY, root, 0, OUT, rank, 1)]
    return _made("scatter", ops, chunks, float(ranks))


def gather(rank: int, ranks: int, root: int) -> Program:
    """One reads all segments."""
    chunks = _segments(ranks, source=False, target=True)
    if rank != root:
        ops = [Op(PUT, where=SLOT | COMPACT, first=rank, many=1), Op(POST, value=1)]
    else:
        ops = [Op(MOVE, where=OUT, first=rank, many=1)]
        for r in _others(rank, ranks):
            ops += [Op(WAIT, r, 1), Op(COPY, r, 0, OUT | COMPACT, r, 1)]
    return _made("gather", ops, chunks, 1.0)


def barrier(rank: int, ranks: int) -> Program:
    """All have come."""
    ops = [Op(POST, value=1), *(Op(WAIT, r, 1) for r in _others(rank, ranks))]
    return _made("barrier", ops, _segments(1, source=False, target=False), 0.0)


def shared_sum(rank: int, ranks: int) -> Program:
    """Sum of tensors that lie in memory all ranks reach: each writes its part to all of them."""
    others = _others(rank, ranks)
    ops = [Op(POST, value=1), *(Op(WAIT, r, 1) for r in others), Op(JOIN, first=rank, many=1),
           Op(POST, value=3), *(Op(WAIT, r, 3) for r in others)]  # fmt: skip
    return _made("all-reduce of shared memory", ops, _parts(ranks), 0.0)
