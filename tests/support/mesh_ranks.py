"""One process of the mesh test: a DeviceMesh in an order of its own, and what its groups say."""

from __future__ import annotations

import json
import os
import sys

import torch
import torch.distributed as dist

from weftline.launch import mesh

plan, out = sys.argv[1:3]
dist.init_process_group("gloo")
rank = dist.get_rank()
order = [2, 0, 3, 1]
made = mesh(plan, order=order, device="cpu")
said = {"coordinate": list(made.get_coordinate()), "names": list(made.mesh_dim_names)}
for axis in made.mesh_dim_names:
    group = made.get_group(axis)
    mine = torch.full((1,), float(rank))
    all_ = [torch.zeros(1) for _ in range(dist.get_world_size(group))]
    dist.all_gather(all_, mine, group=group)
    said[axis] = [int(t.item()) for t in all_]
    said[f"{axis}_rank"] = dist.get_group_rank(group, rank)
with open(os.path.join(out, f"{rank}.json"), "w") as file:  # noqa: PTH118, PTH123
    json.dump(said, file)
dist.destroy_process_group()
