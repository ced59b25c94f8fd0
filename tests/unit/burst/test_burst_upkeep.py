"""Upkeep beside saves: segments made ready in advance, space freed late, commits never held up."""

from __future__ import annotations

import itertools
import threading
from typing import Any

import numpy as np
import pytest
from crash_disk import MemoryDisk, Op

from weftline.burst import Options, Retention, Store
from weftline.burst.care.upkeep import Upkeep
from weftline.burst.errors import StorageError
from weftline.burst.log.record import Chunk
from weftline.burst.log.segment import SegmentLog

OPTIONS = Options(chunk_bytes=1 << 16, segment_bytes=1 << 20, io_threads=2, copy_threads=1)
MIB = 1 << 20


def empty_log(disk: MemoryDisk) -> SegmentLog:
    """A log with no segments, in the root folder."""
    numbers = itertools.count(1)

    def number() -> int:
        return next(numbers)

    return SegmentLog(
        disk, "", store_id="s", writer="w", segment_bytes=8 * MIB, direct=True,
        next_id=number, next_number=number, notices=[],
    )  # fmt: skip


def written(disk: MemoryDisk) -> list[Op]:
    """The writes so far."""
    return [op for op in disk.ops if op.kind in ("write", "sync")]


def test_a_record_waits_for_no_header_once_segments_are_ready() -> None:
    disk = MemoryDisk()
    log = empty_log(disk)
    log.reserve(32 * MIB)
    scope = log.begin(20 * MIB, 5 * MIB)
    epochs = {n: s.epoch for n, s in log.segments.items()}
    log.make_ready(scope)
    before = len(written(disk))
    places = {log.allocate(scope, 5 * MIB)[0].number for _ in range(4)}
    assert len(places) == 4
    assert len(written(disk)) == before
    # Every one of them has a new epoch, which is on the disk.
    assert all(log.segments[n].epoch > epochs[n] for n in places)
    assert disk.ops[-1].kind == "sync"


def test_what_is_written_to_meanwhile_is_not_freed() -> None:
    log = empty_log(MemoryDisk())
    log.reserve(16 * MIB)
    dead = list(log.segments)  # found dead, and then a save begins
    scope = log.begin(12 * MIB)
    log.make_ready(scope)
    first, at = log.allocate(scope, 4 * MIB)
    assert log.free(dead, spare_bytes=1 << 40)[0] == 0
    places = {(first.number, at)}
    for _ in range(5):
        segment, at = log.allocate(scope, 4 * MIB)
        assert (segment.number, at) not in places
        places.add((segment.number, at))


def test_what_a_segment_held_is_out_of_reach_once_it_is_taken() -> None:
    """Deduplication asks `hold` whether an old record may be referred to."""
    disk = MemoryDisk()
    log = empty_log(disk)
    log.reserve(16 * MIB)
    old = [
        Chunk(
            segment=s.number, epoch=s.epoch, offset_bytes=4096, head_bytes=128, stored_bytes=64,
            raw_bytes=64, codec=0, seq=1, hash=0, raw_hash=0,
        )
        for s in log.segments.values()
    ]  # fmt: skip
    log.free([], spare_bytes=1 << 40)
    said: list[bool] = []

    def look(op: Op, path: str) -> None:
        if op.kind == "write":
            said.extend(log.hold(other, [chunk]) for chunk in old)

    other = log.begin(0)
    disk.fail = look
    log.make_ready(log.begin(16 * MIB))
    assert said
    assert not any(said)


@pytest.mark.parametrize("call", [0, 1, 2, 3])
def test_a_segment_that_cannot_be_made_ready_fails_the_save_and_stays_free(call: int) -> None:
    disk = MemoryDisk()
    log = empty_log(disk)
    log.reserve(16 * MIB)
    calls = itertools.count()

    def fail(op: Op, path: str) -> None:
        if next(calls) == call:
            raise OSError(5, "", path)

    disk.fail = fail
    scope = log.begin(16 * MIB)
    with pytest.raises(StorageError):
        log.make_ready(scope)
    disk.fail = None
    log.end(scope)
    scope = log.begin(16 * MIB)
    log.make_ready(scope)
    places = [log.allocate(scope, 4 * MIB) for _ in range(4)]
    assert len({(s.number, at) for s, at in places}) == 4


def test_an_io_error_while_segments_are_made_ready_is_the_saves() -> None:
    disk = MemoryDisk()
    state = {"a": np.ones(MIB, np.uint8)}
    with Store.open("/s", files=disk, options=OPTIONS) as store:
        store.save(state, 1, wait=True)
        store.reserve(2 * MIB)

        def fail(op: Op, path: str) -> None:
            if path.endswith(".seg") and op.kind == "write" and op.offset == 0:
                raise OSError(5, "", path)

        disk.fail = fail
        with pytest.raises(StorageError, match="seg-"):
            store.save(state, 2, wait=True)
        disk.fail = None
        store.save(state, 3, wait=True)
        assert [c.step for c in store.checkpoints()] == [1, 3]
        assert store.verify() == []


def test_a_commit_does_not_wait_for_upkeep(monkeypatch: pytest.MonkeyPatch) -> None:
    from weftline.burst.care import gc

    begun, go_on, real = threading.Event(), threading.Event(), gc.collect

    def slow(*args: Any, **kwargs: Any) -> Any:
        begun.set()
        assert go_on.wait(30)
        return real(*args, **kwargs)

    monkeypatch.setattr(gc, "collect", slow)
    options = Options(retention=Retention(last=1))
    state = {"a": np.ones(1000)}
    with Store.open("/s", files=MemoryDisk(), options=options) as store:
        for step in (1, 2):
            ranks = [
                store.prepare(state, step, rank=rank, world=2, attempt=f"t{step}")
                for rank in (0, 1)
            ]
            store.commit(step, prepared=ranks)  # comes back though the upkeep after it is held up
            assert begun.wait(30)
            go_on.set()  # the next save's writes do wait for it
        store.wait()
        assert [c.step for c in store.checkpoints()] == [2]


def test_requests_that_come_meanwhile_become_one_run_and_a_commit_is_not_waited_for() -> None:
    runs: list[bool] = []
    begun, go_on = threading.Semaphore(0), threading.Event()

    def act(committed: bool) -> None:
        runs.append(committed)
        begun.release()
        assert go_on.wait(30)

    upkeep = Upkeep(act)
    upkeep.request(committed=True)
    assert begun.acquire(timeout=30)
    for committed in (False, True, False):
        upkeep.request(committed=committed)
    go_on.set()
    upkeep.settle()
    assert runs == [True, True]
    upkeep.request(committed=False)  # nobody commits: it runs all the same, and settling is quick
    upkeep.settle()
    assert runs == [True, True, False]
    upkeep.close()


def test_upkeep_that_breaks_is_told_when_it_is_waited_for_and_by_no_save() -> None:
    def act(committed: bool) -> None:
        raise ZeroDivisionError

    upkeep = Upkeep(act)
    upkeep.request(committed=True)
    with pytest.raises(ZeroDivisionError):
        upkeep.settle()
    upkeep.settle_running()
    upkeep.close()
