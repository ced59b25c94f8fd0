"""Open MPI: a hostfile in the plan's order and a run script."""

from __future__ import annotations

from weftline.launch.nouns import Ask, Mapped, Target, Written
from weftline.launch.targets.job import FABRIC, PORT, PREFLIGHT, job_of


def write(ask: Ask) -> Written:
    """``hostfile`` and ``run.sh``; without host names the hostfile is yours to fill."""
    job = job_of(ask)
    notes = list(job.notes)
    names = ask.hosts or tuple(f"HOST{n}" for n in range(ask.nodes))
    if not ask.hosts:
        notes.append("write your hosts' names into `hostfile` (or give --hosts)")
    hostfile = "".join(f"{name} slots={ask.per_host}\n" for name in names)
    probe = ""
    if ask.set("preflight") == "yes":
        probe = ("mpirun \"${mpi[@]}\" python3 weftline_place.py plan.json -- "
                 "python3 -m weftline preflight plan.json\n")  # fmt: skip
    script = (
        "#!/bin/bash\n# More options of mpirun after the script's name.\n"
        'set -eu\ncd "$(dirname "$0")"\nsource job.env\n'
        f"{job.hosts + chr(10) if job.hosts else ''}"
        f'export WEFTLINE_RENDEZVOUS="${{WEFTLINE_RENDEZVOUS:-'
        f'$(head -n 1 hostfile | cut -d " " -f 1):{PORT}}}"\n'
        "# mpirun starts processes in an environment of its own: name what they are to have.\n"
        "exported=()\nfor name in $(sed -n 's/^export \\([A-Z_]*\\)=.*/\\1/p' job.env) "
        "WEFTLINE_RENDEZVOUS WEFTLINE_HOSTS; do\n"
        '  if [ -n "${!name:-}" ]; then exported+=(-x "$name"); fi\ndone\n'
        f'mpi=(-np {ask.chips} --hostfile hostfile --map-by slot "${{exported[@]}}" "$@")\n{probe}'
        f'exec mpirun "${{mpi[@]}}" {job.line}\n'
    )
    return Written(files={**job.files, "hostfile": hostfile, "run.sh": script}, start="./run.sh",
                   notes=tuple(notes), programs=("run.sh",))  # fmt: skip


TARGET = Target(
    name="mpi", title="Open MPI", kinds=("train",), version="4.1 and 5.0", date="2026-11-30",
    source="https://docs.open-mpi.org/en/v5.0.x/launching-apps/",
    checked="run in tests", how="mpirun with 4 processes: the plan's map rank by rank",
    maps=(
        Mapped(what="hosts, chips a host", where="hostfile, slots=, -np"),
        Mapped(what="rank map", where="weftline_place.py"),
        Mapped(what="host names", where="hostfile, hosts.txt"),
        Mapped(what="fabric", where="job.env, -x"),
    ),
    cannot=("a restart count: a second mpirun is a new job",),
    write=write, settings={**FABRIC, **PREFLIGHT},
)  # fmt: skip
