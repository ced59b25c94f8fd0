"""Numba as weftline uses it: compiled once on a machine, wherever that can be kept.

Numba keeps compiled code beside the source or in the user's cache, and refuses to work where it may
write to neither, as in a container with a read-only home. There it gets a folder of this user's
own among the temporary files, and where even that cannot be had, code is compiled for this process
alone.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

__all__ = ["compiled", "has_option", "inlined"]

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F, **options: Any) -> F:
    """Compile a function without Python objects; kept on disk. Options are ``numba.njit``'s."""
    return cast("F", numba.njit(cache=_KEPT, **options)(function))


def inlined(function: F) -> F:
    """The same for what is to become part of its callers."""
    return compiled(function, inline="always")


def has_option(name: str) -> bool:
    """Whether this numba knows an option that it does not document."""
    return hasattr(DefaultOptions, name)


def _keep() -> bool:
    """Whether compiled code can be kept; sets where, if it is not one of numba's own places."""
    if os.environ.get("NUMBA_CACHE_DIR"):
        return True
    home = os.environ.get("XDG_CACHE_HOME") or str(Path("~/.cache").expanduser())
    if _writable(Path(__file__).parent / "__pycache__") or _writable(Path(home) / "numba"):
        return True
    own = Path(tempfile.gettempdir()) / f"weftline-{os.getuid()}"
    if not (_writable(own) and _is_ours_alone(own)):
        return False
    os.environ["NUMBA_CACHE_DIR"] = str(own)
    return True


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return False
    return True


def _is_ours_alone(folder: Path) -> bool:
    """Nobody else may put code there that we would run."""
    found = folder.lstat()
    return folder.is_dir() and not folder.is_symlink() and (
        found.st_uid == os.getuid() and found.st_mode & 0o077 == 0
    )  # fmt: skip


_KEPT = _keep()

import numba  # noqa: E402  (it reads NUMBA_CACHE_DIR as it is imported)
from numba.core.options import DefaultOptions  # noqa: E402
