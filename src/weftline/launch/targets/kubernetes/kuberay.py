"""KubeRay: a RayJob that brings up the cluster and runs the driver of the Ray target."""

from __future__ import annotations

from weftline.launch.nouns import Ask, Mapped, Target, Written
from weftline.launch.targets.job import FABRIC
from weftline.launch.targets.kubernetes.shared import (
    SETTINGS,
    Object,
    config_map,
    documents,
    env_of,
    image_of,
    pod,
    topology_annotations,
)
from weftline.launch.targets.schedulers import ray


def rayjob(ask: Ask) -> tuple[Object, dict[str, str], tuple[str, ...]]:
    """The object, the files it needs beside it, and what it cannot say."""
    driver = ray.write(ask)
    image = image_of(ask)
    container: Object = {"name": "ray-worker", "image": image, "env": env_of(ask, {})}
    spec, notes = pod(ask, container, restart=None, host_network=False)
    annotations, more = topology_annotations(ask)
    head: Object = {
        "containers": [{
            "name": "ray-head", "image": image,
            "resources": {"limits": {"cpu": "4", "memory": "16Gi"},
                          "requests": {"cpu": "4", "memory": "16Gi"}},
            "volumeMounts": [{"name": "job", "mountPath": "/weftline"}],
        }],
        "volumes": [{"name": "job", "configMap": {"name": f"{ask.name}-job"}}],
    }  # fmt: skip
    labels = {"kueue.x-k8s.io/queue-name": ask.set("queue")} if ask.set("queue") else {}
    found: Object = {
        "apiVersion": "ray.io/v1", "kind": "RayJob",
        "metadata": {"name": ask.name, "namespace": ask.set("namespace"), "labels": labels},
        "spec": {
            "entrypoint": "python /weftline/driver.py", "shutdownAfterJobFinishes": True,
            "rayClusterSpec": {
                "rayVersion": "2.60.0",
                "headGroupSpec": {"rayStartParams": {"num-gpus": "0", "num-cpus": "0"},
                                  "template": {"spec": head}},
                "workerGroupSpecs": [{
                    "groupName": "hosts", "replicas": ask.nodes, "minReplicas": ask.nodes,
                    "maxReplicas": ask.nodes, "numOfHosts": 1, "rayStartParams": {},
                    "template": {"metadata": {"annotations": annotations}, "spec": spec},
                }],
            },
        },
    }  # fmt: skip
    files = dict(driver.files)
    return found, files, (*driver.notes, *notes, *more)


def write(ask: Ask) -> Written:
    """``job.yaml``: ConfigMap and RayJob."""
    found, files, notes = rayjob(ask)
    return Written(files={"job.yaml": documents([config_map(ask, files), found])},
                   start="kubectl apply -f job.yaml", notes=notes)  # fmt: skip


TARGET = Target(
    name="kuberay", title="KubeRay RayJob", kinds=("train",), version="ray.io/v1, Ray 2.60",
    date="2026-11-30", source="ray-project/kuberay@feeaf72f",
    checked="schema", how="CRD schema, CEL rules, enums of pods; the driver runs in tests",
    maps=(
        Mapped(what="hosts, chips a host", where="workerGroupSpecs.replicas, resources"),
        Mapped(what="rank map", where="driver.py and weftline_place.py"),
        Mapped(what="nearness of all hosts", where="Kueue's podset annotations"),
        Mapped(what="fabric", where="env, vpc.amazonaws.com/efa or rdma/hca"),
    ),
    cannot=("host names of Kubernetes nodes", "a torus"),
    write=write, settings={**SETTINGS, "cpus": ("", ""), "gpus": ("", ""), **FABRIC},
)  # fmt: skip
