"""Rings: one or two directions, over an order of the ranks in which neighbours are close.

2 (N-1) steps, each sending a block of the buffer to the next rank: 2 (N-1) a + 2 (N-1)/N M/b, half
the second term with both directions (nccl-tests, PERFORMANCE.md).
"""

from __future__ import annotations

import numpy as np

from weftline.errors import InputError
from weftline.fabric.algorithms.bucket import Colour, bucket_orbit
from weftline.fabric.algorithms.rows import Rows, backwards, finish
from weftline.fabric.graph import Grid, IntArray, Topology
from weftline.fabric.orbit import OrbitSchedule
from weftline.fabric.schedule import Collective, Schedule


def ring_order(topology: Topology) -> IntArray:
    """[ranks] an order of the ranks round a ring: neighbours one hop apart where the grid allows.

    Off a grid it is the order of the numbers, which keeps hosts of a nest together.
    """
    if topology.grid is None or any(topology.grid.twist):
        return np.arange(topology.ranks, dtype=np.int64)
    return cycle_of(topology.grid)


def cycle_of(grid: Grid) -> IntArray:
    """A cycle through all chips of a grid whose steps are single links wherever one exists.

    A path through all other axes times one axis is a plane; an even plane has a cycle that snakes
    through all columns but the first and comes back along it; an odd one has none without a
    wrap-around, which carries its last row. Without any the closing step is several hops long.
    """
    sides = [a for a, side in enumerate(grid.shape) if side > 1]
    if len(sides) <= 1:
        return np.arange(grid.size, dtype=np.int64)
    even = [a for a in sides if grid.shape[a] % 2 == 0]
    rings = [a for a in sides if grid.wraps[a] and grid.shape[a] > 2]
    chosen = even[-1] if even else (rings[-1] if rings else sides[-1])
    others = [a for a in sides if a != chosen]
    path = _gray([grid.shape[a] for a in others])
    plane = _plane_cycle(len(path), grid.shape[chosen], chosen in rings)
    points = np.zeros((grid.size, len(grid.shape)), dtype=np.int64)
    points[:, others] = path[plane[:, 0]]
    points[:, chosen] = plane[:, 1]
    return grid.rank(points)


def _gray(sides: list[int]) -> IntArray:
    """[points, axes] the reflected path through a box: every step changes one coordinate by 1."""
    path = np.zeros((1, 0), dtype=np.int64)
    for side in sides:
        blocks = [path if i % 2 == 0 else path[::-1] for i in range(side)]
        column = np.repeat(np.arange(side), len(path))[:, None]
        path = np.hstack([np.concatenate(blocks), column])
    return path


def _plane_cycle(rows: int, columns: int, columns_wrap: bool) -> IntArray:
    """[rows * columns, 2] a cycle in a rows x columns mesh (rings along rows if they wrap)."""
    if rows % 2 == 0:
        return _even_cycle(rows, columns)
    if columns % 2 == 0:
        return _even_cycle(columns, rows)[:, ::-1]
    if not columns_wrap or rows == 1:
        return _gray([columns, rows])[:, ::-1]
    # Rows but the last are an even mesh whose cycle uses the edge of its last row's first two
    # chips; the last row is a detour between them, once round its ring.
    even = _even_cycle(rows - 1, columns)
    last = np.stack([np.full(columns, rows - 1), (np.arange(columns) + 1) % columns], axis=1)
    corner = int(np.flatnonzero((even[:, 0] == rows - 2) & (even[:, 1] == 0))[0])
    turned = np.roll(even, -corner, axis=0)
    if tuple(turned[1]) == (rows - 2, 1):
        turned = np.roll(turned[::-1], 1, axis=0)
    # Now the corner comes first and its neighbour (rows-2, 1) last.
    return np.concatenate([turned, last])


def _even_cycle(rows: int, columns: int) -> IntArray:
    """A cycle through a mesh with an even number of rows: snake, and home along column 0."""
    if columns == 1:
        return np.stack([np.arange(rows), np.zeros(rows, np.int64)], axis=1)
    out = []
    for row in range(rows):
        line = np.arange(1, columns)
        line = line if row % 2 == 0 else line[::-1]
        out.append(np.stack([np.full(columns - 1, row), line], axis=1))
    home = np.arange(rows)[::-1]
    out.append(np.stack([home, np.zeros(rows, np.int64)], axis=1))
    return np.concatenate(out).astype(np.int64)


def ring(
    topology: Topology, collective: Collective, *, both_ways: bool = False
) -> Schedule | OrbitSchedule:
    """A ring over all ranks; ``both_ways`` splits the buffer over its two directions."""
    ranks = topology.ranks
    name = "bidirectional-ring" if both_ways else "ring"
    if collective not in ("all-reduce", "reduce-scatter", "all-gather"):
        raise InputError(f"`{name}` does no {collective}")
    share = 0.5 if both_ways else 1.0
    ways = (False, True) if both_ways and ranks > 2 else (False,)
    if len(ways) == 1:
        share = 1.0
    natural = topology.kind == "ring" or topology.interchangeable
    if natural and topology.is_symmetric:
        grid = Grid(shape=(ranks,), wraps=(True,))
        colours = [Colour(share=share, order=(0,), down=down, stream=down) for down in ways]
        return bucket_orbit(grid, collective, colours, algorithm=name)
    order = ring_order(topology)
    parts, owners = [], []
    for colour, down in enumerate(ways):
        turn = order[::-1] if down else order
        place = np.tile(np.arange(ranks), ranks - 1)
        step = np.repeat(np.arange(ranks - 1), ranks)
        # Chunk numbers follow the ring: chunk j is at home with the j-th rank of the order.
        parts.append(Rows.of(
            step=step, source=turn[place], destination=turn[(place + 1) % ranks],
            first_chunk=colour * ranks + (place - 1 - step) % ranks, chunk_count=1,
            reduce=True, colour=colour,
        ))  # fmt: skip
        owners.append(turn)
    scatter = Rows.concatenate(parts)
    return finish(
        scatter, backwards(scatter), collective, name, ranks,
        share=np.full(ranks * len(ways), share / ranks), owner=np.concatenate(owners),
    )  # fmt: skip
