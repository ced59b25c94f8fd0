"""Launchers for the tests: a plan on 4 chips of 2 hosts, and a Slurm cluster on loopback."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from placed import MAP

from weftline.plan import plan_train
from weftline.spec import Job, Plan
from weftline.spec.rank_map import RankMap, runs_of
from weftline.spec.serialize import plan_to_json

_CONF = """\
ClusterName=weft
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
AuthType=auth/none
CredType=cred/none
SlurmUser=root
SlurmdUser=root
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
TopologyPlugin=topology/tree
MpiDefault=none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SlurmdParameters=config_overrides
ReturnToService=2
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/ctld.pid
SlurmctldLogFile={folder}/ctld.log
SlurmdSpoolDir={folder}/%n
SlurmdLogFile={folder}/%n.log
SlurmdPidFile={folder}/%n.pid
{nodes}
PartitionName=p Nodes=n[0-3] Default=YES State=UP
"""


def small_train_plan(chips: tuple[int, ...] = MAP, per_host: int = 2) -> Plan:
    """A real plan for four chips on two hosts, with a map that no launcher makes by itself."""
    plan = plan_train(Job(model="llama-3.2-1b", tokens=10**9, seq_len=4096, global_batch=64,
                          accelerators=("h100-sxm",), chips=len(chips)))  # fmt: skip
    shape = (len(chips),)
    own = RankMap(
        shape=shape, runs=runs_of(chips), physical={}, exchange_s=0.0, jax_s=None, basis="test"
    )
    inside, beyond = plan.cluster.levels[0], plan.cluster.levels[-1]
    levels = (replace(inside, name="host", size=per_host),
              replace(beyond, name="scale-out", kind="clos", size=len(chips)))  # fmt: skip
    cluster = replace(plan.cluster, chips_per_host=per_host, levels=levels)
    return replace(plan, cluster=cluster, rank_map=own)


def write_plan_file(folder: Path, plan: Plan | None = None) -> Path:
    """``plan.json`` of :func:`small_train_plan`, or of a plan given."""
    path = folder / "plan.json"
    path.write_text(plan_to_json(plan or small_train_plan()) + "\n", encoding="utf-8")
    return path


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def missing(*programs: str) -> str:
    """Which of the programs is not here; empty if all are."""
    return ", ".join(p for p in programs if shutil.which(p) is None)


@contextmanager
def slurm(folder: Path) -> Iterator[dict[str, str]]:
    """Four nodes of Slurm on loopback; the environment that its commands want."""
    ports = [free_port() for _ in range(5)]
    host = socket.gethostname().split(".")[0]
    nodes = "\n".join(
        f"NodeName=n{n} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[n]} CPUs=4 "
        "RealMemory=1000" for n in range(4)
    )  # fmt: skip
    conf = folder / "slurm.conf"
    conf.write_text(_CONF.format(host=host, port=ports[4], folder=folder, nodes=nodes))
    (folder / "topology.conf").write_text(
        "SwitchName=s0 Nodes=n[0-1]\nSwitchName=s1 Nodes=n[2-3]\nSwitchName=top Switches=s[0-1]\n"
    )
    (folder / "state").mkdir()
    env = {**os.environ, "SLURM_CONF": str(conf)}
    with (folder / "daemons.log").open("w") as log:
        running = [subprocess.Popen(["slurmctld", "-f", str(conf), "-D"], stdout=log, stderr=log)]
        for n in range(4):
            (folder / f"n{n}").mkdir()
            running.append(subprocess.Popen(["slurmd", "-f", str(conf), "-N", f"n{n}", "-D"],
                                            stdout=log, stderr=log))  # fmt: skip
        try:
            _wait_for_nodes(env)
            yield env
        finally:
            subprocess.run(["scancel", "--user", "root"], env=env, capture_output=True, check=False)
            for process in running:
                process.terminate()
            for process in running:
                try:
                    process.wait(timeout=10)
                except subprocess.TimeoutExpired:
                    process.kill()


def _wait_for_nodes(env: dict[str, str]) -> None:
    end = time.monotonic() + 40
    while time.monotonic() < end:
        said = subprocess.run(["sinfo", "-h", "-o", "%D %T"], env=env, capture_output=True,
                              text=True, check=False)  # fmt: skip
        if said.stdout.split() == ["4", "idle"]:
            return
        time.sleep(0.2)
    raise AssertionError(f"Slurm's nodes did not come up: {said.stdout} {said.stderr}")


def finished(env: dict[str, str], job: str, seconds: float = 60) -> str:
    """Wait until the job has ended; its state."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        said = subprocess.run(["scontrol", "-o", "show", "job", job], env=env, capture_output=True,
                              text=True, check=False).stdout  # fmt: skip
        state = said.partition("JobState=")[2].split(" ")[0]
        if state not in ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", ""):
            return state
        time.sleep(0.2)
    raise AssertionError(f"job {job} did not end: {said}")
