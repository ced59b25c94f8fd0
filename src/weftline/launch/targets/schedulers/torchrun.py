"""torchrun: a script run on every host, static rendezvous, ranks placed by the plan."""

from __future__ import annotations

from weftline.launch.nouns import Ask, Mapped, Target, Written
from weftline.launch.targets.job import FABRIC, PORT, PREFLIGHT, job_of


def write(ask: Ask) -> Written:
    """``run.sh NODE MASTER``: NODE counts from 0, MASTER is the address of host 0."""
    job = job_of(ask)
    first = ask.hosts[0] if ask.hosts else "MASTER"
    body = job.line.removeprefix("python3 ")
    several = ask.nodes > 1
    usage = '"${1:?NODE MASTER: this host counted from 0, and the address of host 0}"'
    rendezvous = (
        f"--node-rank {usage} --master-addr \"${{2:-{first}}}\" --master-port 29500"
        if several else "--standalone"
    )  # fmt: skip
    meet = f'"${{2:-{first}}}:{PORT}"' if several else f'"127.0.0.1:{PORT}"'
    probe = (
        f"torchrun {_counts(ask)} {rendezvous} weftline_place.py plan.json -- "
        "-m weftline preflight plan.json\n" if ask.set("preflight") == "yes" else ""
    )  # fmt: skip
    script = (
        "#!/bin/bash\n"
        f"# {ask.nodes} hosts of {ask.per_host}: run this on each. The plan's map decides the "
        "ranks,\n# not the order of the hosts.\n"
        'set -eu\ncd "$(dirname "$0")"\nsource job.env\n'
        f"{job.hosts + chr(10) if job.hosts else ''}"
        f"export WEFTLINE_RENDEZVOUS={meet}\n{probe}"
        f"exec torchrun {_counts(ask)} {rendezvous} \\\n  {body}\n"
    )
    start = "./run.sh NODE MASTER" if several else "./run.sh"
    return Written(files={**job.files, "run.sh": script}, start=start, notes=job.notes,
                   programs=("run.sh",))  # fmt: skip


def _counts(ask: Ask) -> str:
    return f"--nnodes {ask.nodes} --nproc-per-node {ask.per_host}"


TARGET = Target(
    name="torchrun", title="torchrun", kinds=("train",), version="torch 2.13", date="2026-11-30",
    source="https://docs.pytorch.org/docs/stable/elastic/run.html",
    checked="run in tests", how="2 x 2 processes: the plan's map rank by rank",
    maps=(
        Mapped(what="hosts, chips a host", where="--nnodes, --nproc-per-node"),
        Mapped(what="rank map", where="weftline_place.py, before any communicator"),
        Mapped(what="host names", where="hosts.txt"),
        Mapped(what="fabric", where="job.env"),
        Mapped(what="trainer", where="the plan's framework, or --command"),
    ),
    cannot=("which machines: the script is started on each by hand or by your own scheduler",
            "restarts over hosts (static rendezvous)"),
    write=write, settings={**FABRIC, **PREFLIGHT},
)  # fmt: skip
