"""One process of bench/placement_pays.py: steps of FSDP over TP on torch's own parallel modules.

Takes sizes as JSON (layers, width, tokens, steps), then a line for every order of ranks.
"""

from __future__ import annotations

import json
import os
import sys
import time

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)


class Block(nn.Module):
    """Two pairs of matrices as attention and the feed-forward part have them: one all-reduce each
    way a pair."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up_a, self.down_a = (nn.Linear(width, width, bias=False) for _ in "ab")
        self.up_b, self.down_b = (nn.Linear(width, width, bias=False) for _ in "ab")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[tokens, width] to the same."""
        x = x + self.down_a(torch.relu(self.up_a(x)))
        return x + self.down_b(torch.relu(self.up_b(x)))


def steps_s(layers: int, width: int, tokens: int, steps: int) -> list[float]:
    """Build over the process group that is there, warm up, time."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
    torch.manual_seed(0)
    model = nn.Sequential(*(Block(width) for _ in range(layers)))
    for block in model:
        cut = {f"{way}_{pair}": kind() for pair in "ab"
               for way, kind in (("up", ColwiseParallel), ("down", RowwiseParallel))}  # fmt: skip
        parallelize_module(block, mesh["tp"], cut)
        fully_shard(block, mesh=mesh["dp"])
    fully_shard(model, mesh=mesh["dp"])
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    x = torch.randn(tokens, width, generator=torch.Generator().manual_seed(mesh.get_local_rank(0)))
    times = []
    for _ in range(steps + 1):
        dist.barrier()
        began = time.perf_counter()
        model(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        dist.barrier()
        times.append(time.perf_counter() - began)
    return times[1:]


def main() -> None:
    """For every line that comes (the rank, and where rank 0 is), one job in a process of its own
    (torch is imported once); its times as a line."""
    sizes = json.loads(sys.argv[1])
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            os.environ.update(json.loads(line))
            dist.init_process_group("gloo")
            times = steps_s(*sizes)
            os.write(1, (json.dumps(times) + "\n").encode())
            dist.destroy_process_group()
            os._exit(0)
        os.waitpid(child, 0)


if __name__ == "__main__":
    main()
