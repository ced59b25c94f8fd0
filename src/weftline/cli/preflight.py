"""``weftline preflight``: is the fabric that the plan assumed there?"""

from __future__ import annotations

from pathlib import Path

from weftline.cli.answer import show
from weftline.cli.options import Format, Json


def preflight(
    plan: Path | None = None,
    *,
    checkpoints: str = "",
    store: str = "",
    topology: Path | None = None,
    against: str = "auto",
    max_slowdown: float | None = None,
    hosts_out: Path | None = None,
    json: Json = False,
    form: Format = "table",
) -> int:
    """Measure links, chips, disks and clocks of the job around it, beside its plan.

    Run by every process of a job, before the trainer or in its place.

    Parameters
    ----------
    plan
        The plan of the job; without it hosts and links are held against each other.
    checkpoints
        Folder where checkpoints go; its disk is measured.
    store
        Object store to put, get and delete 1 MB in: s3://bucket/prefix, file:///path.
    topology
        File that describes the cluster, held against the plan: EC2, GCE and OCI instance
        topology, Kubernetes nodes, Slurm's topology.conf, what `weftline import` reads.
    against
        plan: the plan's rates must be reached; peers: only each other's; auto: the plan
        on GPUs, peers elsewhere.
    max_slowdown
        Stop with exit code 4 where the step would be so many times slower: 1.2.
    hosts_out
        Write the hosts that are there, slow ones marked, for `plan train --within`.
    """
    from dataclasses import asdict

    from weftline.errors import InputError, ThresholdCrossedError
    from weftline.launch.preflight.run import hosts_of
    from weftline.launch.preflight.run import preflight as run
    from weftline.report.launch import render_preflight
    from weftline.spec.serialize import read_plan, write_text

    if against not in ("auto", "plan", "peers"):
        raise InputError(f"`{against}` is not known", where="--against",
                         hint="plan, peers or auto")  # fmt: skip
    if hosts_out is not None and plan is None:
        raise InputError("which chips the hosts have stands in the plan", where="--hosts-out",
                         hint="name the plan: weftline preflight plan.json")  # fmt: skip
    if max_slowdown is not None and max_slowdown < 1:
        raise InputError("below 1", where="--max-slowdown", hint="1.2 is a fifth slower")
    done = run(plan, folder=checkpoints, store=store, topology=topology,
               against_plan=None if against == "auto" else against == "plan")  # fmt: skip
    if done is None:
        return 0
    if hosts_out is not None and plan is not None:
        write_text(hosts_of(done, read_plan(plan), plan).to_json(), hosts_out)
    verdict = asdict(done.verdict)
    said = {**verdict, "took_s": done.reports[0]["took_s"],
            "groups": {axis: max(r["groups"].get(axis, 0.0) for r in done.reports)
                       for axis in done.reports[0]["groups"]}}  # fmt: skip
    show("preflight", said, lambda: render_preflight(said), json=json, form=form, main="findings")
    if max_slowdown is not None and done.verdict.slowdown > max_slowdown:
        raise ThresholdCrossedError(
            f"the step would be {done.verdict.slowdown:.2f} times slower than planned",
            where="--max-slowdown", hint=f"it was set to {max_slowdown:g}",
        )  # fmt: skip
    return 0
