"""Copies of checkpoints on another node: a small server that keeps objects, and its client.

The server keeps what an object store would (see ``remote.py``), in a folder: its own NVMe, or
/dev/shm for copies in memory. :class:`PeerObjects` speaks to it as to a bucket, so a drain to
``peer://node:port`` is replication, and a :class:`RemoteSource` over it is a restore source between
the local log and the object store. An object is whole or absent there after any crash.
"""

from __future__ import annotations

import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import PurePosixPath
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import xxhash

from weftline.burst.errors import BurstError, StorageError
from weftline.burst.files import Files, RealFiles, local_folder
from weftline.burst.remote import wire
from weftline.burst.remote.objects import (
    BucketCounters,
    Buffer,
    CredentialsError,
    ObjectInfo,
    ObjectMissingError,
    RemoteError,
    Throttle,
)
from weftline.burst.remote.wire import (
    BODY_BYTES_MOST,
    Channel,
    Digest,
    WireError,
    answer_of,
    raise_failed,
    secret_from_environment,
    told_of,
)
from weftline.burst.stage.state import check_name
from weftline.errors import InputError, WeftlineError

__all__ = ["DEFAULT_PORT", "PeerObjects", "PeerServer"]

DEFAULT_PORT: Final = 7401
TIMEOUT_S: Final = 60.0
CONNECT_TIMEOUT_S: Final = 5.0
DOWN_S: Final = 15.0
"""A peer that could not be used is not asked again for so long: a restore goes on without it."""
TRIES: Final = 4
T = TypeVar("T")


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
        self._make_folders("x")
        self._sweep("")
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
            self._read(channel, str(meta["name"]), int(meta["start"]), meta["length"])
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

    def _read(self, channel: Channel, name: str, start: int, length: int | None) -> None:
        try:
            file = os.open(self._path(name), os.O_RDONLY)
        except OSError as error:
            raise ObjectMissingError("there is no such object", where=name) from error
        try:
            size = os.fstat(file).st_size
            length = size - start if length is None else int(length)
            if start < 0 or length < 0 or start + length > size:
                raise RemoteError(f"bytes {start} to {start + length} of {size} were asked for")
            channel.send_file(wire.DATA, file, start, length)
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


