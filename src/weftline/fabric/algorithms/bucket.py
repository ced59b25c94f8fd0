"""The multi-dimensional bucket algorithm: reduce-scatter axis by axis, all links at work.

A colour is a share of the buffer with an order of the axes and a direction. On its first axis it
runs a ring reduce-scatter, on the next one of what is left, and so on; the all-gather is the same
backwards. Colours whose axis orders are rotations of each other keep every link busy (Chan et al.
2007; the 2d colours of torus collectives). Where sides or speeds differ a linear programme shares
the buffer out. On an open axis a chain stands for the ring: partial sums run to each chip from
both ends, which needs both directions of the links, and so twice the time.

Hierarchical all-reduce is the same with one colour: inside first, then across.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import permutations

import numpy as np

from weftline.errors import InputError
from weftline.fabric.algorithms.rows import Rows, backwards, finish, schedule
from weftline.fabric.graph import BoolArray, FloatArray, Grid, IntArray, Topology
from weftline.fabric.orbit import OrbitSchedule
from weftline.fabric.schedule import Collective, Schedule

UNEVEN_PIECES = 8
"""Pieces on unequal axes: 0.98 of the bound and more on the tori of this room's tests."""
MAX_AXES = 6
"""Axes of which the programme weighs every order; of more, rotations only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Colour:
    """A share of the buffer, the order of its axes and the direction it goes round them."""

    share: float
    order: tuple[int, ...]
    down: bool = False
    stream: int = 0
    """Pieces of one stream follow each other over the same connections."""
    begin: int = 0
    """Step at which it starts: pieces of a stream one phase apart."""


def colours_of(
    grid: Grid, speed: Sequence[float], pieces: int = 1, *, overlap: bool = False
) -> list[Colour]:
    """Colours that use all links of a grid; ``speed`` is one link of each axis, bytes a second.

    Equal sides and speeds: every axis once first, both ways round. Else the linear programme of
    ``balanced``, which needs ``pieces`` that follow each other to keep all axes busy at once.
    ``overlap``: pieces are gathered while others are still reduced (all-reduce).
    """
    axes = [a for a, side in enumerate(grid.shape) if side > 1]
    if not axes:
        return [Colour(share=1.0, order=tuple(range(len(grid.shape))))]
    if is_even(grid, speed):
        turns = [tuple(axes[i:] + axes[:i]) for i in range(len(axes))]
        shares = [(1.0 / len(axes), turn) for turn in turns]
    else:
        shares = balanced(grid, axes, speed, overlap=overlap)
    rest = tuple(a for a, side in enumerate(grid.shape) if side == 1)
    both = any(_is_ring(grid, a) for a in axes)
    ways = [
        (share / (2 if both else 1), order + rest, down)
        for share, order in shares
        for down in ((False, True) if both else (False,))
    ]
    return in_pieces(ways, pieces, max(grid.shape) - 1)


def in_pieces(
    ways: Sequence[tuple[float, tuple[int, ...], bool]], pieces: int, apart: int
) -> list[Colour]:
    """Each (share, order, down) as ``pieces`` colours of one stream, ``apart`` steps apart."""
    if pieces < 1:
        raise InputError(f"{pieces} pieces", hint="at least one")
    return [
        Colour(share=share / pieces, order=order, down=down, stream=stream, begin=piece * apart)
        for stream, (share, order, down) in enumerate(ways)
        for piece in range(pieces)
    ]


def is_even(grid: Grid, speed: Sequence[float]) -> bool:
    """Whether all axes longer than 1 have the same side, speed and wrap-around."""
    axes = [a for a, side in enumerate(grid.shape) if side > 1]
    return len({(grid.shape[a], grid.wraps[a], speed[a]) for a in axes}) <= 1


def _is_ring(grid: Grid, axis: int) -> bool:
    """Whether an axis has a ring of links in each direction (a side of 2 has one cable)."""
    return grid.wraps[axis] and grid.shape[axis] > 2


def balanced(
    grid: Grid,
    axes: Sequence[int],
    speed: Sequence[float],
    *,
    overlap: bool = False,
    direct: frozenset[int] = frozenset(),
) -> list[tuple[float, tuple[int, ...]]]:
    """(share, order): the least time in which the links of every axis carry their bytes.

    Variables: a share for every order, and the time. A colour of order o sends, in its phase on
    axis a, ``share * (k-1)/k / (sides before)`` over links of a; half of it each way on a ring. On
    an open axis the busiest link of the reduce-scatter (k - 1 of k blocks) is the idlest of the
    all-gather (1 of k): where they ``overlap`` each counts half of their sum. On ``direct`` axes
    one link, of the axis' speed, carries all that a chip sends along it.
    """
    from scipy.optimize import linprog

    orders = list(permutations(axes)) if len(axes) <= MAX_AXES else [
        tuple(axes[i:]) + tuple(axes[:i]) for i in range(len(axes))
    ]  # fmt: skip
    limits = np.zeros((len(axes), len(orders) + 1))
    for column, order in enumerate(orders):
        left = 1.0
        for axis in order:
            side = grid.shape[axis]
            sent = left * (side - 1) / side
            if axis not in direct and _is_ring(grid, axis):
                sent /= 2
            elif axis not in direct and overlap:
                sent = left / 2
            limits[list(axes).index(axis), column] = sent / speed[axis] * max(speed)
            left /= side
    limits[:, -1] = -1.0
    cost = np.append(np.zeros(len(orders)), 1.0)
    whole = np.append(np.ones(len(orders)), 0.0)[None, :]
    answer = linprog(
        cost, A_ub=limits, b_ub=np.zeros(len(axes)), A_eq=whole, b_eq=[1.0], method="highs"
    )
    shares = np.clip(answer.x[:-1], 0.0, None)
    shares[shares < 1e-9] = 0.0
    shares /= shares.sum()
    return [(float(s), o) for s, o in zip(shares, orders, strict=True) if s > 0]


def bucket_orbit(
    grid: Grid,
    collective: Collective,
    colours: Sequence[Colour],
    *,
    algorithm: str = "bucket",
    direct: frozenset[int] = frozenset(),
) -> OrbitSchedule:
    """The schedule of one chip, for a grid whose every axis closes on itself.

    On the axes of ``direct`` every chip sends to every other at once, in one step, as switches and
    full meshes allow; else blocks go round the ring. Raises InputError for an open or twisted
    axis, and for a collective it does not do.
    """
    if not grid.is_symmetric:
        raise InputError(f"{algorithm} by symmetry needs a grid that closes on every axis")
    parts = [_scatter_rows(grid, number, colour, direct) for number, colour in enumerate(colours)]
    step, offset, block, whole, colour_of, fraction = (
        np.concatenate([p[i] for p in parts]) for i in range(6)
    )
    last = np.array(
        [sum(1 if a in direct and grid.shape[a] > 1 else grid.shape[a] - 1 for a in c.order)
         for c in colours], dtype=np.int64,
    )[colour_of]  # fmt: skip
    begin = np.array([c.begin for c in colours], dtype=np.int64)[colour_of]
    # Backwards the destination sends to the source, and the last step goes first.
    back = np.where(whole, 0, block - offset)
    forth = (begin + step, offset, block, whole, colour_of, fraction)
    again = (begin + last - 1 - step, -offset, back, whole, colour_of, fraction)
    if collective == "all-reduce":
        rows = tuple(np.concatenate([a, b]) for a, b in zip(forth, again, strict=True))
        halves = _interleaved(forth[0], last + again[0], colours)
        rows = (np.concatenate(halves), *rows[1:])
    elif collective in ("reduce-scatter", "all-gather"):
        rows = forth if collective == "reduce-scatter" else again
    else:
        raise InputError(f"{algorithm} does no {collective}")
    reduce = np.arange(len(rows[0])) < len(step)
    if collective == "all-gather":
        reduce = np.zeros(len(step), dtype=np.bool_)
    by_step = np.argsort(rows[0], kind="stable")
    return OrbitSchedule(
        collective=collective, algorithm=algorithm, grid=grid,
        step=rows[0][by_step], offset=rows[1][by_step], block=rows[2][by_step],
        whole=rows[3][by_step], reduce=reduce[by_step], colour=rows[4][by_step],
        fraction=rows[5][by_step],
        colour_share=np.array([c.share for c in colours]),
        colour_order=np.array([c.order for c in colours], dtype=np.int64),
        stream=np.array([c.stream for c in colours], dtype=np.int64)[rows[4][by_step]],
    )  # fmt: skip


def _scatter_rows(
    grid: Grid, number: int, colour: Colour, direct: frozenset[int]
) -> tuple[IntArray, IntArray, IntArray, BoolArray, IntArray, FloatArray]:
    """Reduce-scatter rows of one colour: (step, offset, block, whole, colour, fraction)."""
    axes = len(grid.shape)
    total = sum(side - 1 for side in grid.shape)
    step: IntArray = np.empty(total, dtype=np.int64)
    offset, block = (np.zeros((total, axes), dtype=np.int64) for _ in range(2))
    whole = np.ones((total, axes), dtype=np.bool_)
    fraction: FloatArray = np.empty(total)
    at, left, begin = 0, colour.share, 0
    for axis in colour.order:
        side = grid.shape[axis]
        rows = slice(at, at + side - 1)
        move = -1 if colour.down and side > 2 else 1
        ahead = np.arange(1, side)
        if axis in direct and side > 1:
            # Everyone's block goes straight to its home.
            offset[rows, axis] = block[rows, axis] = move * ahead
            step[rows] = begin
            begin += 1
        else:
            # Step t sends on what has come from t chips behind: the block that is t + 1 behind.
            offset[rows, axis] = move
            block[rows, axis] = -move * ahead
            step[rows] = begin + ahead - 1
            begin += side - 1
        whole[at:, axis] = False
        fraction[rows] = left / side
        left /= side
        at += side - 1
    column = np.full(total, number, dtype=np.int64)
    return step, offset, block, whole, column, np.asarray(fraction, dtype=np.float64)


def bucket_flat(
    grid: Grid,
    collective: Collective,
    colours: Sequence[Colour],
    *,
    algorithm: str = "bucket",
) -> Schedule:
    """The flat schedule on any untwisted grid: rings on axes that close, chains on open ones."""
    if any(grid.twist):
        raise InputError(
            f"{algorithm} on a twisted torus: its axes do not close on themselves",
            hint="synthesize a schedule for it, or leave the twist out",
        )
    points = grid.coordinates(np.arange(grid.size))
    parts = [_flat_colour(grid, points, number, c) for number, c in enumerate(colours)]
    share = np.repeat([c.share / grid.size for c in colours], grid.size)
    owner = np.concatenate([_homes(grid, c.order) for c in colours])
    # Here and not later, as `backwards` counts from the last step of the piece itself.
    gathers = [backwards(p) for p in parts]
    if collective == "all-reduce":
        gathers = [g.delayed(_steps(p)) for g, p in zip(gathers, parts, strict=True)]
    scatter, gather = (
        _streams(Rows.concatenate(half), grid.size, colours) for half in (parts, gathers)
    )
    if collective == "all-reduce":
        steps = _interleaved(scatter.step, gather.step, colours)
        rows = replace(Rows.concatenate([scatter, gather]), step=np.concatenate(steps))
        return schedule(rows, collective, algorithm, grid.size, share=share, owner=owner)
    return finish(scatter, gather, collective, algorithm, grid.size, share=share, owner=owner)


def _interleaved(
    scatter: IntArray, gather: IntArray, colours: Sequence[Colour]
) -> tuple[IntArray, IntArray]:
    """Steps of the two halves; with pieces even and odd ones, as the reduce-scatter of one piece
    and the all-gather of another may share a connection, where steps say who goes first."""
    if len({c.stream for c in colours}) == len(colours):
        return scatter, gather
    return 2 * scatter, 2 * gather + 1


def _steps(rows: Rows) -> int:
    return int(rows.step.max(initial=-1)) + 1


def _streams(rows: Rows, ranks: int, colours: Sequence[Colour]) -> Rows:
    """Rows that carry chunks of a piece, delayed by its start and given its stream as colour."""
    piece = rows.first_chunk // ranks
    begin = np.array([c.begin for c in colours], dtype=np.int64)
    stream = np.array([c.stream for c in colours], dtype=np.int64)
    return replace(rows, step=rows.step + begin[piece], colour=stream[piece])


def _homes(grid: Grid, order: tuple[int, ...]) -> IntArray:
    """[ranks] home of each chunk of a colour: its number's digits are coordinates in ``order``."""
    digits = np.unravel_index(np.arange(grid.size), tuple(grid.shape[a] for a in order))
    point = np.empty((grid.size, len(order)), dtype=np.int64)
    for digit, axis in zip(digits, order, strict=True):
        point[:, axis] = digit
    return grid.rank(point)


