"""MSCCL++ execution plans, written within what its executor holds.

Colours are chains of thread blocks that never touch each other's chunks. A chain goes through the
schedule's steps in order: all puts of a step, their signals, a wait for each message that ends
here. Where a thread block is full it releases a semaphore that the next one acquires.

A unit lands straight in its place where nothing used that place before; else in scratch of its own,
and is added (``re``) or copied from there, so no put can overtake a read. Ranks greet their peers
first. Where a switch adds up (NVLS) each rank sums its own part through it and writes it to all.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from typing import Any, Final

import numpy as np

from weftline.errors import InputError
from weftline.fabric.formats.programs.mscclpp import NAMES
from weftline.fabric.formats.programs.slots import Place
from weftline.fabric.formats.programs.units import Copy, Move, Slot, Units, in_instances, in_units
from weftline.fabric.orbit import OrbitSchedule, expand
from weftline.fabric.schedule import Schedule

OPERATIONS_MOST: Final = 64
"""Of one thread block (github.com/microsoft/mscclpp 1f5f065d, src/core/include/
execution_common.hpp: MAX_OPERATION), as the next three: MAX_CHANNEL, MAX_CHANNEL_PER_OPERATION."""
CHANNELS_MOST: Final = 16
CHANNELS_PER_OPERATION: Final = 8
BLOCKS_MOST: Final = 64
"""Thread blocks of a rank: all must run at once, and others need the chip too."""
CHAINS: Final = 8
"""Chains that a plan has at most, and that instances of the schedule make."""
MOST_BYTES: Final = 2**64 - 1
NOP: Final = {"name": "nop"}


@dataclass(slots=True)
class _Chain:
    """Some colours' work on one rank: operations in order, dealt to thread blocks."""

    first_channel: int
    """Number of its first channel on the rank."""
    peers: list[int]
    blocks: list[list[dict[str, Any]]] = field(default_factory=lambda: [[]])
    uses: list[tuple[list[int], list[int]]] = field(default_factory=lambda: [([], [])])
    """[blocks] channels and remote buffers, by number on the rank."""


@dataclass(slots=True)
class _Rank:
    """What one rank's plan is made of."""

    connected: list[int] = field(default_factory=list)
    """[channels] the peer at the other end."""
    remote: list[tuple[int, str]] = field(default_factory=list)
    """(rank, buffer) of every buffer of others it writes to."""
    chains: list[_Chain] = field(default_factory=list)
    semaphores: int = 0


def write(
    schedule: Schedule | OrbitSchedule, *, name: str | None = None, in_place: bool = True,
    sizes: tuple[int, int] = (0, MOST_BYTES), instances: int | None = None,
) -> str:  # fmt: skip
    """The plan of a schedule; raises InputError for what it cannot express.

    ``instances`` is how many chains of thread blocks share each chunk; as many as make 8 chains,
    or fewer where that is too much for a chip, if not given.
    """
    flat = expand(schedule) if isinstance(schedule, OrbitSchedule) else schedule
    head = {
        "name": name or f"weftline_{flat.algorithm.replace('-', '_')}",
        "collective": NAMES[flat.collective], "protocol": "Simple",
        "inplace": in_place and flat.collective != "all-to-all", "reuse_resources": False,
    }  # fmt: skip
    if flat.switches:
        gpus = _switched(flat, instances or CHAINS)
    else:
        gpus = _fitting(flat, in_place, instances)
    tail = {
        "num_threads_per_block": 1024, "use_double_scratch_buffer": False, "buffer_alignment": 16,
        "min_message_size": sizes[0], "max_message_size": sizes[1],
    }  # fmt: skip
    return json.dumps({**head, "gpus": gpus, **tail}, indent=1) + "\n"


# --- over links -----------------------------------------------------------------------------------


