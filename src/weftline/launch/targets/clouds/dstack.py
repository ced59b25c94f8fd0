"""dstack: a distributed task, as text."""

from __future__ import annotations

from typing import Any

from weftline.launch.environment import as_mapping, environment_of
from weftline.launch.nouns import Ask, Mapped, Target, Written
from weftline.launch.targets.clouds.skypilot import ACCELERATORS
from weftline.launch.targets.job import FABRIC, PREFLIGHT, job_of, meeting_at, under_torchrun
from weftline.launch.yaml_text import yaml_text


def write(ask: Ask) -> Written:
    """``train.dstack.yml`` beside the job's files, which dstack uploads."""
    plan = ask.train
    job = job_of(ask)
    memory = round(plan.cluster.memory_bytes / 1e9)
    name = ACCELERATORS.get(ask.accelerator, ask.accelerator.upper()).split("-")[0]
    head = "$DSTACK_MASTER_NODE_IP"
    started = under_torchrun(ask, job, node='"$DSTACK_NODE_RANK"', head=f'"{head}"', last="")
    task: dict[str, Any] = {
        "type": "task", "name": ask.name, "nodes": ask.nodes,
        "files": sorted(job.files), "env": [f"{n}={v}" for n, v in
                                            as_mapping(environment_of(ask)).items()],
        "commands": [meeting_at(head), "source job.env", started],
        "resources": {"gpu": f"{name}:{memory}GB:{ask.per_host}", "shm_size": "64GB"},
    }  # fmt: skip
    if ask.image:
        task["image"] = ask.image
    if plan.job.price_type in ("spot", "on-demand"):
        task["spot_policy"] = plan.job.price_type
    notes = list(job.notes)
    if plan.price is not None:
        task["max_price"] = round(plan.price.usd_per_chip_hour.value * ask.per_host, 2)
        notes.append("max_price is the plan's price of one host: raise it to let other sellers in")
    if ask.nodes > 1:
        notes.append("several nodes want a fleet with `placement: cluster` in dstack")
    return Written(files={**job.files, "train.dstack.yml": yaml_text(task)},
                   start="dstack apply -f train.dstack.yml", notes=tuple(notes))  # fmt: skip


TARGET = Target(
    name="dstack", title="dstack", kinds=("train",), version="0.22.5", date="2026-11-30",
    source="dstack 0.22.5 wheel, _internal/core/models/configurations.py",
    checked="not checked", how="names read in the wheel",
    maps=(
        Mapped(what="hosts, chips a host", where="nodes, resources.gpu"),
        Mapped(what="price", where="max_price, spot_policy"),
        Mapped(what="rank map", where="weftline_place.py under torchrun, by node rank"),
        Mapped(what="fabric", where="env"),
    ),
    cannot=("host names", "nearness beside a cluster fleet", "form factor of a chip (SXM, PCIe)"),
    write=write, settings={**FABRIC, **PREFLIGHT},
)  # fmt: skip
