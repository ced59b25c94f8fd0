"""Checkpoints in an object store or on a peer: how they lie there, and how they are read back.

    commits/<sequence>-<step>-<id>.commit     written last; a checkpoint without it does not exist
    data/<step>-<id>/r<rank>.places           a rank's manifest, and where its records lie
    data/<step>-<id>/r<rank>-<n>.pack         stored payloads, one after the other

``<id>`` is the first half of the xxh3-128 of the commit record, so two saves of one step never mix.
Records that an earlier checkpoint has brought (deduplicated, or a base) are not sent
again: the places of a rank may lie in the packs of another folder. :class:`RemoteSource` reads
records from where their rank's places say, those that lie close together by one request.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec
import numpy as np
import xxhash

from weftline.burst.errors import BurstError, CorruptionError
from weftline.burst.log.envelope import open_envelope, seal_envelope
from weftline.burst.log.record import Prepared
from weftline.burst.remote.objects import Bucket, BucketCounters, ObjectInfo, ObjectMissingError
from weftline.errors import InputError

if TYPE_CHECKING:
    from weftline.burst.commit.view import RecordId
    from weftline.burst.stage.state import Bytes1d

__all__ = [
    "Objects",
    "Pack",
    "Place",
    "RankPlaces",
    "RemoteCheckpoint",
    "RemoteSource",
    "batches",
    "folder_of",
    "open_objects",
    "prune",
]

COMMITS: Final = "commits"
DATA: Final = "data"
_COMMIT_NAME: Final = re.compile(rf"{COMMITS}/\d{{16}}-\d{{12,}}-[0-9a-f]{{16}}\.commit")
_GAP_BYTES: Final = 1 << 20
"""What lies between two records is read along with them rather than asked around."""
_STRETCH_BYTES: Final = 8 << 20
"""One request brings about as much, or one record."""
_READS_AT_ONCE: Final = 8


class Objects(Protocol):
    """Where whole objects are kept: a :class:`Bucket`, or a peer's :class:`PeerObjects`."""

    url: str
    counters: BucketCounters

    def put(self, name: str, chunks: Any, *, progress: Any = None) -> ObjectInfo:
        """Store an object and return once it is known to be whole there."""

    def read(self, name: str, start_bytes: int = 0, length_bytes: int | None = None) -> bytes:
        """A range of an object; ObjectMissingError if there is none."""

    def size(self, name: str) -> int | None:
        """Length in bytes, or None."""

    def list(self, prefix: str = "") -> list[ObjectInfo]:
        """All objects under a prefix, by name."""

    def delete(self, name: str) -> None:
        """Remove an object if it is there."""


class Place(msgspec.Struct, frozen=True, array_like=True):
    """Where the stored payload of one record lies."""

    pack: str
    offset_bytes: int
    length_bytes: int


class Pack(msgspec.Struct, frozen=True, array_like=True):
    """A pack as it was sent."""

    name: str
    length_bytes: int


class RankPlaces(msgspec.Struct, frozen=True):
    """All that one rank's part of a checkpoint needs to be read from here."""

    manifest: bytes
    places: dict[str, Place]
    packs: list[Pack]

    def encode(self) -> bytes:
        """Bytes of the ``.places`` object."""
        return seal_envelope("P", self)


class RemoteCheckpoint(msgspec.Struct, frozen=True):
    """What the ``.commit`` object says; its presence is what makes the checkpoint exist."""

    step: int
    sequence: int
    folder: str
    commit: bytes
    """The store's own commit record."""
    ranks: dict[str, tuple[str, int, int]]
    """Rank (as text) -> name, length and xxh3-64 of its ``.places`` object."""
    created_unix_s: float
    raw_bytes: int
    stored_bytes: int

    @property
    def name(self) -> str:
        """Name of the ``.commit`` object; names sort in order of commit."""
        return f"{COMMITS}/{self.sequence:016d}-{self.folder}.commit"

    def encode(self) -> bytes:
        """Bytes of the ``.commit`` object."""
        return seal_envelope("O", self)


def folder_of(step: int, commit: bytes) -> str:
    """Name that the objects of a checkpoint share."""
    return f"{step:012d}-{xxhash.xxh3_128_hexdigest(commit)[:16]}"


def places_name(folder: str, rank: int) -> str:
    """Name of a rank's ``.places`` object."""
    return f"{DATA}/{folder}/r{rank:05d}.places"


def open_objects(url: str, **options: Any) -> Objects:
    """A bucket or, for ``peer://host:port``, a peer. Raises InputError for what is neither."""
    from weftline.burst.remote.objects import BucketOptions

    if url.startswith("peer://"):
        from weftline.burst.remote.peers import PeerObjects

        known = {k: v for k, v in options.items() if k == "bandwidth_bytes_per_s"}
        return PeerObjects.open(url, **known)
    return Bucket.open(url, BucketOptions(**options))


