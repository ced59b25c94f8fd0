"""All-to-all: every rank has something for every other.

Direct: everything at once, each message straight to its target. On a torus with k (even) chips on
its longest side it takes M k/(8 b), as every link carries the same. Ordered: every chip talks to
its neighbours only; pieces travel one axis after the other, and are handed on from chip to chip.
"""

from __future__ import annotations

from itertools import product

import numpy as np

from weftline.errors import InputError
from weftline.fabric.algorithms.rows import Rows, schedule
from weftline.fabric.graph import FloatArray, Grid, IntArray, Topology
from weftline.fabric.orbit import MAX_FLAT_ROWS, OrbitSchedule
from weftline.fabric.schedule import Schedule


def displacements(grid: Grid, *, split: bool = True) -> tuple[IntArray, FloatArray]:
    """([pieces, axes] how far, [pieces] share) of everything a chip sends, shortest ways.

    Half of what goes to the other side of a ring (side 2h, distance h) goes each way if ``split``;
    a side of 2 has one cable, and one way.
    """
    ways: list[list[tuple[int, float]]] = []
    for side in grid.shape:
        here: list[tuple[int, float]] = []
        for d in range(side):
            near = d if 2 * d <= side else d - side
            if 2 * d == side and side > 2 and split:
                here += [(near, 0.5), (-near, 0.5)]
            else:
                here.append((near, 1.0))
        ways.append(here)
    far = np.array([[d for d, _ in way] for way in product(*ways)], dtype=np.int64)
    share = np.array([np.prod([s for _, s in way]) for way in product(*ways)]) / grid.size
    moves = far.any(axis=1)
    return far[moves], np.asarray(share[moves], dtype=np.float64)


def direct_all_to_all(topology: Topology) -> Schedule | OrbitSchedule:
    """All messages at once. On symmetric networks the rows of one chip, any size at once.

    Raises InputError for a flat schedule of more rows than can be written.
    """
    grid = topology.grid
    if grid is not None and grid.is_symmetric:
        return _direct_orbit(grid, split=True)
    if topology.is_symmetric and topology.group is not None:
        return _direct_orbit(topology.group, split=False)
    ranks = topology.ranks
    if ranks * ranks > MAX_FLAT_ROWS:
        raise InputError(f"an all-to-all of {ranks:,} ranks is too large without symmetry")
    source, destination = (a.reshape(-1) for a in np.indices((ranks, ranks)))
    moves = np.flatnonzero(source != destination)
    rows = Rows.of(
        step=0, source=source[moves], destination=destination[moves], first_chunk=moves,
        chunk_count=1, reduce=False, colour=0,
    )  # fmt: skip
    return schedule(
        rows, "all-to-all", "direct", ranks, share=np.full(ranks * ranks, 1.0 / ranks),
        owner=source, target=destination,
    )  # fmt: skip


def _direct_orbit(grid: Grid, *, split: bool) -> OrbitSchedule:
    far, share = displacements(grid, split=split)
    rows, axes = far.shape
    one = np.zeros(rows, dtype=np.int64)
    return OrbitSchedule(
        collective="all-to-all", algorithm="direct", grid=grid, step=one, offset=far, block=far,
        whole=np.zeros((rows, axes), dtype=np.bool_), reduce=np.zeros(rows, dtype=np.bool_),
        colour=one, fraction=share, colour_share=np.array([1.0]),
        colour_order=np.arange(axes)[None, :], displacement=far, piece_share=share,
        piece_colour=one, piece_start=np.arange(rows + 1), piece=np.arange(rows),
        came=np.zeros((rows, axes), dtype=np.int64),
    )  # fmt: skip


def ordered_all_to_all(topology: Topology) -> OrbitSchedule:
    """From neighbour to neighbour, axis after axis; one colour for each rotation of the axes.

    In step t of an axis all pieces that still have more than t chips to go along it move on by
    one. Raises InputError unless the network is a torus.
    """
    grid = topology.grid
    if grid is None or not grid.is_symmetric:
        raise InputError(
            f"the ordered all-to-all needs a torus, `{topology.name}` is none",
            hint="`direct` runs on any network",
        )
    far, share = displacements(grid)
    axes = [a for a, side in enumerate(grid.shape) if side > 1]
    turns = [axes[i:] + axes[:i] for i in range(len(axes))] or [[]]
    rest = [a for a in range(len(grid.shape)) if a not in axes]
    pieces, count = len(far), len(turns)
    found: list[tuple[int, int, IntArray, IntArray, IntArray]] = []
    for colour, turn in enumerate(turns):
        came = np.zeros_like(far)
        begin = 0
        for axis in turn:
            side = grid.shape[axis]
            for way in (1, -1) if side > 2 else (1,):
                for t in range(side // 2):
                    goes = np.flatnonzero(far[:, axis] * way > t)
                    if len(goes):
                        move = np.zeros(far.shape[1], dtype=np.int64)
                        move[axis] = way
                        found.append((begin + t, colour, move, colour * pieces + goes,
                                      came[goes] + t * move))  # fmt: skip
            came[:, axis] = far[:, axis]
            begin += side // 2
    found.sort(key=lambda row: row[0])
    shares = np.tile(share / count, count)
    carried = [f[3] for f in found]
    step = np.array([f[0] for f in found], dtype=np.int64)
    offset = np.array([f[2] for f in found], dtype=np.int64).reshape(-1, len(grid.shape))
    return OrbitSchedule(
        collective="all-to-all", algorithm="ordered", grid=grid, step=step, offset=offset,
        block=np.zeros_like(offset), whole=np.ones(offset.shape, dtype=np.bool_),
        reduce=np.zeros(len(step), dtype=np.bool_),
        colour=np.array([f[1] for f in found], dtype=np.int64),
        fraction=np.array([shares[c].sum() for c in carried]),
        colour_share=np.full(count, 1.0 / count),
        colour_order=np.array([t + rest for t in turns], dtype=np.int64),
        displacement=np.tile(far, (count, 1)), piece_share=shares,
        piece_colour=np.repeat(np.arange(count), pieces),
        piece_start=np.concatenate([[0], np.cumsum([len(c) for c in carried])]).astype(np.int64),
        piece=np.concatenate(carried) if carried else np.zeros(0, np.int64),
        came=np.concatenate([f[4] for f in found]) if found
        else np.zeros((0, offset.shape[1]), np.int64),
    )  # fmt: skip
