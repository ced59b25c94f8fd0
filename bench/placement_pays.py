"""What the order of ranks is worth: an FSDP + TP step on two hosts of two, links 1/8 between them.

    python bench/placement_pays.py            # root, iproute2; about a minute

Four processes in network namespaces, links held by token buckets (50 MB/s inside a host, 6.25 MB/s
between). A step is what tensor parallelism over pairs and FSDP over pairs exchange: TP_RUNS
all-reduces of activations in the TP group, one all-gather and one reduction of weights in the FSDP
group. Three orders of ranks: the plan's (TP inside a host), the launcher's (the same here), and the
worst (TP across hosts). Predicted by bytes over the slowest link of each group.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

import namespaces as ns
from launchers import free_port

INSIDE, BETWEEN = 50e6, 6.25e6
TP_RUNS, ACTIVATION_BYTES, SHARD_BYTES = 32, 256 << 10, 512 << 10  # 8 layers of 4
STEP = """
import json, os, sys, time, torch, torch.distributed as dist
runs, act, shard = json.loads(sys.argv[1])
dist.init_process_group("gloo")
rank = dist.get_rank()
tp, _ = dist.new_subgroups_by_enumeration([[0, 1], [2, 3]])
dp, _ = dist.new_subgroups_by_enumeration([[0, 2], [1, 3]])
a = torch.zeros(act // 4); w = torch.zeros(shard // 4); parts = [torch.zeros_like(w) for _ in "ab"]
def step():
    for _ in range(runs):
        dist.all_reduce(a, group=tp)
    dist.all_gather(parts, w, group=dp)
    dist.all_reduce(w, group=dp)  # gloo has no reduce-scatter: the same bytes and a half more
times = []
for _ in range(6):
    dist.barrier()
    t = time.perf_counter(); step(); dist.barrier(); times.append(time.perf_counter() - t)
if rank == 0:
    print(json.dumps(times[1:]))
dist.destroy_process_group()
"""


def measured_s(places: list[int]) -> float:
    """The best of five steps, rank r in the namespace ``places[r]``."""
    port = free_port()
    running = []
    for rank, at in enumerate(places):
        env = {**os.environ, "RANK": str(rank), "WORLD_SIZE": "4", "OMP_NUM_THREADS": "1",
               "MASTER_ADDR": ns.address(places[0]), "MASTER_PORT": str(port),
               "GLOO_SOCKET_IFNAME": "nic0"}  # fmt: skip
        running.append(subprocess.Popen(
            ["ip", "netns", "exec", ns.name(at), sys.executable, "-c", STEP,
             json.dumps([TP_RUNS, ACTIVATION_BYTES, SHARD_BYTES])],
            env=env, text=True, stdout=subprocess.PIPE))  # fmt: skip
    said = [process.communicate(timeout=300)[0] for process in running]
    return float(min(json.loads(said[0])))


def predicted_s(places: list[int]) -> float:
    """Bytes over the slowest link of each group; a pair exchanges its whole buffer each way."""

    def rate(a: int, b: int) -> float:
        return INSIDE if places[a] // 2 == places[b] // 2 else BETWEEN

    tp = min(rate(0, 1), rate(2, 3))
    dp = min(rate(0, 2), rate(1, 3))
    return TP_RUNS * ACTIVATION_BYTES / tp + 2 * SHARD_BYTES / dp


def main() -> None:
    """Measure the three orders."""
    if why := ns.lacks():
        raise SystemExit(why)
    orders = {"plan": [0, 1, 2, 3], "launcher": [0, 1, 2, 3], "worst": [0, 2, 1, 3]}
    found: dict[str, float] = {}
    with ns.fabric():
        for a in range(4):
            for b in range(4):
                if a != b:
                    inside = a // 2 == b // 2
                    ns.tc(a, b, "400mbit" if inside else "50mbit", burst="16kb")
        for name, places in orders.items():
            found[name] = measured_s(places)
            print(f"{name:9} {found[name]:6.3f} s a step measured, "
                  f"{predicted_s(places):6.3f} s predicted")  # fmt: skip
    print(f"worst over plan: {found['worst'] / found['plan']:.2f} measured, "
          f"{predicted_s(orders['worst']) / predicted_s(orders['plan']):.2f} predicted; "
          f"launcher over plan: {found['launcher'] / found['plan']:.2f}")  # fmt: skip


if __name__ == "__main__":
    main()
