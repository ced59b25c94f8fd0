"""Copies of shares in the memory of other nodes: how they lie there, how they come and go.

    shares/<run>/r<rank>/<store>-<writer>-<save>/data-<n>    stored payloads, one after the other
    shares/<run>/r<rank>/<store>-<writer>-<save>/share       manifest and places; written last
    records/<run>/<sequence>-<step>-<id>.commit              commit records of the store

A copy is whole from the moment its ``share`` object stands there, and belongs to a checkpoint when
a commit record names its store, writer and save: so a copy of a try that was never committed, or of
an earlier life of the rank, is never taken for another. A node keeps the copies of the newest
checkpoint and those on their way, and, while one is missing, those of the last that had them all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import xxhash

from weftline.burst.errors import BurstError, CorruptionError
from weftline.burst.log.record import Chunk, Prepared, RankManifest, Share, chunks_of
from weftline.burst.log.writer import prepared_of, saves_of
from weftline.burst.remote.checkpoints import Pack, Place, RankPlaces
from weftline.burst.remote.drain import batches

if TYPE_CHECKING:
    from weftline.burst.commit.commits import Commit
    from weftline.burst.commit.view import View
    from weftline.burst.read.reading import StoreReader
    from weftline.burst.remote.objects import Buffer
    from weftline.burst.remote.peers import PeerObjects

__all__ = [
    "RECORDS", "SHARE", "SHARES", "ShareCopier", "overtaken", "record_name", "records_folder",
    "share_id", "share_name", "shares_of",
]  # fmt: skip

RECORDS: Final = "records"
SHARES: Final = "shares"
SHARE: Final = "share"
"""The object that makes a copy whole."""
PACK_BYTES: Final = 256 << 20
"""Objects are about this long."""


def rank_folder(run: str, rank: int) -> str:
    """Where the copies of a rank's shares lie."""
    return f"{SHARES}/{run}/r{rank:05d}"


def share_name(share: Prepared) -> str:
    """Where the copy of a share lies; no other share is ever there."""
    return f"{rank_folder(share.run, share.rank)}/{share_id(share)}"


def share_id(share: Share) -> str:
    """Name of a share wherever it lies: where it was saved, and no other ever is."""
    return f"{share.store_id}-{share.writer}-{share.save_id:016x}"


def shares_of(view: View) -> list[str]:
    """Shares that are whole in a store now, by :func:`share_id`; its logs are read anew."""
    found = []
    for writer in view.writers():
        with suppress(BurstError):
            seals = saves_of(view.index(writer, fresh=True).scan()).values()
            found += [
                share_id(seal) for seal in seals
                if seal is not None and view.local_manifest(prepared_of(seal)) is not None
            ]  # fmt: skip
    return found


def records_folder(run: str) -> str:
    """Where the commit records of a run lie."""
    return f"{RECORDS}/{run}"


def record_name(record: bytes, commit: Commit) -> str:
    """Name of a commit record; names sort in the order of commits."""
    id_ = xxhash.xxh3_128_hexdigest(record)[:16]
    return f"{records_folder(commit.run)}/{commit.sequence:016d}-{commit.step:018d}-{id_}.commit"


class ShareCopier:
    """Keeps copies of one process's shares on other nodes. Safe to use from several threads."""

    def __init__(
        self, nodes: Sequence[PeerObjects], *, copies: int = 1, pack_bytes: int = PACK_BYTES
    ) -> None:
        """``nodes`` in the order they are asked; ``copies`` of them keep a copy each.

        One that is down, full or refuses is passed over, and the next stands in.
        """
        self.copies = copies
        self._nodes = tuple(nodes)
        self._pack_bytes = pack_bytes
        self._used: set[str] = set()
        """Nodes that have copies of this process, and are told of its checkpoints."""

    def copy(self, store: StoreReader, share: Prepared) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Copy a share that is durable here: nodes that have it then, and what went wrong.

        Raises CorruptionError where it cannot be read here.
        """
        manifest = store.view.local_manifest(share)
        if manifest is None:
            raise CorruptionError("the share is not in its log", file=store.root, step=share.step)
        have: list[str] = []
        trouble: list[str] = []
        for node in self._nodes:
            if len(have) == self.copies:
                break
            try:
                self._send(node, store, share, manifest)
            except BurstError as error:
                trouble.append(f"{node.url}: {error.what}")
                continue
            have.append(node.url)
        self._used.update(have)
        if len(have) < self.copies and not trouble:
            trouble.append(f"{len(have)} of {self.copies} copies: there are no more nodes")
        return tuple(have), tuple(trouble)

    def _send(
        self, node: PeerObjects, store: StoreReader, share: Prepared, manifest: RankManifest
    ) -> None:
        name = share_name(share)
        chunks = {c.seq: c for c in chunks_of(manifest.parts)}
        places: dict[str, Place] = {}
        packs: list[Pack] = []
        for batch in batches(list(store.records(manifest)), self._pack_bytes):
            pack = f"{name}/data-{len(packs):05d}"
            info = node.put(pack, _payloads(store, [chunks[r.seq] for r in batch], share.writer))
            at = 0
            for record in batch:
                places[record.key] = Place(pack, at, record.stored_bytes)
                at += record.stored_bytes
            packs.append(Pack(pack, info.size_bytes))
        node.put(f"{name}/{SHARE}", RankPlaces(manifest.encode(), places, packs).encode())

    def committed(self, record: bytes, commit: Commit) -> tuple[str, ...]:
        """Tell the nodes that have copies of this process of a checkpoint; what went wrong.

        They let go of what it overtakes.
        """
        trouble: list[str] = []
        name = record_name(record, commit)
        for node in self._nodes:
            if node.url in self._used:
                try:
                    if node.size(name) is None:
                        node.put(name, record)
                except BurstError as error:
                    trouble.append(f"{node.url}: {error.what}")
        return tuple(trouble)

    def close(self) -> None:
        """Close the connections."""
        for node in self._nodes:
            node.close()


def _payloads(
    store: StoreReader, chunks: Sequence[Chunk], writer: str
) -> Callable[[], Iterator[Buffer]]:
    """Yields stored payloads, checked, as often as it is called; each stands until the next."""

    def payloads() -> Iterator[Buffer]:
        for chunk in chunks:
            yield store.reader.stored(writer, chunk)

    return payloads


def overtaken(records: Sequence[Commit], shares: Sequence[str]) -> set[str]:
    """Which of the copies of one run a node need not keep any more.

    ``records``: the commits it was told of; ``shares``: names of the copies it has, in the order
    in which they came. Kept are those of the newest checkpoint, those of the newest that had all
    its copies, and those that may be committed yet: of a rank, whatever came after its newest copy
    that is named.
    """
    if not records:
        return set()
    newest = max(records, key=lambda c: c.order)
    whole = max((c for c in records if c.copied), key=lambda c: c.order, default=newest)
    wanted = {share_name(r) for c in (newest, whole) for r in c.ranks}
    named = {share_name(r) for c in records for r in c.ranks}
    last: dict[str, int] = {}
    for at, share in enumerate(shares):
        if share in named:
            last[share.rpartition("/")[0]] = at
    return {
        share for at, share in enumerate(shares)
        if share not in wanted
        and (share in named or at < last.get(share.rpartition("/")[0], -1))
    }  # fmt: skip
