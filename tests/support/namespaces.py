"""Four processes in four network namespaces, every pair joined by a link of its own.

Ranks 0 and 1 play host h0, 2 and 3 host h1. A process has one address; the route to each other one
leads over the link of the pair, so that a fault of one link is a fault of one pair. Links are held
to a rate by a token bucket at both ends (tc tbf).
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RANKS = 4
INSIDE, BETWEEN = "800mbit", "200mbit"
WRAP = """\
import os, sys, time
skew = float(os.environ.get("FAULT_CLOCK_S", "0"))
if skew:
    real = time.time
    time.time = lambda: real() + skew
slow = float(os.environ.get("FAULT_DISK_S", "0"))
if slow:
    flush = os.fsync
    def fsync(handle):
        time.sleep(slow)
        flush(handle)
    os.fsync = fsync
cores = os.environ.get("FAULT_CORE")
if cores:
    os.sched_setaffinity(0, {int(cores)})
from weftline.cli.main import run
sys.exit(run(sys.argv[1:]))
"""
"""Faults that a kernel cannot be asked for: a clock, a disk. The preflight under it is unchanged."""


def lacks() -> str:
    """Why namespaces cannot be had here; empty if they can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    for program in ("ip", "tc"):
        if shutil.which(program) is None:
            return f"{program} is not installed (iproute2)"
    tried = subprocess.run(
        ["unshare", "-n", "sh", "-c", "ip link set lo up && "
         "tc qdisc add dev lo root tbf rate 100mbit burst 64kb latency 100ms"],
        capture_output=True, check=False,
    )  # fmt: skip
    return "" if tried.returncode == 0 else "the kernel has no token bucket (tc tbf)"


def tc(rank: int, peer: int, rate: str, *, burst: str = "32kb") -> None:
    """Hold what ``rank`` sends to ``peer`` to a rate."""
    run("ip", "netns", "exec", name(rank), "tc", "qdisc", "replace", "dev", f"l{peer}", "root",
        "tbf", "rate", rate, "burst", burst, "latency", "200ms")  # fmt: skip


def run(*command: str) -> None:
    """Run, or say what went wrong."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (command, done.stderr)


def name(rank: int) -> str:
    return f"weft{os.getpid()}n{rank}"


def address(rank: int) -> str:
    return f"10.77.0.{rank + 1}"


@contextmanager
def fabric() -> Iterator[None]:
    """The namespaces with their links; gone afterwards."""
    try:
        for rank in range(RANKS):
            run("ip", "netns", "add", name(rank))
            run("ip", "-n", name(rank), "link", "set", "lo", "up")
            run("ip", "-n", name(rank), "addr", "add", f"{address(rank)}/32", "dev", "lo")
            run(
                "ip", "-n", name(rank), "link", "add", "nic1", "type", "veth", "peer", "name", "end"
            )
        for a, b in itertools.combinations(range(RANKS), 2):
            run("ip", "link", "add", f"l{b}", "netns", name(a), "type", "veth", "peer", "name",
                f"l{a}", "netns", name(b))  # fmt: skip
            for rank, peer in ((a, b), (b, a)):
                run("ip", "-n", name(rank), "link", "set", f"l{peer}", "up")
                run("ip", "-n", name(rank), "route", "add", f"{address(peer)}/32", "dev",
                    f"l{peer}", "src", address(rank))  # fmt: skip
        yield
    finally:
        for rank in range(RANKS):
            subprocess.run(["ip", "netns", "del", name(rank)], capture_output=True, check=False)


def clean() -> None:
    """Every link as it should be, every process with both of its devices."""
    for a, b in itertools.permutations(range(RANKS), 2):
        tc(a, b, INSIDE if a // 2 == b // 2 else BETWEEN)


@dataclass
class Faults:
    """What is wrong with each process: variables by rank, places swapped, a rank throttled."""

    env: Mapping[int, Mapping[str, str]] = field(default_factory=dict)
    swap: tuple[int, int] | None = None
    throttled: tuple[int, ...] = ()
    options: tuple[str, ...] = ()


def preflight(folder: Path, plan: Path, faults: Faults, port: int) -> dict[str, Any]:
    """The verdict of four real processes as JSON."""
    wrap = folder / "wrap.py"
    wrap.write_text(WRAP)
    places = list(range(RANKS))
    if faults.swap is not None:
        a, b = faults.swap
        places[a], places[b] = b, a
    running = []
    for rank in range(RANKS):
        at = places[rank]
        env = {
            **os.environ, "RANK": str(rank), "WORLD_SIZE": str(RANKS), "LOCAL_RANK": str(at % 2),
            "MASTER_ADDR": address(places[0]), "MASTER_PORT": str(port),
            "WEFTLINE_HOST": f"h{at // 2}", "WEFTLINE_LOCAL_RANK": str(at % 2),
            "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", **faults.env.get(at, {}),
        }  # fmt: skip
        command = ["ip", "netns", "exec", name(at), sys.executable, str(wrap), "preflight",
                   str(plan), "--json", "--checkpoints", str(folder), *faults.options]  # fmt: skip
        running.append(subprocess.Popen(command, env=env, text=True, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE))  # fmt: skip
    throttles = [
        subprocess.Popen([sys.executable, "-S", "-c", THROTTLE, str(running[rank].pid)])
        for rank in faults.throttled
    ]
    try:
        said = [process.communicate(timeout=100) for process in running]
    finally:
        for throttle in throttles:
            throttle.kill()
            throttle.wait()
    codes = [process.returncode for process in running]
    assert codes[0] in (0, 4), said
    return {"code": codes[0], **json.loads(said[0][0])}


THROTTLE = """\
import os, signal, sys, time
pid = int(sys.argv[1])
try:
    while True:
        os.kill(pid, signal.SIGSTOP)
        time.sleep(0.024)
        os.kill(pid, signal.SIGCONT)
        time.sleep(0.006)
except ProcessLookupError:
    pass
"""
"""A host that gets a fifth of its processor."""