def _flat_colour(grid: Grid, points: IntArray, number: int, colour: Colour) -> Rows:
    """Reduce-scatter of one colour over the axes in its order."""
    parts: list[Rows] = []
    prefix = np.zeros(grid.size, dtype=np.int64)
    size, begin = grid.size, 0
    for axis in colour.order:
        side = grid.shape[axis]
        size //= side
        if side > 1:
            sent, to, rank, when = _axis_rows(grid, points, axis, colour.down)
            target = points[rank].copy()
            target[:, axis] = to
            parts.append(Rows.of(
                step=begin + when, source=rank, destination=grid.rank(target),
                first_chunk=number * grid.size + prefix[rank] + sent * size, chunk_count=size,
                reduce=True, colour=number,
            ))  # fmt: skip
            begin += side - 1
        prefix = prefix + points[:, axis] * size
    return Rows.concatenate(parts) if parts else Rows.none()


def _axis_rows(
    grid: Grid, points: IntArray, axis: int, down: bool
) -> tuple[IntArray, IntArray, IntArray, IntArray]:
    """(block sent, coordinate sent to, rank, step) of every transfer along one axis."""
    side = grid.shape[axis]
    here = points[:, axis]
    rank = np.arange(grid.size)
    found: list[tuple[IntArray, IntArray, IntArray, IntArray]] = []
    for t in range(side - 1):
        if _is_ring(grid, axis):
            move = -1 if down else 1
            sent = (here - move * (t + 1)) % side
            found.append((sent, (here + move) % side, rank, np.full(grid.size, t)))
            continue
        # A chain: block b leaves the far end first, one chip a step, from both ends.
        up = side - 1 - t + here
        goes = (up > here) & (up < side)
        found.append((up[goes], here[goes] + 1, rank[goes], np.full(int(goes.sum()), t)))
        low = t - (side - 1 - here)
        goes = (low < here) & (low >= 0)
        found.append((low[goes], here[goes] - 1, rank[goes], np.full(int(goes.sum()), t)))
    sent, to, rank, when = (np.concatenate([f[i] for f in found]) for i in range(4))
    return sent, to, rank, when


