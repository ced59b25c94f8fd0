"""Blocks of a tensor: what two share, and a stretch of elements cut into blocks."""

from __future__ import annotations

import math
from collections.abc import Iterator

__all__ = ["Box", "flat_boxes", "overlap"]

Box = tuple[tuple[int, ...], tuple[int, ...]]
"""Offsets and shape, in the whole tensor."""


def overlap(a: Box, b: Box) -> Box | None:
    """The block that two blocks share, or None."""
    low = tuple(max(x, y) for x, y in zip(a[0], b[0], strict=True))
    high = tuple(min(x + n, y + m) for x, n, y, m in zip(a[0], a[1], b[0], b[1], strict=True))
    if any(h <= lo for lo, h in zip(low, high, strict=True)):
        return None
    return low, tuple(h - lo for lo, h in zip(low, high, strict=True))


def flat_boxes(shape: tuple[int, ...], start: int, stop: int) -> Iterator[tuple[int, Box]]:
    """Cut the elements ``start`` to ``stop`` of a row-major block into boxes.

    Yields the first element of each box, counted from the start of the block, and the box.
    """
    if start >= stop:
        return
    if not shape:
        yield 0, ((), ())
        return
    inner = math.prod(shape[1:])
    first, head = divmod(start, inner)
    last, tail = divmod(stop, inner)

    def inside(row: int, a: int, b: int) -> Iterator[tuple[int, Box]]:
        for at, (offsets, sizes) in flat_boxes(shape[1:], a, b):
            yield row * inner + at, ((row, *offsets), (1, *sizes))

    if first == last:
        yield from inside(first, head, tail)
        return
    if head:
        yield from inside(first, head, inner)
        first += 1
    if last > first:
        yield first * inner, ((first,) + (0,) * (len(shape) - 1), (last - first, *shape[1:]))
    if tail:
        yield from inside(last, 0, tail)
