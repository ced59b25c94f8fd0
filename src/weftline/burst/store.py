"""A checkpoint store: save without stopping, commit whole or not at all, load what was written.

with Store.open("ckpt") as store:
    handle = store.save({"w": array}, step=100)   # returns after the copy
    handle.wait()                                   # durable and committed
    state = store.load()                            # the newest, every byte checked
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from weftline.burst.care import gc
from weftline.burst.care.gc import GcReport
from weftline.burst.care.recover import borrowed, open_log
from weftline.burst.care.upkeep import Upkeep
from weftline.burst.commit.commits import CheckpointInfo, Commit, check_step, info_of
from weftline.burst.commit.coordinate import adopt, await_ranks, pack_extra, write_commit
from weftline.burst.commit.identity import join_run, open_identity
from weftline.burst.commit.view import Source, View
from weftline.burst.errors import BurstError, CommitError, MismatchError
from weftline.burst.files import Files, RealFiles, local_folder
from weftline.burst.handle import SaveHandle
from weftline.burst.handover import Copier, Handover
from weftline.burst.log.record import Prepared
from weftline.burst.log.small import fold
from weftline.burst.log.writer import WriterLog
from weftline.burst.options import Options, Retention
from weftline.burst.read.reading import StoreReader
from weftline.burst.session import Request, SaveSession
from weftline.burst.stage.arena import (
    Arena,
    ArenaPool,
    Lease,
    copy_pairs,
    copy_parts,
    rooms_for,
)
from weftline.burst.stage.copying import make_ready
from weftline.burst.stage.state import Bytes1d, Part, State, check_word, parts_of

__all__ = ["Store"]

_STREAM_BYTES: Final = 64 << 20
"""From here on the compiled copy is worth its making."""
_NO_STREAM: Final = (
    "llvmlite has no code for this machine: states are copied by plain stores and hashed later, "
    "and saves stall longer"
)


class Store(StoreReader):
    """One folder of checkpoints. Made by :meth:`open`; usable from several threads."""

    def __init__(self, root: str, view: View, files: Files, options: Options) -> None:
        super().__init__(root, view, files, options)
        self._files = files
        self._savers = ThreadPoolExecutor(options.max_in_flight, thread_name_prefix="burst-save")
        self._copiers = (
            ThreadPoolExecutor(options.copy_threads - 1, thread_name_prefix="burst-copy")
            if options.copy_threads > 1
            else None
        )
        self._arenas = ArenaPool(options.max_in_flight, pinner=options.pinner)
        self._upkeep = Upkeep(self._keep_up)
        self._handover = Handover(self, None)
        self._handles: list[SaveHandle] = []
        self._running: list[Future[None]] = []

    # --- opening ----------------------------------------------------------------------------------

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        writer: str = "w0",
        create: bool = True,
        read_only: bool = False,
        options: Options | None = None,
        files: Files | None = None,
        sources: Sequence[Source] = (),
        run: str | None = None,
        copier: Copier | None = None,
    ) -> Store:
        """Open or create the store in a folder.

        ``writer`` names this process's own log: processes that write at once need names of their
        own. ``file://`` is a folder as well. ``run`` names the job whose checkpoints these are,
        the same on every node that has a store of its own; by default the store is a run by itself.
        ``copier`` keeps copies of what is saved on other nodes. Raises NotAStoreError (for any
        other URL, too), NewerFormatError, StoreBusyError, BadNameError, StorageError, and
        MismatchError for the store of another run.
        """
        files = RealFiles() if files is None else files
        options = Options() if options is None else options
        root = str(local_folder(path).resolve())
        check_word(writer, what="writer name")
        identity, notice = open_identity(files, root, create=create and not read_only)
        view = View(files, root, store_id=identity.store_id, sources=sources, run=identity.run)
        store = cls(root, view, files, options)
        store._handover = Handover(store, copier)
        if notice is not None:
            store.notices.append(notice)
        try:
            if not read_only:
                store.log = open_log(store, writer)
            if run is not None:
                store.join(run)
        except BaseException:
            store._shut()
            raise
        return store

    def join(self, run: str) -> None:
        """Belong to this run from now on.

        Raises MismatchError when the store has checkpoints of another.
        """
        if run == self.view.run:
            return
        with self.view.commits.locked():
            identity = open_identity(self._files, self.root, create=False)[0]
            self.view.run = join_run(self._files, self.root, identity, run).run

    @contextmanager
    def borrowed(self, writer: str) -> Iterator[WriterLog | None]:
        """Another writer's log while no process holds it; None when one does."""
        with borrowed(self, writer) as log:
            yield log

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        try:
            self.close()
        except BurstError:
            if error is None:
                raise

    # --- saving -----------------------------------------------------------------------------------

    def reserve(self, state_bytes: int) -> None:
        """Get memory and disk blocks ready, so that the first saves run at full speed."""
        self._ready_copies(state_bytes)
        self._arenas.reserve(state_bytes)
        self.writing().log.reserve(2 * state_bytes)

    def save(
        self,
        state: State,
        step: int,
        *,
        rank: int = 0,
        world: int = 1,
        attempt: str = "",
        extra: Mapping[str, Any] | None = None,
        wait: bool = False,
        lease: Lease | None = None,
    ) -> SaveHandle:
        """Take a copy of ``state`` and write it in the background.

        Returns after the copy; the state may then change. With ``world`` 1 the checkpoint is
        committed when it is durable; otherwise it is prepared, and :meth:`commit` makes it whole.
        At most ``max_in_flight`` saves are staged: a further one waits, and says how long. If an
        earlier save failed and nobody asked, its error is raised here, once. What lies in the
        memory of ``lease`` is written from there; the lease ends with the save.

        Raises BadNameError, MismatchError before anything is written.
        """
        self._raise_unseen()
        log = self.writing()
        check_step(step, where=self.root)
        if not 0 <= rank < world:
            raise MismatchError(f"rank {rank} of a world of {world}", where=self.root)
        parts = parts_of(state, where=self.root)
        request = Request(
            step=step,
            rank=rank,
            world=world,
            attempt=attempt,
            extra=pack_extra(extra, self.root),
            run=self.view.run,
        )
        start = time.perf_counter()
        arena, waited = self._arenas.acquire() if lease is None else lease.end()
        handle = SaveHandle(step=step, rank=rank, raw_bytes=sum(p.nbytes for p in parts))
        handle.queue_wait_s = waited
        try:
            session = self._stage(log, request, parts, arena, lease)
        except BaseException:
            self._arenas.release(arena)
            raise
        handle.stall_s = time.perf_counter() - start - waited
        with self._lock:
            self._handles = [h for h in self._handles if not h.done or h.unseen]
            self._handles.append(handle)
            self._running = [f for f in self._running if not f.done()]
            self._running.append(
                self._savers.submit(self._finish, session, request, arena, handle, start)
            )
        return handle.wait() if wait else handle

    def lend(self, nbytes: int) -> Lease:
        """Staging memory for who copies a state himself, until the save that it is given to.

        Waits, as :meth:`save`, while ``max_in_flight`` saves are staged.
        """
        self.writing()
        self._ready_copies(nbytes)  # what LLVM takes for a moment must not come on top of the state
        return Lease(self._arenas, nbytes)

    def copy_into(self, lease: Lease, pairs: Sequence[tuple[Bytes1d, Bytes1d]]) -> None:
        """Copy bytes in host memory into a lease, from second to first, as :meth:`save` stages."""
        size = self.options.chunk_bytes

        def staged(pair: int, chunk: int, hash_: int) -> None:
            lease.hashed(pairs[pair][0][chunk * size : (chunk + 1) * size], hash_)

        copy_pairs(
            pairs, self._copiers, threads=self.options.copy_threads, chunk_bytes=size,
            staged=staged,
        )  # fmt: skip

    def follow(self, handle: SaveHandle, future: Future[None]) -> None:
        """Have :meth:`wait` and :meth:`close` wait for what follows a save, too."""
        with self._lock:
            self._handles.append(handle)
            self._running.append(future)

    def _stage(
        self,
        log: WriterLog,
        request: Request,
        parts: Sequence[Part],
        arena: Arena,
        lease: Lease | None,
    ) -> SaveSession:
        """Copy the whole state, or what is not staged; little is written before that is done.

        Writers take memory bandwidth and cores from the copy, and training waits for that.
        """
        self._ready_copies(sum(p.nbytes for p in parts))
        parts, layout = fold(parts, self.options.chunk_bytes)
        only: list[int] | None = None
        if lease is None:
            rooms = rooms_for(parts, arena)
        else:
            rooms, only = lease.rooms_for(parts)
        session = SaveSession(log, self.io_pool, request, parts, rooms, layout)
        if lease is not None:
            session.take_hashes(lease.hash_of)
        try:
            copy_parts(
                parts, rooms, self._copiers, threads=self.options.copy_threads,
                chunk_bytes=self.options.chunk_bytes, staged=session.staged, only=only,
            )  # fmt: skip
        except BaseException:
            session.abort()
            raise
        return session

    def _ready_copies(self, nbytes: int) -> None:
        """Have the streaming copy, once a state is large enough for it."""
        if nbytes >= _STREAM_BYTES and not make_ready() and _NO_STREAM not in self.notices:
            self.notices.append(_NO_STREAM)

    def _finish(
        self,
        session: SaveSession,
        request: Request,
        arena: Arena,
        handle: SaveHandle,
        start: float,
    ) -> None:
        """The background half of a save."""
        try:
            try:
                self._upkeep.settle_running()  # space that is being freed is written again
                entries = session.write()
            finally:
                self._arenas.release(arena)
            handle.prepared = self._handover.prepared(session.seal(entries))
            handle.stored_bytes = handle.prepared.stored_bytes
            if request.world == 1:
                self._commit(request.step, [handle.prepared])
                handle.committed = True
        except BaseException as e:
            handle.error = e
        session.end()
        handle.finish(time.perf_counter() - start)
        self._count(handle)
        self._upkeep.request(committed=handle.committed)

    def _keep_up(self, committed: bool) -> None:
        """Retention and free space; a failure here harms no checkpoint, and is noted."""
        retention = self.options.retention
        try:
            if committed and retention is not None:
                gc.collect(self, retention, (), rolling=True)
            else:
                gc.collect_log(self.view, self.writing(), self.reader, rolling=retention)
        except BurstError as e:
            self.count("upkeep_failed")
            self.notices.append(f"upkeep: {e}")

    def prepare(
        self,
        state: State,
        step: int,
        *,
        rank: int = 0,
        world: int = 1,
        attempt: str = "",
        extra: Mapping[str, Any] | None = None,
        lease: Lease | None = None,
    ) -> Prepared:
        """Save one rank's share and wait until it is durable; it is not committed for world > 1."""
        handle = self.save(
            state,
            step,
            rank=rank,
            world=world,
            attempt=attempt,
            extra=extra,
            wait=True,
            lease=lease,
        )
        if handle.prepared is None:
            raise CommitError(f"step {step} was not prepared", where=self.root)
        return handle.prepared

    def _count(self, handle: SaveHandle) -> None:
        with self._lock:
            c = self._counters
            c["saves_failed" if handle.error else "saves"] += 1
            for name in ("stall_s", "queue_wait_s", "durable_s", "raw_bytes", "stored_bytes"):
                c[name] += getattr(handle, name)

    def _raise_unseen(self) -> None:
        with self._lock:
            failed = [h for h in self._handles if h.done and h.unseen]
        for handle in failed:
            handle.wait()

    # --- committing -------------------------------------------------------------------------------

    def commit(
        self,
        step: int,
        *,
        prepared: Sequence[Prepared] | None = None,
        world: int | None = None,
        attempt: str = "",
        timeout_s: float = 600.0,
    ) -> CheckpointInfo:
        """Make a checkpoint whole: the record that names every rank's share, durable.

        Give the ``prepared`` of all ranks (gathered by any means), or ``world`` and ``attempt`` to
        wait for ranks that save to this same store; ``attempt`` must then be new for every try, so
        that shares of an earlier, broken try are never taken. Where nodes have stores of their own,
        call it once on each, with the same ``prepared``: all write the same record. Retention
        follows in the background. Raises CommitError.
        """
        self.writing()
        check_step(step, where=self.root)
        if prepared is None:
            if world is None or not attempt:
                raise CommitError(
                    "to find the ranks of a checkpoint, `world` and `attempt` are needed",
                    where=self.root,
                    hint="give an attempt that is new for every run, or pass prepared=[...]",
                )
            prepared = await_ranks(self.view, step, world, attempt, timeout_s)
        info = info_of(self._commit(step, prepared))
        self._upkeep.request(committed=True)
        return info

    def adopt(self, record: bytes) -> CheckpointInfo:
        """Take a commit record that another node of this run has made; the same bytes stand here.

        Raises MismatchError for another run's, CommitError where the step was committed since.
        """
        self.writing()
        info = info_of(self._committed(adopt(self.view, record)))
        self._upkeep.request(committed=True)
        return info

    def _commit(self, step: int, prepared: Sequence[Prepared]) -> Commit:
        assert self.log is not None  # noqa: S101  (both callers have asked for it)
        return self._committed(write_commit(self.view, step, prepared, self.log))

    def _committed(self, commit: Commit) -> Commit:
        self.count("commits")
        self._handover.committed(commit)
        return commit

    # --- upkeep -----------------------------------------------------------------------------------

    def gc(self, retention: Retention | None = None, drop: Iterable[int] = ()) -> GcReport:
        """Drop what retention lets go, and the steps in ``drop``; free and compact segments.

        Pinned checkpoints stay. Raises CheckpointMissingError for a step that is not there.
        """
        return gc.collect(self, retention or Retention(), tuple(drop))

    def pin(self, step: int, owner: str = "user") -> None:
        """Keep a checkpoint whatever retention says."""
        self.view.commits.pin(step, owner)

    def unpin(self, step: int, owner: str = "user") -> None:
        """Let go of a pin."""
        self.view.commits.unpin(step, owner)

    def stats(self) -> dict[str, float]:
        """Counters since the store was opened; seconds and bytes, by name."""
        with self._lock:
            found = dict(self._counters)
            found["queue"] = float(sum(not h.done for h in self._handles))
        found["arena_bytes"] = float(self._arenas.nbytes)
        return found

    # --- ending -----------------------------------------------------------------------------------

    def wait(self) -> None:
        """Until every save in flight, and the upkeep after it, has ended.

        Raises the first error that nobody has seen.
        """
        with self._lock:
            handles = list(self._handles)
            running = list(self._running)
        for handle in handles:
            handle.join()
        for future in running:
            future.result()
        self._upkeep.settle()
        self._raise_unseen()

    def close(self) -> None:
        """Wait for saves in flight and close; raises the error of a save that nobody has seen."""
        if self._closed:
            return
        try:
            self.wait()
        finally:
            self._shut()

    def _shut(self) -> None:
        self._closed = True
        self._savers.shutdown(wait=True)
        self._upkeep.close()
        self.io_pool.shutdown(wait=True)
        if self._copiers is not None:
            self._copiers.shutdown(wait=True)
        self._arenas.close()
        self._handover.close()
        if self.log is not None:
            self.log.close()
        self.reader.close()
        self.view.close()
