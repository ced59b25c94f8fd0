"""How close a store comes to its own machine: one memory copy, raw writes, raw reads, in one run.

Raw writes go past the page cache into a file whose blocks exist already, eight of 8 MiB in flight,
synced at the end: what the disk can do. The store is measured on the same folder, its segments
written before, as they are in a training run after its first saves. The rounds of both are
interleaved, since disks are noisy; each figure is the best round.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import numpy as np

from weftline.burst.errors import storage_error
from weftline.burst.files import File, RealFiles, local_folder
from weftline.burst.options import Options
from weftline.burst.stage.arena import aligned_buffer
from weftline.burst.store import Store

__all__ = ["RawDisk", "copy_s", "measure", "random_state", "touched_like"]

BLOCK_BYTES: Final = 8 << 20
IN_FLIGHT: Final = 8
TENSOR_BYTES: Final = 64 << 20


def random_state(nbytes: int, seed: int) -> dict[str, np.ndarray[Any, Any]]:
    """Random float32 tensors of about ``nbytes`` in all, their memory touched."""
    generator = np.random.default_rng(seed)
    count = max(1, round(nbytes / TENSOR_BYTES))
    rows = max(1, nbytes // count // 4096)
    block = generator.standard_normal((min(rows, 4096), 1024), dtype=np.float32)
    return {f"layers.{i}.weight": np.resize(np.roll(block, i), (rows, 1024)) for i in range(count)}


def copy_s(state: dict[str, np.ndarray[Any, Any]], into: dict[str, np.ndarray[Any, Any]]) -> float:
    """Seconds of one memory copy of the state ``into`` memory that was touched, one thread."""
    start_s = time.perf_counter()
    for name, array in state.items():
        np.copyto(into[name], array)
    return time.perf_counter() - start_s


def touched_like(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Memory of the same shape whose pages are there: zeros from the kernel are not, yet."""
    return np.full_like(array, 1)


class RawDisk:
    """A file on the disk in question, written and read as fast as the disk allows."""

    def __init__(self, folder: str, nbytes: int, name: str = "raw") -> None:
        self._files = RealFiles()
        self._path = f"{folder}/{name}"
        self._blocks = -(-nbytes // BLOCK_BYTES)
        self.nbytes = self._blocks * BLOCK_BYTES
        self._buffers = [aligned_buffer(BLOCK_BYTES, huge=True).data for _ in range(IN_FLIGHT)]
        for i, buffer in enumerate(self._buffers):
            np.frombuffer(buffer, np.uint8)[:] = (np.arange(BLOCK_BYTES) * (2 * i + 1)) % 251
        self._file = self._files.open(self._path, "x", direct=True)
        self._file.allocate(self.nbytes)
        self.write()  # blocks that have never been written are slower, on every file system

    @property
    def direct(self) -> bool:
        """Whether this went past the page cache."""
        return self._file.direct

    def write(self) -> float:
        """Bytes a second of writing the whole file, durable at the end."""
        start_s = time.perf_counter()
        self._each(lambda file, buffer, at: file.write_at([buffer], at))
        self._file.sync()
        return self.nbytes / (time.perf_counter() - start_s)

    def read(self) -> float:
        """Bytes a second of reading the whole file."""
        forget(self._path)
        start_s = time.perf_counter()
        self._each(lambda file, buffer, at: file.read_at([buffer], at))
        return self.nbytes / (time.perf_counter() - start_s)

    def _each(self, act: Callable[[File, memoryview, int], Any]) -> None:
        def lane(number: int) -> None:
            for block in range(number, self._blocks, IN_FLIGHT):
                act(self._file, self._buffers[number], block * BLOCK_BYTES)

        with ThreadPoolExecutor(IN_FLIGHT) as pool:
            list(pool.map(lane, range(IN_FLIGHT)))

    def close(self) -> None:
        """Remove the file."""
        self._file.close()
        self._files.unlink(self._path)


def forget(path: str) -> None:
    """Drop what the page cache has of a file, or of every file under a folder."""
    for file in [Path(path)] if Path(path).is_file() else sorted(Path(path).rglob("*")):
        if file.is_file():
            fd = os.open(file, os.O_RDONLY)
            try:
                os.fsync(fd)
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(fd)


def measure(
    folder: str | os.PathLike[str],
    state_bytes: int,
    *,
    rounds: int = 3,
    seed: int = 0,
    options: Options | None = None,
    progress: Callable[[str, float], None] | None = None,
) -> dict[str, Any]:
    """Stall, durable writes and checked loads of a store in ``folder``, and their ratios.

    Seconds and bytes a second. Everything is written to a folder of its own, removed at the end.
    Raises StorageError.
    """
    tell = progress or (lambda _name, _share: None)
    folder = local_folder(folder, "what is measured")
    try:
        own = tempfile.mkdtemp(prefix=".burst-bench-", dir=folder)
    except OSError as error:
        raise storage_error(error, "make a folder in", str(folder)) from error
    try:
        tell("making the state", 0.0)
        state = random_state(state_bytes, seed)
        nbytes = sum(a.nbytes for a in state.values())
        raw = RawDisk(own, nbytes)
        found = _rounds(f"{own}/store", state, raw, rounds, options or Options(), tell)
        found["notices"] += [] if raw.direct else ["raw writes went through the page cache"]
        raw.close()
    finally:
        shutil.rmtree(own, ignore_errors=True)
    copied_s = found["copy_s"]
    return {
        "folder": str(folder), "state_bytes": nbytes, "rounds": rounds, "seed": seed, **found,
        "durable_bytes_per_s": nbytes / found["durable_s"],
        "load_bytes_per_s": nbytes / found["load_s"],
        "stall_ratio": found["stall_s"] / copied_s,
        "durable_ratio": nbytes / found["durable_s"] / found["raw_write"],
        "load_ratio": nbytes / found["load_s"] / found["raw_read"],
    }  # fmt: skip


def _rounds(
    path: str, state: dict[str, Any], raw: RawDisk, rounds: int, options: Options,
    tell: Callable[[str, float], None],
) -> dict[str, Any]:  # fmt: skip
    nbytes = sum(a.nbytes for a in state.values())
    seen: dict[str, list[float]] = {
        k: [] for k in ("copy_s", "stall_s", "durable_s", "load_s", "raw_write", "raw_read")
    }
    into = {name: touched_like(array) for name, array in state.items()}
    with Store.open(path, options=options) as store:
        store.reserve(nbytes)
        for step in range(rounds + 3):
            warm = step >= 3  # by then every segment has been written once and recycled
            tell("measuring", step / (rounds + 3))
            before_s = copy_s(state, into)
            handle = store.save(state, step, wait=True)
            store.gc(drop=[c.step for c in store.checkpoints()[:-1]])
            if not warm:
                continue
            seen["stall_s"].append(handle.stall_s)
            seen["durable_s"].append(handle.durable_s)
            seen["raw_write"].append(raw.write())
            seen["copy_s"].append((before_s + copy_s(state, into)) / 2)
            forget(path)
            start_s = time.perf_counter()
            store.load(step, into=into)
            seen["load_s"].append(time.perf_counter() - start_s)
            seen["raw_read"].append(raw.read())
        notices = list(store.notices)
    tell("measuring", 1.0)
    best: dict[str, Any] = {k: (max(v) if k.startswith("raw") else min(v)) for k, v in seen.items()}
    return {**best, "every_round": seen, "notices": notices}
