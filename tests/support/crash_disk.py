"""A disk in memory that remembers every call and can show each state a crash may leave behind.

The model is the one of ALICE (Pillai et al., OSDI 2014), at its harshest: until a file is synced,
any of its writes may be missing, out of order or torn at a sector, and its length may be old or
new; until a folder is synced, any of its changes (a name made, renamed, removed) may be missing,
whatever was synced in the files themselves. A rename happens whole or not at all.
"""

from __future__ import annotations

import errno
import posixpath
import random
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from weftline.burst.errors import storage_error
from weftline.burst.files import ALIGN_BYTES

SECTOR = 512
PAGE = 4096
ROOT = 0


@dataclass(slots=True)
class Blob:
    """Content of a file: its length and the pages that are not all zero."""

    size: int = 0
    pages: dict[int, bytes] = field(default_factory=dict)

    def copy(self) -> Blob:
        """The same content, to be changed apart."""
        return Blob(self.size, dict(self.pages))

    def write(self, offset: int, data: bytes) -> None:
        """Put ``data`` at ``offset``; the length grows where needed."""
        at = 0
        while at < len(data):
            page, within = divmod(offset + at, PAGE)
            count = min(PAGE - within, len(data) - at)
            old = self.pages.get(page, bytes(PAGE))
            self.pages[page] = old[:within] + data[at : at + count] + old[within + count :]
            at += count
        self.size = max(self.size, offset + len(data))

    def resize(self, size: int) -> None:
        """Cut or extend; what is cut off reads as zero if the file grows again."""
        if size < self.size:
            last, within = divmod(size, PAGE)
            self.pages = {p: d for p, d in self.pages.items() if p < last or (p == last and within)}
            if within and last in self.pages:
                self.pages[last] = self.pages[last][:within] + bytes(PAGE - within)
        self.size = size

    def read(self, offset: int, length: int) -> bytes:
        """Up to ``length`` bytes from ``offset``."""
        end = min(offset + length, self.size)
        out = bytearray()
        while offset + len(out) < end:
            page, within = divmod(offset + len(out), PAGE)
            count = min(PAGE - within, end - offset - len(out))
            out += self.pages.get(page, bytes(PAGE))[within : within + count]
        return bytes(out)


@dataclass(slots=True)
class State:
    """What is on the disk: folders as name -> node, files as blobs."""

    folders: dict[int, dict[str, int]] = field(default_factory=lambda: {ROOT: {}})
    blobs: dict[int, Blob] = field(default_factory=dict)

    def copy(self) -> State:
        """The same state, to be changed apart."""
        return State(
            {k: dict(v) for k, v in self.folders.items()},
            {k: b.copy() for k, b in self.blobs.items()},
        )

    def fingerprint(self) -> int:
        """Equal for equal states."""
        blobs = tuple((k, b.size, frozenset(b.pages.items())) for k, b in self.blobs.items())
        names = tuple((k, frozenset(v.items())) for k, v in self.folders.items())
        return hash((frozenset(blobs), frozenset(names)))


@dataclass(frozen=True, slots=True)
class Op:
    """One call: a file written or resized, names set, a sync, or a mark."""

    kind: str
    node: int = -1
    offset: int = 0
    data: bytes = b""
    names: tuple[tuple[int, str, int | None], ...] = ()
    """Changes of folders: (folder, name, node or None for gone), all or none."""
    mark: Any = None

    def apply(self, state: State) -> None:
        """Let the change happen."""
        if self.kind == "write":
            state.blobs.setdefault(self.node, Blob()).write(self.offset, self.data)
        elif self.kind == "resize":
            state.blobs.setdefault(self.node, Blob()).resize(self.offset)
        if self.kind == "folder":
            state.folders.setdefault(self.node, {})
        for folder, name, node in self.names:
            entries = state.folders.setdefault(folder, {})
            if node is None:
                entries.pop(name, None)
            else:
                entries[name] = node


