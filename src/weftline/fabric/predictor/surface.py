"""Collectives of many sizes over many groups at once, for searches: the predictor as a table.

Of every machine and collective that comes the predictor is asked once, at sizes an eighth of their
power of two apart; between them seconds are read by straight lines, as time is startup and bytes
at a rate piece by piece. At those sizes the answer is ``predict``'s to the digit. One table serves
the process: its rows depend on nothing but the machine.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from weftline.fabric.predictor.machines import Harness, Machine
from weftline.fabric.predictor.predict import calibration, times_s

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Number = float | FloatArray

_BITS: Final = 49
"""Bits of a double's mantissa below the three that tell eighths of a power of two apart."""
_FIRST: Final = 1023 << 3
NODES: Final = np.ldexp(np.tile(1.0 + np.arange(8) / 8, 56), np.repeat(np.arange(56), 8))
"""Bytes the predictor is asked for: a byte to 135 PB."""


class _Table:
    """[rows, nodes] seconds, and what they grow by to the next node; row 0 costs nothing."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._row: dict[tuple[Machine, str, Harness], int] = {}
        self._seconds = np.zeros((64, len(NODES)))
        self._growth = np.zeros((64, len(NODES)))
        self._several = np.zeros(64)

    def row(self, machine: Machine, collective: str, harness: Harness) -> int:
        """The row of one machine and collective, made where it is new."""
        key = (machine, collective, harness)
        with self._lock:
            if key not in self._row:
                at = len(self._row) + 1
                if at == len(self._several):
                    self._seconds = np.concatenate([self._seconds, np.zeros_like(self._seconds)])
                    self._growth = np.concatenate([self._growth, np.zeros_like(self._growth)])
                    self._several = np.concatenate([self._several, np.zeros_like(self._several)])
                constants = calibration().constants
                seconds = times_s(constants, machine, collective, NODES, harness=harness)
                self._seconds[at] = seconds
                self._growth[at, :-1] = np.diff(seconds)
                self._several[at] = float(machine.domains > 1)
                self._row[key] = at
            return self._row[key]

    def seconds(self, row: IntArray, nbytes: FloatArray) -> FloatArray:
        """Seconds of rows and bytes of one shape; below a byte counts as one."""
        size = np.ascontiguousarray(np.maximum(nbytes, 1.0))
        bits = size.view(np.int64)
        node = np.minimum((bits >> _BITS) - _FIRST, len(NODES) - 2)
        share = (bits & ((1 << _BITS) - 1)) * 2.0**-_BITS
        at = row * len(NODES) + node
        found: FloatArray = self._growth.ravel().take(at)
        found *= share
        found += self._seconds.ravel().take(at)
        return found

    def several(self, row: IntArray) -> FloatArray:
        """1 where a row's group lies in several domains."""
        return self._several.take(row)


_TABLE: Final = _Table()


@dataclass(frozen=True, slots=True)
class GroupTimes:
    """Groups of ranks that run one collective, one entry a group."""

    row: IntArray
    """Of the process's table; 0 where there is one rank alone, which costs nothing."""

    def seconds(self, nbytes: Number) -> FloatArray:
        """Time of one collective of ``nbytes`` (nccl-tests' size) in each group."""
        row, size = np.broadcast_arrays(self.row, np.asarray(nbytes, dtype=np.float64))
        return _TABLE.seconds(row, size)

    @property
    def several(self) -> FloatArray:
        """1 where a group lies in several scale-up domains, else 0."""
        return _TABLE.several(self.row)

    def take(self, index: IntArray) -> GroupTimes:
        """Some of the groups."""
        return GroupTimes(self.row[index])

    @staticmethod
    def either(first: npt.NDArray[np.bool_], one: GroupTimes, other: GroupTimes) -> GroupTimes:
        """The one's where ``first`` is true, the other's elsewhere."""
        return GroupTimes(np.where(first, one.row, other.row))

    @staticmethod
    def joined(parts: Sequence[GroupTimes]) -> GroupTimes:
        """Several as one, in their order."""
        return GroupTimes(np.concatenate([p.row for p in parts]))

    def where(self, kept: npt.NDArray[np.bool_]) -> GroupTimes:
        """The same, with groups that cost nothing where ``kept`` is false."""
        return GroupTimes(np.where(kept, self.row, 0))


