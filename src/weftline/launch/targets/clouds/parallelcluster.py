"""AWS ParallelCluster: the cluster for a plan, and the Slurm job for it."""

from __future__ import annotations

from typing import Any

from weftline.errors import InputError
from weftline.launch.environment import efa_interfaces
from weftline.launch.nouns import Ask, Mapped, Target, Written
from weftline.launch.targets.schedulers import slurm
from weftline.launch.yaml_text import yaml_text


def write(ask: Ask) -> Written:
    """``cluster.yaml`` beside the files of the Slurm target."""
    plan = ask.train
    instance = ask.set("instance") or (plan.price.instance if plan.price is not None else "")
    if "." not in instance:
        raise InputError("ParallelCluster wants an EC2 instance type", where="--set instance",
                         hint="--set instance=p5.48xlarge")  # fmt: skip
    job = slurm.write(ask)
    resource: dict[str, Any] = {
        "Name": ask.accelerator, "InstanceType": instance, "MinCount": ask.nodes,
        "MaxCount": ask.nodes,
    }  # fmt: skip
    if ask.nodes > 1:
        resource["Efa"] = {"Enabled": instance in efa_interfaces()}
    if ask.set("reservation_id"):
        resource["CapacityReservationTarget"] = {"CapacityReservationId": ask.set("reservation_id")}
    paid = plan.price.price_type if plan.price is not None else "on-demand"
    kind = {"spot": "SPOT", "capacity-block": "CAPACITY_BLOCK"}.get(paid, "ONDEMAND")
    cluster = {
        "Region": ask.set("region") or "REGION", "Image": {"Os": "ubuntu2204"},
        "HeadNode": {"InstanceType": "m5.2xlarge", "Networking": {"SubnetId": "SUBNET"}},
        "Scheduling": {"Scheduler": "slurm", "SlurmQueues": [{
            "Name": "train", "CapacityType": kind,
            "Networking": {"SubnetIds": ["SUBNET"], "PlacementGroup": {"Enabled": ask.nodes > 1}},
            "ComputeResources": [resource],
        }]},
    }  # fmt: skip
    notes = (*job.notes, "write your subnet for SUBNET" +
             ("" if ask.set("region") else " and your region for REGION"))  # fmt: skip
    if kind == "CAPACITY_BLOCK" and not ask.set("reservation_id"):
        notes = (*notes, "a capacity block wants --set reservation_id=")
    return Written(files={**job.files, "cluster.yaml": yaml_text(cluster)},
                   start=f"pcluster create-cluster -n {ask.name} -c cluster.yaml, then sbatch "
                   "job.sbatch on its head node", notes=notes)  # fmt: skip


TARGET = Target(
    name="parallelcluster", title="AWS ParallelCluster", kinds=("train",), version="3.14",
    date="2026-11-30",
    source="docs.aws.amazon.com/parallelcluster, cluster configuration file, version 3",
    checked="not checked", how="text; the Slurm job inside is checked as the slurm target is",
    maps=(
        Mapped(what="hosts, instance", where="MinCount, MaxCount, InstanceType"),
        Mapped(what="fabric", where="Efa.Enabled, PlacementGroup"),
        Mapped(what="way to pay", where="CapacityType, CapacityReservationTarget"),
        Mapped(what="the job", where="job.sbatch, as --to slurm writes it"),
    ),
    cannot=("nearness beside a placement group",),
    write=write,
    settings={**slurm.TARGET.settings, "region": ("", ""), "reservation_id": ("", "")},
)  # fmt: skip
