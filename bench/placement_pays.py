"""What the order of ranks is worth: an FSDP + TP step on two hosts of two, links 1/8 between them.

    python bench/placement_pays.py            # root, iproute2; about a minute

Four processes in network namespaces, links held by token buckets (50 MB/s inside a host, 6.25 MB/s
between). The step is real: torch's parallel modules and fully_shard over gloo
(bench/placement_step.py). The plan is the planner's own for four chips on hosts of two, tp 2 and
dp 2, with its rank map; beside it the two orders that launchers have by default (host by host, and
in turn over hosts, as Slurm's cyclic distribution and a hostfile without slots do) and the worst of
all 24. Predicted: bytes that a rank of each group sends over the group's slowest link, beside the
step on links that are not held.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

import namespaces as ns
from launchers import free_port

from weftline.launch.place import chips_of
from weftline.plan import job_of, plan_train
from weftline.spec.options import JobOptions
from weftline.spec.serialize import plan_to_json

INSIDE, BETWEEN = 50e6, 6.25e6
LAYERS, WIDTH, TOKENS, STEPS = 4, 128, 1024, 6
STEP = Path(__file__).with_name("placement_step.py")


def planned() -> list[int]:
    """Chip of every rank by the planner's map: hosts of two chips, tp 2 and dp 2."""
    options = JobOptions(
        tokens="1B", on="h100-sxm", chips="4", global_batch="64", seq="4096",
        chip_set="h100-sxm.chips_per_host=2,h100-sxm.scale_up_domain=2", layout="tp=2,dp=2,pp=1",
    )  # fmt: skip
    return chips_of(json.loads(plan_to_json(plan_train(job_of("llama-3.2-1b", options)))))


def processes() -> list[subprocess.Popen[str]]:
    """One in each namespace, ready to be any rank."""
    env = {**os.environ, "WORLD_SIZE": "4", "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "nic0",
           "TORCH_CPP_LOG_LEVEL": "ERROR"}  # fmt: skip
    return [subprocess.Popen(
        ["ip", "netns", "exec", ns.name(at), sys.executable, str(STEP),
         json.dumps([LAYERS, WIDTH, TOKENS, STEPS])],
        env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for at in range(4)]  # fmt: skip


def measured_s(running: list[subprocess.Popen[str]], places: list[int]) -> float:
    """The best of the steps, rank r in the namespace ``places[r]``."""
    port = str(free_port())
    for rank, at in enumerate(places):
        said = {"RANK": str(rank), "MASTER_ADDR": ns.address(places[0]), "MASTER_PORT": port}
        stdin = running[at].stdin
        assert stdin is not None
        stdin.write(json.dumps(said) + "\n")
        stdin.flush()
    lines = [process.stdout.readline() for process in running if process.stdout is not None]
    return float(min(json.loads(lines[places[0]])))


def exchanged_s(places: tuple[int, ...]) -> float:
    """Bytes over the slowest link of each group; of two ranks each sends the other's half."""

    def rate(a: int, b: int) -> float:
        return INSIDE if places[a] // 2 == places[b] // 2 else BETWEEN

    tp = min(rate(0, 1), rate(2, 3))
    dp = min(rate(0, 2), rate(1, 3))
    reduced = 4 * TOKENS * WIDTH * 4  # two pairs of matrices, forward and backward
    weights = 4 * WIDTH * WIDTH * 4 / 2  # of a block, this rank's half by TP
    return LAYERS * (reduced / tp + 3 * weights / 2 / dp)  # gathered twice, reduced once


def main() -> None:
    """Measure the orders."""
    if why := ns.lacks():
        raise SystemExit(why)
    worst = max(itertools.permutations(range(4)), key=exchanged_s)
    orders = {"plan": planned(), "host by host": [0, 1, 2, 3], "in turn": [0, 2, 1, 3],
              "worst": list(worst)}  # fmt: skip
    found: dict[str, float] = {}
    with ns.fabric():
        running = processes()
        alone = measured_s(running, [0, 1, 2, 3])
        print(f"{'links free':13} {alone:6.3f} s a step")
        for a, b in itertools.permutations(range(4), 2):
            ns.tc(a, b, "400mbit" if a // 2 == b // 2 else "50mbit", burst="16kb")
        for name, places in orders.items():
            found[name] = measured_s(running, places)
            said = alone + exchanged_s(tuple(places))
            print(f"{name:13} {found[name]:6.3f} s a step measured, {said:6.3f} s predicted "
                  f"(ranks at {places})", flush=True)  # fmt: skip
    for process in running:
        process.kill()
    for name in list(orders)[1:]:
        said = (alone + exchanged_s(tuple(orders[name]))) / (alone + exchanged_s(
            tuple(orders["plan"])))  # fmt: skip
        print(f"{name} over plan: {found[name] / found['plan']:.2f} measured, {said:.2f} predicted")
    sys.exit(int(found["worst"] < 1.5 * found["plan"]))


if __name__ == "__main__":
    main()
