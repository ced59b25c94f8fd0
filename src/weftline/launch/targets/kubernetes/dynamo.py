"""NVIDIA Dynamo: a DynamoGraphDeployment, as text."""

from __future__ import annotations

import shlex

from weftline.launch.environment import as_mapping, environment_of
from weftline.launch.nouns import Ask, Mapped, Target, Written
from weftline.launch.targets.engines.shared import SETTINGS, pools_of, scaling_json
from weftline.launch.targets.job import FABRIC
from weftline.launch.targets.kubernetes.lws import command_of
from weftline.launch.targets.kubernetes.shared import (
    DEFAULT_IMAGES,
    SERVE_SETTINGS,
    Object,
    documents,
    image_of,
)

_MODULES = {"vllm": "dynamo.vllm", "sglang": "dynamo.sglang"}


def write(ask: Ask) -> Written:
    """``dynamo.yaml`` and the scaling numbers. Raises InputError for other engines."""
    fleet = ask.serve.fleet
    env = [{"name": n, "value": v} for n, v in as_mapping(environment_of(ask)).items()]
    router = {"prefix-aware": "kv", "least-loaded": "random"}.get(fleet.routing, "round-robin")
    services: Object = {"Frontend": {
        "componentType": "frontend", "replicas": 1,
        "envs": [{"name": "DYN_ROUTER_MODE", "value": router}],
    }}  # fmt: skip
    notes: list[str] = []
    for role, degrees, workers in pools_of(ask):
        words, said = command_of(ask, "", degrees)
        notes += said
        chips = degrees.get("tp", 1) * degrees.get("pp", 1) * degrees.get("dp", 1)
        flags = words[3:] if fleet.engine == "vllm" else words[5:]
        model = ["--model", words[2]] if fleet.engine == "vllm" else []
        more = ["--is-prefill-worker"] if role == "prefill" else []
        service: Object = {
            "componentType": "worker", "replicas": workers,
            "resources": {"limits": {"gpu": str(min(chips, ask.per_host))}}, "envs": env,
            "extraPodSpec": {"mainContainer": {
                "image": image_of(ask, DEFAULT_IMAGES[fleet.engine]),
                "command": ["/bin/sh", "-c"],
                "args": [shlex.join(["python3", "-m", _MODULES[fleet.engine], *model, *flags,
                                     *more])],
            }},
        }  # fmt: skip
        if chips > ask.per_host:
            service["multinode"] = {"nodeCount": -(-chips // ask.per_host)}
        if role:
            service["subComponentType"] = role
        services[f"{role.capitalize() or 'Engine'}Worker"] = service
    if fleet.routing == "least-loaded":
        notes.append("Dynamo's routers are kv, random and round-robin: least-loaded is written "
                     "as random")  # fmt: skip
    found = {"apiVersion": "nvidia.com/v1alpha1", "kind": "DynamoGraphDeployment",
             "metadata": {"name": ask.name, "namespace": ask.set("namespace")},
             "spec": {"services": services}}  # fmt: skip
    return Written(
        files={"dynamo.yaml": documents([found]), "scaling.json": scaling_json(ask)[0]},
        start="kubectl apply -f dynamo.yaml",
        notes=tuple(dict.fromkeys(notes)),
    )


TARGET = Target(
    name="dynamo", title="NVIDIA Dynamo", kinds=("serve",), version="v1alpha1 (1.3)",
    date="2026-11-30", source="docs.nvidia.com/dynamo, DynamoGraphDeployment",
    checked="not checked", how="text; the engine's flags are checked",
    maps=(
        Mapped(what="engine, degrees, limits", where="args of each worker"),
        Mapped(what="hosts a replica", where="multinode.nodeCount"),
        Mapped(what="workers by role", where="services.*.replicas, subComponentType"),
        Mapped(what="routing", where="DYN_ROUTER_MODE"),
    ),
    cannot=("least-loaded routing", "autoscaling thresholds (its planner has its own)"),
    write=write, settings={**SETTINGS, **SERVE_SETTINGS, **FABRIC},
)  # fmt: skip
