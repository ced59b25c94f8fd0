"""What every launched training job ships: plan, place.py, environment, the trainer's command."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Final

from weftline.launch.environment import as_shell, environment_of
from weftline.launch.nouns import Ask
from weftline.launch.targets.trainers import bridge, maxtext, megatron, neuronx, torchtitan

PLACE: Final = "weftline_place.py"
PORT: Final = 29400
"""Where ranks meet to be placed: below the ports that systems hand out (32768 and up)."""
MASTER_PORT: Final = 29500
"""Where torchrun's agents meet."""
LATE_S: Final = 600
"""How long ranks wait for each other where hosts start when their images are there."""
FABRIC: Final = {"fabric": ("", "efa, ib or roce in place of what the seller suggests"),
                 "instance": ("", "instance type, where the plan does not name it")}  # fmt: skip
_TRAINERS: Final = {
    "megatron-core": megatron.command, "torchtitan": torchtitan.command, "maxtext": maxtext.command,
    "neuronx": neuronx.command,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One training job, ready to be wrapped by a launcher."""

    line: str
    """The command of one process, placed first: ``python3 weftline_place.py plan.json -- ...``."""
    files: Mapping[str, str]
    notes: tuple[str, ...]
    hosts: str
    """A shell line that names the planned hosts; empty where any will do."""


def place_text() -> str:
    """The source of place.py, as it is shipped."""
    return files("weftline.launch").joinpath("place.py").read_text("utf-8")


def trainer_of(ask: Ask) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The command of one process: the user's, else that of the plan's framework."""
    if ask.command:
        return ask.command, ()
    plan = ask.train
    write = _TRAINERS.get(plan.framework)
    if write is None:
        return ("python", "train.py"), (
            f"{plan.framework} has no arguments that we know: the job runs train.py, "
            "or what --command says",)  # fmt: skip
    if plan.framework == "megatron-core" and plan.job.tune != "full":
        return bridge.command(ask)
    return write(ask)


def job_of(ask: Ask, *, python: str = "python3") -> Job:
    """The job of a training plan. Raises InputError for a plan for serving."""
    plan = ask.train
    command, notes = trainer_of(ask)
    shipped = {"plan.json": ask.text, PLACE: place_text(), "job.env": as_shell(environment_of(ask))}
    hosts = ""
    if ask.hosts:
        shipped["hosts.txt"] = "".join(f"{name}\n" for name in ask.hosts)
        hosts = "export WEFTLINE_HOSTS=@hosts.txt"
    said = list(notes)
    if plan.cluster.hosts * plan.cluster.chips_per_host != plan.layout.chips and ask.nodes > 1:
        said.append(
            f"the last host runs {plan.layout.chips % plan.cluster.chips_per_host} of its "
            f"{plan.cluster.chips_per_host} chips: launchers start the same number on each"
        )
    line = f"{python} {PLACE} plan.json -- {shlex.join(command)}"
    return Job(line=line, files=shipped, notes=tuple(said), hosts=hosts)


def under_torchrun(ask: Ask, job: Job, *, node: str, head: str, last: str = "exec ") -> str:
    """Shell lines that start the job's processes on one host: preflight first where it is asked
    for. ``node`` and ``head`` are the host's number and host 0's address in the shell's words."""
    starter = f"torchrun --nnodes {ask.nodes} --nproc-per-node {ask.per_host} " + (
        f"--node-rank {node} --master-addr {head} --master-port {MASTER_PORT}"
        if node else "--standalone"
    )  # fmt: skip
    probe = f"{starter} {PLACE} plan.json -- {LOOK}\n" if ask.set("preflight") == "yes" else ""
    return f"{probe}{last}{starter} \\\n  {job.line.removeprefix('python3 ')}\n"


def meeting_at(head: str) -> str:
    """The shell line by which ranks that start when their images are there meet at ``head``."""
    return f'export WEFTLINE_RENDEZVOUS="{head}:{PORT}" WEFTLINE_PLACE_WAIT_S={LATE_S}'


LOOK: Final = "-m weftline preflight plan.json"
PREFLIGHT: Final = {"preflight": ("", "yes: measure the fabric first, stop where it is too slow")}
