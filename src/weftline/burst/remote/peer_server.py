"""A small server that keeps objects for other nodes, as an object store would.

In a folder: its own NVMe, or /dev/shm for copies in memory. An object is whole or absent there
after any crash. ``peers.py`` is its client.
"""

from __future__ import annotations

import mmap
import os
import socket
import threading
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import PurePosixPath
from typing import Any, Final, NamedTuple

import xxhash

from weftline.burst.errors import StorageError
from weftline.burst.files import Files, RealFiles, file_system_of, local_folder
from weftline.burst.remote import wire
from weftline.burst.remote.objects import ObjectInfo, ObjectMissingError, RemoteError
from weftline.burst.remote.peers import TIMEOUT_S
from weftline.burst.remote.wire import (
    Channel,
    FileRange,
    WireError,
    secret_from_environment,
    told_of,
)
from weftline.burst.stage.state import check_name
from weftline.errors import InputError, WeftlineError

__all__ = ["PeerServer"]

MAPPED_BYTES_LEAST: Final = 1 << 20
Which = tuple[int, int, int]
"""Device, inode and length of a file: whether it is the one that was mapped."""


class _Mapped(NamedTuple):
    """An object in memory."""

    which: Which
    data: mmap.mmap


class PeerServer:
    """Serves one folder until closed. One thread a connection."""

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        secret: bytes | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        capacity_bytes: int | None = None,
        files: Files | None = None,
    ) -> None:
        """Listen; only on this machine unless ``host`` says otherwise. ``port`` 0: any free one.

        ``capacity_bytes`` bounds what the folder may hold; a put beyond it is refused. Raises
        InputError without a secret, StorageError for the folder, OSError for a taken port.
        """
        self.folder = str(local_folder(folder, "what a peer keeps").absolute())
        self._secret = secret_from_environment() if secret is None else secret
        self._files: Files = RealFiles() if files is None else files
        self._capacity_bytes = capacity_bytes
        self._lock = threading.Lock()
        self._temporary = 0
        self._mapped: dict[str, _Mapped] = {}
        self._make_folders("x")
        self._sweep("")
        self._in_memory = file_system_of(self.folder) == "tmpfs"
        self._used_bytes = sum(i.size_bytes for i in self._list(""))
        self._listener = socket.create_server((host, port))
        self.host, self.port = self._listener.getsockname()[:2]
        self._open = True
        threading.Thread(target=self._accept, name="burst-peer", daemon=True).start()

    @property
    def url(self) -> str:
        """Where clients find this server."""
        return f"peer://{self.host}:{self.port}"

    @property
    def used_bytes(self) -> int:
        """Bytes of all objects kept."""
        return self._used_bytes

    def close(self) -> None:
        """Take no more connections."""
        self._open = False
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def __enter__(self) -> PeerServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _accept(self) -> None:
        while self._open:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.settimeout(TIMEOUT_S)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        # A client that breaks off, or does not know the secret, ends its own connection only.
        with connection, suppress(WeftlineError):
            channel = Channel(connection, self._secret, server=True)
            while self._open:
                kind, meta, _ = channel.receive()
                try:
                    self._answer(channel, kind, meta)
                except WireError:
                    raise
                except (WeftlineError, TypeError, ValueError, KeyError) as error:
                    absent = isinstance(error, ObjectMissingError)
                    channel.send(wire.FAILED, {"absent": absent, "what": told_of(error)})

    def _answer(self, channel: Channel, kind: int, meta: Any) -> None:
        if kind == wire.PUT:
            self._put(channel, str(meta["name"]))
        elif kind == wire.READ:
            self._read(channel, meta["parts"])
        elif kind == wire.SIZE:
            channel.send(wire.DONE, self._size(str(meta["name"])))
        elif kind == wire.LIST:
            channel.send(
                wire.DONE, [(i.name, i.size_bytes) for i in self._list(str(meta["prefix"]))]
            )
        elif kind == wire.DELETE:
            self._delete(str(meta["name"]))
            channel.send(wire.DONE)
        else:
            raise WireError(f"no request has the number {kind}")

    def _put(self, channel: Channel, name: str) -> None:
        path = self._path(name)
        with self._lock:
            self._temporary += 1
            temporary = f"{path}.{self._temporary}.tmp"
        claimed = [0]
        kept = False
        try:
            self._make_folders(name)
            digest = self._receive(channel, temporary, claimed)
            old = self._size(name) or 0
            self._files.rename(temporary, path)
            self._files.sync_dir(path.rpartition("/")[0])
            kept = True
            self._map(name)
        finally:
            with self._lock:
                self._used_bytes -= old if kept else claimed[0]
            if not kept:
                with suppress(StorageError):
                    self._files.unlink(temporary)
        channel.send(wire.DONE, digest)

    def _receive(self, channel: Channel, path: str, claimed: list[int]) -> bytes:
        """Take a put's data into a new file, durably; its digest.

        Takes the data to its end even where it cannot be kept, so that the answer can be heard.
        ``claimed`` counts what was taken of the capacity. Raises RemoteError and StorageError.
        """
        failed: WeftlineError | None = None
        seen = xxhash.xxh3_128()
        handle = self._files.open(path, "x")
        try:
            while True:
                kind, meta, body = channel.receive()
                if kind == wire.END:
                    break
                if kind != wire.DATA:
                    raise WireError(f"data was due, not a frame of kind {kind}")
                seen.update(body)
                if failed is None:
                    try:
                        self._claim(len(body))
                        claimed[0] += len(body)
                        handle.write_at([body], claimed[0] - len(body))
                    except (RemoteError, StorageError) as error:
                        failed = error
            if failed is not None:
                raise failed
            if seen.digest() != meta:
                raise RemoteError("what arrived at the peer is not what was sent")
            handle.sync()
        finally:
            handle.close()
        return bytes(seen.digest())

    def _claim(self, count: int) -> None:
        with self._lock:
            used = self._used_bytes + count
            if self._capacity_bytes is not None and used > self._capacity_bytes:
                raise RemoteError("the peer is full", hint="prune old checkpoints there")
            self._used_bytes = used

    def _read(self, channel: Channel, parts: Sequence[tuple[str, int, int | None]]) -> None:
        """Ranges of objects, (name, start, length or None to its end), in one answer."""
        with ExitStack() as held:
            files: dict[str, int] = {}
            wanted: list[memoryview | FileRange] = []
            for name, start, length in parts:
                if name not in files:
                    files[name] = self._opened(name)
                    held.callback(os.close, files[name])
                wanted.append(self._range(held, name, files[name], int(start), length))
            channel.send_many(wire.DATA, wanted)

    def _opened(self, name: str) -> int:
        try:
            return os.open(self._path(name), os.O_RDONLY)
        except OSError as error:
            raise ObjectMissingError("there is no such object", where=name) from error

    def _range(
        self, held: ExitStack, name: str, file: int, start: int, length: int | None
    ) -> memoryview | FileRange:
        """Where the bytes are: in a mapping, for as long as ``held``, or in the file."""
        size = os.fstat(file).st_size
        length = size - start if length is None else int(length)
        if start < 0 or length < 0 or start + length > size:
            raise RemoteError(f"bytes {start} to {start + length} of {size} were asked for")
        mapped = self._mapped.get(name)
        if mapped is None or mapped.which != _which(file):
            return FileRange(file, start, length)
        whole = held.enter_context(memoryview(mapped.data))
        return held.enter_context(whole[start : start + length])

    def _map(self, name: str) -> None:
        """Keep a large object in memory mapped, so that it is sent without a fault a page.

        Only where files are memory: on a disk, a page that cannot be read would end the process.
        The mapping goes with the object; an answer that is on its way holds it until it is sent.
        """
        self._mapped.pop(name, None)
        if not self._in_memory:
            return
        file = os.open(self._path(name), os.O_RDONLY)
        try:
            which = _which(file)
            if which[2] >= MAPPED_BYTES_LEAST:
                flags = mmap.MAP_SHARED | mmap.MAP_POPULATE
                data = mmap.mmap(file, which[2], flags=flags, prot=mmap.PROT_READ)
                self._mapped[name] = _Mapped(which, data)
        finally:
            os.close(file)

    def _size(self, name: str) -> int | None:
        path = self._path(name)
        if not self._files.exists(path):
            return None
        handle = self._files.open(path, "r")
        try:
            return handle.size()
        finally:
            handle.close()

    def _list(self, prefix: str) -> list[ObjectInfo]:
        found: list[ObjectInfo] = []
        folder = f"{self.folder}/{prefix}".rstrip("/")
        if prefix:
            check_name(prefix, what="prefix")
        for entry in self._files.list_dir(folder):
            name = f"{prefix}/{entry}" if prefix else entry
            if entry.endswith(".tmp"):
                continue
            if self._is_dir(f"{folder}/{entry}"):
                found += self._list(name)
            elif (size := self._size(name)) is not None:
                found.append(ObjectInfo(name, size))
        return found

    def _delete(self, name: str) -> None:
        size = self._size(name)
        if size is not None:
            self._mapped.pop(name, None)
            self._files.unlink(self._path(name))
            with self._lock:
                self._used_bytes -= size

    def _sweep(self, prefix: str) -> None:
        """Remove what puts that were cut off have left."""
        folder = f"{self.folder}/{prefix}".rstrip("/")
        for entry in self._files.list_dir(folder):
            if self._is_dir(f"{folder}/{entry}"):
                self._sweep(f"{prefix}/{entry}" if prefix else entry)
            elif entry.endswith(".tmp"):
                self._files.unlink(f"{folder}/{entry}")

    def _is_dir(self, path: str) -> bool:
        return os.path.isdir(path)  # noqa: PTH112

    def _path(self, name: str) -> str:
        check_name(name, what="object name")
        if name.endswith(".tmp"):
            raise InputError(f"object name `{name}` is refused", where="peer")
        return f"{self.folder}/{name}"

    def _make_folders(self, name: str) -> None:
        """The folders above an object, each made durable."""
        base = PurePosixPath(self.folder)
        parts = [*reversed(base.parents), base, *(base / p for p in PurePosixPath(name).parents)]
        for path in sorted({str(p) for p in parts}, key=len):
            if not self._files.exists(path):
                self._files.make_dir(path)
                self._files.sync_dir(path.rpartition("/")[0] or "/")


def _which(file: int) -> Which:
    found = os.fstat(file)
    return found.st_dev, found.st_ino, found.st_size
