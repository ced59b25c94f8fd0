"""One node's server: copies of other nodes' shares in memory, and this node's own store to read.

The folder for copies is on a file system in memory (/dev/shm), so they outlive the training process
and not the node. It runs in a process of its own (``burst peer``), so that a job that is started
again finds them.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Final

import msgspec

from weftline.burst.commit.commits import Commit, decode_commit
from weftline.burst.errors import BurstError, StorageError
from weftline.burst.files import Files, local_folder
from weftline.burst.log.record import Chunk, Prepared, chunks_of
from weftline.burst.nodes.shares import (
    RECORDS,
    SHARE,
    SHARES,
    overtaken,
    share_id,
    shares_of,
)
from weftline.burst.remote.objects import ObjectMissingError
from weftline.burst.remote.peer_server import PeerServer
from weftline.burst.remote.wire import DATA, Channel, FileRange
from weftline.burst.store import Store

__all__ = ["FETCH", "MANIFEST", "SURVEY", "Found", "NodeServer"]

SURVEY, MANIFEST, FETCH = range(20, 23)
_KNOWN_MOST: Final = 64
"""Manifests kept in memory, of the shares that are being read."""


class Found(msgspec.Struct, array_like=True):
    """What a node has, in memory for others and in its own store."""

    records: list[bytes]
    """Commit records, each once."""
    shares: list[str]
    """Shares that are whole, by ``share_id``."""


class NodeServer(PeerServer):
    """Serves a folder of copies, and the store of this node where it is told of one."""

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        store: str | os.PathLike[str] | None = None,
        secret: bytes | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        capacity_bytes: int | None = None,
        files: Files | None = None,
    ) -> None:
        """Listen. ``store`` need not be there yet. Arguments and errors of :class:`PeerServer`."""
        self._store_path = None if store is None else str(local_folder(store))
        self._store: Store | None = None
        self._which = (0, 0, 0)
        """The file that makes that store one: device, inode, time of its last change."""
        self._known: dict[str, dict[int, Chunk]] = {}
        self._pruning = threading.Lock()
        super().__init__(
            folder, secret=secret, host=host, port=port, capacity_bytes=capacity_bytes, files=files
        )

    def _answer(self, channel: Channel, kind: int, meta: Any) -> None:
        if kind == SURVEY:
            channel.send(DATA, None, msgspec.msgpack.encode(self._found(int(meta["most"]))))
        elif kind == MANIFEST:
            self._send_manifest(channel, Prepared.decode(meta["share"]))
        elif kind == FETCH:
            share = Prepared.decode(meta["share"])
            self._fetch(channel, share, meta["seqs"], fresh=bool(meta["fresh"]))
        else:
            super()._answer(channel, kind, meta)

    def close(self) -> None:
        """Take no more connections, and close the store."""
        super().close()
        if self._store is not None:
            self._store.close()

    def _found(self, most: int) -> Found:
        """All copies kept for others, and of the store its newest ``most`` records and shares."""
        records: list[bytes] = []
        for info in self._list(RECORDS):
            with suppress(FileNotFoundError):  # overtaken meanwhile
                records.append(Path(self._path(info.name)).read_bytes())
        kept = [info.name.split("/") for info in self._list(SHARES)]
        shares = [parts[-2] for parts in kept if parts[-1] == SHARE]
        store = self._own()
        if store is not None:
            for step in store.view.commits.steps()[-most:]:
                with suppress(BurstError):  # dropped meanwhile, or damaged here
                    records.append(store.view.commits.record(step))
            shares += shares_of(store.view)
        return Found(list(dict.fromkeys(records)), shares)

    # --- the store of this node ------------------------------------------------------------------

    def _own(self) -> Store | None:
        """The store, opened for reading when it is first asked for and there.

        Anew where another stands in its place: the disk was emptied or replaced meanwhile.
        """
        if self._store_path is None:
            return None
        with self._lock:
            try:
                now = (Path(self._store_path) / "BURST").stat()
            except FileNotFoundError:
                return None
            which = (now.st_dev, now.st_ino, now.st_mtime_ns)
            if self._store is None or which != self._which:
                self._store = Store.open(self._store_path, read_only=True)
                self._which = which
            return self._store

    def _reading(self) -> Store:
        store = self._own()
        if store is None:
            raise ObjectMissingError("this node has no store", where=self.url)
        return store

    def _send_manifest(self, channel: Channel, share: Prepared) -> None:
        manifest = self._reading().view.local_manifest(share)
        if manifest is None:
            raise ObjectMissingError(f"rank {share.rank} of step {share.step} is not here")
        channel.send(DATA, None, memoryview(manifest.encode()))

    def _fetch(
        self, channel: Channel, share: Prepared, seqs: Sequence[int], *, fresh: bool
    ) -> None:
        """Payloads of records, straight from their segments; who asked checks them.

        Those that are not where they were known to be are looked for anew: compaction moves them.
        """
        with ExitStack() as held:
            try:
                wanted = self._ranges(held, share, seqs, self._chunks(share, fresh=fresh))
            except ObjectMissingError:
                if fresh:
                    raise
                wanted = self._ranges(held, share, seqs, self._chunks(share, fresh=True))
            channel.send_many(DATA, wanted)

    def _ranges(
        self, held: ExitStack, share: Prepared, seqs: Sequence[int], chunks: dict[int, Chunk]
    ) -> list[FileRange]:
        """Where the records are, in files that ``held`` closes. Raises ObjectMissingError."""
        store = self._reading()
        files: dict[int, tuple[int, int]] = {}
        wanted = []
        for seq in seqs:
            chunk = chunks.get(int(seq))
            if chunk is None:
                raise ObjectMissingError(f"record {seq:x} of rank {share.rank} is not here")
            if chunk.segment not in files:
                path = store.reader.path(share.writer, chunk.segment)
                try:
                    file = os.open(path, os.O_RDONLY)
                except OSError as error:
                    raise ObjectMissingError(f"the segment of {seq:x} is gone") from error
                held.callback(os.close, file)
                files[chunk.segment] = file, os.fstat(file).st_size
            file, size = files[chunk.segment]
            start = chunk.offset_bytes + chunk.head_bytes
            if start + chunk.stored_bytes > size:
                raise ObjectMissingError(f"the segment of {seq:x} is shorter now")
            wanted.append(FileRange(file, start, chunk.stored_bytes))
        return wanted

    def _chunks(self, share: Prepared, *, fresh: bool) -> dict[int, Chunk]:
        with self._lock:
            known = None if fresh else self._known.get(share_id(share))
        if known is None:
            manifest = self._reading().view.local_manifest(share, fresh=fresh)
            known = {} if manifest is None else {c.seq: c for c in chunks_of(manifest.parts)}
            with self._lock:
                while len(self._known) >= _KNOWN_MOST:
                    self._known.pop(next(iter(self._known)))
                self._known[share_id(share)] = known
        return known

    # --- copies of others ------------------------------------------------------------------------

    def _put(self, channel: Channel, name: str) -> None:
        super()._put(channel, name)
        folder, _, rest = name.partition("/")
        if folder == RECORDS:
            with self._pruning, suppress(BurstError):  # the next record comes soon
                self.prune(rest.partition("/")[0])

    def prune(self, run: str) -> list[str]:
        """Let go of the copies that the commit records of a run overtake; their names."""
        records = self._records(run)
        gone = overtaken(list(records.values()), self._shares(run))
        for share in gone:
            # Without its last object first, so that it is whole or absent at every moment.
            for name in sorted((i.name for i in self._list(share)), key=_whole_last, reverse=True):
                self._delete(name)
        copied = max((c.order for c in records.values() if c.copied), default=None)
        for name, commit in records.items():
            if copied is not None and commit.order < copied:
                self._delete(name)
        return sorted(gone)

    def _records(self, run: str) -> dict[str, Commit]:
        found: dict[str, Commit] = {}
        for info in self._list(f"{RECORDS}/{run}"):
            with suppress(BurstError, OSError):
                found[info.name] = decode_commit(Path(self._path(info.name)).read_bytes())
        return found

    def _shares(self, run: str) -> list[str]:
        """Names of whole copies, in the order in which they came."""
        found: list[tuple[int, str]] = []
        for info in self._list(f"{SHARES}/{run}"):
            if info.name.endswith(f"/{SHARE}"):
                with suppress(StorageError):
                    at = self._files.stamp(self._path(info.name))[2]
                    found.append((at, info.name.rpartition("/")[0]))
        return [name for _, name in sorted(found)]


def _whole_last(name: str) -> bool:
    return name.endswith(f"/{SHARE}")
