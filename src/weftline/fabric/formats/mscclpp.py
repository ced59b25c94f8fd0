"""MSCCL++ execution plans (JSON), for its executor.

Written plans use memory channels and one thread block a rank, which goes through the schedule's
steps in order: all puts and signals of a step, then a wait for each message that ends here. A unit
lands straight in its place where nothing used that place before; else in scratch of its own, and is
added (``re``) or copied from there, so no put can overtake a read. Ranks greet every peer first.

Reads put, pws, pwsf, get, signal, wait, copy, re, res, rre, rres, nop, flush, barriers and
semaphores; packets, switch channels and pipelines have no rows of ours and are refused by name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from weftline.errors import InputError, UnknownNameError
from weftline.fabric.formats.slots import Place, Slots, initial_places
from weftline.fabric.formats.units import UNITS_MOST, Move, Slot, Units, in_units
from weftline.fabric.orbit import OrbitSchedule
from weftline.fabric.schedule import Collective, Schedule

FORMAT = "mscclpp"
NAMES: Final[Mapping[Collective, str]] = {
    "all-reduce": "allreduce", "all-gather": "allgather", "reduce-scatter": "reducescatter",
    "all-to-all": "alltoall", "broadcast": "broadcast", "send": "sendrecv",
}  # fmt: skip
IDLE = ("nop", "flush", "barrier", "sem_acquire", "sem_release", "rlxsignal", "rlxwait")
MOST_BYTES: Final = 2**64 - 1


@dataclass(slots=True)
class _Rank:
    """What one rank's plan is made of."""

    peers: list[int]
    remote: list[tuple[int, str]] = field(default_factory=list)
    """(rank, buffer) of every buffer of others it writes to."""
    ops: list[dict[str, Any]] = field(default_factory=list)


def write(schedule: Schedule | OrbitSchedule, *, name: str | None = None) -> str:
    """The plan of a schedule; raises InputError for what it cannot express."""
    units = in_units(schedule)
    flat = units.schedule
    landings, scratch = _landings(units)
    ranks = [_Rank(sorted(_peers(units, r))) for r in range(flat.ranks)]
    for rank in ranks:
        for kind in ("signal", "wait"):
            rank.ops += [_channel_op(kind, i) for i in range(len(rank.peers))]
    for number, here, there, count in units.local_copies:
        ranks[number].ops.append(_local("copy", [(here, count)], [(there, count)]))
    at = 0
    while at < len(units.moves):
        end = at
        while end < len(units.moves) and units.moves[end].step == units.moves[at].step:
            end += 1
        _step_ops(ranks, list(range(at, end)), units.moves, landings)
        at = end
    plan = {
        "name": name or f"weftline_{flat.algorithm.replace('-', '_')}",
        "collective": NAMES[flat.collective], "protocol": "Simple",
        "inplace": flat.collective != "all-to-all", "reuse_resources": False,
        "gpus": [_gpu(r, rank, units, scratch[r]) for r, rank in enumerate(ranks)],
        "num_threads_per_block": 1024, "use_double_scratch_buffer": False, "buffer_alignment": 16,
        "min_message_size": 0, "max_message_size": MOST_BYTES,
    }  # fmt: skip
    return json.dumps(plan, indent=1) + "\n"


def _peers(units: Units, rank: int) -> set[int]:
    ends = {(m.source, m.destination) for m in units.moves}
    return {b for a, b in ends if a == rank} | {a for a, b in ends if b == rank}


def _landings(units: Units) -> tuple[list[Slot], list[int]]:
    """Where each move lands: its place if nothing used that before, else scratch of its own."""
    scratch = [int(s) for s in units.scratch_units]
    start = "i" if units.schedule.collective != "all-gather" else "o"
    own = units.total // units.schedule.ranks
    used: set[Place] = set()
    for rank in range(units.schedule.ranks):
        if units.schedule.collective == "all-gather":
            used |= {(rank, "o", u) for u in range(rank * own, (rank + 1) * own)}
        elif units.schedule.collective not in ("all-to-all", "broadcast", "send"):
            used |= {(rank, start, u) for u in range(units.buffer_units)}
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


