"""JobSet with Kueue: one indexed pod a host, a queue, and where the pods may stand."""

from __future__ import annotations

from weftline.launch.nouns import Ask, Mapped, Target, Written
from weftline.launch.targets.job import FABRIC, PREFLIGHT, job_of, meeting_at, under_torchrun
from weftline.launch.targets.kubernetes.shared import (
    HOSTNAME,
    SETTINGS,
    Object,
    config_map,
    documents,
    env_of,
    field,
    image_of,
    levels_of,
    pod,
    topology_annotations,
)


def jobset(ask: Ask) -> tuple[Object, dict[str, str], tuple[str, ...]]:
    """The object, the files it needs beside it, and what it cannot say."""
    job = job_of(ask)
    name = ask.name
    first = f"{name}-hosts-0-0.{name}"  # pod 0 of job 0, under the set's headless service
    node, head = '"$JOB_COMPLETION_INDEX"', "$MASTER_ADDR"
    start = (
        f"cp /weftline/* . && source job.env\n{meeting_at(head)}\n"
        f"{job.hosts + chr(10) if job.hosts else ''}"
        + under_torchrun(ask, job, node=node, head=f'"{head}"')
    )
    attempt = "metadata.annotations['jobset.sigs.k8s.io/restart-attempt']"
    container: Object = {
        "name": "trainer", "image": image_of(ask), "command": ["bash", "-euc", start],
        "workingDir": "/workspace",
        "env": env_of(ask, {
            "MASTER_ADDR": first, "WEFTLINE_RESTART": field(attempt),
            "WEFTLINE_HOST": field("spec.nodeName"),
        }),
    }  # fmt: skip
    spec, notes = pod(ask, container, config_map=f"{name}-job")
    annotations, more = topology_annotations(ask)
    labels = {"kueue.x-k8s.io/queue-name": ask.set("queue")} if ask.set("queue") else {}
    found: Object = {
        "apiVersion": "jobset.x-k8s.io/v1alpha2", "kind": "JobSet",
        "metadata": {"name": name, "namespace": ask.set("namespace"), "labels": labels},
        "spec": {
            "failurePolicy": {"maxRestarts": int(ask.set("restarts"))},
            "network": {"enableDNSHostnames": True, "publishNotReadyAddresses": True,
                        "subdomain": name},
            "replicatedJobs": [{
                "name": "hosts", "replicas": 1,
                "template": {"spec": {
                    "parallelism": ask.nodes, "completions": ask.nodes,
                    "completionMode": "Indexed", "backoffLimit": 0,
                    "template": {"metadata": {"annotations": annotations}, "spec": spec},
                }},
            }],
        },
    }  # fmt: skip
    return found, dict(job.files), (*job.notes, *notes, *more)


def queue(ask: Ask) -> list[Object]:
    """The administrator's part: the levels of the network as Kueue knows them."""
    labels = [*levels_of(ask), HOSTNAME]
    return [{
        "apiVersion": "kueue.x-k8s.io/v1beta2", "kind": "Topology",
        "metadata": {"name": f"{ask.name}-levels"},
        "spec": {"levels": [{"nodeLabel": label} for label in labels]},
    }, {
        "apiVersion": "kueue.x-k8s.io/v1beta2", "kind": "ResourceFlavor",
        "metadata": {"name": f"{ask.name}-{ask.accelerator}"},
        "spec": {"nodeLabels": {"weftline/accelerator": ask.accelerator},
                 "topologyName": f"{ask.name}-levels"},
    }]  # fmt: skip


def write(ask: Ask) -> Written:
    """``job.yaml`` (ConfigMap and JobSet), ``kueue.yaml`` where levels are named."""
    found, files, notes = jobset(ask)
    texts = {"job.yaml": documents([config_map(ask, files), found])}
    if levels_of(ask):
        texts["kueue.yaml"] = documents(queue(ask))
        notes = (*notes, "kueue.yaml is your administrator's part: label the nodes to match")
    return Written(files=texts, start="kubectl apply -f job.yaml", notes=notes)


TARGET = Target(
    name="jobset", title="JobSet with Kueue", kinds=("train",),
    version="JobSet v1alpha2, Kueue 0.19 (v1beta2)", date="2026-11-30",
    source="kubernetes-sigs/jobset@08dfbdfd, kubernetes-sigs/kueue@ff69552e",
    checked="schema", how="CRD schemas, CEL rules, kubernetes-validate, enums of pods",
    maps=(
        Mapped(what="hosts, chips a host", where="parallelism, completions, resources"),
        Mapped(what="rank map", where="weftline_place.py under torchrun, by completion index"),
        Mapped(what="host names", where="hosts.txt against spec.nodeName"),
        Mapped(what="scale-up domain", where="podset-slice-required-topology, podset-slice-size"),
        Mapped(what="nearness of all hosts", where="podset-{required,preferred}-topology"),
        Mapped(what="fabric", where="env, vpc.amazonaws.com/efa or rdma/hca"),
        Mapped(what="restarts", where="failurePolicy.maxRestarts, restart-attempt"),
    ),
    cannot=("a torus: Kueue's levels are a tree", "slices of different sizes"),
    write=write,
    settings={**SETTINGS, "restarts": ("10", "restarts of the whole set"), **FABRIC, **PREFLIGHT},
)  # fmt: skip
