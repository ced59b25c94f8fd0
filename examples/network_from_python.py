"""A network from Python: build it, break it, time a collective on it, and prove the schedule."""

from __future__ import annotations

import sys

from weftline.fabric import bound, build, check, evaluate
from weftline.fabric.checker import check_orbit
from weftline.fabric.failures import fail_links
from weftline.fabric.orbit import OrbitSchedule
from weftline.fabric.parse import parse_topology
from weftline.fabric.synthesis import synthesize

SIZE_BYTES = 1e9

for text in ("torus:4x4x4,link=100GB/s,latency=1us", "trn2-ultraserver", "h100-clos:1024"):
    network = parse_topology(text)
    algorithm = "hierarchical" if network.kind == "nested" else "bucket"
    schedule = build(network, "all-reduce", algorithm, pieces=8)
    proof = check_orbit(schedule) if isinstance(schedule, OrbitSchedule) else check(schedule)
    timing = evaluate(network, schedule, SIZE_BYTES)
    least = bound(network, "all-reduce", SIZE_BYTES)
    sys.stdout.write(
        f"{text}: {network.ranks:,} chips, {algorithm} {timing.time_s * 1e3:.2f} ms "
        f"({least.time_s / timing.time_s:.0%} of the bound), "
        f"{proof.rows:,} rows proved{' by symmetry' if proof.by_symmetry else ''}\n"
    )

broken = fail_links(parse_topology("torus:4x4,link=100GB/s,latency=1us"), 1, seed=0)
made = synthesize(broken, "all-reduce", SIZE_BYTES)
sys.stdout.write(
    f"without one cable: {made.timing.time_s * 1e3:.2f} ms, {made.ratio_to_bound:.3f} x its bound\n"
)
