"""A proxy in front of an HTTP server that fails on purpose, request by request.

``FaultProxy(port, rule)`` asks ``rule(method, path, count)`` for every request and acts out the
fault it names: ``503`` (an answer without asking the server), ``reset`` (the connection breaks
before the server hears the whole), ``lost`` (the server acts, its answer never arrives),
``truncate`` (half the answer's body, then the end), ``flip`` (one bit of the answer's body
differs), ``slow`` (the answer comes late), ``hang`` (it does not come), or None to pass it on.
``seen`` lists what happened.
"""

from __future__ import annotations

import http.client
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import BinaryIO

Rule = Callable[[str, str, int], str | None]
SLOW_S = 0.5
HANG_S = 60.0


class FaultProxy:
    """Listens on a free port of 127.0.0.1 until closed."""

    def __init__(self, backend_port: int, rule: Rule) -> None:
        self.rule = rule
        self.seen: list[tuple[str, str, str | None]] = []
        self._backend_port = backend_port
        self._lock = threading.Lock()
        self._open = True
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> FaultProxy:
        return self

    def __exit__(self, *_: object) -> None:
        self._open = False
        self._listener.close()

    def _accept(self) -> None:
        while self._open:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        stream = client.makefile("rb")
        try:
            while self._open and self._one(client, stream):
                pass
        except OSError:
            pass
        finally:
            stream.close()
            client.close()

    def _one(self, client: socket.socket, stream: BinaryIO) -> bool:
        """One request and its answer; False when the connection is over."""
        line = stream.readline().decode().split()
        if len(line) != 3:
            return False
        method, path = line[0], line[1]
        headers = []
        while (raw := stream.readline().decode().strip()) != "":
            name, _, value = raw.partition(":")
            headers.append((name, value.strip()))
        length = int(next((v for n, v in headers if n.lower() == "content-length"), "0"))
        with self._lock:
            fault = self.rule(method, path, len(self.seen))
            self.seen.append((method, path, fault))
        if fault == "reset":
            stream.read(length // 2)
            return _reset(client)
        body = stream.read(length)
        if fault == "503":
            client.sendall(
                b"HTTP/1.1 503 Slow Down\r\nContent-Length: 38\r\nConnection: close\r\n\r\n"
                b"<Error><Code>SlowDown</Code>......</Er"
            )
            return False
        status, reason, answer_headers, answer = self._ask(method, path, headers, body)
        if fault == "lost":
            return _reset(client)
        if fault == "slow":
            time.sleep(SLOW_S)
        if fault == "hang":
            client.settimeout(HANG_S)
            client.recv(1)  # until the client has had enough
            return False
        if fault == "flip" and answer:
            answer = answer[:-1] + bytes([answer[-1] ^ 1])
        head = [f"HTTP/1.1 {status} {reason}"]
        head += [
            f"{n}: {v}" for n, v in answer_headers if n.lower() not in ("connection",
            "transfer-encoding", "content-length")
        ]  # fmt: skip
        declared = next((v for n, v in answer_headers if n.lower() == "content-length"), None)
        said = declared if method == "HEAD" and declared is not None else str(len(answer))
        head.append(f"Content-Length: {said}")
        client.sendall("\r\n".join(head).encode() + b"\r\n\r\n")
        if fault == "truncate":
            client.sendall(answer[: len(answer) // 2])
            return False
        client.sendall(answer)
        return True

    def _ask(
        self, method: str, path: str, headers: list[tuple[str, str]], body: bytes
    ) -> tuple[int, str, list[tuple[str, str]], bytes]:
        backend = http.client.HTTPConnection("127.0.0.1", self._backend_port, timeout=60)
        backend.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in headers:
            backend.putheader(name, value)
        backend.endheaders(body or None)
        answer = backend.getresponse()
        found = (answer.status, answer.reason, answer.getheaders(), answer.read())
        backend.close()
        return found


def _reset(client: socket.socket) -> bool:
    """End the connection with RST, as a machine that dies does."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    return False
