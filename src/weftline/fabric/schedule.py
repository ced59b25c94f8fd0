"""The one form of a collective: rows of (step, source, destination, chunks, reduce or copy).

Every algorithm makes it, importers and exporters read and write it, one checker proves it, the
evaluators time it. The buffer is cut into ``chunks`` numbered pieces; a row sends a range of them.

What a rank holds. all-reduce, reduce-scatter, broadcast: every rank has a buffer of all chunks
(its own contribution; for a broadcast only the root's counts). all-gather: rank r starts with the
chunks whose ``owner`` is r. reduce-scatter: rank r ends with those. all-to-all: chunk c goes from
``owner[c]`` to ``target[c]``. send: from ``root`` to ``target`` of each chunk.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from weftline.errors import InputError
from weftline.fabric.graph import BoolArray, FloatArray, IntArray, Topology

Collective = Literal[
    "all-reduce", "reduce-scatter", "all-gather", "all-to-all", "broadcast", "send"
]
COLLECTIVES: tuple[Collective, ...] = (
    "all-reduce", "reduce-scatter", "all-gather", "all-to-all", "broadcast", "send",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Schedule:
    """One collective on ``ranks`` ranks as rows sorted by step.

    A row may start once every earlier row *of its colour* that delivers (or must have left) its
    chunks at its source has arrived: steps order rows of one colour; colours share only the links.
    A buffer of S bytes puts ``S * share[c]`` bytes into chunk c; the shares sum to 1 (all-to-all:
    those of each owner do).
    """

    collective: Collective
    algorithm: str
    ranks: int
    step: IntArray
    """[rows] from 0; rows of one step of one colour go at once."""
    source: IntArray
    destination: IntArray
    first_chunk: IntArray
    chunk_count: IntArray
    reduce: BoolArray
    """[rows] the destination adds what comes to what it has; else it is copied over it."""
    colour: IntArray
    """[rows] independent streams; a chunk belongs to one colour. Rows of one step, colour, source
    and destination travel together: several ranges of one message."""
    share: FloatArray
    """[chunks] fraction of the buffer in each chunk. The buffer is that of nccl-tests' size: of
    each rank for all-reduce, broadcast and send; the input of each rank for reduce-scatter; the
    output of each rank for all-gather. All-to-all: of the send buffer of the chunk's owner."""
    owner: IntArray | None = None
    """[chunks] all-gather: who starts with it; reduce-scatter: who ends with it; all-to-all: who
    sends it."""
    target: IntArray | None = None
    """[chunks] all-to-all and send: who must get it."""
    root: int = 0
    """broadcast and send: who has the buffer."""
    switches: int = 0
    """Switches that take part (NVLS, SHARP), as nodes ranks .. ranks+switches-1 of rows: they add
    up what comes, start with nothing, and send one sum to many."""
    path_start: IntArray | None = None
    """[rows + 1] into ``path_links``: the links a row takes; None leaves it to shortest routes."""
    path_links: IntArray | None = None

    @property
    def rows(self) -> int:
        """Transfers."""
        return len(self.step)

    @property
    def nodes(self) -> int:
        """Ranks and the switches that take part."""
        return self.ranks + self.switches

    @property
    def chunks(self) -> int:
        """Pieces of the buffer."""
        return len(self.share)

    @property
    def steps(self) -> int:
        """Steps of the longest colour."""
        return int(self.step.max()) + 1 if self.rows else 0

    def fractions(self) -> FloatArray:
        """[rows] fraction of the buffer each row carries."""
        total = np.concatenate([[0.0], np.cumsum(self.share)])
        carried: FloatArray = total[self.first_chunk + self.chunk_count] - total[self.first_chunk]
        return carried

    def check_form(self, topology: Topology | None = None) -> None:
        """Raise InputError for rows outside the ranks or chunks, whatever they bring about."""
        if topology is not None and topology.ranks != self.ranks:
            raise InputError(
                f"a schedule of {self.ranks} ranks on `{topology.name}` with {topology.ranks} chips"
            )
        for name, low, high in (
            ("source", 0, self.nodes), ("destination", 0, self.nodes), ("step", 0, 2**62),
            ("first_chunk", 0, self.chunks), ("chunk_count", 1, self.chunks + 1),
        ):  # fmt: skip
            values = getattr(self, name)
            bad = np.flatnonzero((values < low) | (values >= high))
            if len(bad):
                raise InputError(
                    f"row {int(bad[0])} of the schedule: {name} {int(values[bad[0]])} is outside "
                    f"{low}..{high - 1}"
                )
