"""burst's safetensors reader and writer beside the package: seconds and memory of the same files.

    python bench/safetensors_files.py --dir DIR --size 1GB

Each way runs in a process of its own, both write until the file is durable, both read every byte
into memory of their own. Medians of rounds; the ratios are what to look at.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

TENSOR_BYTES = 64 << 20


def state_of(nbytes: int) -> dict[str, np.ndarray[Any, Any]]:
    count = max(1, nbytes // TENSOR_BYTES)
    return {f"layer.{i}.weight": np.full(TENSOR_BYTES // 4, i, np.float32) for i in range(count)}


def write_ours(path: str, nbytes: int) -> None:
    from weftline.burst.formats.safetensors import Entry, write_safetensors

    def made(number: int) -> Any:
        return lambda: np.full(TENSOR_BYTES // 4, number, np.float32).view(np.uint8).data

    count = max(1, nbytes // TENSOR_BYTES)
    entries = [
        Entry(name=f"layer.{i}.weight", dtype="float32", shape=(TENSOR_BYTES // 4,), data=made(i))
        for i in range(count)
    ]
    write_safetensors(path, entries)


def write_theirs(path: str, nbytes: int) -> None:
    from safetensors.numpy import save_file

    save_file(state_of(nbytes), path)
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)


def read_ours(path: str, nbytes: int) -> None:
    from weftline.burst.formats.safetensors import read_safetensors

    found, _ = read_safetensors(path)
    arena = np.empty(sum(len(s.data) for s in found.values()), np.uint8)
    at = 0
    for shard in found.values():
        arena[at : at + len(shard.data)] = shard.data
        at += len(shard.data)
    assert at >= nbytes - TENSOR_BYTES


def read_theirs(path: str, nbytes: int) -> None:
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    arena = np.empty(sum(a.nbytes for a in found.values()), np.uint8)
    at = 0
    for array in found.values():
        arena[at : at + array.nbytes] = array.view(np.uint8)
        at += array.nbytes
    assert at >= nbytes - TENSOR_BYTES


WAYS = {"write ours": write_ours, "write package": write_theirs,
        "read ours": read_ours, "read package": read_theirs}  # fmt: skip


def once(way: str, path: str, nbytes: int) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    WAYS[way](path, nbytes)
    took = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(json.dumps({"s": took, "bytes": peak * 1024}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dir", type=Path, required=True)
    parser.add_argument("--size", default="1GB")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--once", nargs=2)
    args = parser.parse_args()
    from weftline.units import parse_bytes

    nbytes = int(parse_bytes(args.size, where="--size"))
    if args.once:
        once(args.once[0], args.once[1], nbytes)
        return
    seen: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    path = str(args.dir / "bench.safetensors")
    for _ in range(args.rounds):
        for way in WAYS:
            if way.startswith("write"):
                Path(path).unlink(missing_ok=True)
            done = subprocess.run(
                [sys.executable, __file__, "--dir", str(args.dir), "--size", args.size,
                 "--once", way, path],
                capture_output=True, text=True, check=True,
            )  # fmt: skip
            seen[way].append(json.loads(done.stdout))
    Path(path).unlink(missing_ok=True)
    for way, rounds in seen.items():
        took = statistics.median(r["s"] for r in rounds)
        peak = statistics.median(r["bytes"] for r in rounds)
        print(
            f"{way:<14} {took:6.2f} s  {nbytes / took / 1e9:5.2f} GB/s  {peak / 1e9:5.2f} GB held"
        )


if __name__ == "__main__":
    main()
