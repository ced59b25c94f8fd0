"""Rows of a schedule while it is being made: columns, joined, reversed and finished."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from weftline.errors import InputError
from weftline.fabric.graph import BoolArray, FloatArray, IntArray
from weftline.fabric.schedule import Collective, Schedule


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Columns of equal length, in any order."""

    step: IntArray
    source: IntArray
    destination: IntArray
    first_chunk: IntArray
    chunk_count: IntArray
    reduce: BoolArray
    colour: IntArray

    @staticmethod
    def of(
        *,
        step: IntArray | int,
        source: IntArray,
        destination: IntArray,
        first_chunk: IntArray | int,
        chunk_count: IntArray | int,
        reduce: BoolArray | bool,
        colour: IntArray | int,
    ) -> Rows:
        """Rows of columns and of values that hold for all of them."""
        n = len(source)

        def column(value: IntArray | int) -> IntArray:
            return np.broadcast_to(np.asarray(value, dtype=np.int64), (n,))

        return Rows(
            step=column(step), source=column(source), destination=column(destination),
            first_chunk=column(first_chunk), chunk_count=column(chunk_count),
            reduce=np.broadcast_to(np.asarray(reduce, dtype=np.bool_), (n,)),
            colour=column(colour),
        )  # fmt: skip

    @staticmethod
    def none() -> Rows:
        """No rows."""
        empty = np.zeros(0, dtype=np.int64)
        return Rows.of(step=empty, source=empty, destination=empty, first_chunk=empty,
                       chunk_count=empty, reduce=False, colour=0)  # fmt: skip

    @staticmethod
    def concatenate(parts: Sequence[Rows]) -> Rows:
        """All rows of all parts."""
        if not parts:
            return Rows.none()
        return Rows(**{
            name: np.concatenate([getattr(p, name) for p in parts])
            for name in ("step", "source", "destination", "first_chunk", "chunk_count", "reduce",
                         "colour")
        })  # fmt: skip

    def delayed(self, steps: IntArray | int) -> Rows:
        """The same rows ``steps`` later."""
        return Rows(
            step=self.step + steps, source=self.source, destination=self.destination,
            first_chunk=self.first_chunk, chunk_count=self.chunk_count, reduce=self.reduce,
            colour=self.colour,
        )  # fmt: skip

    def steps_of_colours(self) -> IntArray:
        """[rows] steps of the colour of each row."""
        if not len(self.step):
            return self.step
        last = np.zeros(int(self.colour.max()) + 1, dtype=np.int64)
        np.maximum.at(last, self.colour, self.step + 1)
        return np.asarray(last[self.colour])


def backwards(rows: Rows) -> Rows:
    """The all-gather that undoes a reduce-scatter: ends swapped, last step first, copies."""
    return Rows(
        step=rows.steps_of_colours() - 1 - rows.step, source=rows.destination,
        destination=rows.source, first_chunk=rows.first_chunk, chunk_count=rows.chunk_count,
        reduce=np.zeros(len(rows.step), dtype=np.bool_), colour=rows.colour,
    )  # fmt: skip


def merged(rows: Rows) -> Rows:
    """Rows of one step, colour and pair whose chunks follow each other, as one row."""
    if not len(rows.step):
        return rows
    keys = (rows.first_chunk, rows.reduce, rows.destination, rows.source, rows.colour, rows.step)
    at = np.lexsort(keys)
    columns = [k[at] for k in keys]
    count = rows.chunk_count[at]
    same = np.ones(len(at) - 1, dtype=np.bool_)
    for column in columns[1:]:
        same &= column[1:] == column[:-1]
    same &= columns[0][1:] == columns[0][:-1] + count[:-1]
    heads = np.concatenate([[True], ~same])
    total = np.add.reduceat(count, np.flatnonzero(heads))
    first, reduce, destination, source, colour, step = (c[heads] for c in columns)
    return Rows(step=step, source=source, destination=destination, first_chunk=first,
                chunk_count=total, reduce=reduce, colour=colour)  # fmt: skip


def schedule(
    rows: Rows,
    collective: Collective,
    algorithm: str,
    ranks: int,
    *,
    share: FloatArray,
    owner: IntArray | None = None,
    target: IntArray | None = None,
    root: int = 0,
    switches: int = 0,
) -> Schedule:
    """Rows sorted by step, as a schedule."""
    at = np.argsort(rows.step, kind="stable")
    return Schedule(
        collective=collective, algorithm=algorithm, ranks=ranks, switches=switches,
        step=rows.step[at], source=rows.source[at], destination=rows.destination[at],
        first_chunk=rows.first_chunk[at], chunk_count=rows.chunk_count[at],
        reduce=rows.reduce[at], colour=rows.colour[at],
        share=share, owner=owner, target=target, root=root,
    )  # fmt: skip


def finish(
    scatter: Rows,
    gather: Rows,
    collective: Collective,
    algorithm: str,
    ranks: int,
    *,
    share: FloatArray,
    owner: IntArray | None,
) -> Schedule:
    """Reduce-scatter, all-gather or both after each other, from the rows of the two halves."""
    if collective == "all-reduce":
        rows = Rows.concatenate([scatter, gather.delayed(_after(scatter, gather))])
    elif collective == "reduce-scatter":
        rows = scatter
    elif collective == "all-gather":
        rows = gather
    else:
        raise InputError(
            f"`{algorithm}` does no {collective}",
            hint="it does all-reduce, reduce-scatter and all-gather",
        )
    return schedule(rows, collective, algorithm, ranks, share=share, owner=owner)


def _after(first: Rows, second: Rows) -> IntArray:
    """[rows of second] steps of the same colour in ``first``."""
    if not len(second.step):
        return second.step
    last = np.zeros(int(max(first.colour.max(initial=0), second.colour.max())) + 1, np.int64)
    np.maximum.at(last, first.colour, first.step + 1)
    return np.asarray(last[second.colour])
