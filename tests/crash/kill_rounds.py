"""Kill writers with signal 9 at random moments and hold what is left against what was promised.

    python tests/crash/kill_rounds.py --rounds 1000 --seed 0

Each round forks one or two ranks that save, remove, pin and compact without end, and say on a pipe
what they begin and what is done; the parent kills them, opens the store in another process, and
checks: what was committed and not removed is there bit for bit, what is visible is whole. The store
goes on to the next round as it was left.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np

from weftline.burst import Options, Retention, Store
from weftline.burst.errors import CommitError
from weftline.burst.formats.imports import load_from
from weftline.burst.nodes.agree import choose, survey_bucket
from weftline.burst.remote.checkpoints import RemoteSource
from weftline.burst.remote.drain import Drainer
from weftline.burst.remote.objects import Bucket

Arrays = dict[str, np.ndarray[Any, Any]]


def tensors(step: int, rank: int) -> Arrays:
    """State of one rank at one step: sizes and bytes follow from the two numbers."""
    rng = np.random.default_rng((step, rank))
    made: Arrays = {"same": np.arange(5000, dtype=np.int32), "step": np.array(step)}
    for i in range(int(rng.integers(1, 6))):
        made[f"t{i}"] = rng.integers(0, 255, int(rng.integers(1, 300_000)), dtype=np.uint8)
    return {f"r{rank}.{name}": value for name, value in made.items()}


def options(rng: random.Random) -> Options:
    """Other settings every round: small segments, so that they are recycled and rewritten."""
    return Options(
        chunk_bytes=rng.choice([4096, 65536]), segment_bytes=rng.choice([1 << 18, 1 << 20]),
        io_threads=4, compress=rng.choice([None, "zstd", "planes"]),
        dedup=rng.random() < 0.3, direct=rng.random() < 0.7, max_in_flight=rng.choice([1, 2]),
    )  # fmt: skip


def work(path: Path, rank: int, world: int, first: int, seed: int, say: int) -> None:
    """Save without end. Says B begun, C committed, D removal begun, P drain begun, R drained."""

    def tell(what: str, step: int) -> None:
        os.write(say, f"{what} {step}\n".encode())

    rng = random.Random(seed)
    with Store.open(path, writer=f"w{rank}", options=options(rng)) as store:
        for step in range(first, first + 10_000):
            attempt = f"a{seed}"
            tell("B", step)
            handle = store.save(tensors(step, rank), step, rank=rank, world=world, attempt=attempt)
            handle.wait()
            if world > 1 and rank == 0:
                try:
                    store.commit(step, world=world, attempt=attempt, timeout_s=30)
                except CommitError:
                    continue  # the other rank ran ahead and let go of its share: none is promised
            if rank == 0:
                tell("C", step)
                if rng.random() < 0.2:
                    tell("P", step)
                    assert Drainer(store, bucket_at(path)).drain(step).durable
                    tell("R", step)
                here = [c.step for c in store.checkpoints()]
                if rng.random() < 0.3 and len(here) > 1:
                    gone = rng.choice(here[:-1])
                    tell("D", gone)
                    store.gc(drop=[gone])
                elif rng.random() < 0.15:
                    for old in here[:-3]:
                        tell("D", old)
                    store.gc(retention=Retention(last=3))
            elif rng.random() < 0.2:
                store.gc()


def check(path: Path, world_of: dict[int, int], promised: set[int], possible: set[int]) -> None:
    """Open as a stranger and compare."""
    with Store.open(path, read_only=True) as store:
        seen = {c.step for c in store.checkpoints()}
        assert promised <= seen, f"lost {sorted(promised - seen)}"
        assert seen <= possible, f"made up {sorted(seen - possible)}"
        for step in seen:
            loaded = store.load(step)
            for rank in range(world_of[step]):
                for name, wanted in tensors(step, rank).items():
                    np.testing.assert_array_equal(loaded[name], wanted, err_msg=f"{step} {name}")
        assert store.verify() == []


def bucket_at(path: Path) -> Bucket:
    """The object store beside a store."""
    place = path.with_name("bucket")
    place.mkdir(exist_ok=True)
    return Bucket.open(place.as_uri())


def check_remote(path: Path, oracle: Oracle) -> None:
    """What was said to be durable in the object store is, and nothing there is partial."""
    bucket = bucket_at(path)
    seen = set(RemoteSource(bucket).steps())
    assert oracle.drained <= seen, f"the bucket lost {sorted(oracle.drained - seen)}"
    assert seen <= oracle.draining, f"the bucket made up {sorted(seen - oracle.draining)}"
    for step in sorted(seen)[-2:]:
        choice = choose([survey_bucket(RemoteSource(bucket))], step=step)
        loaded = load_from([RemoteSource(bucket)], choice.commit)
        for rank in range(oracle.world_of[step]):
            for name, wanted in tensors(step, rank).items():
                np.testing.assert_array_equal(loaded[name], wanted, err_msg=f"{step} {name}")


def in_child(work_there: Any) -> int:
    """Run in a forked process that cannot return; its pid."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work_there()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return child


