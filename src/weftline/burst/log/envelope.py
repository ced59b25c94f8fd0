"""Small checked files and blocks: a magic word, the format's version, a length, a hash, a body.

Bytes (little-endian): ``WLBURST`` and one letter for the kind (8), version (4), body length (4),
xxh3-64 of the 16 bytes before and the body (8), body. FORMAT.md lists the kinds.
"""

from __future__ import annotations

import struct
from typing import Any, Final, TypeVar

import msgspec
import xxhash

from weftline.burst.errors import CorruptionError, NewerFormatError

__all__ = [
    "ENVELOPE_BYTES",
    "FORMAT_VERSION",
    "open_either",
    "open_envelope",
    "seal_envelope",
    "seal_twice",
]

FORMAT_VERSION: Final = 2
"""The version this code writes, and the newest it reads."""
T = TypeVar("T")
_HEAD: Final = struct.Struct("<8sII")
_HASH: Final = struct.Struct("<Q")
ENVELOPE_BYTES: Final = _HEAD.size + _HASH.size
"""Bytes in front of the body."""


def seal_envelope(kind: str, body: Any) -> bytes:
    """``body`` as MessagePack in an envelope of this kind (one letter)."""
    packed = msgspec.msgpack.encode(body)
    head = _HEAD.pack(b"WLBURST" + kind.encode(), FORMAT_VERSION, len(packed))
    return head + _HASH.pack(xxhash.xxh3_64_intdigest(head + packed)) + packed


def open_envelope(kind: str, data: bytes, into: type[T], *, path: str) -> T:
    """The body of an envelope, checked.

    The envelope is the same in every version, so the hash is checked before the version. Raises
    NewerFormatError for a newer version, CorruptionError for bytes that are not what was written.
    Bytes after the body are ignored.
    """
    if len(data) < ENVELOPE_BYTES:
        raise CorruptionError(f"the file ends after {len(data)} bytes", file=path, offset_bytes=0)
    magic, version, length = _HEAD.unpack_from(data)
    body = data[ENVELOPE_BYTES : ENVELOPE_BYTES + length]
    whole = len(body) == length and _HASH.unpack_from(data, _HEAD.size)[
        0
    ] == xxhash.xxh3_64_intdigest(data[: _HEAD.size] + body)
    if not whole:
        raise CorruptionError("checksum does not match", file=path, offset_bytes=0)
    if version > FORMAT_VERSION:
        raise NewerFormatError(
            f"written in format {version}; this weftline reads up to {FORMAT_VERSION}",
            where=path,
            hint="update weftline",
        )
    if magic != b"WLBURST" + kind.encode():
        raise CorruptionError("a file of another kind stands here", file=path, offset_bytes=0)
    try:
        return msgspec.msgpack.decode(body, type=into)
    except msgspec.MsgspecError as e:
        raise CorruptionError(f"unreadable body: {e}", file=path, offset_bytes=0) from e


def seal_twice(kind: str, body: Any) -> bytes:
    """Two equal envelopes, one after the other, for what nothing else could replace."""
    return seal_envelope(kind, body) * 2


def open_either(
    kind: str, data: bytes, into: type[T], *, path: str
) -> tuple[T, CorruptionError | None]:
    """The body of the first copy that is whole, and the damage to a copy if there is any.

    Raises as :func:`open_envelope` does, when neither copy is whole.
    """
    half = len(data) // 2
    found: list[T] = []
    damage: CorruptionError | None = None
    for at in (0, half):
        try:
            found.append(open_envelope(kind, data[at : at + half], into, path=path))
        except CorruptionError as e:
            damage = CorruptionError(e.what, file=path, offset_bytes=at)
    if not found and damage is not None:
        raise damage
    return found[0], damage
