"""The thin layer beneath the store: everything that touches the disk, and nothing else.

The store only ever acts on the disk through a :class:`Files` and the :class:`File` handles it
opens, so that a test can put a layer of its own in their place: one that records every call and
replays the states a crash may leave, or one that fails on purpose.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol

from weftline.burst.errors import NotAStoreError, storage_error

__all__ = ["ALIGN_BYTES", "Buffer", "File", "Files", "RealFiles", "local_folder", "write_atomic"]

_URL: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+")
"""Two letters and more before the colon: one is a drive."""
ALIGN_BYTES: Final = 4096
"""Direct I/O moves whole blocks of this size, from memory and places aligned to it."""
LARGE_BYTES: Final = 1 << 18
"""From this size on a payload starts on a block of its own; smaller ones are packed."""

Buffer = bytes | bytearray | memoryview


class File(Protocol):
    """One open file. Offsets and lengths in bytes. All methods raise ``StorageError``."""

    path: str
    direct: bool
    """True when reads and writes go past the page cache and must be aligned."""

    def write_at(self, buffers: Sequence[Buffer], offset_bytes: int) -> None:
        """Write all of ``buffers``, one after the other, from ``offset_bytes`` on."""

    def read_at(self, buffers: Sequence[memoryview], offset_bytes: int) -> int:
        """Fill ``buffers`` in order from ``offset_bytes`` on; fewer bytes only at the end."""

    def allocate(self, length_bytes: int) -> None:
        """Make the file this long, with blocks set aside for it."""

    def truncate(self, length_bytes: int) -> None:
        """Cut or extend the file to this length."""

    def sync(self) -> None:
        """Return when data and length are on stable storage."""

    def size(self) -> int:
        """Length of the file in bytes."""

    def lock(self, *, exclusive: bool, wait: bool) -> bool:
        """Take an advisory lock on the whole file; False if another holds it (``wait=False``)."""

    def unlock(self) -> None:
        """Give the advisory lock back."""

    def close(self) -> None:
        """Close the handle; a second call does nothing."""


class Files(Protocol):
    """A file system. Paths are absolute strings. All methods raise ``StorageError``."""

    def open(self, path: str, mode: str, *, direct: bool = False) -> File:
        """Open ``path``: mode ``r`` to read, ``w`` to write an existing file, ``x`` to create.

        ``direct`` asks for O_DIRECT; where it is refused the handle says ``direct = False``.
        """

    def rename(self, source: str, target: str) -> None:
        """Replace ``target`` by ``source`` in one step."""

    def link(self, source: str, target: str) -> None:
        """A second name for a file."""

    def unlink(self, path: str) -> None:
        """Remove a name; no error if it is gone already."""

    def make_dir(self, path: str) -> None:
        """Create one folder; no error if it exists."""

    def remove_dir(self, path: str) -> None:
        """Remove an empty folder; no error if it is gone or not empty."""

    def list_dir(self, path: str) -> list[str]:
        """Sorted names in a folder; an empty list if there is no such folder."""

    def exists(self, path: str) -> bool:
        """Whether a file or folder of that name is there."""

    def read_bytes(self, path: str) -> bytes:
        """The whole of a small file."""

    def stamp(self, path: str) -> tuple[int, int, int, int]:
        """Inode, length, and times of the last change of content and of inode, in ns."""

    def sync_dir(self, path: str) -> None:
        """Return when the names in this folder are on stable storage."""


def local_folder(path: str | os.PathLike[str], what: str = "a store") -> Path:
    """The folder that ``path`` names; ``file://`` is understood. ``what`` is to be there.

    Raises NotAStoreError for another URL, also one that a :class:`Path` was made of, which has one
    slash less: it would become a folder of that name here.
    """
    text = os.fspath(path)
    found = _URL.match(text)
    if found is None:
        return Path(text)
    if found[1].lower() == "file":
        return Path("/" + text[found.end() :])
    raise NotAStoreError(
        f"{what} is a local folder, and this is a URL", where=text,
        hint="save to a folder and send it there: `weftline burst drain FOLDER --to URL`; "
        "`weftline burst restore URL FILE` loads from it",
    )  # fmt: skip


def file_system_of(folder: str | os.PathLike[str]) -> str:
    """The type of the mount that a folder is on, as the kernel lists it."""
    wanted = os.stat(folder).st_dev  # noqa: PTH116
    best = ("", "unknown")
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        fields = left.split()
        major, minor = map(int, fields[2].split(":"))
        where = fields[4].encode().decode("unicode_escape")
        inside = str(Path(folder).resolve()).startswith(where)
        if (os.makedev(major, minor) == wanted or inside) and len(where) >= len(best[0]) and inside:
            best = (where, right.split()[0])
    return best[1]


def write_atomic(files: Files, path: str, data: bytes) -> None:
    """Put ``data`` at ``path`` so that after any crash it is whole or the old file is still there.

    Temporary file, sync, rename, sync of the folder. The temporary name ends in ``.tmp``.
    """
    temporary = f"{path}.tmp"
    files.unlink(temporary)
    handle = files.open(temporary, "x")
    try:
        handle.write_at([data], 0)
        handle.sync()
    finally:
        handle.close()
    files.rename(temporary, path)
    files.sync_dir(os.path.dirname(path))  # noqa: PTH120  (paths are plain strings here)


class RealFile:
    """A :class:`File` of this machine."""

    def __init__(self, path: str, fd: int, *, direct: bool) -> None:
        self.path = path
        self.direct = direct
        self._fd = fd

    def write_at(self, buffers: Sequence[Buffer], offset_bytes: int) -> None:
        """See :class:`File`. A short write is continued; one that gets nowhere is an error."""
        left = [memoryview(b).cast("B") for b in buffers if len(b)]
        try:
            while left:
                written = os.pwritev(self._fd, left, offset_bytes)
                if self.direct:  # a write cut inside a block is done again from its start
                    written -= written % ALIGN_BYTES
                if written == 0:
                    raise OSError(errno.EIO, "wrote nothing")
                offset_bytes += written
                left = _after(left, written)
        except OSError as e:
            raise storage_error(e, "write", self.path) from e

    def read_at(self, buffers: Sequence[memoryview], offset_bytes: int) -> int:
        """See :class:`File`."""
        left = [b.cast("B") for b in buffers if len(b)]
        total = 0
        try:
            while left:
                got = os.preadv(self._fd, left, offset_bytes + total)
                if got == 0:
                    break
                total += got
                left = _after(left, got)
                if left and self.direct and got % 512:
                    break  # only the end of the file is not a whole sector
        except OSError as e:
            raise storage_error(e, "read", self.path) from e
        return total

    def allocate(self, length_bytes: int) -> None:
        """See :class:`File`. Where blocks cannot be set aside the file is only made longer."""
        try:
            os.posix_fallocate(self._fd, 0, length_bytes)
        except OSError as e:
            if e.errno not in (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):
                raise storage_error(e, f"allocate {length_bytes} bytes", self.path) from e
            self.truncate(length_bytes)

    def truncate(self, length_bytes: int) -> None:
        """See :class:`File`."""
        try:
            os.ftruncate(self._fd, length_bytes)
        except OSError as e:
            raise storage_error(e, "resize", self.path) from e

    def sync(self) -> None:
        """See :class:`File`."""
        try:
            os.fdatasync(self._fd)
        except OSError as e:
            raise storage_error(e, "sync", self.path) from e

    def size(self) -> int:
        """See :class:`File`."""
        try:
            return os.fstat(self._fd).st_size
        except OSError as e:
            raise storage_error(e, "look at", self.path) from e

    def lock(self, *, exclusive: bool, wait: bool) -> bool:
        """See :class:`File`. The kernel gives the lock back when the process ends."""
        how = (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | (0 if wait else fcntl.LOCK_NB)
        try:
            fcntl.flock(self._fd, how)
        except BlockingIOError:
            return False
        except OSError as e:
            raise storage_error(e, "lock", self.path) from e
        return True

    def unlock(self) -> None:
        """See :class:`File`."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_UN)
        except OSError as e:
            raise storage_error(e, "unlock", self.path) from e

    def close(self) -> None:
        """See :class:`File`."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            try:
                os.close(fd)
            except OSError as e:
                raise storage_error(e, "close", self.path) from e

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _after(buffers: list[memoryview], count: int) -> list[memoryview]:
    """What is left of ``buffers`` once their first ``count`` bytes are done."""
    for i, buffer in enumerate(buffers):
        if count < len(buffer):
            return [buffer[count:], *buffers[i + 1 :]]
        count -= len(buffer)
    return []


_FLAGS: Final = {
    "r": os.O_RDONLY,
    "w": os.O_RDWR,
    "x": os.O_RDWR | os.O_CREAT | os.O_EXCL,
}


class RealFiles:
    """The :class:`Files` of this machine."""

    def open(self, path: str, mode: str, *, direct: bool = False) -> RealFile:
        """See :class:`Files`."""
        flags = _FLAGS[mode] | os.O_CLOEXEC | os.O_NOFOLLOW
        o_direct = getattr(os, "O_DIRECT", 0)
        if direct and o_direct:
            try:
                return RealFile(path, os.open(path, flags | o_direct, 0o644), direct=True)
            except OSError as e:
                if e.errno != errno.EINVAL:
                    raise storage_error(e, "open", path) from e
                # O_CREAT may have made the file before the flag was refused.
                if mode == "x":
                    self.unlink(path)
        try:
            return RealFile(path, os.open(path, flags, 0o644), direct=False)
        except OSError as e:
            raise storage_error(e, "open", path) from e

    def rename(self, source: str, target: str) -> None:
        """See :class:`Files`."""
        try:
            os.replace(source, target)  # noqa: PTH105
        except OSError as e:
            raise storage_error(e, f"rename {source} to this", target) from e

    def link(self, source: str, target: str) -> None:
        """See :class:`Files`."""
        try:
            os.link(source, target)
        except OSError as e:
            raise storage_error(e, f"link {source} to this", target) from e

    def unlink(self, path: str) -> None:
        """See :class:`Files`."""
        try:
            Path(path).unlink(missing_ok=True)
        except OSError as e:
            raise storage_error(e, "remove", path) from e

    def make_dir(self, path: str) -> None:
        """See :class:`Files`."""
        try:
            Path(path).mkdir(exist_ok=True)
        except OSError as e:
            raise storage_error(e, "create the folder", path) from e

    def remove_dir(self, path: str) -> None:
        """See :class:`Files`."""
        try:
            Path(path).rmdir()
        except OSError as e:
            if e.errno not in (errno.ENOENT, errno.ENOTEMPTY):
                raise storage_error(e, "remove the folder", path) from e

    def list_dir(self, path: str) -> list[str]:
        """See :class:`Files`."""
        try:
            return sorted(os.listdir(path))  # noqa: PTH208
        except FileNotFoundError:
            return []
        except OSError as e:
            raise storage_error(e, "list", path) from e

    def exists(self, path: str) -> bool:
        """See :class:`Files`."""
        return Path(path).exists()

    def read_bytes(self, path: str) -> bytes:
        """See :class:`Files`."""
        try:
            return Path(path).read_bytes()
        except OSError as e:
            raise storage_error(e, "read", path) from e

    def stamp(self, path: str) -> tuple[int, int, int, int]:
        """See :class:`Files`."""
        try:
            s = os.stat(path, follow_symlinks=False)  # noqa: PTH116
        except OSError as e:
            raise storage_error(e, "look at", path) from e
        return s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns

    def sync_dir(self, path: str) -> None:
        """See :class:`Files`."""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as e:
            raise storage_error(e, "open the folder", path) from e
        try:
            os.fsync(fd)
        except OSError as e:
            if e.errno != errno.EINVAL:  # some network file systems have no folder to sync
                raise storage_error(e, "sync the folder", path) from e
        finally:
            os.close(fd)
