"""A lost node's shares come back from another's memory, timed against a raw TCP copy.

    python bench/burst_recovery.py [--size 1GB] [--ranks 4] [--rounds 3]

Ranks save to a store of their own each, with one copy in the memory of a node's server (a folder
in /dev/shm). Then their disks are taken for lost, and new processes, one a rank, load their shares
from that server, every byte checked, into memory that is there. Raw: the same processes receive as
many bytes from the same server process over plain sockets into the same memory, nothing checked.
Beside that the other ways back: from the disks of nodes whose ranks moved (their servers read
`--dir`), and from a bucket (a folder there, behind obstore).
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
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from weftline.burst import Options, Store
from weftline.burst.log.record import Prepared
from weftline.burst.nodes.cluster import Nodes, open_to_restore
from weftline.burst.nodes.server import NodeServer
from weftline.burst.remote.drain import Drainer
from weftline.burst.remote.objects import Bucket
from weftline.units import format_bytes, parse_bytes

TENSORS = 8


def arrays(rank: int, nbytes: int) -> dict[str, np.ndarray[Any, Any]]:
    """One rank's share."""
    rng = np.random.default_rng(rank)
    each = nbytes // TENSORS
    return {f"r{rank}.t{i}": rng.integers(0, 255, each, dtype=np.uint8) for i in range(TENSORS)}


def serve_disk(disk: Path, answer: Any) -> None:
    """A node whose rank has moved: its server over its store."""
    with NodeServer(disk.with_name(disk.name + "-memory"), store=disk) as server:
        answer.send(server.url)
        threading.Event().wait()


def serve(root: Path, nbytes: int, answer: Any) -> None:
    """A node: its server, and a plain socket that sends as many bytes to whoever connects."""
    data = memoryview(np.random.default_rng(0).integers(0, 255, nbytes, dtype=np.uint8))
    listener = socket.create_server(("127.0.0.1", 0))

    def send(connection: socket.socket) -> None:
        with connection:
            while connection.recv(1):
                connection.sendall(data)

    with NodeServer(root / "memory") as server:
        answer.send((server.url, listener.getsockname()[1]))
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=send, args=(connection,), daemon=True).start()


def save(place: Path, url: str, rank: int, world: int, nbytes: int, answer: Any) -> None:
    """Save one rank's share, with its copy on the node; and drain it."""
    nodes = Nodes(urls=("peer://127.0.0.1:1", url), mine=0, run="bench")
    disk = place / f"disk{rank}"
    with Store.open(disk, run="bench", copier=nodes.copier(), options=Options()) as store:
        start = time.perf_counter()
        share = store.prepare(arrays(rank, nbytes), 1, rank=rank, world=world, attempt="a")
        assert share.copies == (url,), store.notices
        answer.send((share.encode(), time.perf_counter() - start))
        shares = answer.recv()
        store.commit(1, prepared=[Prepared.decode(s) for s in shares])
        Drainer(store, Bucket.open((place / "bucket").as_uri())).drain(1)
    answer.send(b"done")


def recover(
    root: Path, ways: dict[str, Nodes], port: int, rank: int, nbytes: int, gates: Any, answer: Any
) -> None:
    """Raw bytes, or the share by one of the ways, each when all ranks are ready."""
    into = {name: np.zeros_like(a) for name, a in arrays(rank, nbytes).items()}
    raw = socket.create_connection(("127.0.0.1", port))
    while True:
        kind = answer.recv()
        if kind == "end":
            return
        gates.wait()
        start = time.perf_counter()
        if kind == "raw":
            raw.sendall(b"!")
            for array in into.values():
                fill(raw, memoryview(array))
        else:
            nodes = ways[kind]
            with open_to_restore(root / f"new{rank}") as store:
                nodes.ready(store, nodes.choose(store, step=1))
                store.load(1, into=into, ranks=[rank])
        answer.send(time.perf_counter() - start)
        if kind != "raw":
            shutil.rmtree(root / f"new{rank}")  # so that the next time begins without a store too
            for name, wanted in arrays(rank, nbytes).items():
                assert np.array_equal(into[name], wanted), name
                into[name][:] = 0


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


def measure(size_bytes: int, world: int, rounds: int, root: Path, place: Path) -> dict[str, Any]:
    """Seconds of each round, the slowest rank's, raw and by every way in turn."""
    context = get_context("fork")
    nbytes = size_bytes // world // TENSORS * TENSORS
    node, heard = started(context, serve, root, nbytes)
    url, port = heard.recv()
    (place / "bucket").mkdir()
    savers = [started(context, save, place, url, r, world, nbytes) for r in range(world)]
    handed = [pipe.recv() for _, pipe in savers]
    for _, pipe in savers:
        pipe.send([share for share, _ in handed])
    for process, pipe in savers:
        pipe.recv()
        process.join()
    disks = [started(context, serve_disk, place / f"disk{r}") for r in range(world)]
    ways = {
        "memory": Nodes(urls=(url,), mine=0, run="bench"),
        "disks": Nodes(urls=tuple(pipe.recv() for _, pipe in disks), mine=0, run="bench"),
        "bucket": Nodes(
            urls=(disks_gone(),), mine=0, run="bench", bucket=(place / "bucket").as_uri()
        ),
    }
    gates = context.Barrier(world)
    ranks = [started(context, recover, root, ways, port, r, nbytes, gates) for r in range(world)]
    times: dict[str, list[float]] = {"raw": [], **{way: [] for way in ways}}
    for _ in range(rounds):
        for kind, seconds in times.items():
            for _, pipe in ranks:
                pipe.send(kind)
            seconds.append(max(pipe.recv() for _, pipe in ranks))
    for process, pipe in ranks:
        pipe.send("end")
        process.join()
    for process, _ in (node, heard), *disks:
        process.terminate()
    medians = {way: statistics.median(seconds) for way, seconds in times.items()}
    return {
        "bytes": nbytes * world, "ranks": world, "rounds": rounds, "seconds": medians,
        "share_of_raw": medians["raw"] / medians["memory"],
        "save_with_copy_s": max(s for _, s in handed), "all": times,
    }  # fmt: skip


def disks_gone() -> str:
    """The address of a node that is not there: refused at once."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"peer://127.0.0.1:{listener.getsockname()[1]}"


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--size", default="1GB")
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dir", type=Path, default=None, help="a folder on the disk of the nodes")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    os.environ.setdefault("WEFTLINE_BURST_SECRET", secrets.token_hex(16))
    memory = Path("/dev/shm") if Path("/dev/shm").is_dir() else None  # noqa: S108
    root = Path(tempfile.mkdtemp(prefix="burst-recovery-", dir=memory))
    place = Path(tempfile.mkdtemp(prefix="burst-recovery-", dir=arguments.dir))
    try:
        found = measure(
            int(parse_bytes(arguments.size, where="--size")), arguments.ranks, arguments.rounds,
            root, place,
        )  # fmt: skip
    finally:
        shutil.rmtree(root, ignore_errors=True)
        shutil.rmtree(place, ignore_errors=True)
    if arguments.json:
        print(json.dumps(found))
        return 0
    print(
        f"{format_bytes(found['bytes'])} over {found['ranks']} ranks, medians of {found['rounds']}"
    )
    for way, seconds in found["seconds"].items():
        print(f"  {way:8} {seconds:7.3f} s  {format_bytes(found['bytes'] / seconds)}/s")
    print(f"  from memory at {100 * found['share_of_raw']:.0f} % of raw TCP's rate")
    return 0


if __name__ == "__main__":
    sys.exit(main())
