"""What another node keeps, used as a bucket: the client of ``peer_server.py``.

A drain to ``peer://node:port`` is replication, and a :class:`RemoteSource` over it is a restore
source between the local log and the object store.
"""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import xxhash

from weftline.burst.commit.view import STREAMS
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
    WireError,
    answer_of,
    raise_failed,
    secret_from_environment,
)
from weftline.burst.stage.state import Bytes1d, check_name
from weftline.errors import InputError, WeftlineError

__all__ = ["DEFAULT_PORT", "PeerObjects"]

DEFAULT_PORT: Final = 7401
TIMEOUT_S: Final = 60.0
CONNECT_TIMEOUT_S: Final = 5.0
DOWN_S: Final = 15.0
"""A peer that could not be used is not asked again for so long: a restore goes on without it."""
TRIES: Final = 4
T = TypeVar("T")


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
        self._down_why = ""
        self._lock = threading.Lock()
        self._streams = threading.BoundedSemaphore(STREAMS)

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
        meta = {"parts": [(name, start_bytes, length_bytes)]}
        return bytes(self.ask_data(wire.READ, meta, name))

    def read_into(
        self, parts: Sequence[tuple[str, int, int]], outs: Sequence[Bytes1d]
    ) -> list[int]:
        """Parts of objects (name, start, length), each straight to where it belongs.

        Returns XXH3-64 of each. Raises as :meth:`read`.
        """
        return self.ask_into(wire.READ, {"parts": parts}, parts[0][0], outs)

    def ask_into(self, kind: int, meta: Any, name: str, outs: Sequence[Bytes1d]) -> list[int]:
        """The data that a request is answered with, into ``outs`` in turn; XXH3-64 of each."""
        wanted = sum(map(len, outs))

        def take(channel: Channel, length: int) -> list[int]:
            if length != wanted:
                raise WireError(f"{length} bytes came where {wanted} were asked for")
            return [channel.receive_hashed(out) for out in outs]

        with self._streams:
            return self._data(kind, meta, name, take)

    def ask_data(self, kind: int, meta: Any, name: str) -> memoryview:
        """The data that a request is answered with."""

        def take(channel: Channel, length: int) -> memoryview:
            room = memoryview(bytearray(length))
            channel.receive_body(room)
            return room

        return self._data(kind, meta, name, take)

    def _data(self, kind: int, meta: Any, name: str, take: Callable[[Channel, int], T]) -> T:
        def once(channel: Channel) -> T:
            channel.send(kind, meta)
            answer, told, length = channel.receive_head()
            if answer != wire.DATA:
                raise_failed(told, name)
            taken = take(channel, length)
            self.counters.read_bytes += length
            return taken

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

    def ask_again(self) -> None:
        """Ask this peer though it did not answer a moment ago: nobody else has what is wanted."""
        self._down_until_s = 0.0

    def _asking(self, once: Callable[[Channel], T], name: str) -> T:
        """``once`` over a connection, again over a new one where it broke."""
        why = ""
        for attempt in range(self._tries if time.monotonic() >= self._down_until_s else 0):
            if attempt:
                self.counters.retries += 1
                time.sleep(0.1 * 2**attempt * (0.5 + random.random() / 2))  # noqa: S311
            try:
                with self._connected() as channel:
                    return once(channel)
            except WireError as error:
                why = error.what
            except CredentialsError as error:
                error.where = error.where or self.url
                raise
        if why:
            self._down_until_s = time.monotonic() + DOWN_S
            self._down_why = why
        else:
            why = f"{self._down_why}, a moment ago"
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
