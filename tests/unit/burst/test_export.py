"""Exports: what others read is what was saved, whatever the shards, dtypes and names."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from weftline.burst import Options, Shard, Store
from weftline.burst.errors import CorruptionError, MismatchError, TensorMissingError
from weftline.burst.formats.export import export, select
from weftline.burst.formats.tensorfiles import read_state, write_state
from weftline.errors import InputError

STATE = {
    "model.embed": np.arange(600.0, dtype=np.float32).reshape(30, 20),
    "model.norm": np.ones(7, np.float64),
    "model.mask": np.array([True, False, True]),
    "optim.step": np.array(5),
}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "s", options=Options(chunk_bytes=4096, segment_bytes=1 << 20))


@pytest.mark.parametrize("shard_bytes", [1, 100, 2500, 1 << 30])
def test_whatever_the_shards_the_tensors_are_the_same(
    store: Store, tmp_path: Path, shard_bytes: int
) -> None:
    with store:
        store.save(STATE, 3, wait=True)
        done = export(store, tmp_path / "hf", shard_bytes=shard_bytes)
    found = {}
    for name in done.files:
        if name.endswith(".safetensors"):
            found.update(load_file(name))
    assert {n: (a.dtype, a.shape, a.tobytes()) for n, a in found.items()} == {
        n: (a.dtype, a.shape, a.tobytes()) for n, a in STATE.items()
    }
    index = tmp_path / "hf" / "model.safetensors.index.json"
    assert index.exists() == (len(done.files) > 1)
    if index.exists():
        listed = json.loads(index.read_text())
        assert listed["metadata"]["total_size"] == sum(a.nbytes for a in STATE.values())
        for name, file in listed["weight_map"].items():
            assert name in load_file(tmp_path / "hf" / file)


def test_blocks_of_ranks_become_whole_tensors_in_bfloat16(tmp_path: Path) -> None:
    whole = np.arange(48, dtype=np.uint16).reshape(8, 6)
    with Store.open(tmp_path / "s") as store:
        done = [
            store.prepare(
                {"w": Shard(data=whole[at : at + 4], dtype="bfloat16", shape=(4, 6),
                            global_shape=(8, 6), offsets=(at, 0))},
                1, rank=rank, world=2, attempt="a",
            )
            for rank, at in enumerate((0, 4))
        ]  # fmt: skip
        store.commit(1, prepared=done)
        path = export(store, tmp_path / "hf").files[0]
    with safe_open(path, "np") as file:
        assert file.get_slice("w").get_dtype() == "BF16"
        assert file.metadata() == {"format": "pt", "burst_step": "1"}
    state, _ = read_state([Path(path)])
    assert (state["w"].shape, state["w"].data.tobytes()) == ((8, 6), whole.tobytes())


def test_a_pattern_a_prefix_and_a_name_that_is_taken(store: Store, tmp_path: Path) -> None:
    with store:
        store.save({**STATE, "norm": np.zeros(2)}, 3, wait=True)
        done = export(store, tmp_path / "a", only=["model.*"], strip="model.")
        assert sorted(load_file(done.files[0])) == ["embed", "mask", "norm"]
        with pytest.raises(MismatchError, match="is taken"):
            export(store, tmp_path / "b", strip="model.")
        with pytest.raises(TensorMissingError):
            export(store, tmp_path / "b", only=["modell.*"])
        with pytest.raises(InputError, match="already"):
            export(store, tmp_path / "a")
    assert not (tmp_path / "b").exists()
    assert select(["b", "a.x"], ()) == ["a.x", "b"]


def test_damage_stops_an_export_and_leaves_no_file(store: Store, tmp_path: Path) -> None:
    with store:
        store.save(STATE, 3, wait=True)
    segment = next((tmp_path / "s").rglob("seg-*.seg"))
    data = bytearray(segment.read_bytes())
    at = data.index(STATE["model.embed"].tobytes()[:64])
    data[at + 8] ^= 1
    segment.write_bytes(data)
    with (
        Store.open(tmp_path / "s", read_only=True) as damaged,
        pytest.raises(CorruptionError, match=r"model\.embed"),
    ):
        export(damaged, tmp_path / "hf")
    assert list((tmp_path / "hf").iterdir()) == []


def test_files_hold_any_name_and_refuse_what_they_cannot_hold(tmp_path: Path) -> None:
    state = {"file": np.arange(3), "allow_pickle": np.array(2.5)}
    with Store.open(tmp_path / "s") as store:
        store.save(state, 0, wait=True)
        store.save({"w": Shard(data=bytes(4), dtype="bfloat16", shape=(2,))}, 1, wait=True)
        write_state(tmp_path / "x.npz", store.load(0))
        with pytest.raises(MismatchError, match="bfloat16"):
            write_state(tmp_path / "y.npz", store.load(1))
    found, _ = read_state([tmp_path / "x.npz"])
    assert {n: a.tobytes() for n, a in found.items()} == {n: a.tobytes() for n, a in state.items()}
    assert not (tmp_path / "y.npz").exists()
