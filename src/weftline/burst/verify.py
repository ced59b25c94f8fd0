"""Looking for damage, and mending it where a whole copy can be had."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from weftline.burst.commits import Commit
from weftline.burst.envelope import open_either, seal_twice
from weftline.burst.errors import BurstError, CheckpointMissingError, CorruptionError, StorageError
from weftline.burst.files import write_atomic
from weftline.burst.identity import Identity
from weftline.burst.record import Chunk, PartEntry, Prepared, RankManifest, chain
from weftline.burst.restore import Piece
from weftline.burst.salvage import find_manifests
from weftline.burst.segment import read_segment_header
from weftline.burst.state import Bytes1d, dtype_bytes
from weftline.burst.view import HealingFetch, View
from weftline.burst.writer import WriterLog

if TYPE_CHECKING:
    from weftline.burst.reading import StoreReader
    from weftline.burst.store import Store

__all__ = ["Finding", "mend_index", "repair_store", "verify_store"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One place that is not as it was written."""

    step: int | None
    tensor: str | None
    file: str
    offset_bytes: int | None
    what: str
    mended: bool = False
    """Whether :func:`repair_store` put it right."""


def _finding(error: BurstError, *, step: int | None = None, tensor: str | None = None) -> Finding:
    if isinstance(error, CorruptionError):
        return Finding(
            step=error.step if error.step is not None else step, tensor=error.tensor or tensor,
            file=error.file, offset_bytes=error.offset_bytes, what=error.what,
        )  # fmt: skip
    return Finding(
        step=step, tensor=tensor, file=error.where or "", offset_bytes=None, what=error.what
    )


def _ours(view: View, log: WriterLog, commits: list[Commit]) -> list[Prepared]:
    return [
        r for c in commits for r in c.ranks
        if r.store_id == view.store_id and r.writer == log.writer
    ]  # fmt: skip


def mend_index(view: View, log: WriterLog, notices: list[str]) -> None:
    """Before a log is written again: make sure that its index has every committed save.

    What is missing is rebuilt from the segments. While that cannot be done, or a commit record
    cannot be read, the log is frozen: it may grow, and nothing in it is freed or overwritten.
    """
    commits, errors = view.commits.all()
    missing = [r for r in _ours(view, log, commits) if not _whole(log, r)]
    log.frozen = bool(errors)
    notices += [f"{e}; until it is mended or dropped, no space is freed" for e in errors]
    if not missing:
        return
    notices += [str(e) for e in log.index.damage]
    rebuilt = find_manifests(view.files, log.folder, missing)
    for rank in missing:
        manifest = rebuilt.get(rank.save_id)
        if manifest is None:
            log.frozen = True
            notices.append(
                f"{log.folder}: the index of step {rank.step} cannot be rebuilt; nothing is freed"
            )
            continue
        log.mended.append(manifest)
        notices.append(f"{log.folder}: the index of step {rank.step} was rebuilt from segments")


def _whole(log: WriterLog, rank: Prepared) -> bool:
    from weftline.burst.record import digest_of

    try:
        found = log.manifest(rank.save_id)
    except (BurstError, ValueError):
        return False
    return found is not None and digest_of(found.parts) == rank.digest


# --- looking ------------------------------------------------------------------------------------


def verify_store(store: StoreReader, step: int | None) -> list[Finding]:
    """Read and check every commit record, index and record; all damage, never an exception.

    Raises CheckpointMissingError for a ``step`` that is not there.
    """
    view = store.view
    found: list[Finding] = []
    steps = view.commits.steps() if step is None else [step]
    spoilt = _identity_damage(store)
    if spoilt is not None:
        found.append(_finding(spoilt))
    for s in steps:
        try:
            commit, damage = view.commits.read(s)
        except CorruptionError as e:
            found.append(_finding(e, step=s))
            continue
        except CheckpointMissingError:
            if step is not None:
                raise
            continue  # dropped since the folder was listed
        if damage is not None:
            found.append(_finding(damage, step=s))
        found += _verify_commit(store, commit)
    for writer in view.writers():
        found += [_finding(e) for e in view.index(writer, fresh=True).deep_damage()]
    return found


def _identity_damage(store: StoreReader) -> BurstError | None:
    """What is wrong with one of the two copies in ``BURST``; with both the store does not open."""
    path = f"{store.root}/BURST"
    try:
        return open_either("S", store.view.files.read_bytes(path), Identity, path=path)[1]
    except BurstError as e:
        return e


