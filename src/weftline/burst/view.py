"""A reader's view of a store: commit records, the manifests behind them, chunks with a way to heal.

No lock is taken. When a record is not where the index said, the index is read anew: compaction may
have moved it. Only what is damaged where it stands now is asked of the sources.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator, Sequence
from typing import Protocol

import msgspec
import numpy as np
import xxhash

from weftline.burst.codec import decode
from weftline.burst.commits import Commit, Commits
from weftline.burst.errors import BurstError, CorruptionError, StorageError
from weftline.burst.files import Files
from weftline.burst.index import Index
from weftline.burst.reader import ChunkReader, check_payload
from weftline.burst.record import Chunk, Prepared, RankManifest, chain, digest_of, save_prefix
from weftline.burst.restore import Piece, Repair
from weftline.burst.salvage import find_manifests
from weftline.burst.state import Bytes1d, dtype_bytes
from weftline.burst.writer import read_save

__all__ = ["HealingFetch", "RecordId", "Source", "View", "record_id"]


class RecordId(msgspec.Struct, array_like=True, frozen=True):
    """One stored record, named the same wherever a copy of it is kept."""

    store_id: str
    writer: str
    seq: int
    stored_bytes: int
    hash: int
    """xxh3-64 of the stored payload."""

    @property
    def key(self) -> str:
        """``<store>/<writer>/<number>``: unique, and a valid object name."""
        return f"{self.store_id}/{self.writer}/{self.seq:016x}"


class Source(Protocol):
    """Another place that has checkpoints of this store: a peer, an object store.

    Methods raise ``KeyError`` or ``FileNotFoundError`` for what it does not have; other errors
    pass as they are.
    """

    name: str

    def steps(self) -> list[int]:
        """Steps it holds whole."""

    def commit(self, step: int) -> bytes:
        """The commit record."""

    def manifest(self, step: int, rank: int) -> bytes:
        """A rank's manifest, as :meth:`RankManifest.encode` made it."""

    def fetch(self, step: int, rank: int, record: RecordId) -> bytes:
        """A stored payload; the caller checks it."""


def record_id(prepared: Prepared, chunk: Chunk) -> RecordId:
    """The name of the record a chunk stands in."""
    return RecordId(prepared.store_id, prepared.writer, chunk.seq, chunk.stored_bytes, chunk.hash)


