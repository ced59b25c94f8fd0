"""Mending what is damaged, where a whole copy of it can be had."""

from __future__ import annotations

import numpy as np

from weftline.burst.care.gc import relocate
from weftline.burst.commit.commits import Commit
from weftline.burst.commit.identity import Identity
from weftline.burst.errors import BurstError, CorruptionError, StorageError
from weftline.burst.files import write_atomic
from weftline.burst.log.envelope import seal_twice
from weftline.burst.log.record import Chunk, PartEntry, Prepared, about_of
from weftline.burst.read.healing import HealingFetch
from weftline.burst.read.reading import StoreReader
from weftline.burst.read.restore import Piece
from weftline.burst.read.verify import Finding, identity_damage, records_of
from weftline.burst.stage.state import Bytes1d

__all__ = ["repair_store"]


def repair_store(store: StoreReader, step: int | None = None) -> list[Finding]:
    """Mend what can be mended; returns every place that was damaged, and whether it is whole now.

    Damaged records are fetched from the store's sources and written anew; a commit record with
    one damaged copy is rewritten from the other. A writer's index was rebuilt when it was opened.
    """
    view, log = store.view, store.writing()
    before = store.verify(step)
    if identity_damage(view) is not None:
        own_run = "" if view.run == view.store_id else view.run
        identity = seal_twice("S", Identity(view.store_id, own_run))
        write_atomic(view.files, f"{store.root}/BURST", identity)
    for s in view.commits.steps() if step is None else [step]:
        try:
            commit = store.read_commit(s)
        except BurstError:
            continue
        try:
            damaged = view.commits.read(s)[1] is not None
        except CorruptionError:
            damaged = True
        if damaged:
            with view.commits.locked():
                view.commits.put(store.commit_bytes(s), s)
        for rank in commit.ranks:
            if view.is_local(rank) and rank.writer == log.writer:
                _mend_rank(store, commit, rank)
    after = {(f.file, f.offset_bytes, f.step) for f in store.verify(step)}
    return [
        Finding(
            step=f.step, tensor=f.tensor, file=f.file, offset_bytes=f.offset_bytes, what=f.what,
            mended=(f.file, f.offset_bytes, f.step) not in after,
        )
        for f in before
    ]  # fmt: skip


def _mend_rank(store: StoreReader, commit: Commit, rank: Prepared) -> None:
    log = store.writing()
    try:
        manifest = store.view.manifest(commit, rank)
    except BurstError:
        return
    fetch = HealingFetch(store.view, store.reader, commit)
    bad: dict[int, tuple[PartEntry, Chunk]] = {}
    for entry, chunk in records_of(manifest):
        try:
            store.reader.stored(rank.writer, chunk)
        except (CorruptionError, StorageError):
            if entry.name:
                bad[chunk.seq] = entry, chunk
            else:
                log.renew_copy(manifest)

    def payload(chunk: Chunk) -> Bytes1d:
        entry, _ = bad[chunk.seq]
        return np.array(fetch.stored(Piece(manifest.seal, entry, 0), chunk))

    def about(chunk: Chunk) -> bytes:
        entry, _ = bad[chunk.seq]
        index = next(
            (i for i, c in enumerate(entry.chunks) if c.seq == chunk.seq), 0
        )  # a base belongs to an earlier save: its place in that is not known any more
        return about_of(manifest.seal.save_id, entry, index, chunk)

    if bad:
        relocate(store.view, log, [c for _, c in bad.values()], payload, about)
