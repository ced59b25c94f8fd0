"""Algorithms of pairwise exchanges: recursive halving and doubling, and Swing.

Both reduce-scatter in log2 N steps, each sending half of what is left to a partner, and all-gather
backwards. Halving-doubling pairs ranks whose numbers differ in one bit: nearest first, so that most
bytes go the shortest way. Swing (De Sensi et al. 2024) pairs ranks 1, 1, 3, 5, 11... apart on a
ring, in turns along the axes of a torus, and runs 2d such patterns at once on all 2d links.
"""

from __future__ import annotations

import numpy as np

from weftline.errors import InputError
from weftline.fabric.algorithms.bucket import Colour, bucket_flat, bucket_orbit
from weftline.fabric.algorithms.rows import Rows, backwards, finish, merged, schedule
from weftline.fabric.graph import BoolArray, Grid, IntArray, Topology
from weftline.fabric.orbit import OrbitSchedule
from weftline.fabric.schedule import Collective, Schedule

MAX_SWING_RANKS = 1024
"""Ranks of a Swing schedule at most: its blocks are scattered, and their lists grow as N**2."""


def is_power_of_two(n: int) -> bool:
    """Whether n is 1, 2, 4, 8..."""
    return n > 0 and n & (n - 1) == 0


def halving_doubling(topology: Topology, collective: Collective) -> Schedule | OrbitSchedule:
    """Recursive halving and doubling: 2 log2 N a + 2 (N-1)/N M/B where nothing blocks.

    Ranks beyond the largest power of two first give their buffer to a partner and get the answer
    back at the end, which only an all-reduce allows: InputError for the others.
    """
    ranks = topology.ranks
    whole = 1 << (ranks.bit_length() - 1)
    if whole != ranks and collective != "all-reduce":
        raise InputError(
            f"halving-doubling {collective} needs a power of two ranks, not {ranks}",
            hint="`ring` and `bucket` take any number",
        )
    bits = whole.bit_length() - 1
    grid = Grid(shape=(2,) * bits if bits else (1,), wraps=(True,) * max(bits, 1))
    colour = [Colour(share=1.0, order=_near_first(topology, bits))]
    if whole == ranks and topology.interchangeable and topology.is_symmetric:
        return bucket_orbit(grid, collective, colour, algorithm="halving-doubling")
    core = bucket_flat(grid, collective, colour, algorithm="halving-doubling")
    return core if whole == ranks else _folded(core, ranks)


def _near_first(topology: Topology, bits: int) -> tuple[int, ...]:
    """Bits of the rank in the order used: bit b of the number is axis bits-1-b of the cube.

    On a grid with sides that are powers of two the near bits of every axis come before the far
    ones of any.
    """
    if not bits:
        return (0,)
    grid = topology.grid
    if grid is None or not all(is_power_of_two(s) for s in grid.shape):
        return tuple(reversed(range(bits)))
    found: list[tuple[int, int, int]] = []
    low = 0
    for axis in reversed(range(len(grid.shape))):
        own = grid.shape[axis].bit_length() - 1
        found += [(b, axis, low + b) for b in range(own)]
        low += own
    return tuple(bits - 1 - number for _, _, number in sorted(found))


def _folded(core: Schedule, ranks: int) -> Schedule:
    """An all-reduce of ``core.ranks`` with the rest handed in before and out after it."""
    inside = core.ranks
    extra = np.arange(inside, ranks)
    before = Rows.of(
        step=0, source=extra, destination=extra - inside, first_chunk=0, chunk_count=core.chunks,
        reduce=True, colour=0,
    )  # fmt: skip
    middle = Rows.of(
        step=core.step + 1, source=core.source, destination=core.destination,
        first_chunk=core.first_chunk, chunk_count=core.chunk_count, reduce=core.reduce, colour=0,
    )  # fmt: skip
    after = Rows.of(
        step=core.steps + 1, source=extra - inside, destination=extra, first_chunk=0,
        chunk_count=core.chunks, reduce=False, colour=0,
    )  # fmt: skip
    return schedule(
        Rows.concatenate([before, middle, after]), "all-reduce", core.algorithm, ranks,
        share=core.share,
    )  # fmt: skip


