"""Every crash state of saves over two nodes' stores: what was committed is whole, else absent."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import xxhash
from crash_disk import MemoryDisk, State, crash_states

from weftline.burst import Options, Retention, Store
from weftline.burst.commit.view import RecordId
from weftline.burst.errors import BurstError, CheckpointMissingError
from weftline.burst.log.record import Prepared
from weftline.burst.nodes.agree import choose, survey_store
from weftline.burst.read.restore import Loaded

ROOTS = ("/a", "/b")
OPTIONS = Options(
    chunk_bytes=16 << 10, segment_bytes=1 << 18, io_threads=1, copy_threads=1, wal_bytes=4096,
    retention=Retention(last=2),
)  # fmt: skip
STEPS = 6


def tensors(step: int, rank: int) -> dict[str, np.ndarray[Any, Any]]:
    rng = np.random.default_rng((step, rank))
    return {f"w{rank}": rng.integers(0, 255, 40_000, dtype=np.uint8), f"s{rank}": np.array(step)}


class Other:
    """Another node's store, as a source."""

    def __init__(self, store: Store) -> None:
        self.name = store.root
        self._store = store

    def commit(self, step: int) -> bytes:
        return self._store.view.commits.record(step)

    def manifest(self, share: Prepared) -> bytes:
        found = self._store.view.local_manifest(share)
        if found is None:
            raise KeyError(share.rank)
        return found.encode()

    def fetch_into(
        self, share: Prepared, records: Sequence[RecordId], outs: Sequence[Any]
    ) -> list[int]:
        found = self._store.view.local_manifest(share)
        assert found is not None
        for record, out in zip(records, outs, strict=True):
            out[:] = np.frombuffer(self._store.read_record(found, record), np.uint8)
        return [xxhash.xxh3_64_intdigest(out) for out in outs]


def history() -> MemoryDisk:
    """Joint saves, each node committing by itself, in one order or the other."""
    disk = MemoryDisk()
    stores = [Store.open(root, files=disk, options=OPTIONS, run="job") for root in ROOTS]
    for step in range(1, STEPS + 1):
        disk.mark(("saving", step))
        shares = [
            store.prepare(tensors(step, rank), step, rank=rank, world=2, attempt=f"a{step}")
            for rank, store in enumerate(stores)
        ]
        first, second = stores if step % 2 else reversed(stores)
        first.commit(step, prepared=shares)
        disk.mark(("committed", step))
        second.adopt(first.commit_bytes(step))
        for store in stores:
            store.wait()
    for store in stores:
        store.close()
    return disk


def gone_back_to(disk: MemoryDisk) -> Loaded | None:
    """What a run that starts again finds, over both nodes; None where there is nothing."""
    stores = []
    for root in ROOTS:
        try:
            stores.append(Store.open(root, files=disk, read_only=True))
        except BurstError:
            continue
    try:
        choice = choose([survey_store(s) for s in stores], run="job")
    except CheckpointMissingError:
        return None
    store = stores[0]
    store.view.sources = tuple(Other(s) for s in stores[1:])
    loaded = store.load(choice.commit.step)
    for each in stores:
        each.close()
    return loaded


def check(state: State, promised: int, begun: int, *, go_on: bool) -> None:
    disk = MemoryDisk(state.copy())
    found = gone_back_to(disk)
    if found is None:
        assert not promised, f"step {promised} was committed and is nowhere"
        return
    assert promised <= found.step <= begun, f"{found.step}, not {promised}"
    for rank in (0, 1):
        for name, wanted in tensors(found.step, rank).items():
            np.testing.assert_array_equal(found[name], wanted)
    if go_on:
        stores = [Store.open(root, files=disk, options=OPTIONS, run="job") for root in ROOTS]
        shares = [
            s.prepare(tensors(99, r), 99, rank=r, world=2, attempt="again")
            for r, s in enumerate(stores)
        ]
        for store in stores:
            store.commit(99, prepared=shares)
            store.close()
        last = gone_back_to(disk)
        assert last is not None
        assert last.step == 99


def run(*, seed: int, subsets: int, one_in: int, go_on_every: int) -> Counter[str]:
    disk = history()
    counts: Counter[str] = Counter()
    rng = random.Random(seed)
    for number, (done, state) in enumerate(crash_states(disk, seed=seed, subsets=subsets)):
        if rng.randrange(one_in):
            continue
        marks = [op.mark for op in disk.ops[:done] if op.kind == "mark"]
        begun = max((s for kind, s in marks if kind == "saving"), default=0)
        promised = max((s for kind, s in marks if kind == "committed"), default=0)
        check(state, promised, begun, go_on=number % go_on_every == 0)
        counts["states"] += 1
        counts["with promises"] += bool(promised)
    return counts


def test_a_share_of_the_crash_states_of_two_nodes() -> None:
    counts = run(seed=0, subsets=1, one_in=2, go_on_every=20)
    assert counts["with promises"] > 80


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_every_crash_state_of_two_nodes(seed: int) -> None:
    counts = run(seed=seed, subsets=12, one_in=1, go_on_every=25)
    assert counts["with promises"] > 150
