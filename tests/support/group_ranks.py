"""Ranks of a process group as real processes: forked, met over a file, answers through a pipe."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from weftline.fabric import OrbitSchedule, Schedule, build, expand, parse_topology
from weftline.runtime.group.collectives import Collectives
from weftline.runtime.group.options import GroupOptions
from weftline.runtime.group.sums import KINDS

FAMILIES = ("ring", "bidirectional-ring", "bucket", "swing", "halving-doubling",
            "double-binary-tree", "direct")  # fmt: skip
TYPES = {
    "float32": np.float32, "float64": np.float64, "bfloat16": np.uint16, "float16": np.float16,
    "int8": np.int8, "uint8": np.uint8, "int16": np.int16, "int32": np.int32, "int64": np.int64,
}  # fmt: skip
Work = Callable[..., Any]


def together(
    ranks: int, folder: Path, work: Work, *given: Any, timeout_s: float = 60.0, hosts: int = 1
) -> list[Any]:
    """``work(store, rank, ranks, *given)`` in a process each: what each returned, or its error."""
    context = get_context("fork")
    ends = [context.Pipe() for _ in range(ranks)]
    made = [
        context.Process(target=_one, args=(r, ranks, folder, work, given, ends, hosts))
        for r in range(ranks)
    ]
    for process in made:
        process.start()
    for _, theirs in ends:
        theirs.close()
    found: list[Any] = []
    for process, (mine, _) in zip(made, ends, strict=True):
        try:
            late = TimeoutError(f"pid {process.pid}")
            found.append(mine.recv() if mine.poll(timeout_s) else late)
        except EOFError as error:  # it was killed
            found.append(error)
    for process in made:
        process.join(5)
        if process.is_alive():
            process.kill()
            process.join()
    return found


def _one(
    rank: int, ranks: int, folder: Path, work: Work, given: Any, ends: Any, hosts: int
) -> None:
    torch.set_num_threads(1)
    end = ends[rank][1]
    for other, (_, theirs) in enumerate(ends):
        if other != rank:
            theirs.close()
    if hosts > 1:
        os.environ["WEFTLINE_GROUP_HOST"] = f"host{rank % hosts}"
    try:
        end.send(work(dist.FileStore(str(folder / "store"), ranks), rank, ranks, *given))
    except Exception as error:
        traceback.print_exc()
        end.send(error)
    sys.stdout.flush()
    os._exit(0)


def met(store: Any, rank: int, ranks: int, timeout_s: float = 30.0, **options: Any) -> Collectives:
    """This rank's side of a group."""
    return Collectives(store, rank, ranks, name="test", timeout=timedelta(seconds=timeout_s),
                       options=GroupOptions(**options))  # fmt: skip


def numbers(kind: str, seed: int, rank: int, count: int) -> Any:
    """Small whole numbers: their sums are exact in every type, in any order."""
    values = np.random.default_rng((seed, rank)).integers(0, 8, count)
    return packed(kind, values)


def packed(kind: str, values: Any) -> Any:
    """Whole numbers as a type's memory; bf16 is the upper half of fp32."""
    if kind == "bfloat16":
        return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return values.astype(TYPES[kind])


def schedule_of(family: str, kind: Any, ranks: int) -> Schedule:
    """A family's schedule on a network it runs on."""
    form = f"ring:{ranks}" if family == "bucket" else f"switch:{ranks}"
    found = build(parse_topology(form, "1GB/s", "1us"), kind, family)
    return expand(found) if isinstance(found, OrbitSchedule) else found


def fuzzed(store: Any, rank: int, ranks: int, seed: int, cases: int, most: int) -> int:
    """Collectives of random family, type and size on one group, each checked; all ranks alike.

    Directly summed ones, schedules and messages take turns in one memory.
    """
    group = met(store, rank, ranks)
    rng = np.random.default_rng(seed)
    families = [f for f in FAMILIES if f != "swing" or ranks & (ranks - 1) == 0]
    kept: dict[Any, Schedule] = {}
    for case in range(cases):
        family = str(rng.choice([*families, "none"]))
        does = ["all-reduce", "reduce-scatter", "all-gather"]
        if family == "double-binary-tree":
            does = ["all-reduce", "broadcast"]
        elif family == "halving-doubling" and ranks & (ranks - 1):
            does = ["all-reduce"]
        elif family == "none":
            does.append("broadcast")
        what, kind = str(rng.choice(does)), str(rng.choice(list(TYPES)))
        count = int(np.exp(rng.uniform(0, np.log(most))))
        root = int(rng.integers(ranks)) if family == "none" else 0
        _case(group, kept, family, what, kind, count, (seed << 20) + case, root)
    group.barrier()
    group.close()
    return cases


def _case(
    group: Collectives, kept: Any, family: str, what: Any, kind: str, count: int, seed: int,
    root: int,
) -> None:  # fmt: skip
    ranks, rank = group.ranks, group.rank
    parts = ranks if what == "reduce-scatter" else 1
    given = [numbers(kind, seed, r, count * parts) for r in range(ranks)]
    plain = [np.random.default_rng((seed, r)).integers(0, 8, count * parts) for r in range(ranks)]
    total = packed(kind, np.sum(plain, axis=0))
    mine = given[rank].copy()
    out = mine
    want = total
    if what == "all-gather":
        out, want = np.empty(count * ranks, mine.dtype), np.concatenate(given)
    elif what == "reduce-scatter":
        out, want = np.empty(count, mine.dtype), total[rank * count : (rank + 1) * count]
    elif what == "broadcast":
        want = given[root]
    size = mine.dtype.itemsize
    code = KINDS[kind]
    if family == "none":
        program = group.program(what, count * size, root)
        group.run(program, mine.ctypes.data, out.ctypes.data, count, size, code)
    else:
        if (family, what) not in kept:
            kept[family, what] = schedule_of(family, what, ranks)
        group.execute(kept[family, what], mine.ctypes.data, out.ctypes.data, count, size, code)
    if not np.array_equal(out, want):
        bad = int(np.flatnonzero(out != want)[0])
        raise AssertionError(
            f"{family} {what} of {count} {kind} (seed {seed}): element {bad} is {out[bad]}, "
            f"not {want[bad]}, on rank {rank} of {ranks}"
        )
