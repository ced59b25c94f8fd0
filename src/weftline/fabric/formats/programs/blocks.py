"""Thread blocks of an MSCCL program, within the limits of the executor that is to load it.

A thread block talks to one peer in one direction, so that waiting for one never holds up another.
A connection whose steps are more than a block may have goes on in a block of a further channel.
Colours have channels of their own while the blocks suffice. What cannot be cut so is refused with
the limit's name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from weftline.errors import InputError
from weftline.fabric.formats.programs.units import Event, Move, Slot, Units, events_of
from weftline.fabric.schedule import Collective

OFFSETS_MOST: Final = 2**15 - 1
"""An offset is a 16-bit number in every executor."""
WAITED_MOST: Final = 2**7
"""The number of a thread block that others wait for is an 8-bit one in every executor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Executor:
    """What one consumer of MSCCL files accepts, from its parser (source in ``EXECUTORS``)."""

    name: str
    steps: int
    """Steps of a thread block."""
    blocks: int
    """Thread blocks of a rank."""
    blocks_per_channel: int
    """Thread blocks of a rank that send (and that receive) on one channel."""
    channels: int
    count_below: int
    """Units one step moves are fewer than this."""
    nodes: int
    """XML elements the parser holds for one rank: its own, and one for each other rank."""
    names: Mapping[Collective, str]
    source: str


_NAMES: Final[Mapping[Collective, str]] = {
    "all-reduce": "allreduce", "all-gather": "allgather", "reduce-scatter": "reducescatter",
    "all-to-all": "alltoall", "broadcast": "broadcast",
}  # fmt: skip
_OLD_NAMES: Final = {**_NAMES, "reduce-scatter": "reduce_scatter"}
_PARSER = "src/misc/msccl/msccl_parser.cc, src/include/msccl/msccl_struct.h"

EXECUTORS: Final[Mapping[str, Executor]] = {
    e.name: e for e in (
        Executor(name="msccl-executor-nccl", steps=256, blocks=1024, blocks_per_channel=32,
                 channels=32, count_below=72, nodes=4096, names=_NAMES,
                 source=f"github.com/Azure/msccl-executor-nccl c6f6b36d: {_PARSER}"),
        Executor(name="rccl", steps=64, blocks=64, blocks_per_channel=32, channels=128,
                 count_below=72, nodes=4096, names=_NAMES,
                 source=f"github.com/ROCm/rccl 0cbce2a7: {_PARSER}"),
        Executor(name="msccl", steps=256, blocks=216, blocks_per_channel=32, channels=32,
                 count_below=72, nodes=4096, names=_OLD_NAMES,
                 source="github.com/microsoft/msccl b23e9cd5: src/graph/topo.cc, "
                        "src/include/msccl.h, src/graph/xml.h"),
    )
}  # fmt: skip


def executor_of(name: str) -> Executor:
    """The executor of a name; ``any`` has the least of what those that load one file accept."""
    if name != "any":
        return EXECUTORS[name]
    both = [e for e in EXECUTORS.values() if e.names is _NAMES]
    least = {f: min(getattr(e, f) for e in both) for f in (
        "steps", "blocks", "blocks_per_channel", "channels", "count_below", "nodes")}  # fmt: skip
    return replace(both[0], name=" and ".join(e.name for e in both), **least)


@dataclass(slots=True)
class Step:
    """One step of a thread block."""

    kind: str
    source: Slot = ("i", -1)
    target: Slot = ("o", -1)
    count: int = 0
    wait: tuple[int, int] = (-1, -1)
    """Thread block and step to wait for."""
    needed: bool = False
    """Whether others wait for it."""
    position: int = -1
    """Its place in its block."""
    line: int = 0


@dataclass(slots=True)
class Block:
    """One thread block: whom it sends to and receives from (-1: nobody), on which channel."""

    send: int = -1
    receive: int = -1
    channel: int = 0
    steps: list[Step] = field(default_factory=list)
    line: int = 0
    waited: dict[int, int] = field(default_factory=dict)
    """Identity of a block -> the last of its steps that this one has waited for."""
    reserved: int = 0
    """Steps it has at most, those of what is still to come included."""


def blocks_of(units: Units, executor: Executor) -> list[list[Block]]:
    """Thread blocks of every rank. Raises InputError where a limit cannot be kept."""
    if max(units.buffer_units, *units.scratch_units.tolist(), 0) > OFFSETS_MOST:
        raise InputError(
            f"the buffer is cut into {units.buffer_units:,} pieces, offsets of MSCCL end at "
            f"{OFFSETS_MOST:,}",
            hint="take an algorithm of fewer chunks, or fewer ranks",
        )
    events = events_of(units, most=executor.count_below - 1)
    colours = 1 + max((m.colour for m in units.moves), default=0)
    while True:
        try:
            return _Maker(units, executor, colours).made(events)
        except InputError:
            # Colours that share a channel need fewer blocks and send one after the other.
            if colours == 1:
                raise
            colours = (colours + 1) // 2