class PeerObjects:
    """The objects of a peer, used as a bucket is. Safe to use from several threads."""

    def __init__(
        self,
        host: str,
        port: int,
        secret: bytes,
        *,
        bandwidth_bytes_per_s: float | None = None,
        tries: int = TRIES,
    ) -> None:
        self._tries = tries
        self.url = f"peer://{host}:{port}"
        self.counters = BucketCounters()
        self.throttle = Throttle(bandwidth_bytes_per_s)
        self._address = (host, port)
        self._secret = secret
        self._idle: list[Channel] = []
        self._down_until_s = 0.0
        self._lock = threading.Lock()

    @classmethod
    def open(
        cls, url: str, *, bandwidth_bytes_per_s: float | None = None, tries: int = TRIES
    ) -> PeerObjects:
        """A peer from ``peer://host:port``; the secret comes from the environment.

        Raises InputError for another URL. Nothing is connected yet.
        """
        parts = urlsplit(url)
        try:
            host, port = parts.hostname, parts.port or DEFAULT_PORT
        except ValueError:
            host = None
        if parts.scheme != "peer" or not host or parts.username or parts.path.strip("/"):
            raise InputError(f"`{url}` is no peer", where="peer", hint="write peer://host:port")
        return cls(
            host,
            port,
            secret_from_environment(),
            bandwidth_bytes_per_s=bandwidth_bytes_per_s,
            tries=tries,
        )

    def put(
        self,
        name: str,
        chunks: Buffer | Callable[[], Iterable[Buffer]],
        *,
        progress: Callable[[int], None] | None = None,
    ) -> ObjectInfo:
        """Send an object; returns once the peer has it whole and durable."""
        check_name(name, what="object name")

        def once(channel: Channel) -> ObjectInfo:
            seen = xxhash.xxh3_128()
            length = 0
            channel.send(wire.PUT, {"name": name})
            for piece in chunks() if callable(chunks) else [chunks]:
                view = memoryview(piece).cast("B")
                length += len(view)
                for at in range(0, len(view), BODY_BYTES_MOST):
                    part = view[at : at + BODY_BYTES_MOST]
                    self.counters.throttled_s += self.throttle.take(len(part))
                    seen.update(part)
                    channel.send(wire.DATA, None, part)
                    if progress is not None:
                        progress(len(part))
            channel.send(wire.END, seen.digest())
            if answer_of(channel) != seen.digest():
                raise WireError("the peer kept other bytes than were sent")
            self.counters.puts += 1
            self.counters.put_bytes += length
            return ObjectInfo(name, length, "digest")

        return self._asking(once, name)

    def read(self, name: str, start_bytes: int = 0, length_bytes: int | None = None) -> bytes:
        """A range of an object, or all of it. Raises ObjectMissingError and RemoteError."""

        return bytes(
            self.ask_data(
                wire.READ, {"name": name, "start": start_bytes, "length": length_bytes}, name
            )
        )

    def read_into(self, name: str, start_bytes: int, out: memoryview) -> int:
        """A range of an object, straight to where it belongs; XXH3-64 of it. Raises as `read`."""
        meta = {"name": name, "start": start_bytes, "length": len(out)}
        return self.ask_into(wire.READ, meta, name, out)

    def ask_into(self, kind: int, meta: Any, name: str, out: memoryview) -> int:
        """The data that a request is answered with, into ``out``; XXH3-64 of it."""
        seen: list[xxhash.xxh3_64] = []

        def fresh() -> xxhash.xxh3_64:
            seen.append(xxhash.xxh3_64())
            return seen[-1]

        self.ask_data(kind, meta, name, out, fresh)
        return seen[-1].intdigest()

    def ask_data(
        self,
        kind: int,
        meta: Any,
        name: str,
        out: memoryview | None = None,
        digest: Callable[[], Digest] | None = None,
    ) -> memoryview:
        """The data that a request is answered with, in ``out`` where that is given."""

        def once(channel: Channel) -> memoryview:
            channel.send(kind, meta)
            answer, told, length = channel.receive_head()
            if answer != wire.DATA:
                raise_failed(told, name)
            room = memoryview(bytearray(length)) if out is None else out
            if len(room) != length:
                raise WireError(f"{length} bytes came where {len(room)} were asked for")
            channel.receive_body(room, None if digest is None else digest())
            self.counters.read_bytes += length
            return room

        return self._asking(once, name)

    def size(self, name: str) -> int | None:
        """Length of an object in bytes; None if there is none."""
        found = self.ask(wire.SIZE, {"name": name}, name)
        return None if found is None else int(found)

    def list(self, prefix: str = "") -> list[ObjectInfo]:
        """All objects under ``prefix`` (whole path parts), by name."""
        found = self.ask(wire.LIST, {"prefix": prefix}, prefix)
        return sorted((ObjectInfo(n, s) for n, s in found), key=lambda i: i.name)

    def delete(self, name: str) -> None:
        """Remove an object; no error if there is none."""
        self.ask(wire.DELETE, {"name": name}, name)

    def close(self) -> None:
        """Close the idle connections."""
        with self._lock:
            idle, self._idle = self._idle, []
        for channel in idle:
            channel.close()

    def ask(self, kind: int, meta: Any, name: str) -> Any:
        """What a request is answered with. Raises ObjectMissingError and RemoteError."""

        def once(channel: Channel) -> Any:
            channel.send(kind, meta)
            return answer_of(channel, name)

        return self._asking(once, name)

    def _asking(self, once: Callable[[Channel], T], name: str) -> T:
        """``once`` over a connection, again over a new one where it broke."""
        last: Exception | None = None
        for attempt in range(self._tries if time.monotonic() >= self._down_until_s else 0):
            if attempt:
                self.counters.retries += 1
                time.sleep(0.1 * 2**attempt * (0.5 + random.random() / 2))  # noqa: S311
            try:
                with self._connected() as channel:
                    return once(channel)
            except WireError as error:
                last = error
            except CredentialsError as error:
                error.where = error.where or self.url
                raise
        if last is not None:
            self._down_until_s = time.monotonic() + DOWN_S
        why = last.what if isinstance(last, BurstError) else "it did not answer a moment ago"
        raise RemoteError(
            f"the peer cannot be used: {why}",
            where=f"{self.url}/{name}",
            hint="is `weftline burst peer` running there, and reachable?",
        )

    @contextmanager
    def _connected(self) -> Iterator[Channel]:
        with self._lock:
            channel = self._idle.pop() if self._idle else None
        if channel is None:
            try:
                connection = socket.create_connection(self._address, CONNECT_TIMEOUT_S)
            except OSError as error:
                raise WireError(f"no connection: {error.strerror or error}") from error
            connection.settimeout(TIMEOUT_S)
            try:
                channel = Channel(connection, self._secret, server=False)
            except WeftlineError:
                connection.close()
                raise
        try:
            yield channel
        except ObjectMissingError:
            self._keep(channel)
            raise
        except BaseException:
            channel.close()
            raise
        self._keep(channel)

    def _keep(self, channel: Channel) -> None:
        with self._lock:
            self._idle.append(channel)
