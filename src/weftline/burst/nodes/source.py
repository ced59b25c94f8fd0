"""Reading from another node: what it keeps in memory of others' shares, and its own store."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

import msgspec

from weftline.burst.commit.commits import decode_commit
from weftline.burst.errors import CorruptionError
from weftline.burst.log.envelope import open_envelope
from weftline.burst.nodes.server import FETCH, MANIFEST, SURVEY, Found
from weftline.burst.nodes.shares import SHARE, share_id, share_name
from weftline.burst.remote.checkpoints import RankPlaces
from weftline.burst.remote.objects import ObjectMissingError, RemoteError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from weftline.burst.commit.view import RecordId
    from weftline.burst.log.record import Prepared
    from weftline.burst.remote.peers import PeerObjects
    from weftline.burst.stage.state import Bytes1d

__all__ = ["NodeSource"]

_ALL: Final = 1 << 30


class NodeSource:
    """A node that runs ``burst peer``, as a store restores from it (``Source``)."""

    def __init__(self, node: PeerObjects) -> None:
        self.name = node.url
        self.node = node
        self._places: dict[str, RankPlaces | None] = {}
        self._lock = threading.Lock()

    def found(self, most: int = 16) -> Found:
        """Commit records and shares that it keeps for others or has in its store.

        Of its store the newest ``most`` records. Raises RemoteError.
        """
        data = self.node.ask_data(SURVEY, {"most": most}, "survey")
        try:
            return msgspec.msgpack.decode(data, type=Found)
        except msgspec.MsgspecError as error:
            raise RemoteError(f"the peer's answer cannot be read: {error}") from error

    # --- Source ----------------------------------------------------------------------------------

    def commit(self, step: int) -> bytes:
        """The newest record of a step. Raises KeyError where it has none."""
        every = self.found(most=_ALL).records
        mine = [(c.order, r) for r in every if (c := decode_commit(r, path=self.name)).step == step]
        if not mine:
            raise KeyError(f"no record of step {step} at {self.name}")
        return max(mine)[1]

    def manifest(self, share: Prepared) -> bytes:
        """A share's manifest. Raises KeyError where the node has no such share."""
        places = self._copy(share)
        if places is not None:
            return places.manifest
        try:
            return bytes(self.node.ask_data(MANIFEST, {"share": share.encode()}, "manifest"))
        except ObjectMissingError as error:
            raise KeyError(str(error)) from error

    def fetch_into(
        self, share: Prepared, records: Sequence[RecordId], outs: Sequence[Bytes1d]
    ) -> list[int]:
        """Stored payloads, each straight into its ``out``; XXH3-64 of what came.

        Raises KeyError, RemoteError.
        """
        places = self._copy(share)
        if places is not None:
            there = [places.places[r.key] for r in records]
            parts = [(p.pack, p.offset_bytes, p.length_bytes) for p in there]
            return self.node.read_into(parts, outs)
        hashes = self._from_store(share, records, outs, fresh=False)
        # Compaction may have moved some since that node read its index.
        late = [i for i, r in enumerate(records) if hashes[i] != r.hash]
        if late:
            again = [records[i] for i in late], [outs[i] for i in late]
            for i, hash_ in zip(late, self._from_store(share, *again, fresh=True), strict=True):
                hashes[i] = hash_
        return hashes

    def _from_store(
        self, share: Prepared, records: Sequence[RecordId], outs: Sequence[Bytes1d], *, fresh: bool
    ) -> list[int]:
        meta = {"share": share.encode(), "seqs": [r.seq for r in records], "fresh": fresh}
        try:
            return self.node.ask_into(FETCH, meta, share_id(share), outs)
        except ObjectMissingError as error:
            raise KeyError(str(error)) from error

    def _copy(self, share: Prepared) -> RankPlaces | None:
        """Places of the copy that the node keeps in memory, if it does."""
        with self._lock:
            if share_id(share) in self._places:
                return self._places[share_id(share)]
        data = self._read(f"{share_name(share)}/{SHARE}")
        found = None
        if data is not None:
            try:
                found = open_envelope("P", data, RankPlaces, path=f"{self.name}: copy")
            except CorruptionError:
                found = None
        with self._lock:
            self._places[share_id(share)] = found
        return found

    def _read(self, name: str) -> bytes | None:
        try:
            return self.node.read(name)
        except ObjectMissingError:
            return None
