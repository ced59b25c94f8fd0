"""Collectives on memory addresses: which program does one, and who may reach whom.

No torch here: ``group.py`` is torch's surface over this, and tests run it on arrays.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final

import numpy as np

from weftline.errors import InputError
from weftline.fabric import OrbitSchedule, Schedule, Topology, build, choose, expand, parse_topology
from weftline.fabric.graph import IntArray
from weftline.fabric.schedule import Collective
from weftline.fabric.synthesis import subgroup
from weftline.runtime.group import direct, wires
from weftline.runtime.group.across import between_hosts
from weftline.runtime.group.arena import Arena, Peer, await_keys, host_here, meet
from weftline.runtime.group.emulate import Links
from weftline.runtime.group.engine import Engine
from weftline.runtime.group.letters import Letters
from weftline.runtime.group.options import GroupOptions
from weftline.runtime.group.program import STREAMS, Program, independent, schedule_streams

__all__ = ["Collectives", "scheduled"]

_SLOTS: Final = 8
_SLOT_BYTES: Final = 1 << 20
_EMULATED_BYTES: Final = 64 << 20
"""One slot in an emulated network, where a piece is the whole buffer as in the simulation."""
_world: dict[str, Links] = {}
"""The emulated links of this process' runs, by name: groups of some ranks share them with all."""
_beside = [0]
"""Ranks of this host in the largest group that this process has joined."""


class Collectives:
    """The ranks of one group, met over a store."""

    def __init__(
        self, store: Any, rank: int, ranks: int, *, name: str, timeout: timedelta,
        options: GroupOptions, members: Sequence[int] | None = None,
    ) -> None:  # fmt: skip
        self.rank, self.ranks, self.name, self.options = rank, ranks, name, options
        self.members = np.array(members or range(ranks), np.int64)
        host = host_here()
        where = f"group {name} of {ranks} ranks"
        emulated = options.network is not None
        self.arena = Arena(1 if emulated else _SLOTS, _EMULATED_BYTES if emulated else _SLOT_BYTES,
                           ranks)  # fmt: skip
        said = Peer(rank=rank, host=host, pid=os.getpid(), file=self.arena.file,
                    nonce=self.arena.nonce.hex(), cores=len(os.sched_getaffinity(0)),
                    beside=_beside[0])  # fmt: skip
        self.peers = meet(store, rank, ranks, said, timeout, where)
        _beside[0] = max(_beside[0], sum(p.host == host for p in self.peers))
        self.arena.open(rank, self.peers, host)
        store.set(f"weftline/mapped/{rank}", "")
        await_keys(store, [f"weftline/mapped/{r}" for r in range(ranks)], timeout, where)
        self.arena.check(self.peers)
        self.arena.sealed()
        far = [p for p in self.peers if p.host != host]
        if emulated and far:
            raise InputError(
                f"rank {far[0].rank} is on another host: an emulated network is of one host",
                hint="between hosts the kernel's own queues hold rates: tc qdisc ... htb, netem",
            )
        self.sockets = wires.join(store, rank, self.peers, self.arena, timeout, where)
        self.remote = np.array([[a.host != b.host for b in self.peers] for a in self.peers])
        self.links = self._links()
        routes = None if self.links is None else self.links.pairs(self.members, rank)
        far_sockets = None if self.sockets is None else self.sockets[-1]
        self.engine = Engine(self.arena, rank, self.peers, timeout=timeout, name=name,
                             sockets=self.sockets, links=self.links)  # fmt: skip
        self.letters = Letters(
            self.arena, rank, self.peers, timeout_s=timeout.total_seconds(), name=name,
            sockets=far_sockets, links=self.links, routes=routes,
        )  # fmt: skip
        self.lock = threading.RLock()
        self.programs: dict[tuple[Any, ...], Program] = {}

    def _links(self) -> Links | None:
        network = self.options.network
        if network is None:
            return None
        whole = np.array_equal(self.members, np.arange(network.ranks))
        if whole:
            clocks = self.arena.at[0] + self.arena.clocks_at
            _world[network.name] = Links(network, clocks)
        if network.name not in _world:
            raise InputError(
                f"the network `{network.name}` has {network.ranks} chips, the first group "
                f"{self.ranks} ranks", hint="a network of as many chips as the run has ranks",
            )  # fmt: skip
        if self.members.max() >= network.ranks:
            raise InputError(f"rank {self.members.max()} is no chip of `{network.name}`")
        return _world[network.name]

    # --- programs ---------------------------------------------------------------------------------

    def program(self, kind: Collective, size_bytes: int, root: int = 0) -> Program:
        """What does one collective of this group."""
        if self.options.algorithm is None and self.options.network is None:
            return self._kept((kind, root), lambda rank: _direct(kind, rank, self.ranks, root))
        size = 1 << max(0, size_bytes - 1).bit_length()  # one choice for sizes that are alike
        return self._kept((kind, root, size), lambda rank: self.of_schedule(
            self.schedule(kind, size, root), rank))  # fmt: skip

    def schedule(self, kind: Collective, size_bytes: int, root: int = 0) -> Schedule:
        """The schedule by the options; the fastest where the named one does not do the collective.

        Raises InputError and UnknownNameError.
        """
        network = self.options.network
        if network is None:
            # A switch: every rank reaches every other alike. `bucket` goes along a ring's axis.
            form = "ring" if self.options.algorithm == "bucket" else "switch"
            topology = parse_topology(f"{form}:{self.ranks}", "10GB/s", "1us")
        else:
            topology = subgroup(network, [int(m) for m in self.members])
        return scheduled(topology, kind, size_bytes, self.options.algorithm or "auto", root=root,
                         links=network is not None)  # fmt: skip

    def of_schedule(self, schedule: Schedule | OrbitSchedule, rank: int) -> Program:
        """A schedule as the program of a rank, over the emulated links where there are any."""
        flat = _flat(schedule)
        linked = None if self.links is None else self.links.of(flat, self.members)
        return schedule_streams(flat, rank=rank, linked=linked)

    def _kept(self, key: tuple[Any, ...], make: Any) -> Program:
        found = self.programs.get(key)
        if found is None:
            if self.remote.any():
                found = between_hosts([make(r) for r in range(self.ranks)], self.rank, self.remote)
            else:
                found = make(self.rank)
            self.programs[key] = found
        return found

    def execute(
        self, schedule: Schedule | OrbitSchedule, given: int, out: int, elements: int, size: int,
        kind: int,
    ) -> None:  # fmt: skip
        """Run this very schedule; ``elements`` of one segment at addresses of input and output."""
        found = self._kept(("schedule", id(schedule)), lambda r: self.of_schedule(schedule, r))
        self.programs[("held", id(schedule))] = schedule  # type: ignore[assignment]
        self.run(found, given, out, elements, size, kind)

    def run(
        self, program: Program, given: int, out: int, elements: int, size: int = 1, kind: int = 0,
        shared: IntArray | None = None,
    ) -> None:  # fmt: skip
        """Execute a program; one at a time."""
        with self.lock:
            self.letters.progress()
            self.engine.run(program, given, out, elements, size, kind, shared)

    def scatter(self, root: int) -> Program:
        """Segments from one rank to all."""
        return self._kept(("scatter", root), lambda r: direct.scatter(r, self.ranks, root))

    def gather(self, root: int) -> Program:
        """Segments of all to one rank."""
        return self._kept(("gather", root), lambda r: direct.gather(r, self.ranks, root))

    def barrier(self) -> None:
        """Return when all have come."""
        if self.remote.any() or self.links is not None:
            # Flags do not reach other hosts, nor do they cross an emulated network: a byte does.
            held = np.zeros(self.ranks, np.uint8)
            program = self.program("all-reduce", self.ranks)
            self.run(program, held.ctypes.data, held.ctypes.data, self.ranks, 1, 4)
            return
        found = self._kept(("barrier",), lambda r: direct.barrier(r, self.ranks))
        self.run(found, 0, 0, 0)

    def shared_sum(self, addresses: IntArray, elements: int, size: int, kind: int) -> None:
        """Sum tensors that all ranks of this host have mapped: ``addresses`` [ranks]."""
        found = self._kept(("shared",), lambda r: direct.shared_sum(r, self.ranks))
        self.run(found, 0, 0, elements, size, kind, addresses)

    @property
    def one_host(self) -> bool:
        """Whether all ranks share memory."""
        return not bool(self.remote.any())

    def close(self) -> None:
        """Let go of sockets; memory goes with its last user."""
        if self.sockets is not None:
            wires.close(self.sockets)


