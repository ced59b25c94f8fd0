"""Memory that the ranks of one host share, and who shares a host.

Each rank makes an anonymous file (``memfd``) with its flags, slots and letter boxes; the others map
it through ``/proc``. It never has a name in a file system, so nothing is left behind however the
ranks end, and nothing of an older run can be met: a nonce from the store is checked. Pages cost
memory once they are touched.
"""

from __future__ import annotations

import json
import mmap
import os
import secrets
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np

from weftline.errors import WeftlineError
from weftline.runtime.group.kernel import LINE
from weftline.runtime.group.program import STREAMS

__all__ = ["Arena", "Peer", "RankMissingError", "crowded", "ended", "host_here", "meet"]

WIDTH: Final = STREAMS + 1
"""Flags of a slot: of each stream, and of its uses."""
RING_BYTES: Final = 4 << 20
"""Of one letter box: messages from one rank to another."""
CLOCKS: Final = 4096
"""Link clocks that a rank's memory has room for."""
_NONCE: Final = 16


class RankMissingError(WeftlineError):
    """A rank did not come to a collective, or has ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """What a rank says of itself to the others."""

    rank: int
    host: str
    pid: int
    file: int
    nonce: str
    cores: int
    """That this process may run on."""
    beside: int
    """Ranks of this host in the largest group it has joined: those it shares the cores with."""


def host_here() -> str:
    """A name for all processes that can map each other's memory: a boot, seen from one namespace.

    ``WEFTLINE_GROUP_HOST`` sets another, which makes ranks of one machine speak over TCP.
    """
    said = os.environ.get("WEFTLINE_GROUP_HOST")
    if said:
        return said
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{boot} {Path('/proc/self/ns/pid').readlink()} {os.getuid()}"


def ended(pid: int) -> bool:
    """Whether a process of this host has ended, a zombie included."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return True
    return text.rpartition(")")[2].split()[0] in ("Z", "X")


def meet(
    store: Any, rank: int, ranks: int, said: Peer, timeout: timedelta, where: str
) -> list[Peer]:
    """What every rank says of itself. Raises RankMissingError naming who did not come."""
    store.set(f"weftline/{rank}", json.dumps(asdict(said)))
    keys = [f"weftline/{r}" for r in range(ranks)]
    await_keys(store, keys, timeout, where)
    return [Peer(**json.loads(store.get(key))) for key in keys]


def crowded(peers: Sequence[Peer]) -> bool:
    """Whether ranks share cores on any host.

    All ranks find the same, whatever each may run on: pieces are cut by it, and a rank that cut
    otherwise would wait for ever.
    """
    here = Counter(peer.host for peer in peers)
    return any(max(here[p.host], p.beside) > p.cores for p in peers)


def await_keys(store: Any, keys: Sequence[str], timeout: timedelta, where: str) -> None:
    """Wait until all keys are in the store. Raises RankMissingError."""
    try:
        store.wait(list(keys), timeout)
    except RuntimeError:  # torch's DistStoreError among them
        missing = [k.rpartition("/")[2] for k in keys if not store.check([k])]
        raise RankMissingError(
            f"{where}: rank {', '.join(missing)} did not come within "
            f"{timeout.total_seconds():.0f} s",
            hint="look at that rank's own log",
        ) from None


class Arena:
    """The memory of all ranks of this host as this rank sees it."""

    def __init__(self, slots: int, slot_bytes: int, ranks: int) -> None:
        self.slots, self.slot_bytes, self.ranks = slots, slot_bytes, ranks
        # The nonce has a line, and so has the bell, which stands before the flags.
        self.flags_at = 2 * LINE
        flags = self.flags_at + slots * WIDTH * LINE
        self.clocks_at = -(-flags // LINE) * LINE
        self.rings_at = self.clocks_at + CLOCKS * LINE
        heads = 2 * LINE
        self.ring_bytes = heads + RING_BYTES
        self.slots_at = -(-(self.rings_at + ranks * self.ring_bytes) // mmap.PAGESIZE) * (
            mmap.PAGESIZE
        )
        self.size = self.slots_at + slots * slot_bytes
        self.nonce = secrets.token_bytes(_NONCE)
        self.file = os.memfd_create("weftline", os.MFD_CLOEXEC)
        os.ftruncate(self.file, self.size)
        self.maps: dict[int, mmap.mmap] = {}
        self.at: dict[int, int] = {}

    def open(self, rank: int, peers: Sequence[Peer], host: str) -> None:
        """Map the memory of all ranks of ``host``. Raises RankMissingError."""
        for peer in peers:
            if peer.host != host:
                continue
            own = peer.rank == rank
            try:
                file = self.file if own else os.open(
                    f"/proc/{peer.pid}/fd/{peer.file}", os.O_RDWR
                )  # fmt: skip
            except OSError as error:
                raise RankMissingError(
                    f"the memory of rank {peer.rank} (process {peer.pid}) cannot be mapped: "
                    f"{error.strerror}",
                    hint="it has ended, or runs as another user",
                ) from None
            found = mmap.mmap(file, self.size)
            if own:
                found[:_NONCE] = self.nonce
            else:
                os.close(file)
            self.maps[peer.rank] = found
            self.at[peer.rank] = np.frombuffer(found, np.uint8).ctypes.data

    def check(self, peers: Sequence[Peer]) -> None:
        """Whether it is the memory that was meant; all have written their nonce. Raises."""
        for rank, found in self.maps.items():
            if found[:_NONCE].hex() != peers[rank].nonce:
                raise RankMissingError(f"rank {rank} has ended: its memory is another's")

    def sealed(self) -> None:
        """All have mapped it: the memory goes when the last process does."""
        os.close(self.file)

    def addresses(self, offset: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        """[ranks] where something lies in each rank's memory; 0 on other hosts."""
        found = np.zeros(self.ranks, np.int64)
        for rank, at in self.at.items():
            found[rank] = at + offset
        return found

    def ring(self, source: int, target: int) -> int:
        """Address of the letter box from one rank to another, in the sender's memory."""
        return self.at[source] + self.rings_at + target * self.ring_bytes