def _step_ops(
    ranks: list[_Rank], numbers: list[int], moves: tuple[Move, ...], landings: list[Slot]
) -> None:
    """Puts and signals of one step on every sender, then waits and sums on every receiver."""
    for i in numbers:
        move, rank = moves[i], ranks[moves[i].source]
        key = (move.destination, landings[i][0])
        if key not in rank.remote:
            rank.remote.append(key)
        put = _local("put", [(move.from_slot, move.count)], [])
        put["dst_buff"] = [{"buffer_id": rank.remote.index(key), "index": landings[i][1],
                            "size": move.count}]  # fmt: skip
        channel = rank.peers.index(move.destination)
        put |= {"channel_ids": [channel], "channel_type": "memory"}
        rank.ops += [put, {"name": "nop"}, _channel_op("signal", channel)]
    for i in numbers:
        move, rank = moves[i], ranks[moves[i].destination]
        rank.ops += [_channel_op("wait", rank.peers.index(move.source)), {"name": "nop"}]
        if landings[i] == move.to_slot:
            continue
        landed, place = (landings[i], move.count), (move.to_slot, move.count)
        if move.reduce:
            op = _local("re", [place, landed], [place])
            op["reduce_op"] = "sum"
        else:
            op = _local("copy", [landed], [place])
        rank.ops += [op, {"name": "nop"}]


def _channel_op(name: str, channel: int) -> dict[str, Any]:
    return {"name": name, "channel_ids": [channel], "channel_type": "memory"}


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
    channels = list(range(len(rank.peers)))
    block = {
        "id": 0, "ops": rank.ops,
        "channels": [{"channel_type": "memory", "channel_ids": channels}],
        "remote_buffer_refs": [{"access_channel_type": "memory",
                                "remote_buffer_ids": list(range(len(rank.remote)))}],
    }  # fmt: skip
    return {
        "id": number, "input_chunks": units.input_units, "output_chunks": units.output_units,
        "scratch_chunks": scratch, "threadblocks": [block],
        "channels": [{"channel_type": "memory", "connected_to": rank.peers}],
        "remote_buffers": [{"rank": r, "type": b, "access_channel_types": ["memory"]}
                           for r, b in rank.remote],
        "semaphores": [],
    }  # fmt: skip


# --- reading ------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Run:
    """A plan being stepped through: signals under way, by (from, to, channel of the sender)."""

    slots: Slots
    gpus: list[dict[str, Any]]
    where: str
    signals: dict[tuple[int, int, int], int] = field(default_factory=dict)
    claimed: dict[tuple[int, int, int], int] = field(default_factory=dict)


def read(text: str, where: str) -> Schedule:
    """The schedule of a plan; raises InputError that names the gpu, thread block and operation."""
    try:
        plan = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"not JSON: {error.msg}", where=f"{where}:{error.lineno}") from error
    gpus = plan.get("gpus") if isinstance(plan, dict) else None
    if not isinstance(gpus, list) or not gpus or not all(isinstance(g, dict) for g in gpus):
        raise InputError("no `gpus`", where=f"{where}:1")
    collective = next((c for c, n in NAMES.items() if n == plan.get("collective")), None)
    if collective is None:
        raise UnknownNameError("collective", str(plan.get("collective")), NAMES.values(),
                               where=f"{where}:1")  # fmt: skip
    if [g.get("id") for g in gpus] != list(range(len(gpus))):
        raise InputError("gpus are not numbered 0, 1, ... in order", where=f"{where}:1")
    try:
        return _read(plan, gpus, collective, where)
    except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
        raise InputError(
            f"a field is missing or of another kind: {error!r}", where=f"{where}:1",
            hint="the fields are those of mscclpp's execution plan",
        ) from error  # fmt: skip


def _read(
    plan: dict[str, Any], gpus: list[dict[str, Any]], collective: Collective, where: str
) -> Schedule:
    inputs = int(gpus[0]["input_chunks"])
    slots = Slots(len(gpus))
    places, units, per_rank = initial_places(collective, len(gpus), inputs)
    for place, unit in places:
        slots.fill(place, unit)
    run = _Run(slots, gpus, where)
    at = {(g, b): 0 for g, gpu in enumerate(gpus) for b in range(len(gpu["threadblocks"]))}
    moved = True
    while moved:
        moved = False
        for (g, b), first in list(at.items()):
            block = gpus[g]["threadblocks"][b]
            position = first
            while position < len(block["ops"]) and _do(run, g, block, position):
                position += 1
            moved |= position > first
            at[g, b] = position
    for (g, b), position in at.items():
        if position < len(gpus[g]["threadblocks"][b]["ops"]):
            raise InputError(f"gpu {g}, thread block {b} waits for ever at operation {position}",
                             where=f"{where}:1")  # fmt: skip
    return slots.schedule(collective, str(plan.get("name", "mscclpp")), units, per_rank)


