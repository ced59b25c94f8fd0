"""Requests simulated a second, and a day of Azure's traffic; beside a step-by-step simulation.

The step-by-step simulation is the plain reference of this project, run here on the same requests:
it carries out every engine iteration as Vidur and LLMServingSim do. Their own figures are quoted
(measured on 2026-11-21 on such a machine), since they need a profile of the model to run.

Run: OMP_NUM_THREADS=1 python bench/serving_simulation.py
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time

import numpy as np

from weftline.serve.engine.config import ServingConfig
from weftline.serve.engine.scheduler import scheduler
from weftline.serve.simulate.fleet import simulate
from weftline.serve.simulate.reference import Request, Setting, simulate_reference
from weftline.serve.simulate.step import surface
from weftline.serve.simulate.traffic import Traffic, at_rate, bundled, extended

VIDUR_PER_S = 850.0
LLMSERVINGSIM_PER_S = (0.76, 1.9)
DAY_REQUESTS = 500_000
CONFIG = ServingConfig(model="llama-3.1-8b", chip="h100-sxm")


def timed(traffic: Traffic, replicas: int, routing: str, repeats: int) -> float:
    """Least CPU seconds of several simulations, tables included."""
    best = float("inf")
    for _ in range(repeats):
        began = time.process_time()
        simulate(CONFIG, traffic, replicas=replicas, routing=routing)  # type: ignore[arg-type]
        best = min(best, time.process_time() - began)
    return best


def stepwise(traffic: Traffic) -> tuple[float, float]:
    """(CPU seconds of the plain reference, largest difference in end times, relative)."""
    s, how = surface(CONFIG), scheduler(CONFIG.engine)

    def step_s(chunks: object, batch: int, mean: float) -> float:
        total = batch + sum(size for size, _ in chunks)  # type: ignore[attr-defined]
        host = s.host_s + (s.prefill_host_s if chunks else 0.0)
        found = host + s.host_per_sequence_s * batch + s.token(total) + s.decode(batch, mean)
        return found + sum(s.chunk(size, behind) for size, behind in chunks)  # type: ignore[attr-defined]

    requests = [
        Request(number=i, arrived_s=float(traffic.arrived_s[i]) + s.front_end_s,
                prefill=int(traffic.prefill_tokens[i]), decode=int(traffic.decode_tokens[i]))
        for i in range(traffic.requests)
    ]  # fmt: skip
    setting = Setting(
        scheduler=how, step_s=step_s, max_seqs=CONFIG.max_batch, budget=CONFIG.chunk_tokens,
        blocks=int(s.kv_capacity_tokens // how.block_tokens),
    )  # fmt: skip
    began = time.process_time()
    simulate_reference(setting, requests)
    took = time.process_time() - began
    ours = simulate(CONFIG, traffic, routing="round-robin").finished_s
    theirs = np.array([r.finished_s for r in requests])
    return took, float(np.max(np.abs(ours / theirs - 1)))


def cold_start() -> float:
    """CPU seconds of a fresh process that simulates 100 requests from compiled code on disk."""
    code = (
        "from weftline.serve.engine.config import ServingConfig as C\n"
        "from weftline.serve.simulate.fleet import simulate\n"
        "from weftline.serve.simulate.traffic import poisson\n"
        "simulate(C(model='llama-3.1-8b', chip='h100-sxm'),"
        " poisson(5.0, 100, prefill_tokens=500, decode_tokens=50))"
    )
    before = os.times()
    subprocess.run([sys.executable, "-c", code], check=True)
    after = os.times()
    return (after.children_user - before.children_user
            + after.children_system - before.children_system)  # fmt: skip


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    conv = bundled("azure-2023-conv")
    simulate(CONFIG, extended(conv, 50))  # compile, or load what was compiled
    one = at_rate(extended(conv, 100_000), 8.0)
    one_s = timed(one, 1, "round-robin", args.repeats)
    # A day: 500,000 requests over 24 hours, on one replica and on a fleet that is routed by load.
    day = at_rate(extended(conv, DAY_REQUESTS), DAY_REQUESTS / 86400.0)
    day_s = timed(day, 1, "round-robin", 1)
    # The same requests in an hour and a half, on 16 replicas that are routed by load.
    busy_s = timed(at_rate(day, 100.0), 16, "least-loaded", 1)
    few = at_rate(extended(conv, 600), 8.0)
    step_s, apart = stepwise(few)
    per_s = one.requests / one_s
    reference_per_s = few.requests / step_s
    found = {
        "requests_per_s": per_s, "day_of_500k_s": day_s, "fleet_of_16_500k_s": busy_s,
        "stepwise_requests_per_s": reference_per_s, "times_stepwise": per_s / reference_per_s,
        "largest_difference": apart, "times_vidur": per_s / VIDUR_PER_S,
        "times_llmservingsim": per_s / LLMSERVINGSIM_PER_S[1], "cold_start_cpu_s": cold_start(),
    }  # fmt: skip
    if args.json:
        print(json.dumps(found, indent=1))
        return
    print(f"{per_s:,.0f} requests a CPU-second (Azure conversations, 8/s, one H100): "
          f"{found['times_vidur']:,.0f} x Vidur's {VIDUR_PER_S:,.0f} (quoted), "
          f"{found['times_stepwise']:,.0f} x step by step ({reference_per_s:,.0f}, run here; "
          f"end times differ by {apart:.1e} at most)")  # fmt: skip
    print(f"a day, {DAY_REQUESTS:,} requests: {day_s:.2f} CPU-s on one replica; "
          f"{busy_s:.2f} at 100/s on 16 replicas routed by load (limit 10)")  # fmt: skip
    print(f"cold start with 100 requests: {found['cold_start_cpu_s']:.2f} CPU-s")


if __name__ == "__main__":
    main()
