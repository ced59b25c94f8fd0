"""State dicts of PyTorch come back bit for bit, nested and shared as they were, without pickle."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import joint_ranks
import numpy as np
import pytest
import torch
from torch.distributed.checkpoint import async_save as dcp_async_save
from torch.distributed.checkpoint import load as dcp_load
from torch.distributed.checkpoint import save as dcp_save
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner

from weftline.burst import Options, Store
from weftline.burst.errors import BadNameError, CheckpointMissingError, MismatchError
from weftline.burst.pytorch import BurstStorageReader, BurstStorageWriter, load, save
from weftline.errors import InputError

# Torch warns that it saves in one process, which is meant here.
pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")

DTYPES = [
    torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16,
    torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64,
    torch.complex128, torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e8m0fnu,
]  # fmt: skip


def raw(tensor: torch.Tensor) -> bytes:
    """The bytes of a tensor, row-major."""
    return bytes(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())


def random_tensor(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    """Random bits, NaNs included: what comes back is compared as bytes."""
    width = torch.empty(0, dtype=dtype).element_size()
    high = 2 if dtype == torch.bool else 256
    bits = torch.randint(0, high, (int(np.prod(shape)) * width,), dtype=torch.uint8)
    return bits.view(dtype).reshape(shape)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_comes_back_bit_for_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    state = {
        "plain": random_tensor(dtype, 5, 7), "scalar": random_tensor(dtype),
        "empty": torch.empty((0, 3), dtype=dtype), "turned": random_tensor(dtype, 4, 6).t(),
        "part": random_tensor(dtype, 9, 8)[2:5, ::2],
    }  # fmt: skip
    save(state, tmp_path / "store")
    found = load(tmp_path / "store")
    assert list(found) == list(state)
    for name, tensor in state.items():
        assert found[name].dtype == dtype
        assert found[name].shape == tensor.shape
        assert raw(found[name]) == raw(tensor)


def test_an_optimizer_goes_on_where_it_was(tmp_path: Path) -> None:
    def made() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Linear(16, 4))
        return model, torch.optim.AdamW(model.parameters(), lr=1e-2)

    def train(model: torch.nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
        for i in steps:
            optimizer.zero_grad()
            x = torch.randn(5, 8, generator=torch.Generator().manual_seed(i))
            model(x).square().mean().backward()
            optimizer.step()

    model, optimizer = made()
    train(model, optimizer, range(3))
    save({"model": model.state_dict(), "optim": optimizer.state_dict(), "step": 3}, tmp_path / "s")
    train(model, optimizer, range(3, 6))
    other, its_optimizer = made()
    state = load(tmp_path / "s")
    other.load_state_dict(state["model"])
    its_optimizer.load_state_dict(state["optim"])
    assert state["step"] == 3
    train(other, its_optimizer, range(3, 6))
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


def test_nesting_and_sharing_are_kept(tmp_path: Path) -> None:
    tied = torch.randn(3, 3)
    state: dict[Any, Any] = {
        "a": {"b": [tied, (1, None, "x")], 7: True}, "c": tied, "size": torch.Size([1, 2]),
        "dtype": torch.bfloat16, "number": np.float64(0.1), "a.b.0": torch.ones(2),
        "lr": 1e-3, "big": 2**80, "rng": torch.get_rng_state(),
    }  # fmt: skip
    save(state, tmp_path / "s")
    found = load(tmp_path / "s")
    assert found["a"]["b"][0] is found["c"]
    assert torch.equal(found["c"], tied)
    assert torch.equal(found["a.b.0"], torch.ones(2))
    plain = {k: v for k, v in found.items() if not isinstance(v, torch.Tensor) and k != "a"}
    assert plain == {k: v for k, v in state.items()
                     if not isinstance(v, torch.Tensor) and k != "a"}  # fmt: skip
    assert found["a"]["b"][1] == (1, None, "x")
    assert found["a"][7] is True


def test_training_may_go_on_once_the_call_returns(tmp_path: Path) -> None:
    weight = torch.arange(1 << 20, dtype=torch.float32)
    with Store.open(str(tmp_path / "s")) as store:
        handle = save({"w": weight}, store, wait=False)
        weight.zero_()
        assert handle is not None
        handle.wait()
        assert torch.equal(load(store)["w"], torch.arange(1 << 20, dtype=torch.float32))


class Custom:
    """Nothing that burst knows."""


@pytest.mark.parametrize(
    ("state", "error", "text"),
    [
        ({"opt": {"x": Custom()}}, InputError, r"opt.*x.*cannot be stored"),
        ({"s": torch.eye(3).to_sparse()}, MismatchError, "sparse"),
        ({"m": torch.empty(2, device="meta")}, MismatchError, "meta"),
        ({"../../etc": torch.ones(2)}, BadNameError, "leads elsewhere"),
    ],
)
def test_what_cannot_be_stored_is_refused_and_nothing_is_written(
    tmp_path: Path, state: dict[str, Any], error: type[Exception], text: str
) -> None:
    save({"w": torch.ones(2)}, tmp_path / "s", step=1)
    with pytest.raises(error, match=text):
        save(state, tmp_path / "s", step=2)
    with Store.open(str(tmp_path / "s"), read_only=True) as store:
        assert [c.step for c in store.checkpoints()] == [1]


def test_a_missing_step_names_those_there_are(tmp_path: Path) -> None:
    save({"w": torch.ones(2)}, tmp_path / "s", step=4)
    with pytest.raises(CheckpointMissingError, match="4"):
        load(tmp_path / "s", step=5)


def dcp_state(value: float) -> dict[str, Any]:
    """What a trainer hands to torch.distributed.checkpoint."""
    return {
        "model": {"w": torch.full((6, 4), value), "half": torch.full((5,), value).bfloat16()},
        "optim": {"step": torch.tensor(value), "groups": [{"lr": value, "betas": (0.9, 0.95)}]},
        "epoch": int(value),
    }


@pytest.mark.parametrize("how", ["save", "async_save"])
def test_distributed_checkpoint_saves_and_loads(tmp_path: Path, how: str) -> None:
    writer = BurstStorageWriter(tmp_path / "s")
    for value in (1.0, 2.0):
        if how == "save":
            dcp_save(dcp_state(value), storage_writer=writer, no_dist=True)
        else:
            dcp_async_save(dcp_state(value), storage_writer=writer, no_dist=True).result()
    writer.close()
    for step, value in ((None, 2.0), (0, 1.0)):
        found = dcp_state(0.0)
        dcp_load(found, storage_reader=BurstStorageReader(tmp_path / "s", step=step), no_dist=True)
        wanted = dcp_state(value)
        assert torch.equal(found["model"]["w"], wanted["model"]["w"])
        assert torch.equal(found["model"]["half"], wanted["model"]["half"])
        assert found["optim"]["groups"] == wanted["optim"]["groups"]
        assert found["epoch"] == wanted["epoch"]
    whole = load(tmp_path / "s")
    assert whole["optim"]["groups"] == wanted["optim"]["groups"] or whole["epoch"] == 2


def test_a_loaded_tensor_takes_the_dtype_it_is_loaded_into(tmp_path: Path) -> None:
    w = torch.randn(4, 4).bfloat16()
    dcp_save({"w": w}, storage_writer=BurstStorageWriter(tmp_path / "s"), no_dist=True)
    target = {"w": torch.zeros(4, 4)}
    dcp_load(target, storage_reader=BurstStorageReader(tmp_path / "s"), no_dist=True)
    assert torch.equal(target["w"], w.float())


def test_no_pickle_is_in_the_store(tmp_path: Path) -> None:
    dcp_save(dcp_state(1.0), storage_writer=BurstStorageWriter(tmp_path / "s"), no_dist=True)
    save(dcp_state(1.0), tmp_path / "s2")
    for file in [*tmp_path.rglob("*")]:
        if file.is_file():
            data = file.read_bytes()
            # Protocol 2 and later begin so; a zip archive is what torch.save writes.
            assert b"\x80\x02" not in data or b"torch" not in data
            assert b"PK\x03\x04" not in data


class Halving(DefaultSavePlanner):
    """A planner of a user's own that changes what was staged."""

    def resolve_data(self, write_item: Any) -> Any:
        found = super().resolve_data(write_item)
        if isinstance(found, torch.Tensor):
            found.mul_(0.5)
        return found


