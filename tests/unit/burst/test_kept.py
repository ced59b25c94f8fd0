"""What a save costs does not depend on how many checkpoints are kept.

Counted, not timed: operations on files, bytes that go through them, and calls of this package's own
functions in every thread, upkeep's too. Saves are far apart, as in training: the store then looks
again at what is there, by one listing of names, which is one operation however many there are.
"""

from __future__ import annotations

import sys
import threading
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest

import weftline.burst
from weftline.burst import Options, Retention, Store
from weftline.burst.commit import commits
from weftline.burst.files import File, RealFiles

SAVES = 20
OURS = str(Path(weftline.burst.__file__).parent)


class CountedFile:
    """A file that counts; what it syncs need not reach a disk here."""

    def __init__(self, file: File, counts: Counter[str]) -> None:
        self._file, self._counts = file, counts

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def write_at(self, buffers: Any, offset_bytes: int) -> None:
        self._counts.update(writes=1, written_bytes=sum(map(len, buffers)))
        self._file.write_at(buffers, offset_bytes)

    def read_at(self, buffers: Any, offset_bytes: int) -> int:
        count = self._file.read_at(buffers, offset_bytes)
        self._counts.update(reads=1, read_bytes=count)
        return count

    def sync(self) -> None:
        self._counts.update(syncs=1)


class CountedFiles(RealFiles):
    """A file system that counts what is asked of it."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if callable(found) and not name.startswith("_"):
            self.counts[name] += 1
        return found

    def open(self, path: str, mode: str, *, direct: bool = False) -> File:
        counted: Any = CountedFile(super().open(path, mode, direct=direct), self.counts)
        return counted  # type: ignore[no-any-return]

    def read_bytes(self, path: str) -> bytes:
        data = super().read_bytes(path)
        self.counts.update(read_bytes=len(data))
        return data

    def sync_dir(self, path: str) -> None:
        del path


@pytest.mark.parametrize("kept", [120, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("retention", [None, Retention(last=2)], ids=["kept", "saved and let go"])
def test_a_save_does_the_same_after_many_checkpoints_as_after_ten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: int, retention: Retention | None
) -> None:
    """With retention: those that were let go cost nothing either."""
    monkeypatch.setattr(commits, "_TRUST_S", 0.0)
    files = CountedFiles()

    def called(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(OURS):
            files.counts["calls"] += 1

    def counts(first: int) -> Counter[str]:
        files.counts.clear()
        for step in range(first, first + SAVES):
            store.save(state, step).wait()
            store.wait()
        return Counter(files.counts)

    state = {name: np.arange(100, dtype=np.float32) for name in "ab"}
    options = Options(segment_bytes=1 << 20, chunk_bytes=1 << 16, retention=retention)
    threading.setprofile(called)
    try:
        with Store.open(tmp_path / "s", files=files, options=options) as store:
            sys.setprofile(called)
            store.save(state, 0, wait=True)
            early = counts(10)
            for step in range(10 + SAVES, kept):
                store.save(state, step, wait=True)
            late = counts(kept)
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]
    assert early["calls"] > 100 * SAVES
    assert early["written_bytes"] > 800 * SAVES
    more = {name: (early[name], n) for name, n in late.items() if n > 1.1 * early[name] + 2}
    assert not more
