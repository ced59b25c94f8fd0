"""Collectives at scale: 65,536 chips whole and with 16 dead cables, and synthesis against bounds.

Every line gives an answer, its share of (or ratio to) a bound that is proved, and what it took:
seconds of this process and its peak memory. The limits are those asked of the network layer.

Run: python bench/collectives_scale.py
"""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Callable

import numpy as np

from weftline.fabric import topologies
from weftline.fabric.algorithms import build
from weftline.fabric.bounds import bound
from weftline.fabric.checker import check, check_orbit
from weftline.fabric.evaluators import evaluate, fair_rates
from weftline.fabric.failures import fail_links
from weftline.fabric.graph import FloatArray, Topology
from weftline.fabric.orbit import OrbitSchedule
from weftline.fabric.routing import Routes, routes
from weftline.fabric.synthesis import synthesize

GIB = 2**30
LINK_BYTES_PER_S, HOP_S = 50 * GIB, 0.5e-6
TACOS_RATIO = {"4x4x4": 1.049, "8x8x8": 1.023}
"""Quoted (measured on such a machine on 2026-11-21, in 0.006 s and 5.3 s)."""


def timed(call: Callable[[], object]) -> tuple[object, float, float]:
    """(answer, wall seconds, CPU seconds)."""
    wall, used = time.perf_counter(), time.process_time()
    answer = call()
    return answer, time.perf_counter() - wall, time.process_time() - used


def cube(*shape: int) -> Topology:
    """A torus with the links of the comparison."""
    return topologies.torus(shape, LINK_BYTES_PER_S, HOP_S)


def warm_up() -> None:
    """Compile what is compiled before anything is timed."""
    small = fail_links(cube(4, 4, 4), 1)
    for collective in ("all-reduce", "all-to-all"):
        name = "bucket" if collective == "all-reduce" else "direct"
        for how in ("steps", "flow"):
            evaluate(small, build(small, collective, name), 1e6, how)
    synthesize(small, "all-reduce", 1e6)


def at_scale() -> list[dict[str, object]]:
    """All-reduce and all-to-all of 1 GiB, whole and broken."""
    found: list[dict[str, object]] = []
    whole = cube(32, 32, 64)
    cases = [
        (cube(16, 16, 16), "all-reduce", "bucket", 0.1),
        (whole, "all-reduce", "bucket", 1.0),
        (whole, "all-to-all", "direct", 5.0),
    ]
    broken = fail_links(whole, 16, seed=0)
    cases += [(broken, "all-reduce", "bucket", 30.0), (broken, "all-to-all", "direct", 30.0)]
    for network, collective, algorithm, limit_s in cases:

        def ask(n=network, c=collective, a=algorithm):
            return evaluate(n, build(n, c, a), GIB)

        timing, wall_s, cpu_s = timed(ask)
        share = bound(network, collective, GIB).time_s / timing.time_s
        print(
            f"{network.name} {collective}: {timing.time_s * 1e3:.4f} ms by {timing.evaluator} "
            f"({'exact' if timing.exact else 'estimate'}), {share:.2%} of the bound, in "
            f"{wall_s:.3f} s ({cpu_s:.3f} s CPU; asked for: {limit_s:g} s)"
        )
        found.append({"network": network.name, "collective": collective, "time_s": timing.time_s,
                      "share_of_bound": share, "wall_s": wall_s, "cpu_s": cpu_s})  # fmt: skip
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"peak memory {peak:.2f} GiB (asked for: 4)")
    return found


def sharing() -> list[dict[str, object]]:
    """Max-min fair rates of 65,536 flows between random chips, beside plain NumPy in this run."""
    whole = cube(32, 32, 64)
    chips = np.arange(whole.ranks)
    to = np.random.default_rng(0).permutation(whole.ranks)
    fair_rates(whole, chips, to)
    taken = routes(whole, chips, to)
    _, _, routing_s = timed(lambda: routes(whole, chips, to))
    rate, _, both_s = timed(lambda: fair_rates(whole, chips, to))
    plain, _, plain_s = timed(lambda: plain_filling(whole, taken))
    worst = float(np.abs(np.asarray(rate) / np.asarray(plain) - 1).max())
    fill_s = max(both_s - routing_s, 1e-9)
    print(
        f"{len(taken.links):,} flow-link pairs: routed in {routing_s:.2f} s, shared out in "
        f"{fill_s:.2f} s CPU, plain NumPy {plain_s:.2f} s ({plain_s / fill_s:.1f} x); rates "
        f"differ by {worst:.0e}"
    )
    return [{"pairs": len(taken.links), "fill_s": fill_s, "numpy_s": plain_s}]


