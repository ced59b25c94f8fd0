"""One save on its way to the disk: staged chunks are written by many threads, sealed at the end.

Encoding, hashing and writing run in a pool of threads, in calls that hold no GIL.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Final

import blake3
import msgspec
import numpy as np
import xxhash

from weftline.burst.files import ALIGN_BYTES, LARGE_BYTES
from weftline.burst.log.codec import encode
from weftline.burst.log.record import (
    Chunk,
    PartEntry,
    Prepared,
    RankManifest,
    Seal,
    about_of,
    chain,
    digest_of,
    head_bytes,
    pack_head,
)
from weftline.burst.log.small import described
from weftline.burst.log.writer import WriterLog, prepared_of
from weftline.burst.stage.arena import aligned_buffer
from weftline.burst.stage.state import Bytes1d, Part, dtype_bytes

__all__ = ["Request", "SaveSession"]

_PACK_BYTES: Final = 4 << 20
_EARLY: Final = 2
"""Writes in flight while the state is still being copied: the stall stays, and a tenth of a save's
time on the disk is gained (docs/benchmarks/burst_epyc_2core_202611.md)."""
_local = threading.local()

Placed = tuple[int, int, Chunk]
"""Part, number of the chunk in it, and where it now stands."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a save is, apart from its tensors."""

    step: int
    rank: int
    world: int
    attempt: str
    extra: bytes
    run: str


@dataclass(slots=True)
class _Job:
    """One chunk on its way to the disk."""

    part: int
    index: int
    raw: Bytes1d
    room: Bytes1d
    """The chunk's own memory in the arena, up to the next block; its bytes may be replaced."""


