"""What can go wrong in a checkpoint store, beneath the families of ``weftline.errors``.

BurstError (WeftlineError)
├── StorageError           (exit 1)  the disk or file system said no: path, errno, hint
├── CorruptionError        (exit 1)  bytes are not what was written: tensor, file, offset
├── CommitError            (exit 1)  a checkpoint could not be made whole
├── NotAStoreError         (exit 2)  the folder is not a burst store
├── NewerFormatError       (exit 2)  written by a newer weftline
├── StoreBusyError         (exit 2)  another process writes as this writer
├── CheckpointMissingError (exit 2)  no such checkpoint, with those that exist
├── TensorMissingError     (exit 2)  no such tensor, with the nearest names
├── MismatchError          (exit 2)  a shape or dtype that does not fit
└── BadNameError           (exit 2)  a tensor or writer name that is refused
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from typing import Any

from weftline.errors import InputError, UnknownNameError, WeftlineError

__all__ = [
    "BadNameError",
    "BurstError",
    "CheckpointMissingError",
    "CommitError",
    "CorruptionError",
    "MismatchError",
    "NewerFormatError",
    "NotAStoreError",
    "StorageError",
    "StoreBusyError",
    "TensorMissingError",
    "storage_error",
]

_HINTS = {
    errno.ENOSPC: "the disk is full: free space, drop old checkpoints (burst gc), or keep fewer",
    errno.EDQUOT: "the quota is used up: free space or raise it",
    errno.EROFS: "the file system is read-only: remount it, or open with read_only=True",
    errno.EACCES: "check the owner and mode of the folder",
    errno.EPERM: "check the owner and mode of the folder",
    errno.EIO: "the device reported a fault: look at the kernel log, do not trust this disk",
    errno.ENOENT: "the path does not exist; was it removed while in use?",
    errno.EMFILE: "too many open files: raise `ulimit -n`",
}


class BurstError(WeftlineError):
    """Base of every error of the checkpoint store."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Ranks pass errors to each other; pickle knows no keywords of constructors.
        return _again, (type(self), self.args, dict(self.__dict__))


def _again(kind: type[BurstError], args: tuple[Any, ...], known: dict[str, Any]) -> BurstError:
    made = kind.__new__(kind, *args)
    made.__dict__.update(known)
    return made


class StorageError(BurstError):
    """An operation on the disk failed; ``errno`` is the kernel's, ``path`` the file."""

    def __init__(self, what: str, *, path: str, errno_: int, hint: str | None = None) -> None:
        super().__init__(what, where=path, hint=hint or _HINTS.get(errno_))
        self.path = path
        self.errno = errno_


class CorruptionError(BurstError):
    """Bytes on disk are not the bytes that were written.

    ``step``, ``tensor``, ``file`` and ``offset_bytes`` say what and where, as far as known.
    """

    def __init__(
        self,
        what: str,
        *,
        file: str,
        offset_bytes: int | None = None,
        step: int | None = None,
        tensor: str | None = None,
        hint: str | None = None,
    ) -> None:
        of = "" if step is None else f" in checkpoint {step}"
        of += "" if tensor is None else f", tensor `{tensor}`"
        where = file if offset_bytes is None else f"{file} at byte {offset_bytes}"
        super().__init__(
            f"{what}{of}",
            where=where,
            hint=hint
            or "restore it from a peer or the object store, or ask for an older checkpoint "
            "(allow_older=True, --allow-older)",
        )
        self.file = file
        self.offset_bytes = offset_bytes
        self.step = step
        self.tensor = tensor


class CommitError(BurstError):
    """A checkpoint could not be committed; nothing that was committed before has changed."""


class NotAStoreError(BurstError, InputError):
    """The folder holds no burst store."""


class NewerFormatError(BurstError, InputError):
    """The store was written by a newer version of the format."""


class StoreBusyError(BurstError, InputError):
    """Another process holds this writer's lock."""


class CheckpointMissingError(BurstError, InputError):
    """No committed checkpoint of that step."""


class TensorMissingError(BurstError, UnknownNameError):
    """The checkpoint has no tensor of that name."""

    def __init__(self, name: str, known: Iterable[str], *, where: str | None = None) -> None:
        UnknownNameError.__init__(self, "tensor", name, known, where=where)


class MismatchError(BurstError, InputError):
    """A shape, dtype or place that does not fit what is stored."""


class BadNameError(BurstError, InputError):
    """A name that could reach outside its place, or cannot be stored."""


def storage_error(error: OSError, doing: str, path: str) -> StorageError:
    """An ``OSError`` as the error a user sees: ``doing`` is a verb phrase such as ``write``."""
    code = error.errno or 0
    name = errno.errorcode.get(code, "OSError")
    return StorageError(f"cannot {doing}: {os.strerror(code)} ({name})", path=path, errno_=code)
