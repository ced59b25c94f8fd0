"""How preflight talks: torch.distributed between pairs, its store for turns and results.

A pair that loses a message gives up on it after ``LOST_S``; results go through the store, so that a
dead link does not keep the verdict from rank 0.
"""

from __future__ import annotations

import json
import os
import time
from datetime import timedelta
from typing import Any, Final, Protocol

from weftline.launch.preflight import hardware
from weftline.launch.preflight.discover import discover

LOST_S: Final = 4.0
"""Seconds without an answer until a message counts as lost."""
STORE_S: Final = 60.0


class Transport(Protocol):
    """What the measurements need of the world, its clocks and its host's own parts included."""

    rank: int
    size: int
    device: str

    def send(self, peer: int, size_bytes: int) -> None:
        """Send so many bytes. Raises TimeoutError."""

    def receive(self, peer: int, size_bytes: int) -> None:
        """Receive so many bytes. Raises TimeoutError."""

    def tell(self, name: str, value: Any) -> None:
        """Publish a JSON value for all."""

    def hear(self, name: str, rank: int) -> Any:
        """The value that ``rank`` published under ``name``; waits for it."""

    def meet(self, name: str) -> None:
        """Wait until every rank is here."""

    def count(self, name: str, more: int) -> int:
        """Add to a number that all share; its new value."""

    def renew(self) -> None:
        """Fresh connections between all, where one was lost. Every rank must call it."""

    def reduced_s(self, groups: list[list[int]], size_bytes: int, repeats: int) -> float | None:
        """Seconds of an all-reduce in this rank's group, the best of ``repeats``."""

    def facts(self) -> dict[str, Any]:
        """What the host says of itself."""

    def now(self) -> float:
        """Seconds that only ever grow."""

    def clock(self) -> float:
        """Seconds of the host's clock on the wall."""

    def pause(self, seconds: float) -> None:
        """Let what disturbs go by."""

    def work_per_s(self) -> float:
        """Matrix products a second of this rank's chip."""

    def disk_bytes_per_s(self, folder: str) -> float:
        """Rate of a checkpoint's disk. Raises OSError."""

    def store_s(self, url: str) -> float:
        """Seconds of one object put, read and deleted. Raises OSError."""


class TorchTransport:
    """torch.distributed over gloo, or NCCL where every process has a GPU."""

    def __init__(self) -> None:
        import torch
        import torch.distributed as dist
        from torch._C._distributed_c10d import PrefixStore, TCPStore

        self.rank, self.size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        self._torch, self._dist = torch, dist
        cuda = torch.cuda.is_available() and torch.cuda.device_count() > 0
        self.device = "cpu"
        if cuda:
            local = int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count()
            torch.cuda.set_device(local)
            self.device = f"cuda:{local}"
        self.store = TCPStore(
            os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), self.size,
            is_master=self.rank == 0, timeout=timedelta(seconds=STORE_S),
        )  # fmt: skip
        dist.init_process_group(
            "nccl" if cuda else "gloo", store=PrefixStore("preflight", self.store),
            rank=self.rank, world_size=self.size, timeout=timedelta(seconds=30),
        )  # fmt: skip
        self._buffers: dict[int, Any] = {}
        self._group: Any = None

    def _buffer(self, size_bytes: int) -> Any:
        if size_bytes not in self._buffers:
            self._buffers[size_bytes] = self._torch.zeros(
                max(1, size_bytes), dtype=self._torch.uint8, device=self.device
            )
        return self._buffers[size_bytes]

    def _wait(self, work: Any) -> None:
        try:
            work.wait(timedelta(seconds=LOST_S))
            if self.device != "cpu":
                self._torch.cuda.synchronize()
        except RuntimeError as error:  # gloo says so in words of its own
            raise TimeoutError(str(error).splitlines()[0]) from None

    def send(self, peer: int, size_bytes: int) -> None:
        """Send so many bytes. Raises TimeoutError."""
        try:
            self._wait(self._dist.isend(self._buffer(size_bytes), peer, group=self._group))
        except RuntimeError as error:
            raise TimeoutError(str(error).splitlines()[0]) from None

    def receive(self, peer: int, size_bytes: int) -> None:
        """Receive so many bytes. Raises TimeoutError."""
        try:
            self._wait(self._dist.irecv(self._buffer(size_bytes), peer, group=self._group))
        except RuntimeError as error:
            raise TimeoutError(str(error).splitlines()[0]) from None

    def tell(self, name: str, value: Any) -> None:
        """Publish a JSON value for all."""
        self.store.set(f"{name}/{self.rank}", json.dumps(value))

    def hear(self, name: str, rank: int) -> Any:
        """The value that ``rank`` published under ``name``; waits for it."""
        return json.loads(self.store.get(f"{name}/{rank}"))

    def meet(self, name: str) -> None:
        """Wait until every rank is here."""
        if self.store.add(f"meet/{name}", 1) == self.size:
            self.store.set(f"met/{name}", "1")
        self.store.wait([f"met/{name}"])

    def count(self, name: str, more: int) -> int:
        """Add to a number that all share; its new value."""
        return int(self.store.add(f"count/{name}", more))

    def renew(self) -> None:
        """Fresh connections: gloo closes every pair of a rank that once waited too long."""
        self._group = self._dist.new_group(timeout=timedelta(seconds=30))

    def reduced_s(self, groups: list[list[int]], size_bytes: int, repeats: int) -> float | None:
        """Seconds of an all-reduce in this rank's group, the best of ``repeats``."""
        dist, torch = self._dist, self._torch
        mine, _ = dist.new_subgroups_by_enumeration(groups)
        value = torch.zeros(max(1, size_bytes // 4), dtype=torch.float32, device=self.device)
        best = None
        for _ in range(repeats + 1):
            began = time.perf_counter()
            dist.all_reduce(value, group=mine)
            if self.device != "cpu":
                torch.cuda.synchronize()
            took = time.perf_counter() - began
            best = took if best is None else min(best, took)
        return best

    def facts(self) -> dict[str, Any]:
        """What the host says of itself."""
        return discover()

    def now(self) -> float:
        """Seconds that only ever grow."""
        return time.perf_counter()

    def clock(self) -> float:
        """Seconds of the host's clock on the wall."""
        return time.time()

    def pause(self, seconds: float) -> None:
        """Let what disturbs go by."""
        time.sleep(seconds)

    def work_per_s(self) -> float:
        """Matrix products a second of this rank's chip."""
        return hardware.work_per_s(self.device)

    def disk_bytes_per_s(self, folder: str) -> float:
        """Rate of a checkpoint's disk. Raises OSError."""
        return hardware.disk_bytes_per_s(folder)

    def store_s(self, url: str) -> float:
        """Seconds of one object put, read and deleted. Raises OSError."""
        return hardware.store_s(url, str(self.rank))

    def close(self) -> None:
        """Leave; the store's rank goes last."""
        self.meet("end")
        self._dist.destroy_process_group()
        if self.rank == 0:
            time.sleep(0.2)  # others read their last answer from this store
