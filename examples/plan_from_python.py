"""A plan from Python: ask, read the numbers, place a rank, keep the file, ask what if."""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from weftline.model import load_model
from weftline.plan import default_batch, plan_train
from weftline.spec import Job
from weftline.spec.serialize import read_plan, write_plan

model = load_model("llama-3.1-8b")
job = Job(
    model="llama-3.1-8b",
    tokens=100_000_000_000,
    seq_len=8192,
    global_batch=default_batch(model, 8192),
    accelerators=("h100-sxm", "mi300x"),
    max_chips=64,
)
plan = plan_train(job)

lines = [f"{plan.cluster.chips} x {plan.cluster.accelerator}: {plan.layout.short()}"]
for name in ("step_time", "train_time", "cost"):
    e = plan.estimates[name]
    lines.append(f"{name}: {e.value:,.4g} {e.unit}, {e.low:,.4g} to {e.high:,.4g} ({e.basis})")
lines.append(f"rank 11 is {plan.rank(11)}")

# The file is what every later command takes; nothing recomputes what it says.
with tempfile.TemporaryDirectory() as folder:
    file = Path(folder) / "plan.json"
    write_plan(plan, file)
    again = read_plan(file)
lines.append(f"read again: {'the same plan' if again == plan else 'another plan'}")

# What if an H100 cost $2 an hour, and only the bill counted?
asked = replace(job, accelerators=("h100-sxm",), objective="cost")
cheap = plan_train(asked, usd_per_chip_hour=2.0)
lines.append(f"at $2/h: {cheap.cluster.chips} chips, ${cheap.estimates['cost'].value:,.0f}")
sys.stdout.write("\n".join(lines) + "\n")
