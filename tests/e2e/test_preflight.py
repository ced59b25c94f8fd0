"""Preflight on four processes in network namespaces: every injected fault is named, none invented.

Two hosts of two ranks, 50 MB/s inside and 12.5 MB/s between them, held by token buckets in the
kernel. Where it can, the kernel makes the faults too (tc, SIGSTOP, affinity, a deleted device).
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import namespaces as ns
import pytest
from launchers import free_port, small_train_plan, write_plan_file


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ns.Job]:
    """Four processes with a plan in launcher order, on clean links."""
    if why := ns.lacks():
        pytest.skip(why)
    folder = tmp_path_factory.mktemp("preflight")
    plan = write_plan_file(folder, small_train_plan((0, 1, 2, 3)))
    with ns.fabric():
        ns.clean()
        running = ns.Job(folder, plan)
        try:
            running.preflight(ns.Faults(), free_port())  # first touches: imports, buffers, ARP
            yield running
        finally:
            running.close()


def between(rate: str, *pairs: tuple[int, int]) -> Callable[[], None]:
    """Hold these directions to a rate."""

    def hold() -> None:
        for rank, peer in pairs:
            ns.tc(rank, peer, rate)

    return hold


def capped() -> None:
    """Packets above 1,000 bytes do not pass between ranks 1 and 2: a wrong MTU without a word."""
    for rank, peer in ((1, 2), (2, 1)):
        ns.tc(rank, peer, ns.BETWEEN, burst="1000")


def unplug() -> None:
    ns.run("ip", "-n", ns.name(3), "link", "del", "nic1")


def plug() -> None:
    ns.run("ip", "-n", ns.name(3), "link", "add", "nic1", "type", "veth", "peer", "name",
           "nic1end")  # fmt: skip
    ns.run("ip", "-n", ns.name(3), "link", "set", "nic1", "up")


@dataclass
class Case:
    """A fault, what must be said of it, and nothing else."""

    kinds: set[str]
    words: tuple[str, ...]
    faults: ns.Faults = field(default_factory=ns.Faults)
    before: Callable[[], None] = lambda: None
    after: Callable[[], None] = lambda: None


CASES = {
    "slow link": Case({"slow-link"}, ("rank 0", "rank 3"),
                      before=between("20mbit", (0, 3), (3, 0))),
    "slow host": Case({"slow-host"}, ("host h1",), ns.Faults(throttled=(2, 3))),
    "swapped ranks": Case({"order"}, ("2 ranks", "rank 1 on h1"), ns.Faults(swap=(1, 2))),
    "missing NIC": Case({"missing"}, ("h1, rank 3", "nic1"), before=unplug, after=plug),
    "asymmetric path": Case({"asymmetric"}, ("rank 0 to 2",), before=between("20mbit", (0, 2))),
    "clock skew": Case({"clock"}, ("host h1", "+3."),
                       ns.Faults(at={2: {"clock_s": 3.0}, 3: {"clock_s": 3.0}})),
    "slow disk": Case({"disk"}, ("host h1",), ns.Faults(at={2: {"disk_s": 1.0}})),
    "dead store": Case({"store"}, ("does not answer",),
                       ns.Faults(options=("--store", "s3://bucket/x"), env={
                           "AWS_ENDPOINT": "http://10.77.0.200:9000", "AWS_ACCESS_KEY_ID": "a",
                           "AWS_SECRET_ACCESS_KEY": "b", "AWS_REGION": "us-east-1"})),
    "MTU-like cap": Case({"capped"}, ("rank 1", "rank 2"), before=capped),
    "one core": Case({"cores"}, ("host h1: 2 processes on 1 core",),
                     ns.Faults(at={2: {"core": True}, 3: {"core": True}})),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_an_injected_fault_is_named(job: ns.Job, name: str) -> None:
    case = CASES[name]
    case.before()
    try:
        said = job.preflight(case.faults, free_port())
    finally:
        case.after()
        ns.clean()
    text = "\n".join(f["what"] for f in said["findings"])
    assert {f["kind"] for f in said["findings"]} == case.kinds, text
    for word in case.words:
        assert word in text, text


@pytest.mark.slow
def test_twenty_clean_runs_find_nothing(job: ns.Job) -> None:
    found: list[Any] = []
    for _ in range(20):
        found += [f["what"] for f in job.preflight(ns.Faults(), free_port())["findings"]]
    assert found == [], found


@pytest.mark.slow
def test_a_slow_down_beyond_the_limit_stops_the_job(job: ns.Job) -> None:
    """The predicted step is slower with a slow link of the plan's own group, and exit 4 says so."""
    between("10mbit", *((a, b) for a in range(4) for b in range(4) if {a, b} == {0, 3}))()
    try:
        said = job.preflight(ns.Faults(options=("--max-slowdown", "1.0001")), free_port())
    finally:
        ns.clean()
    assert said["slowdown"] > 1.0001
    assert said["code"] == 4


def test_outside_a_job_it_says_how_to_run_it(tmp_path: Path) -> None:
    import os
    import sys

    env = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE")}
    done = subprocess.run([sys.executable, "-m", "weftline", "preflight"], env=env, text=True,
                          capture_output=True, check=False)  # fmt: skip
    assert done.returncode == 2
    assert "no job is around this process" in done.stderr
    assert "weftline_place.py plan.json -- -m weftline preflight" in done.stderr