class CollectiveTimes:
    """Seconds of collectives over groups that two whole numbers tell apart, whatever they are.

    ``machine`` makes the machine of (ranks, the other number): ranks in each domain, or how far
    ranks lie from each other. ``harness`` device: programs queue their calls ahead, so that the
    host is not waited for.
    """

    def __init__(
        self, machine: Callable[[int, int], Machine], *, harness: Harness = "device"
    ) -> None:
        self._machine = machine
        self._harness: Harness = harness
        self._lock = threading.RLock()
        self._rows: dict[str, IntArray] = {}
        self._machines: dict[tuple[int, int], Machine] = {}
        self._place = (np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64))
        self._known: tuple[list[int], list[int]] = ([0], [0])

    def groups(self, collective: str, ranks: Number, other: Number) -> GroupTimes:
        """The groups of arrays of both numbers, broadcast."""
        count, apart = np.broadcast_arrays(
            np.asarray(ranks).astype(np.int64), np.asarray(other).astype(np.int64)
        )
        if count.size == 0:
            return GroupTimes(np.zeros(count.shape, dtype=np.int64))
        with self._lock:
            first, second = self._placed(0, count), self._placed(1, apart)
            rows = self._rows_of(collective)
            found = rows[first, second]
            if (found < 0).any():
                self._fill(rows, collective, np.unique(first * rows.shape[1] + second))
                found = rows[first, second]
        return GroupTimes(found)

    def seconds(self, collective: str, nbytes: Number, ranks: Number, other: Number) -> FloatArray:
        """Seconds, broadcast over all three; a group of one rank, or no bytes, cost nothing."""
        size = np.asarray(nbytes, dtype=np.float64)
        return np.where(size > 0, self.groups(collective, ranks, other).seconds(size), 0.0)

    def _placed(self, which: int, values: IntArray) -> IntArray:
        """Each value's place among those that came."""
        place, known = self._place[which], self._known[which]
        most = int(values.max())
        if most >= len(place):
            place = np.concatenate([place, np.zeros(max(most + 1, 64) - len(place), np.int64)])
        found = place.take(values)
        if (new := values[found == 0]).size:
            for value in np.unique(new).tolist():
                place[value] = len(known)
                known.append(value)
            found = place.take(values)
        kept = list(self._place)
        kept[which] = place
        self._place = (kept[0], kept[1])
        return found

    def _rows_of(self, collective: str) -> IntArray:
        """[ranks known, others known] rows, -1 where one is to be made."""
        shape = (len(self._known[0]), len(self._known[1]))
        rows = self._rows.get(collective)
        if rows is None or rows.shape != shape:
            grown = np.full(shape, -1, dtype=np.int64)
            if rows is not None:
                grown[: rows.shape[0], : rows.shape[1]] = rows
            rows = self._rows[collective] = grown
        return rows

    def _fill(self, rows: IntArray, collective: str, places: IntArray) -> None:
        for place in places.tolist():
            first, second = divmod(place, rows.shape[1])
            if rows[first, second] >= 0:
                continue
            ranks = self._known[0][first]
            rows[first, second] = 0 if ranks <= 1 else _TABLE.row(
                self._machine_of(ranks, self._known[1][second]), collective, self._harness
            )  # fmt: skip

    def _machine_of(self, ranks: int, other: int) -> Machine:
        """Made once: every collective of a group asks for it."""
        found = self._machines.get((ranks, other))
        if found is None:
            found = self._machines[ranks, other] = self._machine(ranks, other)
        return found
