"""Several processes write to one store while others read it: nothing lost, nothing mixed."""

from __future__ import annotations

import multiprocessing
import threading
import time
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from weftline.burst import Options, Retention, Store
from weftline.burst.errors import CheckpointMissingError

OPTIONS = Options(
    chunk_bytes=1 << 16, segment_bytes=1 << 20, io_threads=2, copy_threads=1,
    retention=Retention(last=6), compact_below=0.5, wal_bytes=4000,
)  # fmt: skip


def content(step: int) -> dict[str, np.ndarray[Any, Any]]:
    """A state that only this step can have made, about 400 kB."""
    rng = np.random.default_rng(step)
    return {
        "step": np.asarray(step),
        "large": rng.integers(0, 255, 300_000 + step % 1000, dtype=np.uint8),
        **{f"small{i}": rng.standard_normal(500 + i) for i in range(6)},
    }


def write(path: str, number: int, most: int, out: Any) -> None:
    """Save so many steps of this writer's own."""
    saves = 0
    with Store.open(path, writer=f"w{number}", options=OPTIONS) as store:
        while saves < most:
            step = number * 100_000 + saves
            store.save(content(step), step, wait=True)
            saves += 1
        store.wait()
        notes = [n for n in store.notices if "O_DIRECT" not in n]
    out.put((saves, notes))


def read(path: str, seed: int, until: Event, out: Any) -> None:
    """Load whatever is there and compare it with what its step must hold."""
    rng = np.random.default_rng(seed)
    loads = 0
    with Store.open(path, read_only=True, options=OPTIONS) as store:
        while not until.is_set():
            steps = [c.step for c in store.checkpoints()]
            if not steps:
                time.sleep(0.01)
                continue
            step = int(rng.choice(steps))
            try:
                got = store.load(step, verify=bool(rng.integers(0, 4)))
            except CheckpointMissingError:
                continue  # dropped since it was listed
            want = content(step)
            assert set(got) == set(want)
            assert all(got[k].tobytes() == v.tobytes() for k, v in want.items()), step
            loads += 1
    out.put((loads, []))


def run(path: Path, writers: int, readers: int, saves: int) -> int:
    """Loads that were made while every writer made its saves. Raises if a process failed."""
    Store.open(path, options=OPTIONS).close()
    context = multiprocessing.get_context("spawn")
    until, out = context.Event(), context.Queue()
    writing = [
        context.Process(target=write, args=(str(path), i, saves, out)) for i in range(writers)
    ]
    reading = [
        context.Process(target=read, args=(str(path), i, until, out)) for i in range(readers)
    ]
    for p in reading + writing:
        p.start()
    for p in writing:
        p.join()
    until.set()
    for p in reading:
        p.join(120)
    assert [p.exitcode for p in reading + writing] == [0] * (readers + writers)
    results = [out.get(timeout=5) for _ in reading + writing]
    assert [note for _, notes in results for note in notes] == []
    with Store.open(path, read_only=True) as store:
        assert store.verify() == []
        for info in store.checkpoints():
            got = store.load(info.step)
            assert all(got[k].tobytes() == v.tobytes() for k, v in content(info.step).items())
    return sum(n for n, _ in results) - writers * saves


def test_two_writers_and_two_readers(tmp_path: Path) -> None:
    assert run(tmp_path / "s", 2, 2, 40) > 0


@pytest.mark.slow
def test_sixteen_writers_and_sixteen_readers(tmp_path: Path) -> None:
    assert run(tmp_path / "s", 16, 16, 300) > 0


def test_a_killed_writer_leaves_the_store_to_the_next(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    out = context.Queue()  # the child needs it for as long as it starts
    process = context.Process(target=write, args=(str(tmp_path / "s"), 0, 1 << 30, out))
    process.start()
    reader = None
    while reader is None or len(reader.checkpoints()) < 3:
        assert process.is_alive()
        time.sleep(0.02)
        if reader is None and (tmp_path / "s" / "BURST").exists():
            reader = Store.open(tmp_path / "s", read_only=True)
    process.kill()
    process.join()
    before = [c.step for c in reader.checkpoints()]
    reader.close()
    with Store.open(tmp_path / "s", writer="w0", options=OPTIONS) as store:
        for step in before:
            got = store.load(step)
            assert all(got[k].tobytes() == v.tobytes() for k, v in content(step).items())
        store.save(content(7), 7, wait=True)
        assert store.verify() == []
        assert store.notices == []


def test_a_writer_waits_for_who_only_borrows_its_log(tmp_path: Path) -> None:
    """Another rank that frees space takes an idle log for a moment: its owner must not fail."""
    path = tmp_path / "s"
    with Store.open(path, writer="w0", options=OPTIONS) as own:
        own.save(content(1), 1, wait=True)
    with Store.open(path, writer="w1", options=OPTIONS) as other:
        opened: list[float] = []

        def open_own() -> None:
            with Store.open(path, writer="w0", options=OPTIONS) as store:
                opened.append(time.perf_counter())
                store.save(content(2), 2, wait=True)

        with other.borrowed("w0") as log:
            assert log is not None
            thread = threading.Thread(target=open_own)
            thread.start()
            time.sleep(0.2)
            assert not opened
            given_back_s = time.perf_counter()
        thread.join(10)
        assert opened
        assert opened[0] >= given_back_s
        with Store.open(path, writer="w0", options=OPTIONS), other.borrowed("w0") as log:
            assert log is None  # its owner is there again
        assert [c.step for c in other.checkpoints()] == [1, 2]