@pytest.mark.parametrize("planner", [None, Halving()])
def test_what_was_staged_is_what_is_written(tmp_path: Path, planner: Any) -> None:
    """Views of one storage, odd ends, a tensor twice: as they were, or as the planner left it."""
    whole = torch.randn(900_001)
    state = {
        "large": torch.randn(700_003), "view": whole[300_000:], "head": whole[:1000],
        "same": whole, "strided": torch.randn(600, 700).t(), "small": torch.randn(7),
        "half": torch.randn(400_000, dtype=torch.float64).half(), "none": torch.empty(0, 3),
    }  # fmt: skip
    wanted = {k: v.clone() for k, v in state.items()}
    writer = BurstStorageWriter(tmp_path / "s", options=Options(chunk_bytes=1 << 20))
    waiting = dcp_async_save(
        state, storage_writer=writer, planner=planner, checkpoint_id=str(tmp_path / "s/step-1")
    )
    for tensor in state.values():
        tensor.zero_()  # training goes on
    waiting.result()
    writer.close()
    found = load(tmp_path / "s")
    if planner is None:
        for name, value in wanted.items():
            assert torch.equal(found[name], value), name
    else:
        assert torch.equal(found["large"], wanted["large"] * 0.5)
    with Store.open(tmp_path / "s", read_only=True) as store:
        assert store.verify() == []


def test_what_one_process_saved_many_can_load(tmp_path: Path) -> None:
    """As a tree with plain values, lists and tied tensors: under the names of torch's planner."""
    shared = torch.randn(30, 4)
    state = {
        "model": {"embed": shared, "head": shared, "layers": [torch.randn(3), torch.randn(5)]},
        "step": 7, "names": ["a", "b"], "lr": {"now": 0.1, "of": (1, 2)},
    }  # fmt: skip
    save(state, tmp_path / "s", step=1)
    into = {
        "model": {"embed": torch.zeros(30, 4), "head": torch.zeros(30, 4),
                  "layers": [torch.zeros(3), torch.zeros(5)]},
        "step": 0, "names": [], "lr": {"now": 0.0, "of": ()},
    }  # fmt: skip
    dcp_load(into, storage_reader=BurstStorageReader(tmp_path / "s"))
    assert torch.equal(into["model"]["embed"], shared)
    assert torch.equal(into["model"]["head"], shared)
    for found, wanted in zip(into["model"]["layers"], state["model"]["layers"], strict=True):
        assert torch.equal(found, wanted)
    assert (into["step"], into["names"], into["lr"]) == (7, ["a", "b"], {"now": 0.1, "of": (1, 2)})


def test_two_ranks_agree_on_values_ties_and_what_each_has_for_itself(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, joint_ranks.__file__, str(tmp_path)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
