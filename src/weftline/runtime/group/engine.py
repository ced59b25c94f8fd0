"""Runs programs: buffers cut into pieces, the interpreter called until all is done or one fails."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import numpy as np

from weftline.fabric.graph import IntArray
from weftline.runtime.group.arena import WIDTH, Arena, Peer, RankMissingError, crowded, ended
from weftline.runtime.group.emulate import Links
from weftline.runtime.group.kernel import BLOCK_BYTES, BROKEN, CONTEXT, DONE, STATE, advance
from weftline.runtime.group.program import NAMES, Program, laid_on

__all__ = ["Engine"]

PIECE_BYTES: Final = 256 << 10
"""Of one segment: pieces of all ranks stay in the cache."""
CROWDED_BYTES: Final = 1 << 20
"""Where ranks share cores: a rank does more before the next has its turn."""
_PATIENCE_NS: Final = 100_000_000
_KEPT: Final = 256
"""Layouts of programs on sizes that are kept."""
_GRAIN: Final = 16


@dataclass(frozen=True, slots=True, eq=False)
class _Laid:
    """A program laid on a buffer of one size."""

    full: IntArray
    last: IntArray
    bound: IntArray
    pieces: int
    length: int
    flows: IntArray
    sent: IntArray
    states: IntArray


class Engine:
    """The state of one group on one rank: where its flags stand, and what is laid out."""

    def __init__(
        self, arena: Arena, rank: int, peers: Sequence[Peer], *, timeout: timedelta, name: str,
        sockets: IntArray | None = None, links: Links | None = None,
    ) -> None:  # fmt: skip
        self.arena, self.rank, self.peers, self.name = arena, rank, peers, name
        self.timeout_s = timeout.total_seconds()
        self.ranks = arena.ranks
        self.links = links
        self.flags = arena.addresses(arena.flags_at)
        self.bases = arena.addresses(arena.slots_at)
        self.near = (self.bases != 0).astype(np.int64)
        self.mirrors = np.zeros(self.ranks, np.int64)
        self._mirror: np.ndarray[Any, np.dtype[np.uint8]] | None = None
        self.sources = self.bases.copy()
        self.sockets = np.zeros((1, 1), np.int64) if sockets is None else sockets
        self.starts = np.zeros(arena.slots, np.int64)
        self.uses = np.zeros(arena.slots, np.int64)
        self.first = 0
        """Pieces so far."""
        self.calls = 0
        self.block = np.empty(BLOCK_BYTES + 64, np.uint8)
        self.laid: OrderedDict[tuple[int, int, int], _Laid] = OrderedDict()
        self.programs: dict[int, Program] = {}
        self.crowded = crowded(peers)
        self.spin = 20 if self.crowded else 2000
        self.context = np.zeros(len(CONTEXT), np.int64)
        if not self.near.all():
            self._mirrors()
            self.sources = np.where(self.near, self.bases, self.mirrors)

    def run(
        self, program: Program, given: int, out: int, elements: int, size: int, kind: int = 0,
        shared: IntArray | None = None,
    ) -> None:  # fmt: skip
        """Execute on ``elements`` of ``size`` bytes a segment at address ``given``, to ``out``.

        Raises RankMissingError naming the rank that did not come or has ended.
        """
        if elements == 0 and program.slot_share > 0:
            return
        laid = self._laid(program, elements, size)
        if program.mirrors:
            self._mirrors()
        c = self.context
        c[:17] = (
            given, out, size, kind, laid.pieces, laid.length, self.first, self.arena.slots,
            len(program.streams), self.rank, self.ranks, program.values, self.spin, WIDTH, -1, 0,
            self.arena.slot_bytes,
        )  # fmt: skip
        states = laid.states
        states[:] = 0
        states[:, :, 1] = -1
        for piece in range(self.first, self.first + min(laid.pieces, self.arena.slots)):
            states[piece % self.arena.slots, :, 1] = piece
        nothing = _NOTHING
        tables: tuple[Any, ...] = (nothing[0], nothing[0], nothing[1], nothing[1], nothing[0])
        c[17:] = 0, 0, _PATIENCE_NS, 0, 0
        if self.links is not None and program.linked is not None:
            c[17:] = self.links.credit_ns, self.links.clocks, _PATIENCE_NS, 1, 0
            tables = self.links.tables(program.linked)
        self.calls += 1
        self.first += laid.pieces
        block = (self.block.ctypes.data + 63) & ~63
        began = time.monotonic()
        while True:
            found = advance(
                c, self.flags, self.bases, self.mirrors, self.sources, self.near,
                _NOTHING[0] if shared is None else shared, laid.full, laid.last, laid.bound, states,
                self.starts, self.uses, block, self.sockets, laid.sent, laid.flows, *tables,
            )  # fmt: skip
            if found == DONE:
                return
            self._look(program, found, time.monotonic() - began)

    def _look(self, program: Program, found: int, waited_s: float) -> None:
        """Raise RankMissingError if the rank that is waited for has ended, or time is up."""
        peer, op = int(self.context[14]), NAMES[int(self.context[15])]
        where = f"{program.name} (number {self.calls} of group {self.name}, {op})"
        for other in self.peers:
            if self.near[other.rank] and other.rank != self.rank and ended(other.pid):
                raise RankMissingError(
                    f"{where}: rank {other.rank} (process {other.pid}) has ended",
                    hint="look at that rank's own log",
                )
        if found == BROKEN:
            raise RankMissingError(
                f"{where}: rank {peer} on {self.peers[peer].host} has closed its connection",
                hint="look at that rank's own log",
            )
        if waited_s > self.timeout_s:
            raise RankMissingError(
                f"{where}: rank {peer} (process {self.peers[peer].pid}) did not come within "
                f"{self.timeout_s:.0f} s",
                hint="it may be in another collective: all ranks call the same ones in one order",
            )

    def _mirrors(self) -> None:
        """Memory for what peers' slots held when it was read, one slot area a peer."""
        if self._mirror is None:
            area = self.arena.slots * self.arena.slot_bytes
            self._mirror = np.empty(self.ranks * area + 64, np.uint8)
            at = (self._mirror.ctypes.data + 63) & ~63
            self.mirrors[:] = at + area * np.arange(self.ranks)

    def _laid(self, program: Program, elements: int, size: int) -> _Laid:
        key = (id(program), elements, size)
        found = self.laid.get(key)
        if found is not None:
            self.laid.move_to_end(key)
            return found
        self.programs[id(program)] = program  # an address is a name while this holds it
        most = int(self.arena.slot_bytes // (size * max(program.slot_share, 1e-9)))
        if program.slot_share and program.linked is None:
            most = min(most, (CROWDED_BYTES if self.crowded else PIECE_BYTES) // size)
        most = max(_GRAIN, most // _GRAIN * _GRAIN)
        pieces = max(1, -(-elements // most))
        length = elements if pieces == 1 else -(-elements // pieces // _GRAIN) * _GRAIN
        pieces = max(1, -(-elements // length)) if length else 1
        full, bound = laid_on(program, length, elements)
        last, _ = laid_on(program, elements - (pieces - 1) * length, elements)
        slots = self.arena.slots
        made = _Laid(
            full, last, bound, pieces, length,
            np.zeros((slots, len(full), 3), np.int64), np.zeros((slots, len(full)), np.int64),
            np.zeros((slots, len(program.streams), STATE), np.int64),
        )  # fmt: skip
        self.laid[key] = made
        if len(self.laid) > _KEPT:
            self.laid.popitem(last=False)
        return made


_NOTHING: Final = (np.zeros(1, np.int64), np.zeros(1, np.float64))
