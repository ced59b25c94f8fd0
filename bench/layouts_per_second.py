"""Training layouts evaluated a second on one core, memory and feasibility included.

Prints the ratio to llm-analysis 0.2.2 run beside it where it is installed (give its Python with
--peer), else to the figure of PEERS measured on such a machine, and says which.

Run: OMP_NUM_THREADS=1 python bench/layouts_per_second.py
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import time
from pathlib import Path

import numpy as np

from weftline.fabric import cluster_of
from weftline.model import load_model
from weftline.plan.calibrate.calibration import constants_for
from weftline.plan.search.search import CHUNK
from weftline.plan.step.columns import Layouts
from weftline.plan.step.compiled import compile_layouts
from weftline.plan.step.frameworks import framework
from weftline.plan.step.layouts import concatenate, enumerate_layouts
from weftline.plan.step.memory import count_memory, recomputed
from weftline.plan.step.timing import time_step

CALCULON_PER_S = (160.0, 325.0)
"""Calculon's optimal-execution search on two cores, loaded and idle, as measured on 2026-11-21."""
PEER = """
import time
from llm_analysis.analysis import train
start = time.perf_counter()
count = 0
while time.perf_counter() - start < 3.0:
    train(model_name="facebook_opt-175b", gpu_name="a100-sxm-80gb", batch_size_per_gpu=1,
          total_num_gpus=1024, tp_size=8, pp_size=8, seq_len=2048, log_level="ERROR")
    count += 1
print(count / (time.perf_counter() - start))
"""


def layouts_for_bench(repeats: int) -> tuple[object, object, object, Layouts]:
    """Every legal layout of Llama 3.1 405B on 16,384 H100s over several batches, repeated."""
    model, frame = load_model("llama-3.1-405b"), framework("megatron-core")
    cluster = cluster_of("h100-sxm", 16384)
    parts = [
        enumerate_layouts(model, cluster, frame, global_batch=batch, seq_len=8192)
        for batch in (1024, 1536, 2048, 3072, 4096)
    ]
    return model, frame, cluster, concatenate(parts * repeats)


def evaluate(model, frame, cluster, layouts: Layouts) -> float:  # type: ignore[no-untyped-def]
    """Seconds for memory, recomputation, feasibility and step time of all layouts."""
    constants = constants_for("h100-sxm", "megatron-core").constants
    start = time.process_time()
    for first in range(0, len(layouts), CHUNK):
        part = layouts.take(np.arange(first, min(first + CHUNK, len(layouts))))
        counted = count_memory(model, frame, part, seq_len=8192)
        part = recomputed(part, counted, capacity_bytes=80e9)
        total = counted.totals(part).max(axis=0)
        _ = total <= 80e9
        compiled = compile_layouts(model, cluster, frame, part, seq_len=8192, precision="bf16")
        time_step(compiled, constants)
    return time.process_time() - start


def main() -> None:
    """Print layouts a second and the ratio to a peer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", help="Python of an environment with llm-analysis 0.2.2")
    arguments = parser.parse_args()
    model, frame, cluster, layouts = layouts_for_bench(repeats=200)
    evaluate(model, frame, cluster, layouts.take(np.arange(CHUNK)))
    ours = max(len(layouts) / evaluate(model, frame, cluster, layouts) for _ in range(3))
    print(f"layouts: {len(layouts):,}  a second on one core: {ours:,.0f}")
    print(f"ratio to Calculon's {CALCULON_PER_S[1]:g}/s (quoted): {ours / CALCULON_PER_S[1]:,.0f}x")
    if arguments.peer and Path(arguments.peer).exists():
        done = subprocess.run([arguments.peer, "-c", PEER], capture_output=True, text=True,
                              check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})  # fmt: skip
        peer = float(done.stdout.split()[-1])
        print(f"llm-analysis in this run: {peer:,.0f}/s, ratio {ours / peer:,.0f}x")
    print(json.dumps({"layouts_per_s": ours}))


if __name__ == "__main__":
    main()