class SaveSession:
    """Made when a save begins; :meth:`end` must be called once."""

    def __init__(
        self,
        log: WriterLog,
        pool: ThreadPoolExecutor,
        request: Request,
        parts: Sequence[Part],
        rooms: Sequence[Bytes1d],
        layout: Sequence[tuple[Part, int]] = (),
    ) -> None:
        """``layout``: the small tensors that the last part holds, and their places in it."""
        self._layout = layout
        self._log = log
        self._pool = pool
        self._request = request
        self._rooms = rooms
        self._nbytes = [p.nbytes for p in parts]
        self._size = log.options.chunk_bytes
        self._entries = [
            PartEntry(
                name=p.name, part=p.index, dtype=p.dtype, shape=p.shape,
                global_shape=p.global_shape, offsets=p.offsets, chunk_bytes=self._size, chunks=[],
            )
            for p in parts
        ]  # fmt: skip
        self._hashes: dict[tuple[int, int], int] = {}
        self._early: dict[tuple[int, int], Future[list[Placed]]] = {}
        options = log.options
        self._plain = not (options.compress or options.dedup)
        self._lock = threading.Lock()
        self._futures: list[Future[list[Placed]]] = []
        self._pack: list[_Job] = []
        self._packed = 0
        self._fresh: dict[tuple[bytes, int], Chunk] = {}
        self.save_id = log.next_id()
        self._scope = log.log.begin(self._expected(), self._size + 2 * ALIGN_BYTES)
        log.in_flight.add(self.save_id)
        self._segments = pool.submit(log.log.make_ready, self._scope)

    def _expected(self) -> int:
        """About how many bytes of segments the save takes, heads and manifest with it."""
        total = 1 << 17
        for nbytes, entry in zip(self._nbytes, self._entries, strict=True):
            chunks = -(-nbytes // self._size)
            step = 2 * ALIGN_BYTES if nbytes >= LARGE_BYTES else 512
            total += nbytes + chunks * (step + 128) + len(entry.name) + 128
        return total

    # --- writing ----------------------------------------------------------------------------------

    def staged(self, part: int, index: int, hash_: int) -> None:
        """A chunk is in the arena and this is its XXH3-64; called by the threads that copy.

        A few chunks are written while others are still copied, where that takes next to nothing
        from the copy: no encoding, no new segment.
        """
        self._hashes[part, index] = hash_
        if not (self._plain and self._nbytes[part] >= LARGE_BYTES and self._segments.done()):
            return
        with self._lock:
            busy = sum(not f.done() for f in self._early.values())
            if busy < _EARLY and self._log.log.has_room(self._size + 2 * ALIGN_BYTES):
                job = self._job(part, index)
                self._early[part, index] = self._pool.submit(self._write_large, job)

    def take_hashes(self, of: Callable[[Bytes1d], int | None]) -> None:
        """Ask for the XXH3-64 of every chunk that lies in the arena already."""
        for part, nbytes in enumerate(self._nbytes):
            for k in range(-(-nbytes // self._size)):
                known = of(self._job(part, k).raw)
                if known is not None:
                    self._hashes[part, k] = known

    def _job(self, part: int, index: int) -> _Job:
        length = min(self._size, self._nbytes[part] - index * self._size)
        start = index * self._size
        large = self._nbytes[part] >= LARGE_BYTES
        room = -(-length // ALIGN_BYTES) * ALIGN_BYTES if large else length
        memory = self._rooms[part]
        return _Job(part, index, memory[start : start + length], memory[start : start + room])

    def _submit(self) -> None:
        self._futures += self._early.values()
        for part, nbytes in enumerate(self._nbytes):
            for k in range(-(-nbytes // self._size)):
                if (part, k) in self._early:
                    continue
                job = self._job(part, k)
                if nbytes >= LARGE_BYTES:
                    self._futures.append(self._pool.submit(self._write_large, job))
                else:
                    self._pack.append(job)
                    self._packed += len(job.raw)
            if self._packed >= _PACK_BYTES:
                self._flush_pack()
        self._flush_pack()

    def _flush_pack(self) -> None:
        if self._pack:
            self._futures.append(self._pool.submit(self._write_pack, self._pack))
        self._pack, self._packed = [], 0

    def _draft(self, job: _Job) -> tuple[Chunk, bytes | None]:
        """A chunk without its place, and its encoded bytes; or one that is stored already."""
        log, options, raw = self._log, self._log.options, job.raw
        entry = self._entries[job.part]
        content = b""
        if options.dedup:
            content = blake3.blake3(raw).digest(16)
            known = self._fresh.get((content, len(raw))) or log.known(content, len(raw))
            if known is not None and log.log.hold(self._scope, chain(known)):
                return known, None
        codec, packed = encode(raw, dtype_bytes(entry.dtype), method=options.compress)
        staged = self._hashes.get((job.part, job.index))
        raw_hash = xxhash.xxh3_64_intdigest(raw) if staged is None else staged
        draft = Chunk(
            segment=-1, epoch=0, offset_bytes=0, head_bytes=0,
            stored_bytes=len(raw) if packed is None else len(packed), raw_bytes=len(raw),
            codec=codec, seq=log.next_id(), raw_hash=raw_hash, content=content,
            hash=raw_hash if packed is None else xxhash.xxh3_64_intdigest(packed),
        )  # fmt: skip
        return draft, packed

    def _write_large(self, job: _Job) -> list[Placed]:
        draft, packed = self._draft(job)
        if draft.segment >= 0:
            return [(job.part, job.index, draft)]
        if packed is not None:
            job.room[: len(packed)] = np.frombuffer(packed, np.uint8)
        whole = -(-draft.stored_bytes // ALIGN_BYTES) * ALIGN_BYTES
        job.room[draft.stored_bytes : whole] = 0
        about = about_of(self.save_id, self._entries[job.part], job.index, draft)
        length = head_bytes(len(about), large=True)
        segment, at = self._log.log.allocate(self._scope, length + whole)
        chunk = msgspec.structs.replace(
            draft, segment=segment.number, epoch=segment.epoch, offset_bytes=at, head_bytes=length
        )
        head = _head_buffer(length)
        head[:] = np.frombuffer(pack_head(chunk, about), np.uint8)
        self._log.log.write(segment, at, [memoryview(head), memoryview(job.room[:whole])])
        if chunk.content:
            self._fresh[chunk.content, chunk.raw_bytes] = chunk
        return [(job.part, job.index, chunk)]

    def _write_pack(self, jobs: Sequence[_Job]) -> list[Placed]:
        """Several small chunks in one write."""
        found: list[Placed] = []
        items: list[tuple[_Job, Chunk, bytes, Bytes1d]] = []
        total = 0
        for job in jobs:
            draft, packed = self._draft(job)
            if draft.segment >= 0:
                found.append((job.part, job.index, draft))
                continue
            about = about_of(self.save_id, self._entries[job.part], job.index, draft)
            length = head_bytes(len(about), large=False)
            payload = job.raw if packed is None else np.frombuffer(packed, np.uint8)
            draft = msgspec.structs.replace(draft, head_bytes=length, offset_bytes=total)
            items.append((job, draft, about, payload))
            total += length + -(-draft.stored_bytes // 64) * 64
        if not items:
            return found
        segment, at = self._log.log.allocate(self._scope, total)
        buffer = aligned_buffer(-(-total // ALIGN_BYTES) * ALIGN_BYTES)
        for job, draft, about, payload in items:
            chunk = msgspec.structs.replace(
                draft, segment=segment.number, epoch=segment.epoch,
                offset_bytes=at + draft.offset_bytes,
            )  # fmt: skip
            start = draft.offset_bytes + draft.head_bytes
            buffer[draft.offset_bytes : start] = np.frombuffer(pack_head(chunk, about), np.uint8)
            buffer[start : start + draft.stored_bytes] = payload
            found.append((job.part, job.index, chunk))
        self._log.log.write(segment, at, [memoryview(buffer)])
        return found

    # --- ending -----------------------------------------------------------------------------------

    def write(self) -> list[PartEntry]:
        """Write what stands in the arena; raises the error of a write that failed.

        When it ends, nothing reads the arena any more.
        """
        try:
            if self._layout:
                inner = described(self._layout, self._rooms[-1])
                self._entries[-1] = msgspec.structs.replace(self._entries[-1], inner=inner)
            self._submit()
            wait(self._futures, return_when=FIRST_EXCEPTION)
        finally:
            for future in self._futures:
                future.cancel()
            wait(self._futures)
        self._segments.result()
        failed = [f for f in self._futures if not f.cancelled() and f.exception() is not None]
        for future in failed:
            future.result()
        for part, _, chunk in sorted(
            (item for f in self._futures for item in f.result()), key=lambda item: item[:2]
        ):
            self._entries[part].chunks.append(chunk)
        return self._entries

    def seal(self, entries: list[PartEntry]) -> Prepared:
        """Sync and seal: on return this rank's share is durable."""
        log, request = self._log, self._request
        own = [c for e in entries for c in e.chunks if c.seq > self.save_id]
        seal = Seal(
            step=request.step, rank=request.rank, world=request.world, attempt=request.attempt,
            store_id=log.store_id, writer=log.writer, save_id=self.save_id, parts=len(entries),
            raw_bytes=sum(self._nbytes[: -1 if self._layout else None])
            + sum(part.nbytes for part, _ in self._layout),
            stored_bytes=sum({c.seq: c.stored_bytes for c in own}.values()),
            digest=digest_of(entries), created_unix_s=time.time(), extra=request.extra,
            run=request.run,
        )  # fmt: skip
        copy = log.write_copy(RankManifest(seal, entries), self._scope)
        seal = msgspec.structs.replace(seal, copy=copy)
        log.log.sync(self._scope)
        log.seal(seal, entries)
        log.log.end(self._scope)
        return prepared_of(seal)

    def abort(self) -> None:
        """The copy failed: when this returns, nothing reads the arena any more."""
        wait(self._early.values())
        self.end()

    def end(self) -> None:
        """The save is over, committed or failed: hold on to nothing."""
        self._log.log.end(self._scope)
        self._log.in_flight.discard(self.save_id)


def _head_buffer(length: int) -> Bytes1d:
    have: Bytes1d | None = getattr(_local, "head", None)
    if have is None or len(have) < length:
        have = _local.head = aligned_buffer(max(length, 2 * ALIGN_BYTES))
    return have[:length]
