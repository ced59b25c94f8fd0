"""One writer's log: its lock, its index, its segments.

A rank's share of a checkpoint is sealed in one index frame, after every segment it touches is
synced.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence

import msgspec
import numpy as np
import xxhash

from weftline.burst.errors import BurstError, StoreBusyError
from weftline.burst.files import ALIGN_BYTES, File, Files
from weftline.burst.log.index import IndexWriter
from weftline.burst.log.reader import ChunkReader
from weftline.burst.log.record import (
    Chunk,
    PartEntry,
    Prepared,
    RankManifest,
    Seal,
    about_of,
    chain,
    head_bytes,
    pack_head,
    part_key,
    save_prefix,
)
from weftline.burst.log.segment import Scope, SegmentLog
from weftline.burst.options import Options
from weftline.burst.stage.arena import aligned_buffer
from weftline.burst.stage.state import Bytes1d

Place = tuple[int, int, int]
"""Segment, epoch, offset: where a record stands."""

__all__ = ["Place", "WriterLog", "prepared_of", "read_save", "saves_of"]


def prepared_of(seal: Seal) -> Prepared:
    """What the coordinator needs of a seal."""
    return Prepared(
        step=seal.step, rank=seal.rank, world=seal.world, attempt=seal.attempt,
        store_id=seal.store_id, writer=seal.writer, save_id=seal.save_id, parts=seal.parts,
        raw_bytes=seal.raw_bytes, stored_bytes=seal.stored_bytes, digest=seal.digest,
        run=seal.run, created_unix_s=seal.created_unix_s,
    )  # fmt: skip


def saves_of(entries: Iterator[tuple[bytes, bytes]]) -> dict[int, Seal | None]:
    """Save id -> seal, or None where the save was dropped."""
    found: dict[int, Seal | None] = {}
    for key, value in entries:
        if len(key) == 8:
            seal = msgspec.msgpack.decode(value, type=Seal) if value else None
            found[int.from_bytes(key, "big")] = seal
    return found


_part_decoder = msgspec.msgpack.Decoder(PartEntry)


def read_save(entries: Iterator[tuple[bytes, bytes]]) -> RankManifest | None:
    """The manifest from the entries under one save's prefix; None when unsealed or dropped."""
    seal: Seal | None = None
    parts: list[PartEntry] = []
    for key, value in entries:
        if len(key) > 8:
            parts.append(_part_decoder.decode(value))
        elif value:
            seal = msgspec.msgpack.decode(value, type=Seal)
    return None if seal is None else RankManifest(seal, parts)


