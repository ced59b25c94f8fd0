"""Reading records: whole blocks past the page cache, heads and payloads checked on the way.

Large raw chunks go straight into their destination when that is page-aligned; everything else goes
through a buffer of the thread's own.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import xxhash

from weftline.burst.errors import CorruptionError
from weftline.burst.files import ALIGN_BYTES, File, Files
from weftline.burst.log.codec import decode
from weftline.burst.log.record import CODEC_RAW, CODEC_XOR, Chunk, Head, unpack_head
from weftline.burst.log.segment import read_segment_header, segment_name
from weftline.burst.stage.arena import aligned_buffer
from weftline.burst.stage.state import Bytes1d

__all__ = ["ChunkReader", "check_payload"]

_local = threading.local()


def _bounce(nbytes: int, slot: int = 0) -> Bytes1d:
    """A page-aligned buffer of this thread, used again by its next call with the same slot."""
    slots: dict[int, Bytes1d] = _local.__dict__.setdefault("slots", {})
    have = slots.get(slot)
    if have is None or len(have) < nbytes:
        have = slots[slot] = aligned_buffer(-(-nbytes // (2 << 20)) * (2 << 20), huge=True)
    return have[:nbytes]


def check_payload(payload: Bytes1d | bytes, chunk: Chunk, *, file: str) -> None:
    """Raise CorruptionError when ``payload`` is not what ``chunk`` stored."""
    if len(payload) != chunk.stored_bytes:
        raise CorruptionError(
            f"{len(payload)} of {chunk.stored_bytes} bytes", file=file,
            offset_bytes=chunk.offset_bytes + chunk.head_bytes,
        )  # fmt: skip
    if xxhash.xxh3_64_intdigest(payload) != chunk.hash:
        raise CorruptionError(
            "payload: checksum does not match", file=file,
            offset_bytes=chunk.offset_bytes + chunk.head_bytes,
        )  # fmt: skip


class ChunkReader:
    """Reads the records of one store. Safe to use from several threads."""

    def __init__(self, files: Files, writers_folder: str, *, direct: bool) -> None:
        self._files = files
        self._folder = writers_folder
        self._direct = direct
        self._open: dict[tuple[str, int], File] = {}
        self._lock = threading.Lock()

    def path(self, writer: str, segment: int) -> str:
        """Path of a segment file."""
        return f"{self._folder}/{writer}/{segment_name(segment)}"

    def file(self, writer: str, segment: int) -> File:
        """The segment, opened for reading; raises StorageError when it is gone."""
        with self._lock:
            file = self._open.get((writer, segment))
            if file is None:
                path = self.path(writer, segment)
                file = self._files.open(path, "r", direct=self._direct)
                self._open[writer, segment] = file
            return file

    def forget(self, writer: str, segment: int) -> None:
        """Open this segment anew the next time."""
        with self._lock:
            self._open.pop((writer, segment), None)

    def close(self) -> None:
        """Close all files."""
        with self._lock:
            for file in self._open.values():
                file.close()
            self._open.clear()

    # --- one record -----------------------------------------------------------------------------

    def stored(self, writer: str, chunk: Chunk, *, verify: bool = True, slot: int = 0) -> Bytes1d:
        """The stored payload, valid until this thread's next call with the same ``slot``.

        Raises CorruptionError with file and offset.
        """
        file = self.file(writer, chunk.segment)
        start = chunk.offset_bytes // ALIGN_BYTES * ALIGN_BYTES
        skip = chunk.offset_bytes - start
        need = skip + chunk.head_bytes + chunk.stored_bytes
        buffer = _bounce(-(-need // ALIGN_BYTES) * ALIGN_BYTES, slot)
        got = file.read_at([memoryview(buffer)], start)
        self._check_head(file, chunk, buffer[skip : min(got, skip + chunk.head_bytes)])
        payload = buffer[skip + chunk.head_bytes : min(got, need)]
        if verify or len(payload) != chunk.stored_bytes:
            check_payload(payload, chunk, file=file.path)
        else:
            self._check_life(file, chunk)
        return payload

    def direct_into(self, writer: str, chunk: Chunk, out: Bytes1d, *, verify: bool) -> bool:
        """Read a large raw chunk without a copy; False when ``out`` or the chunk do not allow it.

        ``out`` starts on a page and has room for whole blocks.
        """
        whole = -(-chunk.stored_bytes // ALIGN_BYTES) * ALIGN_BYTES
        fits = (
            chunk.codec == CODEC_RAW
            and chunk.offset_bytes % ALIGN_BYTES == 0
            and chunk.head_bytes % ALIGN_BYTES == 0
            and len(out) >= whole
            and out.ctypes.data % ALIGN_BYTES == 0
        )
        if not fits:
            return False
        file = self.file(writer, chunk.segment)
        head = _bounce(chunk.head_bytes, 2)
        got = file.read_at([memoryview(head), memoryview(out[:whole])], chunk.offset_bytes)
        self._check_head(file, chunk, head[:got])
        payload = out[: min(chunk.stored_bytes, max(0, got - chunk.head_bytes))]
        if verify or len(payload) != chunk.stored_bytes:
            check_payload(payload, chunk, file=file.path)
        else:
            self._check_life(file, chunk)
        return True

    def raw(
        self, writer: str, chunk: Chunk, width: int, *, verify: bool = True, slot: int = 0
    ) -> Bytes1d:
        """The chunk as the user gave it; may lie in this thread's buffer, as :meth:`stored`."""
        stored = self.stored(writer, chunk, verify=verify, slot=slot)
        return self.decoded(writer, chunk, stored, width, verify=verify)

    def decoded(
        self, writer: str, chunk: Chunk, stored: Bytes1d, width: int, *, verify: bool = True
    ) -> Bytes1d:
        """Undo the codec of a stored payload; bases are read from this store."""
        if chunk.codec == CODEC_RAW:
            return stored
        base = None
        if chunk.codec & CODEC_XOR and chunk.base is not None:
            base = self._base(writer, chunk.base, width, verify=verify)
        path = self.path(writer, chunk.segment)
        raw = decode(chunk.codec, stored, chunk.raw_bytes, width, base, file=path)
        if verify and xxhash.xxh3_64_intdigest(raw) != chunk.raw_hash:
            raise CorruptionError(
                "decoded chunk: checksum does not match", file=path,
                offset_bytes=chunk.offset_bytes,
            )  # fmt: skip
        return raw

    def _base(self, writer: str, chunk: Chunk, width: int, *, verify: bool) -> Bytes1d:
        """The raw bytes of a base: its own bases first, so that no buffer is needed twice."""
        below = None
        if chunk.codec & CODEC_XOR and chunk.base is not None:
            below = self._base(writer, chunk.base, width, verify=verify)
        stored = self.stored(writer, chunk, verify=verify, slot=1 if below is None else 3)
        path = self.path(writer, chunk.segment)
        return decode(chunk.codec, stored, chunk.raw_bytes, width, below, file=path)

    def span(
        self, writer: str, chunks: Sequence[Chunk], *, verify: bool = True
    ) -> Iterator[tuple[int, Bytes1d | CorruptionError]]:
        """Stored payloads of records that stand close together, in one read.

        ``chunks`` are of one segment and sorted by offset. Yields the position in ``chunks`` with
        the payload, or with the error where a record is damaged.
        """
        file = self.file(writer, chunks[0].segment)
        start = chunks[0].offset_bytes // ALIGN_BYTES * ALIGN_BYTES
        last = chunks[-1]
        end = last.offset_bytes + last.head_bytes + last.stored_bytes
        buffer = _bounce(-(-(end - start) // ALIGN_BYTES) * ALIGN_BYTES)
        got = file.read_at([memoryview(buffer)], start)
        for i, chunk in enumerate(chunks):
            at = chunk.offset_bytes - start
            body = at + chunk.head_bytes
            try:
                self._check_head(file, chunk, buffer[at : max(at, min(got, body))])
                payload = buffer[body : max(body, min(got, body + chunk.stored_bytes))]
                if verify or len(payload) != chunk.stored_bytes:
                    check_payload(payload, chunk, file=file.path)
            except CorruptionError as e:
                yield i, e
            else:
                yield i, payload
        if not verify:
            self._check_life(file, chunks[0])

    def head(self, writer: str, chunk: Chunk) -> Head:
        """The head of a record, checked. Raises CorruptionError."""
        file = self.file(writer, chunk.segment)
        start = chunk.offset_bytes // ALIGN_BYTES * ALIGN_BYTES
        skip = chunk.offset_bytes - start
        need = -(-(skip + chunk.head_bytes) // ALIGN_BYTES) * ALIGN_BYTES
        buffer = _bounce(need, 2)
        got = file.read_at([memoryview(buffer)], start)
        return self._check_head(file, chunk, buffer[skip : min(got, skip + chunk.head_bytes)])

    def _check_head(self, file: File, chunk: Chunk, data: Bytes1d) -> Head:
        head = unpack_head(memoryview(data), file=file.path, offset_bytes=chunk.offset_bytes)
        want = (chunk.epoch, chunk.seq, chunk.stored_bytes, chunk.hash, chunk.codec)
        if (head.epoch, head.seq, head.stored_bytes, head.hash, head.codec) != want:
            raise CorruptionError(
                "another record stands here", file=file.path, offset_bytes=chunk.offset_bytes
            )
        return head

    def _check_life(self, file: File, chunk: Chunk) -> None:
        """Without checksums: make sure that the segment was not recycled during the read."""
        if read_segment_header(file).epoch != chunk.epoch:
            raise CorruptionError("the segment was recycled", file=file.path, offset_bytes=0)