def _direct(kind: Collective, rank: int, ranks: int, root: int) -> Program:
    if kind == "all-reduce":
        return direct.all_reduce(rank, ranks)
    if kind == "reduce-scatter":
        return direct.reduce_scatter(rank, ranks)
    if kind == "all-gather":
        return direct.all_gather(rank, ranks)
    if kind == "broadcast":
        return direct.broadcast(rank, root)
    raise InputError(f"{kind} is made of messages")


def scheduled(
    topology: Topology, kind: Collective, size_bytes: int, name: str = "auto", *, root: int = 0,
    links: bool = True,
) -> Schedule:  # fmt: skip
    """What a group executes of a network's schedules: the fastest, or the one that is named.

    With ``links`` of no more independent parts than a program has streams. Raises InputError.
    """
    found: Schedule | OrbitSchedule
    try:
        found = build(topology, kind, name, root=root)
    except InputError:
        if name != "auto" and kind == "all-reduce":
            raise
        found = choose(topology, kind, float(max(1, size_bytes)), root=root).schedule
    if links and len(independent(_flat(found))) > STREAMS:
        # Pieces that overlap are streams of their own, and there are only so many.
        found = build(topology, kind, found.algorithm, pieces=1, root=root)
    return _flat(found)


def _flat(schedule: Schedule | OrbitSchedule) -> Schedule:
    return expand(schedule) if isinstance(schedule, OrbitSchedule) else schedule
