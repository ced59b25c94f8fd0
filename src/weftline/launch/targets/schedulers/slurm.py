"""Slurm: an sbatch script, nodes by count or by name, blocks, requeue, a last checkpoint."""

from __future__ import annotations

import math
import re

from weftline.errors import InputError
from weftline.launch.nouns import Ask, Mapped, Target, Written
from weftline.launch.place import slots_of
from weftline.launch.targets.job import FABRIC, PORT, PREFLIGHT, job_of
from weftline.spec import Plan

_HEAD = """\
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
# By the address Slurm knows: a node's name need not be in the DNS.
addr=$(scontrol -o show node "$head" | sed -n 's/.* NodeAddr=\\([^ ]*\\).*/\\1/p')
"""
_WAIT = """\
{srun} &
step=$!
ending=""
# Before the end: the trainer writes a last checkpoint on {signal}, then the job starts again.
trap 'ending=yes; scancel --signal={signal} "$SLURM_JOB_ID"' USR1
wait "$step" || code=$?
while kill -0 "$step" 2>/dev/null; do code=0; wait "$step" || code=$?; done
if [ -n "$ending" ]; then scontrol requeue "$SLURM_JOB_ID"; fi
exit "${{code:-0}}"
"""


def _version(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d\d)\.(\d\d)", text)
    if found is None:
        raise InputError(f"`{text}` is no Slurm version", where="--set slurm", hint="22.05, 25.05")
    return int(found[1]), int(found[2])


def _time(seconds: float) -> str:
    """``days-hours:minutes:00``, rounded up."""
    minutes = math.ceil(seconds / 60)
    return f"{minutes // 1440}-{minutes // 60 % 24:02d}:{minutes % 60:02d}:00"


def _header(ask: Ask, plan: Plan) -> tuple[list[str], list[str]]:
    """The #SBATCH lines, and what the version has no words for."""
    notes: list[str] = []
    low, _ = plan.estimates["train_time"].low, plan.estimates["train_time"].high
    lines = [
        f"--job-name={ask.name}", f"--nodes={ask.nodes}", f"--ntasks-per-node={ask.per_host}",
        "--output=%x-%j.out", "--open-mode=append", "--requeue",
        f"--time={ask.set('time') or _time(plan.estimates['train_time'].high)}",
        f"--signal=B:USR1@{ask.set('warning_s')}",
    ]  # fmt: skip
    if low <= 0:
        raise InputError("the plan's training time is not positive", where="plan")
    if ask.set("exclusive") != "no":
        lines.append("--exclusive")
    if ask.set("gres") != "none":
        lines.append(f"--gres={ask.set('gres') or f'gpu:{ask.per_host}'}")
    for name in ("partition", "account", "qos", "reservation"):
        if ask.set(name):
            lines.append(f"--{name}={ask.set(name)}")
    if ask.hosts:
        lines.append(f"--nodelist={','.join(ask.hosts)}")
    domain, version = ask.domain_nodes, _version(ask.set("slurm"))
    if domain > 1:
        if version >= (23, 11):
            whole = ask.nodes % domain == 0
            segment = domain if whole else math.gcd(ask.nodes, domain)
            if segment > 1:
                lines.append(f"--segment={segment}")
            if not whole:
                notes.append(f"{ask.nodes} nodes are no whole number of {domain}-node domains: "
                             f"segments of {segment}")  # fmt: skip
        else:
            notes.append(f"Slurm {ask.set('slurm')} has no --segment (23.11 has): nothing keeps "
                         f"{domain} nodes in one domain")  # fmt: skip
    if ask.set("switches"):
        lines.append(f"--switches={ask.set('switches')}")
    return [f"#SBATCH {line}" for line in lines], notes


def hostfile_slots(plan: Plan) -> str:
    """Planned host of every rank, a line each, for an arbitrary distribution.

    Raises InputError where the map cannot be said so: Slurm counts local indices in the order of
    the file, so the ranks of a host must take its chips in order.
    """
    from dataclasses import asdict

    slots = slots_of(asdict(plan))
    seen: dict[int, int] = {}
    for rank, (slot, local) in enumerate(slots):
        if seen.setdefault(slot, 0) != local:
            raise InputError(
                f"rank {rank} is planned on chip {local} of host {slot}, which a hostfile cannot "
                f"say: Slurm gives it local index {seen[slot]}", where="--set distribution",
                hint="leave distribution at `block`: place.py keeps the whole map",
            )  # fmt: skip
        seen[slot] += 1
    return "".join(f"{slot}\n" for slot, _ in slots)


