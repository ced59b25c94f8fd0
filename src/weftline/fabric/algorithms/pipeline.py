"""Broadcasts as pipelines, along one chain or by rails, and a send from one rank to another."""

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


def rail_broadcast(topology: Topology, *, pieces: int = 16, root: int = 0) -> Schedule:
    """Every place of the root's unit gets a part, a chain of units brings it to the same place of
    the others, and each place gives its part to all of its unit.

    Units are those of the innermost level, of g chips; parts are M/g in ``pieces`` that follow each
    other: about M/g over a chip's link across, and M (g - 1)/g over those inside. Raises InputError
    for a root that is no rank, for no pieces, and for units that do not divide the ranks.
    """
    ranks, places = topology.ranks, topology.levels[0] if topology.levels else 0
    _is_rank(root, ranks, "root")
    if pieces < 1:
        raise InputError(f"{pieces} pieces", hint="at least one")
    if places < 2 or ranks % places or ranks == places:
        raise InputError(
            f"`{topology.name}` has one level only",
            hint="nested networks have two: switch:8/clos:128",
        )
    units, piece = ranks // places, np.arange(pieces)
    first = (root // places + np.arange(units)) % units * places
    parts = []
    for place in range(places):
        holder = first + place
        dealt = np.full(pieces if holder[0] != root else 0, root)
        parts.append(Rows.of(
            step=piece[: len(dealt)], source=dealt, destination=np.full(len(dealt), holder[0]),
            first_chunk=place * pieces + piece[: len(dealt)], chunk_count=1, reduce=False,
            colour=place,
        ))  # fmt: skip
        pairs = [np.stack([holder[:-1], holder[1:], np.arange(units - 1)])]
        pairs += [np.stack([holder, first + other, np.arange(units)])
                  for other in range(places) if other != place]  # fmt: skip
        source, destination, hop = np.concatenate(pairs, axis=1)
        wanted = destination != root
        source, destination, hop = source[wanted], destination[wanted], hop[wanted]
        own = np.tile(piece, len(source))
        parts.append(Rows.of(
            step=1 + np.repeat(hop, pieces) + own, source=np.repeat(source, pieces),
            destination=np.repeat(destination, pieces), first_chunk=place * pieces + own,
            chunk_count=1, reduce=False, colour=place,
        ))  # fmt: skip
    chunks = places * pieces
    return schedule(Rows.concatenate(parts), "broadcast", "hierarchical", ranks,
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