class Oracle:
    """What was said to be begun, done and removed, over all rounds."""

    def __init__(self) -> None:
        self.begun: set[int] = set()
        self.promised: set[int] = set()
        self.world_of: dict[int, int] = {}
        self.draining: set[int] = set()
        self.drained: set[int] = set()

    def take(self, text: str, world: int) -> None:
        """Lines of one round; a last line without its end was never said."""
        for line in text.splitlines(keepends=True):
            if not line.endswith("\n"):
                continue
            kind, step = line[0], int(line[2:])
            if kind == "B":
                self.begun.add(step)
                self.world_of[step] = world
            elif kind == "C":
                self.promised.add(step)
            elif kind == "D":
                self.promised.discard(step)
            else:
                (self.draining if kind == "P" else self.drained).add(step)


def one_round(path: Path, number: int, seed: int, oracle: Oracle) -> None:
    """Start, kill, check."""
    rng = random.Random(f"{seed}:{number}")
    world = rng.choice([1, 1, 2])
    first = max(oracle.begun, default=0) + 1
    pipes, children = [], []
    for rank in range(world):
        hear, say = os.pipe()
        pipes.append(hear)
        children.append(
            in_child(lambda r=rank, s=say: work(path, r, world, first, seed * 10**6 + number, s))
        )
        os.close(say)
    time.sleep(rng.uniform(0.01, 0.35))
    rng.shuffle(children)
    for child in children:
        os.kill(child, signal.SIGKILL)
        if rng.random() < 0.5:
            time.sleep(rng.uniform(0, 0.02))
    ended = [os.waitpid(child, 0)[1] for child in children]
    for hear in pipes:
        text = b""
        while part := os.read(hear, 1 << 16):
            text += part
        os.close(hear)
        oracle.take(text.decode(), world)
    assert all(os.WIFSIGNALED(e) for e in ended), "a writer failed before it was killed"
    if not (path / "BURST").exists():
        assert not oracle.promised
        return
    for look in (
        lambda: check(path, oracle.world_of, oracle.promised, oracle.begun),
        lambda: check_remote(path, oracle),
    ):
        assert os.waitpid(in_child(look), 0)[1] == 0, f"round {number} of seed {seed} failed"


def run(rounds: int, seed: int, folder: Path) -> Oracle:
    """All rounds on one store; every fiftieth round begins with a new one."""
    oracle = Oracle()
    total = 0
    for number in range(rounds):
        if number % 50 == 0:
            total += len(oracle.promised)
            oracle = Oracle()
            for name in ("store", "bucket"):
                shutil.rmtree(folder / name, ignore_errors=True)
        one_round(folder / "store", number, seed, oracle)
        if sys.stderr.isatty() or number % 100 == 99:
            print(f"{number + 1} rounds, {len(oracle.begun)} saves in this store", file=sys.stderr)
    return oracle


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dir", type=Path, default=None, help="where to work; a folder on a disk")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="burst-kill-", dir=arguments.dir))
    try:
        with contextlib.suppress(KeyboardInterrupt):
            run(arguments.rounds, arguments.seed, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"seed {arguments.seed}: {arguments.rounds} rounds, nothing lost, nothing made up")
    return 0


if __name__ == "__main__":
    sys.exit(main())
