"""MSCCL's XML: thread blocks of one peer each, steps s, r, rrc, rcs, rrcs, rrs, cpy, re, nop.

Written in place where the collective allows it: all-reduce and reduce-scatter in the input buffer,
all-gather in the output (as msccl-tools does); a colour is a channel. A thread block talks to one
peer in one direction, so that waiting for one never holds up another. ``depid`` and ``deps`` name
the thread block and step to wait for; further ones stand in ``nop`` steps before.

Read without any document type: a file that declares entities is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from xml.parsers import expat
from xml.sax.saxutils import quoteattr

from weftline.errors import InputError, UnknownNameError
from weftline.fabric.formats.slots import Slots, initial_places
from weftline.fabric.formats.units import UNITS_MOST, Slot, Units, in_units, prerequisites
from weftline.fabric.orbit import OrbitSchedule
from weftline.fabric.schedule import Collective, Schedule

FORMAT = "msccl"
NAMES: Final[Mapping[Collective, str]] = {
    "all-reduce": "allreduce", "all-gather": "allgather", "reduce-scatter": "reduce_scatter",
    "all-to-all": "alltoall", "broadcast": "broadcast", "send": "sendrecv",
}  # fmt: skip
SENDS = ("s", "rcs", "rrs", "rrcs")
RECEIVES = ("r", "rcs", "rrs", "rrc", "rrcs")
TYPES = (*SENDS, "r", "rrc", "cpy", "re", "nop")


@dataclass(slots=True)
class _Step:
    kind: str
    source: Slot = ("i", -1)
    target: Slot = ("o", -1)
    count: int = 0
    wait: tuple[int, int] = (-1, -1)
    needed: bool = False
    line: int = 0


@dataclass(slots=True)
class _Block:
    send: int = -1
    receive: int = -1
    channel: int = 0
    steps: list[_Step] = field(default_factory=list)
    line: int = 0


def write(schedule: Schedule | OrbitSchedule, *, protocol: str = "Simple") -> str:
    """The XML of a schedule; raises InputError for what MSCCL cannot express."""
    units = in_units(schedule)
    gpus = _blocks(units)
    flat = units.schedule
    in_place = flat.collective != "all-to-all"
    channels = 1 + max((b.channel for blocks in gpus for b in blocks), default=0)
    lines = [
        f'<algo name={quoteattr(flat.algorithm)} proto="{protocol}" nchannels="{channels}" '
        f'nchunksperloop="{units.buffer_units}" ngpus="{flat.ranks}" '
        f'coll="{NAMES[flat.collective]}" inplace="{int(in_place)}">'
    ]
    for rank, blocks in enumerate(gpus):
        lines.append(
            f'  <gpu id="{rank}" i_chunks="{units.input_units}" o_chunks="{units.output_units}" '
            f's_chunks="{int(units.scratch_units[rank])}">'
        )
        for number, block in enumerate(blocks):
            lines.append(f'    <tb id="{number}" send="{block.send}" recv="{block.receive}" '
                         f'chan="{block.channel}">')  # fmt: skip
            lines += [_written(i, step) for i, step in enumerate(block.steps)]
            lines.append("    </tb>")
        lines.append("  </gpu>")
    return "\n".join([*lines, "</algo>"]) + "\n"


def _written(number: int, step: _Step) -> str:
    return (
        f'      <step s="{number}" type="{step.kind}" srcbuf="{step.source[0]}" '
        f'srcoff="{step.source[1]}" dstbuf="{step.target[0]}" dstoff="{step.target[1]}" '
        f'cnt="{step.count}" depid="{step.wait[0]}" deps="{step.wait[1]}" '
        f'hasdep="{int(step.needed)}"/>'
    )


def _blocks(units: Units) -> list[list[_Block]]:
    """Thread blocks of every rank, their steps in the order of the schedule's."""
    ranks = units.schedule.ranks
    blocks: list[dict[tuple[int, int, int], _Block]] = [{} for _ in range(ranks)]
    send_after, land_after = prerequisites(units)
    sent: list[tuple[_Block, _Step]] = []
    landed: list[tuple[_Block, _Step]] = []
    wants: list[tuple[_Block, _Step, list[tuple[_Block, _Step]]]] = []
    for rank, here, there, count in units.local_copies:
        block = blocks[rank].setdefault((-1, -1, 0), _Block())
        block.steps.append(_Step("cpy", here, there, count))
    at = 0
    while at < len(units.moves):
        end = at
        while end < len(units.moves) and units.moves[end].step == units.moves[at].step:
            end += 1
        for move in units.moves[at:end]:
            key = (move.destination, -1, move.colour)
            block = blocks[move.source].setdefault(key, _Block(move.destination, -1, move.colour))
            step = _Step("s", move.from_slot, move.to_slot, move.count)
            block.steps.append(step)
            sent.append((block, step))
        for move in units.moves[at:end]:
            key = (-1, move.source, move.colour)
            block = blocks[move.destination].setdefault(key, _Block(-1, move.source, move.colour))
            own = move.to_slot if move.reduce else move.from_slot
            step = _Step("rrc" if move.reduce else "r", own, move.to_slot, move.count)
            block.steps.append(step)
            landed.append((block, step))
        at = end
    for i, move in enumerate(units.moves):
        wants.append((*sent[i], [landed[j] for j in send_after[i]]))
        before = [landed[j] if units.moves[j].destination == move.destination and
                  _wrote(units, j, i) else sent[j] for j in land_after[i]]  # fmt: skip
        wants.append((*landed[i], before))
    return _numbered(blocks, wants)


