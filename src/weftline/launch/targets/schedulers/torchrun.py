"""torchrun: a script run on every host, static rendezvous, ranks placed by the plan."""

from __future__ import annotations

from weftline.launch.nouns import Ask, Mapped, Target, Written
from weftline.launch.targets.job import FABRIC, PORT, PREFLIGHT, job_of, under_torchrun


def write(ask: Ask) -> Written:
    """``run.sh NODE MASTER``: NODE counts from 0, MASTER is the address of host 0."""
    job = job_of(ask)
    first = ask.hosts[0] if ask.hosts else "MASTER"
    several = ask.nodes > 1
    head = f"${{2:-{first}}}" if several else "127.0.0.1"
    node = '"${1:?NODE MASTER: this host counted from 0, and the address of host 0}"'
    script = (
        "#!/bin/bash\n"
        f"# {ask.nodes} hosts of {ask.per_host}: run this on each. The plan's map decides the "
        "ranks,\n# not the order of the hosts.\n"
        'set -eu\ncd "$(dirname "$0")"\nsource job.env\n'
        f"{job.hosts + chr(10) if job.hosts else ''}"
        f'export WEFTLINE_RENDEZVOUS="{head}:{PORT}"\n'
        + under_torchrun(ask, job, node=node if several else "", head=f'"{head}"')
    )
    start = "./run.sh NODE MASTER" if several else "./run.sh"
    return Written(files={**job.files, "run.sh": script}, start=start, notes=job.notes,
                   programs=("run.sh",))  # fmt: skip


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