def _verify_commit(store: StoreReader, commit: Commit) -> list[Finding]:
    found: list[Finding] = []
    for rank in commit.ranks:
        if not store.view.is_local(rank):
            continue
        try:
            errors = _verify_rank(store, commit, rank, None)
            if errors:  # compaction may have moved records meanwhile: look where they are now
                errors = _verify_rank(store, commit, rank, set(errors))
        except CheckpointMissingError:
            return []  # dropped meanwhile: what it held may be gone, and should be
        except BurstError as e:
            found.append(_finding(e, step=commit.step))
            continue
        found += [_finding(e, step=commit.step, tensor=name) for name, e in errors.values()]
    return found


def _verify_rank(
    store: StoreReader, commit: Commit, rank: Prepared, only: set[int] | None
) -> dict[int, tuple[str | None, BurstError]]:
    """Number of a record (or minus that of a segment) -> tensor and error.

    ``only`` looks at these, where a fresh index has them.
    """
    if rank.writer in store.view.writers():
        store.view.index(rank.writer, fresh=True)
    manifest = store.view.manifest(commit, rank)
    records = list(_records(manifest))
    jobs = [
        (chunk.seq, entry.name, store.io_pool.submit(_verify_record, store, rank, entry, chunk))
        for entry, chunk in records
        if only is None or chunk.seq in only
    ]
    found: dict[int, tuple[str | None, BurstError]] = {
        seq: (name or None, error) for seq, name, job in jobs if (error := job.result()) is not None
    }
    for segment, epoch in {c.segment: c.epoch for _, c in records}.items():
        if only is None or -segment in only:
            error = _verify_head(store, rank.writer, segment, epoch)
            if error is not None:
                found[-segment] = (None, error)
    return found


def _verify_head(store: StoreReader, writer: str, segment: int, epoch: int) -> BurstError | None:
    try:
        file = store.reader.file(writer, segment)
        if read_segment_header(file).epoch != epoch:
            return CorruptionError("head of another life", file=file.path, offset_bytes=0)
    except (CorruptionError, StorageError) as e:
        return e
    return None


def _records(manifest: RankManifest) -> Iterator[tuple[PartEntry, Chunk]]:
    """Every record of a rank once: its chunks, their bases, and the copy of the manifest."""
    seen: set[int] = set()
    for entry in manifest.parts:
        for top in entry.chunks:
            for chunk in chain(top):
                if chunk.seq not in seen:
                    seen.add(chunk.seq)
                    yield entry, chunk
    copy = manifest.seal.copy
    if copy is not None:
        shape = (copy.raw_bytes,)
        yield PartEntry("", 0, "uint8", shape, shape, (0,), copy.raw_bytes, [copy]), copy


def _verify_record(
    store: StoreReader, rank: Prepared, entry: PartEntry, chunk: Chunk
) -> BurstError | None:
    try:
        store.reader.raw(rank.writer, chunk, dtype_bytes(entry.dtype))
    except (CorruptionError, StorageError) as e:
        return e
    return None


# --- mending ------------------------------------------------------------------------------------


def repair_store(store: Store, step: int | None = None) -> list[Finding]:
    """Mend what can be mended; returns every place that was damaged, and whether it is whole now.

    Damaged records are fetched from the store's sources and written anew; a commit record with
    one damaged copy is rewritten from the other. A writer's index was rebuilt when it was opened.
    """
    view, log = store.view, store.writing()
    before = verify_store(store, step)
    if _identity_damage(store) is not None:
        identity = seal_twice("S", Identity(view.store_id))
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
                write_atomic(view.files, view.commits.path(s), seal_twice("K", commit))
        for rank in commit.ranks:
            if view.is_local(rank) and rank.writer == log.writer:
                _mend_rank(store, commit, rank)
    after = {(f.file, f.offset_bytes, f.step) for f in verify_store(store, step)}
    return [
        Finding(
            step=f.step, tensor=f.tensor, file=f.file, offset_bytes=f.offset_bytes, what=f.what,
            mended=(f.file, f.offset_bytes, f.step) not in after,
        )
        for f in before
    ]  # fmt: skip


def _mend_rank(store: Store, commit: Commit, rank: Prepared) -> None:
    from weftline.burst.gc import relocate

    log = store.writing()
    try:
        manifest = store.view.manifest(commit, rank)
    except BurstError:
        return
    fetch = HealingFetch(store.view, store.reader, commit)
    bad: dict[int, tuple[PartEntry, Chunk]] = {}
    for entry, chunk in _records(manifest):
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
        from weftline.burst.record import about_of

        entry, _ = bad[chunk.seq]
        index = next(
            (i for i, c in enumerate(entry.chunks) if c.seq == chunk.seq), 0
        )  # a base belongs to an earlier save: its place in that is not known any more
        return about_of(manifest.seal.save_id, entry, index, chunk)

    if bad:
        relocate(store.view, log, [c for _, c in bad.values()], payload, about)
