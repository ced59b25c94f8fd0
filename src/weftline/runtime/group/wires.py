"""Connections between ranks of different hosts: one a slot and pair, and one for messages.

A rank listens only where some rank is elsewhere, on the address by which it reaches the store's
host, for as long as the group meets. Who connects says the listener's nonce, which only the store
tells, and who it is.
"""

from __future__ import annotations

import json
import os
import socket
import struct
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final

import numpy as np

from weftline.fabric.graph import IntArray
from weftline.runtime.group.arena import Arena, Peer, RankMissingError, await_keys

__all__ = ["close", "join"]

_HELLO: Final = struct.Struct("<16sii")
_BUFFER: Final = 4 << 20


def _own_address() -> str:
    """The address by which this host reaches the one that MASTER_ADDR names."""
    master = os.environ.get("MASTER_ADDR", "127.0.0.1")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((master, 9))
            return str(probe.getsockname()[0])
        except OSError:
            return "127.0.0.1"


def join(
    store: Any, rank: int, peers: Sequence[Peer], arena: Arena, timeout: timedelta, where: str
) -> IntArray | None:
    """[slots + 1, ranks] file numbers of connections, -1 within a host; None if all are here.

    Raises RankMissingError for a rank that does not connect.
    """
    far = [p for p in peers if p.host != peers[rank].host]
    if not any(p.host != peers[0].host for p in peers):
        return None
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    with listener:
        listener.bind((_own_address(), 0))
        listener.listen(1024)
        listener.settimeout(timeout.total_seconds())
        store.set(f"weftline/address/{rank}", json.dumps(listener.getsockname()[:2]))
        await_keys(store, [f"weftline/address/{p.rank}" for p in far], timeout, where)
        lines = arena.slots + 1
        found = np.full((lines, len(peers)), -1, np.int64)
        for peer in far:
            if peer.rank > rank:
                host, port = json.loads(store.get(f"weftline/address/{peer.rank}"))
                for line in range(lines):
                    found[line, peer.rank] = _connect(peer, host, port, rank, line, timeout)
        lower = [p.rank for p in far if p.rank < rank]
        _accept(listener, found, lower, arena.nonce, timeout)
    return found


def _accept(
    listener: socket.socket, found: IntArray, lower: Sequence[int], nonce: bytes,
    timeout: timedelta,
) -> None:  # fmt: skip
    """Take the connections of all lower ranks; others are turned away."""
    while (found[:, lower] < 0).any():
        try:
            made, _ = listener.accept()
        except TimeoutError:
            lacking = [str(r) for r in lower if (found[:, r] < 0).any()]
            raise RankMissingError(
                f"rank {', '.join(lacking)} did not connect to {listener.getsockname()[0]}",
                hint="can its host reach this one? a firewall between them?",
            ) from None
        made.settimeout(timeout.total_seconds())
        said = made.recv(_HELLO.size, socket.MSG_WAITALL)
        known, peer, line = _HELLO.unpack(said) if len(said) == _HELLO.size else (b"", -1, -1)
        if known != nonce or peer not in lower or not 0 <= line < len(found):
            made.close()
            continue
        found[line, peer] = _ready(made)


def _connect(peer: Peer, host: str, port: int, rank: int, line: int, timeout: timedelta) -> int:
    try:
        made = socket.create_connection((host, port), timeout.total_seconds())
        made.sendall(_HELLO.pack(bytes.fromhex(peer.nonce), rank, line))
    except OSError as error:
        raise RankMissingError(
            f"rank {peer.rank} at {host}:{port} cannot be reached: {error.strerror or error}",
            hint="a firewall between the hosts? MASTER_ADDR must be an address all can reach",
        ) from None
    return _ready(made)


def _ready(made: socket.socket) -> int:
    """Its file number; from here on compiled code sends and receives."""
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        made.setsockopt(socket.SOL_SOCKET, option, _BUFFER)
    made.setblocking(False)
    return made.detach()


def close(sockets: IntArray) -> None:
    """Close all."""
    for number in np.unique(sockets[sockets >= 0]):
        os.close(int(number))
