"""Lost disks come back from other nodes, every way there is, timed against a raw TCP copy.

    python bench/burst_recovery.py [--size 1GB] [--nodes 4] [--rounds 5] [--dir D]

A node is a process that serves copies in memory (a folder in /dev/shm), its disk, and a plain
socket. Ranks, one a node, save their blocks of eight tensors to their own disk, with one copy in
another node's memory, and drain to a bucket (a folder there, behind obstore). Then their disks are
taken for lost. New processes, one a rank, begin without a store, ask the nodes what there is (each
its share of them), agree on it by one exchange as they do under torch.distributed, and load their
block from another node's memory, from the nodes' disks, or from the bucket; and half as many ranks
load blocks twice as large from memory. Every byte is checked on the way, and again afterwards,
outside the time. Raw: the same processes receive as many bytes from the process that has their copy
into the same memory (aligned as torch's tensors are) over plain sockets, nothing checked.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shutil
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from weftline.burst import Options, Shard, Store
from weftline.burst.log.record import Prepared
from weftline.burst.nodes.agree import Seen
from weftline.burst.nodes.cluster import Nodes, open_to_restore
from weftline.burst.nodes.server import NodeServer
from weftline.burst.read.restore import Target
from weftline.burst.remote.drain import Drainer
from weftline.burst.remote.objects import Bucket
from weftline.units import format_bytes, parse_bytes

TENSORS = 8
WIDTH = 4096
WAYS = ("raw", "memory", "disks", "bucket", "half the ranks")
Bytes2d = np.ndarray[Any, Any]


def block(rank: int, rows: int) -> dict[str, Bytes2d]:
    """One rank's rows of every tensor."""
    rng = np.random.default_rng(rank)
    return {f"t{i}": rng.integers(0, 255, (rows, WIDTH), dtype=np.uint8) for i in range(TENSORS)}


def serve(memory: Path, disk: Path, nbytes: int, answer: Any) -> None:
    """A node: copies in memory, its disk, and a socket that sends bytes to whoever connects."""
    data = memoryview(np.random.default_rng(0).integers(0, 255, nbytes, dtype=np.uint8))
    listener = socket.create_server(("127.0.0.1", 0))

    def send(connection: socket.socket) -> None:
        with connection:
            while connection.recv(1):
                connection.sendall(data)

    empty = memory.with_name(f"{memory.name}-empty")
    with NodeServer(memory) as copies, NodeServer(empty, store=disk) as disks:
        answer.send((copies.url, disks.url, listener.getsockname()[1]))
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=send, args=(connection,), daemon=True).start()


def save(place: Path, urls: tuple[str, ...], rank: int, rows: int, answer: Any) -> None:
    """Save one rank's block, with its copy on another node; and drain it."""
    world = len(urls)
    state = {
        name: Shard(data=data, global_shape=(world * rows, WIDTH), offsets=(rank * rows, 0))
        for name, data in block(rank, rows).items()
    }
    nodes = Nodes(urls=urls, mine=rank, run="bench")
    with Store.open(
        place / f"disk{rank}", run="bench", copier=nodes.copier(), options=Options()
    ) as store:
        start = time.perf_counter()
        share = store.prepare(state, 1, rank=rank, world=world, attempt="a")
        assert len(share.copies) == 1, store.notices
        answer.send((share.encode(), share.copies[0], time.perf_counter() - start))
        store.commit(1, prepared=[Prepared.decode(s) for s in answer.recv()])
        Drainer(store, Bucket.open((place / "bucket").as_uri())).drain(1)
    answer.send(b"done")


