"""All-reduce of 1 GiB on cubes: our evaluators against SimGrid, run on the same schedule.

SimGrid is the oracle, not a dependency (Debian: libsimgrid-dev, and g++). Its program,
simgrid_rings.cpp, runs every colour of every chip as an actor. Printed: both answers, their
difference, the ratio of the seconds each took in this run, and the share of the bound.

Run: python bench/collectives_simgrid.py [4x4x4 8x8x8 16x16x16]
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from weftline.fabric import topologies
from weftline.fabric.algorithms import build
from weftline.fabric.bounds import bound
from weftline.fabric.evaluators import evaluate
from weftline.fabric.graph import Topology
from weftline.fabric.orbit import OrbitSchedule

GIB = 2**30
LINK_BYTES_PER_S, HOP_S = 50 * GIB, 0.5e-6
OPTIONS = ("--cfg=network/model:CM02", "--cfg=network/crosstraffic:0", "--cfg=network/TCP-gamma:0",
           "--cfg=contexts/stack-size:32", "--cfg=contexts/guard-size:0",
           "--log=root.thresh:error")  # fmt: skip


def problem(topology: Topology, orbit: OrbitSchedule, size_bytes: float) -> str:
    """The input of simgrid_rings.cpp: links, routes, and what each actor sends in each step."""
    ranks, colours, steps = topology.ranks, len(orbit.colour_share), orbit.steps
    points = orbit.grid.coordinates(np.arange(ranks))
    lines = [f"{ranks} {topology.links} {ranks * colours} {steps}"]
    pairs = zip(topology.bandwidth_bytes_per_s.tolist(), topology.latency_s.tolist(), strict=True)
    lines += [f"{speed!r} {delay!r}" for speed, delay in pairs]
    lines.append(str(topology.links))
    ends = zip(topology.source.tolist(), topology.destination.tolist(), strict=True)
    lines += [f"{a} {b} {link}" for link, (a, b) in enumerate(ends)]
    for colour in range(colours):
        rows = np.flatnonzero(orbit.colour == colour)
        if not np.array_equal(orbit.step[rows], np.arange(steps)):
            raise SystemExit("the oracle runs schedules of one message a chip, colour and step")
        to = [orbit.grid.rank(points + orbit.offset[row]) + colour * ranks for row in rows]
        table, sent = np.stack(to, axis=1).tolist(), (orbit.fraction[rows] * size_bytes).tolist()
        for rank in range(ranks):
            moves = " ".join(f"{d} {b!r}" for d, b in zip(table[rank], sent, strict=True))
            lines.append(f"{rank} {moves}")
    return "\n".join(lines)


def main() -> None:
    """Print one line a cube."""
    shapes = sys.argv[1:] or ["4x4x4", "8x8x8", "16x16x16"]
    compiler = shutil.which("g++")
    if compiler is None:
        raise SystemExit("no g++: apt-get install g++ libsimgrid-dev")
    source = Path(__file__).with_name("simgrid_rings.cpp")
    found = []
    with tempfile.TemporaryDirectory() as folder:
        program = str(Path(folder) / "rings")
        subprocess.run([compiler, "-O2", "-std=c++17", str(source), "-lsimgrid", "-o", program],
                       check=True)  # fmt: skip
        for text in shapes:
            shape = tuple(int(side) for side in text.split("x"))
            cube = topologies.torus(shape, LINK_BYTES_PER_S, HOP_S)
            orbit = build(cube, "all-reduce", "bucket")
            if not isinstance(orbit, OrbitSchedule):
                raise SystemExit(f"{text} is no torus")
            begin = time.perf_counter()
            ours = evaluate(cube, orbit, GIB, "orbit")
            mine_s = time.perf_counter() - begin
            given = problem(cube, orbit, GIB)
            begin = time.perf_counter()
            done = subprocess.run([program, *OPTIONS], input=given, capture_output=True,
                                  text=True, check=True)  # fmt: skip
            theirs_s = time.perf_counter() - begin
            theirs = float(done.stdout)
            share = bound(cube, "all-reduce", GIB).time_s / ours.time_s
            print(
                f"{text}: ours {ours.time_s * 1e3:.6f} ms in {mine_s * 1e3:.1f} ms, SimGrid "
                f"{theirs * 1e3:.6f} ms in {theirs_s:.1f} s; differ by "
                f"{abs(ours.time_s / theirs - 1):.1e}; {theirs_s / mine_s:,.0f} x as fast; "
                f"{share:.2%} of the bound"
            )
            found.append({"shape": text, "ours_s": ours.time_s, "simgrid_s": theirs,
                          "speedup": theirs_s / mine_s, "share_of_bound": share})  # fmt: skip
    print(json.dumps(found))


if __name__ == "__main__":
    main()
