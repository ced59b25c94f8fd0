"""AWS Batch: a multi-node parallel job definition, as text."""

from __future__ import annotations

import json

from weftline.errors import InputError
from weftline.launch.environment import as_mapping, efa_interfaces, environment_of
from weftline.launch.nouns import Ask, Mapped, Target, Written
from weftline.launch.targets.job import FABRIC, PREFLIGHT, job_of, meeting_at, under_torchrun
from weftline.launch.targets.kubernetes.shared import image_of


def write(ask: Ask) -> Written:
    """``job-definition.json``; the image is to hold plan.json and place.py under /weftline."""
    job = job_of(ask)
    plan = ask.train
    instance = ask.set("instance") or (plan.price.instance if plan.price is not None else "")
    if "." not in instance:
        raise InputError("AWS Batch wants an EC2 instance type", where="--set instance",
                         hint="--set instance=p5.48xlarge")  # fmt: skip
    start = (
        "cd /weftline && source job.env\n"
        'head="${AWS_BATCH_JOB_MAIN_NODE_PRIVATE_IPV4_ADDRESS:-$(hostname -i)}"\n'
        f'{meeting_at("$head")} WEFTLINE_RESTART="$((AWS_BATCH_JOB_ATTEMPT - 1))"\n'
        + under_torchrun(ask, job, node='"$AWS_BATCH_JOB_NODE_INDEX"', head='"$head"')
    )
    linux: dict[str, object] = {"sharedMemorySize": 65536}
    count = efa_interfaces().get(instance, 0)
    if count and ask.nodes > 1:
        linux["devices"] = [
            {
                "hostPath": f"/dev/infiniband/uverbs{n}",
                "containerPath": f"/dev/infiniband/uverbs{n}",
                "permissions": ["READ", "WRITE", "MKNOD"],
            }
            for n in range(count)
        ]
    resource = {"type": "GPU", "value": str(ask.per_host)}
    found = {
        "jobDefinitionName": ask.name, "type": "multinode",
        "nodeProperties": {"numNodes": ask.nodes, "mainNode": 0, "nodeRangeProperties": [{
            "targetNodes": f"0:{ask.nodes - 1}",
            "container": {
                "image": image_of(ask), "instanceType": instance,
                "command": ["bash", "-euc", start], "linuxParameters": linux,
                "resourceRequirements": [resource, {"type": "VCPU", "value": ask.set("vcpus")},
                                         {"type": "MEMORY", "value": ask.set("memory_mib")}],
                "environment": [{"name": n, "value": v}
                                for n, v in as_mapping(environment_of(ask)).items()],
                "ulimits": [{"name": "memlock", "softLimit": -1, "hardLimit": -1}],
            },
        }]},
        "retryStrategy": {"attempts": 10},
    }  # fmt: skip
    notes = [*job.notes, "copy plan.json, job.env and weftline_place.py to /weftline of the image",
             "nearness is the compute environment's: a cluster placement group"]  # fmt: skip
    if ask.chip.vendor == "aws":
        notes.append("Trainium has no GPU resource in Batch: pass its devices in linuxParameters")
    return Written(
        files={"job-definition.json": json.dumps(found, indent=1) + "\n", **job.files},
        start="aws batch register-job-definition --cli-input-json file://job-definition.json",
        notes=tuple(notes),
    )  # fmt: skip


TARGET = Target(
    name="aws-batch", title="AWS Batch", kinds=("train",), version="API 2016-08-10",
    date="2026-11-30",
    source="botocore 1.44.8, batch/2016-08-10/service-2.json; docs.aws.amazon.com/batch",
    checked="schema", how="RegisterJobDefinition of AWS's own model of the API, strict",
    maps=(
        Mapped(what="hosts, chips a host", where="numNodes, resourceRequirements"),
        Mapped(what="instance", where="instanceType"),
        Mapped(what="rank map", where="weftline_place.py under torchrun, by node index"),
        Mapped(what="fabric", where="environment, EFA devices"),
        Mapped(what="restarts", where="retryStrategy, AWS_BATCH_JOB_ATTEMPT"),
    ),
    cannot=("host names", "nearness beside a placement group", "Trainium as a resource"),
    write=write,
    settings={"vcpus": ("96", ""), "memory_mib": ("1000000", ""), **FABRIC, **PREFLIGHT},
)  # fmt: skip
