"""Frames between peers: authenticated on both sides, checked, bounded, and never executed.

Handshake: the server sends ``WLPEER03`` and 32 random bytes; the client sends 32 of its own and
HMAC-SHA256(secret, "client" + both); the server checks it and answers with the same over "server",
or with zeros where the secrets differ.
Both derive a session key, HMAC-SHA256(secret, "session" + both). Then frames, little-endian:

    kind (1)  meta length (4)  body length (8)  meta: MessagePack  MAC (16)  body

MAC: the first 16 bytes of keyed BLAKE3 over direction, frame number and all before it, so that a
frame that was changed, dropped, repeated or sent back is refused. Bodies carry no MAC: what is sent
was hashed when it was saved, and whoever takes it checks that (a put ends with the digest of its
bodies, in a frame that is authenticated). So a body goes from a file to the socket, and from there
to where it belongs, without another pass over it. Nothing is encrypted: use it inside a network you
trust, or through a tunnel.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import socket
import struct
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from blake3 import blake3

from weftline.burst.remote.objects import CredentialsError, ObjectMissingError, RemoteError
from weftline.burst.stage.copying import PIECE_BYTES, Landing
from weftline.burst.stage.state import Bytes1d
from weftline.errors import InputError, WeftlineError

__all__ = [
    "BODY_BYTES_MOST", "Channel", "FileRange", "WireError", "answer_of", "raise_failed",
    "secret_from_environment", "told_of",
]  # fmt: skip

SECRET_VARIABLE: Final = "WEFTLINE_BURST_SECRET"  # noqa: S105  (a name, not a secret)
SECRET_BYTES_LEAST: Final = 16
BODY_BYTES_MOST: Final = 4 << 20
META_BYTES_MOST: Final = 16 << 20
PUT, DATA, END, READ, SIZE, LIST, DELETE, DONE, FAILED = range(1, 10)
"""Kinds of frames."""
_HELLO: Final = b"WLPEER03"
_NONCE_BYTES: Final = 32
_REFUSED: Final = bytes(32)
_MAC_BYTES: Final = 16
_HEAD: Final = struct.Struct("<BIQ")


class WireError(RemoteError):
    """The other side broke off, or sent what is no frame of this session."""


def secret_from_environment() -> bytes:
    """The shared secret, from WEFTLINE_BURST_SECRET. Raises InputError where it is too short."""
    secret = os.environ.get(SECRET_VARIABLE, "").encode()
    if len(secret) < SECRET_BYTES_LEAST:
        raise InputError(
            f"{SECRET_VARIABLE} must hold a secret of at least {SECRET_BYTES_LEAST} bytes that "
            "both peers know",
            where="peer", hint=f"export {SECRET_VARIABLE}=$(openssl rand -hex 32), on every node",
        )  # fmt: skip
    return secret


class FileRange(NamedTuple):
    """A part of an open file."""

    file: int
    start_bytes: int
    length_bytes: int


class Channel:
    """One authenticated connection. Not to be shared between threads."""

    def __init__(self, connection: socket.socket, secret: bytes, *, server: bool) -> None:
        """Shake hands. Raises CredentialsError where the secrets differ, else WireError."""
        self._socket = connection
        wait_in_kernel(connection)
        self._room = bytearray()
        self._scratch: Bytes1d = np.empty(0, np.uint8)
        self._wakes_for = 1
        self._sent = self._received = 0
        self._mine, self._theirs = (b"s", b"c") if server else (b"c", b"s")
        try:
            if connection.family in (socket.AF_INET, socket.AF_INET6):
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            nonces = self._shake_as_server(secret) if server else self._shake_as_client(secret)
        except OSError as error:
            raise WireError(f"no handshake: {_why(error)}") from error
        self._key = hmac.digest(secret, b"session" + nonces, hashlib.sha256)

    def _shake_as_server(self, secret: bytes) -> bytes:
        mine = secrets.token_bytes(_NONCE_BYTES)
        self._socket.sendall(_HELLO + mine)
        said = self._take(_NONCE_BYTES + 32)
        nonces = mine + said[:_NONCE_BYTES]
        proof = hmac.digest(secret, b"client" + nonces, hashlib.sha256)
        if not hmac.compare_digest(proof, said[_NONCE_BYTES:]):
            self._socket.sendall(_REFUSED)
            raise CredentialsError("a client does not know the shared secret")
        self._socket.sendall(hmac.digest(secret, b"server" + nonces, hashlib.sha256))
        return nonces

    def _shake_as_client(self, secret: bytes) -> bytes:
        hello = self._take(len(_HELLO) + _NONCE_BYTES)
        if not hello.startswith(_HELLO):
            raise WireError("what answers there is no burst peer of this version")
        mine = secrets.token_bytes(_NONCE_BYTES)
        nonces = hello[len(_HELLO) :] + mine
        self._socket.sendall(mine + hmac.digest(secret, b"client" + nonces, hashlib.sha256))
        proof = self._take(len(_REFUSED))
        if proof == _REFUSED:  # a peer that only broke off may have died
            raise CredentialsError(
                "the peer refused the shared secret",
                hint=f"{SECRET_VARIABLE} must be the same on both nodes",
            )
        if not hmac.compare_digest(proof, hmac.digest(secret, b"server" + nonces, hashlib.sha256)):
            raise CredentialsError("the peer does not know the shared secret")
        return nonces

    def send(self, kind: int, meta: Any = None, body: bytes | memoryview = b"") -> None:
        """Send one frame. Raises WireError."""
        try:
            self._socket.sendall(self._head(kind, meta, len(body)))
            if len(body):
                self._socket.sendall(body)
        except OSError as error:
            raise WireError(f"the connection broke: {_why(error)}") from error

    def send_many(self, kind: int, pieces: Sequence[memoryview | FileRange]) -> None:
        """Send one frame whose body is these pieces; what is in a file the kernel copies.

        Raises WireError, also where a file ends too early: no answer can be right then.
        """
        length = sum(len(p) if isinstance(p, memoryview) else p.length_bytes for p in pieces)
        try:
            self._socket.sendall(self._head(kind, None, length))
            for piece in pieces:
                if isinstance(piece, memoryview):
                    self._socket.sendall(piece)
                else:
                    self._send_file(piece)
        except OSError as error:
            raise WireError(f"the connection broke: {_why(error)}") from error

    def _send_file(self, part: FileRange) -> None:
        at, end = part.start_bytes, part.start_bytes + part.length_bytes
        while at < end:
            sent = os.sendfile(self._socket.fileno(), part.file, at, end - at)
            if not sent:
                raise WireError("the file became shorter")
            at += sent

    def _head(self, kind: int, meta: Any, body_bytes: int) -> bytes:
        packed = msgspec.msgpack.encode(meta)
        head = _HEAD.pack(kind, len(packed), body_bytes) + packed
        mac = self._mac(self._mine, self._sent, head)
        self._sent += 1
        return head + mac

    def receive(self) -> tuple[int, Any, memoryview]:
        """The next frame: kind, meta, and a body that stands until the next call.

        Raises WireError.
        """
        kind, meta, length = self.receive_head()
        if length > BODY_BYTES_MOST:
            raise WireError(f"a body of {length} bytes was not asked for")
        if len(self._room) < length:
            self._room = bytearray(length)
        body = memoryview(self._room)[:length]
        self.receive_body(body)
        return kind, meta, body

    def receive_head(self) -> tuple[int, Any, int]:
        """Kind, meta, and how long the body is, which :meth:`receive_body` must take next."""
        try:
            head = self._take(_HEAD.size)
            kind, meta_length, body_length = _HEAD.unpack(head)
            if meta_length > META_BYTES_MOST:
                raise WireError(f"a frame with {meta_length} bytes of meta is too long")
            packed = self._take(meta_length)
            mac = self._take(_MAC_BYTES)
        except OSError as error:
            raise WireError(f"the connection broke: {_why(error)}") from error
        if not hmac.compare_digest(mac, self._mac(self._theirs, self._received, head + packed)):
            raise WireError("a frame was changed on its way")
        self._received += 1
        try:
            return kind, msgspec.msgpack.decode(packed), body_length
        except msgspec.DecodeError as error:
            raise WireError(f"a frame cannot be read: {error}") from error

    def receive_body(self, out: memoryview) -> None:
        """Fill ``out`` with the body that was announced, or a part of it. Raises WireError."""
        try:
            self._fill(out)
        except OSError as error:
            raise WireError(f"the connection broke: {_why(error)}") from error

    def receive_hashed(self, out: Bytes1d) -> int:
        """Fill ``out`` with the body that was announced; XXH3-64 of it. Raises WireError."""
        if not len(self._scratch):
            self._scratch = np.empty(PIECE_BYTES, np.uint8)
        landing = Landing(out, self._scratch)
        left = len(out)
        while len(room := landing.room()):
            # Woken for a piece and not for every packet; only while as much is sure to come.
            self._wake_for(PIECE_BYTES if left >= PIECE_BYTES + len(room) else 1)
            self.receive_body(room)
            landing.landed()
            left -= len(room)
        return landing.digest

    def _wake_for(self, count: int) -> None:
        """Have the kernel wake this thread when so many bytes are there."""
        if count != self._wakes_for:
            with suppress(OSError):  # the next call says what is wrong with the connection
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, count)
            self._wakes_for = count

    def close(self) -> None:
        """Close the connection; a second call does nothing."""
        self._socket.close()

    def __del__(self) -> None:
        self._socket.close()

    def _mac(self, way: bytes, number: int, head: bytes) -> bytes:
        mac = blake3(way + struct.pack("<Q", number) + head, key=self._key)
        return bytes(mac.digest(length=_MAC_BYTES))

    def _take(self, count: int) -> bytes:
        """Exactly ``count`` bytes."""
        data = bytearray(count)
        self._fill(memoryview(data))
        return bytes(data)

    def _fill(self, out: memoryview) -> None:
        got = 0
        while got < len(out):
            # All at once, in one call without the GIL, however many packets it takes.
            more = self._socket.recv_into(out[got:], 0, socket.MSG_WAITALL)
            if more == 0:
                raise WireError("the other side closed the connection")
            got += more


def wait_in_kernel(connection: socket.socket) -> None:
    """Keep a socket's time-out, but have the kernel count it: calls then wait for all they want."""
    limit_s = connection.gettimeout()
    connection.setblocking(True)
    if limit_s is not None:
        limit = struct.pack("@ll", int(limit_s), int(limit_s % 1 * 1e6))
        for way in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            connection.setsockopt(socket.SOL_SOCKET, way, limit)


def _why(error: OSError) -> str:
    late = isinstance(error, TimeoutError | BlockingIOError)
    return "it took too long" if late else (error.strerror or str(error))


def answer_of(channel: Channel, name: str = "") -> Any:
    """What the other side answers in one frame. Raises as :func:`raise_failed`."""
    kind, meta, _ = channel.receive()
    if kind != DONE:
        raise_failed(meta, name)
    return meta


def raise_failed(meta: Any, name: str) -> None:
    """Raise ObjectMissingError or RemoteError, as the other side said."""
    if isinstance(meta, dict) and meta.get("absent"):
        raise ObjectMissingError("there is no such object", where=name)
    what = meta.get("what", "it said nothing") if isinstance(meta, dict) else "no such answer"
    raise RemoteError(f"the peer refused: {what}", where=name)


def told_of(error: Exception) -> str:
    """What the other side may hear of an error."""
    return error.what if isinstance(error, WeftlineError) else type(error).__name__
