"""A fleet to serve a model, from Python: ask, read the numbers, keep the file, play requests."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

from weftline.serve.engine.config import ServingConfig
from weftline.serve.search.plan import plan_serve
from weftline.serve.simulate.fleet import simulate
from weftline.serve.simulate.traffic import poisson
from weftline.spec import ServeJob, ServeSpace, Target
from weftline.spec.serialize import read_any_plan, write_plan

asked = ServeJob(
    model="llama-3.1-8b",
    targets=(
        Target(metric="ttft", percentile=99, limit_s=0.5),
        Target(metric="tpot", percentile=50, limit_s=0.03),
    ),
    rate_per_s=20.0,
    input_tokens=1000,
    output_tokens=200,
    space=ServeSpace(chips=("h100-sxm", "l40s"), formats=("bf16",), max_replica_chips=1),
)
plan = plan_serve(asked)

fleet = plan.fleet
lines = [f"{fleet.replicas} x {fleet.chips_per_replica} {fleet.accelerator}, {fleet.engine}"]
for name in ("ttft_p99", "tpot_p50", "cost_per_hour", "cost_per_m_output"):
    e = plan.estimates[name]
    lines.append(f"{name}: {e.value:,.4g} {e.unit}, {e.low:,.4g} to {e.high:,.4g} ({e.basis})")
lines += [f"why: {plan.why[0]}", f"what would flip it: {plan.flips[0]}"]

# The file is what every later command takes; nothing recomputes what it says.
with tempfile.TemporaryDirectory() as folder:
    file = Path(folder) / "plan.json"
    write_plan(plan, file)
    again = read_any_plan(file)
lines.append(f"read again: {'the same plan' if again == plan else 'another plan'}")

# One replica of it, request by request, with more and more to do.
config = ServingConfig(
    model=asked.model,
    chip=fleet.accelerator,
    engine=fleet.engine,
    max_batch=fleet.max_batch,
    chunk_tokens=fleet.chunk_tokens,
)
for rate in (2.0, 8.0, 32.0):
    requests = poisson(rate, 500, prefill_tokens=1000, decode_tokens=200, seed=0)
    ttft_s = np.percentile(simulate(config, requests).ttft_s, 99)
    lines.append(f"one replica at {rate:g}/s: 99 of 100 first tokens within {ttft_s:.3f} s")
sys.stdout.write("\n".join(lines) + "\n")
