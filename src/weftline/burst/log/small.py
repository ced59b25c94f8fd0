"""Many small tensors in one part: a record, and an entry of the index, for all of them.

A record and its entries take some 700 bytes, which is much for a tensor of a few. The parts of a
save that are small are laid one after another into a part of their own, cut so that none lies in
two chunks; what they are and where stands, compressed, in that part's entry. Reading unfolds it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
import xxhash

from weftline.burst.errors import CorruptionError
from weftline.burst.log.record import Chunk, PartEntry
from weftline.burst.stage.state import Bytes1d, Part, dtype_bytes

__all__ = ["FOLDED", "Place", "described", "fold", "shown", "unfolded"]

FOLDED: Final = "\x01small"
"""Name of the part; no tensor can have it."""
_MANY: Final = 64
"""With fewer of them, each keeps a record of its own, and damage names it alone."""
_BYTES_MOST: Final = 16 << 10


class Inner(msgspec.Struct, array_like=True, frozen=True):
    """One small part: what it is, and where in the part that holds it."""

    name: str
    part: int
    dtype: str
    shape: tuple[int, ...]
    global_shape: tuple[int, ...]
    offsets: tuple[int, ...]
    at: int
    hash: int
    """xxh3-64 of its bytes."""

    @property
    def nbytes(self) -> int:
        """Bytes of the part."""
        return math.prod(self.shape) * dtype_bytes(self.dtype)


class Place(NamedTuple):
    """Where a small part lies."""

    home: PartEntry
    number: int
    """Of the chunk."""
    at: int
    """First byte in the raw chunk."""


class _Together:
    """The data of the part that holds them: copies each to its place."""

    def __init__(self, parts: Sequence[Part], places: Sequence[int]) -> None:
        self._parts, self._places = parts, places

    def fill(self, out: Bytes1d) -> None:
        """Lay all of them into ``out``."""
        out[:] = 0
        for part, at in zip(self._parts, self._places, strict=True):
            room = out[at : at + part.nbytes]
            if not isinstance(part.data, np.ndarray):
                part.data.fill(room)
            elif part.nbytes:
                np.copyto(room.view(part.data.dtype).reshape(part.data.shape), part.data)


def fold(parts: Sequence[Part], chunk_bytes: int) -> tuple[list[Part], list[tuple[Part, int]]]:
    """Parts with the small ones as one, last; and those, each with its place in it."""
    most = min(_BYTES_MOST, chunk_bytes // 4)
    small = [p for p in parts if p.nbytes <= most]
    if len(small) < _MANY:
        return list(parts), []
    places: list[int] = []
    end = 0
    for part in small:
        width = dtype_bytes(part.dtype)
        at = -(-end // width) * width
        if part.nbytes and at // chunk_bytes != (at + part.nbytes - 1) // chunk_bytes:
            at = -(-at // chunk_bytes) * chunk_bytes
        places.append(at)
        end = at + part.nbytes
    whole = Part(
        name=FOLDED, index=0, data=_Together(small, places), dtype="uint8", shape=(end,),
        global_shape=(end,), offsets=(0,), nbytes=end,
    )  # fmt: skip
    large = [p for p in parts if p.nbytes > most]
    return [*large, whole], list(zip(small, places, strict=True))


def described(layout: Iterable[tuple[Part, int]], room: Bytes1d) -> bytes:
    """What the entry of their part says of them, from their bytes as they were staged."""
    inner = [
        Inner(
            name=p.name, part=p.index, dtype=p.dtype, shape=p.shape, global_shape=p.global_shape,
            offsets=p.offsets, at=at, hash=xxhash.xxh3_64_intdigest(room[at : at + p.nbytes]),
        )
        for p, at in layout
    ]  # fmt: skip
    import zstandard

    return zstandard.compress(msgspec.msgpack.encode(inner), 3)


def unfolded(parts: Iterable[PartEntry]) -> Iterator[tuple[PartEntry, Place | None]]:
    """Every tensor's part, and where it lies if that is in another's. Raises CorruptionError.

    The entry of a small part has one chunk, with its own length and hash, which is in no log.
    """
    for home in parts:
        if not home.inner:
            yield home, None
            continue
        for one in _inner(home.inner):
            nbytes = one.nbytes
            place = Place(home, one.at // home.chunk_bytes, one.at % home.chunk_bytes)
            entry = PartEntry(
                name=one.name, part=one.part, dtype=one.dtype, shape=one.shape,
                global_shape=one.global_shape, offsets=one.offsets,
                chunk_bytes=home.chunk_bytes,
                chunks=[_alone(home.chunks[place.number], nbytes, one.hash)] if nbytes else [],
            )  # fmt: skip
            yield entry, place


def _alone(chunk: Chunk, nbytes: int, hash_: int) -> Chunk:
    return msgspec.structs.replace(chunk, raw_bytes=nbytes, raw_hash=hash_)


@lru_cache(maxsize=16)
def _inner(data: bytes) -> list[Inner]:
    import zstandard

    try:
        raw = zstandard.decompress(data)
        return msgspec.msgpack.decode(raw, type=list[Inner])
    except (zstandard.ZstdError, msgspec.MsgspecError) as error:
        raise CorruptionError(f"small tensors: {error}", file="manifest") from error


def shown(entry: Any) -> str:
    """The name of a part as people are told it."""
    if entry.name != FOLDED:
        return str(entry.name)
    names = [one.name for one in _inner(entry.inner)] if getattr(entry, "inner", b"") else []
    if not names:
        return "small tensors"
    return f"{len(names)} small tensors from {names[0]} to {names[-1]}"