def bucket(
    topology: Topology, collective: Collective, *, pieces: int | None = None
) -> Schedule | OrbitSchedule:
    """All links of a torus or mesh at once. Raises InputError off a grid or on a twisted one.

    ``pieces`` follow each other, so that axes of unequal sides or speeds all stay busy: 8 by
    default where they are unequal, else 1. A torus with failed or slowed links gets the schedule
    of the whole one.
    """
    grid = topology.grid
    if grid is None:
        raise InputError(
            f"the bucket algorithm needs a torus or mesh, `{topology.name}` is neither",
            hint="`ring` and `hierarchical` run on any network",
        )
    speed = axis_speeds(topology)
    if pieces is None:
        pieces = 1 if is_even(grid, speed) else UNEVEN_PIECES
    overlap = collective == "all-reduce" and pieces > 1
    colours = colours_of(grid, speed, pieces, overlap=overlap)
    if grid.is_symmetric:
        return bucket_orbit(grid, collective, colours)
    return bucket_flat(grid, collective, colours)


def axis_speeds(topology: Topology) -> list[float]:
    """Bytes a second of one link of each axis of a grid: the median, as slowed links are few."""
    grid, classes = topology.grid, topology.link_class
    if grid is None or classes is None:
        raise InputError(f"the chips of `{topology.name}` do not lie on a grid")
    found = []
    for axis in range(len(grid.shape)):
        own = topology.bandwidth_bytes_per_s[(classes // 2 == axis) & (classes >= 0)]
        found.append(float(np.median(own)) if len(own) else 1.0)
    return found
