"""Disks that fail: full, broken, read-only, short writes; clocks that jump. Nothing old is lost."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from crash_disk import MemoryDisk, Op

from weftline.burst import Options, Store
from weftline.burst.errors import BurstError, StorageError

OPTIONS = Options(
    chunk_bytes=64 << 10, segment_bytes=1 << 20, io_threads=1, copy_threads=1, wal_bytes=4096
)
Arrays = dict[str, np.ndarray[Any, Any]]


def tensors(step: int) -> Arrays:
    """A state whose bytes tell its step."""
    rng = np.random.default_rng(step)
    return {"w": rng.standard_normal((200, 256)).astype(np.float32), "n": np.array(step)}


def holds(store: Store, step: int) -> None:
    """The checkpoint is there, bit for bit."""
    loaded = store.load(step)
    for name, wanted in tensors(step).items():
        np.testing.assert_array_equal(loaded[name], wanted)


def error_of(store: Store, step: int, state: Arrays | None = None) -> StorageError | None:
    """What the disk said to a save, or None."""
    try:
        store.save(state or tensors(step), step, wait=True)
    except StorageError as error:
        return error
    return None


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_a_fault_at_any_call_is_told_and_harms_nothing_old(code: int) -> None:
    """The n-th call to the disk fails, for every n; then the disk works again."""
    n = 0
    while True:
        disk = MemoryDisk()
        with Store.open("/store", files=disk, options=OPTIONS) as store:
            store.save(tensors(1), 1, wait=True)
            calls = 0

            def fail(op: Op, path: str, n: int = n) -> None:
                nonlocal calls
                calls += 1
                if calls == n + 1:
                    raise OSError(code, os.strerror(code), path)

            disk.fail = fail
            error = error_of(store, 2)
            disk.fail = None
            holds(store, 1)
            if error is None:
                holds(store, 2)
            else:
                assert error.errno == code
                assert error.hint
                assert error.path.startswith("/store")
            # A log whose sync failed is not trusted again: then the store wants to be reopened.
            if error_of(store, 3) is None:
                holds(store, 3)
        with Store.open("/store", files=disk, options=OPTIONS) as again:
            again.save(tensors(4), 4, wait=True)
        with Store.open("/store", files=disk, read_only=True) as again:
            holds(again, 1)
            holds(again, 4)
            assert again.verify() == []
        if error is None and calls <= n:
            break
        n += 1
    assert n > 8


def test_a_failed_background_save_is_told_at_the_next_call() -> None:
    disk = MemoryDisk()
    store = Store.open("/store", files=disk, options=OPTIONS)
    store.save(tensors(1), 1, wait=True)

    def fail(op: Op, path: str) -> None:
        raise OSError(errno.EIO, "", path)

    disk.fail = fail
    handle = store.save(tensors(2), 2)
    handle.join()
    disk.fail = None
    with pytest.raises(StorageError):
        store.save(tensors(3), 3)
    store.save(tensors(4), 4, wait=True)
    assert [c.step for c in store.checkpoints()] == [1, 4]
    store.close()


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwritev
    short = 0

    def pwritev(fd: int, buffers: list[memoryview], offset: int) -> int:
        nonlocal short
        first = memoryview(buffers[0])
        if len(first) > 4096:
            short += 1
            return real(fd, [first[:4096]], offset)
        return real(fd, [first], offset)

    monkeypatch.setattr(os, "pwritev", pwritev)
    with Store.open(tmp_path / "s", options=OPTIONS) as store:
        store.save(tensors(1), 1, wait=True)
    monkeypatch.undo()
    assert short > 10
    with Store.open(tmp_path / "s", read_only=True) as store:
        holds(store, 1)


def test_a_clock_that_jumps_back_changes_no_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 2e9
    monkeypatch.setattr("time.time", lambda: now)
    with Store.open(tmp_path / "s", options=OPTIONS) as store:
        for step in (5, 3, 9):
            store.save(tensors(step), step, wait=True)
            now -= 1e8
        assert [c.step for c in store.checkpoints()] == [5, 3, 9]
        assert store.load().step == 9


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MiB in memory; skipped where one cannot be mounted."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("mounting a file system needs root")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def big(step: int) -> Arrays:
    """Three megabytes."""
    return {"w": np.random.default_rng(step).integers(0, 255, 3 << 20, dtype=np.uint8)}


def test_a_full_disk_is_told_and_room_made_is_used(small_disk: Path) -> None:
    options = Options(chunk_bytes=1 << 20, segment_bytes=4 << 20)
    with Store.open(small_disk / "s", options=options) as store:
        step = 1
        while (error := error_of(store, step, big(step))) is None:
            step += 1
        assert error.errno == errno.ENOSPC
        assert "gc" in (error.hint or "")
        here = [c.step for c in store.checkpoints()]
        assert here == list(range(1, step))
        for old in here:
            np.testing.assert_array_equal(store.load(old)["w"], big(old)["w"])
        store.gc(drop=here[:-1])
        store.save(big(50), 50, wait=True)
        np.testing.assert_array_equal(store.load()["w"], big(50)["w"])


def test_a_disk_that_turns_read_only_is_told(small_disk: Path) -> None:
    with Store.open(small_disk / "s", options=OPTIONS) as store:
        store.save(tensors(1), 1, wait=True)
    remount = ["mount", "-o", "remount,ro", str(small_disk)]
    if subprocess.run(remount, check=False, capture_output=True).returncode:
        pytest.skip("cannot remount read-only here")
    with pytest.raises(BurstError) as caught, Store.open(small_disk / "s") as store:
        store.save(tensors(2), 2, wait=True)
    assert "read-only" in caught.value.render().lower()
    with Store.open(small_disk / "s", read_only=True) as store:
        holds(store, 1)


def test_a_store_on_a_full_disk_opens_and_frees_space(small_disk: Path) -> None:
    """Training died of it: whoever comes must be able to drop checkpoints."""
    root, options = small_disk / "store", Options(chunk_bytes=1 << 20, segment_bytes=4 << 20)
    with Store.open(root, options=options) as store:
        for step in (1, 2):
            store.save(big(step), step, wait=True)
    with (small_disk / "others").open("wb", buffering=0) as filler, contextlib.suppress(OSError):
        while filler.write(b"x" * 4096):
            pass
    with Store.open(root, options=options) as store:
        assert any("the disk is full" in notice for notice in store.notices)
        assert store.gc(drop=[1]).dropped == (1,)
        np.testing.assert_array_equal(store.load(2)["w"], big(2)["w"])
        assert store.verify() == []
    with Store.open(root, options=options) as store:
        store.save(big(3), 3, wait=True)
        np.testing.assert_array_equal(store.load()["w"], big(3)["w"])