class WriterLog:
    """The write side of one writer; one process at a time holds it."""

    def __init__(
        self,
        files: Files,
        writers_folder: str,
        writer: str,
        *,
        store_id: str,
        options: Options,
        reader: ChunkReader,
        notices: list[str],
        borrow: bool = False,
    ) -> None:
        """``borrow``: only while its own process is away; that one waits until it is given back."""
        self.writer = writer
        self.folder = f"{writers_folder}/{writer}"
        self._files = files
        self.options = options
        """The settings of the store."""
        self.store_id = store_id
        self.reader = reader
        self.lock = threading.RLock()
        """Held while the index changes."""
        self.committing = threading.Lock()
        """Held by the thread that writes a commit record."""
        self.upkeep = threading.Lock()
        """Held by the thread that frees and compacts."""
        self._take(writers_folder, borrow=borrow)
        try:
            self.index = IndexWriter(
                files, self.folder, store_id=store_id, wal_bytes_max=options.wal_bytes
            )
            self._ids = itertools.count((self.index.opens << 32) + 1)
            self.log = SegmentLog(
                files, self.folder, store_id=store_id, writer=writer,
                segment_bytes=options.segment_bytes, direct=options.direct,
                next_id=self.next_id, next_number=self.index.next_number, notices=notices,
            )  # fmt: skip
        except BaseException:
            self._give_back()
            raise
        self.seals: dict[int, Seal | None] = {}
        """Every sealed save, by id; None once it was dropped."""
        self.places: dict[int, dict[Place, int]] = {}
        """Save -> where its records stand, and how long each is, in bytes."""
        self._holders: dict[Place, int] = {}
        """How many saves rest on the record that stands there."""
        self.live_bytes: dict[int, int] = {}
        """Segment -> bytes of the records in it that some save rests on. Kept up to date with every
        save, so that what is free is known without a look at all that is kept."""
        self.largest_bytes = 0
        """What the largest save took, of those found here and those of this process: the next may
        need as much."""
        for key, value in self.index.scan():
            self._note(int.from_bytes(key[:8], "big"), key, value)
        self.frozen = False
        """True while a committed save is damaged in the index: then nothing is ever freed."""
        self.mended: list[RankManifest] = []
        """Saves that the index had lost and the segments gave back; recovery adds them."""
        self._by_content: dict[tuple[bytes, int], Chunk] = {}
        self.in_flight: set[int] = set()

    def _take(self, writers_folder: str, *, borrow: bool) -> None:
        new = not self._files.exists(f"{self.folder}/LOCK")
        if new:
            self._files.make_dir(self.folder)
            self._files.sync_dir(writers_folder)
        self._lock_file = self._lock_at("LOCK")
        self._borrow_file: File | None = None
        try:
            if borrow:
                self._borrow_file = self._lock_at("BORROW")
                if not self._borrow_file.lock(exclusive=True, wait=False):
                    raise self._busy()
            while not self._lock_file.lock(exclusive=True, wait=False):
                if borrow or not self._await_borrower():
                    raise self._busy()
        except BaseException:
            self._give_back()
            raise

    def _lock_at(self, name: str) -> File:
        """A file to lock, made if it is not there."""
        path = f"{self.folder}/{name}"
        if not self._files.exists(path):
            try:
                self._files.open(path, "x").close()
            except BurstError:
                if not self._files.exists(path):
                    raise
        return self._files.open(path, "w")

    def _await_borrower(self) -> bool:
        """Wait while another process only borrows this log; False if one owns it."""
        path = f"{self.folder}/BORROW"
        if not self._files.exists(path):  # made before a log is first borrowed
            return False
        file = self._files.open(path, "w")
        try:
            if file.lock(exclusive=False, wait=False):
                # Nobody borrows it now; who did a moment ago may just have given it back.
                free = self._lock_file.lock(exclusive=True, wait=False)
                if free:
                    self._lock_file.unlock()
                return free
            return file.lock(exclusive=False, wait=True)
        finally:
            file.close()

    def _busy(self) -> StoreBusyError:
        return StoreBusyError(
            f"writer `{self.writer}` is in use by another process",
            where=self.folder,
            hint="open read-only, or give this process a writer name of its own",
        )

    def _give_back(self) -> None:
        """The log first: who waits for the borrower then finds it free."""
        self._lock_file.close()
        if self._borrow_file is not None:
            self._borrow_file.close()

    def _note(self, save: int, key: bytes, value: bytes) -> None:
        """Keep in mind what an index entry says."""
        if len(key) == 8 and not value:
            self.seals[save] = None
            self._let_go(save)
        elif len(key) == 8:
            seal = self.seals[save] = msgspec.msgpack.decode(value, type=Seal)
            self.largest_bytes = max(self.largest_bytes, seal.stored_bytes)
            self._note_chunks(save, [] if seal.copy is None else [seal.copy])
        elif self.seals.get(save) is not None:  # a seal's key comes before those of its parts
            self._note_chunks(save, _part_decoder.decode(value).chunks)

    def _note_chunks(self, save: int, chunks: Iterable[Chunk]) -> None:
        places = self.places.setdefault(save, {})
        for top in chunks:
            for c in chain(top):
                place, size = (c.segment, c.epoch, c.offset_bytes), c.head_bytes + c.stored_bytes
                if place in places:
                    continue
                places[place] = size
                holders = self._holders.get(place, 0)
                self._holders[place] = holders + 1
                if not holders:
                    self.live_bytes[c.segment] = self.live_bytes.get(c.segment, 0) + size

    def _let_go(self, save: int) -> None:
        """A save rests on nothing any more."""
        for place, size in self.places.pop(save, {}).items():
            holders = self._holders.pop(place) - 1
            if holders:
                self._holders[place] = holders
                continue
            left = self.live_bytes.pop(place[0]) - size
            if left:
                self.live_bytes[place[0]] = left

    def flush_index(self) -> None:
        """Turn the index's log into a sorted run, and forget dropped saves that it has not."""
        dropped = {s for s, seal in self.seals.items() if seal is None}
        self.index.flush(lambda save: save not in dropped)
        there = {int.from_bytes(key[:8], "big") for key, _ in self.index.scan()}
        for save in dropped - there:
            del self.seals[save]

    def next_id(self) -> int:
        """A number this writer never handed out before."""
        return next(self._ids)

    def recover(self, alive: Callable[[int], bool]) -> None:
        """Take up the log where the last process left it. ``alive``: is this save still wanted?"""
        damaged = bool(self.index.damage)
        self.index.start(alive if not self.frozen else lambda _: True)
        for manifest in self.mended:
            self.seal(manifest.seal, manifest.parts)
        if damaged and not self.frozen:  # all that is committed is there again
            self.index.purge(alive)
        if not self.frozen:
            self.drop([s for s, seal in self.seals.items() if seal is not None and not alive(s)])
        live_end: dict[int, int] = {}
        epochs: dict[int, int] = {}
        for save, places in self.places.items():
            for (segment, epoch, offset), size in places.items() if alive(save) else ():
                live_end[segment] = max(live_end.get(segment, 0), offset + size)
                epochs[segment] = epoch
        if self.frozen:  # every segment may hold what is missing: append to new ones only
            for name in self._files.list_dir(self.folder):
                if name.startswith("seg-") and name.endswith(".seg"):
                    live_end.setdefault(int(name[4:-4]), 1 << 62)
        self.log.recover(live_end, epochs)
        self.forget_moved()

    def drop(self, saves: Iterable[int], *, sync: bool = True) -> None:
        """Mark saves as dropped: from now on they can never be committed.

        Without ``sync`` the mark is durable, and space may be freed, after ``index.sync()``.
        """
        marks = [(save_prefix(s), b"") for s in saves]
        if marks:
            self.change(marks, sync=sync)

    def change(self, entries: Sequence[tuple[bytes, bytes]], *, sync: bool = True) -> None:
        """Add to the index or replace in it, in one step, durable with ``sync``."""
        with self.lock:
            self.index.append(entries, sync=sync)
            for key, value in entries:
                self._note(int.from_bytes(key[:8], "big"), key, value)

    def values(self, saves: Iterable[int]) -> Iterator[tuple[bytes, PartEntry | Seal]]:
        """Keys and entries of these saves."""
        for save in saves:
            for key, value in self.index.scan(save_prefix(save)):
                if len(key) > 8:
                    yield key, _part_decoder.decode(value)
                elif value:
                    yield key, msgspec.msgpack.decode(value, type=Seal)

    def forget_places(self, saves: Iterable[int]) -> None:
        """Records of these saves have moved: take their places from the index anew."""
        for save in saves:
            self._let_go(save)
            for key, value in self.index.scan(save_prefix(save)):
                self._note(save, key, value)

    def about(self, chunk: Chunk) -> bytes:
        """The description in a record's head, as bytes. Raises CorruptionError."""
        return msgspec.msgpack.encode(self.reader.head(self.writer, chunk).about)

    def forget_moved(self) -> None:
        """Compare the next save with the sealed ones as they are now."""
        self._by_content.clear()
        if self.options.dedup:
            for save, seal in sorted(self.seals.items(), key=lambda item: item[0]):
                if seal is not None:
                    self._remember(self.manifest(save))

    def manifest(self, save_id: int) -> RankManifest | None:
        """What the index holds of a save."""
        return read_save(self.index.scan(save_prefix(save_id)))

    def _remember(self, manifest: RankManifest | None) -> None:
        """Make a sealed save the one that the next is compared with."""
        if manifest is None or not self.options.dedup:
            return
        for p in manifest.parts:
            for c in p.chunks:
                if c.content:
                    self._by_content[c.content, c.raw_bytes] = c

    # --- saving -----------------------------------------------------------------------------------

    def known(self, content: bytes, raw_bytes: int) -> Chunk | None:
        """A chunk of an earlier save with this content."""
        return self._by_content.get((content, raw_bytes))

    def seal(self, seal: Seal, entries: Sequence[PartEntry]) -> None:
        """Add a save whose records are durable to the index, in one frame."""
        encoded = [(save_prefix(seal.save_id), msgspec.msgpack.encode(seal))]
        for e in entries:
            encoded.append((part_key(seal.save_id, e.name, e.part), msgspec.msgpack.encode(e)))
        with self.lock:
            self.change(encoded)
            self._remember(RankManifest(seal, list(entries)))

    def write_copy(self, manifest: RankManifest, scope: Scope) -> Chunk:
        """A copy of the manifest as a record of its own, under no name."""
        data: Bytes1d = np.frombuffer(manifest.encode(), np.uint8)
        hash_ = xxhash.xxh3_64_intdigest(data)
        entry = PartEntry(
            name="", part=0, dtype="uint8", shape=data.shape, global_shape=data.shape,
            offsets=(0,), chunk_bytes=0, chunks=[],
        )  # fmt: skip
        draft = Chunk(
            segment=-1, epoch=0, offset_bytes=0, head_bytes=0, stored_bytes=len(data),
            raw_bytes=len(data), codec=0, seq=self.next_id(), hash=hash_, raw_hash=hash_,
        )  # fmt: skip
        about = about_of(manifest.seal.save_id, entry, 0, draft)
        return self.place(scope, draft, about, data)

    def renew_copy(self, manifest: RankManifest) -> None:
        """Write the copy of a manifest anew, because the one in the log is damaged."""
        scope = self.log.begin(1 << 17)
        try:
            seal = msgspec.structs.replace(manifest.seal, copy=None)
            copy = self.write_copy(RankManifest(seal, manifest.parts), scope)
            self.log.sync(scope)
            seal = msgspec.structs.replace(seal, copy=copy)
            with self.lock:
                self.change([(save_prefix(seal.save_id), msgspec.msgpack.encode(seal))])
                self.forget_places([seal.save_id])
        finally:
            self.log.end(scope)

    def place(self, scope: Scope, draft: Chunk, about: bytes, data: Bytes1d) -> Chunk:
        """Write one record by itself; durable once its scope is synced."""
        length = head_bytes(len(about), large=True)
        whole = -(-(length + draft.stored_bytes) // ALIGN_BYTES) * ALIGN_BYTES
        segment, at = self.log.allocate(scope, whole)
        chunk = msgspec.structs.replace(
            draft, segment=segment.number, epoch=segment.epoch, offset_bytes=at, head_bytes=length
        )
        buffer = aligned_buffer(whole)
        buffer[:length] = np.frombuffer(pack_head(chunk, about), np.uint8)
        buffer[length : length + draft.stored_bytes] = data
        self.log.write(segment, at, [memoryview(buffer)])
        return chunk

    def close(self) -> None:
        """Close all files and give the lock back."""
        self.index.close()
        self.log.close()
        self._give_back()
