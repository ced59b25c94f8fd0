"""Whether a folder's file system keeps what a store relies on: tried out, not looked up.

Locks are tried between two processes, since a network file system may keep them within one alone.
What only speed rests on is told apart from what correctness does. Whether a sync reaches the disk,
no program can see: that is the file system's word.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from weftline.burst.errors import BurstError, storage_error
from weftline.burst.files import ALIGN_BYTES, RealFiles, file_system_of, local_folder
from weftline.burst.stage.arena import aligned_buffer

__all__ = ["Check", "Found", "probe"]

_TRY_LOCK: Final = """
import fcntl, sys
with open(sys.argv[1], "r+b") as file:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit(7)
"""
SHARED: Final = frozenset(
    ("nfs", "nfs4", "lustre", "ceph", "fuse.ceph", "glusterfs", "beegfs", "gpfs", "wekafs", "cifs")
)
"""Types that several machines may see at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was tried."""

    name: str
    works: bool
    needed: bool
    """Whether a store that is written needs it to be correct; else it costs speed or nothing."""
    says: str
    """What was seen, or what is lost without it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a folder's file system does."""

    folder: str
    kind: str
    """Type as the kernel names it: ext4, nfs4, lustre."""
    shared: bool
    """Whether that is a type that other machines may write to as well."""
    checks: tuple[Check, ...]

    @property
    def fit(self) -> bool:
        """Whether a store can be written here."""
        return all(c.works for c in self.checks if c.needed)


def probe(folder: str | os.PathLike[str]) -> Found:
    """Try everything in a folder of its own there, which is removed. Raises StorageError."""
    place = local_folder(folder, "what is tried out")
    try:
        own = tempfile.mkdtemp(prefix=".burst-doctor-", dir=place)
    except OSError as error:
        raise storage_error(error, "make a folder in", str(place)) from error
    try:
        checks = tuple(
            _tried(name, needed, without, act, own) for name, needed, without, act in _CHECKS
        )
    finally:
        shutil.rmtree(own, ignore_errors=True)
    kind = file_system_of(place)
    return Found(folder=str(place), kind=kind, shared=kind in SHARED, checks=checks)


def _tried(
    name: str, needed: bool, without: str, act: Callable[[str], str], own: str
) -> Check:  # fmt: skip
    try:
        said = act(own)
    except (OSError, BurstError) as error:
        what = error.strerror if isinstance(error, OSError) else str(error).splitlines()[0]
        return Check(name=name, works=False, needed=needed, says=f"{what}; {without}")
    return Check(name=name, works=True, needed=needed, says=said)


def _lock(own: str) -> str:
    files = RealFiles()
    file = files.open(f"{own}/lock", "x")
    try:
        file.lock(exclusive=True, wait=False)
        told = subprocess.run([sys.executable, "-c", _TRY_LOCK, f"{own}/lock"], check=False)  # noqa: S603
        if told.returncode != 7:
            raise OSError(0, "another process got a lock that was held")
    finally:
        file.close()
    return "held against another process of this machine"


def _rename(own: str) -> str:
    files = RealFiles()
    for name in ("old", "new"):
        Path(own, name).write_text(name)
    with Path(own, "old").open() as reading:
        files.rename(f"{own}/new", f"{own}/old")
        if Path(own, "old").read_text() != "new" or reading.read() != "old":
            raise OSError(0, "a file that was replaced is not one or the other")
    return "replaces in one step, and a reader keeps the old file"


def _sync(own: str) -> str:
    file = RealFiles().open(f"{own}/sync", "x")
    try:
        file.write_at([b"x" * 100], 0)
        file.sync()
    finally:
        file.close()
    return "answers"


def _sync_folder(own: str) -> str:
    fd = os.open(own, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    return "answers"


def _exclusive(own: str) -> str:
    RealFiles().open(f"{own}/once", "x").close()
    try:
        os.close(os.open(f"{own}/once", os.O_RDWR | os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return "a name is made once"
    raise OSError(0, "a file that was there was made again")


def _direct(own: str) -> str:
    file = RealFiles().open(f"{own}/direct", "x", direct=True)
    try:
        if not file.direct:
            raise OSError(0, "refused")
        buffer = aligned_buffer(ALIGN_BYTES)
        buffer[:] = 7
        file.write_at([buffer.data], 0)
        back = aligned_buffer(ALIGN_BYTES)
        if file.read_at([back.data], 0) != ALIGN_BYTES or back[100] != 7:
            raise OSError(0, "what was read is not what was written")
    finally:
        file.close()
    return "past the page cache"


def _allocate(own: str) -> str:
    with Path(own, "blocks").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, 1 << 20)
        blocks = os.fstat(file.fileno()).st_blocks * 512
    if blocks < 1 << 20:
        raise OSError(0, "no blocks were set aside")
    return "blocks are set aside before a save needs them"


def _link(own: str) -> str:
    Path(own, "one").write_text("1")
    RealFiles().link(f"{own}/one", f"{own}/two")
    return "works"


_CHECKS: Final[tuple[tuple[str, bool, str, Callable[[str], str]], ...]] = (
    ("flock", True, "two writers could not be told apart", _lock),
    ("rename", True, "a commit would not be whole or absent", _rename),
    ("fsync of a file", True, "nothing would be durable", _sync),
    ("exclusive create", True, "two writers could make one segment", _exclusive),
    ("fsync of a folder", False, "names are durable when the server says so", _sync_folder),
    ("O_DIRECT", False, "writes go through the page cache and take memory from training", _direct),
    ("fallocate", False, "a disk may be found full in the middle of a save", _allocate),
    ("hard links", False, "a peer's copies are made by renaming", _link),
)
