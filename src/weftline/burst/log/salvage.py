"""When the index is damaged: rebuild it from the segments, which say themselves what they hold.

Every record's head names its chunk, and every save leaves a copy of its manifest in the log. The
index is only ever a way to find them faster.
"""

from __future__ import annotations

import msgspec

from weftline.burst.errors import CorruptionError, StorageError
from weftline.burst.files import ALIGN_BYTES, File, Files
from weftline.burst.log.record import Chunk, Head, Prepared, RankManifest, digest_of, unpack_head
from weftline.burst.stage.arena import aligned_buffer

__all__ = ["find_manifests", "scan_segment"]

_READ_BYTES = 1 << 20
_HEAD_MOST = 4 * ALIGN_BYTES


def scan_segment(file: File) -> list[tuple[int, Head]]:
    """Offset and head of every record that stands in a segment, whole or of an earlier life."""
    found: list[tuple[int, Head]] = []
    size = file.size()
    buffer = aligned_buffer(_READ_BYTES + _HEAD_MOST)
    at, base, have = ALIGN_BYTES, -1, 0
    while at + 64 <= size:
        inside = base >= 0 and base <= at and at + _HEAD_MOST <= base + have
        if not inside and not (base >= 0 and base <= at < base + have and base + have >= size):
            base = at // ALIGN_BYTES * ALIGN_BYTES
            have = file.read_at([memoryview(buffer)], base)
            if have <= at - base:
                break
        view = memoryview(buffer)[at - base : have]
        try:
            if bytes(view[:4]) != b"WBR1":
                raise CorruptionError("no head", file=file.path)
            head = unpack_head(view, file=file.path, offset_bytes=at)
        except CorruptionError:
            at = at + ALIGN_BYTES - at % ALIGN_BYTES  # records begin anew at every block
            continue
        found.append((at, head))
        at += head.head_bytes + -(-head.stored_bytes // 64) * 64
    return found


def _chunk_at(segment: int, offset: int, head: Head) -> Chunk:
    return Chunk(
        segment=segment, epoch=head.epoch, offset_bytes=offset, head_bytes=head.head_bytes,
        stored_bytes=head.stored_bytes, raw_bytes=head.raw_bytes, codec=head.codec, seq=head.seq,
        hash=head.hash, raw_hash=head.about.raw_hash, content=head.about.content,
        base=head.about.base,
    )  # fmt: skip


def find_manifests(files: Files, folder: str, wanted: list[Prepared]) -> dict[int, RankManifest]:
    """Save id -> manifest, rebuilt from a writer's segments alone; those that cannot are left out.

    Records are found by their number: one that was moved is taken where it stands now.
    """
    by_seq: dict[int, list[Chunk]] = {}
    copies: dict[int, list[Chunk]] = {}
    opened: dict[int, File] = {}
    try:
        for name in files.list_dir(folder):
            if not (name.startswith("seg-") and name.endswith(".seg")):
                continue
            number = int(name[4:-4])
            try:
                file = opened[number] = files.open(f"{folder}/{name}", "r")
            except StorageError:
                continue
            for offset, head in scan_segment(file):
                chunk = _chunk_at(number, offset, head)
                by_seq.setdefault(head.seq, []).append(chunk)
                if not head.about.name:
                    copies.setdefault(head.about.save_id, []).append(chunk)
        latest = {seq: max(places, key=lambda c: c.epoch) for seq, places in by_seq.items()}
        found: dict[int, RankManifest] = {}
        for rank in wanted:
            for copy in copies.get(rank.save_id, []):
                manifest = _from_copy(opened[copy.segment], copy, latest)
                if manifest is not None and digest_of(manifest.parts) == rank.digest:
                    found[rank.save_id] = manifest
        return found
    finally:
        for file in opened.values():
            file.close()


def _from_copy(file: File, copy: Chunk, latest: dict[int, Chunk]) -> RankManifest | None:
    data = bytearray(copy.stored_bytes)
    file.read_at([memoryview(data)], copy.offset_bytes + copy.head_bytes)
    try:
        manifest = RankManifest.decode(bytes(data), path=file.path)
    except CorruptionError:
        return None
    complete = True

    def now(chunk: Chunk) -> Chunk:
        nonlocal complete
        at = latest.get(chunk.seq)
        if at is None or at.hash != chunk.hash:
            complete = False
            return chunk
        base = None if chunk.base is None else now(chunk.base)
        return msgspec.structs.replace(
            chunk, segment=at.segment, epoch=at.epoch, offset_bytes=at.offset_bytes,
            head_bytes=at.head_bytes, base=base,
        )  # fmt: skip

    parts = [msgspec.structs.replace(p, chunks=[now(c) for c in p.chunks]) for p in manifest.parts]
    seal = msgspec.structs.replace(manifest.seal, copy=copy)
    return RankManifest(seal, parts) if complete else None
