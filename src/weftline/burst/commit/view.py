"""A reader's view of a store: commit records and the manifests behind them, as they are now.

No lock is taken. What the index lost is rebuilt from the segments, or asked of the sources.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from typing import Final, Protocol

import msgspec

from weftline.burst.commit.commits import Commit, Commits
from weftline.burst.errors import (
    BurstError,
    CheckpointMissingError,
    CorruptionError,
    StorageError,
)
from weftline.burst.files import Files
from weftline.burst.log.index import Index
from weftline.burst.log.record import Chunk, Prepared, RankManifest, digest_of, save_prefix
from weftline.burst.log.salvage import find_manifests
from weftline.burst.log.writer import read_save
from weftline.burst.stage.state import Bytes1d

__all__ = ["STREAMS", "RecordId", "Source", "View", "record_id"]


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


STREAMS: Final = max(1, min(4, (os.cpu_count() or 1) // 2))
"""Answers that come at once from one source: each keeps a core busy at either end, and more streams
than cores only take them from each other."""


class Source(Protocol):
    """Another place that has checkpoints of this run: a peer, an object store.

    Methods raise ``KeyError`` or ``FileNotFoundError`` for what it does not have; other errors
    pass as they are. A share is named by what its rank handed over: two saves of one step differ.
    """

    name: str

    def commit(self, step: int) -> bytes:
        """The commit record."""

    def manifest(self, share: Prepared) -> bytes:
        """A share's manifest, as :meth:`RankManifest.encode` made it."""

    def fetch_into(
        self, share: Prepared, records: Sequence[RecordId], outs: Sequence[Bytes1d]
    ) -> list[int]:
        """Stored payloads, each into memory of its length; XXH3-64 of what came, to be checked."""


def record_id(prepared: Prepared, chunk: Chunk) -> RecordId:
    """The name of the record a chunk stands in."""
    return RecordId(prepared.store_id, prepared.writer, chunk.seq, chunk.stored_bytes, chunk.hash)


class View:
    """Commit records and manifests, as they are on disk now."""

    def __init__(
        self, files: Files, root: str, *, store_id: str, sources: Sequence[Source], run: str = ""
    ) -> None:
        self.files = files
        self.root = root
        self.store_id = store_id
        self.run = run or store_id
        self.sources = tuple(sources)
        self.commits = Commits(files, f"{root}/commits")
        self.writers_folder = f"{root}/writers"
        self._indexes: dict[str, Index] = {}
        self._afar: dict[tuple[str, str, int, bytes], RankManifest] = {}
        self._lock = threading.Lock()

    def close(self) -> None:
        """Let go of the sources, whose connections end with their last user, and of what came."""
        self.sources = ()
        self._afar.clear()

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
        gone: CheckpointMissingError | None = None
        if self.is_local(rank):
            try:
                self.check_stands(commit.step, rank.writer, rank.save_id)
                rebuilt = find_manifests(self.files, folder, [rank]).get(rank.save_id)
            except CheckpointMissingError as error:
                gone, rebuilt = error, None
            if rebuilt is not None:
                return rebuilt
        remote, why = self._manifest_afar(rank)
        if remote is not None:
            return remote
        if gone is not None:
            raise gone
        if not self.is_local(rank):
            raise CorruptionError(
                f"rank {rank.rank} was saved on another node and no source has it{why}",
                file=folder, step=commit.step,
                hint="give that node, one that keeps its copies, or the object store as a source",
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

    def _manifest_afar(self, rank: Prepared) -> tuple[RankManifest | None, str]:
        """A rank's manifest from the first source that has it whole, or why the last had not.

        What came is kept: a load asks for it once to see what there is, and once to read.
        """
        key = (rank.store_id, rank.writer, rank.save_id, rank.digest)
        with self._lock:
            kept = self._afar.get(key)
        if kept is not None:
            return kept, ""
        why = ""
        for source in self.sources:
            try:
                data = source.manifest(rank)
                remote = RankManifest.decode(data, path=f"{source.name}: manifest")
            except (KeyError, FileNotFoundError):
                continue
            except BurstError as error:
                why = f": {error.where}: {error.what}" if error.where else f": {error.what}"
                continue
            if remote.seal.digest == rank.digest:
                with self._lock:
                    if any(m.seal.step != rank.step for m in self._afar.values()):
                        self._afar.clear()
                    self._afar[key] = remote
                return remote, ""
        return None, why

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
