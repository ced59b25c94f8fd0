"""Programs whose ranks do not share memory: what a rank would read of another host is sent to it.

A read of a far slot becomes a ``RECV`` into a mirror of that slot, at the begin of its step, and a
``SEND`` at its owner, right after the ``POST`` that the read would have waited for. Sends do not
block: an owner waits (``FLUSH``) only before it overwrites what is still being sent. So every rank
has all sends of a step on their way before it waits for what comes, and none waits in a circle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from weftline.runtime.group.program import (
    ADD,
    COMPACT,
    COPY,
    FETCH,
    FLUSH,
    MIRROR,
    POST,
    PUT,
    RECV,
    SEND,
    SLOT,
    SUM,
    WAIT,
    Op,
    Program,
)  # fmt: skip

__all__ = ["between_hosts"]

Bools = np.ndarray[tuple[int, ...], np.dtype[np.bool_]]


def between_hosts(programs: Sequence[Program], rank: int, remote: Bools) -> Program:
    """The program of one rank, given those of all ranks as if they shared memory.

    ``remote`` [ranks, ranks] says which do not. Programs have one stream each.
    """
    ranks = len(programs)
    wanted: dict[int, list[tuple[int, Op]]] = {}
    for reader in range(ranks):
        if reader != rank and remote[rank, reader]:
            wanted[reader] = [
                (value, op) for value, peer, op in _reads(programs[reader], reader, ranks)
                if peer == rank
            ]  # fmt: skip
    mine = _reads(programs[rank], rank, ranks)
    out: list[Op] = []
    pending = False
    at = 0
    for value, segment in _segments(programs[rank].streams[0]):
        sends = [
            Op(SEND, reader, 0, op.where & COMPACT, op.first, op.many)
            for reader, reads in wanted.items() for needed, op in reads if needed == value
        ]  # fmt: skip
        out += sends
        pending |= bool(sends)
        rest: list[Op] = []
        for op in segment:
            if op.op == WAIT and remote[rank, op.peer]:
                continue
            far = False
            while at < len(mine) and mine[at][2] is op:
                _, peer, _ = mine[at]
                if remote[rank, peer]:
                    out.append(Op(RECV, peer, 0, op.where & COMPACT, op.first, op.many))
                    far = True
                at += 1
            if far and op.op == FETCH:
                continue
            rest.append(op._replace(where=op.where | MIRROR) if far and op.op != SUM else op)
        for op in rest:
            if pending and (op.op == PUT or (op.op in (SUM, ADD, COPY) and op.where & SLOT)):
                out.append(Op(FLUSH))
                pending = False
            out.append(op)
    if pending:
        out.append(Op(FLUSH))
    return replace(programs[rank], streams=(tuple(out),))


def _segments(ops: Sequence[Op]) -> list[tuple[int, list[Op]]]:
    """Instructions after each POST up to the next, it included, with the value posted before."""
    found: list[tuple[int, list[Op]]] = [(0, [])]
    for op in ops:
        found[-1][1].append(op)
        if op.op == POST:
            found.append((op.value, []))
    return found


def _reads(program: Program, rank: int, ranks: int) -> list[tuple[int, int, Op]]:
    """(value that was waited for, owner, instruction) of every read of another's slot, in order."""
    seen: dict[int, int] = {}
    found = []
    for op in program.streams[0]:
        if op.op == WAIT:
            seen[op.peer] = op.value
        elif op.op == FETCH or (op.op in (COPY, ADD) and not op.where & MIRROR):
            found.append((seen.get(op.peer, 0), op.peer, op))
        elif op.op == SUM:
            found += [(seen.get(r, 0), r, op) for r in range(ranks) if r != rank]
    return found
