"""MSCCL++ execution plans (JSON), read by running them: thread blocks, signals, semaphores.

Units are a plan's chunks, cut as often as its thread-block groups share one (``tbg_info``). A
pipeline is run once for the whole chunk: its rounds move the parts one after the other. A packet is
read when it has come, so what reads packets waits for them. A switch channel (NVLS) is a node of
its own that adds up what its group holds, or copies to all of them.

An operation that the executor does not have, or that no row of ours can say, is refused by name
(github.com/microsoft/mscclpp 1f5f065d, src/core/executor/execution_plan.cc).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from weftline.errors import InputError, UnknownNameError
from weftline.fabric.formats.programs.slots import Place, Slots, buffers_of
from weftline.fabric.formats.programs.units import UNITS_MOST
from weftline.fabric.schedule import Collective, Schedule

FORMAT = "mscclpp"
NAMES: Final[Mapping[Collective, str]] = {
    "all-reduce": "allreduce", "all-gather": "allgather", "reduce-scatter": "reducescatter",
    "all-to-all": "alltoall", "broadcast": "broadcast", "send": "sendrecv",
}  # fmt: skip
IDLE: Final = ("nop", "flush")
MOVES: Final = ("put", "pws", "pwsf", "get", "copy", "ppkt", "cpkt", "upkt")
SUMS: Final = ("re", "res", "rre", "rres", "repkt", "respkt", "recpkt", "recspkt")
SWITCH: Final = ("glres", "gstore", "gstorepkt")
SIGNALS: Final = ("signal", "rlxsignal", "pws", "pwsf")
WAITS: Final = ("wait", "rlxwait")
PACKETS: Final = ("upkt", "rppkt", "repkt", "respkt", "recpkt", "recspkt", "gstorepkt")
"""Operations that read packets from scratch."""
GROUP_MOST: Final = 1024
"""Thread blocks of one group at most."""


@dataclass(slots=True)
class _Run:
    """A plan being stepped through."""

    slots: Slots
    gpus: list[dict[str, Any]]
    cut: int
    """Units of one chunk."""
    hubs: dict[tuple[int, ...], int]
    where: str
    signals: dict[tuple[int, int, int], int] = field(default_factory=dict)
    """(from, to, which of their channels) -> signals sent; ``claimed``: waited for."""
    claimed: dict[tuple[int, int, int], int] = field(default_factory=dict)
    semaphores: dict[tuple[int, int], int] = field(default_factory=dict)
    barriers: dict[tuple[int, int], dict[int, list[int]]] = field(default_factory=dict)
    """(gpu, barrier) -> thread block -> where it has come to it."""
    sums: int = 0


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
    cut = _cut(gpus, where)
    hubs: dict[tuple[int, ...], int] = {}
    for gpu in gpus:
        for _, ranks in _switch_channels(gpu):
            hubs.setdefault(ranks, len(hubs))
    slots = Slots(len(gpus), switches=len(hubs))
    inputs = int(gpus[0]["input_chunks"]) * cut
    buffers = buffers_of(collective, len(gpus), inputs, in_place=bool(plan.get("inplace")))
    slots.start(buffers)
    run = _Run(slots, gpus, cut, hubs, where)
    for g, gpu in enumerate(gpus):
        for number, semaphore in enumerate(gpu.get("semaphores", ())):
            run.semaphores[g, number] = int(semaphore["init_value"])
    programs = {(g, b): list(_flat(block["ops"])) for g, gpu in enumerate(gpus)
                for b, block in enumerate(gpu["threadblocks"])}  # fmt: skip
    at = dict.fromkeys(programs, 0)
    moved = True
    while moved:
        moved = False
        for key, ops in programs.items():
            first = at[key]
            while at[key] < len(ops) and _do(run, *key, ops[at[key]], at[key]):
                at[key] += 1
            moved |= at[key] > first
    for (g, b), position in at.items():
        if position < len(programs[g, b]):
            name = programs[g, b][position]["name"]
            raise InputError(
                f"gpu {g}, thread block {b} waits for ever at operation {position} (`{name}`)",
                where=f"{where}:1",
                hint="no signal, packet or release comes that it waits for",
            )
    slots.finish(collective, buffers, f"{where}:1")
    name = str(plan.get("name", "mscclpp"))
    return slots.schedule(collective, name, buffers.units, buffers.per_rank)


def _flat(ops: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for op in ops:
        if op["name"] == "pipeline":
            yield from _flat(op["ops"])
        else:
            yield op


def _cut(gpus: list[dict[str, Any]], where: str) -> int:
    """Units a chunk is cut into: as many as all thread-block groups share evenly."""
    sizes = {int(op["tbg_info"]["tbg_size"]) for gpu in gpus for block in gpu["threadblocks"]
             for op in _flat(block["ops"]) if "tbg_info" in op}  # fmt: skip
    if any(not 1 <= size <= GROUP_MOST for size in sizes):
        raise InputError(f"`tbg_size` is {max(sizes)}", where=f"{where}:1",
                         hint=f"from 1 to {GROUP_MOST:,}")  # fmt: skip
    return math.lcm(*sizes)


def _switch_channels(gpu: dict[str, Any]) -> list[tuple[str, tuple[int, ...]]]:
    """(buffer, ranks) of every switch channel of a rank."""
    return [(str(c["buffer_type"]), tuple(int(r) for r in group["ranks"]))
            for c in gpu["channels"] if c["channel_type"] == "switch"
            for group in c["rank_groups"]]  # fmt: skip


def _ids(block: dict[str, Any], kind: str) -> list[int]:
    return [int(i) for c in block["channels"] if c["channel_type"] == kind
            for i in c["channel_ids"]]  # fmt: skip


def _peer(run: _Run, gpu: int, block: dict[str, Any], local: int, kind: str) -> tuple[int, int]:
    """Rank at the other end of a thread block's channel, and which of the channels to it it is."""
    ends = [p for c in run.gpus[gpu]["channels"] if c["channel_type"] == kind
            for p in c["connected_to"]]  # fmt: skip
    channel = _ids(block, kind)[local]
    peer = ends[channel]
    return int(peer), sum(1 for e in ends[:channel] if e == peer)


