"""Many small tensors: little more on disk than they are, and each as it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from weftline.burst import Options, Shard, Store
from weftline.burst.errors import CorruptionError

OPTIONS = Options(segment_bytes=1 << 24, chunk_bytes=1 << 20)


def state_of(count: int, step: int = 0) -> dict[str, np.ndarray]:
    made = np.random.default_rng(step)
    kinds = (np.float32, np.uint8, np.float64, np.int16)
    state = {
        f"layers.{i // 10}.block.{i % 10}.scale": made.integers(0, 200, 62).astype(kinds[i % 4])
        for i in range(count)
    }
    return state | {"empty": np.empty((0, 3), np.float32), "scalar": np.array(3.5)}


def on_disk(store: Path) -> int:
    """What a save keeps: its records and the files of the index, not blocks kept for the next."""
    with Store.open(store, read_only=True) as opened:
        stored = sum(c.stored_bytes for c in opened.checkpoints())
        manifests = opened.manifests(opened.read_commit())
        copy = sum(m.seal.copy.stored_bytes for m in manifests if m.seal.copy is not None)
    index = [p for p in store.rglob("*") if p.suffix in (".wal", ".run")]
    return stored + copy + sum(p.stat().st_size for p in index)


def test_twenty_thousand_tensors_take_little_more_than_they_are(tmp_path: Path) -> None:
    state = {f"layers.{i // 100}.part.{i % 100}.weight": np.full(62, i, np.float32)
             for i in range(20_000)}  # fmt: skip
    nbytes = sum(a.nbytes for a in state.values())
    with Store.open(tmp_path / "s", options=OPTIONS) as store:
        handle = store.save(state, 1, wait=True)
        assert handle.raw_bytes == nbytes
    assert on_disk(tmp_path / "s") < 1.3 * nbytes
    with Store.open(tmp_path / "s", read_only=True) as store:
        loaded = store.load()
        assert len(store.tensors()) == 20_000
        assert store.checkpoints()[0].raw_bytes == nbytes
        assert all(np.array_equal(loaded[n], a) for n, a in state.items())


@pytest.mark.parametrize("options", [{}, {"compress": "planes"}, {"dedup": True}])
def test_every_small_tensor_comes_back(tmp_path: Path, options: dict[str, object]) -> None:
    large = {"large": np.arange(100_000, dtype=np.float32)}
    with Store.open(tmp_path, options=Options(
        segment_bytes=1 << 20, chunk_bytes=1 << 16, **options,  # type: ignore[arg-type]
    )) as store:  # fmt: skip
        for step in (1, 2):
            store.save(state_of(900, step) | large, step, wait=True)
        for step in (1, 2):
            wanted = state_of(900, step) | large
            found = store.load(step)
            assert sorted(found) == sorted(wanted)
            for name, array in wanted.items():
                assert np.array_equal(found[name], array), name
                assert found[name].dtype == array.dtype, name
        name = "layers.3.block.1.scale"
        assert np.array_equal(store.load(2, names=[name])[name], state_of(900, 2)[name])
        assert np.array_equal(store.read(2, name, (5,), (7,)), state_of(900, 2)[name][5:12])
        assert store.verify() == []
        store.gc(drop=[1])
        assert np.array_equal(store.load()["scalar"], np.array(3.5))


def test_small_blocks_of_ranks_make_the_whole(tmp_path: Path) -> None:
    whole = {f"t{i}": np.arange(8.0) + i for i in range(100)}
    with Store.open(tmp_path) as store:
        parts = []
        for rank in (0, 1):
            state = {
                name: Shard(data=a[rank * 4 : rank * 4 + 4], global_shape=(8,), offsets=(rank * 4,))
                for name, a in whole.items()
            }
            parts.append(store.prepare(state, 1, rank=rank, world=2))
        store.commit(1, prepared=parts)
        found = store.load()
        assert all(np.array_equal(found[n], a) for n, a in whole.items())


def test_damage_in_one_is_found_and_says_which_they_are(tmp_path: Path) -> None:
    with Store.open(tmp_path, options=OPTIONS) as store:
        store.save(state_of(300), 1, wait=True)
        chunk = store.manifests(store.read_commit())[0].parts[-1].chunks[0]
        segment = next((tmp_path / "writers").rglob("*.seg"))
    with segment.open("r+b") as file:
        file.seek(chunk.offset_bytes + chunk.head_bytes + 100)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 8]))
    with Store.open(tmp_path, read_only=True) as store:
        with pytest.raises(CorruptionError, match="302 small tensors from empty to scalar"):
            store.load()
        assert [f.tensor for f in store.verify()] == ["302 small tensors from empty to scalar"]
