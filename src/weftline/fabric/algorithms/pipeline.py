"""Broadcast as a pipeline along a chain of all ranks, and a send from one rank to another."""

from __future__ import annotations

import numpy as np

from weftline.errors import InputError
from weftline.fabric.algorithms.ring import ring_order
from weftline.fabric.algorithms.rows import Rows, schedule
from weftline.fabric.graph import Topology
from weftline.fabric.schedule import Schedule


def chain_broadcast(topology: Topology, *, pieces: int = 16, root: int = 0) -> Schedule:
    """Two chains from the root round the ring order, one each way, half the buffer each.

    Pieces follow each other: (N - 2 + pieces) steps of M / (2 pieces). Raises InputError for a
    root that is no rank and for no pieces.
    """
    ranks = topology.ranks
    _is_rank(root, ranks, "root")
    if pieces < 1:
        raise InputError(f"{pieces} pieces", hint="at least one")
    order = ring_order(topology)
    order = np.roll(order, -int(np.flatnonzero(order == root)[0]))
    parts = []
    ways = (False, True) if ranks > 2 else (False,)
    for colour, down in enumerate(ways):
        chain = np.concatenate([order[:1], order[1:][::-1]]) if down else order
        hop, piece = (a.reshape(-1) for a in np.indices((ranks - 1, pieces)))
        parts.append(Rows.of(
            step=hop + piece, source=chain[hop], destination=chain[hop + 1],
            first_chunk=colour * pieces + piece, chunk_count=1, reduce=False, colour=colour,
        ))  # fmt: skip
    chunks = pieces * len(ways)
    return schedule(Rows.concatenate(parts), "broadcast", "chain", ranks,
                    share=np.full(chunks, 1.0 / chunks), root=root)  # fmt: skip


def send(topology: Topology, *, root: int = 0, target: int = 1) -> Schedule:
    """The whole buffer in one message from ``root`` to ``target``."""
    _is_rank(root, topology.ranks, "root")
    _is_rank(target, topology.ranks, "target")
    if root == target:
        raise InputError(f"rank {root} sends to itself", hint="name two ranks")
    rows = Rows.of(step=0, source=np.array([root]), destination=np.array([target]),
                   first_chunk=0, chunk_count=1, reduce=False, colour=0)  # fmt: skip
    return schedule(rows, "send", "direct", topology.ranks, share=np.ones(1), root=root,
                    target=np.array([target]))  # fmt: skip


def _is_rank(rank: int, ranks: int, what: str) -> None:
    if not 0 <= rank < ranks:
        raise InputError(f"{what} {rank} is no rank", hint=f"ranks are 0 .. {ranks - 1}")
