"""The read side of a store: what there is, loading it, checking it. Takes no lock."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import msgspec
import numpy as np

from weftline.burst.commit.commits import (
    CheckpointInfo,
    Commit,
    check_step,
    decode_commit,
    info_of,
    whole_record,
)
from weftline.burst.commit.view import RecordId, View, record_id
from weftline.burst.errors import (
    BurstError,
    CheckpointMissingError,
    CorruptionError,
    MismatchError,
    TensorMissingError,
)
from weftline.burst.files import Files
from weftline.burst.log.reader import ChunkReader
from weftline.burst.log.record import RankManifest, chunks_of
from weftline.burst.log.writer import WriterLog, prepared_of
from weftline.burst.options import Options
from weftline.burst.read.healing import HealingFetch
from weftline.burst.read.restore import Array, Loaded, Target, TensorInfo, load_parts, tensors_of
from weftline.burst.read.verify import Finding, finding_of, verify_view
from weftline.burst.stage.state import view_dtype

__all__ = ["StoreReader"]


class StoreReader:
    """What both a writing and a read-only store can do."""

    def __init__(self, root: str, view: View, files: Files, options: Options) -> None:
        self.root = root
        self.view = view
        self.options = options
        self.notices: list[str] = []
        """What did not go as asked but does no harm."""
        self.log: WriterLog | None = None
        """This process's own log; None when read-only."""
        self._closed = False
        self._process = os.getpid()
        self.reader = ChunkReader(files, view.writers_folder, direct=options.direct)
        self.io_pool = ThreadPoolExecutor(options.io_threads, thread_name_prefix="burst-io")
        self._lock = threading.RLock()
        self._counters: dict[str, float] = dict.fromkeys(
            ("saves", "saves_failed", "upkeep_failed", "commits", "stall_s", "queue_wait_s",
             "durable_s", "raw_bytes", "stored_bytes", "loads", "loaded_bytes",
             "repaired_records", "copies_failed"), 0.0
        )  # fmt: skip

    # --- writing --------------------------------------------------------------------------------

    def writing(self) -> WriterLog:
        """The log this process writes. Raises MismatchError when there is none."""
        self._check_process()
        if self.log is None or self._closed:
            raise MismatchError(
                "the store is closed" if self._closed else "the store is open read-only",
                where=self.root,
                hint="open it again to write",
            )
        return self.log

    def _check_process(self) -> None:
        """A forked child has no threads of ours and would wait for them for ever."""
        if os.getpid() != self._process:
            raise MismatchError(
                f"the store was opened by process {self._process}, and this is a child of it",
                where=self.root, hint="open the store in the process that uses it",
            )  # fmt: skip

    # --- looking ----------------------------------------------------------------------------------

    def checkpoints(self) -> list[CheckpointInfo]:
        """Every committed checkpoint, oldest commit first."""
        commits, _ = self.view.commits.all()
        pins = self.view.commits.pins()
        return [info_of(c, pins.get(c.step, ())) for c in commits]

    def read_commit(self, step: int | None = None, *, allow_older: bool = False) -> Commit:
        """The commit record of a step, or of the newest checkpoint. A source may stand in.

        This is what "the newest" means everywhere: the last commit, whatever its step. Raises
        CheckpointMissingError, or CorruptionError when a record cannot be read and no source has
        it: a damaged newest checkpoint is never passed over in silence, but with ``allow_older``,
        which takes the newest that can be read and notes what it passed over.
        """
        if step is not None:
            check_step(step, where=self.root)
            return self._commit_of(step)
        commits, errors = self.view.commits.all()
        for error in errors:
            if isinstance(error, CorruptionError) and error.step is not None:
                try:
                    commits.append(self._commit_of(error.step))
                except CorruptionError as damage:
                    if not allow_older:
                        raise
                    self.note(f"passed over: {damage.where}: {damage.what}")
        if not commits:
            raise self.view.commits.missing(None)
        return max(commits, key=lambda c: c.order)

    def next_step(self) -> int:
        """A step above every one that has a record, whether it can be read or not."""
        return 1 + max(self.view.commits.steps(), default=-1)

    def damaged(self) -> list[Finding]:
        """Commit records that cannot be read here: checkpoints that no listing can show."""
        return [finding_of(e) for e in self.view.commits.all()[1]]

    def count(self, name: str) -> None:
        """Add one to a counter."""
        with self._lock:
            self._counters[name] += 1

    def note(self, notice: str) -> None:
        """Add a notice, once."""
        if notice not in self.notices:
            self.notices.append(notice)

    def _commit_of(self, step: int) -> Commit:
        try:
            commit, damage = self.view.commits.read(step)
        except (CorruptionError, CheckpointMissingError) as error:
            try:
                return decode_commit(self._record_afar(step))
            except CheckpointMissingError:
                raise error from None
        if damage is not None and str(damage) not in self.notices:
            self.notices.append(str(damage))
        return commit

    def _record_afar(self, step: int) -> bytes:
        """A commit record of this run from a source. Raises CheckpointMissingError."""
        for source in self.view.sources:
            try:
                record = source.commit(step)
                commit = decode_commit(record, path=source.name)
            except (KeyError, FileNotFoundError, BurstError):
                continue
            if (commit.run or commit.store_id) == self.view.run:
                return record
        raise self.view.commits.missing(step)

    def manifests(self, commit: Commit, ranks: Iterable[int] | None = None) -> list[RankManifest]:
        """The manifests of a checkpoint's ranks (all by default). Raises CorruptionError.

        Those of other nodes are asked for side by side: one after the other, each waits for a
        journey there and back.
        """
        wanted = None if ranks is None else set(ranks)
        chosen = [r for r in commit.ranks if wanted is None or r.rank in wanted]
        if sum(not self.view.is_local(r) for r in chosen) < 2:
            return [self.view.manifest(commit, r) for r in chosen]
        return list(self.io_pool.map(partial(self.view.manifest, commit), chosen))

    def tensors(self, step: int | None = None) -> dict[str, TensorInfo]:
        """What a checkpoint holds, by name."""
        return tensors_of(self.manifests(self.read_commit(step)))

    # --- loading ----------------------------------------------------------------------------------

    def load(
        self,
        step: int | None = None,
        names: Iterable[str] | None = None,
        into: Mapping[str, Array | Target] | None = None,
        *,
        verify: bool = True,
        ranks: Iterable[int] | None = None,
        allow_older: bool = False,
    ) -> Loaded:
        """Tensors of a checkpoint, the newest by default.

        ``names`` picks some; ``into`` gives memory, whole tensors or blocks of them, and is filled
        in place. Only what is needed is read. ``verify=False`` skips checksums of payloads. Where
        the newest is damaged, ``allow_older`` takes the one before it, and so on; ``step`` of what
        is returned, and the store's notices, say so.

        Raises CheckpointMissingError, TensorMissingError, MismatchError before anything is read,
        and CorruptionError (checkpoint, tensor, file, offset) for damage that no source can mend.
        """
        names = None if names is None else list(names)
        ranks = None if ranks is None else set(ranks)
        commit = self.read_commit(step, allow_older=allow_older)
        while True:
            try:
                return self._load_commit(commit, names, into, verify=verify, ranks=ranks)
            except CheckpointMissingError:
                # The newest may be dropped while it is read: then there is a newer one.
                newest = self.read_commit(allow_older=allow_older)
                if step is not None or newest.order == commit.order:
                    raise
                commit = newest
            except CorruptionError as damage:
                older = self._before(commit) if step is None and allow_older else None
                if older is None:
                    raise
                self.note(f"passed over: {damage.where}: {damage.what}")
                commit = older

    def _before(self, commit: Commit) -> Commit | None:
        """The checkpoint committed before this one, of those that can be read."""
        older = [c for c in self.view.commits.all()[0] if c.order < commit.order]
        return max(older, key=lambda c: c.order, default=None)

    def _load_commit(
        self,
        commit: Commit,
        names: Iterable[str] | None,
        into: Mapping[str, Array | Target] | None,
        *,
        verify: bool,
        ranks: Iterable[int] | None,
    ) -> Loaded:
        self._check_process()
        manifests = self.manifests(commit, ranks)
        fetch = HealingFetch(self.view, self.reader, commit)
        arrays, dtypes = load_parts(
            manifests, fetch, self.io_pool, names=names, into=into, verify=verify,
            where=f"{self.root}: checkpoint {commit.step}",
        )  # fmt: skip
        extra = manifests[0].seal.extra if manifests else b""
        with self._lock:
            self._counters["loads"] += 1
            self._counters["loaded_bytes"] += sum(a.nbytes for a in arrays.values())
            self._counters["repaired_records"] += len(fetch.repaired)
        return Loaded(
            step=commit.step, arrays=arrays, dtypes=dtypes,
            extra=msgspec.msgpack.decode(extra) if extra else {}, repaired=fetch.repaired,
        )  # fmt: skip

    def read(
        self,
        step: int | None,
        name: str,
        offsets: Sequence[int] | None = None,
        shape: Sequence[int] | None = None,
        *,
        verify: bool = True,
    ) -> Array:
        """One tensor, or the block of ``shape`` at ``offsets`` of it."""
        infos = self.tensors(step)
        if name not in infos:
            raise TensorMissingError(name, infos, where=self.root)
        info = infos[name]
        at = tuple(offsets) if offsets is not None else (0,) * len(info.shape)
        size = (
            tuple(shape)
            if shape is not None
            else tuple(w - o for w, o in zip(info.shape, at, strict=True))
        )
        if any(n < 0 for n in size):
            raise MismatchError(
                f"`{name}` has shape {info.shape}; {at} is outside", where=self.root
            )
        out = np.empty(size, view_dtype(info.dtype))
        self.load(step, [name], {name: Target(data=out, offsets=at)}, verify=verify)
        return out

    def verify(self, step: int | None = None) -> list[Finding]:
        """Read and check everything of a checkpoint (or of all); damage is listed, never raised."""
        return verify_view(self.view, self.reader, self.io_pool, step)

    # --- for drain and peers ----------------------------------------------------------------------

    def commit_bytes(self, step: int) -> bytes:
        """A commit record as it stands on disk, checked."""
        try:
            return self.view.commits.record(step)
        except CorruptionError:
            return whole_record(self._record_afar(step))

    def manifest(self, step: int, rank: int) -> RankManifest:
        """One rank's manifest."""
        commit = self.read_commit(step)
        found = self.manifests(commit, [rank])
        if not found:
            raise MismatchError(f"checkpoint {step} has no rank {rank}", where=self.root)
        return found[0]

    def records(self, manifest: RankManifest) -> Iterator[RecordId]:
        """Every record a manifest rests on, once, in the order of the log."""
        chunks = {c.seq: c for c in chunks_of(manifest.parts)}
        rank = prepared_of(manifest.seal)
        for c in sorted(chunks.values(), key=lambda c: (c.segment, c.offset_bytes)):
            yield record_id(rank, c)

    def read_record(self, manifest: RankManifest, record: RecordId) -> bytes:
        """A stored payload of this store, checked. Raises CorruptionError."""
        chunk = next(c for c in chunks_of(manifest.parts) if c.seq == record.seq)
        found: bytes = self.reader.stored(record.writer, chunk).tobytes()
        return found
