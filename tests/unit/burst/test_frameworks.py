"""Frameworks that people train with: their checkpoints in burst, and back, bit for bit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import framework_runs
import pytest
import torch

from weftline.burst import Store, pytorch
from weftline.burst.errors import CheckpointMissingError
from weftline.burst.frameworks.pointers import Pointer, read_pointer
from weftline.burst.pytorch import PerRank
from weftline.errors import InputError

NEEDS = {
    "huggingface": "accelerate", "accelerate": "torchdata", "lightning": "lightning",
    "accelerate_fsdp2": "torchdata", "deepspeed": "deepspeed", "megatron": "megatron.core",
    "torchtitan": "torchtitan",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("framework", NEEDS)
def test_a_training_that_was_killed_ends_as_one_that_was_not(
    tmp_path: Path, framework: str, ranks: int
) -> None:
    pytest.importorskip(
        NEEDS[framework], reason=f"{NEEDS[framework]} is installed by hand: pip install it"
    )
    command = [sys.executable, framework_runs.__file__, framework, str(tmp_path), str(ranks)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-6000:]


# --- Lightning -----------------------------------------------------------------------------------


@pytest.fixture
def lightning_io(tmp_path: Path) -> Any:
    pytest.importorskip("lightning", reason="Lightning is not installed (requirements-dev.lock)")
    from weftline.burst.lightning import BurstCheckpointIO

    io = BurstCheckpointIO(tmp_path / "store")
    yield io
    io.teardown()


@pytest.mark.filterwarnings("ignore")
def test_lightning_paths_are_files_that_can_be_listed_and_removed(
    tmp_path: Path, lightning_io: Any
) -> None:
    states = {n: {"global_step": 10, "w": torch.full((3,), float(n))} for n in (1, 2, 3)}
    for n in (1, 2):
        lightning_io.save_checkpoint(states[n], tmp_path / "ckpt" / f"epoch={n}.ckpt")
    lightning_io.teardown()
    for n in (1, 2):  # two of one step are two checkpoints
        found = lightning_io.load_checkpoint(tmp_path / "ckpt" / f"epoch={n}.ckpt")
        assert torch.equal(found["w"], states[n]["w"])
    lightning_io.save_checkpoint(states[3], tmp_path / "ckpt" / "epoch=1.ckpt")  # in its place
    lightning_io.remove_checkpoint(tmp_path / "ckpt" / "epoch=2.ckpt")
    assert [p.name for p in (tmp_path / "ckpt").iterdir()] == ["epoch=1.ckpt"]
    lightning_io.teardown()
    with Store.open(tmp_path / "store", read_only=True) as store:
        assert len(store.checkpoints()) == 1
    newest = lightning_io.load_checkpoint(tmp_path / "store")
    assert torch.equal(newest["w"], states[3]["w"])


@pytest.mark.filterwarnings("ignore")
def test_lightning_is_told_of_a_save_that_failed(tmp_path: Path, lightning_io: Any) -> None:
    with pytest.raises(InputError, match="odd"):
        lightning_io.save_checkpoint({"odd": object()}, tmp_path / "a.ckpt")
    assert not (tmp_path / "a.ckpt").exists()
    with pytest.raises(CheckpointMissingError):
        lightning_io.load_checkpoint(tmp_path / "a.ckpt")
    torch.save({"w": torch.ones(1)}, tmp_path / "theirs.ckpt")
    with pytest.raises(InputError, match="no checkpoint that burst"):
        lightning_io.load_checkpoint(tmp_path / "theirs.ckpt")


def test_a_pointer_says_where_and_a_store_is_its_newest(tmp_path: Path) -> None:
    Pointer(store="/s", step=4, part="a/b.pt").write(tmp_path / "x" / "p")
    assert read_pointer(tmp_path / "x" / "p") == Pointer(store="/s", step=4, part="a/b.pt")
    pytorch.save({"a": 1}, tmp_path / "s", step=7)
    assert read_pointer(tmp_path / "s").step is None
    assert read_pointer(tmp_path / "s" / "step-7").step == 7
    (tmp_path / "p").write_text(json.dumps({"weftline.burst": 2}))
    with pytest.raises(InputError):
        read_pointer(tmp_path / "p")


# --- Trainer, Accelerate -------------------------------------------------------------------------


def test_a_trainer_that_needs_its_own_folders_is_refused_at_the_start(tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="Accelerate is not installed (requirements-dev.lock)")
    from transformers import TrainingArguments

    from weftline.burst.huggingface import BurstCallback

    args = TrainingArguments(
        output_dir=str(tmp_path), use_cpu=True, report_to=[], metric_for_best_model="loss",
        eval_strategy="steps", save_steps=500, load_best_model_at_end=True,
    )  # fmt: skip
    model = torch.nn.Linear(1, 1)
    with pytest.raises(InputError, match=r"load_best_model_at_end, metric_for_best_model"):
        BurstCallback(tmp_path / "s").on_train_begin(args, None, None, model=model)


# --- loaders -------------------------------------------------------------------------------------


class Loader:
    """Holds a generator's state, as a loader with a shuffling sampler does."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(3)
        self.done = 0

    def state_dict(self) -> dict[str, Any]:
        return {"done": self.done, "workers": [None, {"rng": self.generator.get_state()}]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.done = state["done"]
        self.generator.set_state(state["workers"][1]["rng"])


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
@pytest.mark.parametrize("how", ["tree", "dcp"])
def test_a_loader_goes_on_where_it_was(tmp_path: Path, how: str) -> None:
    loader = Loader()
    torch.rand(5, generator=loader.generator)
    loader.done = 5
    state = {"w": torch.ones(2), "loader": PerRank(loader)}
    if how == "tree":
        pytorch.save(state, tmp_path / "s")
    else:
        from torch.distributed.checkpoint import save

        save(state, storage_writer=pytorch.BurstStorageWriter(tmp_path / "s"), no_dist=True)
    wanted = torch.rand(3, generator=loader.generator)
    again = Loader()
    pytorch.load(tmp_path / "s", into={"w": torch.zeros(2), "loader": PerRank(again)})
    assert again.done == 5
    assert torch.equal(torch.rand(3, generator=again.generator), wanted)


def test_per_rank_is_for_what_has_a_state() -> None:
    with pytest.raises(InputError, match="state_dict"):
        PerRank(3)
