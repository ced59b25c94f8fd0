"""Immutable sorted runs of an index: blocks of entries, found by a footer."""

from __future__ import annotations

import bisect
import struct
from collections.abc import Iterable, Iterator
from typing import Final

import msgspec
import xxhash

from weftline.burst.errors import CorruptionError
from weftline.burst.files import File
from weftline.burst.log.wal import Entry

__all__ = ["Run", "write_run"]

_BLOCK_BYTES: Final = 32 << 10
_TAIL: Final = struct.Struct("<QQQ8s")
_TAIL_MAGIC: Final = b"WLBRUN01"


class RunBlock(msgspec.Struct, array_like=True, frozen=True):
    """One line of a run's footer."""

    first: bytes
    offset_bytes: int
    length_bytes: int
    hash: int


def write_run(entries: Iterable[Entry]) -> bytes:
    """A sorted run as bytes: blocks of entries, a footer that finds them, a tail."""
    out = bytearray(b"WLBURSTR")
    blocks: list[RunBlock] = []
    pending: list[Entry] = []
    size = 0

    def flush() -> None:
        packed = msgspec.msgpack.encode(pending)
        own = xxhash.xxh3_64_intdigest(packed)
        blocks.append(RunBlock(pending[0][0], len(out), len(packed), own))
        out.extend(packed)
        pending.clear()

    for entry in entries:
        pending.append(entry)
        size += len(entry[0]) + len(entry[1])
        if size >= _BLOCK_BYTES:
            flush()
            size = 0
    if pending:
        flush()
    footer = msgspec.msgpack.encode(blocks)
    tail = (len(out), len(footer), xxhash.xxh3_64_intdigest(footer))
    out.extend(footer)
    out.extend(_TAIL.pack(*tail, _TAIL_MAGIC))
    return bytes(out)


class Run:
    """An immutable sorted run, opened for reading. Raises CorruptionError with file and offset."""

    def __init__(self, file: File) -> None:
        self._file = file
        size = file.size()
        if size < _TAIL.size + 8:
            raise CorruptionError("sorted run is cut off", file=file.path, offset_bytes=size)
        if self._bytes(0, 8) != b"WLBURSTR":
            raise CorruptionError("sorted run: wrong first bytes", file=file.path, offset_bytes=0)
        at = size - _TAIL.size
        offset, length, own, magic = _TAIL.unpack(self._bytes(at, _TAIL.size))
        if magic != _TAIL_MAGIC or offset + length != at:
            raise CorruptionError("sorted run: damaged tail", file=file.path, offset_bytes=at)
        footer = self._bytes(offset, length)
        if xxhash.xxh3_64_intdigest(footer) != own:
            raise CorruptionError("sorted run: damaged footer", file=file.path, offset_bytes=offset)
        self._blocks = msgspec.msgpack.decode(footer, type=list[RunBlock])
        self._firsts = [b.first for b in self._blocks]

    def _bytes(self, offset: int, length: int) -> bytes:
        out = bytearray(length)
        got = self._file.read_at([memoryview(out)], offset)
        return bytes(out[:got])

    def scan(self, prefix: bytes) -> Iterator[Entry]:
        """Entries whose keys start with ``prefix``, in order; only their blocks are read."""
        start = max(0, bisect.bisect_right(self._firsts, prefix) - 1)
        for block in self._blocks[start:]:
            if block.first > prefix and not block.first.startswith(prefix):
                return
            for key, value in self._read(block):
                if key.startswith(prefix):
                    yield key, value

    def _read(self, block: RunBlock) -> list[Entry]:
        data = self._bytes(block.offset_bytes, block.length_bytes)
        if len(data) != block.length_bytes or xxhash.xxh3_64_intdigest(data) != block.hash:
            raise CorruptionError(
                "sorted run: damaged block", file=self._file.path, offset_bytes=block.offset_bytes
            )
        return msgspec.msgpack.decode(data, type=list[tuple[bytes, bytes]])

    def damage(self) -> list[CorruptionError]:
        """Every block that is not as it was written."""
        found = []
        for block in self._blocks:
            try:
                self._read(block)
            except CorruptionError as e:
                found.append(e)
        return found

    def close(self) -> None:
        """Close the file."""
        self._file.close()