def folders_of(objects: Objects) -> set[str]:
    """Folders of the checkpoints that are whole here; one listing, nothing is read."""
    names = (info.name for info in objects.list(COMMITS))
    return {n.rpartition("/")[2][17:].removesuffix(".commit") for n in names if _is_commit(n)}


def checkpoints_of(
    objects: Objects,
    known: dict[str, RemoteCheckpoint] | None = None,
    damage: list[CorruptionError] | None = None,
) -> list[RemoteCheckpoint]:
    """Every checkpoint that is whole here, oldest commit first.

    ``known`` remembers by name what was read before: a commit object never changes. Damaged ones
    are left out where ``damage`` takes their errors; else the first is raised.
    """
    known = {} if known is None else known
    names = [info.name for info in objects.list(COMMITS) if _is_commit(info.name)]
    for gone in set(known) - set(names):
        del known[gone]
    for name in names:
        if name not in known:
            try:
                data = objects.read(name)
            except ObjectMissingError:
                continue  # pruned between the listing and now
            try:
                known[name] = read_commit_object(objects, name, data)
            except BurstError as error:
                told = CorruptionError(
                    f"the commit object cannot be read: {error.what}",
                    file=f"{objects.url}/{name}", step=int(name.split("-")[1]),
                    hint="drain that step again from its store, or delete the object",
                )  # fmt: skip
                if damage is None:
                    raise told from error
                damage.append(told)
    return [known[name] for name in sorted(known)]


def read_commit_object(objects: Objects, name: str, data: bytes | None = None) -> RemoteCheckpoint:
    """One commit object, checked. Raises CorruptionError and its kin."""
    data = objects.read(name) if data is None else data
    found = open_envelope("O", data, RemoteCheckpoint, path=f"{objects.url}/{name}")
    if found.name != name:
        raise CorruptionError("the commit of another checkpoint is here", file=name)
    return found


def is_whole(objects: Objects, checkpoint: RemoteCheckpoint) -> bool:
    """Whether every rank's places are those committed, and every pack they name is here."""
    try:
        for rank in checkpoint.ranks:
            places = places_of(objects, checkpoint, int(rank)).places
            if absent_packs(objects, places.values()):
                return False
    except (CorruptionError, ObjectMissingError):
        return False
    return True


def _is_commit(name: str) -> bool:
    return _COMMIT_NAME.fullmatch(name) is not None


def places_of(objects: Objects, checkpoint: RemoteCheckpoint, rank: int) -> RankPlaces:
    """A rank's places, checked against the commit. Raises CorruptionError and RemoteError."""
    try:
        name, length, digest = checkpoint.ranks[str(rank)]
    except KeyError:
        raise InputError(
            f"checkpoint {checkpoint.step} has no rank {rank}", where=objects.url,
            hint=f"it was saved by {len(checkpoint.ranks)} ranks",
        ) from None  # fmt: skip
    data = objects.read(name)
    if len(data) != length or xxhash.xxh3_64_intdigest(data) != digest:
        raise CorruptionError(
            "the list of places differs from the committed one", step=checkpoint.step,
            file=f"{objects.url}/{name}", offset_bytes=0,
        )  # fmt: skip
    return open_envelope("P", data, RankPlaces, path=f"{objects.url}/{name}")


class RemoteSource:
    """Checkpoints of an object store or a peer, as the store restores from them (``Source``)."""

    def __init__(self, objects: Objects) -> None:
        self.name = objects.url
        self.objects = objects
        self._places: dict[tuple[str, int], RankPlaces] = {}
        self._read: dict[str, RemoteCheckpoint] = {}
        self._known: dict[int, RemoteCheckpoint] | None = None
        self._lock = threading.Lock()

    def checkpoints(self) -> list[RemoteCheckpoint]:
        """Every checkpoint that can be read there, oldest commit first.

        Raises CorruptionError where the newest cannot: it is never passed over without a word.
        """
        damage: list[CorruptionError] = []
        found = checkpoints_of(self.objects, self._read, damage)
        newest = max((c.name for c in found), default="")
        for error in damage:
            if error.file.removeprefix(f"{self.objects.url}/") > newest:
                raise error
        return found

    def steps(self) -> list[int]:
        """Their steps; of two saves of one step the newer counts."""
        return list(self._by_step(fresh=True))

    def commit(self, step: int) -> bytes:
        """The store's commit record. Raises KeyError if the checkpoint is not here."""
        return self._checkpoint(step).commit

    def manifest(self, share: Prepared) -> bytes:
        """A rank's manifest. Raises KeyError if the checkpoint is not here."""
        return self._rank(share.step, share.rank).manifest

    def fetch_into(
        self, share: Prepared, records: Sequence[RecordId], outs: Sequence[Bytes1d]
    ) -> list[int]:
        """Stored payloads, those that lie close together by one request; XXH3-64 of each.

        Raises KeyError if one is not here, and RemoteError if it cannot be had.
        """
        known = self._rank(share.step, share.rank).places
        wanted = [(known[record.key], out) for record, out in zip(records, outs, strict=True)]
        stretches = list(_stretches(wanted))
        if len(stretches) == 1:
            return self._read_stretch(stretches[0])
        # One connection to an object store is slow; many at once are not.
        with ThreadPoolExecutor(min(_READS_AT_ONCE, len(stretches))) as pool:
            return [h for some in pool.map(self._read_stretch, stretches) for h in some]

    def _read_stretch(self, items: Sequence[tuple[Place, Bytes1d]]) -> list[int]:
        """Records of one pack, in its order, by one request; XXH3-64 of each."""
        (first, _), (last, _) = items[0], items[-1]
        start, end = first.offset_bytes, last.offset_bytes + last.length_bytes
        data = np.frombuffer(self.objects.read(first.pack, start, end - start), np.uint8)
        if len(data) != end - start:
            raise KeyError(f"{first.pack} is shorter than its records")
        for place, out in items:
            at = place.offset_bytes - start
            np.copyto(out, data[at : at + place.length_bytes])
        return [xxhash.xxh3_64_intdigest(out) for _, out in items]

    def _by_step(self, *, fresh: bool = False) -> dict[int, RemoteCheckpoint]:
        if self._known is None or fresh:
            self._known = {c.step: c for c in self.checkpoints()}
        return self._known

    def _checkpoint(self, step: int) -> RemoteCheckpoint:
        found = self._by_step().get(step) or self._by_step(fresh=True).get(step)
        if found is None:
            raise KeyError(f"no checkpoint of step {step} at {self.name}")
        return found

    def _rank(self, step: int, rank: int) -> RankPlaces:
        checkpoint = self._checkpoint(step)
        key = (checkpoint.folder, rank)
        with self._lock:
            known = self._places.get(key)
        if known is None:
            known = places_of(self.objects, checkpoint, rank)
            with self._lock:
                self._places[key] = known
        return known


