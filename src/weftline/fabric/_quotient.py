"""Synthesis on the symmetry quotient: one chip's rows for networks that every shift maps on itself.

Each chip's share is cut into pieces; a piece must reach every displacement from its home. Links
that leave a chip are the generators of the group: giving (piece, displacement) to one of them
gives it, by symmetry, to all its shifts. So an all-gather of N chips takes pieces * (N - 1) gifts,
dealt out so that every generator works all the time: a few thousand steps of one small queue, where
the real network would move pieces * N * (N - 1) messages.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass

import numpy as np

from weftline.errors import InputError
from weftline.fabric.graph import FloatArray, Grid, IntArray, Topology
from weftline.fabric.orbit import OrbitSchedule
from weftline.fabric.schedule import Collective


@dataclass(frozen=True, slots=True, eq=False)
class Generators:
    """The links that leave a chip, by where they lead."""

    grid: Grid
    move: IntArray
    """[generators, axes] destination minus source, as travelled."""
    seconds_per_byte: FloatArray
    latency_s: FloatArray

    def turned(self) -> Generators:
        """Those of the network with every link turned round."""
        return Generators(self.grid, -self.move, self.seconds_per_byte, self.latency_s)


def generators_of(topology: Topology) -> Generators | None:
    """The generators of a network of chips alone that is symmetric under shifts; else None."""
    grid = topology.group
    if (
        grid is None or not topology.is_symmetric or topology.switches
        or topology.injection_bytes_per_s is not None or any(grid.twist)
    ):  # fmt: skip
        return None
    own = np.flatnonzero(topology.source == 0)
    if len(own) * topology.ranks != topology.links:
        return None
    move = grid.coordinates(topology.destination[own])
    sides = np.asarray(grid.shape)
    move = np.where(2 * move > sides, move - sides, move)
    return Generators(
        grid, move, 1.0 / topology.bandwidth_bytes_per_s[own], topology.latency_s[own]
    )


def gather_rows(
    found: Generators, pieces: int, share_bytes: float
) -> tuple[IntArray, IntArray, IntArray, IntArray]:
    """(piece, generator, rank displacement from home of the sender, step) of an all-gather.

    ``share_bytes``: what each chip starts with. A generator that is free takes the oldest piece
    its far end lacks; what has just come may go on at once.
    """
    grid, count = found.grid, len(found.move)
    ranks = grid.size
    points = grid.coordinates(np.arange(ranks))
    there = np.stack([grid.rank(points + move) for move in found.move]).tolist()
    duration = (found.seconds_per_byte * share_bytes / pieces).tolist()
    delay = found.latency_s.tolist()
    claimed = np.zeros((pieces, ranks), dtype=np.bool_)
    claimed[:, 0] = True
    taken = [row.tolist() for row in claimed]
    level = np.zeros((pieces, ranks), dtype=np.int64).tolist()
    last = [[0] * count for _ in range(pieces)]
    queue: list[deque[tuple[int, int]]] = [deque() for _ in range(count)]
    rows: list[tuple[int, int, int, int]] = []
    # Generators start on different pieces, so that pieces have mirror-image beginnings.
    heap: list[tuple[float, int, int, int]] = [(0.0, 1, p, 0) for p in range(pieces)]
    heapq.heapify(heap)
    idle = [True] * count
    missing = pieces * (ranks - 1)
    while missing:
        now = heap[0][0]
        while heap and heap[0][0] <= now * (1 + 1e-12):
            _, kind, first, second = heapq.heappop(heap)
            if kind == 0:
                idle[first] = True
                continue
            for g in range(count):
                if not taken[first][there[g][second]]:
                    queue[g].append((first, second))
        for g in range(count):
            while idle[g] and queue[g]:
                piece, at = queue[g].popleft()
                to = there[g][at]
                if taken[piece][to]:
                    continue
                taken[piece][to] = True
                step = max(level[piece][at], last[piece][g])
                level[piece][to] = last[piece][g] = step + 1
                rows.append((piece, g, at, step))
                idle[g] = False
                missing -= 1
                heapq.heappush(heap, (now + duration[g], 0, g, 0))
                heapq.heappush(heap, (now + duration[g] + delay[g], 1, piece, to))
        if missing and not heap:
            raise InputError("links of the network do not join all its chips")
    piece_of, generator, at_rank, steps = (
        np.array(c, dtype=np.int64) for c in zip(*rows, strict=True)
    )
    return piece_of, generator, at_rank, steps


def symmetric_schedule(
    found: Generators, collective: Collective, pieces: int, size_bytes: float
) -> OrbitSchedule:
    """All-gather, reduce-scatter (the same backwards on turned links) or both, as one chip's rows.

    Raises InputError for another collective.
    """
    if collective not in ("all-gather", "reduce-scatter", "all-reduce"):
        raise InputError(f"no synthesis of {collective} by symmetry")
    grid = found.grid
    share_bytes = max(size_bytes, 1.0) / grid.size
    parts: list[tuple[IntArray, IntArray, IntArray, IntArray, bool]] = []
    begin = 0
    if collective != "all-gather":
        turned = found.turned()
        piece, g, at, step = gather_rows(turned, pieces, share_bytes)
        block = -grid.coordinates(at) - turned.move[g]
        last = int(step.max())
        parts.append((last - step, -turned.move[g], block, piece, True))
        begin = last + 1
    if collective != "reduce-scatter":
        piece, g, at, step = gather_rows(found, pieces, share_bytes)
        parts.append((begin + step, found.move[g], -grid.coordinates(at), piece, False))
    step, offset, block, colour = (np.concatenate([p[i] for p in parts]) for i in range(4))
    reduce = np.concatenate([np.full(len(p[0]), p[4]) for p in parts])
    order = np.argsort(step, kind="stable")
    axes = len(grid.shape)
    return OrbitSchedule(
        collective=collective, algorithm="synthesized", grid=grid,
        step=step[order], offset=offset[order], block=(block % np.asarray(grid.shape))[order],
        whole=np.zeros((len(step), axes), dtype=np.bool_), reduce=reduce[order],
        colour=colour[order], fraction=np.full(len(step), 1.0 / (pieces * grid.size)),
        colour_share=np.full(pieces, 1.0 / pieces),
        colour_order=np.tile(np.arange(axes), (pieces, 1)),
    )  # fmt: skip
