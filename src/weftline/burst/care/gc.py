"""Giving space back: retention, freeing dead segments, rewriting those with little left alive.

Order is what makes it safe: newer commits are durable before an older record goes, records are gone
for good before the index marks their saves as dropped, and only when that mark is durable may a
segment be written again. The lock of commits is held to decide, not while the disk is waited for.
Records that are moved are synced and in the index before the place they came from is free.

A segment whose live records will be let go by the next saves anyway is not rewritten: while every
save is whole and the newest few are kept, it frees itself, and moving it would only take the disk
and a core from training.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from weftline.burst.care.recover import borrowed
from weftline.burst.care.retention import (
    dropped_by,
    lasting_saves,
    live_saves,
    unwanted_saves,
)
from weftline.burst.commit.commits import Commit
from weftline.burst.commit.view import View
from weftline.burst.errors import CorruptionError, StorageError
from weftline.burst.files import ALIGN_BYTES
from weftline.burst.log.reader import ChunkReader
from weftline.burst.log.record import Chunk, PartEntry, Seal, chain
from weftline.burst.log.writer import Place, WriterLog
from weftline.burst.options import Retention
from weftline.burst.read.reading import StoreReader
from weftline.burst.stage.state import Bytes1d

__all__ = ["GcReport", "Place", "collect", "collect_log", "relocate"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GcReport:
    """What a collection did."""

    dropped: tuple[int, ...]
    """Steps whose checkpoints are gone."""
    freed_segments: int
    """Segments that may be written again."""
    moved_bytes: int
    """Live records rewritten by compaction."""
    returned_bytes: int
    """Given back to the file system."""


def collect(
    store: StoreReader, retention: Retention, drop: Sequence[int], *, rolling: bool = False
) -> GcReport:
    """Apply retention and ``drop`` to a store, then free and compact what no process holds.

    ``rolling``: the same will be done after the next save, so what that frees need not be moved.
    """
    log = store.writing()
    view = store.view
    seen, _ = view.commits.known()
    again = retention if rolling else None
    if not drop and not dropped_by(seen, retention, view.commits.pins()):
        return collect_log(view, log, store.reader, rolling=again)
    view.commits.sync()  # only a checkpoint that stands for good may let an older one go
    lasting = {(c.step, c.sequence) for c in seen}
    with view.commits.locked():
        commits, _ = view.commits.known()
        pins = view.commits.pins()
        settled = [c for c in commits if (c.step, c.sequence) in lasting]
        steps = dropped_by(settled, retention, pins)
        for step in drop:
            if step not in view.commits.steps():
                raise view.commits.missing(step)
            if step not in steps and step not in pins:
                steps.append(step)
        gone = [c for c in commits if c.step in steps]
        view.commits.remove(sorted(steps))
    reports = [collect_log(view, log, store.reader, gone, rolling=again)]
    if gone:
        others = [w for w in view.writers() if w != log.writer]
        for other in others:
            with borrowed(store, other) as idle:
                if idle is not None:
                    reports.append(collect_log(view, idle, store.reader, gone))
    return GcReport(
        dropped=tuple(sorted(steps)),
        freed_segments=sum(r.freed_segments for r in reports),
        moved_bytes=sum(r.moved_bytes for r in reports),
        returned_bytes=sum(r.returned_bytes for r in reports),
    )


def collect_log(
    view: View,
    log: WriterLog,
    reader: ChunkReader,
    gone: Sequence[Commit] = (),
    *,
    rolling: Retention | None = None,
) -> GcReport:
    """Free and compact one writer's log.

    ``gone``: commits that were just taken away. ``rolling``: what will be kept after each of the
    saves that follow; None when none is expected.
    """
    with log.upkeep:  # one thread at a time: two would rewrite the same segments
        return _collect_log(view, log, reader, gone, rolling or Retention())


def _collect_log(
    view: View, log: WriterLog, reader: ChunkReader, gone: Sequence[Commit], rolling: Retention
) -> GcReport:
    unwanted = _unwanted(view, log, gone)
    if unwanted or gone:
        view.commits.sync()  # the records that are not there any more are gone for good
    if unwanted:
        with view.commits.locked(), log.lock:  # a commit may have come in between
            log.drop(sorted(unwanted & _unwanted(view, log, gone)), sync=False)
        log.index.sync()
    with log.lock:
        if log.index.full:
            log.flush_index()
        freed, returned = _free_dead(log)
        victims = _victims(log, lasting_saves(view, log, rolling))
        moving = _chunks_in(log, victims) if victims else {}
    moved = 0
    if moving:

        def payload(chunk: Chunk) -> Bytes1d:
            return reader.stored(log.writer, chunk)

        try:
            moved = relocate(view, log, list(moving.values()), payload, log.about)
        except StorageError as error:
            if error.errno != errno.ENOSPC:
                raise  # on a full disk nothing is moved; what was dead is free already
        with log.lock:
            again, more = _free_dead(log)
            freed, returned = freed + again, returned + more
    return GcReport(dropped=(), freed_segments=freed, moved_bytes=moved, returned_bytes=returned)


def _unwanted(view: View, log: WriterLog, gone: Sequence[Commit]) -> set[int]:
    """Sealed saves that no commit record names and no coordinator may still commit."""
    with log.lock:
        unwanted = unwanted_saves(view, log)
        taken = {
            r.save_id for c in gone for r in c.ranks
            if r.store_id == view.store_id and r.writer == log.writer
        }  # fmt: skip
        if taken:  # a save may have been committed anew since
            taken -= {
                r.save_id for c in view.commits.known()[0] for r in c.ranks
                if r.store_id == view.store_id and r.writer == log.writer
            }  # fmt: skip
        return unwanted | {save for save in taken if log.seals.get(save) is not None}


def _place(chunk: Chunk) -> Place:
    return chunk.segment, chunk.epoch, chunk.offset_bytes


def _chunks_in(log: WriterLog, segments: set[int]) -> dict[Place, Chunk]:
    """The records that saves have in these segments."""
    saves = [s for s, places in log.places.items() if any(place[0] in segments for place in places)]
    found: dict[Place, Chunk] = {}
    for _, value in log.values(saves):
        for top in value.chunks if isinstance(value, PartEntry) else [value.copy]:
            for c in () if top is None else chain(top):
                if c.segment in segments:
                    found[_place(c)] = c
    return found


def _free_dead(log: WriterLog) -> tuple[int, int]:
    """Free what no save rests on: one is let go by the durable mark and nothing else."""
    if log.frozen:
        return 0, 0
    held = log.log.held()
    dead = [n for n in log.log.segments if n not in log.live_bytes and n not in held]
    spare = log.options.spare_bytes
    if spare is None:
        spare = max(log.largest_bytes + log.largest_bytes // 2, log.log.reserved_bytes)
    return log.log.free(dead, spare_bytes=spare)


def _victims(log: WriterLog, lasting: set[int] | None) -> set[int]:
    """Segments that hold so little that rewriting it pays."""
    if log.frozen:
        return set()
    held = log.log.held()
    found = {
        n for n, size in log.live_bytes.items()
        if n not in held and n in log.log.segments
        and size < log.options.compact_below * log.log.segments[n].capacity_bytes
    }  # fmt: skip
    if lasting is None or not found:
        return found
    stays = {place[0] for save in lasting for place in log.places.get(save, ())}
    return found & stays


def relocate(
    view: View,
    log: WriterLog,
    chunks: Sequence[Chunk],
    payload: Callable[[Chunk], Bytes1d],
    about: Callable[[Chunk], bytes],
) -> int:
    """Write records anew and point the index at them; returns the bytes moved.

    ``payload`` gives the stored bytes of a record, ``about`` the description in its head. A record
    that cannot be had stays where it is.
    """
    whole = sum(c.head_bytes + c.stored_bytes + ALIGN_BYTES for c in chunks)
    scope = log.log.begin(whole)
    moved: dict[Place, Chunk] = {}
    try:
        for chunk in chunks:
            if not log.log.hold(scope, [chunk]):
                continue
            try:
                said, data = about(chunk), payload(chunk)
            except CorruptionError:
                continue
            moved[_place(chunk)] = log.place(scope, chunk, said, data)
        log.log.sync(scope)
        with view.commits.locked(), log.lock:
            alive = live_saves(view, log)
            touched = [
                s for s, places in log.places.items()
                if alive(s) and not moved.keys().isdisjoint(places)
            ]  # fmt: skip
            changed = []
            for key, value in log.values(touched):
                new = _moved_value(value, moved)
                if new is not value:
                    changed.append((key, msgspec.msgpack.encode(new)))
            if changed:
                log.index.append(changed)
                log.forget_places(touched)
            log.forget_moved()
    finally:
        log.log.end(scope)
    return sum(c.head_bytes + c.stored_bytes for c in moved.values())


def _moved_value(value: PartEntry | Seal, moved: dict[Place, Chunk]) -> PartEntry | Seal:
    """The entry with the new places; the same object when nothing of it moved."""

    def new(chunk: Chunk) -> Chunk:
        base = None if chunk.base is None else new(chunk.base)
        to = moved.get(_place(chunk), chunk)
        if to is chunk and base is chunk.base:
            return chunk
        return msgspec.structs.replace(to, base=base)

    if isinstance(value, Seal):
        if value.copy is None or (copy := new(value.copy)) is value.copy:
            return value
        return msgspec.structs.replace(value, copy=copy)
    chunks = [new(c) for c in value.chunks]
    if all(a is b for a, b in zip(chunks, value.chunks, strict=True)):
        return value
    return msgspec.structs.replace(value, chunks=chunks)
