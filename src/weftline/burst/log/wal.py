"""The write-ahead log of an index: frames that count as a whole or not at all.

The end of a log may be torn by a crash. A frame that is not whole before one that is cannot come
from a crash: that is damage, and it is told apart.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final

import msgspec
import xxhash

from weftline.burst.log.envelope import ENVELOPE_BYTES, open_envelope, seal_envelope

__all__ = ["WAL_HEAD_BYTES", "Entry", "read_wal", "wal_frame", "wal_head"]

Entry = tuple[bytes, bytes]
"""A key and an encoded value. A seal key with an empty value means: this save was dropped."""

WAL_HEAD_BYTES: Final = 128
"""Frames start here."""
_FRAME: Final = struct.Struct("<4sIQ")
_HASH: Final = struct.Struct("<Q")
_FRAME_BYTES: Final = _FRAME.size + _HASH.size
_FRAME_MAGIC: Final = b"WBF1"


def wal_frame(number: int, sequence: int, entries: Iterable[Entry]) -> bytes:
    """One frame: it counts as a whole or not at all. ``number`` is the log's own."""
    body = msgspec.msgpack.encode(list(entries))
    head = _FRAME.pack(_FRAME_MAGIC, len(body), sequence)
    own = xxhash.xxh3_64_intdigest(head + body, seed=number)
    frame = head + _HASH.pack(own) + body
    return frame + bytes(-len(frame) % 8)


def _frame_at(data: bytes, at: int, number: int) -> tuple[int, list[Entry], int] | None:
    """Sequence, entries and end of the frame at ``at``, or None if none stands there, whole."""
    if at + _FRAME_BYTES > len(data):
        return None
    magic, length, sequence = _FRAME.unpack_from(data, at)
    end = at + _FRAME_BYTES + length
    if magic != _FRAME_MAGIC or end > len(data):
        return None
    body = data[at + _FRAME_BYTES : end]
    own = xxhash.xxh3_64_intdigest(data[at : at + _FRAME.size] + body, seed=number)
    if own != _HASH.unpack_from(data, at + _FRAME.size)[0]:
        return None
    padded = end + (-(end - at) % 8)
    if any(data[end:padded]):
        return None
    try:
        entries = msgspec.msgpack.decode(body, type=list[tuple[bytes, bytes]])
    except msgspec.MsgspecError:
        return None
    return sequence, entries, padded


def read_wal(
    data: bytes, number: int, *, path: str, closed_bytes: int = 0
) -> tuple[list[list[Entry]], int | None]:
    """The frames of a log, and the offset of its first damage, if any.

    A hole before a later frame is damage; so is any end but ``closed_bytes`` when that is given:
    the length at which the log was closed in good order. Frames behind a hole are read too.
    Raises CorruptionError when the head is damaged.
    """
    open_envelope("W", data, list[int | str], path=path)
    frames: list[list[Entry]] = []
    at, damage = WAL_HEAD_BYTES, None
    if data[:WAL_HEAD_BYTES].rstrip(b"\0") != data[: ENVELOPE_BYTES + _body_bytes(data)].rstrip(
        b"\0"
    ):
        damage = 0
    while at < len(data):
        found = _frame_at(data, at, number)
        if found is not None:
            frames.append(found[1])
            at = found[2]
            continue
        later = data.find(_FRAME_MAGIC, at + 1)
        while later >= 0 and _frame_at(data, later, number) is None:
            later = data.find(_FRAME_MAGIC, later + 1)
        if later < 0:
            break
        damage = at if damage is None else damage
        at = later
    if damage is None and closed_bytes and at != closed_bytes:
        damage = at
    return frames, damage


def _body_bytes(data: bytes) -> int:
    """Length of the body of the envelope at the start."""
    return int.from_bytes(data[12:16], "little")


def wal_head(store_id: str, number: int) -> bytes:
    """The first bytes of a write-ahead log."""
    head = seal_envelope("W", [store_id, number])
    return head + bytes(WAL_HEAD_BYTES - len(head))
