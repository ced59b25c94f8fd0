"""Taking a log up where its last process left it: what the index lost is rebuilt first."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from weftline.burst.care.retention import live_saves
from weftline.burst.commit.commits import Commit
from weftline.burst.commit.view import View
from weftline.burst.errors import BurstError, StorageError, StoreBusyError
from weftline.burst.files import Files
from weftline.burst.log.record import Prepared, digest_of
from weftline.burst.log.salvage import find_manifests
from weftline.burst.log.writer import WriterLog
from weftline.burst.read.reading import StoreReader

__all__ = ["borrowed", "mend_index", "open_log"]


RESERVE: Final = "RESERVE"
"""Blocks that are given up when the disk is full, so that a log can be opened to free space."""
_ROOM_BYTES: Final = 1 << 16
"""What opening writes beside a run of all that the write-ahead log holds."""


def open_log(store: StoreReader, writer: str, *, borrow: bool = False) -> WriterLog:
    """A writer's log, locked and whole. Raises StoreBusyError, StorageError.

    On a full disk the log's reserve is given up, and said.
    """
    reserve = f"{store.view.writers_folder}/{writer}/{RESERVE}"
    try:
        log = _open_log(store, writer, borrow=borrow)
    except StorageError as error:
        if error.errno != errno.ENOSPC or not store.view.files.exists(reserve):
            raise
        store.view.files.unlink(reserve)
        log = _open_log(store, writer, borrow=borrow)
        store.note("the disk is full, and the reserve of this log is used up: free space with gc")
        return log
    if not borrow:
        _keep_reserve(store.view.files, reserve, store.options.wal_bytes + _ROOM_BYTES)
    return log


def _keep_reserve(files: Files, path: str, nbytes: int) -> None:
    """Have blocks for later; no matter if there are none."""
    if files.exists(path):
        return
    with suppress(StorageError):
        file = files.open(path, "x")
        try:
            file.allocate(nbytes)
        finally:
            file.close()


def _open_log(store: StoreReader, writer: str, *, borrow: bool) -> WriterLog:
    log = WriterLog(
        store.view.files, store.view.writers_folder, writer, store_id=store.view.store_id,
        options=store.options, reader=store.reader, notices=store.notices, borrow=borrow,
    )  # fmt: skip
    try:
        with store.view.commits.locked():
            store.view.commits.sync()  # what is gone there is gone for good
            mend_index(store.view, log, store.notices)
            log.recover(live_saves(store.view, log))
    except BaseException:
        log.close()
        raise
    return log


@contextmanager
def borrowed(store: StoreReader, writer: str) -> Iterator[WriterLog | None]:
    """Another writer's log while no process holds it; None when one does."""
    try:
        log = open_log(store, writer, borrow=True)
    except StoreBusyError:
        yield None
        return
    try:
        yield log
    finally:
        log.close()


def _ours(view: View, log: WriterLog, commits: list[Commit]) -> list[Prepared]:
    return [
        r for c in commits for r in c.ranks
        if r.store_id == view.store_id and r.writer == log.writer
    ]  # fmt: skip


def mend_index(view: View, log: WriterLog, notices: list[str]) -> None:
    """Before a log is written again: make sure that its index has every committed save.

    What is missing is rebuilt from the segments. While that cannot be done, or a commit record
    cannot be read, the log is frozen: it may grow, and nothing in it is freed or overwritten.
    """
    commits, errors = view.commits.all()
    missing = [r for r in _ours(view, log, commits) if not _whole(log, r)]
    log.frozen = bool(errors)
    notices += [f"{e}; until it is mended or dropped, no space is freed" for e in errors]
    if not missing:
        return
    notices += [str(e) for e in log.index.damage]
    rebuilt = find_manifests(view.files, log.folder, missing)
    for rank in missing:
        manifest = rebuilt.get(rank.save_id)
        if manifest is None:
            log.frozen = True
            notices.append(
                f"{log.folder}: the index of step {rank.step} cannot be rebuilt; nothing is freed"
            )
            continue
        log.mended.append(manifest)
        notices.append(f"{log.folder}: the index of step {rank.step} was rebuilt from segments")


def _whole(log: WriterLog, rank: Prepared) -> bool:
    try:
        found = log.manifest(rank.save_id)
    except (BurstError, ValueError):
        return False
    return found is not None and digest_of(found.parts) == rank.digest
