"""Four processes in four network namespaces, every pair joined by a link of its own.

Ranks 0 and 1 play host h0, 2 and 3 host h1. A process has one address; the route to each other one
leads over the link of the pair, so that a fault of one link is a fault of one pair. Links are held
to a rate by a token bucket at both ends (tc tbf).
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

RANKS = 4
INSIDE, BETWEEN = "400mbit", "100mbit"
CHILD = """\
import io, json, os, sys, time
from contextlib import redirect_stdout
real_time, real_fsync = time.time, os.fsync
cores = os.sched_getaffinity(0)
from weftline.cli.main import run
import torch.distributed
for line in sys.stdin:
    asked = json.loads(line)
    os.environ.update(asked["env"])
    faults = asked["faults"]
    skew, wait = faults.get("clock_s", 0.0), faults.get("disk_s", 0.0)
    time.time = lambda: real_time() + skew
    os.fsync = lambda handle: (time.sleep(wait), real_fsync(handle))[1]
    os.sched_setaffinity(0, {min(cores)} if faults.get("core") else cores)
    said = io.StringIO()
    with redirect_stdout(said):
        code = run(asked["args"])
    sys.stdout.write(json.dumps({"code": code, "said": said.getvalue()}) + "\\n")
    sys.stdout.flush()
"""
"""One process: it runs `weftline preflight` as often as asked, so that torch is imported once. The
faults that a kernel cannot be asked for (a clock, a disk) are made here, around it."""


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
            # nic0 has the address, nic1 is a second device that can be missing.
            for nic in ("nic0", "nic1"):
                run("ip", "-n", name(rank), "link", "add", nic, "type", "veth", "peer", "name",
                    f"{nic}end")  # fmt: skip
                run("ip", "-n", name(rank), "link", "set", nic, "up")
                run("ip", "-n", name(rank), "link", "set", f"{nic}end", "up")
            run("ip", "-n", name(rank), "addr", "add", f"{address(rank)}/32", "dev", "nic0")
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
    """What is wrong: faults by place, two ranks started in each other's place, places throttled."""

    at: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    swap: tuple[int, int] | None = None
    throttled: tuple[int, ...] = ()
    options: tuple[str, ...] = ()


class Job:
    """Four processes in their namespaces, ready to run preflight again and again."""

    def __init__(self, folder: Path, plan: Path) -> None:
        self.folder, self.plan = folder, plan
        env = {**os.environ, "GLOO_SOCKET_IFNAME": "nic0", "OMP_NUM_THREADS": "1"}
        with (folder / "errors.log").open("w") as log:
            self.running = [
                subprocess.Popen(["ip", "netns", "exec", name(at), sys.executable, "-c", CHILD],
                                 env=env, text=True, stdin=subprocess.PIPE,
                                 stdout=subprocess.PIPE, stderr=log)
                for at in range(RANKS)
            ]  # fmt: skip

    def preflight(self, faults: Faults, port: int) -> dict[str, Any]:
        """The verdict as JSON."""
        places = list(range(RANKS))
        if faults.swap is not None:
            a, b = faults.swap
            places[a], places[b] = b, a
        throttles = [
            subprocess.Popen([sys.executable, "-S", "-c", THROTTLE, str(self.running[at].pid)])
            for at in faults.throttled
        ]
        try:
            for rank, at in enumerate(places):
                env = {"RANK": str(rank), "WORLD_SIZE": str(RANKS), "LOCAL_RANK": str(at % 2),
                       "MASTER_ADDR": address(places[0]), "MASTER_PORT": str(port),
                       "WEFTLINE_HOST": f"h{at // 2}", "WEFTLINE_LOCAL_RANK": str(at % 2),
                       **faults.env}  # fmt: skip
                args = ["preflight", str(self.plan), "--json", "--checkpoints", str(self.folder),
                        *faults.options]  # fmt: skip
                asked = {"env": env, "args": args, "faults": dict(faults.at.get(at, {}))}
                self._pipe(at, "stdin").write(json.dumps(asked) + "\n")
                self._pipe(at, "stdin").flush()
            said = [json.loads(self._pipe(at, "stdout").readline() or '{"code": -1, "said": ""}')
                    for at in places]  # fmt: skip
        finally:
            for throttle in throttles:
                throttle.kill()
                throttle.wait()
            for at in faults.throttled:
                os.kill(self.running[at].pid, signal.SIGCONT)
        assert said[0]["code"] in (0, 4), (said, (self.folder / "errors.log").read_text()[-3000:])
        return {"code": said[0]["code"], **json.loads(said[0]["said"])}

    def _pipe(self, at: int, which: str) -> IO[str]:
        pipe = getattr(self.running[at], which)
        assert pipe is not None
        return pipe  # type: ignore[no-any-return]

    def close(self) -> None:
        """End every process."""
        for process in self.running:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()


THROTTLE = """\
import os, signal, sys, time
pid = int(sys.argv[1])
try:  # on a busy machine the pauses are to be as long as they are meant
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))
except OSError:
    os.nice(-15)
try:
    while True:
        os.kill(pid, signal.SIGSTOP)
        time.sleep(0.045)
        os.kill(pid, signal.SIGCONT)
        time.sleep(0.005)
except ProcessLookupError:
    pass
"""
"""A host that gets a tenth of its processor."""
