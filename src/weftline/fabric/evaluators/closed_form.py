"""Formulas: the time of well-known algorithms on networks where nothing is uneven.

With N chips, M bytes, one-way link b, latency a of a message to a neighbour, d axes of side k, one
half (reduce-scatter or all-gather; an all-reduce is two of them):

- ring: (N-1) a + (N-1)/N M/b; both directions at once on a ring of links: half the second term
- bucket on a torus of equal sides: d (k-1) a + (N-1)/N M/(2 d b)
- halving-doubling, all chips on one switch: log2 N a + (N-1)/N M/b
- direct: a + (N-1)/N M/b on one switch, a + M/(N b) on a full mesh
- all-to-all, direct: M k/(8 b) on a torus of even sides, M (k - 1/k)/(8 b) on one of odd sides,
  and between a and the latency of all hops (so not exact); a + (N-1)/N M/b on one switch,
  a + M/(N b) on a full mesh

Sources: nccl-tests PERFORMANCE.md (ring), Chan et al. 2007 (bucket), Thakur et al. 2005
(halving-doubling); the all-to-all forms count the hops of shortest routes.
"""

from __future__ import annotations

import math

import numpy as np

from weftline.fabric.evaluators.timing import Timing, timing_of
from weftline.fabric.graph import Topology
from weftline.fabric.orbit import OrbitSchedule
from weftline.fabric.schedule import Collective, Schedule

HALVES = ("all-reduce", "reduce-scatter", "all-gather")


def closed_form(
    topology: Topology, schedule: Schedule | OrbitSchedule, size_bytes: float
) -> Timing | None:
    """Time by formula, or None where none is exact: another algorithm, odd sides, uneven links.

    The schedule must have the steps the formula counts; what its rows say is taken on trust.
    """
    if topology.ranks < 2 or topology.failed or topology.injection_bytes_per_s is not None:
        return None
    if np.ptp(topology.bandwidth_bytes_per_s) > 0 or np.ptp(topology.latency_s) > 0:
        return None
    found = _terms(topology, schedule.collective, schedule.algorithm)
    if found is None:
        return None
    steps, bytes_per_byte = found
    halves = 2 if schedule.collective == "all-reduce" else 1
    if schedule.steps != halves * steps:
        return None
    hop_s = float(topology.latency_s[0]) * (2 if topology.switches else 1)
    link = float(topology.bandwidth_bytes_per_s[0])
    time_s = halves * (steps * hop_s + bytes_per_byte * size_bytes / link)
    every = np.full(topology.links, halves * bytes_per_byte * size_bytes)
    if _is_full_mesh(topology) and schedule.algorithm != "direct":
        return None  # only some links carry it; the other evaluators know which
    far = 0
    if schedule.collective == "all-to-all" and topology.grid is not None and not topology.switches:
        far = sum(side // 2 for side in topology.grid.shape)
    near = far <= 1 or hop_s == 0.0
    note = "" if near else f"far messages start late: up to {(far - 1) * hop_s:.3g} s more"
    return timing_of(topology, "closed-form", time_s, every, schedule.steps, exact=near, note=note)


def _terms(topology: Topology, collective: Collective, algorithm: str) -> tuple[int, float] | None:
    """(steps, bytes over each link a byte of the buffer) of one half, or of an all-to-all."""
    ranks, rest = topology.ranks, (topology.ranks - 1) / topology.ranks
    switch = topology.switches == 1 and topology.interchangeable
    if collective in HALVES:
        if algorithm == "ring" and switch:
            return ranks - 1, rest
        if algorithm == "halving-doubling" and switch and ranks & (ranks - 1) == 0:
            return int(math.log2(ranks)), rest
        if algorithm == "direct" and (switch or _is_full_mesh(topology)):
            return 1, rest if switch else 1 / ranks
        side, axes = _equal_torus(topology)
        if side > 2 and (
            algorithm == "bucket" or (algorithm == "bidirectional-ring" and axes == 1)
        ):
            return axes * (side - 1), rest / (2 * axes)
        return None
    if collective == "all-to-all" and algorithm == "direct":
        if switch or _is_full_mesh(topology):
            return 1, rest if switch else 1 / ranks
        side, _ = _equal_torus(topology)
        if side > 2:
            return 1, side / 8 if side % 2 == 0 else (side - 1 / side) / 8
    return None


def _is_full_mesh(topology: Topology) -> bool:
    ranks = topology.ranks
    return topology.switches == 0 and topology.interchangeable and (
        topology.links == ranks * (ranks - 1)
    )  # fmt: skip


def _equal_torus(topology: Topology) -> tuple[int, int]:
    """(side, axes longer than 1) of a torus whose sides are equal; (0, 0): it is none."""
    grid = topology.grid
    if grid is None or topology.switches or not grid.is_symmetric or any(grid.twist):
        return 0, 0
    sides = [side for side in grid.shape if side > 1]
    if topology.kind not in ("ring", "torus") or len(set(sides)) != 1:
        return 0, 0
    return sides[0], len(sides)
