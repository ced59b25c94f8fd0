"""From a share that is durable here to one that can be committed: its copies, and its place.

A node that keeps no copy is noted: the checkpoint is committed without, and retention keeps the
last one that had them all.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Protocol

import msgspec

from weftline.burst.commit.commits import Commit
from weftline.burst.errors import BurstError
from weftline.burst.log.record import Prepared
from weftline.burst.read.reading import StoreReader

__all__ = ["Copier", "Handover"]


class Copier(Protocol):
    """Keeps copies of this node's shares in the memory of others."""

    def copy(self, store: StoreReader, share: Prepared) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Copy a share that is durable here: nodes that have it then, and what went wrong."""

    def committed(self, record: bytes, commit: Commit) -> tuple[str, ...]:
        """Tell those nodes of a checkpoint; what went wrong."""

    def close(self) -> None:
        """Let go of connections."""


class Handover:
    """What follows the seal of a share, and what follows a commit. Safe from several threads."""

    def __init__(self, store: StoreReader, copier: Copier | None) -> None:
        self._store = store
        self._copier = copier
        self._floor = 0
        self._lock = threading.Lock()

    def prepared(self, share: Prepared) -> Prepared:
        """The share with its copies, and a floor above every commit and save before it."""
        copies: tuple[str, ...] = ()
        if self._copier is not None:
            try:
                copies, trouble = self._copier.copy(self._store, share)
            except BurstError as e:
                trouble = (str(e),)
            self._tell(trouble)
        with self._lock:
            self._floor = max(self._floor + 1, self._store.view.commits.next_sequence())
            return msgspec.structs.replace(share, floor=self._floor, copies=copies)

    def committed(self, commit: Commit) -> None:
        """A record stands in this store."""
        with self._lock:
            self._floor = max(self._floor, commit.sequence)
        if self._copier is None:
            return
        try:
            record = self._store.view.commits.record(commit.step)
            trouble = self._copier.committed(record, commit)
        except BurstError as e:
            trouble = (str(e),)
        self._tell(trouble)

    def close(self) -> None:
        """Let go of connections."""
        if self._copier is not None:
            self._copier.close()

    def _tell(self, trouble: Iterable[str]) -> None:
        for what in trouble:
            self._store.count("copies_failed")
            self._store.note(f"copies on other nodes: {what}")
