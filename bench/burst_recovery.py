"""A lost node's shares come back from another's memory, timed against a raw TCP copy.

    python bench/burst_recovery.py [--size 1GB] [--ranks 4] [--rounds 3]

Ranks save to a store of their own each, with one copy in the memory of a node's server (a folder
in /dev/shm). Then their disks are taken for lost, and new processes, one a rank, load their shares
from that server, every byte checked, into memory that is there. Raw: the same processes receive as
many bytes from the same server process over plain sockets into the same memory, nothing checked.
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
from weftline.burst.nodes.cluster import Nodes, open_to_restore
from weftline.burst.nodes.server import NodeServer
from weftline.units import format_bytes, parse_bytes

TENSORS = 8


def arrays(rank: int, nbytes: int) -> dict[str, np.ndarray[Any, Any]]:
    """One rank's share."""
    rng = np.random.default_rng(rank)
    each = nbytes // TENSORS
    return {f"r{rank}.t{i}": rng.integers(0, 255, each, dtype=np.uint8) for i in range(TENSORS)}


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


def save(root: Path, url: str, rank: int, world: int, nbytes: int, answer: Any) -> None:
    """Save one rank's share, with its copy on the node."""
    nodes = Nodes(urls=("peer://127.0.0.1:1", url), mine=0, run="bench")
    disk = root / f"disk{rank}"
    with Store.open(disk, run="bench", copier=nodes.copier(), options=Options()) as store:
        start = time.perf_counter()
        share = store.prepare(arrays(rank, nbytes), 1, rank=rank, world=world, attempt="a")
        assert share.copies == (url,), store.notices
        answer.send((share.encode(), time.perf_counter() - start))
        shares = answer.recv()
        from weftline.burst.log.record import Prepared

        store.commit(1, prepared=[Prepared.decode(s) for s in shares])
    answer.send(b"done")


def recover(
    root: Path, url: str, port: int, rank: int, nbytes: int, gates: Any, answer: Any
) -> None:
    """Raw bytes, then the share, round after round, each when all ranks are ready."""
    nodes = Nodes(urls=(url, "peer://127.0.0.1:1"), mine=0, run="bench")
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
            with open_to_restore(root / f"new{rank}") as store:
                nodes.ready(store, nodes.choose(store, step=1))
                store.load(1, into=into, ranks=[rank])
            shutil.rmtree(root / f"new{rank}")
        answer.send(time.perf_counter() - start)
        if kind == "ours":
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


def measure(size_bytes: int, world: int, rounds: int, root: Path) -> dict[str, Any]:
    """Seconds of each round, the slowest rank's, raw and ours in turn."""
    context = get_context("fork")
    nbytes = size_bytes // world // TENSORS * TENSORS
    node, heard = started(context, serve, root, nbytes)
    url, port = heard.recv()
    savers = [started(context, save, root, url, r, world, nbytes) for r in range(world)]
    handed = [pipe.recv() for _, pipe in savers]
    for _, pipe in savers:
        pipe.send([share for share, _ in handed])
    for process, pipe in savers:
        pipe.recv()
        process.join()
    gates = context.Barrier(world)
    ranks = [started(context, recover, root, url, port, r, nbytes, gates) for r in range(world)]
    times: dict[str, list[float]] = {"raw": [], "ours": []}
    for _ in range(rounds):
        for kind in ("raw", "ours"):
            for _, pipe in ranks:
                pipe.send(kind)
            times[kind].append(max(pipe.recv() for _, pipe in ranks))
    for process, pipe in ranks:
        pipe.send("end")
        process.join()
    node.terminate()
    raw, ours = (statistics.median(times[k]) for k in ("raw", "ours"))
    return {
        "bytes": nbytes * world, "ranks": world, "rounds": rounds, "raw_s": raw, "ours_s": ours,
        "ours_bytes_per_s": nbytes * world / ours, "share_of_raw": raw / ours,
        "save_with_copy_s": max(s for _, s in handed), "all": times,
    }  # fmt: skip


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--size", default="1GB")
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    os.environ.setdefault("WEFTLINE_BURST_SECRET", secrets.token_hex(16))
    memory = Path("/dev/shm") if Path("/dev/shm").is_dir() else None  # noqa: S108
    root = Path(tempfile.mkdtemp(prefix="burst-recovery-", dir=memory))
    try:
        found = measure(
            int(parse_bytes(arguments.size, where="--size")), arguments.ranks, arguments.rounds,
            root,
        )  # fmt: skip
    finally:
        shutil.rmtree(root, ignore_errors=True)
    if arguments.json:
        print(json.dumps(found))
        return 0
    print(
        f"{format_bytes(found['bytes'])} over {found['ranks']} ranks from a peer's memory: "
        f"{found['ours_s']:.3f} s; raw TCP {found['raw_s']:.3f} s; "
        f"{100 * found['share_of_raw']:.0f} % of its rate (medians of {found['rounds']})"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