def _do(run: _Run, gpu: int, number: int, op: dict[str, Any], position: int) -> bool:
    """Run one operation; False where it must wait."""
    block, name = run.gpus[gpu]["threadblocks"][number], op["name"]
    at = f"{run.where}: gpu {gpu}, thread block {block['id']}, operation {position}"
    kind = op.get("channel_type", "memory")
    if name in IDLE:
        return True
    if name in WAITS:
        keys = [(peer, gpu, nth) for peer, nth in
                (_peer(run, gpu, block, c, kind) for c in op["channel_ids"])]  # fmt: skip
        if any(run.signals.get(k, 0) <= run.claimed.get(k, 0) for k in keys):
            return False
        for key in keys:
            run.claimed[key] = run.claimed.get(key, 0) + 1
        return True
    if name in ("sem_acquire", "sem_release"):
        return _semaphore(run, gpu, op)
    if name == "barrier":
        return _barrier(run, gpu, number, op, position)
    if name in (*MOVES, *SUMS, *SWITCH, "rppkt"):
        if not _data(run, gpu, block, op, at):
            return False
    elif name not in SIGNALS:
        raise UnknownNameError("operation", name, (*MOVES, *SUMS, *SWITCH, *SIGNALS, *WAITS),
                               where=at)  # fmt: skip
    if name in SIGNALS:
        for channel in op["channel_ids"]:
            peer, nth = _peer(run, gpu, block, channel, kind)
            run.signals[gpu, peer, nth] = run.signals.get((gpu, peer, nth), 0) + 1
    return True


def _semaphore(run: _Run, gpu: int, op: dict[str, Any]) -> bool:
    keys = [(gpu, int(i)) for i in op["semaphore_ids"]]
    if op["name"] == "sem_release":
        for key in keys:
            run.semaphores[key] += 1
        return True
    if any(run.semaphores[key] < 1 for key in keys):
        return False
    for key in keys:
        run.semaphores[key] -= 1
    return True


def _barrier(run: _Run, gpu: int, number: int, op: dict[str, Any], position: int) -> bool:
    """Passed once as many thread blocks have come to it as often as this one."""
    came = run.barriers.setdefault((gpu, int(op["barrier_id"])), {})
    own = came.setdefault(number, [])
    if not own or own[-1] != position:
        own.append(position)
    times = len(own)
    return sum(len(places) >= times for places in came.values()) >= int(op["num_threadblocks"])