class _Maker:
    """Deals events to thread blocks in order, and opens a new block where one is full."""

    def __init__(self, units: Units, executor: Executor, colours: int) -> None:
        self.units, self.executor, self.colours = units, executor, colours
        self.blocks: list[list[Block]] = [[] for _ in range(units.schedule.ranks)]
        self.local: dict[int, Block] = {}
        """Rank -> the block of its copies."""
        self.open: dict[tuple[int, int, int], tuple[Block, Block]] = {}
        """(source, destination, colour) -> its blocks at both ends."""
        self.taken: dict[tuple[int, int], set[int]] = {}
        """(source, destination) -> channels in use."""
        self.used: Counter[tuple[int, int, str]] = Counter()
        """(rank, channel, direction) -> blocks."""
        self.ends: dict[int, Block] = {}
        """A move's identity -> the block that receives it."""
        self.done: list[tuple[Block, Step]] = []
        """[events] where each stands."""
        self.waits: list[tuple[Step, tuple[Block, Step]]] = []

    def made(self, events: list[Event]) -> list[list[Block]]:
        lands = {id(e.move): e for e in events if e.kind == "land"}
        for event in events:
            move = event.move
            if move is None:
                self._add(event, self._copying(event), "cpy")
            elif event.kind == "land":
                self._add(event, self.ends.pop(id(move)), "rrc" if move.reduce else "r")
            else:
                # Both ends go on in a new channel together.
                landing = lands[id(move)]
                sender, receiver = self._connection(move, event, landing)
                receiver.reserved += _steps_most(landing)
                self.ends[id(move)] = receiver
                sender.reserved += _steps_most(event)
                self._add(event, sender, "s")
        self._number()
        return self.blocks

    def _new(self, rank: int, block: Block) -> Block:
        self.blocks[rank].append(block)
        if len(self.blocks[rank]) > self.executor.blocks:
            raise self._refusal(f"rank {rank} needs more than {self.executor.blocks} thread blocks")
        return block

    def _refusal(self, what: str) -> InputError:
        return InputError(
            f"{self.units.schedule.algorithm} on {self.units.schedule.ranks} ranks: {what}, the "
            f"most of {self.executor.name}",
            hint="take an algorithm with fewer peers a rank or fewer steps, another --executor "
            "or fewer ranks",
        )

    def _copying(self, event: Event) -> Block:
        block = self.local.get(event.rank)
        need = _steps_most(event)
        if block is None or block.reserved + need > self.executor.steps:
            block = self.local[event.rank] = self._new(event.rank, Block())
        block.reserved += need
        return block

    def _connection(self, move: Move, sends: Event, lands: Event) -> tuple[Block, Block]:
        """The blocks at both ends of a move's connection, new ones where either is full."""
        key = (move.source, move.destination, move.colour % self.colours)
        ends, most = self.open.get(key), self.executor.steps
        if ends is not None and (
            ends[0].reserved + _steps_most(sends) <= most
            and ends[1].reserved + _steps_most(lands) <= most
        ):
            return ends
        for event in (sends, lands):
            if _steps_most(event) > most:
                raise self._refusal(
                    f"one step of rank {event.rank} waits for {_steps_most(event)} others, a "
                    f"thread block has {most} steps"
                )
        channel = self._channel(*key)
        s, d, _ = key
        self.open[key] = (
            self._new(s, Block(d, -1, channel)), self._new(d, Block(-1, s, channel))
        )  # fmt: skip
        return self.open[key]

    def _channel(self, source: int, destination: int, colour: int) -> int:
        """The first channel from the colour's own that both ends have room on."""
        taken = self.taken.setdefault((source, destination), set())
        most = self.executor.blocks_per_channel
        for step in range(self.executor.channels):
            channel = (colour + step) % self.executor.channels
            ends = ((source, channel, "send"), (destination, channel, "receive"))
            if channel not in taken and all(self.used[end] < most for end in ends):
                taken.add(channel)
                self.used.update(ends)
                return channel
        raise self._refusal(
            f"rank {source} needs more than {self.executor.channels} channels of {most} senders"
        )

    def _add(self, event: Event, block: Block, kind: str) -> None:
        """A step in its block, with a ``nop`` before it for all but one of those it waits for."""
        latest: dict[int, tuple[Block, Step]] = {}
        for number in event.after:
            other, step = self.done[number]
            held = latest.get(id(other))
            if other is block or block.waited.get(id(other), -1) >= step.position:
                continue
            if held is None or held[1].position < step.position:
                latest[id(other)] = (other, step)
        for identity, (_, step) in latest.items():
            block.waited[identity] = step.position
        waits = list(latest.values())
        for further in waits[1:]:
            nop = Step("nop")
            self.waits.append((nop, further))
            block.steps.append(nop)
        own = event.there if kind == "rrc" else event.here
        step = Step(kind, own, event.there, event.count)
        if waits:
            self.waits.append((step, waits[0]))
        # Nops count, so the position is not that among the events.
        step.position = len(block.steps)
        block.steps.append(step)
        self.done.append((block, step))

    def _number(self) -> None:
        """Put blocks in their final order and write whom each step waits for."""
        number: dict[int, int] = {}
        for rank, blocks in enumerate(self.blocks):
            blocks.sort(key=lambda b: (b.send, b.receive, b.channel))
            number.update((id(b), i) for i, b in enumerate(blocks))
            held = self.units.schedule.ranks + 1 + sum(1 + len(b.steps) for b in blocks)
            if held > self.executor.nodes:
                raise self._refusal(
                    f"rank {rank} needs {held:,} XML elements, {self.executor.nodes:,} are read"
                )
        for waiting, (other, needed) in self.waits:
            if number[id(other)] >= WAITED_MOST:
                raise self._refusal(
                    f"a step waits for thread block {number[id(other)]}, only the first "
                    f"{WAITED_MOST} can be named"
                )
            waiting.wait = (number[id(other)], needed.position)
            needed.needed = True


def _steps_most(event: Event) -> int:
    """Steps an event takes at most: itself, and a ``nop`` for each further one it waits for."""
    return max(1, len(event.after))
