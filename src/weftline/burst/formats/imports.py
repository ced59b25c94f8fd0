"""Checkpoints from elsewhere: loaded without a store of one's own, or copied into one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from weftline.burst.commit.commits import CheckpointInfo, Commit, decode_commit, info_of
from weftline.burst.commit.coordinate import write_commit
from weftline.burst.commit.view import Source, View
from weftline.burst.errors import BurstError, CheckpointMissingError
from weftline.burst.files import ALIGN_BYTES, RealFiles
from weftline.burst.log.reader import ChunkReader
from weftline.burst.log.record import Chunk, PartEntry, Prepared, RankManifest, about_of, chunks_of
from weftline.burst.log.segment import Scope
from weftline.burst.log.writer import WriterLog, prepared_of
from weftline.burst.read.healing import HealingFetch
from weftline.burst.read.restore import Loaded, Piece, load_parts, tensors_of

if TYPE_CHECKING:
    from weftline.burst.store import Store

__all__ = ["import_checkpoint", "load_from"]


def find_commit(sources: Sequence[Source], step: int | None) -> Commit:
    """The commit record of a step, or of the newest checkpoint any source has.

    Raises CheckpointMissingError, with what went wrong on the way.
    """
    found: dict[int, Commit] = {}
    known: set[int] = set()
    trouble: list[str] = []
    for source in sources:
        steps = source.steps()
        known.update(steps)
        for s in steps if step is None else [step]:
            if s in found:
                continue
            try:
                found[s] = decode_commit(source.commit(s), path=f"{source.name}: commit of {s}")
            except (KeyError, FileNotFoundError):
                continue
            except BurstError as e:
                trouble.append(str(e))
    if found:
        return max(found.values(), key=lambda c: c.sequence)
    names = ", ".join(s.name for s in sources)
    what = "no checkpoint" if step is None else f"no checkpoint of step {step}"
    raise CheckpointMissingError(
        what + "".join(f"; {t}" for t in trouble), where=names,
        hint=f"steps there: {', '.join(map(str, sorted(known))) or 'none'}",
    )  # fmt: skip


def load_from(
    sources: Sequence[Source],
    step: int | None = None,
    names: Iterable[str] | None = None,
    into: Mapping[str, Any] | None = None,
    *,
    verify: bool = True,
    threads: int = 4,
    commit: Commit | None = None,
    select: Callable[[Iterable[str]], list[str]] | None = None,
) -> Loaded:
    """Load a checkpoint that only sources have: the first that has a record whole gives it.

    ``commit`` is that checkpoint where it was chosen before; ``select`` picks among its names.
    Other arguments and errors are those of :meth:`Store.load`.
    """
    commit = find_commit(sources, step) if commit is None else commit
    where = sources[0].name
    files = RealFiles()
    view = View(files, where, store_id="", sources=sources)
    fetch = HealingFetch(view, ChunkReader(files, where, direct=False), commit)
    manifests = [view.manifest(commit, r) for r in commit.ranks]
    if select is not None:
        names = select(tensors_of(manifests))
    with ThreadPoolExecutor(threads, thread_name_prefix="burst-load") as pool:
        arrays, dtypes = load_parts(
            manifests, fetch, pool, names=names, into=into, verify=verify,
            where=f"{where}: checkpoint {commit.step}",
        )  # fmt: skip
    extra = manifests[0].seal.extra
    return Loaded(
        step=commit.step, arrays=arrays, dtypes=dtypes,
        extra=msgspec.msgpack.decode(extra) if extra else {},
    )  # fmt: skip


def import_checkpoint(store: Store, source: Source, step: int | None = None) -> CheckpointInfo:
    """Copy a checkpoint from a source into this store, as one of its own, and commit it.

    Every record is checked on the way; all ranks' shares go into this process's log. Raises
    CheckpointMissingError, CorruptionError.
    """
    commit = find_commit([source], step)
    log = store.writing()
    view = View(store.view.files, source.name, store_id="", sources=[source])
    fetch = HealingFetch(view, store.reader, commit)
    prepared: list[Prepared] = []
    begun: list[tuple[int, Scope]] = []
    try:
        for rank in commit.ranks:
            manifest = view.manifest(commit, rank)
            prepared.append(_copy_rank(log, manifest, fetch, begun, store.view.run))
        return info_of(write_commit(store.view, commit.step, prepared, log))
    finally:
        for save_id, scope in begun:
            log.log.end(scope)
            log.in_flight.discard(save_id)


def _copy_rank(
    log: WriterLog,
    manifest: RankManifest,
    fetch: HealingFetch,
    begun: list[tuple[int, Scope]],
    run: str,
) -> Prepared:
    """One rank's records, written and sealed under a save of this log."""
    save_id = log.next_id()
    whole = sum(c.stored_bytes + 2 * ALIGN_BYTES for c in chunks_of(manifest.parts))
    scope = log.log.begin(whole + (1 << 17))
    log.in_flight.add(save_id)
    begun.append((save_id, scope))
    copied: dict[int, Chunk] = {}

    def copy(entry: PartEntry, index: int, chunk: Chunk) -> Chunk:
        have = copied.get(chunk.seq)
        if have is None:
            base = None if chunk.base is None else copy(entry, index, chunk.base)
            data = np.array(fetch.stored(Piece(manifest.seal, entry, index), chunk))
            draft = msgspec.structs.replace(chunk, seq=log.next_id(), base=base)
            have = log.place(scope, draft, about_of(save_id, entry, index, draft), data)
            copied[chunk.seq] = have
        return have

    entries = [
        msgspec.structs.replace(e, chunks=[copy(e, i, c) for i, c in enumerate(e.chunks)])
        for e in manifest.parts
    ]
    seal = msgspec.structs.replace(
        manifest.seal, store_id=log.store_id, writer=log.writer, save_id=save_id, copy=None,
        run=run,
        stored_bytes=sum(c.stored_bytes for c in copied.values()),
    )  # fmt: skip
    own_copy = log.write_copy(RankManifest(seal, entries), scope)
    seal = msgspec.structs.replace(seal, copy=own_copy)
    log.log.sync(scope)
    log.seal(seal, entries)
    return prepared_of(seal)
