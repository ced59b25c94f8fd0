"""A small file where a framework expects a checkpoint of its own, saying where the checkpoint is.

Frameworks look for files by name, list them and delete them. The file stands there once the
checkpoint is committed, never before, and names the store, the step, and which part of it is meant.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from weftline.burst.errors import CheckpointMissingError
from weftline.burst.files import RealFiles, local_folder, write_atomic
from weftline.burst.handle import SaveHandle
from weftline.burst.nodes.cluster import Nodes
from weftline.burst.options import Options
from weftline.burst.pytorch.devices import pinning
from weftline.burst.pytorch.writer import store_and_step
from weftline.burst.store import Store
from weftline.errors import InputError

__all__ = ["Keeper", "Pointer", "has_checkpoints", "read_pointer"]

_BYTES_MAX: Final = 1 << 16
"""A longer file is a checkpoint of the framework's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pointer:
    """What stands in the file."""

    store: str
    """Folder of the store."""
    step: int | None
    """Which checkpoint; None means the newest."""
    part: str = ""
    """Key of the state dict that is meant; all of it where empty."""

    def write(self, path: str | os.PathLike[str]) -> None:
        """Put it there, whole or not at all. Raises StorageError."""
        text = msgspec.json.encode(
            {"weftline.burst": 1, "store": self.store, "step": self.step, "part": self.part}
        )
        files = RealFiles()
        target = os.path.abspath(path)  # noqa: PTH100  (paths are plain strings here)
        folder = target.rpartition("/")[0] or "/"
        Path(folder).mkdir(parents=True, exist_ok=True)
        write_atomic(files, target, text + b"\n")


def read_pointer(path: str | os.PathLike[str]) -> Pointer:
    """What a path means: a pointer file, a store, or ``STORE/step-10``.

    Raises CheckpointMissingError where nothing is, InputError for a file of another kind.
    """
    place = local_folder(path, "a checkpoint")
    text = str(place)
    if place.is_file():
        said = _said(place)
        if said is not None:
            return said
        raise InputError(
            "this is no checkpoint that burst has saved", where=text,
            hint="a checkpoint of another kind comes in with `weftline burst import`",
        )  # fmt: skip
    store, step = store_and_step(text)
    if not Path(store, "BURST").exists():
        raise CheckpointMissingError("no checkpoint is here", where=text)
    return Pointer(store=store, step=step)


def has_checkpoints(path: str | os.PathLike[str]) -> bool:
    """Whether there is a store at a path, and a commit record in it, whole or damaged."""
    if not (local_folder(path) / "BURST").exists():
        return False
    with Store.open(os.fspath(path), create=False, read_only=True) as store:
        return bool(store.view.commits.steps())


def _said(place: Path) -> Pointer | None:
    if place.stat().st_size > _BYTES_MAX:
        return None
    try:
        found = msgspec.json.decode(place.read_bytes(), type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    if found.get("weftline.burst") != 1:
        return None
    return Pointer(store=found["store"], step=found["step"], part=found["part"])


class Keeper:
    """One store, opened at the first save, and what is done once each save is committed."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        writer: str,
        options: Options | None,
        nodes: Nodes | None = None,
    ) -> None:
        self.path = str(local_folder(path).absolute())
        self._nodes = nodes
        self._writer = writer
        self._options = options
        self._store: Store | None = None
        self._after: ThreadPoolExecutor | None = None
        self._waiting: list[Future[None]] = []
        self._lock = threading.Lock()
        self._given = -1

    def store(self) -> Store:
        """The store, open to be written."""
        with self._lock:
            if self._store is None:
                nodes = self._nodes
                self._store = Store.open(
                    self.path, writer=self._writer, options=pinning(self._options),
                    run=None if nodes is None else nodes.run,
                    copier=None if nodes is None else nodes.copier(),
                )  # fmt: skip
                self._after = ThreadPoolExecutor(1, thread_name_prefix="burst-after")
            return self._store

    def free_step(self, wanted: int | None) -> int:
        """``wanted`` where it is above every step that there is, else the next."""
        following = max(self.store().next_step(), self._given + 1)  # some are on their way
        self._given = following if wanted is None or wanted < following else wanted
        return self._given

    def then(self, handle: SaveHandle, act: Callable[[], None]) -> None:
        """Do something once a save is committed, in the order of the saves."""

        def run() -> None:
            handle.wait()
            act()

        assert self._after is not None  # noqa: S101  (a save has opened the store)
        self._raise_failed()
        self._waiting.append(self._after.submit(run))

    def when_ended(self, handle: SaveHandle, act: Callable[[], None]) -> None:
        """Do something once a save has ended, well or not; its error is told by the handle."""

        def run() -> None:
            handle.join()
            act()

        assert self._after is not None  # noqa: S101  (a save has opened the store)
        self._waiting.append(self._after.submit(run))

    def settle(self) -> None:
        """Wait for every save and what follows it; raises the first error."""
        for future in self._waiting:
            future.exception()
        self._raise_failed()

    def _raise_failed(self) -> None:
        done = [f for f in self._waiting if f.done()]
        self._waiting = [f for f in self._waiting if f not in done]
        for future in done:
            future.result()

    def close(self) -> None:
        """Settle, and close the store; the next save opens it again."""
        try:
            self.settle()
        finally:
            store, self._store = self._store, None
            if self._after is not None:
                self._after.shutdown(wait=True)
                self._after = None
            if store is not None:
                store.close()