def swing(topology: Topology, collective: Collective) -> Schedule:
    """Swing on a ring or torus: 2 log2 N steps, nearer partners than halving-doubling.

    Raises InputError unless every side is a power of two and every axis closes on itself.
    """
    grid = topology.grid
    if grid is None and topology.interchangeable:
        grid = Grid(shape=(topology.ranks,), wraps=(True,))
    if grid is None or not grid.is_symmetric or not all(is_power_of_two(s) for s in grid.shape):
        raise InputError(
            f"Swing needs a torus whose sides are powers of two, not `{topology.name}`",
            hint="`bucket` takes any sides",
        )
    if grid.size > MAX_SWING_RANKS:
        raise InputError(
            f"Swing on {grid.size:,} ranks: its blocks are too scattered to write out",
            hint=f"at most {MAX_SWING_RANKS}; `bucket` moves fewer bytes on large tori",
        )
    axes = [a for a, side in enumerate(grid.shape) if side > 1]
    starts = [(turn, mirrored) for turn in range(max(len(axes), 1)) for mirrored in (False, True)]
    if grid.size <= 2:
        starts = [(0, False)]
    parts = [
        _swing_colour(grid, axes[turn:] + axes[:turn], number, mirrored=mirrored)
        for number, (turn, mirrored) in enumerate(starts)
    ]
    scatter = Rows.concatenate(parts)
    count = len(starts)
    return finish(
        scatter, backwards(scatter), collective, "swing", grid.size,
        share=np.full(count * grid.size, 1.0 / (count * grid.size)),
        owner=np.tile(np.arange(grid.size), count),
    )  # fmt: skip


def _swing_colour(grid: Grid, axes: list[int], number: int, *, mirrored: bool) -> Rows:
    """Reduce-scatter rows of one pattern: axes in turn, the k-th visit of an axis k-th in Swing."""
    partners = [_partner(grid, axis, visit, mirrored) for axis, visit in _visits(grid, axes)]
    ranks = np.arange(grid.size)
    kept: list[BoolArray] = [np.eye(grid.size, dtype=np.bool_)]
    for partner in reversed(partners):
        both = kept[0] & kept[0][partner]
        if both.any():
            raise InputError(f"Swing does not close on {grid.shape}")
        kept.insert(0, kept[0] | kept[0][partner])
    parts = []
    for step, partner in enumerate(partners):
        # What the partner keeps after this step is what it is sent.
        source, block = np.nonzero(kept[step + 1][partner])
        parts.append(Rows.of(
            step=step, source=ranks[source], destination=partner[source],
            first_chunk=number * grid.size + block, chunk_count=1, reduce=True, colour=number,
        ))  # fmt: skip
    return merged(Rows.concatenate(parts)) if parts else Rows.none()


def _visits(grid: Grid, axes: list[int]) -> list[tuple[int, int]]:
    """(axis, how often it was visited before) of each step, axes in turn while they last."""
    left = {a: grid.shape[a].bit_length() - 1 for a in axes}
    done = dict.fromkeys(axes, 0)
    found = []
    while any(done[a] < left[a] for a in axes):
        for axis in axes:
            if done[axis] < left[axis]:
                found.append((axis, done[axis]))
                done[axis] += 1
    return found


def _partner(grid: Grid, axis: int, visit: int, mirrored: bool) -> IntArray:
    """[ranks] who each rank exchanges with: even ones ahead, odd ones back; mirrored, reversed."""
    apart = (1 - (-2) ** (visit + 1)) // 3
    points = grid.coordinates(np.arange(grid.size))
    sign = np.where(points[:, axis] % 2 == 0, 1, -1) * (-1 if mirrored else 1)
    points[:, axis] += sign * apart
    return grid.rank(points)
