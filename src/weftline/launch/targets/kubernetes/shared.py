"""What the Kubernetes targets share: pods, topology annotations, objects of autoscaling."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from weftline.errors import InputError
from weftline.launch.environment import (
    as_mapping,
    environment_of,
    network_resources,
    resource_of,
    tags_of,
)
from weftline.launch.nouns import Ask
from weftline.launch.targets.engines.shared import METRICS, Scaling
from weftline.launch.yaml_text import yaml_text

Object = dict[str, Any]
HOSTNAME: Final = "kubernetes.io/hostname"
CONFIG_MAP_BYTES: Final = 1 << 20
SETTINGS: Final = {
    "namespace": ("default", ""), "queue": ("", "Kueue's local queue; none without it"),
    "levels": ("", "node labels of the network, outermost first, commas between"),
    "shm": ("64Gi", "size of /dev/shm"), "checkpoints": ("", "claim mounted at /checkpoints"),
}  # fmt: skip
DEFAULT_IMAGES: Final = {
    "vllm": "vllm/vllm-openai:v0.32.0", "sglang": "lmsysorg/sglang:v0.5.23",
    "trtllm": "nvcr.io/nvidia/tensorrt-llm/release:1.0.0",
}  # fmt: skip


def documents(objects: Iterable[Object]) -> str:
    """Several objects in one YAML file."""
    return "---\n".join(yaml_text(one) for one in objects)


def image_of(ask: Ask, default: str = "") -> str:
    """The image. Raises InputError where there is none."""
    if ask.image or default:
        return ask.image or default
    raise InputError("the target runs containers", where="--image",
                     hint="name an image that has the trainer")  # fmt: skip


def levels_of(ask: Ask) -> list[str]:
    """Node labels of the network, outermost first. Raises InputError."""
    found = [word for word in ask.set("levels").split(",") if word]
    if HOSTNAME in found[:-1]:
        raise InputError(f"{HOSTNAME} is no level above another", where="--set levels",
                         hint="Kueue takes it as the last one")  # fmt: skip
    return [label for label in found if label != HOSTNAME]


def topology_annotations(ask: Ask) -> tuple[dict[str, str], tuple[str, ...]]:
    """Kueue's podset annotations: all under the outermost label, a domain under the innermost."""
    levels, notes = levels_of(ask), []
    if not levels:
        if ask.nodes > 1:
            notes.append("no --set levels=: nothing keeps the hosts near each other")
        return {}, tuple(notes)
    found = {"kueue.x-k8s.io/podset-preferred-topology": levels[0]}
    domain = ask.domain_nodes
    if domain > 1:
        if ask.nodes % domain:
            notes.append(
                f"{ask.nodes} hosts are no whole number of {domain}-host domains: "
                "Kueue's slices are of one size, the last one is left to chance"
            )
        else:
            found = {
                "kueue.x-k8s.io/podset-required-topology" if len(levels) > 1 else
                "kueue.x-k8s.io/podset-preferred-topology": levels[0],
                "kueue.x-k8s.io/podset-slice-required-topology": levels[-1],
                "kueue.x-k8s.io/podset-slice-size": str(domain),
            }  # fmt: skip
    if not ask.set("queue"):
        notes.append("topology annotations work in a Kueue queue only: give --set queue=")
    return found, tuple(notes)


