"""The nouns on disk: chunks, parts, seals, and the record that carries one chunk's bytes.

A tensor part is cut into chunks of ``chunk_bytes``; each chunk is one record in a segment: a head
(fixed fields, description, padding) and a payload. Where a chunk stands is kept in the index; the
head repeats what it is, so that a lost index can be rebuilt from the segments alone.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import Final

import blake3
import msgspec
import xxhash

from weftline.burst.errors import CorruptionError
from weftline.burst.files import ALIGN_BYTES

__all__ = [
    "CODEC_PLANES",
    "CODEC_RAW",
    "CODEC_XOR",
    "CODEC_ZSTD",
    "Chunk",
    "Head",
    "PartEntry",
    "Prepared",
    "RankManifest",
    "Seal",
    "Share",
    "about_of",
    "chain",
    "chunks_of",
    "digest_of",
    "head_bytes",
    "pack_head",
    "part_key",
    "save_prefix",
    "unpack_head",
]

CODEC_RAW: Final = 0
CODEC_ZSTD: Final = 1
CODEC_PLANES: Final = 2
"""Bytes of equal significance side by side, then zstd."""
CODEC_XOR: Final = 4
"""A flag: the payload is the difference to the chunk ``base``."""
_SMALL_ALIGN: Final = 64
_FIXED: Final = struct.Struct("<4sHHIIQQQQQ")
_HASH: Final = struct.Struct("<Q")
_MAGIC: Final = b"WBR1"
_FIXED_BYTES: Final = _FIXED.size + _HASH.size


class Chunk(msgspec.Struct, array_like=True, frozen=True):
    """Where one chunk's record stands, and what it holds."""

    segment: int
    epoch: int
    """Which life of the segment: a recycled segment has a new one."""
    offset_bytes: int
    """Of the head, in the segment file."""
    head_bytes: int
    stored_bytes: int
    raw_bytes: int
    codec: int
    seq: int
    """Unique among all records this writer ever made."""
    hash: int
    """xxh3-64 of the stored payload."""
    raw_hash: int
    """xxh3-64 of the chunk as the user gave it."""
    content: bytes = b""
    """blake3 (16 bytes) of the raw chunk, kept where equal chunks are to be found; else empty."""
    base: Chunk | None = None
    """What an XOR payload is the difference to."""


class PartEntry(msgspec.Struct, array_like=True, frozen=True):
    """One block of a tensor: the value of an index key."""

    name: str
    part: int
    dtype: str
    shape: tuple[int, ...]
    global_shape: tuple[int, ...]
    offsets: tuple[int, ...]
    chunk_bytes: int
    """Raw bytes of every chunk but the last."""
    chunks: list[Chunk]
    inner: bytes = b""
    """The small tensors that are laid into this part; empty for a part that is a tensor's."""


class Share(msgspec.Struct, array_like=True, frozen=True):
    """One rank's share of a checkpoint in sum: what its seal and its word to others both say."""

    step: int
    rank: int
    world: int
    attempt: str
    store_id: str
    writer: str
    save_id: int
    parts: int
    raw_bytes: int
    stored_bytes: int
    digest: bytes
    """blake3 over what the parts hold, not where: it survives compaction."""


# Fields stand on disk by position, those of Share first: new ones go to the end of a subclass.
class Seal(Share, array_like=True, frozen=True):
    """The rank manifest's summary: everything of this rank is durable, and this is its digest."""

    created_unix_s: float
    extra: bytes = b""
    """MessagePack of the user's own mapping."""
    copy: Chunk | None = None
    """The record that holds a copy of this manifest, in case the index is lost."""
    run: str = ""
    """The run it belongs to; empty in format 1."""


class Prepared(Share, array_like=True, frozen=True):
    """What a rank hands to the coordinator: its share of a checkpoint is durable."""

    run: str = ""
    floor: int = 0
    """The checkpoint comes after every commit its store knew of: its sequence is at least this."""
    created_unix_s: float = 0.0
    copies: tuple[str, ...] = ()
    """Nodes that had a copy of this share, in memory, when it was handed over."""

    def encode(self) -> bytes:
        """A few hundred bytes, to be gathered by any means."""
        return msgspec.msgpack.encode(self)

    @staticmethod
    def decode(data: bytes) -> Prepared:
        """The inverse of :meth:`encode`. Raises CorruptionError."""
        try:
            return msgspec.msgpack.decode(data, type=Prepared)
        except msgspec.MsgspecError as e:
            raise CorruptionError(f"not a prepared rank: {e}", file="message") from e


class RankManifest(msgspec.Struct, array_like=True, frozen=True):
    """Everything that is known of one rank's share of a checkpoint."""

    seal: Seal
    parts: list[PartEntry]

    def encode(self) -> bytes:
        """The manifest as one checked blob."""
        from weftline.burst.log.envelope import seal_envelope

        return seal_envelope("M", self)

    @staticmethod
    def decode(data: bytes, *, path: str = "manifest") -> RankManifest:
        """The inverse of :meth:`encode`; the digest is recomputed. Raises CorruptionError."""
        from weftline.burst.log.envelope import open_envelope

        manifest = open_envelope("M", data, RankManifest, path=path)
        if digest_of(manifest.parts) != manifest.seal.digest:
            raise CorruptionError("manifest does not match its digest", file=path)
        return manifest