class MemoryFile:
    """A :class:`weftline.burst.files.File` of a :class:`MemoryDisk`."""

    def __init__(self, disk: MemoryDisk, path: str, node: int, *, direct: bool) -> None:
        self.path = path
        self.direct = direct
        self._disk = disk
        self._node = node
        self._held: str | None = None

    def write_at(self, buffers: Sequence[Any], offset_bytes: int) -> None:
        """Record the write."""
        data = b"".join(bytes(b) for b in buffers)
        if self.direct:
            assert offset_bytes % ALIGN_BYTES == 0, "O_DIRECT write at an odd place"
            assert all(len(memoryview(b).cast("B")) % ALIGN_BYTES == 0 for b in buffers)
        self._disk.act(Op("write", self._node, offset_bytes, data), self.path)

    def read_at(self, buffers: Sequence[memoryview], offset_bytes: int) -> int:
        """Read the live content."""
        total = 0
        with self._disk.mutex:
            blob = self._disk.live.blobs.get(self._node, Blob())
            for buffer in buffers:
                view = buffer.cast("B")
                got = blob.read(offset_bytes + total, len(view))
                view[: len(got)] = got
                total += len(got)
                if len(got) < len(view):
                    break
        return total

    def allocate(self, length_bytes: int) -> None:
        """Make the file at least this long, as posix_fallocate does."""
        self._disk.act(Op("resize", self._node, max(self.size(), length_bytes)), self.path)

    def truncate(self, length_bytes: int) -> None:
        """Record the new length."""
        self._disk.act(Op("resize", self._node, length_bytes), self.path)

    def sync(self) -> None:
        """Record that all before is safe."""
        self._disk.act(Op("sync", self._node), self.path)

    def size(self) -> int:
        """Length of the live file."""
        return self._disk.live.blobs.get(self._node, Blob()).size

    def lock(self, *, exclusive: bool, wait: bool) -> bool:
        """A lock between handles of this disk."""
        while not self._take(exclusive=exclusive):
            if not wait:
                return False
            time.sleep(0.001)
        return True

    def _take(self, *, exclusive: bool) -> bool:
        with self._disk.mutex:
            held = self._disk.locks.setdefault(self._node, {})
            others = [mode for owner, mode in held.items() if owner != id(self)]
            if others and (exclusive or "x" in others):
                return False
            held[id(self)] = "x" if exclusive else "s"
        return True

    def unlock(self) -> None:
        """Give the lock back."""
        with self._disk.mutex:
            self._disk.locks.get(self._node, {}).pop(id(self), None)

    def close(self) -> None:
        """Locks of this handle end."""
        self.unlock()


class MemoryDisk:
    """A :class:`weftline.burst.files.Files` in memory; ``ops`` is all that was done to it.

    ``fail`` may raise OSError for a call: it gets the operation and the path.
    """

    def __init__(self, state: State | None = None, *, direct: bool = True) -> None:
        self.live = State() if state is None else state
        self.start = self.live.copy()
        self.ops: list[Op] = []
        self.mutex = threading.RLock()
        self.locks: dict[int, dict[int, str]] = {}
        self.direct = direct
        self.fail: Any = None
        used = [*self.live.folders, *self.live.blobs]
        for entries in self.live.folders.values():
            used += entries.values()
        self._next = max(used) + 1

    def act(self, op: Op, path: str) -> None:
        """Do and record one operation."""
        with self.mutex:
            if self.fail is not None:
                try:
                    self.fail(op, path)
                except OSError as error:
                    raise storage_error(error, op.kind, path) from error
            op.apply(self.live)
            self.ops.append(op)

    def mark(self, what: Any) -> None:
        """Note in the record that ``what`` was promised to the user at this point."""
        with self.mutex:
            self.ops.append(Op("mark", mark=what))

    def _folder(self, path: str) -> int:
        node = ROOT
        for part in [p for p in path.split("/") if p]:
            found = self.live.folders.get(node, {}).get(part)
            if found is None or found not in self.live.folders:
                raise storage_error(OSError(errno.ENOENT, ""), "open", path)
            node = found
        return node

    def _find(self, path: str) -> tuple[int, str, int | None]:
        head, name = posixpath.split(path.rstrip("/"))
        folder = self._folder(head)
        return folder, name, self.live.folders[folder].get(name)

    def open(self, path: str, mode: str, *, direct: bool = False) -> MemoryFile:
        """See ``Files``."""
        with self.mutex:
            folder, name, node = self._find(path)
            if mode == "x":
                if node is not None:
                    raise storage_error(OSError(errno.EEXIST, ""), "open", path)
                node, self._next = self._next, self._next + 1
                self.live.blobs[node] = Blob()
                self.act(Op("names", names=((folder, name, node),)), path)
            elif node is None or node in self.live.folders:
                raise storage_error(OSError(errno.ENOENT, ""), "open", path)
            return MemoryFile(self, path, node, direct=direct and self.direct)

    def rename(self, source: str, target: str) -> None:
        """See ``Files``."""
        with self.mutex:
            a, b = self._find(source), self._find(target)
            if a[2] is None:
                raise storage_error(OSError(errno.ENOENT, ""), "rename", source)
            self.act(Op("names", names=((a[0], a[1], None), (b[0], b[1], a[2]))), target)

    def link(self, source: str, target: str) -> None:
        """See ``Files``."""
        with self.mutex:
            a, b = self._find(source), self._find(target)
            if b[2] is not None:
                raise storage_error(OSError(errno.EEXIST, ""), "link", target)
            self.act(Op("names", names=((b[0], b[1], a[2]),)), target)

    def unlink(self, path: str) -> None:
        """See ``Files``."""
        with self.mutex:
            folder, name, node = self._find(path)
            if node is not None:
                self.act(Op("names", names=((folder, name, None),)), path)

    def make_dir(self, path: str) -> None:
        """See ``Files``."""
        with self.mutex:
            folder, name, node = self._find(path)
            if node is None:
                node, self._next = self._next, self._next + 1
                self.act(Op("folder", node, names=((folder, name, node),)), path)

    def remove_dir(self, path: str) -> None:
        """See ``Files``."""
        with self.mutex:
            folder, name, node = self._find(path)
            if node is not None and not self.live.folders.get(node):
                self.act(Op("names", names=((folder, name, None),)), path)

    def list_dir(self, path: str) -> list[str]:
        """See ``Files``."""
        with self.mutex:
            return sorted(self.live.folders[self._folder(path)]) if self.exists(path) else []

    def exists(self, path: str) -> bool:
        """See ``Files``."""
        with self.mutex:
            node = ROOT
            for part in [p for p in path.split("/") if p]:
                found = self.live.folders.get(node, {}).get(part)
                if found is None:
                    return False
                node = found
            return True

    def read_bytes(self, path: str) -> bytes:
        """See ``Files``."""
        with self.mutex:
            node = self._find(path)[2]
            if node is None:
                raise storage_error(OSError(errno.ENOENT, ""), "read", path)
            blob = self.live.blobs.get(node, Blob())
            return blob.read(0, blob.size)

    def stamp(self, path: str) -> tuple[int, int, int, int]:
        """See ``Files``; the time of the last change is never old enough to be relied on."""
        with self.mutex:
            node = self._find(path)[2]
            if node is None:
                raise storage_error(OSError(errno.ENOENT, ""), "look at", path)
            now = time.time_ns()
            return node, self.live.blobs.get(node, Blob()).size, now, now

    def sync_dir(self, path: str) -> None:
        """See ``Files``."""
        with self.mutex:
            self.act(Op("sync", self._folder(path)), path)