def plain_filling(network: Topology, taken: Routes) -> FloatArray:
    """Progressive filling as arrays: every round stops all flows of the links that fill first."""
    flow = np.repeat(np.arange(len(taken.latency_s)), np.diff(taken.start))
    rate = np.full(len(taken.latency_s), np.inf)
    left, rising = network.bandwidth_bytes_per_s.copy(), np.ones(len(flow), dtype=bool)
    while rising.any():
        total = np.bincount(taken.links[rising], taken.weights[rising], network.links)
        level = np.where(total > 1e-9, left / np.maximum(total, 1e-9), np.inf)
        # A link is a bottleneck if it is the tightest of all links of some flow that crosses it.
        least = np.full(len(rate), np.inf)
        np.minimum.at(least, flow[rising], level[taken.links[rising]])
        nearest = np.full(network.links, np.inf)
        np.minimum.at(nearest, taken.links[rising], least[flow[rising]])
        tight = level <= nearest * (1 + 1e-12)
        stops = np.unique(flow[rising & tight[taken.links] & (least[flow] < np.inf)])
        stopped = np.zeros(len(rate), dtype=bool)
        stopped[stops] = True
        rate[stops] = least[stops]
        gone = rising & stopped[flow]
        used = np.bincount(taken.links[gone], taken.weights[gone] * rate[flow[gone]], network.links)
        left, rising = np.maximum(left - used, 0.0), rising & ~gone
    return rate


def synthesis() -> list[dict[str, object]]:
    """Schedules made for a network, proved, against the bound of any schedule."""
    found: list[dict[str, object]] = []
    broken = [fail_links(cube(4, 4, 4), 2, seed) for seed in range(3)]
    cases = [(cube(4, 4, 4), "all-gather"), (cube(8, 8, 8), "all-gather"),
             (cube(8, 8, 8), "all-reduce"), *((n, "all-reduce") for n in broken),
             (fail_links(cube(8, 8, 8), 3, 0), "all-reduce"),
             (topologies.torus((4, 4, 4), [128e9, 128e9, 64e9], 1.5e-6), "all-reduce"),
             (topologies.mesh((4, 4, 4), LINK_BYTES_PER_S, HOP_S), "all-reduce"),
             (topologies.switch(8, LINK_BYTES_PER_S, HOP_S), "all-reduce"),
             (topologies.hammingmesh((2, 2), (2, 2), LINK_BYTES_PER_S, HOP_S), "all-reduce"),
             (topologies.dragonfly(2, 2, 1, LINK_BYTES_PER_S, HOP_S), "all-reduce")]  # fmt: skip
    for network, collective in cases:
        made, wall_s, cpu_s = timed(lambda n=network, c=collective: synthesize(n, c, GIB))
        schedule = made.schedule
        if isinstance(schedule, OrbitSchedule):
            check_orbit(schedule, network)
        else:
            check(schedule, network)
        two = made.bound.two_phase_s
        against = (
            "" if two is None else f", {made.timing.time_s / two:.4f} x the equal-share optimum"
        )
        quoted = TACOS_RATIO.get(network.name.removeprefix("torus:"))
        if collective != "all-gather":
            quoted = None
        peer = f" (TACOS: {quoted})" if quoted else ""
        print(
            f"synthesis {network.name} {collective}: {made.ratio_to_bound:.4f} x the bound{peer}"
            f"{against}, proved, {schedule.rows:,} rows, in {wall_s:.2f} s ({cpu_s:.2f} s CPU)"
        )
        found.append({"network": network.name, "collective": collective, "wall_s": wall_s,
                      "ratio_to_bound": made.ratio_to_bound, "cpu_s": cpu_s})  # fmt: skip
    return found


def main() -> None:
    """Print all lines, then the same as JSON."""
    warm_up()
    print(json.dumps(at_scale() + sharing() + synthesis()))


if __name__ == "__main__":
    main()
