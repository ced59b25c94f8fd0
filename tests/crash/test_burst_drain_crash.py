"""Every legal crash state of drains and prunes: what was durable there stays, and drains go on.

The disk beside the store is recorded as in the crash matrix. An object that was put before the
crash is there; the one on its way may be there or not.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from buckets import load_from_bucket
from crash_disk import MemoryDisk, State, crash_states

from weftline.burst import Options, Store
from weftline.burst.errors import NotAStoreError
from weftline.burst.remote.checkpoints import RemoteSource
from weftline.burst.remote.drain import Drainer, DrainOptions
from weftline.burst.remote.objects import BucketCounters, ObjectInfo, ObjectMissingError

ROOT = "/store"
OPTIONS = Options(
    chunk_bytes=64 << 10, segment_bytes=1 << 20, io_threads=1, copy_threads=1, dedup=True
)
PACKS = DrainOptions(pack_bytes=100 << 10)
Change = tuple[str, bytes | None]


class Objects:
    """Objects in memory; every change is told before it begins and once it is done."""

    url = "memory://recorded"

    def __init__(self, mark: Callable[[Any], None] = lambda _: None) -> None:
        self.objects: dict[str, bytes] = {}
        self.changes: list[Change] = []
        self.counters = BucketCounters()
        self._mark = mark

    def _change(self, name: str, data: bytes | None) -> None:
        self._mark(("changing", len(self.changes)))
        self.apply((name, data))
        self.changes.append((name, data))
        self._mark(("changed", len(self.changes) - 1))

    def apply(self, change: Change) -> None:
        """Make one change."""
        name, data = change
        if data is None:
            self.objects.pop(name, None)
        else:
            self.objects[name] = data

    def put(self, name: str, chunks: Any, *, progress: Any = None) -> ObjectInfo:  # noqa: ARG002
        data = b"".join(chunks()) if callable(chunks) else bytes(chunks)
        self._change(name, data)
        return ObjectInfo(name, len(data), "here")

    def read(self, name: str, start_bytes: int = 0, length_bytes: int | None = None) -> bytes:
        if name not in self.objects:
            raise ObjectMissingError("there is no such object", where=name)
        end = None if length_bytes is None else start_bytes + length_bytes
        return self.objects[name][start_bytes:end]

    def size(self, name: str) -> int | None:
        return len(self.objects[name]) if name in self.objects else None

    def list(self, prefix: str = "") -> list[ObjectInfo]:
        inside = [n for n in sorted(self.objects) if not prefix or n.startswith(f"{prefix}/")]
        return [ObjectInfo(n, len(self.objects[n])) for n in inside]

    def delete(self, name: str) -> None:
        self._change(name, None)


def tensors(step: int) -> dict[str, np.ndarray[Any, Any]]:
    """Two tensors of which one is the same in all steps, so that drains share its records."""
    rng = np.random.default_rng(step)
    return {
        "frozen": np.random.default_rng(0).standard_normal((200, 100)),
        "weight": rng.standard_normal((300, 80)),
        "bias": np.arange(5) + step,
    }


def history() -> tuple[MemoryDisk, Objects]:
    """Three saves, each drained, then the first pruned; a fourth is drained after it."""
    disk = MemoryDisk()
    objects = Objects(disk.mark)
    with Store.open(ROOT, files=disk, options=OPTIONS) as store:
        drainer = Drainer(store, objects, PACKS)
        for step in (1, 2, 3, 4):
            store.save(tensors(step), step, wait=True)
            disk.mark(("committed", step))
            if step == 4:
                disk.mark(("dropping", 1))
                drainer.prune([2, 3])
            disk.mark(("draining", step))
            assert drainer.drain(step).durable
            disk.mark(("durable", step))
    return disk, objects


def check(
    state: State, objects: Objects, marks: list[Any], *, go_on: bool, counts: Counter[str]
) -> None:
    """Nothing durable is lost, nothing partial shows, and a new process finishes every drain."""
    dropping = {s for kind, s in marks if kind == "dropping"}
    durable = {s for kind, s in marks if kind == "durable"}
    begun = {s for kind, s in marks if kind == "draining"}
    there = set(RemoteSource(objects).steps())
    assert durable - dropping <= there, f"lost: {durable - dropping - there}"
    assert there <= begun, f"made up: {there - begun}"
    for step in there:
        same(load_from_bucket(objects, step), step)
    counts["checkpoints read"] += len(there)
    committed = {s for kind, s in marks if kind == "committed"}
    if not (go_on and committed):
        return
    with Store.open(ROOT, files=MemoryDisk(state.copy()), options=OPTIONS) as store:
        drainer = Drainer(store, objects, PACKS)
        for step in sorted(committed):
            assert drainer.drain(step).durable
        assert all(c.pinned == () for c in store.checkpoints())
        for step in sorted(committed):
            same(load_from_bucket(objects, step), step)
        drainer.prune([max(committed)])
    same(load_from_bucket(objects), max(committed))
    counts["gone on"] += 1


def same(loaded: Any, step: int) -> None:
    for name, wanted in tensors(step).items():
        np.testing.assert_array_equal(loaded[name], wanted)


def run(*, seed: int, subsets: int, one_in: int, go_on_every: int) -> Counter[str]:
    """Check a seeded share of all states of the one history."""
    disk, objects = history()
    rng = random.Random(seed)
    counts: Counter[str] = Counter()
    for done, state in crash_states(disk, seed=seed, subsets=subsets):
        counts["all"] += 1
        if rng.randrange(one_in):
            continue
        marks = [op.mark for op in disk.ops[:done] if op.kind == "mark"]
        changing = [k for kind, k in marks if kind == "changing"]
        changed = {k for kind, k in marks if kind == "changed"}
        on_its_way = [k for k in changing if k not in changed]
        for arrived in (False, True) if on_its_way else (False,):
            then = Objects()
            for k in changing:
                if k in changed or arrived:
                    then.apply(objects.changes[k])
            go_on = counts["states"] % go_on_every == 0
            try:
                check(state, then, marks, go_on=go_on, counts=counts)
            except NotAStoreError:
                assert not any(kind == "committed" for kind, _ in marks)
            counts["states"] += 1
    return counts


def test_a_share_of_the_crash_states_of_drains() -> None:
    counts = run(seed=0, subsets=1, one_in=5, go_on_every=6)
    print(dict(counts))
    assert counts["states"] > 100
    assert counts["gone on"] > 20


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_every_crash_state_of_drains(seed: int) -> None:
    counts = run(seed=seed, subsets=4, one_in=1, go_on_every=5)
    print(dict(counts))
    assert counts["gone on"] > 100