def _wrote(units: Units, earlier: int, later: int) -> bool:
    """Whether the earlier move wrote where the later one lands (else it read there)."""
    a, b = units.moves[earlier], units.moves[later]
    if a.to_slot[0] != b.to_slot[0]:
        return False
    return a.to_slot[1] < b.to_slot[1] + b.count and b.to_slot[1] < a.to_slot[1] + a.count


def _numbered(
    blocks: list[dict[tuple[int, int, int], _Block]],
    wants: list[tuple[_Block, _Step, list[tuple[_Block, _Step]]]],
) -> list[list[_Block]]:
    """Blocks in their final order, dependences as numbers, nops for all but the last of several."""
    before: dict[int, list[tuple[_Block, _Step]]] = {}
    for block, step, needed in wants:
        latest: dict[int, tuple[_Block, _Step]] = {}
        place = {id(s): i for s_block in {id(b): b for b, _ in needed}.values()
                 for i, s in enumerate(s_block.steps)}  # fmt: skip
        for other, dep in needed:
            held = latest.get(id(other))
            if other is not block and (held is None or place[id(held[1])] < place[id(dep)]):
                latest[id(other)] = (other, dep)
        before[id(step)] = list(latest.values())
    final = [sorted(held.values(), key=lambda b: (b.send, b.receive, b.channel)) for held in blocks]
    number = {id(b): i for rank_blocks in final for i, b in enumerate(rank_blocks)}
    nops: list[tuple[_Step, tuple[_Block, _Step]]] = []
    for rank_blocks in final:
        for block in rank_blocks:
            steps: list[_Step] = []
            for step in block.steps:
                deps = before.get(id(step), [])
                for further in deps[1:]:
                    nops.append((_Step("nop"), further))
                    steps.append(nops[-1][0])
                if deps:
                    nops.append((step, deps[0]))
                steps.append(step)
            block.steps = steps
    index = {id(s): i for rank_blocks in final for b in rank_blocks for i, s in enumerate(b.steps)}
    for waiting, (other, needed_step) in nops:
        waiting.wait = (number[id(other)], index[id(needed_step)])
        needed_step.needed = True
    return final


# --- reading ------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Program:
    attributes: dict[str, str] = field(default_factory=dict)
    gpus: dict[int, tuple[dict[str, str], list[_Block], int]] = field(default_factory=dict)


