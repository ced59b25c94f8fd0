"""Two processes meet between a change of names in ``commits`` and the sync that makes it last.

The lock is not held while the disk is waited for, so another writer may act on a record that a
crash can still take away, or on one's absence that a crash can still undo. It must not: checked in
every crash state of a record in which the other one acts at exactly that moment.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from crash_disk import MemoryDisk, State, crash_states

from weftline.burst import Options, Retention, Store

ROOT = "/store"
OPTIONS = Options(chunk_bytes=32 << 10, segment_bytes=64 << 10, io_threads=1, copy_threads=1)


def tensors(step: int) -> dict[str, np.ndarray[Any, Any]]:
    return {"w": np.random.default_rng(step).standard_normal((100, 256)).astype(np.float32)}


def pair(disk: MemoryDisk) -> tuple[Store, Store]:
    """Two writers of one store, with two checkpoints each, every one in a segment of its own."""
    a = Store.open(ROOT, writer="a", files=disk, options=OPTIONS)
    b = Store.open(ROOT, writer="b", files=disk, options=OPTIONS)
    for step, store in ((1, a), (2, b), (3, a), (4, b)):
        store.save(tensors(step), step, wait=True)
        store.wait()
    return a, b


def before_sync(store: Store, act: Callable[[], object], *, skip: int = 0) -> None:
    """Do ``act`` once, just before this store waits for the folder of commits."""
    commits = store.view.commits
    plain = commits.sync
    calls = iter(range(100))

    def late() -> None:
        if next(calls) < skip:
            plain()
            return
        commits.sync = plain  # type: ignore[method-assign]
        act()
        plain()

    commits.sync = late  # type: ignore[method-assign]


def newest_is_always_there(disk: MemoryDisk, *, least: int) -> int:
    """In every crash state something newest loads, at least ``least``, and all that is listed."""
    first = next(i for i, op in enumerate(disk.ops) if op.mark == "start")
    states = 0
    for done, state in crash_states(disk, seed=3, subsets=1):
        if done <= first:
            continue
        states += 1
        if states % 3:
            continue
        check(state, least)
    return states


def check(state: State, least: int) -> None:
    with Store.open(ROOT, files=MemoryDisk(state.copy()), read_only=True) as store:
        listed = [c.step for c in store.checkpoints()]
        assert listed
        assert max(listed) >= least
        for step in listed:
            np.testing.assert_array_equal(store.load(step)["w"], tensors(step)["w"])
        assert store.verify() == []


def test_retention_trusts_no_record_that_a_crash_can_take_away() -> None:
    disk = MemoryDisk()
    a, b = pair(disk)
    disk.mark("start")
    before_sync(a, lambda: b.gc(Retention(last=1)))
    a.save(tensors(5), 5, wait=True)
    a.wait()
    a.gc(Retention(last=1))
    assert [c.step for c in a.checkpoints()] == [5]
    b.save(tensors(6), 6, wait=True)  # where older ones were
    b.close()
    a.close()
    assert newest_is_always_there(disk, least=4) > 30


@pytest.mark.parametrize("owner", ["a", "b"])
def test_nothing_is_freed_while_a_crash_can_bring_its_record_back(owner: str) -> None:
    disk = MemoryDisk()
    a, b = pair(disk)
    c = Store.open(ROOT, writer="c", files=disk, options=OPTIONS)
    stores = {"a": a, "b": b}
    step = 1 if owner == "a" else 2

    def reuse() -> None:
        """The owner of the data frees it and writes over it."""
        stores[owner].gc()
        for new in (7, 8):
            stores[owner].save(tensors(new), new, wait=True)

    disk.mark("start")
    before_sync(c, reuse, skip=1)  # the first one comes before the record goes
    c.gc(drop=[step])
    for store in (a, b, c):
        store.close()
    assert newest_is_always_there(disk, least=4) > 30


def test_a_record_is_read_once_and_seen_anew_when_it_changes(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import time

    with (
        Store.open(tmp_path / "s", writer="a") as a,
        Store.open(tmp_path / "s", writer="b") as b,
    ):
        for step in (1, 2):
            a.save(tensors(step), step, wait=True)
        time.sleep(0.15)  # a file that is older than a tick of its clock
        assert [c.sequence for c in b.checkpoints()] == [1, 2]
        read: list[str] = []
        plain = b.view.files.read_bytes
        monkeypatch.setattr(b.view.files, "read_bytes", lambda p: (read.append(p), plain(p))[1])
        assert [c.sequence for c in b.checkpoints()] == [1, 2]
        assert [p for p in read if not p.endswith("LOCK")] == []
        a.save(tensors(1), 1, wait=True)
        assert [(c.step, c.sequence) for c in b.checkpoints()] == [(2, 2), (1, 3)]
        a.gc(drop=[2])
        assert [c.step for c in b.checkpoints()] == [1]


def test_what_others_commit_and_drop_is_seen_without_a_look_at_every_record(tmp_path: Any) -> None:
    """`known` is `all`, whoever changed the folder last; and does not look while nobody did."""
    with (
        Store.open(tmp_path / "s", writer="a") as a,
        Store.open(tmp_path / "s", writer="b") as b,
    ):
        for step in range(1, 30):
            store = (a, b)[step % 2]
            store.save(tensors(step), step, wait=True)
            if step % 5 == 0:
                (b, a)[step % 2].gc(drop=[step - 1])
            for one in (a, b):
                assert one.view.commits.known() == one.view.commits.all()
                assert one.view.commits.known() == one.view.commits.all()
        looked: list[int] = []
        plain = a.view.commits._all
        a.view.commits._all = lambda: (looked.append(1), plain())[1]  # type: ignore[method-assign]
        for step in range(30, 40):
            a.save(tensors(step), step, wait=True)
        a.wait()
        assert len(looked) <= 3  # one a few seconds, not a few a save
