"""Ranks on nodes with disks of their own: run as a program, it saves, loses nodes, and restores.

    python node_ranks.py FOLDER NODES [LOAD_WORLD ...]

One rank a node. A node is a folder for its disk, one for its memory, and a server process over
both; ranks are forks with a real process group. What differs from the truth is told on stderr.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from reshard_ranks import placed, same, whole_of, whole_tensors
from torch.distributed.checkpoint import async_save, load, save

from weftline.burst import Options, Store, pytorch
from weftline.burst.errors import CommitError
from weftline.burst.nodes.cluster import Nodes
from weftline.burst.nodes.server import NodeServer
from weftline.burst.pytorch import BurstStorageReader, BurstStorageWriter
from weftline.burst.remote.drain import Drainer
from weftline.burst.remote.objects import Bucket
from weftline.errors import InputError

OPTIONS = Options(chunk_bytes=4096, segment_bytes=1 << 18, io_threads=2, direct=False)


class Machines:
    """The nodes of a run, and the processes on them."""

    def __init__(self, root: Path, count: int) -> None:
        self.root = root
        self.count = count
        self.ports = [free_port() for _ in range(count)]
        self.servers: dict[int, int] = {}
        self.jobs = 0

    def nodes(self, mine: int, **fields: Any) -> Nodes:
        urls = tuple(f"peer://127.0.0.1:{port}" for port in self.ports)
        return Nodes(urls=urls, mine=mine % self.count, **fields)

    def disk(self, node: int) -> str:
        return str(self.root / f"disk{node % self.count}")

    def start(self, node: int) -> None:
        """Start the server of a node."""

        def serve() -> None:
            with NodeServer(
                self.root / f"memory{node}", store=self.disk(node), port=self.ports[node]
            ):
                os.write(said, b"!")
                signal.pause()

        heard, said = os.pipe()
        self.servers[node] = forked(serve)
        os.close(said)
        assert os.read(heard, 1) == b"!", f"server {node} did not start"
        os.close(heard)

    def lose(self, node: int) -> None:
        """The node is gone, with memory and disk; another, empty, takes its place."""
        self.stop(node)
        for name in ("disk", "memory"):
            shutil.rmtree(self.root / f"{name}{node}", ignore_errors=True)
        self.start(node)

    def stop(self, node: int) -> None:
        os.kill(self.servers[node], signal.SIGKILL)
        os.waitpid(self.servers.pop(node), 0)

    def run(self, work: Callable[[Machines, int, int], None], world: int) -> None:
        """Run a job of so many ranks. Raises where one failed."""
        self.jobs += 1
        meeting = f"file://{self.root}/meet{self.jobs}"

        def rank_of(rank: int) -> None:
            torch.set_num_threads(1)
            dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world)
            work(self, rank, world)
            dist.barrier()
            dist.destroy_process_group()

        children = [forked(lambda r=rank: rank_of(r)) for rank in range(world)]
        codes = [os.waitpid(child, 0)[1] for child in children]
        assert not any(codes), f"job {self.jobs} ({work.__name__}, {world} ranks): {codes}"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def forked(work: Callable[[], None]) -> int:
    """Run in a child that cannot return; its pid."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return child


def state_of(world: int, step: int) -> dict[str, Any]:
    """The tensors of a step, on so many ranks."""
    state = placed(world, blank=False)
    for tensor in state["state"].values():
        tensor.to_local().mul_(step)
    return state


def do_save(machines: Machines, rank: int, world: int) -> None:
    """All ways to save, each a step."""
    nodes = machines.nodes(rank)
    writer = BurstStorageWriter(machines.disk(rank), options=OPTIONS, nodes=nodes)
    store_id = f"{machines.disk(rank)}/step-1"
    save(state_of(world, 1), storage_writer=writer, checkpoint_id=store_id)
    waiting = async_save(
        state_of(world, 2), storage_writer=writer, checkpoint_id=f"{machines.disk(rank)}/step-2"
    )
    waiting.result()
    assert [c.step for c in writer.store().checkpoints()] == [1, 2]
    state = state_of(world, 3)
    handle = pytorch.save(state, writer.store(), step=3, wait=False)
    for tensor in state["state"].values():
        tensor.to_local().zero_()  # training goes on
    handle.wait()
    assert handle.committed
    broken = state_of(world, 4) | ({"broken": object()} if rank == world - 1 else {})
    with pytest.raises((InputError, CommitError), match="broken"):  # told on every rank
        pytorch.save(broken, writer.store(), step=4)
    assert [c.step for c in writer.store().checkpoints()] == [1, 2, 3]
    pytorch.save(state_of(world, 5), writer.store())  # a step above every other
    assert writer.store().read_commit().step == 4
    assert writer.store().notices == []
    writer.close()


def do_drain(machines: Machines, rank: int, world: int) -> None:
    """Every node drains its own shares of step 2; the last commits it in the bucket."""
    for turn in range(world):
        if turn == rank:
            with Store.open(machines.disk(rank), read_only=True) as store:
                done = Drainer(store, bucket_of(machines)).drain(2)
                assert done.durable == (rank == world - 1), done
        dist.barrier()


def bucket_of(machines: Machines) -> Bucket:
    place = machines.root / "bucket"
    place.mkdir(exist_ok=True)
    return Bucket.open(place.as_uri())


def loads(step: int, *, bucket: bool = False) -> Callable[[Machines, int, int], None]:
    """A job that must find this step (saved as ``saved``), on any number of ranks."""

    def do_load(machines: Machines, rank: int, world: int) -> None:
        fields = {"bucket": bucket_of(machines).url} if bucket else {}
        reader = BurstStorageReader(machines.disk(rank), nodes=machines.nodes(rank, **fields))
        state = placed(world, blank=True)
        load(state, storage_reader=reader)
        reader.close()
        for name, wanted in whole_tensors().items():
            same(name, whole_of(state["state"][name]), wanted * step)
        assert state["plain"] == {"step": 41, "names": ["a"]}

    return do_load


def main(folder: str, count: int, worlds: list[int]) -> int:
    """Raises where a job failed."""
    os.environ["WEFTLINE_BURST_SECRET"] = secrets.token_hex(16)
    machines = Machines(Path(folder), count)
    for node in range(count):
        machines.start(node)
    try:
        machines.run(do_save, count)
        machines.run(do_drain, count)
        for world in worlds:
            machines.run(loads(5), world)  # every node is as it was
            machines.lose(count - 1)
            machines.run(loads(5), world)  # the rank of the last node, from another's memory
        for node in range(0 if count == 2 else 1, count):
            machines.lose(node)  # too many: only the bucket has all
        machines.run(loads(2, bucket=True), worlds[0])
    finally:
        for node in list(machines.servers):
            machines.stop(node)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]), [int(w) for w in sys.argv[3:]]))