def _places(
    run: _Run, gpu: int, block: dict[str, Any], buff: dict[str, Any], op: dict[str, Any]
) -> list[Place]:
    """The units one buffer reference means, on this rank or on another."""
    rank, buffer = gpu, buff.get("type")
    if "buffer_id" in buff:
        kind = op.get("channel_type", "memory")
        refs = [i for r in block["remote_buffer_refs"] if r["access_channel_type"] == kind
                for i in r["remote_buffer_ids"]]  # fmt: skip
        remote = run.gpus[gpu]["remote_buffers"][refs[buff["buffer_id"]]]
        rank, buffer = int(remote["rank"]), remote["type"]
    return [run.slots.named((rank, str(buffer), k)) for k in _range(run, buff, op)]


def _range(run: _Run, buff: dict[str, Any], op: dict[str, Any]) -> range:
    """Offsets in units: the whole of a reference, or a group member's share of it."""
    first, size = int(buff["index"]), int(buff["size"])
    if first < 0 or not 0 <= size <= UNITS_MOST:
        raise ValueError(f"index {first}, size {size}")
    low, high = first * run.cut, (first + size) * run.cut
    if "tbg_info" in op:
        member, members = int(op["tbg_info"]["tb_id"]), int(op["tbg_info"]["tbg_size"])
        share = (high - low) // members
        return range(low + member * share, low + (member + 1) * share)
    return range(low, high)


def _data(run: _Run, gpu: int, block: dict[str, Any], op: dict[str, Any], at: str) -> bool:
    """Operations that move units: between ranks they become rows. False where a packet lacks."""
    name, slots = op["name"], run.slots
    if name in SWITCH:
        return _switch(run, gpu, block, op, at)
    sources = [_places(run, gpu, block, b, op) for b in op["src_buff"]]
    targets = [_places(run, gpu, block, b, op) for b in op.get("dst_buff", [])]
    packets = sources[1:] if name in SUMS else sources
    if name in PACKETS and not all(slots.holds(p) for part in packets for p in part):
        return False
    if name in SUMS:
        _sum(run, gpu, sources, targets, at)
        return True
    if name == "rppkt":
        sources *= len(targets)
    for here, there in zip(sources, targets, strict=True):
        for a, b in zip(here, there, strict=True):
            _move(slots, a, b, at)
    return True


def _move(slots: Slots, here: Place, there: Place, at: str) -> None:
    if here[0] == there[0]:
        slots.copy(here, there, at)
    else:
        slots.land(slots.send(here, there[0], 0, at), there, pending=True)


def _sum(
    run: _Run, gpu: int, sources: list[list[Place]], targets: list[list[Place]], at: str
) -> None:
    """Add up the sources unit by unit, those of other ranks read from there, into all targets."""
    slots = run.slots
    for unit, places in enumerate(zip(*sources, strict=True)):
        operands: list[Place] = []
        for place in places:
            if place[0] != gpu:
                run.sums += 1
                came = (gpu, "read", run.sums)
                slots.land(slots.send(place, gpu, 0, at), came, pending=True)
                operands.append(came)
            else:
                operands.append(place)
        run.sums += 1
        total = (gpu, "sum", run.sums)
        slots.total(operands, total, at)
        for target in targets:
            _move(slots, total, target[unit], at)


def _switch(run: _Run, gpu: int, block: dict[str, Any], op: dict[str, Any], at: str) -> bool:
    """What a switch does for one rank: add up its group's units, or copy one's to all."""
    slots, channels = run.slots, _switch_channels(run.gpus[gpu])

    def group(buff: dict[str, Any]) -> tuple[int, list[list[Place]]]:
        buffer, ranks = channels[_ids(block, "switch")[int(buff["switch_channel_id"])]]
        return run.hubs[ranks], [[slots.named((rank, buffer, k)) for rank in ranks]
                                 for k in _range(run, buff, op)]  # fmt: skip

    hub, targets = group(op["dst_buff"][0])
    if op["name"] == "glres":
        _, sources = group(op["src_buff"][0])
    else:
        own = _places(run, gpu, block, op["src_buff"][0], op)
        if op["name"] == "gstorepkt" and not all(slots.holds(p) for p in own):
            return False
        sources = [[place] for place in own]
    for here, there in zip(sources, targets, strict=True):
        slots.through(here, hub, there, at)
    return True
