"""Settings of a store, with what each costs."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

from weftline.burst.errors import MismatchError
from weftline.burst.files import ALIGN_BYTES
from weftline.burst.stage.arena import Pinner

__all__ = ["Options", "Retention"]

_MIB: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """Which committed checkpoints stay; pinned ones and the newest always do."""

    last: int | None = None
    """Keep this many of the newest; None keeps all."""
    every: int | None = None
    """Keep those whose step is a multiple of this, for good."""

    def __post_init__(self) -> None:
        for name, value in (("last", self.last), ("every", self.every)):
            if value is not None and value < 1:
                raise MismatchError(f"retention: `{name}` is {value}; it must be 1 or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a store writes. Reading needs none of them."""

    chunk_bytes: int = 8 * _MIB
    """Tensors are cut in pieces of this size: the unit of writing, checking and partial reading."""
    segment_bytes: int = 256 * _MIB
    """Size of a log segment."""
    io_threads: int = 8
    """Writes or reads in flight."""
    copy_threads: int = min(4, os.cpu_count() or 1)
    """Threads of the staging copy."""
    max_in_flight: int = 1
    """Checkpoints staged and not yet durable; a further save waits. Each costs one state."""
    direct: bool = True
    """Past the page cache (O_DIRECT); falls back with a notice where that is refused."""
    compress: str | None = None
    """None, ``zstd``, or ``planes`` (bytes of equal significance side by side, then zstd)."""
    dedup: bool = False
    """Store equal chunks once (blake3): frozen weights, adapters."""
    retention: Retention | None = None
    """Applied after every commit; None keeps everything."""
    compact_below: float = 0.3
    """A segment with a smaller share alive is rewritten."""
    spare_bytes: int | None = None
    """Free segments kept for recycling; None keeps what the newest checkpoint needs, twice."""
    pinner: Pinner | None = None
    """Told of staging memory as it comes and goes; a device's adapter pins it."""
    wal_bytes: int = 4 * _MIB
    """The write-ahead log becomes a sorted run at this size."""

    def __post_init__(self) -> None:
        rules = (
            (self.chunk_bytes % ALIGN_BYTES == 0 and self.chunk_bytes >= ALIGN_BYTES,
             f"chunk_bytes is {self.chunk_bytes}: a multiple of {ALIGN_BYTES} is needed"),
            (self.segment_bytes >= 2 * self.chunk_bytes,
             f"segment_bytes is {self.segment_bytes}: at least two chunks must fit"),
            (self.io_threads >= 1, "io_threads must be 1 or more"),
            (self.copy_threads >= 1, "copy_threads must be 1 or more"),
            (self.max_in_flight >= 1, "max_in_flight must be 1 or more"),
            (self.compress in (None, "zstd", "planes"),
             f"compress is `{self.compress}`: None, zstd or planes"),
            (0 <= self.compact_below < 1, "compact_below must be between 0 and 1"),
        )  # fmt: skip
        for fine, what in rules:
            if not fine:
                raise MismatchError(what)