def write(ask: Ask) -> Written:
    """``job.sbatch``; with ``distribution=arbitrary`` Slurm itself numbers ranks by the plan."""
    plan = ask.train
    job = job_of(ask)
    header, notes = _header(ask, plan)
    files = dict(job.files)
    srun = f"srun --kill-on-bad-exit=1 {job.line}"
    before = ""
    if ask.set("distribution") == "arbitrary":
        files["slots.txt"] = hostfile_slots(plan)
        before = (
            "# A line a rank, by the plan: node names for planned hosts.\n"
            "awk 'NR == FNR {host[NR - 1] = $1; next} {print host[$1]}' "
            + ("hosts.txt" if ask.hosts
               else '<(scontrol show hostnames "$SLURM_JOB_NODELIST")')
            + ' slots.txt > "hostfile.$SLURM_JOB_ID"\n'
            'export SLURM_HOSTFILE="$PWD/hostfile.$SLURM_JOB_ID"\n'
        )  # fmt: skip
        srun = f"srun -n {plan.layout.chips} -m arbitrary --kill-on-bad-exit=1 {job.line}"
    elif ask.set("distribution") not in ("", "block"):
        raise InputError(f"`{ask.set('distribution')}` is no distribution", where="--set",
                         hint="block or arbitrary")  # fmt: skip
    probe = ""
    if ask.set("preflight") == "yes":
        probe = ("srun --kill-on-bad-exit=1 python3 weftline_place.py plan.json -- "
                 "python3 -m weftline preflight plan.json\n")  # fmt: skip
    script = "\n".join([
        "#!/bin/bash", *header, "set -euo pipefail", 'cd "$SLURM_SUBMIT_DIR"', "source job.env",
        *([job.hosts] if job.hosts else []), _HEAD + f'export WEFTLINE_RENDEZVOUS="$addr:{PORT}"',
        before + probe + _WAIT.format(srun=srun, signal=ask.set("signal")),
    ])  # fmt: skip
    return Written(files={**files, "job.sbatch": script}, start="sbatch job.sbatch",
                   notes=(*job.notes, *notes))  # fmt: skip


TARGET = Target(
    name="slurm", title="Slurm", kinds=("train",), version="22.05 to 25.11", date="2026-11-30",
    source="https://slurm.schedmd.com/sbatch.html",
    checked="run in tests", how="sbatch on a cluster of 4 nodes (22.05); --check: sbatch "
    "--test-only where a controller answers, options held against a frozen list",
    maps=(
        Mapped(what="hosts, chips a host", where="--nodes, --ntasks-per-node, --gres"),
        Mapped(what="rank map", where="weftline_place.py, or SLURM_HOSTFILE with -m arbitrary"),
        Mapped(what="host names", where="--nodelist (which does not order) and hosts.txt"),
        Mapped(what="scale-up domain", where="--segment, from 23.11"),
        Mapped(what="training time, high end", where="--time"),
        Mapped(what="last checkpoint", where="--signal=B:USR1, --requeue"),
        Mapped(what="fabric", where="job.env"),
    ),
    cannot=("rank order by --nodelist", "--segment before 23.11",
            "a local chip order that is not ascending, with distribution=arbitrary"),
    write=write,
    settings={
        "slurm": ("25.05", "version of the cluster"), "partition": ("", ""), "account": ("", ""),
        "qos": ("", ""), "reservation": ("", ""),
        "gres": ("", "gpu:8 as planned; none where the cluster has no such resource"),
        "exclusive": ("", "no: share nodes"), "time": ("", "in place of the plan's high end"),
        "switches": ("", "most leaf switches: 1 or 1@2:00:00"),
        "distribution": ("block", "arbitrary: Slurm itself numbers the ranks"),
        "warning_s": ("300", "seconds before the end that the last checkpoint gets"),
        "signal": ("TERM", "what the trainer takes as `save and stop`"), **FABRIC, **PREFLIGHT,
    },
)  # fmt: skip
