"""Reduction inside the network: switches that add up what passes them.

NVLS (NVLink SHARP): the owner of each block reads its sum through the switch, which adds up what
all chips hold, and writes it back once, which the switch copies to all. A chip sends M (1 + 1/N)
and receives as much, against 2 M (N-1)/N of a ring. SHARP: all chips send, the switch adds and
copies to all, and a chip sends and receives M.
"""

from __future__ import annotations

import numpy as np

from weftline.errors import InputError
from weftline.fabric.algorithms.rows import Rows, schedule
from weftline.fabric.graph import Topology
from weftline.fabric.schedule import Collective, Schedule


def _one_switch(topology: Topology, name: str, kind: str) -> int:
    if topology.switches != 1 or not topology.reduces() or topology.kind != kind:
        raise InputError(
            f"{name} needs one {kind} that reduces, `{topology.name}` is none",
            hint="switch:8,nvls for NVLS, clos:64,sharp for SHARP; h100 and b200 have NVLS",
        )
    return topology.ranks


def nvls(topology: Topology, collective: Collective, *, pieces: int = 8) -> Schedule:
    """All-reduce, reduce-scatter or all-gather through one reducing switch.

    Blocks come in ``pieces`` that follow each other: up, added and home to the owner, back, and
    copied out to all. Raises InputError for other networks and collectives.
    """
    hub, ranks = _one_switch(topology, "NVLS", "switch"), topology.ranks
    if collective not in ("all-reduce", "reduce-scatter", "all-gather"):
        raise InputError(f"NVLS does no {collective}")
    if pieces < 1:
        raise InputError(f"{pieces} pieces", hint="at least one")
    piece, source, block = (a.reshape(-1) for a in np.indices((pieces, ranks, ranks)))
    chunk, hubs = piece * ranks + block, np.full(len(piece), hub)
    # Even steps reduce, odd ones gather, two pieces behind: they share the connections.
    up = Rows.of(step=2 * piece, source=source, destination=hubs, first_chunk=chunk,
                 chunk_count=1, reduce=True, colour=0)  # fmt: skip
    own = source == block
    home = Rows.of(step=2 * (piece + 1)[own], source=hubs[own], destination=source[own],
                   first_chunk=chunk[own], chunk_count=1, reduce=False, colour=0)  # fmt: skip
    back = Rows.of(step=2 * (piece + 2)[own] + 1, source=source[own], destination=hubs[own],
                   first_chunk=chunk[own], chunk_count=1, reduce=False, colour=0)  # fmt: skip
    out = Rows.of(step=2 * (piece + 3)[~own] + 1, source=hubs[~own], destination=source[~own],
                  first_chunk=chunk[~own], chunk_count=1, reduce=False, colour=0)  # fmt: skip
    halves = {"reduce-scatter": [up, home], "all-gather": [back, out]}
    rows = Rows.concatenate(halves.get(collective, [up, home, back, out]))
    first = int(rows.step.min(initial=0))
    return schedule(
        rows.delayed(-first), collective, "nvls", ranks,
        share=np.full(ranks * pieces, 1.0 / (ranks * pieces)),
        owner=np.tile(np.arange(ranks), pieces), switches=1,
    )  # fmt: skip


def in_network(topology: Topology, collective: Collective, *, pieces: int = 8) -> Schedule:
    """All-reduce in the switch itself (SHARP): up, added, and down to all, piece after piece."""
    hub, ranks = _one_switch(topology, "SHARP", "clos"), topology.ranks
    if collective != "all-reduce":
        raise InputError(f"in-network reduction does no {collective}")
    if pieces < 1:
        raise InputError(f"{pieces} pieces", hint="at least one")
    piece, rank = (a.reshape(-1) for a in np.indices((pieces, ranks)))
    hubs = np.full(len(rank), hub)
    up = Rows.of(step=piece, source=rank, destination=hubs, first_chunk=piece, chunk_count=1,
                 reduce=True, colour=0)  # fmt: skip
    down = Rows.of(step=piece + 1, source=hubs, destination=rank, first_chunk=piece,
                   chunk_count=1, reduce=False, colour=0)  # fmt: skip
    return schedule(Rows.concatenate([up, down]), collective, "in-network", ranks,
                    share=np.full(pieces, 1.0 / pieces), switches=1)  # fmt: skip