def recover(
    root: Path, ways: dict[str, Nodes], port: int, rank: int, rows: int, meeting: Meeting,
    answer: Any,
) -> None:  # fmt: skip
    """Raw bytes, or the block by one of the ways, each when all ranks are ready."""
    world = meeting.world
    small = {f"t{i}": zeros(rows) for i in range(TENSORS)}
    wanted = {r: hashes(block(r, rows)) for r in {rank, 2 * rank, 2 * rank + 1} if r < world}
    large = {name: zeros(2 * rows) for name in small}
    raw = socket.create_connection(("127.0.0.1", port))
    while (kind := answer.recv()) != "end":
        half = kind == "half the ranks"
        into, first = (large, 2 * rank) if half else (small, rank)
        meeting.gates.wait()
        start, before = time.perf_counter(), time.process_time()
        if half and first >= world:
            answer.send((0.0, 0.0))
            continue
        ranks = range(0, world if not half else world // 2)
        if kind == "raw":
            raw.sendall(b"!")
            for array in into.values():
                fill(raw, memoryview(array).cast("B"))
        else:
            targets = {n: Target(data=a, offsets=(first * rows, 0)) for n, a in into.items()}
            with open_to_restore(root / f"new{rank}") as store:
                choice = ways[kind].choose(
                    store, step=1, rank=rank, world=len(ranks), gather=meeting.gather(rank, ranks)
                )
                ways[kind].ready(store, choice)
                store.load(1, into=targets)
        answer.send((time.perf_counter() - start, time.process_time() - before))
        if kind != "raw":
            for at in range(len(into["t0"]) // rows):
                got = {n: a[at * rows : (at + 1) * rows] for n, a in into.items()}
                assert hashes(got) == wanted[first + at], kind
            for array in into.values():
                array[:] = 0
            shutil.rmtree(root / f"new{rank}")  # so that the next time begins without a store too


class Meeting:
    """Where the ranks, processes of one machine, put together what each found."""

    def __init__(self, context: Any, world: int) -> None:
        self.world = world
        self.gates = context.Barrier(world)
        self._told = [context.SimpleQueue() for _ in range(world)]

    def gather(self, rank: int, ranks: range) -> Callable[[list[Seen]], list[Seen]]:
        """What ``Nodes.choose`` takes; every rank of ``ranks`` must call it."""

        def together(seen: list[Seen]) -> list[Seen]:
            for other in ranks:
                self._told[other].put((rank, seen))
            told = dict(self._told[rank].get() for _ in ranks)
            return [one for other in ranks for one in told[other]]

        return together


def zeros(rows: int) -> Bytes2d:
    """A block that starts where a vector does, as torch allocates tensors."""
    room = np.zeros(rows * WIDTH + 64, np.uint8)
    start = -room.ctypes.data % 64
    return room[start : start + rows * WIDTH].reshape(rows, WIDTH)


def hashes(arrays: dict[str, Bytes2d]) -> dict[str, bytes]:
    """To compare by: the saved blocks need not be kept."""
    return {name: xxhash.xxh3_128_digest(array) for name, array in arrays.items()}


def fill(connection: socket.socket, out: memoryview) -> None:
    """Exactly that many bytes."""
    got = 0
    while got < len(out):
        got += connection.recv_into(out[got:])


def started(context: Any, work: Callable[..., None], *arguments: Any) -> tuple[Any, Any]:
    """A process, and the pipe to it."""
    mine, theirs = context.Pipe()
    process = context.Process(target=work, args=(*arguments, theirs), daemon=True)
    process.start()
    return process, mine


def measure(
    size_bytes: int, world: int, rounds: int, kinds: list[str], root: Path, place: Path
) -> dict[str, Any]:
    """Seconds of each round, the slowest rank's, raw and by every way in turn."""
    context = get_context("fork")
    rows = size_bytes // world // TENSORS // WIDTH
    nbytes = rows * WIDTH * TENSORS
    (place / "bucket").mkdir()
    servers = [
        started(context, serve, root / f"memory{n}", place / f"disk{n}", nbytes)
        for n in range(world)
    ]
    copies, disks, ports = zip(*(pipe.recv() for _, pipe in servers), strict=True)
    savers = [started(context, save, place, copies, r, rows) for r in range(world)]
    handed = [pipe.recv() for _, pipe in savers]
    for _, pipe in savers:
        pipe.send([share for share, _, _ in handed])
    for process, pipe in savers:
        pipe.recv()
        process.join()
    bucket = (place / "bucket").as_uri()
    gone = (nobody(),) * world
    meeting = Meeting(context, world)
    ranks = []
    for r in range(world):
        mine: dict[str, Any] = {"mine": r, "run": "bench"}
        memory = Nodes(urls=copies, **mine)
        ways = {"memory": memory, "half the ranks": memory, "disks": Nodes(urls=disks, **mine),
                "bucket": Nodes(urls=gone, bucket=bucket, **mine)}  # fmt: skip
        port = ports[copies.index(handed[r][1])]
        ranks.append(started(context, recover, root, ways, port, r, rows, meeting))
    times: dict[str, list[float]] = {kind: [] for kind in kinds}
    cpu: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(rounds):
        for kind, seconds in times.items():
            before = cpu_s(servers)
            for _, pipe in ranks:
                pipe.send(kind)
            told = [pipe.recv() for _, pipe in ranks]
            seconds.append(max(wall for wall, _ in told))
            cpu[kind].append(cpu_s(servers) - before + sum(own for _, own in told))
    for process, pipe in ranks:
        pipe.send("end")
        process.join()
    for process, _ in servers:
        process.terminate()
    return {
        "bytes": nbytes * world, "nodes": world, "rounds": rounds,
        "seconds": {kind: statistics.median(seconds) for kind, seconds in times.items()},
        "first": {kind: seconds[0] for kind, seconds in times.items()},
        "cpu_s": {kind: statistics.fmean(seconds) for kind, seconds in cpu.items()},
        "save_with_copy_s": max(s for _, _, s in handed), "all": times,
    }  # fmt: skip


def cpu_s(processes: list[tuple[Any, Any]]) -> float:
    """Seconds that these processes have spent on a core; 0 where /proc does not tell."""
    total = 0
    for process, _ in processes:
        with suppress(OSError):
            fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


def nobody() -> str:
    """The address of a node that is not there: refused at once."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"peer://127.0.0.1:{listener.getsockname()[1]}"


def shown(found: dict[str, Any]) -> str:
    """One line of the table."""
    raw = found["seconds"]["raw"]
    cells = [str(found["nodes"]), f"{raw:.3f} s"]
    for kind, seconds in found["seconds"].items():
        if kind != "raw":
            share = f" ({100 * raw / seconds:.0f} %)" if kind == "memory" else ""
            cells.append(f"{seconds:.3f} s{share}")
    return f"| {' | '.join(cells)} |"


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--size", default="1GB")
    parser.add_argument("--nodes", type=int, nargs="+", default=[4])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ways", nargs="+", choices=WAYS[1:], default=list(WAYS[1:]))
    parser.add_argument("--dir", type=Path, default=None, help="a folder on the disk of the nodes")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    os.environ.setdefault("WEFTLINE_BURST_SECRET", secrets.token_hex(16))
    size_bytes = int(parse_bytes(arguments.size, where="--size"))
    kinds = ["raw", *arguments.ways]
    memory = Path("/dev/shm") if Path("/dev/shm").is_dir() else None  # noqa: S108
    found = []
    for world in arguments.nodes:
        root = Path(tempfile.mkdtemp(prefix="burst-recovery-", dir=memory))
        place = Path(tempfile.mkdtemp(prefix="burst-recovery-", dir=arguments.dir))
        try:
            found.append(measure(size_bytes, world, arguments.rounds, kinds, root, place))
        finally:
            shutil.rmtree(root, ignore_errors=True)
            shutil.rmtree(place, ignore_errors=True)
    if arguments.json:
        print(json.dumps(found))
        return 0
    print(
        f"{format_bytes(found[0]['bytes'])}, medians of {arguments.rounds}; in brackets the rate "
        "from memory as a share of raw TCP's\n"
    )
    print(f"| nodes | {' | '.join(kinds)} |")
    print(f"|---:{'|---:' * len(kinds)}|")
    for one in found:
        print(shown(one))
    print("\nseconds on a core, all processes together (they say more on a machine that is busy)")
    for one in found:
        print(
            f"  {one['nodes']} nodes  " + ", ".join(f"{k} {v:.2f}" for k, v in one["cpu_s"].items())
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
