"""Messages from rank to rank: send and receive, matched by tag, in the order of each pair.

Within a host a message goes through a ring of bytes in the sender's memory, between hosts through a
socket. What does not fit at once is pushed on by every later call on the group, and by a thread
while anything is left, so that a send never waits for its receiver.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from weftline._compiled import compiled
from weftline.runtime.group.arena import RING_BYTES, Arena, Peer, RankMissingError, ended
from weftline.runtime.group.emulate import Links
from weftline.runtime.group.kernel import LINE, flow
from weftline.runtime.group.machine import load, now_ns, receive_some, send_some, store
from weftline.runtime.group.program import Linked
from weftline.runtime.group.sums import copy

__all__ = ["Letters", "Mail"]

_HEAD: Final = 16
"""Bytes before a message: its tag and length."""
_LOOK_S: Final = 0.1
_SPINS: Final = 200
_NAP_S: Final = 5e-5


def _push(ring: int, address: int, count: int) -> int:
    """Write up to ``count`` bytes into a ring; returns how many went in."""
    head, tail = load(ring), load(ring + LINE)
    n = min(count, RING_BYTES - (head - tail))
    at = head % RING_BYTES
    first = min(n, RING_BYTES - at)
    body = ring + 2 * LINE
    copy(body + at, address, first)
    copy(body, address + first, n - first)
    store(ring, head + n)
    return n


def _pull(ring: int, address: int, count: int) -> int:
    """Read up to ``count`` bytes from a ring; returns how many came out."""
    head, tail = load(ring), load(ring + LINE)
    n = min(count, head - tail)
    at = tail % RING_BYTES
    first = min(n, RING_BYTES - at)
    body = ring + 2 * LINE
    copy(address, body + at, first)
    copy(address + first, body, n - first)
    store(ring + LINE, tail + n)
    return n


push, pull = compiled(_push, nogil=True), compiled(_pull, nogil=True)


@dataclass(slots=True, eq=False)
class Mail:
    """One message on its way out, or one that is awaited."""

    peer: int
    tag: int
    address: int
    size: int
    kept: Any
    """What owns the memory, until it is done."""
    unasked: bool = False
    """Whether it came before anybody asked for it: ``kept`` is its bytes."""
    done: bool = False
    moved: int = 0
    error: Exception | None = None


@dataclass(slots=True, eq=False)
class _Inbox:
    """What comes from one rank."""

    waiting: deque[Mail] = field(default_factory=deque)
    early: deque[tuple[int, np.ndarray[Any, np.dtype[np.uint8]]]] = field(default_factory=deque)
    """Messages that came before they were asked for: tag and bytes."""
    head: np.ndarray[Any, np.dtype[np.int64]] = field(default_factory=lambda: np.zeros(2, np.int64))
    got: int = 0
    mail: Mail | None = None
    """The message that is being read."""
    flow: np.ndarray[Any, np.dtype[np.int64]] = field(default_factory=lambda: np.zeros(3, np.int64))


class Letters:
    """All letter boxes of one rank of a group."""

    def __init__(
        self, arena: Arena, rank: int, peers: list[Peer], *, timeout_s: float, name: str,
        sockets: Any = None, links: Links | None = None, routes: Linked | None = None,
    ) -> None:  # fmt: skip
        self.arena, self.rank, self.peers, self.name = arena, rank, peers, name
        self.timeout_s = timeout_s
        self.sockets, self.links, self.routes = sockets, links, routes
        self.out: dict[int, deque[tuple[Mail, Any]]] = {p.rank: deque() for p in peers}
        self.inboxes = {p.rank: _Inbox() for p in peers}
        self.lock = threading.RLock()
        self.pushing = False
        """Whether a thread pushes. It says itself, with the lock, that it will not look again: one
        that is seen alive may have looked for the last time."""

    def send(self, peer: int, tag: int, address: int, size: int, kept: Any) -> Mail:
        """Begin to send; returns at once."""
        mail = Mail(peer, tag, address, size, kept)
        with self.lock:
            self.out[peer].append((mail, np.array([tag, size], np.int64)))
            self._push(peer)
            if not mail.done and not self.pushing:
                self.pushing = True
                threading.Thread(target=self._push_all, daemon=True).start()
        return mail

    def receive(self, peer: int, tag: int, address: int, size: int, kept: Any) -> Mail:
        """Await a message of that tag from a rank."""
        mail = Mail(peer, tag, address, size, kept)
        with self.lock:
            box = self.inboxes[peer]
            for i, (found, data) in enumerate(box.early):
                if found == tag:
                    del box.early[i]
                    _check(mail, len(data))
                    copy(address, data.ctypes.data, size)
                    mail.done = True
                    return mail
            box.waiting.append(mail)
        return mail

    def wait(self, mail: Mail, timeout_s: float | None = None) -> None:
        """Until it is done. Raises RankMissingError naming the peer that does not come."""
        began = looked = time.monotonic()
        limit = self.timeout_s if timeout_s is None else timeout_s
        idle = 0
        while not mail.done:
            moved = self.progress()
            if mail.error is not None:
                raise mail.error
            idle = 0 if moved else idle + 1
            if idle > _SPINS:
                time.sleep(_NAP_S)
            elif idle:
                time.sleep(0)
            now = time.monotonic()
            if now - looked > _LOOK_S and not mail.done:
                looked = now
                self._look(mail, now - began, limit)

    def progress(self) -> bool:
        """Move on what can be moved; whether anything was."""
        moved = False
        with self.lock:
            for peer, queue in self.out.items():
                if queue:
                    moved |= self._push(peer)
            for peer, box in self.inboxes.items():
                if box.waiting or box.mail is not None:
                    moved |= self._pull(peer, box)
        return moved

    def _push(self, peer: int) -> bool:
        queue, moved = self.out[peer], False
        while queue:
            mail, head = queue[0]
            total = _HEAD + mail.size
            while mail.moved < total:
                if mail.moved < _HEAD:
                    at, many = head.ctypes.data + mail.moved, _HEAD - mail.moved
                else:
                    at, many = mail.address + mail.moved - _HEAD, total - mail.moved
                n = self._write(peer, at, many)
                if n <= 0:
                    return moved
                mail.moved += n
                moved = True
            mail.done, mail.kept = True, None
            queue.popleft()
        return moved

    def _pull(self, peer: int, box: _Inbox) -> bool:
        """Read what has come, message after message, while somebody waits for one."""
        moved = False
        while box.waiting or box.mail is not None:
            if box.mail is None:
                n = self._read(peer, box.head.ctypes.data + box.got, _HEAD - box.got)
                if n <= 0:
                    return moved
                box.got += n
                moved = True
                if box.got < _HEAD:
                    continue
                box.mail = self._addressed(peer, box)
                box.got = 0
            mail = box.mail
            while mail.moved < mail.size:
                n = self._read(peer, mail.address + mail.moved, mail.size - mail.moved)
                if n <= 0:
                    return moved
                mail.moved += n
                moved = True
            if self.links is not None and not self._arrived(peer, box):
                return moved
            mail.done = True
            if mail.unasked:
                box.early.append((mail.tag, mail.kept))
            mail.kept, box.mail, moved = None, None, True
        return moved

    def _addressed(self, peer: int, box: _Inbox) -> Mail:
        """Who is to get the message whose head was read; a buffer where nobody asked yet."""
        tag, size = int(box.head[0]), int(box.head[1])
        if self.links is not None:
            box.flow[:] = size, now_ns(), now_ns()
        for i, mail in enumerate(box.waiting):
            if mail.tag == tag:
                del box.waiting[i]
                _check(mail, size)
                return mail
        data = np.empty(size, np.uint8)
        return Mail(peer, tag, data.ctypes.data, size, data, unasked=True)

    def _arrived(self, peer: int, box: _Inbox) -> bool:
        """Whether the emulated network has brought the message."""
        assert self.links is not None  # noqa: S101
        assert self.routes is not None  # noqa: S101
        assert box.mail is not None  # noqa: S101
        start, links, parts, speeds, delays = self.links.tables(self.routes)
        now = now_ns()
        flow(self.links.clocks, self.links.credit_ns, box.flow, box.mail.size, int(start[peer]),
             int(start[peer + 1]), links, parts, speeds, int(delays[peer]), now)  # fmt: skip
        return bool(box.flow[0] == 0 and box.flow[2] <= now)

    def _write(self, peer: int, address: int, count: int) -> int:
        if self.sockets is not None and self.sockets[peer] >= 0:
            return int(send_some(int(self.sockets[peer]), address, count))
        return int(push(self.arena.ring(self.rank, peer), address, count))

    def _read(self, peer: int, address: int, count: int) -> int:
        if self.sockets is not None and self.sockets[peer] >= 0:
            return int(receive_some(int(self.sockets[peer]), address, count))
        return int(pull(self.arena.ring(peer, self.rank), address, count))

    def _push_all(self) -> None:
        """In a thread: until nothing is left to send."""
        while True:
            with self.lock:
                left = [peer for peer, queue in self.out.items() if queue]
                moved = [self._push(peer) for peer in left]
                if not left:
                    self.pushing = False
                    return
            if not any(moved):
                time.sleep(_NAP_S * 4)

    def _look(self, mail: Mail, waited_s: float, limit_s: float) -> None:
        peer = self.peers[mail.peer]
        where = f"message {mail.tag} with rank {mail.peer} of group {self.name}"
        if mail.peer in self.arena.at and ended(peer.pid):
            self.progress()
            if mail.done:
                return
            raise RankMissingError(f"{where}: rank {mail.peer} (process {peer.pid}) has ended",
                                   hint="look at that rank's own log")  # fmt: skip
        if waited_s > limit_s:
            raise RankMissingError(
                f"{where}: rank {mail.peer} (process {peer.pid}) did not come within "
                f"{limit_s:.0f} s", hint="is there a send for every receive?",
            )  # fmt: skip


def _check(mail: Mail, size: int) -> None:
    if size != mail.size:
        raise ValueError(
            f"rank {mail.peer} sent {size} bytes with tag {mail.tag}, {mail.size} are awaited"
        )
