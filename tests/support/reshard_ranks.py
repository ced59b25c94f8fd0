"""Save on some ranks, load on others: run as a program, it forks the ranks and tells what differs.

    python reshard_ranks.py FOLDER SAVE_WORLD LOAD_WORLD [LOAD_WORLD ...]

Torch is imported once and every rank is a fork, so that eighteen ranks cost one start.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint import async_save, load, save
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, distribute_tensor
from torch.distributed.tensor import Shard as Cut
from torch.nn.parallel import DistributedDataParallel

from weftline.burst.pytorch import BurstStorageReader, BurstStorageWriter

Check = Callable[[int, int, str], None]


def whole_tensors() -> dict[str, torch.Tensor]:
    """The truth, the same in every process; sides that no world size divides."""
    g = torch.Generator().manual_seed(7)
    return {
        "rows": torch.randn(13, 6, generator=g),
        "columns": torch.randn(6, 11, generator=g).bfloat16(),
        "both": torch.randn(10, 9, generator=g),
        "whole": torch.randn(5, generator=g),
        "few": torch.randn(2, 3, generator=g),
        "ints": torch.randint(0, 1000, (17,), generator=g),
    }


def placed(world: int, *, blank: bool) -> dict[str, Any]:
    """The tensors as DTensors over ``world`` ranks; zeros where they are to be loaded into."""
    line = init_device_mesh("cpu", (world,))
    pairs = init_device_mesh("cpu", (world // 2, 2) if world % 2 == 0 else (world, 1))
    where = {
        "rows": (line, [Cut(0)]), "columns": (line, [Cut(1)]), "both": (pairs, [Cut(0), Cut(1)]),
        "whole": (line, [Replicate()]), "few": (line, [Cut(0)]), "ints": (line, [Cut(0)]),
    }  # fmt: skip
    made: dict[str, Any] = {}
    for name, tensor in whole_tensors().items():
        value = torch.zeros_like(tensor) if blank else tensor
        made[name] = distribute_tensor(value, *where[name])
    return {"state": made, "plain": {"step": 0 if blank else 41, "names": [] if blank else ["a"]}}


def model_and_optimizer(kind: str, world: int, *, train: bool) -> tuple[Any, Any]:
    """A small model under FSDP2 or DDP; trained one step on the same data everywhere."""
    torch.manual_seed(3 if train else 4)
    model: Any = torch.nn.Sequential(torch.nn.Linear(7, 19), torch.nn.Linear(19, 5, bias=False))
    if kind == "fsdp":
        mesh = init_device_mesh("cpu", (world,))
        for layer in model:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
    else:
        model = DistributedDataParallel(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    x = torch.ones(4, 7) if train else torch.zeros(4, 7)
    model(x).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    return model, optimizer


def reference() -> dict[str, torch.Tensor]:
    """The trained model and its moments without any parallelism."""
    torch.manual_seed(3)
    model = torch.nn.Sequential(torch.nn.Linear(7, 19), torch.nn.Linear(19, 5, bias=False))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    model(torch.ones(4, 7)).square().sum().backward()
    optimizer.step()
    found = {n: p.detach().clone() for n, p in model.named_parameters()}
    names = [n for n, _ in model.named_parameters()]
    for i, moments in optimizer.state_dict()["state"].items():
        found |= {f"{names[i]}.{k}": v for k, v in moments.items()}
    return found


def do_save(rank: int, world: int, folder: str) -> None:
    """Ranks of the saving job."""
    for step, kind in ((1, "dtensor"), (2, "fsdp"), (3, "ddp"), (4, "async")):
        writer = BurstStorageWriter(folder, step=step)
        if kind in ("dtensor", "async"):
            state = placed(world, blank=False)
        else:
            model, optimizer = model_and_optimizer(kind, world, train=True)
            weights, moments = get_state_dict(model, optimizer)
            state = {"model": weights, "optim": moments}
        if kind == "async":
            async_save(state, storage_writer=writer).result()
        else:
            save(state, storage_writer=writer)
        writer.close()
        dist.barrier()
    del rank


def whole_of(value: Any) -> torch.Tensor:
    """A tensor gathered from all its ranks."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def same(name: str, found: torch.Tensor, wanted: torch.Tensor) -> None:
    """Bit for bit."""
    assert found.dtype == wanted.dtype, f"{name}: {found.dtype}"
    a, b = (t.contiguous().reshape(-1).view(torch.uint8) for t in (found, wanted))
    assert torch.equal(a, b), f"{name} differs"


def do_load(rank: int, world: int, folder: str) -> None:
    """Ranks of a job that loads what another number of ranks saved."""
    for step in (1, 4):
        state = placed(world, blank=True)
        load(state, storage_reader=BurstStorageReader(folder, step=step))
        for name, wanted in whole_tensors().items():
            same(name, whole_of(state["state"][name]), wanted)
        assert state["plain"] == {"step": 41, "names": ["a"]}
    truth = reference()
    for step, kind in ((2, "fsdp"), (3, "ddp"), (2, "ddp"), (3, "fsdp")):
        if kind == "ddp" and step == 2 and world == 1:
            continue
        model, optimizer = model_and_optimizer(kind, world, train=False)
        weights, moments = get_state_dict(model, optimizer)
        load(
            {"model": weights, "optim": moments},
            storage_reader=BurstStorageReader(folder, step=step),
        )
        set_state_dict(model, optimizer, model_state_dict=weights, optim_state_dict=moments)
        for name, parameter in model.named_parameters():
            plain = name.removeprefix("module.")
            # Ranks add their gradients in one order: sums of equal parts are exact here.
            torch.testing.assert_close(whole_of(parameter.detach()), truth[plain])
            moment = optimizer.state[parameter]["exp_avg"]
            torch.testing.assert_close(whole_of(moment), truth[f"{plain}.exp_avg"])
    del rank


def fork_ranks(work: Check, world: int, folder: str, name: str) -> int:
    """Run ``work`` on ``world`` forked ranks; the number that failed."""
    children = []
    meeting = Path(folder).parent / f"meet-{name}"
    for rank in range(world):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                torch.set_num_threads(1)
                dist.init_process_group(
                    "gloo", init_method=f"file://{meeting}", rank=rank, world_size=world
                )
                work(rank, world, folder)
                dist.barrier()
                dist.destroy_process_group()
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)
        children.append(child)
    return sum(os.waitpid(child, 0)[1] != 0 for child in children)


def main(folder: str, save_world: int, load_worlds: list[int]) -> int:
    """Number of ranks that failed."""
    failed = fork_ranks(do_save, save_world, folder, "save")
    for world in load_worlds:
        failed += fork_ranks(do_load, world, folder, f"load{world}")
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]), [int(w) for w in sys.argv[3:]]))
