"""Looking for damage: every commit record, index and record is read and checked."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from weftline.burst.commit.commits import Commit
from weftline.burst.commit.identity import Identity
from weftline.burst.commit.view import View
from weftline.burst.errors import BurstError, CheckpointMissingError, CorruptionError, StorageError
from weftline.burst.log.envelope import open_either
from weftline.burst.log.reader import ChunkReader
from weftline.burst.log.record import Chunk, PartEntry, Prepared, RankManifest, chain
from weftline.burst.log.segment import read_segment_header
from weftline.burst.log.small import shown
from weftline.burst.read.healing import HealingFetch
from weftline.burst.read.restore import Piece
from weftline.burst.stage.state import dtype_bytes

__all__ = ["Finding", "finding_of", "identity_damage", "records_of", "verify_view"]


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


def finding_of(error: BurstError, *, step: int | None = None, tensor: str | None = None) -> Finding:
    """What an error says, as a place that is not as it was written."""
    if isinstance(error, CorruptionError):
        return Finding(
            step=error.step if error.step is not None else step, tensor=error.tensor or tensor,
            file=error.file, offset_bytes=error.offset_bytes, what=error.what,
        )  # fmt: skip
    return Finding(
        step=step, tensor=tensor, file=error.where or "", offset_bytes=None, what=error.what
    )


def verify_view(
    view: View, reader: ChunkReader, pool: ThreadPoolExecutor, step: int | None
) -> list[Finding]:
    """Read and check every commit record, index and record; all damage, never an exception.

    Raises CheckpointMissingError for a ``step`` that is not there.
    """
    found: list[Finding] = []
    steps = view.commits.steps() if step is None else [step]
    spoilt = identity_damage(view)
    if spoilt is not None:
        found.append(finding_of(spoilt))
    for s in steps:
        try:
            commit, damage = view.commits.read(s)
        except CorruptionError as e:
            found.append(finding_of(e, step=s))
            continue
        except CheckpointMissingError:
            if step is not None:
                raise
            continue  # dropped since the folder was listed
        if damage is not None:
            found.append(finding_of(damage, step=s))
        found += _verify_commit(view, reader, pool, commit)
    for writer in view.writers():
        found += [finding_of(e) for e in view.index(writer, fresh=True).deep_damage()]
    return found


def identity_damage(view: View) -> BurstError | None:
    """What is wrong with one of the two copies in ``BURST``; with both the store does not open."""
    path = f"{view.root}/BURST"
    try:
        return open_either("S", view.files.read_bytes(path), Identity, path=path)[1]
    except BurstError as e:
        return e


def _verify_commit(
    view: View, reader: ChunkReader, pool: ThreadPoolExecutor, commit: Commit
) -> list[Finding]:
    found: list[Finding] = []
    for rank in commit.ranks:
        try:
            if not view.is_local(rank):
                found += _verify_elsewhere(view, reader, commit, rank)
                continue
            errors = _verify_rank(view, reader, pool, commit, rank, None)
            if errors:  # compaction may have moved records meanwhile: look where they are now
                errors = _verify_rank(view, reader, pool, commit, rank, set(errors))
        except CheckpointMissingError:
            return []  # dropped meanwhile: what it held may be gone, and should be
        except BurstError as e:
            found.append(finding_of(e, step=commit.step))
            continue
        found += [finding_of(e, step=commit.step, tensor=name) for name, e in errors.values()]
    return found


def _verify_elsewhere(
    view: View, reader: ChunkReader, commit: Commit, rank: Prepared
) -> list[Finding]:
    """A rank that was saved to another store: whether the sources have all of it, as a load asks.

    Raises CorruptionError where no source has its manifest.
    """
    manifest = view.manifest(commit, rank)
    fetch = HealingFetch(view, reader, commit)
    found = []
    for entry, chunk in records_of(manifest):
        if not entry.name:
            continue  # the log's own copy of the manifest, which was had without it
        try:
            fetch.stored(Piece(manifest.seal, entry, 0), chunk)
        except CorruptionError as e:
            found.append(finding_of(e, step=commit.step, tensor=shown(entry)))
    return found


def _verify_rank(
    view: View,
    reader: ChunkReader,
    pool: ThreadPoolExecutor,
    commit: Commit,
    rank: Prepared,
    only: set[int] | None,
) -> dict[int, tuple[str | None, BurstError]]:
    """Number of a record (or minus that of a segment) -> tensor and error.

    ``only`` looks at these, where a fresh index has them.
    """
    if rank.writer in view.writers():
        view.index(rank.writer, fresh=True)
    manifest = view.manifest(commit, rank)
    records = list(records_of(manifest))
    jobs = [
        (chunk.seq, shown(entry), pool.submit(_verify_record, reader, rank, entry, chunk))
        for entry, chunk in records
        if only is None or chunk.seq in only
    ]
    found: dict[int, tuple[str | None, BurstError]] = {
        seq: (name or None, error) for seq, name, job in jobs if (error := job.result()) is not None
    }
    for segment, epoch in {c.segment: c.epoch for _, c in records}.items():
        if only is None or -segment in only:
            error = _verify_head(reader, rank.writer, segment, epoch)
            if error is not None:
                found[-segment] = (None, error)
    return found


def _verify_head(reader: ChunkReader, writer: str, segment: int, epoch: int) -> BurstError | None:
    try:
        file = reader.file(writer, segment)
        if read_segment_header(file).epoch != epoch:
            return CorruptionError("head of another life", file=file.path, offset_bytes=0)
    except (CorruptionError, StorageError) as e:
        return e
    return None


def records_of(manifest: RankManifest) -> Iterator[tuple[PartEntry, Chunk]]:
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
    reader: ChunkReader, rank: Prepared, entry: PartEntry, chunk: Chunk
) -> BurstError | None:
    try:
        reader.raw(rank.writer, chunk, dtype_bytes(entry.dtype))
    except (CorruptionError, StorageError) as e:
        return e
    return None