class View:
    """Commit records and manifests, as they are on disk now."""

    def __init__(
        self, files: Files, root: str, *, store_id: str, sources: Sequence[Source]
    ) -> None:
        self.files = files
        self.root = root
        self.store_id = store_id
        self.sources = tuple(sources)
        self.commits = Commits(files, f"{root}/commits")
        self.writers_folder = f"{root}/writers"
        self._indexes: dict[str, Index] = {}
        self._lock = threading.Lock()

    def index(self, writer: str, *, fresh: bool = False) -> Index:
        """The index of a writer; ``fresh`` reads it anew."""
        with self._lock:
            have = self._indexes.get(writer)
            if have is None or fresh:
                # An older one may still be in use elsewhere: it is closed when nobody holds it.
                have = self._indexes[writer] = Index(self.files, f"{self.writers_folder}/{writer}")
            return have

    def writers(self) -> list[str]:
        """Names of all writers of this store."""
        return [
            w for w in self.files.list_dir(self.writers_folder)
            if self.files.exists(f"{self.writers_folder}/{w}/LOCK")
        ]  # fmt: skip

    def is_local(self, rank: Prepared) -> bool:
        """Whether this rank's data is meant to be in this store."""
        return rank.store_id == self.store_id

    def local_manifest(self, rank: Prepared, *, fresh: bool = False) -> RankManifest | None:
        """A rank's manifest if this store has it, whole.

        The index is read anew when what was read before does not have it, or with ``fresh``.
        """
        if not self.is_local(rank):
            return None
        for again in (True,) if fresh else (False, True):
            try:
                index = self.index(rank.writer, fresh=again)
                found = read_save(index.scan(save_prefix(rank.save_id)))
            except (StorageError, CorruptionError, msgspec.MsgspecError):
                continue
            if found is not None and digest_of(found.parts) == rank.digest:
                return found
        return None

    def manifest(self, commit: Commit, rank: Prepared) -> RankManifest:
        """A rank's manifest, from here or from a source.

        Raises CorruptionError, or CheckpointMissingError when it was dropped since ``commit`` was
        read: a save that is let go leaves the index, and that is no damage.
        """
        found = self.local_manifest(rank)
        if found is not None:
            return found
        folder = f"{self.writers_folder}/{rank.writer}"
        if self.is_local(rank):
            self.check_stands(commit.step, rank.writer, rank.save_id)
            rebuilt = find_manifests(self.files, folder, [rank]).get(rank.save_id)
            if rebuilt is not None:
                return rebuilt
        for source in self.sources:
            try:
                data = source.manifest(commit.step, rank.rank)
                remote = RankManifest.decode(data, path=f"{source.name}: manifest")
            except (KeyError, FileNotFoundError, BurstError):
                continue
            if remote.seal.digest == rank.digest:
                return remote
        if not self.is_local(rank):
            raise CorruptionError(
                f"rank {rank.rank} was saved to another store and no source has it", file=folder,
                step=commit.step, hint="give a peer or the object store as a source",
            )  # fmt: skip
        self.check_stands(commit.step, rank.writer, rank.save_id)
        damage = self.index(rank.writer).damage if self.files.exists(folder) else []
        first = next((d for d in damage if isinstance(d, CorruptionError)), None)
        raise CorruptionError(
            f"the index of rank {rank.rank} (writer `{rank.writer}`) is damaged"
            + (f": {first.what}" if first else ""),
            file=first.file if first else folder,
            offset_bytes=first.offset_bytes if first else None,
            step=commit.step,
            hint="`burst verify --repair` rebuilds it from the segments",
        )

    def check_stands(self, step: int, writer: str, save_id: int) -> None:
        """Raise CheckpointMissingError when no commit record of ``step`` names this save any more.

        It was dropped, or replaced. A record that cannot be read counts as one that does.
        """
        try:
            now, _ = self.commits.read(step)
        except CorruptionError:
            return
        if (writer, save_id) not in ((r.writer, r.save_id) for r in now.ranks):
            raise self.commits.missing(step)


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
        if not self._here(piece):
            return False
        try:
            return self._reader.direct_into(piece.seal.writer, piece.chunk, out, verify=verify)
        except (CorruptionError, StorageError):
            return False  # the slow way finds out what to do

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
            for piece in pieces:
                yield piece, self.raw(piece, verify=verify)
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
            try:
                data = source.fetch(self._commit.step, rank.rank, record_id(rank, chunk))
                check_payload(data, chunk, file=source.name)
            except (KeyError, FileNotFoundError, BurstError):
                continue
            if self._here(piece):
                self.repaired.append(
                    Repair(
                        tensor=piece.entry.name, what=what, source=source.name,
                        file=self._reader.path(piece.seal.writer, chunk.segment),
                        offset_bytes=chunk.offset_bytes,
                    )
                )  # fmt: skip
            return np.frombuffer(data, np.uint8)
        raise self._lost(piece, chunk, what)

    def _lost(self, piece: Piece, chunk: Chunk, what: str) -> CorruptionError:
        return CorruptionError(
            what,
            file=self._reader.path(piece.seal.writer, chunk.segment),
            offset_bytes=chunk.offset_bytes,
            step=self._commit.step,
            tensor=piece.entry.name,
        )


def _places(chunk: Chunk) -> list[tuple[int, int, int]]:
    return [(c.segment, c.epoch, c.offset_bytes) for c in chain(chunk)]
