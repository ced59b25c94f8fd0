"""Reading from another node: what it keeps in memory of others' shares, and its own store."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np

from weftline.burst.commit.commits import decode_commit
from weftline.burst.errors import BurstError, CorruptionError
from weftline.burst.log.envelope import open_envelope
from weftline.burst.nodes.server import FETCH, MANIFEST, RECORD, SHARES_THERE, STEPS
from weftline.burst.nodes.shares import RECORDS, SHARE, SHARES, share_id, share_name
from weftline.burst.remote.checkpoints import RankPlaces
from weftline.burst.remote.objects import ObjectMissingError

if TYPE_CHECKING:
    from weftline.burst.commit.view import RecordId
    from weftline.burst.log.record import Prepared
    from weftline.burst.remote.peers import PeerObjects
    from weftline.burst.stage.state import Bytes1d

__all__ = ["NodeSource"]


class NodeSource:
    """A node that runs ``burst peer``, as a store restores from it (``Source``)."""

    def __init__(self, node: PeerObjects) -> None:
        self.name = node.url
        self.node = node
        self._places: dict[str, RankPlaces | None] = {}
        self._lock = threading.Lock()

    # --- what it knows ---------------------------------------------------------------------------

    def records(self, most: int = 16) -> list[bytes]:
        """Commit records that it keeps for others or has in its store, the newest of each run.

        At most ``most`` of its store. Raises RemoteError.
        """
        names = [i.name for i in self.node.list(RECORDS)]
        found = [r for n in names if (r := self._read(n)) is not None]
        steps = sorted(self.node.ask(STEPS, None, "steps"))[-most:]
        for step in steps:
            try:
                found.append(bytes(self.node.ask_data(RECORD, {"step": step}, f"step {step}")))
            except BurstError:
                continue  # dropped meanwhile, or damaged there
        return list(dict.fromkeys(found))

    def steps(self) -> list[int]:
        """Steps it has a record of."""
        return sorted({decode_commit(r, path=self.name).step for r in self.records()})

    def commit(self, step: int) -> bytes:
        """The newest record of a step. Raises KeyError where it has none."""
        found = [(decode_commit(r, path=self.name), r) for r in self.records(most=1 << 30)]
        mine = [(c.order, r) for c, r in found if c.step == step]
        if not mine:
            raise KeyError(f"no record of step {step} at {self.name}")
        return max(mine)[1]

    def shares(self) -> list[str]:
        """Shares that it has whole, in memory for others or in its store, by ``share_id``."""
        kept = [i.name.split("/") for i in self.node.list(SHARES)]
        found = [parts[-2] for parts in kept if parts[-1] == SHARE]
        return found + [str(s) for s in self.node.ask(SHARES_THERE, None, "shares")]

    # --- Source ----------------------------------------------------------------------------------

    def manifest(self, share: Prepared) -> bytes:
        """A share's manifest. Raises KeyError where the node has no such share."""
        places = self._copy(share)
        if places is not None:
            return places.manifest
        try:
            return bytes(self.node.ask_data(MANIFEST, {"share": share.encode()}, "manifest"))
        except ObjectMissingError as error:
            raise KeyError(str(error)) from error

    def fetch(self, share: Prepared, record: RecordId) -> bytes:
        """A stored payload; the caller checks it. Raises KeyError, RemoteError."""
        out: Bytes1d = np.empty(record.stored_bytes, np.uint8)
        self.fetch_into(share, record, out)
        return bytes(out)

    def fetch_into(self, share: Prepared, record: RecordId, out: Bytes1d) -> int:
        """A stored payload, straight into ``out``; XXH3-64 of what came."""
        places = self._copy(share)
        if places is not None:
            place = places.places[record.key]
            return self.node.read_into(place.pack, place.offset_bytes, out)
        asked = {"share": share.encode(), "seq": record.seq}
        try:
            hash_ = self.node.ask_into(FETCH, asked | {"fresh": False}, record.key, out)
            if hash_ != record.hash:
                # Compaction may have moved it since that node read its index.
                hash_ = self.node.ask_into(FETCH, asked | {"fresh": True}, record.key, out)
            return hash_
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