def torn(op: Op, rng: random.Random) -> list[Op]:
    """A write of which only some sectors reached the disk: the first half, and a random part."""
    sectors = -(-len(op.data) // SECTOR)
    if sectors < 2:
        return []
    half = [Op("write", op.node, op.offset, op.data[: sectors // 2 * SECTOR])]
    kept = [i for i in range(sectors) if rng.random() < 0.5]
    some = [
        Op("write", op.node, op.offset + i * SECTOR, op.data[i * SECTOR : (i + 1) * SECTOR])
        for i in kept
    ]
    return half if rng.random() < 0.5 else some


def crash_states(disk: MemoryDisk, *, seed: int, subsets: int) -> Iterator[tuple[int, State]]:
    """Every state a crash of ``disk`` may leave, as (operations done, state), each state once.

    At each operation: all that is pending kept, none, each one alone lost, each one alone kept,
    each write torn, and ``subsets`` random choices drawn from ``seed``.
    """
    rng = random.Random(seed)
    durable = disk.start.copy()
    pending: list[Op] = []
    seen: set[int] = set()
    for done, op in enumerate(disk.ops, start=1):
        if op.kind == "sync":
            safe = [
                p for p in pending
                if (p.node == op.node if not p.names else any(n[0] == op.node for n in p.names))
            ]  # fmt: skip
            for p in safe:
                p.apply(durable)
            pending = [p for p in pending if not any(p is s for s in safe)]
        elif op.kind != "mark":
            pending.append(op)
        for chosen in _choices(pending, rng, subsets):
            state = durable.copy()
            for p in chosen:
                p.apply(state)
            mark = hash((state.fingerprint(), sum(o.kind == "mark" for o in disk.ops[:done])))
            if mark not in seen:
                seen.add(mark)
                yield done, state


def _choices(pending: list[Op], rng: random.Random, subsets: int) -> Iterator[list[Op]]:
    yield pending
    if not pending:
        return
    yield []
    for i, op in enumerate(pending):
        rest = pending[:i] + pending[i + 1 :]
        yield rest
        yield [op]
        if op.kind == "write":
            yield pending[:i] + torn(op, rng) + pending[i + 1 :]
    for _ in range(subsets):
        chosen = [p for p in pending if rng.random() < 0.5]
        yield [q for p in chosen for q in (torn(p, rng) if rng.random() < 0.2 else [p])]


def flip(state: State, node: int, offset: int, bit: int) -> State:
    """The state with one bit of one file the other way."""
    made = state.copy()
    byte = made.blobs[node].read(offset, 1)[0]
    made.blobs[node].write(offset, bytes([byte ^ (1 << bit)]))
    return made


__all__ = ["MemoryDisk", "Op", "State", "crash_states", "flip", "torn"]
