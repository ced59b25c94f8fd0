"""The way of a committed checkpoint to an object store or a peer, in the background.

Order of things: packs of stored payloads, a rank's places, and when every rank's places are there
the commit object, each verified before the next is begun. What has been done is kept beside the
store in ``drain/<id of the target>/``, so that a crash costs at most the pack that was on its way.
Until the commit object is verified the checkpoint is pinned here and is not durable there.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import msgspec
import xxhash

from weftline.burst.commit.commits import DRAIN
from weftline.burst.errors import (
    BurstError,
    CheckpointMissingError,
    CorruptionError,
    StorageError,
    StoreBusyError,
)
from weftline.burst.files import write_atomic
from weftline.burst.log.envelope import open_envelope, seal_envelope
from weftline.burst.log.record import chunks_of
from weftline.burst.remote.checkpoints import (
    COMMITS,
    DATA,
    Objects,
    Pack,
    Place,
    RankPlaces,
    RemoteCheckpoint,
    absent_packs,
    batches,
    checkpoints_of,
    folder_of,
    folders_of,
    is_whole,
    places_name,
    places_of,
    prune,
    read_commit_object,
)
from weftline.burst.remote.objects import ObjectMissingError, RemoteError

if TYPE_CHECKING:
    from weftline.burst.commit.commits import CheckpointInfo
    from weftline.burst.commit.view import RecordId
    from weftline.burst.files import Files
    from weftline.burst.log.record import Chunk
    from weftline.burst.store import Store

__all__ = ["DrainOptions", "DrainReport", "DrainStatus", "Drainer"]

T = TypeVar("T")
Progress = Callable[[int, int], None]
"""Hears bytes done and bytes in all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainOptions:
    """How a store is drained."""

    pack_bytes: int = 256 << 20
    """Objects are about this long: what a crash can cost, and what one upload holds."""
    newest_only: bool = True
    """In the background skip checkpoints that a newer one has overtaken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainReport:
    """What draining one checkpoint did. ``durable`` is True only once all of it is verified."""

    step: int
    durable: bool
    sent_bytes: int
    reused_bytes: int
    """Payload that was there already, from an earlier checkpoint or before a crash."""
    packs: int
    elapsed_s: float
    missing_ranks: tuple[int, ...]
    """Ranks that other machines have yet to send."""


@dataclass(slots=True)
class DrainStatus:
    """Where a drainer stands, for metrics. Times in seconds, Unix time where named so."""

    queued: int = 0
    """Committed checkpoints that are not durable there."""
    newest_durable_step: int | None = None
    durable_lag_s: float = 0.0
    """Age of the oldest commit that is newer than the newest durable one; 0 if there is none."""
    last_error: str | None = None
    drained: int = 0
    sent_bytes: int = 0


class _Journal(msgspec.Struct):
    """What of a rank is there already, kept through a crash."""

    places: dict[str, Place]
    packs: list[Pack]
    next_pack: int = 0
    """Number of the next pack: a name is used once, but for a pack that was cut off."""


class Drainer:
    """Sends the checkpoints of one store to one target."""

    def __init__(self, store: Store, objects: Objects, options: DrainOptions | None = None) -> None:
        self.store = store
        self.objects = objects
        self.options = options or DrainOptions()
        self.status = DrainStatus()
        self._files: Files = store.view.files
        target = xxhash.xxh3_64_hexdigest(objects.url.encode())
        self._folder = f"{store.root}/drain/{target}"
        self._read: dict[str, RemoteCheckpoint] = {}
        self._brought: dict[tuple[str, int], dict[str, Place]] = {}
        """(folder, rank) of a durable checkpoint -> places of its records."""
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def pending(self) -> list[CheckpointInfo]:
        """Committed here and not yet durable there, oldest first."""
        there = folders_of(self.objects)
        return [
            c
            for c in self.store.checkpoints()
            if folder_of(c.step, self.store.commit_bytes(c.step)) not in there
        ]

    def drain(
        self,
        step: int | None = None,
        *,
        ranks: Iterable[int] | None = None,
        progress: Progress | None = None,
    ) -> DrainReport:
        """Send one checkpoint (the newest if ``step`` is None) and commit it there.

        ``ranks``: by default all whose data was saved to this store. The commit object is written
        once every rank's places are there, by whoever comes last. Raises CheckpointMissingError,
        CorruptionError where local data is damaged, and RemoteError.
        """
        start_s = time.monotonic()
        info = self._find(step)
        commit = self.store.commit_bytes(info.step)
        folder = folder_of(info.step, commit)
        sent = reused = packs = 0
        with self._locked():
            if self._is_committed(folder):
                self.store.unpin(info.step, owner=DRAIN)
                return self._nothing_to_do(info, start_s)
            self.store.pin(info.step, owner=DRAIN)
            for rank in self._local_ranks(info.step) if ranks is None else ranks:
                done = self._send_rank(info.step, folder, rank, progress)
                sent, reused, packs = sent + done[0], reused + done[1], packs + done[2]
            missing = self._commit(info, commit, folder)
            if not missing:
                self.store.unpin(info.step, owner=DRAIN)
                self.status.drained += 1
                self._tidy()
        self.status.sent_bytes += sent
        return DrainReport(
            step=info.step, durable=not missing, sent_bytes=sent, reused_bytes=reused,
            packs=packs, elapsed_s=time.monotonic() - start_s, missing_ranks=missing,
        )  # fmt: skip

    def prune(self, keep_steps: Iterable[int]) -> list[RemoteCheckpoint]:
        """Drop the target's checkpoints whose steps are not named; those dropped."""
        with self._locked():
            return prune(self.objects, keep_steps)

    # --- one rank -------------------------------------------------------------------------------

    def _send_rank(
        self, step: int, folder: str, rank: int, progress: Progress | None
    ) -> tuple[int, int, int]:
        """Packs and places of one rank; bytes sent, bytes reused, packs sent."""
        here = f"{self._folder}/{folder}/r{rank:05d}"
        name = places_name(folder, rank)
        manifest = self.store.manifest(step, rank)
        wanted = list(self.store.records(manifest))
        whole = sum(r.stored_bytes for r in wanted)
        if self._is_there(here, name):
            return 0, whole, 0
        stem = f"{DATA}/{folder}/r{rank:05d}"
        journal = self._journal(here, stem)
        known = {**self._elsewhere(wanted, folder), **journal.places}
        left = [r for r in wanted if r.key not in known]
        total = sum(r.stored_bytes for r in left)
        packs_before = journal.next_pack
        sent = 0

        def heard(count: int) -> None:
            nonlocal sent
            sent += count
            if progress is not None:
                progress(min(sent, total), total)  # a part that is sent again is no more progress

        for batch in batches(left, self.options.pack_bytes):
            payloads = self._reader(step, rank, batch)
            self._send_pack(step, here, stem, batch, payloads, journal, heard)
        known.update(journal.places)
        places = RankPlaces(
            manifest=manifest.encode(), places={r.key: known[r.key] for r in wanted},
            packs=journal.packs,
        )  # fmt: skip
        data = places.encode()
        self.objects.put(name, data)
        self._keep(f"{here}.places", data)
        self._files.unlink(f"{here}.part")
        return total, whole - total, journal.next_pack - packs_before

    def _send_pack(
        self, step: int, here: str, stem: str, batch: list[RecordId],
        payloads: Callable[[], Iterator[bytes]], journal: _Journal, heard: Callable[[int], None],
    ) -> None:  # fmt: skip
        """Send one pack and write down that it is there."""
        self.store.pin(step, owner=DRAIN)
        pack = f"{stem}-{journal.next_pack:05d}.pack"
        info = self.objects.put(pack, payloads, progress=heard)
        at = 0
        for record in batch:
            journal.places[record.key] = Place(pack, at, record.stored_bytes)
            at += record.stored_bytes
        journal.packs.append(Pack(pack, info.size_bytes))
        journal.next_pack += 1
        self._keep(f"{here}.part", seal_envelope("J", journal))

    def _reader(self, step: int, rank: int, batch: list[RecordId]) -> Callable[[], Iterator[bytes]]:
        """Yields the payloads of a batch, checked, as often as it is called."""

        def payloads() -> Iterator[bytes]:
            chunks = self._chunks(step, rank)
            for record in batch:
                try:
                    yield self.store.reader.stored(record.writer, chunks[record.seq]).tobytes()
                except (CorruptionError, StorageError):
                    # Compaction may have moved it: the index knows, once it is read anew.
                    self.store.view.index(record.writer, fresh=True)
                    chunks = self._chunks(step, rank)
                    yield self.store.reader.stored(record.writer, chunks[record.seq]).tobytes()

        return payloads

    def _chunks(self, step: int, rank: int) -> dict[int, Chunk]:
        return {c.seq: c for c in chunks_of(self.store.manifest(step, rank).parts)}

    def _local_ranks(self, step: int) -> list[int]:
        ranks = self.store.read_commit(step).ranks
        return [r.rank for r in ranks if self.store.view.is_local(r)]

    def _is_there(self, here: str, name: str) -> bool:
        """Whether this rank has been sent whole, and still is where it was sent."""
        kept = self._state(f"{here}.places", "P", RankPlaces)
        try:
            if kept is None or self.objects.read(name) != kept.encode():
                return False
        except ObjectMissingError:
            return False
        return not absent_packs(self.objects, kept.places.values())

    def _journal(self, here: str, stem: str) -> _Journal:
        """What was sent before a crash; packs that have since gone are sent again.

        Where nothing is known, numbers go on after those of the packs that are there: no object is
        ever overwritten.
        """
        found = self._state(f"{here}.part", "J", _Journal) or _Journal(places={}, packs=[])
        gone = set(absent_packs(self.objects, found.places.values()))
        found.places = {k: v for k, v in found.places.items() if v.pack not in gone}
        found.packs = [p for p in found.packs if p.name not in gone]
        found.next_pack = max(found.next_pack, *self._numbers(stem), 0)
        return found

    def _numbers(self, stem: str) -> list[int]:
        """Numbers after those of this rank's packs that are there."""
        folder = stem.rpartition("/")[0]
        names = [i.name for i in self.objects.list(folder) if i.name.startswith(f"{stem}-")]
        return [1 + int(n.removeprefix(f"{stem}-").removesuffix(".pack")) for n in names] or [0]

    def _state(self, path: str, kind: str, into: type[T]) -> T | None:
        """A file of the drain's own state; None if it is not there or damaged: it is then lost."""
        if not self._files.exists(path):
            return None
        try:
            return open_envelope(kind, self._files.read_bytes(path), into, path=path)
        except BurstError:
            return None

    def _is_committed(self, folder: str) -> bool:
        """Whether this checkpoint is durable there; a commit that lacks something is withdrawn."""
        for info in self.objects.list(COMMITS):
            if not info.name.endswith(f"-{folder}.commit"):
                continue
            try:
                if is_whole(self.objects, read_commit_object(self.objects, info.name)):
                    return True
            except (BurstError, ObjectMissingError) as error:
                if isinstance(error, RemoteError) and not isinstance(error, ObjectMissingError):
                    raise
            self.objects.delete(info.name)
        return False

    def _nothing_to_do(self, info: CheckpointInfo, start_s: float) -> DrainReport:
        return DrainReport(
            step=info.step, durable=True, sent_bytes=0, reused_bytes=info.stored_bytes, packs=0,
            elapsed_s=time.monotonic() - start_s, missing_ranks=(),
        )  # fmt: skip

    def _elsewhere(self, wanted: list[RecordId], folder: str) -> dict[str, Place]:
        """Records that checkpoints already durable there have brought."""
        every = checkpoints_of(self.objects, self._read, damage=[])
        alive = {(c.folder, int(r)) for c in every if c.folder != folder for r in c.ranks}
        for gone in set(self._brought) - alive:
            del self._brought[gone]
        by_folder = {c.folder: c for c in every}
        for at in alive - set(self._brought):
            try:
                self._brought[at] = places_of(self.objects, by_folder[at[0]], at[1]).places
            except (CorruptionError, ObjectMissingError):
                self._brought[at] = {}  # nothing of a damaged checkpoint is relied on
        keys = [r.key for r in wanted]
        found: dict[str, Place] = {}
        for places in self._brought.values():
            found.update({k: places[k] for k in keys if k in places})
        return found

    def _keep(self, path: str, data: bytes) -> None:
        """Put a file of the drain's own state in place, durably."""
        self._make_folders(path)
        write_atomic(self._files, path, data)

    def _make_folders(self, path: str) -> None:
        at = self.store.root
        for part in path.removeprefix(f"{at}/").split("/")[:-1]:
            below = f"{at}/{part}"
            if not self._files.exists(below):
                self._files.make_dir(below)
                self._files.sync_dir(at)
            at = below

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One drain or prune from this store to this target at a time, over all processes."""
        path = f"{self._folder}/LOCK"
        self._make_folders(path)
        if not self._files.exists(path):
            with suppress(StorageError):  # another process may have made it meanwhile
                self._files.open(path, "x").close()
        handle = self._files.open(path, "w")
        try:
            if not handle.lock(exclusive=True, wait=False):
                raise StoreBusyError(
                    "another process drains this store to the same place", where=path,
                    hint="let it finish, or stop it",
                )  # fmt: skip
            yield
        finally:
            handle.close()

    def _tidy(self) -> None:
        """Forget the state of checkpoints that are neither here nor there."""
        alive = folders_of(self.objects)
        alive |= {
            folder_of(c.step, self.store.commit_bytes(c.step)) for c in self.store.checkpoints()
        }
        for name in self._files.list_dir(self._folder):
            if name != "LOCK" and name not in alive:
                for file in self._files.list_dir(f"{self._folder}/{name}"):
                    self._files.unlink(f"{self._folder}/{name}/{file}")
                self._files.remove_dir(f"{self._folder}/{name}")

    # --- the whole ------------------------------------------------------------------------------

    def _commit(self, info: CheckpointInfo, commit: bytes, folder: str) -> tuple[int, ...]:
        """Write the commit object if every rank is there; the ranks that are not."""
        ranks: dict[str, tuple[str, int, int]] = {}
        needed: set[str] = set()
        there = {i.name for i in self.objects.list(f"{DATA}/{folder}")}
        missing = [r for r in range(info.world) if places_name(folder, r) not in there]
        if missing:
            return tuple(missing)
        for rank in range(info.world):
            name = places_name(folder, rank)
            data = self.objects.read(name)
            places = open_envelope("P", data, RankPlaces, path=f"{self.objects.url}/{name}")
            absent = absent_packs(self.objects, places.places.values())
            if absent:
                raise RemoteError(
                    f"{len(absent)} packs of rank {rank} are gone, the first is {absent[0]}",
                    where=self.objects.url,
                    hint="drain again: what is missing is sent anew; does something else prune?",
                )
            needed |= {name, *(p.pack for p in places.places.values())}
            ranks[str(rank)] = (name, len(data), xxhash.xxh3_64_intdigest(data))
        whole = RemoteCheckpoint(
            step=info.step, sequence=info.sequence, folder=folder, commit=commit, ranks=ranks,
            created_unix_s=info.created_unix_s, raw_bytes=info.raw_bytes,
            stored_bytes=info.stored_bytes,
        )  # fmt: skip
        self.objects.put(whole.name, whole.encode())
        for left_over in there - needed:  # by uploads that a crash kept from being written down
            self.objects.delete(left_over)
        return ()

    def _find(self, step: int | None) -> CheckpointInfo:
        if step is None and self.store.view.commits.steps():
            step = self.store.read_commit().step  # the newest, or its damage
        every = self.store.checkpoints()
        found = [c for c in every if step is None or c.step == step]
        if not found:
            what = "the store is empty" if step is None else f"there is no checkpoint {step}"
            steps = ", ".join(str(c.step) for c in every[-8:])
            raise CheckpointMissingError(
                what, where=self.store.root, hint=f"committed: {steps}" if steps else None
            )
        return found[-1]

    # --- in the background ----------------------------------------------------------------------

    def start(self, *, poll_s: float = 5.0) -> None:
        """Drain new checkpoints as they are committed, in a thread of their own, until stopped."""
        if self._thread is None:
            self._stop.clear()
            self._thread = threading.Thread(
                target=self._run, args=(poll_s,), name="burst-drain", daemon=True
            )
            self._thread.start()

    def stop(self, *, timeout_s: float | None = None) -> None:
        """Stop after the checkpoint that is on its way."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout_s)
            self._thread = None

    def refresh(self) -> DrainStatus:
        """The status, with queue and lag as they are now."""
        pending = self.pending()
        every = self.store.checkpoints()
        waiting = {c.sequence for c in pending}
        durable = [c for c in every if c.sequence not in waiting]
        newest = durable[-1].sequence if durable else -1
        newer = [c.created_unix_s for c in pending if c.sequence > newest]
        self.status.queued = len(pending)
        self.status.newest_durable_step = durable[-1].step if durable else None
        self.status.durable_lag_s = max(0.0, time.time() - min(newer)) if newer else 0.0
        return self.status

    def _run(self, poll_s: float) -> None:
        while not self._stop.is_set():
            try:
                self.refresh()
                pending = self.pending()
                if pending:
                    chosen = self._next(pending)
                    durable = self.drain(chosen.step).durable
                    self.status.last_error = None
                    if durable and self.options.newest_only:
                        self._let_go(chosen)
                    if durable:
                        continue  # else other nodes have yet to send their ranks
            except Exception as error:  # whatever it is, this thread must not end without a word
                # The next round tries again; what is waiting shows in the lag.
                self.status.last_error = str(error)
            self._stop.wait(poll_s)

    def _next(self, pending: list[CheckpointInfo]) -> CheckpointInfo:
        """What to send next. Of a checkpoint over many nodes all must send their share.

        So the one that others have begun comes before a newer one: each node has its own pace.
        """
        if not self.options.newest_only:
            return pending[0]
        if len(self._local_ranks(pending[-1].step)) == pending[-1].world:
            return pending[-1]
        begun = {i.name.split("/")[1] for i in self.objects.list(DATA)}
        of = {folder_of(c.step, self.store.commit_bytes(c.step)): c for c in pending}
        return max(
            (of[f] for f in of.keys() & begun), key=lambda c: c.sequence, default=pending[-1]
        )

    def _let_go(self, newest: CheckpointInfo) -> None:
        """Older checkpoints that will not be sent any more need not be kept for it."""
        for info in self.store.checkpoints():
            if info.sequence < newest.sequence and DRAIN in info.pinned:
                self.store.unpin(info.step, owner=DRAIN)
