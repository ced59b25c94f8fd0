"""Checkpoints of other tools, brought in: what they hold, and that nothing in them is run."""

from __future__ import annotations

import json
import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch.distributed.checkpoint import FileSystemWriter
from torch.distributed.checkpoint import save as dcp_save
from torch.distributed.checkpoint.metadata import _MEM_FORMAT_ENCODING

from weftline.burst import Store, pytorch
from weftline.burst.frameworks.foreign import import_into
from weftline.cli.main import run
from weftline.errors import InputError, WeftlineError

STATE: dict[str, Any] = {
    "model": OrderedDict(w=torch.randn(4, 3), half=torch.ones(2, dtype=torch.bfloat16)),
    "optimizer": {"state": {"0": {"exp_avg": torch.randn(4, 3)}}, "lr": 0.1, "betas": (0.9, 0.99)},
    "step": 7,
}


class Evil:
    def __reduce__(self) -> Any:
        return os.mkdir, (os.environ["EVIL_FOLDER"],)


def imported(path: Path, store: Path) -> Any:
    with Store.open(store) as opened:
        handle, kind = import_into(opened, path)
        assert handle.committed
    return pytorch.load(store), kind


def same(a: Any, b: Any) -> None:
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
        assert a.dtype == b.dtype
    elif isinstance(a, dict):
        assert {str(k) for k in a} == {str(k) for k in b}
        for key, value in a.items():
            same(value, b[key])
    else:
        assert a == b


@pytest.mark.parametrize("legacy", [False, True])
def test_a_file_of_torch_save(tmp_path: Path, legacy: bool) -> None:
    torch.save(STATE, tmp_path / "a.pt", _use_new_zipfile_serialization=not legacy)
    found, kind = imported(tmp_path / "a.pt", tmp_path / "s")
    assert kind == "torch.save"
    same(STATE, found)


@pytest.mark.filterwarnings("ignore")
def test_a_folder_of_torch_distributed_checkpoint(tmp_path: Path) -> None:
    dcp_save(STATE, storage_writer=FileSystemWriter(tmp_path / "a"), no_dist=True)
    found, kind = imported(tmp_path / "a", tmp_path / "s")
    assert kind == "torch.distributed.checkpoint"
    same(STATE, found)


def test_shards_by_their_index_and_only_all_of_them(tmp_path: Path) -> None:
    parts = {
        "model-1.safetensors": {"a": torch.randn(3)},
        "model-2.safetensors": {"b": torch.ones(2)},
    }
    for name, tensors in parts.items():
        save_file(tensors, tmp_path / name)
    save_file({"stray": torch.ones(1)}, tmp_path / "other.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(
        json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}})
    )
    found, kind = imported(tmp_path, tmp_path / "s")
    assert kind == "safetensors"
    assert sorted(found) == ["a", "b"]
    same(parts["model-1.safetensors"]["a"], found["a"])
    (tmp_path / "model-2.safetensors").unlink()
    with Store.open(tmp_path / "s") as store, pytest.raises(InputError, match="1 of 2 files"):
        import_into(store, tmp_path)


@pytest.mark.parametrize("where", ["file", "value", "metadata"])
@pytest.mark.filterwarnings("ignore")
def test_code_in_a_checkpoint_is_not_run(
    tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVIL_FOLDER", str(tmp_path / "made"))
    place = tmp_path / "a"
    if where == "file":
        place = tmp_path / "a.pt"
        torch.save({"x": Evil()}, place)
    else:
        state = {"w": torch.ones(2)} | ({"x": Evil()} if where == "value" else {})
        dcp_save(state, storage_writer=FileSystemWriter(place), no_dist=True)
    if where == "metadata":
        (place / ".metadata").write_bytes(pickle.dumps(Evil()))
    with Store.open(tmp_path / "s") as store:
        with pytest.raises(InputError, match="without running code"):
            import_into(store, place)
        assert store.checkpoints() == []
    assert not (tmp_path / "made").exists()


class Attribute:
    def __init__(self, holder: Any, name: str) -> None:
        self.made = getattr, (holder, name)

    def __reduce__(self) -> Any:
        return self.made


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_getattr_in_metadata_reaches_members_of_enumerations_alone(tmp_path: Path) -> None:
    """As early Python 3.11 pickles an enumeration; on a class it would reach code."""
    place = tmp_path / "a"
    dcp_save({"w": torch.ones(2)}, storage_writer=FileSystemWriter(place), no_dist=True)
    metadata = pickle.loads((place / ".metadata").read_bytes())  # noqa: S301  (made just now)
    member = _MEM_FORMAT_ENCODING.TORCH_PRESERVE_FORMAT
    for holder, name in ((_MEM_FORMAT_ENCODING, member.name), (torch.Size, "__subclasses__")):
        metadata.planner_data = {"w": ("w",), "more": Attribute(holder, name)}
        (place / ".metadata").write_bytes(pickle.dumps(metadata))
        if holder is _MEM_FORMAT_ENCODING:
            same(imported(place, tmp_path / "s")[0], {"w": torch.ones(2)})
        else:
            with Store.open(tmp_path / "t") as store, pytest.raises(InputError, match="getattr"):
                import_into(store, place)


@pytest.mark.parametrize("kind", ["cut", "noise", "empty", "nothing"])
def test_what_is_damaged_is_told_in_one_line(tmp_path: Path, kind: str) -> None:
    place = tmp_path / "a.pt"
    torch.save({"w": torch.ones(1000)}, place)
    data = place.read_bytes()
    new = {"cut": data[:2000], "noise": b"PK" + bytes(500), "empty": b""}
    if kind == "nothing":
        place.unlink()
    else:
        place.write_bytes(new[kind])
    with Store.open(tmp_path / "s") as store, pytest.raises(WeftlineError) as told:
        import_into(store, place)
    assert "\n" not in str(told.value).split("hint")[0].strip()


def test_the_command_brings_it_in_and_says_from_what(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(STATE, tmp_path / "a.pt")
    into = ["burst", "import", str(tmp_path / "s")]
    assert run([*into, str(tmp_path / "a.pt"), "--step", "12"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert said.startswith("Committed checkpoint 12 in")
    assert "(torch.save)" in said
    assert run([*into, str(tmp_path / "none.pt")]) == 2
    assert "no such file" in capsys.readouterr().err
