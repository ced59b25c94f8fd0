"""MSCCL's XML: thread blocks of one peer each, steps s, r, rrc, rcs, rrcs, rrs, cpy, re, nop.

``blocks`` deals a schedule's rows to thread blocks; here they are written and read. ``depid`` and
``deps`` name the thread block and step to wait for; further ones stand in ``nop`` steps before.
A program says with ``inplace`` and ``outofplace`` which calls may take it, with ``minBytes`` and
``maxBytes`` which sizes (``maxBytes`` is written as 1 TiB where there is no end).

Read without any document type: a file that declares entities is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from xml.parsers import expat
from xml.sax.saxutils import quoteattr

from weftline.errors import InputError, UnknownNameError
from weftline.fabric.formats.programs.blocks import Block, Step, blocks_of, executor_of
from weftline.fabric.formats.programs.slots import Slots, buffers_of
from weftline.fabric.formats.programs.units import UNITS_MOST, in_instances, in_units
from weftline.fabric.orbit import OrbitSchedule, expand
from weftline.fabric.schedule import Collective, Schedule

FORMAT = "msccl"
NAMES: Final[Mapping[str, Collective]] = {
    "allreduce": "all-reduce", "allgather": "all-gather", "reducescatter": "reduce-scatter",
    "reduce_scatter": "reduce-scatter", "alltoall": "all-to-all", "broadcast": "broadcast",
}  # fmt: skip
"""What parsers call the collectives; ``reduce_scatter`` is the first MSCCL's."""
PROTOCOLS: Final = ("Simple", "LL", "LL128")
SENDS = ("s", "rcs", "rrs", "rrcs")
RECEIVES = ("r", "rcs", "rrs", "rrc", "rrcs")
TYPES = (*SENDS, "r", "rrc", "cpy", "re", "nop")
NAME_MOST: Final = 63
"""Letters of an algorithm's name that MSCCL keeps."""
SIZE_MOST: Final = 2**40


def write(
    schedule: Schedule | OrbitSchedule, *, protocol: str = "Simple", executor: str = "any",
    in_place: bool = True, sizes: tuple[int, int] = (0, SIZE_MOST), instances: int = 1,
) -> str:  # fmt: skip
    """The XML of a schedule, for one of ``blocks.EXECUTORS`` or ``any`` of those in use.

    ``sizes`` are the least and most bytes it is taken for, ``instances`` how many channels share
    the work of one. Raises InputError for what MSCCL cannot
    express and for what is beyond the executor's limits.
    """
    consumer = executor_of(executor)
    flat = expand(schedule) if isinstance(schedule, OrbitSchedule) else schedule
    units = in_units(in_instances(flat, instances), in_place=in_place)
    if flat.collective not in consumer.names:
        raise InputError(
            f"MSCCL has no {flat.collective}",
            hint="a send and a receive are calls of two ranks, each with a program of its own; "
            "--to mscclpp or --to chakra writes both",
        )
    gpus = blocks_of(units, consumer)
    channels = 1 + max((b.channel for blocks in gpus for b in blocks), default=0)
    lines = [
        f"<algo name={quoteattr(flat.algorithm[:NAME_MOST])} proto={quoteattr(protocol)} "
        f'nchannels="{channels}" nchunksperloop="{units.buffer_units}" ngpus="{flat.ranks}" '
        f'coll="{consumer.names[flat.collective]}" inplace="{int(units.in_place)}" '
        f'outofplace="{int(not units.in_place)}" minBytes="{sizes[0]}" maxBytes="{sizes[1]}">'
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


def _written(number: int, step: Step) -> str:
    return (
        f'      <step s="{number}" type="{step.kind}" srcbuf="{step.source[0]}" '
        f'srcoff="{step.source[1]}" dstbuf="{step.target[0]}" dstoff="{step.target[1]}" '
        f'cnt="{step.count}" depid="{step.wait[0]}" deps="{step.wait[1]}" '
        f'hasdep="{int(step.needed)}"/>'
    )


# --- reading ------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Program:
    attributes: dict[str, str] = field(default_factory=dict)
    gpus: dict[int, tuple[dict[str, str], list[Block], int]] = field(default_factory=dict)


def read(text: str, where: str) -> Schedule:
    """The schedule of an MSCCL file; raises InputError with the line of what is wrong.

    Steps are the fewest the data needs; the rows are the file's. A program that waits for itself,
    reads what no rank sent or adds up what our rows cannot say is an error.
    """
    program = _parse(text, where)
    name = program.attributes.get("coll", "")
    collective = NAMES.get(name)
    if collective is None:
        raise UnknownNameError("collective", name, NAMES, where=f"{where}:1")
    ranks = len(program.gpus)
    if sorted(program.gpus) != list(range(ranks)) or ranks < 1:
        raise InputError(
            f"gpus {sorted(program.gpus)} are not 0 .. {ranks - 1}", where=f"{where}:1"
        )
    said = program.attributes.get("ngpus")
    if said is not None and said != str(ranks):
        raise InputError(f"ngpus is {said}, {ranks} stand in the file", where=f"{where}:1")
    inputs = _inputs(program, collective, ranks, where)
    name = program.attributes.get("name", "msccl")
    for in_place in _ways(program, where):
        slots = Slots(ranks)
        buffers = buffers_of(collective, ranks, inputs, in_place=in_place)
        slots.start(buffers)
        _run(program, slots, where)
        slots.finish(collective, buffers, f"{where}:1")
    return slots.schedule(collective, name, buffers.units, buffers.per_rank)


def _ways(program: _Program, where: str) -> list[bool]:
    """The calls a program is for, both proved: in place, out of place."""
    at = f"{where}:1"
    in_place = _whole(program.attributes, "inplace", at, default=0) == 1
    apart = _whole(program.attributes, "outofplace", at, default=int(not in_place)) == 1
    if not in_place and not apart:
        raise InputError('inplace="0" and outofplace="0": no call can take this program', where=at)
    return [way for way, asked in ((True, in_place), (False, apart)) if asked]


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
            blocks.append(Block(_whole(attributes, "send", at), _whole(attributes, "recv", at),
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


def _step(attributes: Mapping[str, str], at: str, line: int) -> Step:
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
    return Step(kind, source, target, count, wait, attributes.get("hasdep") == "1", line=line)


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
    slots: Slots, step: Step, gpu: int, block: Block,
    wires: dict[tuple[int, int, int], list[list[int]]], where: str,
) -> None:  # fmt: skip
    source = [slots.named((gpu, step.source[0], step.source[1] + k)) for k in range(step.count)]
    target = [slots.named((gpu, step.target[0], step.target[1] + k)) for k in range(step.count)]
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