def pod(
    ask: Ask, container: Object, *, restart: str | None = "Never", host_network: bool = True,
    config_map: str = "",
) -> tuple[Object, tuple[str, ...]]:  # fmt: skip
    """The spec of one pod: a container with the host's chips, its network, and shared memory."""
    network, notes = network_resources(ask)
    limits: dict[str, Any] = {resource_of(ask): ask.per_host, **network}
    volumes: list[Object] = [
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": ask.set("shm") or "64Gi"}}
    ]
    mounts: list[Object] = [{"name": "shm", "mountPath": "/dev/shm"}]  # noqa: S108
    if config_map:
        volumes.append({"name": "job", "configMap": {"name": config_map}})
        mounts.append({"name": "job", "mountPath": "/weftline"})
    if ask.set("checkpoints"):
        claim = {"claimName": ask.set("checkpoints")}
        volumes.append({"name": "checkpoints", "persistentVolumeClaim": claim})
        mounts.append({"name": "checkpoints", "mountPath": "/checkpoints"})
    full = {**container, "resources": {"limits": dict(limits), "requests": dict(limits)},
            "volumeMounts": mounts}  # fmt: skip
    if {"ib", "roce", "efa"} & tags_of(ask):
        full["securityContext"] = {"capabilities": {"add": ["IPC_LOCK"]}}
    spec: Object = {"containers": [full], "volumes": volumes}
    if restart is not None:
        spec["restartPolicy"] = restart
    if host_network and ask.nodes > 1 and "efa" not in tags_of(ask):
        spec |= {"hostNetwork": True, "dnsPolicy": "ClusterFirstWithHostNet"}
    return spec, notes


def env_of(ask: Ask, more: Mapping[str, str | Object]) -> list[Object]:
    """Container environment: the fabric's rows, then ``more`` (text, or a ``valueFrom``)."""
    found: list[Object] = [
        {"name": n, "value": v} for n, v in as_mapping(environment_of(ask)).items()
    ]
    for name, value in more.items():
        found.append({"name": name, "value": value} if isinstance(value, str)
                     else {"name": name, "valueFrom": value})  # fmt: skip
    return found


def field(path: str) -> Object:
    """A field of the pod as a variable."""
    return {"fieldRef": {"fieldPath": path}}


def config_map(ask: Ask, files: Mapping[str, str]) -> Object:
    """The job's files as an object. Raises InputError where they are more than one may hold."""
    size = sum(len(text.encode()) for text in files.values())
    if size > CONFIG_MAP_BYTES:
        raise InputError(
            f"the job's files are {size:,} bytes, a ConfigMap holds 1,048,576",
            where="plan",
            hint="put plan.json into the image and use --command",
        )
    return {"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": f"{ask.name}-job", "namespace": ask.set("namespace")},
            "data": dict(files)}  # fmt: skip


def autoscaler(ask: Ask, scaling: Scaling, target: Mapping[str, str]) -> Object:
    """An autoscaling/v2 object on the running requests of a replica."""
    metric = METRICS.get(ask.serve.fleet.engine, ("", ""))[0].replace(":", "_")
    return {
        "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": ask.name, "namespace": ask.set("namespace")},
        "spec": {
            "scaleTargetRef": dict(target), "minReplicas": scaling.replicas,
            "maxReplicas": scaling.most,
            "metrics": [{"type": "Pods", "pods": {
                "metric": {"name": metric},
                "target": {"type": "AverageValue", "averageValue": str(scaling.running)}}}],
        },
    }  # fmt: skip


def keda(ask: Ask, scaling: Scaling, target: Mapping[str, str]) -> Object:
    """The same as a KEDA ScaledObject on Prometheus, with the queue as a second trigger."""
    running, waiting = METRICS.get(ask.serve.fleet.engine, ("", ""))
    name = f'namespace="{ask.set("namespace")}"'

    def trigger(metric: str, threshold: int) -> Object:
        return {"type": "prometheus", "metricType": "AverageValue", "metadata": {
            "serverAddress": ask.set("prometheus"), "query": f"sum({metric}{{{name}}})",
            "threshold": str(threshold)}}  # fmt: skip

    return {
        "apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject",
        "metadata": {"name": ask.name, "namespace": ask.set("namespace")},
        "spec": {
            "scaleTargetRef": dict(target), "minReplicaCount": scaling.replicas,
            "maxReplicaCount": scaling.most,
            "triggers": [trigger(running, scaling.running),
                         trigger(waiting, max(1, round(scaling.waiting) + 1))],
        },
    }  # fmt: skip


SERVE_SETTINGS: Final = {
    "namespace": ("default", ""), "shm": ("64Gi", "size of /dev/shm"), "max_replicas": ("", ""),
    "prometheus": ("http://prometheus-operated.monitoring:9090", "where KEDA asks"),
    "autoscaler": ("hpa", "hpa, keda or none"),
}  # fmt: skip