def read(text: str, where: str) -> Schedule:
    """The schedule of an MSCCL file; raises InputError with the line of what is wrong.

    Steps are the fewest the data needs; the rows are the file's. A program that waits for itself,
    reads what no rank sent or adds up what our rows cannot say is an error.
    """
    program = _parse(text, where)
    name = program.attributes.get("coll", "")
    collective = next((c for c, n in NAMES.items() if n == name), None)
    if collective is None:
        raise UnknownNameError("collective", name, NAMES.values(), where=f"{where}:1")
    ranks = len(program.gpus)
    if sorted(program.gpus) != list(range(ranks)) or ranks < 1:
        raise InputError(
            f"gpus {sorted(program.gpus)} are not 0 .. {ranks - 1}", where=f"{where}:1"
        )
    said = program.attributes.get("ngpus")
    if said is not None and said != str(ranks):
        raise InputError(f"ngpus is {said}, {ranks} stand in the file", where=f"{where}:1")
    inputs = _inputs(program, collective, ranks, where)
    slots = Slots(ranks)
    places, units, per_rank = initial_places(collective, ranks, inputs)
    for place, unit in places:
        slots.fill(place, unit)
    _run(program, slots, where)
    return slots.schedule(collective, program.attributes.get("name", "msccl"), units, per_rank)


