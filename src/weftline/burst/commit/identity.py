"""The file that makes a folder a store, how a new store comes to be, and the run it belongs to.

A store is one folder; a run is one training job, whose shares may be in the stores of many nodes.
A store that no one told of a run is one by itself, under its own name.
"""

from __future__ import annotations

import errno
import uuid
from pathlib import Path

import msgspec

from weftline.burst.commit.commits import Commits
from weftline.burst.errors import (
    CorruptionError,
    MismatchError,
    NotAStoreError,
    StorageError,
)
from weftline.burst.files import Files, write_atomic
from weftline.burst.log.envelope import open_either, seal_twice
from weftline.burst.log.index import Index
from weftline.burst.log.writer import saves_of
from weftline.burst.stage.state import check_word

__all__ = ["Identity", "join_run", "open_identity"]


class Identity(msgspec.Struct, array_like=True, frozen=True):
    """The body of the file ``BURST`` that makes a folder a store."""

    store_id: str
    own_run: str = ""
    """The run the store was told of; empty for one that is a run by itself."""

    @property
    def run(self) -> str:
        """The run this store's checkpoints belong to."""
        return self.own_run or self.store_id


def open_identity(files: Files, root: str, *, create: bool) -> tuple[Identity, str | None]:
    """The store's identity, and what had to be done for it; an empty folder becomes a store.

    That only with ``create``.

    Where the file is lost or damaged, the identity is that of the commit records and of the saves
    in the logs, if all of them agree; it is written again when ``create``. Raises CorruptionError
    where checkpoints or logs are there and say nothing, or different things: a new identity would
    make them another store's, and what they hold would be let go.

    Raises NotAStoreError, NewerFormatError, CorruptionError, StorageError.
    """
    path = f"{root}/BURST"
    if files.exists(path):
        try:
            return open_either("S", files.read_bytes(path), Identity, path=path)[0], None
        except CorruptionError as damage:
            return _recovered(files, root, damage, write=create)
    # A store in the making has its identity before it has logs: look once more.
    if _has_logs(files, root) and not files.exists(path):
        lost = CorruptionError("the identity of the store is lost", file=path)
        return _recovered(files, root, lost, write=create)
    others = [n for n in files.list_dir(root) if n not in ("commits", "writers")]
    if "BURST" in others:  # another process has just made it
        return open_either("S", files.read_bytes(path), Identity, path=path)[0], None
    if not create or any(not n.startswith("BURST.") for n in others):
        raise NotAStoreError(
            "this is not a burst store" if files.exists(root) else "there is no such folder",
            where=root,
            hint="name the folder of a store, or an empty folder to make one",
        )
    folders = [p for p in [root, *map(str, Path(root).parents)] if not files.exists(p)]
    for folder in reversed(folders):
        files.make_dir(folder)
        files.sync_dir(str(Path(folder).parent))
    for name in ("commits", "writers"):
        files.make_dir(f"{root}/{name}")
    _touch(files, f"{root}/commits/LOCK")
    files.sync_dir(f"{root}/commits")
    files.sync_dir(root)  # a store that is there has its folders, also after a crash right now
    # Of two processes that make the same store at once, the first link counts for both.
    temporary = f"{root}/BURST.{uuid.uuid4().hex}.tmp"
    file = files.open(temporary, "x")
    try:
        file.write_at([seal_twice("S", Identity(uuid.uuid4().hex))], 0)
        file.sync()
    finally:
        file.close()
    try:
        files.link(temporary, path)
    except StorageError as e:
        if e.errno != errno.EEXIST:
            raise
    files.unlink(temporary)
    files.sync_dir(root)
    return open_either("S", files.read_bytes(path), Identity, path=path)[0], None


def _has_logs(files: Files, root: str, *, commits_only: bool = False) -> bool:
    """Whether more is there than the folders of a store that is just being made."""
    logs = [] if commits_only else files.list_dir(f"{root}/writers")
    return bool(logs) or bool(Commits(files, f"{root}/commits").steps())


def _recovered(
    files: Files, root: str, damage: CorruptionError, *, write: bool
) -> tuple[Identity, str]:
    """The identity that all there is agrees on. Raises ``damage`` where there is no such one."""
    commits, errors = Commits(files, f"{root}/commits").all()
    found = {c.store_id for c in commits if c.store_id} | _sealed_by(files, root)
    runs = {c.run for c in commits if c.run}
    if len(found) != 1 or len(runs) > 1 or errors:
        raise CorruptionError(
            f"{damage.what}, and the checkpoints and logs do not agree on it", file=damage.file,
            offset_bytes=damage.offset_bytes,
            hint="put the file BURST back from a copy; nothing here was changed",
        ) from damage  # fmt: skip
    store_id = found.pop()
    identity = Identity(store_id, next((r for r in runs if r != store_id), ""))
    if write:
        write_identity(files, root, identity)
    done = "was written anew" if write else "is taken"
    return identity, f"{damage.file}: {damage.what}; the one that all checkpoints name {done}"


def _sealed_by(files: Files, root: str) -> set[str]:
    """Store ids in the seals of the logs: shares whose checkpoints lie in several stores say it."""
    found = set()
    for writer in files.list_dir(f"{root}/writers"):
        index = Index(files, f"{root}/writers/{writer}")
        try:
            found |= {s.store_id for s in saves_of(index.scan()).values() if s is not None}
        finally:
            index.close()
    return found


def write_identity(files: Files, root: str, identity: Identity) -> None:
    """Put the file ``BURST`` in place, durably."""
    write_atomic(files, f"{root}/BURST", seal_twice("S", identity))


def join_run(files: Files, root: str, identity: Identity, run: str) -> Identity:
    """The identity with this run: told once, while the store has no checkpoint of another.

    The caller holds the lock of commits. Raises MismatchError, BadNameError.
    """
    check_word(run, what="run")
    if identity.run == run:
        return identity
    if identity.own_run or _has_logs(files, root, commits_only=True):
        raise MismatchError(
            f"the store belongs to run `{identity.run}`, not to `{run}`", where=root,
            hint="give this run a folder of its own, or go on with the run that is here",
        )  # fmt: skip
    joined = Identity(identity.store_id, run)
    write_identity(files, root, joined)
    return joined


def _touch(files: Files, path: str) -> None:
    if files.exists(path):
        return
    try:
        files.open(path, "x").close()
    except StorageError as e:
        if e.errno != errno.EEXIST:
            raise
