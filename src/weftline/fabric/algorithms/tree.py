"""Double binary trees (Sanders, Speck and Traff 2009): every rank is a leaf of one of two trees.

Each tree carries half the buffer in pieces that follow each other: an all-reduce adds them up
towards the root and copies them back down, and takes about 2 (log2 N + pieces) steps.
"""

from __future__ import annotations

import numpy as np

from weftline.errors import InputError
from weftline.fabric.algorithms.rows import Rows, schedule
from weftline.fabric.graph import IntArray, Topology
from weftline.fabric.schedule import Collective, Schedule


def parents(ranks: int, *, second: bool) -> IntArray:
    """[ranks] parent of each rank in one of the two trees, -1 for its root.

    The first is the in-order tree on 1 .. N: a number's parent clears its lowest bit and sets the
    next. The second is its mirror image, or for odd N a shift by one, in which leaves are inner.
    """
    label = np.arange(1, ranks + 1)
    bit = label & -label
    up = (label ^ bit) | (bit << 1)
    up = np.where(up > ranks, label ^ bit, up)
    parent = up - 1
    if not second:
        return parent
    moved = (label % ranks) if ranks % 2 else ranks - label
    found = np.full(ranks, -1, dtype=np.int64)
    root = parent < 0
    found[moved[~root]] = moved[parent[~root]]
    return found


def _heights(parent: IntArray) -> tuple[IntArray, IntArray]:
    """([ranks] steps from the deepest leaf below, [ranks] steps to the root)."""
    depth = np.zeros(len(parent), dtype=np.int64)
    at = parent.copy()
    while (at >= 0).any():
        depth += at >= 0
        at = np.where(at >= 0, parent[at], -1)
    height = np.zeros(len(parent), dtype=np.int64)
    for rank in np.argsort(-depth, kind="stable"):
        if parent[rank] >= 0:
            height[parent[rank]] = max(height[parent[rank]], height[rank] + 1)
    return height, depth


def double_binary_tree(
    topology: Topology, collective: Collective, *, pieces: int = 8, root: int = 0
) -> Schedule:
    """All-reduce or broadcast over two trees, each half of the buffer in ``pieces`` pieces.

    A broadcast's trees span all ranks but the root, which feeds both. Raises InputError for other
    collectives and for fewer pieces than one.
    """
    if collective not in ("all-reduce", "broadcast"):
        raise InputError(
            f"the double binary tree does no {collective}", hint="all-reduce or broadcast"
        )
    if pieces < 1:
        raise InputError(f"{pieces} pieces", hint="at least one")
    ranks = topology.ranks
    parts: list[Rows] = []
    if ranks > 1:
        for tree in range(2):
            if collective == "all-reduce":
                parts.append(_all_reduce(parents(ranks, second=tree == 1), pieces, tree))
            else:
                parts.append(_broadcast(ranks, root, pieces, tree))
    chunks = 2 * pieces
    return schedule(
        Rows.concatenate(parts), collective, "double-binary-tree", ranks,
        share=np.full(chunks, 1.0 / chunks), root=root,
    )  # fmt: skip


def _down(child: IntArray, parent: IntArray, depth: IntArray, first: int, pieces: int, tree: int,
          begin: int) -> Rows:  # fmt: skip
    """Copies from parent to child: piece p reaches depth d in step begin + p + d - 1."""
    piece = np.tile(np.arange(pieces), len(child))
    return Rows.of(
        step=begin + piece + np.repeat(depth, pieces) - 1, source=np.repeat(parent, pieces),
        destination=np.repeat(child, pieces), first_chunk=first + piece, chunk_count=1,
        reduce=False, colour=tree,
    )  # fmt: skip


def _all_reduce(parent: IntArray, pieces: int, tree: int) -> Rows:
    height, depth = _heights(parent)
    child = np.flatnonzero(parent >= 0)
    piece = np.tile(np.arange(pieces), len(child))
    first = tree * pieces
    up = Rows.of(
        step=np.repeat(height[child], pieces) + piece, source=np.repeat(child, pieces),
        destination=np.repeat(parent[child], pieces), first_chunk=first + piece, chunk_count=1,
        reduce=True, colour=tree,
    )  # fmt: skip
    top = int(height.max())
    return Rows.concatenate(
        [up, _down(child, parent[child], depth[child], first, pieces, tree, top)]
    )


def _broadcast(ranks: int, root: int, pieces: int, tree: int) -> Rows:
    others = np.delete(np.arange(ranks), root)
    parent = parents(len(others), second=tree == 1)
    _, depth = _heights(parent)
    above = np.where(parent >= 0, others[parent], root)
    return _down(others, above, depth + 1, tree * pieces, pieces, tree, 0)