def _peer(run: _Run, gpu: int, block: dict[str, Any], local: int, kind: str) -> tuple[int, int]:
    """Rank at the other end of a thread block's channel, and which of the channels to it it is."""
    ids = [i for c in block["channels"] if c["channel_type"] == kind for i in c["channel_ids"]]
    ends = [p for c in run.gpus[gpu]["channels"] if c["channel_type"] == kind
            for p in c["connected_to"]]  # fmt: skip
    peer = ends[ids[local]]
    return int(peer), sum(1 for e in ends[: ids[local]] if e == peer)


def _do(run: _Run, gpu: int, block: dict[str, Any], position: int) -> bool:
    """Run one operation; False where it must wait."""
    op = block["ops"][position]
    name = op["name"]
    at = f"{run.where}: gpu {gpu}, thread block {block['id']}, operation {position}"
    if name in IDLE:
        return True
    kind = op.get("channel_type", "memory")
    if name == "wait":
        keys = [(peer, gpu, nth) for peer, nth in
                (_peer(run, gpu, block, c, kind) for c in op["channel_ids"])]  # fmt: skip
        if any(run.signals.get(k, 0) <= run.claimed.get(k, 0) for k in keys):
            return False
        for key in keys:
            run.claimed[key] = run.claimed.get(key, 0) + 1
        return True
    if name in ("put", "pws", "pwsf", "get", "copy", "re", "res", "rre", "rres"):
        _data(run, gpu, block, op, at)
    elif name != "signal":
        hint = "plans of put, get, copy, re, rre and signals can be read"
        raise InputError(f"operation `{name}` has no rows of ours", where=at, hint=hint)
    if name in ("signal", "pws", "pwsf"):
        for channel in op["channel_ids"]:
            peer, nth = _peer(run, gpu, block, channel, kind)
            run.signals[gpu, peer, nth] = run.signals.get((gpu, peer, nth), 0) + 1
    return True


def _places(
    run: _Run, gpu: int, block: dict[str, Any], buff: dict[str, Any], kind: str
) -> list[Place]:
    """The units one buffer reference means, on this rank or on another."""
    rank, buffer = gpu, buff.get("type")
    if "buffer_id" in buff:
        refs = [i for r in block["remote_buffer_refs"] if r["access_channel_type"] == kind
                for i in r["remote_buffer_ids"]]  # fmt: skip
        remote = run.gpus[gpu]["remote_buffers"][refs[buff["buffer_id"]]]
        rank, buffer = int(remote["rank"]), remote["type"]
    first, size = int(buff["index"]), int(buff["size"])
    if first < 0 or not 0 <= size <= UNITS_MOST:
        raise ValueError(f"index {first}, size {size}")
    return [(rank, str(buffer), first + k) for k in range(size)]


def _data(run: _Run, gpu: int, block: dict[str, Any], op: dict[str, Any], at: str) -> None:
    """Operations that move units: remote parts become rows, local ones change names only."""
    name, kind = op["name"], op.get("channel_type", "memory")
    sources = [_places(run, gpu, block, b, kind) for b in op["src_buff"]]
    targets = [_places(run, gpu, block, b, kind) for b in op.get("dst_buff", [])]
    slots = run.slots
    if name in ("put", "pws", "pwsf", "get", "copy"):
        pairs = zip(sources, targets, strict=True)
    elif name in ("re", "res"):
        for extra in sources[1:]:
            for own, more in zip(sources[0], extra, strict=True):
                slots.reduce(more, own, at)
        pairs = zip([sources[0]] * len(targets), targets, strict=True)
    else:
        for extra in sources[1:]:
            for own, more in zip(sources[0], extra, strict=True):
                slots.add(slots.send(more, gpu, 0, at), own, own, at)
        pairs = zip([sources[0]] * len(targets), targets, strict=True)
    for here, there in pairs:
        if here == there:
            continue
        for a, b in zip(here, there, strict=True):
            if a[0] == b[0]:
                slots.copy(a, b, at)
            else:
                slots.land(slots.send(a, b[0], 0, at), b, pending=True)
