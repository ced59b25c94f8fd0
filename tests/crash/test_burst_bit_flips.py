"""One flipped bit anywhere: told with its file, or of no account; mended from a copy elsewhere."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from buckets import load_from_bucket
from crash_disk import MemoryDisk, State, flip

from weftline.burst import Options, Store
from weftline.burst.care.repair import repair_store
from weftline.burst.errors import BurstError
from weftline.burst.remote.checkpoints import RemoteSource
from weftline.burst.remote.drain import Drainer
from weftline.burst.remote.objects import Bucket

OPTIONS = Options(
    chunk_bytes=64 << 10, segment_bytes=1 << 20, io_threads=1, copy_threads=1, wal_bytes=4096
)
STEPS = (1, 2, 3)
Arrays = dict[str, np.ndarray[Any, Any]]


def tensors(step: int) -> Arrays:
    """Large and small tensors, no zero byte among them: a zero on the disk is padding."""
    rng = np.random.default_rng(step)
    return {
        "large": rng.integers(1, 255, 300_000, dtype=np.uint8),
        "small": rng.integers(1, 255, 100, dtype=np.uint8),
    }


@pytest.fixture(scope="module")
def saved() -> tuple[State, Bucket]:
    """A store of three checkpoints as it lies on the disk, and a copy of them in a bucket."""
    disk = MemoryDisk()
    bucket = Bucket.open("memory://")
    for step in STEPS:  # opened anew each time: the log of the last opening becomes a run
        with Store.open("/store", files=disk, options=OPTIONS) as store:
            store.save(tensors(step), step, wait=True)
            Drainer(store, bucket).drain(step)
    return disk.live, bucket


def files_of(state: State) -> Iterator[tuple[str, int]]:
    """Path and node of every file."""
    below = [("", 0)]
    while below:
        path, folder = below.pop()
        for name, node in state.folders[folder].items():
            if node in state.folders:
                below.append((f"{path}/{name}", node))
            else:
                yield f"{path}/{name}", node


def kind_of(path: str) -> str:
    """The class of a file."""
    name = path.rsplit("/", 1)[1]
    return name.rsplit(".", 1)[1] if "." in name else name


def places(state: State, node: int, kind: str, rng: random.Random) -> list[int]:
    """Every byte of a small file; of a segment the heads of records and some of the rest."""
    size = state.blobs[node].size
    if kind != "seg":
        return list(range(0, size, 1 if size < 1500 else 3))
    used = [p for p in state.blobs[node].pages if any(state.blobs[node].pages[p])]
    found = [p * 4096 + at for p in used[:6] for at in range(0, 256, 5)]
    return found + [rng.choice(used) * 4096 + rng.randrange(4096) for _ in range(150)]


def all_right(store: Store) -> bool:
    """Whether every checkpoint loads bit for bit; raises what the store raises."""
    assert [c.step for c in store.checkpoints()] == list(STEPS)
    for step in STEPS:
        loaded = store.load(step)
        for name, wanted in tensors(step).items():
            np.testing.assert_array_equal(loaded[name], wanted)
    return True


@pytest.mark.parametrize("most", [25, pytest.param(10**9, marks=pytest.mark.slow)])
def test_every_flip_is_told_or_of_no_account(saved: tuple[State, Bucket], most: int) -> None:
    state, _ = saved
    rng = random.Random(most)
    told: Counter[str] = Counter()
    silent: Counter[str] = Counter()
    for path, node in files_of(state):
        kind = kind_of(path)
        if "/drain/" in path:
            continue  # what the drain remembers, see below
        if path.endswith(("commits/LOCK", "/RESERVE")):
            continue  # a word between running processes, and blocks: no data
        where_all = places(state, node, kind, rng)
        for at in rng.sample(where_all, min(most, len(where_all))):
            before = state.blobs[node].read(at, 1)[0]
            disk = MemoryDisk(flip(state, node, at, rng.randrange(8)))
            where = f"{path} byte {at}"
            if seen(disk, path, where):
                told[kind] += 1
            else:
                assert before == 0, f"nobody saw the flip of {where}"
                silent[kind] += 1
    assert {"BURST", "commit", "wal", "run", "seg", "CURRENT"} <= set(told), told
    # Only padding of segments and of nothing else may change unseen.
    assert set(silent) <= {"seg"}, silent


def test_a_drain_that_remembers_wrongly_sends_again(saved: tuple[State, Bucket]) -> None:
    state, bucket = saved
    rng = random.Random(2)
    notes = [(path, node) for path, node in files_of(state) if "/drain/" in path]
    assert notes
    for path, node in notes:
        for at in rng.sample(range(state.blobs[node].size), min(6, state.blobs[node].size)):
            disk = MemoryDisk(flip(state, node, at, 2))
            with Store.open("/store", files=disk, options=OPTIONS) as store:
                for step in STEPS:
                    assert Drainer(store, bucket).drain(step).durable, f"{path} byte {at}"
                    np.testing.assert_array_equal(
                        load_from_bucket(bucket, step)["large"], tensors(step)["large"]
                    )


def seen(disk: MemoryDisk, path: str, where: str) -> bool:
    """Whether the damage of ``path`` is told; if not, everything must load as it was."""
    try:
        store = Store.open("/store", files=disk, read_only=True)
    except BurstError as e:
        return "/store" in e.render()
    with store:
        found = store.verify()
        error = all_right_or_error(store, where)
        if found:
            assert any(path in f.file or f.file in path for f in found), where
        else:
            assert error is None, where
        return bool(found)


def all_right_or_error(store: Store, where: str) -> BurstError | None:
    """The error of loading, or None when every byte is right. Wrong data is never returned."""
    try:
        assert all_right(store), where
    except BurstError as error:
        return error
    return None


@pytest.mark.parametrize("kind", ["BURST", "commit", "wal", "run", "seg", "CURRENT"])
def test_damage_is_mended_from_the_object_store(saved: tuple[State, Bucket], kind: str) -> None:
    state, bucket = saved
    rng = random.Random(1)
    done = 0
    for path, node in files_of(state):
        if kind_of(path) != kind:
            continue
        for at in rng.sample(places(state, node, kind, rng), 12):
            disk = MemoryDisk(flip(state, node, at, 3))
            sources = (RemoteSource(bucket),)
            with Store.open("/store", files=disk, read_only=True, sources=sources) as store:
                assert all_right(store), f"{path} byte {at}"
            with Store.open("/store", files=disk, options=OPTIONS, sources=sources) as store:
                repair_store(store)
                assert store.verify() == [], f"{path} byte {at}"
            with Store.open("/store", files=disk, read_only=True) as store:
                assert all_right(store), f"{path} byte {at}"
            done += 1
    assert done >= 12
