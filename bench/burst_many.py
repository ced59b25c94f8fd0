"""Many writers and readers at once on one store: nothing lost, nothing mixed, and how fast.

Each writer is a process with a log of its own that saves as fast as it can; each reader a process
that loads a random committed checkpoint, again and again, and compares every byte with what that
step must hold (its content follows from step and tensor alone). Retention drops old checkpoints
under them. At the end every checkpoint that must still be there is loaded and compared. The yard-
stick is one writer alone, in the same run, before and after; the writers are also timed without
readers, whose checks take cores that the store does not. The clock runs from the moment when
the last writer is ready: starting 32 interpreters on a few cores is not the store's work.

Run: python bench/burst_many.py --dir FOLDER [--minutes 5] [--writers 16] [--readers 16]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import queue
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

TENSORS = 4
STEPS_A_WRITER = 1_000_000


class Content:
    """The tensors of any step, from nothing but its number: a stamp in every 512 bytes."""

    def __init__(self, nbytes: int) -> None:
        import numpy as np

        base = np.arange(nbytes // TENSORS // 8, dtype=np.uint64)
        self.tensors = {f"t{i}": base * np.uint64(2 * i + 1) for i in range(TENSORS)}

    def of(self, step: int) -> dict[str, Any]:
        """The tensors of a step, in memory that the next call uses again."""
        for i, tensor in enumerate(self.tensors.values()):
            tensor[::64] = step * TENSORS + i
        return self.tensors


def write(path: str, number: int, nbytes: int, keep: int, end_s: Any, told: Any) -> None:
    """Save until the time is over; tell every step that was committed, or what went wrong."""
    from weftline.burst import Options, Retention, Store

    options = Options(
        io_threads=4, copy_threads=1, segment_bytes=64 << 20, retention=Retention(last=keep)
    )
    content = Content(nbytes)
    try:
        with Store.open(path, writer=f"w{number}", options=options) as store:
            step = number * STEPS_A_WRITER
            told.put(("ready", number, 0))
            while time.time() < end_s.value:
                handle = store.save(content.of(step), step, wait=True)
                told.put(("committed", step, handle.raw_bytes))
                step += 1
        told.put(("ended", number, 0))
    except Exception as error:
        told.put(("failed", number, f"writer {number}: {error!r}"))


def read(path: str, number: int, nbytes: int, pause_s: float, end_s: Any, told: Any) -> None:
    """Load random checkpoints until the time is over; tell how many, or what was wrong."""
    import numpy as np

    from weftline.burst import Store
    from weftline.burst.errors import CheckpointMissingError

    pick = random.Random(number)  # noqa: S311
    content = Content(nbytes)
    count = dropped = 0
    try:
        while not Path(path, "BURST").exists():
            time.sleep(0.1)
        while time.time() < end_s.value:
            with Store.open(path, create=False, read_only=True) as store:
                steps = [c.step for c in store.checkpoints()]
                if not steps:
                    time.sleep(0.2)
                    continue
                step = pick.choice(steps)
                try:
                    loaded = store.load(step)
                except CheckpointMissingError:
                    dropped += 1  # retention took it between the listing and now
                    continue
                for name, wanted in content.of(step).items():
                    if not np.array_equal(loaded[name], wanted):
                        raise AssertionError(f"checkpoint {step}: {name} holds other data")
                count += 1
            time.sleep(pause_s)
        told.put(("read", number, (count, dropped)))
    except Exception as error:
        told.put(("failed", number, f"reader {number}: {error!r}"))


def run(path: str, writers: int, readers: int, seconds: float, args: Any) -> dict[str, Any]:
    """One phase; bytes a second of committed state, reads, and what went wrong."""
    context = multiprocessing.get_context("spawn")
    told = context.Queue()
    end_s = context.Value("d", float("inf"))
    jobs = [
        context.Process(target=write, args=(path, n, args.bytes, args.keep, end_s, told))
        for n in range(writers)
    ] + [
        context.Process(target=read, args=(path, n, args.bytes, args.pause, end_s, told))
        for n in range(readers)
    ]  # fmt: skip
    for job in jobs:
        job.start()
    committed: list[int] = []
    failures: list[str] = []
    total = reads = dropped = left = ready = 0
    first_s = last_s = None
    left = writers + readers
    while left:
        try:
            kind, _who, value = told.get(timeout=30)
        except queue.Empty:
            if not any(j.is_alive() for j in jobs):
                failures.append(f"{left} processes ended without a word")
                break
            continue
        if kind == "committed":
            last_s = time.time()
            committed.append(_who)
            total += value
        elif kind == "ready":
            ready += 1
            if ready == writers:
                first_s, total = time.time(), 0
                end_s.value = first_s + seconds
        else:
            left -= 1
            if kind == "failed":
                failures.append(value)
                end_s.value = min(end_s.value, time.time() + seconds)
            elif kind == "read":
                reads, dropped = reads + value[0], dropped + value[1]
    for job in jobs:
        job.join()
    return {
        "writers": writers, "readers": readers, "commits": len(committed), "reads": reads,
        "dropped_under_a_reader": dropped, "failures": failures, "steps": committed,
        "bytes_per_s": total / (last_s - first_s) if first_s and last_s else 0.0,
        "read_bytes_per_s": reads * args.bytes / seconds,
    }  # fmt: skip


def check(path: str, steps: list[int], nbytes: int, keep: int) -> list[str]:
    """Every checkpoint that is listed is what it must be, and the newest are all listed."""
    import numpy as np

    from weftline.burst import Store

    content = Content(nbytes)
    wrong = []
    with Store.open(path, create=False, read_only=True) as store:
        listed = [c.step for c in store.checkpoints()]
        wrong += [f"step {s} was never committed by a writer" for s in set(listed) - set(steps)]
        if len(listed) < min(keep, len(steps)):
            wrong.append(f"{len(listed)} checkpoints are left, {min(keep, len(steps))} must be")
        wrong += [f"{f.file}: {f.what}" for f in store.verify()]
        for step in listed:
            loaded = store.load(step)
            wrong += [
                f"step {step}: {name} differs"
                for name, wanted in content.of(step).items()
                if not np.array_equal(loaded[name], wanted)
            ]
    return wrong


def main() -> None:
    """One writer, then many with readers, then one again; then the check."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dir", default=".")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--writers", type=int, default=16)
    parser.add_argument("--readers", type=int, default=16)
    parser.add_argument("--size", default="64MB")
    parser.add_argument("--keep", type=int, default=48)
    parser.add_argument("--pause", type=float, default=1.0)
    args = parser.parse_args()
    from weftline.units import format_rate, parse_bytes

    args.bytes = int(parse_bytes(args.size)) // TENSORS // 8 * TENSORS * 8
    seconds = args.minutes * 60
    alone = min(30.0, seconds)
    with tempfile.TemporaryDirectory(prefix="burst-many-", dir=args.dir) as folder:
        before = run(f"{folder}/one", 1, 0, alone, args)
        many = run(f"{folder}/many", args.writers, args.readers, seconds, args)
        writing = run(f"{folder}/three", args.writers, 0, alone, args)
        after = run(f"{folder}/two", 1, 0, alone, args)
        wrong = many["failures"] + check(f"{folder}/many", many["steps"], args.bytes, args.keep)
    one = (before["bytes_per_s"] + after["bytes_per_s"]) / 2
    print(
        f"{args.writers} writers and {args.readers} readers for {args.minutes:g} min: "
        f"{many['commits']} checkpoints committed, {many['reads']} read and compared, "
        f"{len(wrong)} lost, mixed or failed"
    )
    for text in wrong[:10]:
        print(f"  {text}")
    ratio = many["bytes_per_s"] / one if one else 0.0
    both = (many["bytes_per_s"] + many["read_bytes_per_s"]) / one if one else 0.0
    print(
        f"written {format_rate(many['bytes_per_s'])} together, {format_rate(one)} by one alone: "
        f"{ratio:.2f}; read at the same time {format_rate(many['read_bytes_per_s'])}, "
        f"with it {both:.2f}; without readers {writing['bytes_per_s'] / one if one else 0.0:.2f}"
    )
    for phase in (before, many, writing, after):
        phase.pop("steps")
    print(
        json.dumps(
            {
                "ratio": ratio,
                "with_reads": both,
                "wrong": wrong,
                "one": [before, after],
                "many": many,
                "many_without_readers": writing,
            }
        )
    )
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
