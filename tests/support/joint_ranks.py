"""Two ranks that save together: what they must agree on, and what comes back. Run as a program.

python joint_ranks.py FOLDER
"""

from __future__ import annotations

import copy
import os
import sys
import warnings
from collections import Counter, OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from node_ranks import forked
from torch.distributed.checkpoint import load as dcp_load
from torch.distributed.checkpoint import save as dcp_save
from torch.distributed.checkpoint.api import CheckpointException

from weftline.burst import Store, pytorch
from weftline.burst.errors import CommitError
from weftline.burst.pytorch import BurstSavePlanner, BurstStorageReader, BurstStorageWriter, PerRank

ODD: dict[str, Any] = {
    "ordered": OrderedDict(b=1, a=2), "milestones": Counter({2: 1, 4: 1}), "lambdas": [{}],
    "empty": {}, "nothing": [], "pair": (torch.tensor([1.0]), {"x": 2}), "plain": (1, (2, 3)),
    "default": defaultdict(list, {3: [1]}), "deep": {1: {2: {}}},
}  # fmt: skip


def same(a: Any, b: Any) -> None:
    """Also of one kind."""
    assert type(a) is type(b), (a, b)
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert list(a) == list(b) if type(a) is not dict else set(a) == set(b), (a, b)
        for key in a:
            same(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), (a, b)
        for one, other in zip(a, b, strict=True):
            same(one, other)
    else:
        assert a == b


class Own:
    """Something each rank has for itself."""

    def __init__(self, value: int) -> None:
        self.value = value

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value, "t": torch.tensor([self.value])}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.value = state["value"] + int(state["t"]) * 100


def state_of(rank: int) -> dict[str, Any]:
    weight = torch.arange(6.0).reshape(2, 3)
    return {
        "model": {"embed": weight, "head": weight, "other": weight.clone()},
        "optimizer": {"state": {0: {"exp": torch.ones(2)}, 1: {"exp": torch.zeros(2)}},
                      "groups": [{"lr": 0.1, "params": [0, 1]}]},
        "odd": copy.deepcopy(ODD),  # torch loads into what it is given, under keys of text
        "mine": PerRank(Own(rank + 1)),
    }  # fmt: skip


def check_whole(path: Path) -> None:
    """By one process, without torch.distributed."""
    found = pytorch.load(path)
    assert list(found["optimizer"]["state"]) == [0, 1], found["optimizer"]
    assert found["model"]["embed"] is found["model"]["head"]
    assert found["model"]["embed"] is not found["model"]["other"]
    assert torch.equal(found["model"]["head"], torch.arange(6.0).reshape(2, 3))
    assert sorted(found["mine"]) == ["rank0", "rank1"]
    same(ODD, found["odd"])
    same(ODD, pytorch.load(path, only="odd"))
    only = pytorch.load(path, only="optimizer")
    assert list(only["state"]) == [0, 1]
    with Store.open(path, read_only=True) as store:
        assert ("model.head" in store.tensors()) != ("model.embed" in store.tensors())


def work(rank: int, folder: Path) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    pytorch.save(state_of(rank), folder / "joint")
    writer = BurstStorageWriter(folder / "dcp")
    dcp_save(state_of(rank), storage_writer=writer, planner=BurstSavePlanner())
    writer.close()
    for name in ("joint", "dcp"):
        if rank == 0:
            check_whole(folder / name)
        own = Own(0)
        into = state_of(rank) | {"mine": PerRank(own)}
        for tensor in into["model"].values():
            tensor.zero_()
        reader = BurstStorageReader(folder / name)
        dcp_load(into, storage_reader=reader)
        reader.close()
        assert own.value == (rank + 1) * 101, own.value
        assert torch.equal(into["model"]["head"], torch.arange(6.0).reshape(2, 3))
    differ = {"w": torch.ones(1), "loader": {"at": rank}}
    with pytest.raises(CommitError, match=r"`loader.at` \(ranks 0 and 1\)(.|\n)*PerRank"):
        pytorch.save(differ, folder / "differ")
    writer = BurstStorageWriter(folder / "differ")
    with pytest.raises(CheckpointException, match=r"loader\.at"):
        dcp_save(differ, storage_writer=writer, planner=BurstSavePlanner())
    writer.close()
    pytorch.save({"w": torch.ones(1), "rank": rank}, folder / f"alone{rank}", alone=True)
    assert pytorch.load(folder / f"alone{rank}")["rank"] == rank
    dist.barrier()
    dist.destroy_process_group()


def main(folder: Path) -> int:
    children = [forked(lambda r=rank: work(r, folder)) for rank in range(2)]
    return int(any(os.waitpid(child, 0)[1] for child in children))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
