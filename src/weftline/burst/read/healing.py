"""Chunks with a way to heal: from where the index says, from where they are now, from a source.

No lock is taken. When a record is not where the index said, the index is read anew: compaction may
have moved it. Only what is damaged where it stands now is asked of the sources.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence

import msgspec
import numpy as np
import xxhash

from weftline.burst.commit.commits import Commit
from weftline.burst.commit.view import View, record_id
from weftline.burst.errors import BurstError, CorruptionError, StorageError
from weftline.burst.log.codec import decode
from weftline.burst.log.reader import ChunkReader
from weftline.burst.log.record import Chunk, chain, save_prefix
from weftline.burst.log.small import shown
from weftline.burst.log.writer import read_save
from weftline.burst.read.restore import Piece, Repair
from weftline.burst.stage.state import Bytes1d, dtype_bytes

__all__ = ["HealingFetch"]


class HealingFetch:
    """Chunks from this store; what is damaged here comes from the next source that has it."""

    def __init__(self, view: View, reader: ChunkReader, commit: Commit) -> None:
        self._view = view
        self._reader = reader
        self._commit = commit
        self._ranks = {r.rank: r for r in commit.ranks}
        self.repaired: list[Repair] = []

    # --- Fetch ------------------------------------------------------------------------------------

    def into(self, piece: Piece, out: Bytes1d, *, verify: bool) -> bool:
        """See :class:`Fetch`."""
        try:
            return self._reader.direct_into(piece.seal.writer, piece.chunk, out, verify=verify)
        except (CorruptionError, StorageError):
            return False  # the slow way finds out what to do

    def afar(self, piece: Piece) -> bool:
        """See :class:`Fetch`."""
        return not piece.chunk.codec and not self._here(piece)

    def into_many(self, pieces: Sequence[Piece], rooms: Sequence[Bytes1d]) -> list[bool]:
        """See :class:`Fetch`."""
        rank = self._ranks[pieces[0].seal.rank]
        done = [False] * len(pieces)
        for source in self._view.sources:
            left = [i for i, whole in enumerate(done) if not whole]
            if not left:
                break
            wanted = [record_id(rank, pieces[i].chunk) for i in left]
            try:
                hashes = source.fetch_into(rank, wanted, [rooms[i] for i in left])
            except (KeyError, FileNotFoundError, BurstError):
                continue
            for i, hash_ in zip(left, hashes, strict=True):
                done[i] = hash_ == pieces[i].chunk.hash
        return done

    def raw(self, piece: Piece, *, verify: bool) -> Bytes1d:
        """See :class:`Fetch`."""
        width = dtype_bytes(piece.entry.dtype)
        if self._here(piece):
            try:
                return self._reader.raw(piece.seal.writer, piece.chunk, width, verify=verify)
            except (CorruptionError, StorageError):
                moved = self._moved(piece)
                if moved is not None:
                    return self.raw(moved, verify=verify)
        return self._healed(piece, width)

    def many(self, pieces: Sequence[Piece], *, verify: bool) -> Iterator[tuple[Piece, Bytes1d]]:
        """See :class:`Fetch`."""
        writer = pieces[0].seal.writer
        if not self._here(pieces[0]):
            yield from self._many_from_afar(pieces, verify=verify)
            return
        done = 0
        try:
            for i, got in self._reader.span(writer, [p.chunk for p in pieces], verify=verify):
                piece = pieces[i]
                if isinstance(got, CorruptionError):
                    break
                width = dtype_bytes(piece.entry.dtype)
                raw = self._reader.decoded(writer, piece.chunk, got, width, verify=verify)
                yield piece, raw
                done = i + 1
        except (CorruptionError, StorageError):
            pass
        for piece in pieces[done:]:
            yield piece, self.raw(piece, verify=verify)

    def _many_from_afar(
        self, pieces: Sequence[Piece], *, verify: bool
    ) -> Iterator[tuple[Piece, Bytes1d]]:
        rooms: list[Bytes1d] = [np.empty(p.chunk.stored_bytes, np.uint8) for p in pieces]
        came = self.into_many(pieces, rooms)
        for piece, room, whole in zip(pieces, rooms, came, strict=True):
            chunk, width = piece.chunk, dtype_bytes(piece.entry.dtype)
            if not whole or chunk.base is not None:
                yield piece, self.raw(piece, verify=verify)
                continue
            file = self._reader.path(piece.seal.writer, chunk.segment)
            raw = decode(chunk.codec, room, chunk.raw_bytes, width, None, file=file)
            if chunk.codec and xxhash.xxh3_64_intdigest(raw) != chunk.raw_hash:
                raise self._lost(piece, chunk, "decoded chunk: checksum does not match")
            yield piece, raw

    # --- when it is not there ---------------------------------------------------------------------

    def _here(self, piece: Piece) -> bool:
        return piece.seal.store_id == self._view.store_id

    def _moved(self, piece: Piece) -> Piece | None:
        """The piece where the index has it now, if that is elsewhere than we looked."""
        seal = piece.seal
        self._view.check_stands(self._commit.step, seal.writer, seal.save_id)
        try:
            index = self._view.index(seal.writer, fresh=True)
            manifest = read_save(index.scan(save_prefix(seal.save_id)))
        except (StorageError, CorruptionError, msgspec.MsgspecError):
            return None
        for entry in manifest.parts if manifest else []:
            if (entry.name, entry.part) == (piece.entry.name, piece.entry.part):
                places = [_places(e.chunks[piece.index]) for e in (entry, piece.entry)]
                if places[0] == places[1]:
                    return None
                self._reader.forget(seal.writer, piece.chunk.segment)
                return Piece(seal, entry, piece.index)
        return None

    def _healed(self, piece: Piece, width: int) -> Bytes1d:
        """The raw bytes, every record of the chain from wherever it is whole."""
        raw: Bytes1d | None = None
        for chunk in reversed(list(chain(piece.chunk))):
            stored = self.stored(piece, chunk)
            path = self._reader.path(piece.seal.writer, chunk.segment)
            raw = decode(chunk.codec, stored, chunk.raw_bytes, width, raw, file=path)
        if raw is None or xxhash.xxh3_64_intdigest(raw) != piece.chunk.raw_hash:
            raise self._lost(piece, piece.chunk, "decoded chunk: checksum does not match")
        return raw

    def stored(self, piece: Piece, chunk: Chunk) -> Bytes1d:
        """A stored payload, from here or from a source, checked. Raises CorruptionError."""
        what = "not in this store"
        if self._here(piece):
            try:
                return self._reader.stored(piece.seal.writer, chunk, slot=4).copy()
            except CorruptionError as e:
                what = e.what
            except StorageError as e:
                if e.errno not in (errno.ENOENT, errno.EIO):
                    raise
                what = e.what
        rank = self._ranks[piece.seal.rank]
        for source in self._view.sources:
            data: Bytes1d = np.empty(chunk.stored_bytes, np.uint8)
            try:
                if source.fetch_into(rank, [record_id(rank, chunk)], [data]) != [chunk.hash]:
                    continue
            except (KeyError, FileNotFoundError):
                continue
            except BurstError as error:
                what += f"; {error.where or source.name}: {error.what}"
                continue
            if self._here(piece):
                self.repaired.append(
                    Repair(
                        tensor=shown(piece.entry), what=what, source=source.name,
                        file=self._reader.path(piece.seal.writer, chunk.segment),
                        offset_bytes=chunk.offset_bytes,
                    )
                )  # fmt: skip
            return data
        raise self._lost(piece, chunk, what)

    def _lost(self, piece: Piece, chunk: Chunk, what: str) -> CorruptionError:
        return CorruptionError(
            what,
            file=self._reader.path(piece.seal.writer, chunk.segment),
            offset_bytes=chunk.offset_bytes,
            step=self._commit.step,
            tensor=shown(piece.entry),
        )


def _places(chunk: Chunk) -> list[tuple[int, int, int]]:
    return [(c.segment, c.epoch, c.offset_bytes) for c in chain(chunk)]
