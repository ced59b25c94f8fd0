"""A thousand ranks in virtual time: preflight's own code over a network that is only counted.

Every rank is a thread with a clock of its own. A message carries its sender's time; who receives it
is then at the later of both, plus latency and bytes over the link's rate. What all ask the store at
once (a meeting, an answer of rank 0) it answers one after the other. No thread waits for real time.
"""

from __future__ import annotations

import json
import random
import threading
from collections import defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from weftline.launch.preflight.judge import suspects
from weftline.launch.preflight.measure import measure

STORE_REQUEST_S = 50e-6
"""One of 20,000 requests a second (a TCPStore of torch 2.13 here: 25,000)."""


@dataclass
class Fabric:
    """Ranks on hosts: rates, what is wrong, and how loud it is."""

    ranks: int
    per_host: int = 8
    inside: float = 300e9
    between: float = 40e9
    latency_s: float = 20e-6
    device: str = "cuda:0"
    work_per_s: float = 700.0
    noise: float = 0.1
    """A sample lies between its rate and (1 - noise) of it, evenly; one in ten at a third."""
    slow: Mapping[tuple[int, int], float] = field(default_factory=dict)
    nic: Mapping[int, float] = field(default_factory=dict)
    chip: Mapping[int, float] = field(default_factory=dict)
    seed: int = 0

    def rate(self, a: int, b: int) -> float:
        inside = a // self.per_host == b // self.per_host
        share = self.slow.get((min(a, b), max(a, b)), 1.0)
        if not inside:
            share *= min(self.nic.get(a, 1.0), self.nic.get(b, 1.0))
        return share * (self.inside if inside else self.between)


class Hub:
    """What all ranks share."""

    def __init__(self, fabric: Fabric) -> None:
        self.fabric = fabric
        self.lock = threading.Lock()
        self.boxes: dict[tuple[int, int], deque[Any]] = defaultdict(deque)
        self.values: dict[str, tuple[float, str]] = {}
        self.counts: dict[str, int] = defaultdict(int)
        self.here: dict[str, float] = defaultdict(float)
        self.arrived: dict[str, int] = defaultdict(int)
        self.signs: dict[Any, threading.Event] = defaultdict(threading.Event)


class VirtualRank:
    """One rank's world (``preflight.transport.Transport``)."""

    def __init__(self, hub: Hub, rank: int) -> None:
        self.hub, self.rank, self.size = hub, rank, hub.fabric.ranks
        self.device, self.at = hub.fabric.device, 0.0
        self.chance = random.Random(hub.fabric.seed * 100_003 + rank)

    def _share(self) -> float:
        noise = self.hub.fabric.noise
        held = 0.33 if noise and self.chance.random() < 0.1 else 1.0
        return held * self.chance.uniform(1.0 - noise, 1.0)

    def send(self, peer: int, size_bytes: int) -> None:
        took = size_bytes / (self.hub.fabric.rate(self.rank, peer) * self._share())
        with self.hub.lock:
            self.hub.boxes[self.rank, peer].append(self.at + took)
            self.hub.signs["box", self.rank, peer].set()

    def receive(self, peer: int, size_bytes: int) -> None:  # noqa: ARG002
        sign = self.hub.signs["box", peer, self.rank]
        while True:
            with self.hub.lock:
                box = self.hub.boxes[peer, self.rank]
                if box:
                    self.at = max(self.at, box.popleft() + self.hub.fabric.latency_s)
                    return
                sign.clear()
            sign.wait()

    def tell(self, name: str, value: Any) -> None:
        with self.hub.lock:
            self.at += STORE_REQUEST_S
            self.hub.values[f"{name}/{self.rank}"] = (self.at, json.dumps(value))
            self.hub.signs["value", f"{name}/{self.rank}"].set()

    def hear(self, name: str, rank: int) -> Any:
        self.hub.signs["value", f"{name}/{rank}"].wait()
        with self.hub.lock:
            when, value = self.hub.values[f"{name}/{rank}"]
            asking = self.size if rank == 0 and self.rank else 1
            self.at = max(self.at, when) + asking * STORE_REQUEST_S
        return json.loads(value)

    def meet(self, name: str) -> None:
        with self.hub.lock:
            self.hub.here[name] = max(self.hub.here[name], self.at)
            self.hub.arrived[name] += 1
            if self.hub.arrived[name] == self.size:
                self.hub.signs["meet", name].set()
        self.hub.signs["meet", name].wait()
        with self.hub.lock:
            self.at = self.hub.here[name] + 2 * self.size * STORE_REQUEST_S

    def count(self, name: str, more: int) -> int:
        with self.hub.lock:
            self.at += STORE_REQUEST_S
            self.hub.counts[name] += more
            return self.hub.counts[name]

    def renew(self) -> None:
        raise AssertionError("nothing is lost here")

    def reduced_s(self, groups: list[list[int]], size_bytes: int, repeats: int) -> float | None:  # noqa: ARG002
        self.at += 1.5  # making the groups, and three all-reduces
        return 0.1

    def facts(self) -> dict[str, Any]:
        host = f"n{self.rank // self.hub.fabric.per_host}"
        return {"host": host, "names": [host], "interfaces": ["eth0"], "rdma": {"mlx5_0": 0.0},
                "cores": list(range(96)), "gpus": ["H100"] * 8, "topology": ""}  # fmt: skip

    def now(self) -> float:
        return self.at

    def clock(self) -> float:
        return 1e9 + self.at

    def pause(self, seconds: float) -> None:
        self.at += seconds

    def work_per_s(self) -> float:
        self.at += 0.3
        return self.hub.fabric.work_per_s * self.hub.fabric.chip.get(self.rank, 1.0) * self._share()

    def disk_bytes_per_s(self, folder: str) -> float:  # noqa: ARG002
        rate = 2e9 * self._share()
        self.at += (8 << 20) / rate
        return rate

    def store_s(self, url: str) -> float:  # noqa: ARG002
        self.at += 0.2
        return 0.2


def preflight_of(
    fabric: Fabric, groups: Mapping[str, list[list[int]]] | None = None
) -> tuple[list[dict[str, Any]], float]:  # fmt: skip
    """(reports of all ranks, virtual seconds until the last was done)."""
    hub = Hub(fabric)
    worlds = [VirtualRank(hub, rank) for rank in range(fabric.ranks)]
    found: list[list[dict[str, Any]]] = []

    def one(world: VirtualRank) -> None:
        done = measure(world, folder="", store="", groups=groups or {}, group_bytes=1 << 20,
                       suspects=lambda so_far: suspects(so_far, None, None))  # fmt: skip
        if done is not None:
            found.append(done)

    before = threading.stack_size(256 << 10)
    try:
        threads = [threading.Thread(target=one, args=(world,), daemon=True) for world in worlds]
        for thread in threads:
            thread.start()
    finally:
        threading.stack_size(before)
    for thread in threads:
        thread.join(timeout=600)
    return found[0], max(world.at for world in worlds)