def _fitting(flat: Schedule, in_place: bool, instances: int | None) -> list[dict[str, Any]]:
    """The plan in as many instances as asked for, else in the most that one chip can run."""
    tried = instances or max(1, CHAINS // len(np.unique(flat.colour)))
    while True:
        try:
            return _linked(in_units(in_instances(flat, tried), in_place=in_place))
        except InputError:
            if instances is not None or tried == 1:
                raise
            tried //= 2


def _linked(units: Units) -> list[dict[str, Any]]:
    colours = sorted({m.colour for m in units.moves})
    lanes = min(len(colours), CHAINS) or 1
    landings, scratch = _landings(units)
    ranks = [_Rank() for _ in range(units.schedule.ranks)]
    lane_of = {c: i % lanes for i, c in enumerate(colours)}
    peers: list[list[set[int]]] = [[set() for _ in range(lanes)] for _ in ranks]
    for move in units.moves:
        peers[move.source][lane_of[move.colour]].add(move.destination)
        peers[move.destination][lane_of[move.colour]].add(move.source)
    for number, rank in enumerate(ranks):
        for lane in range(lanes):
            chain = _Chain(len(rank.connected), sorted(peers[number][lane]))
            rank.chains.append(chain)
            rank.connected += chain.peers
            _greet(rank, chain)
    _copies(ranks, [(c, c[2]) for c in units.before], units, lane_of)
    for _, group in groupby(enumerate(units.moves), key=lambda e: e[1].step):
        numbers = [i for i, _ in group]
        for lane in range(lanes):
            mine = [i for i in numbers if lane_of[units.moves[i].colour] == lane]
            if mine:
                _step(ranks, mine, units.moves, landings, lane)
    _copies(ranks, [(c, c[1]) for c in units.after], units, lane_of)
    return [_gpu(r, rank, units, scratch[r]) for r, rank in enumerate(ranks)]


def _landings(units: Units) -> tuple[list[Slot], list[int]]:
    """Where each move lands: its place if nothing used that before, else scratch of its own."""
    scratch = [int(s) for s in units.scratch_units]
    own = units.total // units.schedule.ranks
    used: set[Place] = set()
    for rank in range(units.schedule.ranks):
        if units.schedule.collective == "all-gather" and units.in_place:
            used |= {(rank, "o", u) for u in range(rank * own, (rank + 1) * own)}
        elif units.schedule.collective in ("all-reduce", "reduce-scatter") and units.in_place:
            used |= {(rank, "i", u) for u in range(units.buffer_units)}
    for rank, _, there, count in units.before:
        used |= {(rank, there[0], there[1] + k) for k in range(count)}
    found: list[Slot] = []
    for move in units.moves:
        places = {(move.destination, move.to_slot[0], move.to_slot[1] + k)
                  for k in range(move.count)}  # fmt: skip
        if move.reduce or places & used:
            found.append(("s", scratch[move.destination]))
            scratch[move.destination] += move.count
        else:
            found.append(move.to_slot)
        used |= places
        used |= {(move.source, move.from_slot[0], move.from_slot[1] + k) for k in range(move.count)}
    return found, scratch


def _greet(rank: _Rank, chain: _Chain) -> None:
    channels = list(range(len(chain.peers)))
    _signals(rank, chain, "rlxsignal", channels)
    _signals(rank, chain, "rlxwait", channels)
    _append(rank, chain, [NOP])


def _copies(
    ranks: list[_Rank], copies: Iterable[tuple[Copy, Slot]], units: Units,
    lane_of: dict[int, int],
) -> None:  # fmt: skip
    """Copies within a rank, each with where its units are worked on.

    A chain must not wait for another, so it copies the units of its own colours itself; what no
    move touches (all-to-all's own part) the first chain does.
    """
    lane = np.zeros(max(units.total, units.buffer_units), dtype=np.int64)
    if units.schedule.collective != "all-to-all":
        for move in units.moves:
            lane[move.from_slot[1] : move.from_slot[1] + move.count] = lane_of[move.colour]
    for (number, here, there, count), place in copies:
        own = lane[place[1] : place[1] + count]
        cuts = [0, *(np.flatnonzero(np.diff(own)) + 1).tolist(), count]
        for first, end in pairwise(cuts):
            chain = ranks[number].chains[int(own[first])]
            op = _local("copy", [((here[0], here[1] + first), end - first)],
                        [((there[0], there[1] + first), end - first)])  # fmt: skip
            _append(ranks[number], chain, [op, NOP])


def _step(
    ranks: list[_Rank], numbers: list[int], moves: tuple[Move, ...], landings: list[Slot],
    chain_number: int,
) -> None:  # fmt: skip
    """Puts and signals of one step on every sender, then waits and sums on every receiver."""
    sends: dict[int, list[int]] = {}
    lands: dict[int, list[int]] = {}
    for i in numbers:
        sends.setdefault(moves[i].source, []).append(i)
        lands.setdefault(moves[i].destination, []).append(i)
    for number, mine in sends.items():
        rank = ranks[number]
        chain = rank.chains[chain_number]
        for i in mine:
            move = moves[i]
            key = (move.destination, landings[i][0])
            if key not in rank.remote:
                rank.remote.append(key)
            put = _local("put", [(move.from_slot, move.count)], [])
            put["dst_buff"] = [{"buffer_id": rank.remote.index(key), "index": landings[i][1],
                                "size": move.count}]  # fmt: skip
            channel = chain.peers.index(move.destination)
            put |= {"channel_ids": [channel], "channel_type": "memory"}
            _append(rank, chain, [put])
        _append(rank, chain, [NOP])
        peers = sorted({chain.peers.index(moves[i].destination) for i in mine})
        _signals(rank, chain, "signal", peers)
    for number, mine in lands.items():
        rank = ranks[number]
        chain = rank.chains[chain_number]
        _signals(rank, chain, "wait", sorted({chain.peers.index(moves[i].source) for i in mine}))
        _append(rank, chain, [NOP])
        for i in mine:
            move = moves[i]
            if landings[i] == move.to_slot:
                continue
            landed, place = (landings[i], move.count), (move.to_slot, move.count)
            op = _local("re" if move.reduce else "copy",
                        [place, landed] if move.reduce else [landed], [place])  # fmt: skip
            if move.reduce:
                op["reduce_op"] = "sum"
            _append(rank, chain, [op, NOP])


def _signals(rank: _Rank, chain: _Chain, name: str, channels: list[int]) -> None:
    for at in range(0, len(channels), CHANNELS_PER_OPERATION):
        part = channels[at : at + CHANNELS_PER_OPERATION]
        op = {"name": name, "channel_ids": part, "channel_type": "memory"}
        _append(rank, chain, [op])


def _append(rank: _Rank, chain: _Chain, ops: list[dict[str, Any]]) -> None:
    """Operations that stay together, in the chain's last thread block or in a new one.

    Channels and remote buffers are numbered within a thread block, in the order it first uses them.
    """
    channels, buffers = chain.uses[-1]
    wanted = [chain.first_channel + c for op in ops for c in op.get("channel_ids", ())]
    remote = [b["buffer_id"] for op in ops for b in op.get("dst_buff", ()) if "buffer_id" in b]
    room = OPERATIONS_MOST - 2  # for the nop and the release that hand over to the next
    if (
        len(chain.blocks[-1]) + len(ops) > room
        or len({*channels, *wanted}) > CHANNELS_MOST
        or len({*buffers, *remote}) > CHANNELS_MOST
    ):
        semaphore, rank.semaphores = rank.semaphores, rank.semaphores + 1
        hand = {"semaphore_ids": [semaphore]}
        chain.blocks[-1] += [NOP, {"name": "sem_release", **hand}]
        chain.blocks.append([{"name": "sem_acquire", **hand}, NOP])
        chain.uses.append(([], []))
        channels, buffers = chain.uses[-1]
    for number, held in ((n, channels) for n in wanted):
        if number not in held:
            held.append(number)
    buffers += [b for b in dict.fromkeys(remote) if b not in buffers]
    for op in ops:
        written = dict(op)
        if "channel_ids" in op:
            written["channel_ids"] = [
                channels.index(chain.first_channel + c) for c in op["channel_ids"]
            ]
        if any("buffer_id" in b for b in op.get("dst_buff", ())):
            written["dst_buff"] = [
                {**b, "buffer_id": buffers.index(b["buffer_id"])} for b in op["dst_buff"]
            ]
        chain.blocks[-1].append(written)


def _local(
    name: str, sources: list[tuple[Slot, int]], targets: list[tuple[Slot, int]]
) -> dict[str, Any]:
    def buff(slot: Slot, count: int) -> dict[str, Any]:
        return {"type": slot[0], "index": slot[1], "size": count}

    op: dict[str, Any] = {"name": name, "src_buff": [buff(*s) for s in sources]}
    if targets:
        op["dst_buff"] = [buff(*t) for t in targets]
    return op


def _gpu(number: int, rank: _Rank, units: Units, scratch: int) -> dict[str, Any]:
    pairs = [(ops, uses) for chain in rank.chains
             for ops, uses in zip(chain.blocks, chain.uses, strict=True)]  # fmt: skip
    if len(pairs) > BLOCKS_MOST:
        raise InputError(
            f"{units.schedule.algorithm} on {units.schedule.ranks} ranks: rank {number} needs "
            f"{len(pairs)} thread blocks of {OPERATIONS_MOST} operations, at most {BLOCKS_MOST} "
            "run at once",
            hint="take an algorithm of fewer steps, or fewer ranks",
        )
    blocks = [
        {"id": i, "ops": ops,
         "channels": [{"channel_type": "memory", "channel_ids": uses[0]}] if uses[0] else [],
         "remote_buffer_refs": [{"access_channel_type": "memory", "remote_buffer_ids": uses[1]}]
         if uses[1] else []}
        for i, (ops, uses) in enumerate(pairs)
    ]  # fmt: skip
    return {
        "id": number, "input_chunks": units.input_units, "output_chunks": units.output_units,
        "scratch_chunks": scratch, "threadblocks": blocks,
        "channels": [{"channel_type": "memory", "connected_to": rank.connected}],
        "remote_buffers": [{"rank": r, "type": b, "access_channel_types": ["memory"]}
                           for r, b in rank.remote],
        "semaphores": [{"init_value": 0} for _ in range(rank.semaphores)],
    }  # fmt: skip


# --- through a switch -----------------------------------------------------------------------------


def _switched(flat: Schedule, copies: int) -> list[dict[str, Any]]:
    """NVLS: each rank's part of the buffer summed by the switch and written to all, or only that.

    ``copies`` thread blocks share a part. Raises InputError for what the executor's two operations
    (``glres``, ``gstore``) do not do.
    """
    if flat.algorithm != "nvls" or flat.collective not in ("all-reduce", "all-gather"):
        raise InputError(
            f"MSCCL++ has no {flat.collective} by {flat.algorithm} in the switch",
            hint="it knows all-reduce and all-gather by NVLS; others go over the links",
        )
    if flat.ranks - 1 > CHANNELS_MOST:
        raise InputError(f"{flat.ranks} ranks under one switch: a thread block of MSCCL++ has "
                         f"{CHANNELS_MOST} channels")  # fmt: skip
    reduces = flat.collective == "all-reduce"
    ranks = list(range(flat.ranks))
    return [
        {
            "id": rank, "input_chunks": flat.ranks if reduces else 1, "output_chunks": flat.ranks,
            "scratch_chunks": 0,
            "threadblocks": [_switch_block(rank, flat.ranks, c, copies, reduces=reduces)
                             for c in range(copies)],
            "channels": [
                {"channel_type": "memory",
                 "connected_to": [r for r in ranks if r != rank] * copies},
                {"channel_type": "switch", "buffer_type": "i" if reduces else "o",
                 "rank_groups": [{"size": flat.ranks, "ranks": ranks}]},
            ],
            "remote_buffers": [], "semaphores": [],
        }
        for rank in ranks
    ]  # fmt: skip


def _switch_block(
    rank: int, ranks: int, copy: int, copies: int, *, reduces: bool
) -> dict[str, Any]:
    """One thread block: wait until all are there, move its share, wait until all have."""
    peers = ranks - 1
    parts = [list(range(at, min(at + CHANNELS_PER_OPERATION, peers)))
             for at in range(0, peers, CHANNELS_PER_OPERATION)]  # fmt: skip

    def all_of(name: str) -> list[dict[str, Any]]:
        return [{"name": name, "channel_ids": p, "channel_type": "memory"} for p in parts]

    place = {"switch_channel_id": 0, "index": rank, "size": 1}
    moved: dict[str, Any] = {
        "name": "glres" if reduces else "gstore",
        "src_buff": [place if reduces else {"type": "o", "index": rank, "size": 1}],
        "dst_buff": [place], "channel_type": "switch",
        "tbg_info": {"tb_id": copy, "tbg_size": copies},
    }  # fmt: skip
    if reduces:
        moved["reduce_op"] = "sum"
    return {
        "id": copy, "remote_buffer_refs": [],
        "ops": [*all_of("rlxsignal"), *all_of("rlxwait"), NOP, moved, NOP, *all_of("signal"),
                *all_of("wait")],
        "channels": [
            {"channel_type": "memory",
             "channel_ids": list(range(copy * peers, (copy + 1) * peers))},
            {"channel_type": "switch", "channel_ids": [0]},
        ],
    }  # fmt: skip
