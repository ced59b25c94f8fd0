"""SageMaker HyperPod: the configuration of its PyTorch job, by its JSON schema."""

from __future__ import annotations

import json
import shlex

from weftline.errors import InputError
from weftline.launch.environment import as_mapping, efa_interfaces, environment_of
from weftline.launch.nouns import Ask, Mapped, Target, Written
from weftline.launch.targets.job import FABRIC, LATE_S, PORT, job_of
from weftline.launch.targets.kubernetes.shared import image_of

LAYERS = (
    "topology.k8s.aws/ultraserver-id",
    "topology.k8s.aws/network-node-layer-1",
    "topology.k8s.aws/network-node-layer-2",
    "topology.k8s.aws/network-node-layer-3",
)


def write(ask: Ask) -> Written:
    """``hyperpod.json``, and the files that the image is to hold under /weftline."""
    job = job_of(ask)
    plan = ask.train
    instance = ask.set("instance") or (plan.price.instance if plan.price is not None else "")
    if not instance.startswith("ml."):
        instance = f"ml.{instance}"
    sold = instance.removeprefix("ml.")
    if sold not in efa_interfaces():
        raise InputError(
            f"`{sold}` is no EC2 instance of this plan's chip that we know",
            where="--set instance",
            hint=f"one of {', '.join(efa_interfaces())}",
        )
    found = {
        "job_name": ask.name, "image": image_of(ask), "namespace": ask.set("namespace"),
        "instance_type": instance, "replica_count": ask.nodes, "tasks_per_node": str(ask.per_host),
        "command": ["hyperpodrun", f"--nnodes={ask.nodes}:{ask.nodes}",
                    f"--nproc_per_node={ask.per_host}", "/weftline/weftline_place.py"],
        "args": ["/weftline/plan.json", *shlex.split(job.line)[3:]],
        "environment": {**as_mapping(environment_of(ask)),
                        "WEFTLINE_RENDEZVOUS": f"{ask.name}-pod-0:{PORT}",
                        "WEFTLINE_PLACE_WAIT_S": str(LATE_S)},
        "accelerators": ask.per_host, "max_retry": int(ask.set("restarts")),
    }  # fmt: skip
    if ask.nodes > 1:
        found["efa"] = efa_interfaces()[sold]
    if ask.set("queue"):
        found["queue_name"] = ask.set("queue")
    layer = ask.set("topology") or (LAYERS[0] if ask.domain_nodes > 1 else LAYERS[1])
    if layer not in LAYERS:
        raise InputError(f"`{layer}` is no topology label of HyperPod", where="--set topology",
                         hint=f"one of {', '.join(LAYERS)}")  # fmt: skip
    if ask.nodes > 1:
        found["preferred_topology"] = layer
    notes = [*job.notes, "copy plan.json and weftline_place.py to /weftline of the image"]
    if ask.hosts:
        notes.append("HyperPod chooses the hosts: their names cannot be given")
    return Written(
        files={"hyperpod.json": json.dumps(found, indent=1) + "\n", **job.files},
        start="hyp create hyp-pytorch-job --config-file hyperpod.json", notes=tuple(notes),
    )  # fmt: skip


TARGET = Target(
    name="hyperpod", title="SageMaker HyperPod", kinds=("train",),
    version="hyperpod-pytorch-job-template 1.5.0 (v1_1)", date="2026-11-30",
    source="hyperpod-pytorch-job-template 1.5.0, v1_1/schema.json (Apache-2.0)",
    checked="schema", how="its JSON schema",
    maps=(
        Mapped(what="hosts, chips a host", where="replica_count, tasks_per_node, accelerators"),
        Mapped(what="instance", where="instance_type"),
        Mapped(what="fabric", where="efa, environment"),
        Mapped(what="nearness", where="preferred_topology"),
        Mapped(what="rank map", where="weftline_place.py in the image"),
        Mapped(what="restarts", where="max_retry"),
    ),
    cannot=("host names", "slices of a domain's size", "files: they go into the image"),
    write=write,
    settings={"namespace": ("default", ""), "queue": ("", ""), "restarts": ("10", ""),
              "topology": ("", "label to stay under; by the plan's domain if not given"), **FABRIC},
)  # fmt: skip