def _inputs(program: _Program, collective: Collective, ranks: int, where: str) -> int:
    """Units of one rank's input, as the file's buffers and offsets show."""
    loop = _whole(program.attributes, "nchunksperloop", f"{where}:1", default=0)
    declared = max(_whole(g[0], "i_chunks", f"{where}:{g[2]}", default=0)
                   for g in program.gpus.values())  # fmt: skip
    if collective == "all-gather":
        whole = loop or max(
            (s.target[1] + s.count for g in program.gpus.values() for b in g[1] for s in b.steps),
            default=ranks,
        )
        return max(1, whole // ranks)
    return loop or declared or 1


def _whole(
    attributes: Mapping[str, str], key: str, where: str, *, default: int | None = None
) -> int:
    text = attributes.get(key)
    if text is None and default is not None:
        return default
    try:
        return int(text if text is not None else "")
    except ValueError:
        raise InputError(f'`{key}="{text}"` is no whole number', where=where) from None


def _parse(text: str, where: str) -> _Program:
    parser = expat.ParserCreate()
    program = _Program()
    here: list[str] = []

    def refuse(*_: object) -> None:
        raise InputError("a document type or entity is declared: refused",
                         where=f"{where}:{parser.CurrentLineNumber}")  # fmt: skip

    def start(name: str, attributes: dict[str, str]) -> None:
        line = parser.CurrentLineNumber
        at = f"{where}:{line}"
        parent = here[-1] if here else ""
        here.append(name)
        if (parent, name) not in {("", "algo"), ("algo", "gpu"), ("gpu", "tb"), ("tb", "step"),
                                  ("tb", "op")}:  # fmt: skip
            raise InputError(f"<{name}> in <{parent or 'the file'}>", where=at,
                             hint="algo holds gpu, gpu holds tb, tb holds step")  # fmt: skip
        if name == "algo":
            program.attributes = attributes
        elif name == "gpu":
            program.gpus[_whole(attributes, "id", at)] = (attributes, [], line)
        elif name == "tb":
            blocks = list(program.gpus.values())[-1][1]
            blocks.append(_Block(_whole(attributes, "send", at), _whole(attributes, "recv", at),
                                 _whole(attributes, "chan", at), line=line))  # fmt: skip
            if _whole(attributes, "id", at) != len(blocks) - 1:
                raise InputError(f"tb {attributes['id']} where {len(blocks) - 1} follows", where=at)
        else:
            list(program.gpus.values())[-1][1][-1].steps.append(_step(attributes, at, line))

    parser.StartElementHandler = start
    parser.EndElementHandler = lambda _: here.pop() and None
    parser.StartDoctypeDeclHandler = refuse
    parser.EntityDeclHandler = refuse
    try:
        parser.Parse(text, True)
    except expat.ExpatError as error:
        raise InputError(f"not XML: {expat.ErrorString(error.code)}",
                         where=f"{where}:{error.lineno}") from error  # fmt: skip
    if not program.attributes:
        raise InputError("no <algo>", where=f"{where}:1")
    return program


def _step(attributes: Mapping[str, str], at: str, line: int) -> _Step:
    kind = attributes.get("type", "")
    if kind not in TYPES:
        raise UnknownNameError(
            "step type", kind, TYPES, where=at, hint=f"one of {', '.join(TYPES)}"
        )
    source = (attributes.get("srcbuf", "i"), _whole(attributes, "srcoff", at, default=-1))
    target = (attributes.get("dstbuf", "o"), _whole(attributes, "dstoff", at, default=-1))
    for buffer, _ in (source, target):
        if buffer not in ("i", "o", "s"):
            raise InputError(f"buffer `{buffer}`", where=at, hint="i, o or s")
    wait = (_whole(attributes, "depid", at, default=-1), _whole(attributes, "deps", at, default=-1))
    count = _whole(attributes, "cnt", at, default=1)
    if not 0 <= count <= UNITS_MOST:
        raise InputError(f'`cnt="{count}"`', where=at, hint=f"from 0 to {UNITS_MOST:,}")
    return _Step(kind, source, target, count, wait, attributes.get("hasdep") == "1", line)


def _run(program: _Program, slots: Slots, where: str) -> None:
    """Step through all thread blocks as far as each can go, until all are done."""
    at = {(g, b): 0 for g, (_, blocks, _) in program.gpus.items() for b in range(len(blocks))}
    wires: dict[tuple[int, int, int], list[list[int]]] = {}
    moved = True
    while moved:
        moved = False
        for (gpu, number), first in list(at.items()):
            block = program.gpus[gpu][1][number]
            position = first
            while position < len(block.steps):
                step = block.steps[position]
                waits = step.wait[0] >= 0 and at.get((gpu, step.wait[0]), -1) <= step.wait[1]
                key = (block.receive, gpu, block.channel)
                if waits or (step.kind in RECEIVES and not wires.get(key)):
                    break
                _do(slots, step, gpu, block, wires, f"{where}:{step.line}")
                position += 1
            moved |= position > first
            at[gpu, number] = position
    stuck = [(k, p) for k, p in at.items() if p < len(program.gpus[k[0]][1][k[1]].steps)]
    if stuck:
        (gpu, number), position = stuck[0]
        step = program.gpus[gpu][1][number].steps[position]
        raise InputError(f"gpu {gpu}, tb {number} waits for ever at step {position}",
                         where=f"{where}:{step.line}",
                         hint="no message or no step comes that it waits for")  # fmt: skip
    left = [k for k, queue in wires.items() if queue]
    if left:
        raise InputError(f"gpu {left[0][0]} sends what gpu {left[0][1]} never receives",
                         where=f"{where}:1")  # fmt: skip


def _do(
    slots: Slots, step: _Step, gpu: int, block: _Block,
    wires: dict[tuple[int, int, int], list[list[int]]], where: str,
) -> None:  # fmt: skip
    source = [(gpu, step.source[0], step.source[1] + k) for k in range(step.count)]
    target = [(gpu, step.target[0], step.target[1] + k) for k in range(step.count)]
    if step.kind in ("cpy", "re"):
        for here, there in zip(source, target, strict=True):
            (slots.copy if step.kind == "cpy" else slots.reduce)(here, there, where)
        return
    if step.kind in RECEIVES:
        rows = wires[block.receive, gpu, block.channel].pop(0)
        if len(rows) != step.count:
            raise InputError(f"{step.count} units are awaited, {len(rows)} come", where=where)
        if step.kind == "rrs":
            # The sum is passed on and not kept: a place of its own, which nothing else reads.
            target = [(gpu, "sum", row) for row in rows]
        for row, own, there in zip(rows, source, target, strict=True):
            if step.kind in ("r", "rcs"):
                slots.land(row, there, pending=step.kind == "r")
            else:
                slots.add(row, own, there, where)
        source = target
    if step.kind in SENDS:
        if block.send < 0 or block.send not in range(slots.ranks):
            raise InputError(f"a step `{step.kind}` in a tb with send={block.send}", where=where)
        rows = [slots.send(place, block.send, block.channel, where) for place in source]
        wires.setdefault((gpu, block.send, block.channel), []).append(rows)