def _stretches(
    wanted: Sequence[tuple[Place, Bytes1d]],
) -> Iterator[Sequence[tuple[Place, Bytes1d]]]:
    """What one request each brings: records of one pack that lie close together, in order."""
    begin = 0
    for i in range(1, len(wanted) + 1):
        if i < len(wanted):
            first, last, place = wanted[begin][0], wanted[i - 1][0], wanted[i][0]
            gap = place.offset_bytes - last.offset_bytes - last.length_bytes
            length = place.offset_bytes + place.length_bytes - first.offset_bytes
            if place.pack == last.pack and 0 <= gap <= _GAP_BYTES and length <= _STRETCH_BYTES:
                continue
        yield wanted[begin:i]
        begin = i


def absent_packs(objects: Objects, places: Iterable[Place]) -> list[str]:
    """Packs that are not here, or too short for the records that should lie in them."""
    ends: dict[str, int] = {}
    for place in places:
        end = place.offset_bytes + place.length_bytes
        ends[place.pack] = max(end, ends.get(place.pack, 0))
    folders = {name.rpartition("/")[0] for name in ends}
    sizes = {i.name: i.size_bytes for folder in folders for i in objects.list(folder)}
    return sorted(name for name, end in ends.items() if sizes.get(name, -1) < end)


def prune(objects: Objects, keep_steps: Iterable[int]) -> list[RemoteCheckpoint]:
    """Drop every checkpoint whose step is not in ``keep_steps``; those dropped.

    The commit goes first, so a checkpoint is whole or absent at every moment; then what no kept
    checkpoint needs. Packs that a kept one refers to stay, whatever folder they lie in. Objects
    without a commit that are no part of a kept checkpoint may be an upload in progress: they stay
    unless a dropped checkpoint's folder holds them. Not to be run beside a drain to the same place
    (a :class:`Drainer` holds a lock for that).
    """
    keep = set(keep_steps)
    every = checkpoints_of(objects)
    kept, dropped = [c for c in every if c.step in keep], [c for c in every if c.step not in keep]
    newest = {c.step: c.folder for c in kept}
    dropped += [c for c in kept if newest[c.step] != c.folder]
    kept = [c for c in kept if newest[c.step] == c.folder]
    needed: set[str] = set()
    for checkpoint in kept:
        for rank in checkpoint.ranks:
            places = places_of(objects, checkpoint, int(rank))
            needed.update(p.pack for p in places.places.values())
        needed.update(name for name, _, _ in checkpoint.ranks.values())
    for checkpoint in dropped:
        objects.delete(checkpoint.name)
    for checkpoint in dropped:
        for info in objects.list(f"{DATA}/{checkpoint.folder}"):
            if info.name not in needed:
                objects.delete(info.name)
    return dropped


def batches(records: list[RecordId], most_bytes: int) -> Iterator[list[RecordId]]:
    """Records in order, in groups of about ``most_bytes``, none of them empty."""
    batch: list[RecordId] = []
    size = 0
    for record in records:
        if batch and size + record.stored_bytes > most_bytes:
            yield batch
            batch, size = [], 0
        batch.append(record)
        size += record.stored_bytes
    if batch:
        yield batch