class About(msgspec.Struct, array_like=True, frozen=True):
    """What a record's head says of its chunk, enough to rebuild an index entry."""

    save_id: int
    name: str
    part: int
    index: int
    dtype: str
    shape: tuple[int, ...]
    global_shape: tuple[int, ...]
    offsets: tuple[int, ...]
    chunk_bytes: int
    raw_hash: int
    content: bytes
    base: Chunk | None


class Head(msgspec.Struct, frozen=True):
    """A record's head, read back."""

    codec: int
    head_bytes: int
    stored_bytes: int
    raw_bytes: int
    epoch: int
    seq: int
    hash: int
    about: About


_about = msgspec.msgpack.Decoder(About)


def about_of(save_id: int, entry: PartEntry, index: int, chunk: Chunk) -> bytes:
    """The description of a chunk that its record's head carries."""
    return msgspec.msgpack.encode(
        About(
            save_id=save_id,
            name=entry.name,
            part=entry.part,
            index=index,
            dtype=entry.dtype,
            shape=entry.shape,
            global_shape=entry.global_shape,
            offsets=entry.offsets,
            chunk_bytes=entry.chunk_bytes,
            raw_hash=chunk.raw_hash,
            content=chunk.content,
            base=chunk.base,
        )
    )


def head_bytes(about_bytes: int, *, large: bool) -> int:
    """Length of a head: whole blocks before a large payload, 64-byte steps before a small one."""
    step = ALIGN_BYTES if large else _SMALL_ALIGN
    return -(-(_FIXED_BYTES + about_bytes) // step) * step


def pack_head(chunk: Chunk, about: bytes) -> bytes:
    """The head of a record, ``chunk.head_bytes`` long."""
    fixed = _FIXED.pack(
        _MAGIC, 1, chunk.codec, len(about), chunk.head_bytes, chunk.stored_bytes,
        chunk.raw_bytes, chunk.epoch, chunk.seq, chunk.hash,
    )  # fmt: skip
    rest = about + bytes(chunk.head_bytes - _FIXED_BYTES - len(about))
    own = xxhash.xxh3_64_intdigest(fixed + rest)
    return fixed + _HASH.pack(own) + rest


def unpack_head(data: bytes | memoryview, *, file: str, offset_bytes: int) -> Head:
    """The head that starts ``data``. Raises CorruptionError when it is not one, whole."""

    def broken(what: str) -> CorruptionError:
        return CorruptionError(what, file=file, offset_bytes=offset_bytes)

    if len(data) < _FIXED_BYTES:
        raise broken("record head is cut off")
    magic, version, codec, about_len, length, stored, raw, epoch, seq, hash_ = _FIXED.unpack_from(
        data
    )
    if magic != _MAGIC or version != 1:
        raise broken("no record head here")
    if not _FIXED_BYTES + about_len <= length <= len(data):
        raise broken("record head has a wrong length")
    rest = bytes(data[_FIXED_BYTES:length])
    if _HASH.unpack_from(data, _FIXED.size)[0] != xxhash.xxh3_64_intdigest(
        bytes(data[: _FIXED.size]) + rest
    ):
        raise broken("record head: checksum does not match")
    try:
        about = _about.decode(rest[:about_len])
    except msgspec.MsgspecError as e:
        raise broken(f"record head: {e}") from e
    return Head(
        codec=codec, head_bytes=length, stored_bytes=stored, raw_bytes=raw, epoch=epoch, seq=seq,
        hash=hash_, about=about,
    )  # fmt: skip


def save_prefix(save_id: int) -> bytes:
    """The key of a save's seal, and the prefix of all its parts' keys."""
    return save_id.to_bytes(8, "big")


def part_key(save_id: int, name: str, part: int) -> bytes:
    """The index key of one part. Names hold no NUL, so keys sort by save, name, part."""
    return save_prefix(save_id) + name.encode() + b"\0" + part.to_bytes(4, "big")


def digest_of(parts: Iterable[PartEntry]) -> bytes:
    """blake3 of what the parts hold, in the order of their keys; where they stand is left out."""
    h = blake3.blake3()
    for p in sorted(parts, key=lambda p: (p.name.encode(), p.part)):
        about = (p.name, p.part, p.dtype, p.shape, p.global_shape, p.offsets, p.chunk_bytes)
        chunks = [(c.raw_bytes, c.raw_hash) for c in p.chunks]
        said = (about, chunks, p.inner) if p.inner else (about, chunks)
        h.update(msgspec.msgpack.encode(said))
    return h.digest()


def chain(chunk: Chunk) -> Iterator[Chunk]:
    """The chunk and the bases it rests on, nearest first."""
    at: Chunk | None = chunk
    while at is not None:
        yield at
        at = at.base


def chunks_of(parts: Iterable[PartEntry]) -> Iterator[Chunk]:
    """Every record the parts need, bases of differences among them; some may come twice."""
    for part in parts:
        for chunk in part.chunks:
            yield from chain(chunk)
