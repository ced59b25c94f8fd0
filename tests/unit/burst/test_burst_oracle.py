"""A store against a plain dictionary: random saves, drops, pins, reopenings, in small segments.

Segments are small and recycled all the time, so a stale or misplaced record would be read sooner
or later. The dictionary is the oracle; every checkpoint is compared bit by bit.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from weftline.burst import Options, Retention, Store

Arrays = dict[str, np.ndarray[Any, Any]]


def options(kind: str) -> Options:
    """Chunks and segments small enough that every path is taken with a few hundred kB."""
    return Options(
        chunk_bytes=1 << 16,
        segment_bytes=1 << 20,
        io_threads=3,
        copy_threads=1,
        wal_bytes=2000,
        compact_below=0.6,
        compress={"planes": "planes", "zstd": "zstd", "all": "planes"}.get(kind),
        dedup=kind in ("dedup", "all"),
    )


@dataclass
class Oracle:
    """What should be in the store."""

    rng: random.Random
    np_rng: np.random.Generator
    kept: dict[int, Arrays] = field(default_factory=dict)
    order: list[int] = field(default_factory=list)
    pinned: set[int] = field(default_factory=set)
    step: int = 0

    def state(self) -> Arrays:
        """The newest state, somewhat changed, as training would."""
        old = self.kept[self.order[-1]] if self.order else {}
        state: Arrays = {}
        for name in ("a", "b/frozen", "c.large", "d", "e.empty"):
            if name in old and (name == "b/frozen" or self.rng.random() < 0.3):
                state[name] = old[name].copy()
                continue
            size = {"c.large": 90_000, "b/frozen": 80_000, "e.empty": 0}.get(name, 700)
            new = self.np_rng.standard_normal(size).astype(np.float32)
            if name in old and self.rng.random() < 0.7:
                new = old[name] * np.float32(1.0001)
            state[name] = new
        return state

    def commit(self, step: int, state: Arrays) -> None:
        """The step is now the newest."""
        self.kept[step] = state
        self.order = [s for s in self.order if s != step] + [step]

    def drop(self, steps: list[int]) -> None:
        """These are gone, unless pinned."""
        for step in steps:
            if step not in self.pinned:
                self.kept.pop(step, None)
                self.order = [s for s in self.order if s != step]


def check(store: Store, oracle: Oracle) -> None:
    """Everything that should be there is, bit by bit, and nothing else."""
    assert [c.step for c in store.checkpoints()] == oracle.order
    for step, state in oracle.kept.items():
        loaded = store.load(step)
        assert set(loaded) == set(state)
        for name, array in state.items():
            assert loaded[name].tobytes() == array.tobytes(), (step, name)


@pytest.mark.parametrize("kind", ["plain", "planes", "zstd", "dedup", "all"])
@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(s, marks=pytest.mark.slow) for s in range(1, 6))]
)
def test_a_store_holds_what_a_dictionary_would(kind: str, seed: int, tmp_path: Path) -> None:
    oracle = Oracle(random.Random(seed), np.random.default_rng(seed))
    store = Store.open(tmp_path / "s", options=options(kind))
    for _ in range(40):
        act = oracle.rng.choice(["save"] * 5 + ["again", "keep", "drop", "pin", "unpin", "reopen"])
        if act in ("save", "again") or not oracle.order:
            oracle.step += act != "again" or not oracle.order
            state = oracle.state()
            store.save({k: v.copy() for k, v in state.items()}, oracle.step, wait=True)
            oracle.commit(oracle.step, state)
        elif act == "keep":
            last = oracle.rng.randint(1, 3)
            store.gc(Retention(last=last, every=7))
            gone = [s for s in oracle.order[:-last] if s % 7]
            oracle.drop(gone)
        elif act == "drop":
            step = oracle.rng.choice(oracle.order)
            store.gc(drop=[step])
            oracle.drop([step])
        elif act == "pin":
            step = oracle.rng.choice(oracle.order)
            store.pin(step)
            oracle.pinned.add(step)
        elif act == "unpin" and oracle.pinned:
            store.unpin(step := oracle.pinned.pop())
        else:
            store.close()
            store = Store.open(tmp_path / "s", options=options(kind))
        check(store, oracle)
    assert store.verify() == []
    assert store.notices == []
    store.close()
    used = sum(p.stat().st_size for p in (tmp_path / "s").rglob("*.seg"))
    live = sum(a.nbytes for s in oracle.kept.values() for a in s.values())
    assert used < 4 * live + (8 << 20)
