"""LeaderWorkerSet: a group of pods a replica, as many groups as the plan has replicas."""

from __future__ import annotations

import shlex

from weftline.errors import InputError
from weftline.launch.nouns import Ask, Mapped, Target, Written
from weftline.launch.targets.engines import sglang, vllm
from weftline.launch.targets.engines.shared import SETTINGS, pools_of, scaling_json, scaling_of
from weftline.launch.targets.job import FABRIC
from weftline.launch.targets.kubernetes.shared import (
    DEFAULT_IMAGES,
    SERVE_SETTINGS,
    Object,
    autoscaler,
    documents,
    env_of,
    image_of,
    keda,
    pod,
)

PORT = 8000


def command_of(ask: Ask, role: str, degrees: dict[str, int]) -> tuple[list[str], tuple[str, ...]]:
    """The engine's command of one worker. Raises InputError where it does not run in pods so."""
    engine = ask.serve.fleet.engine
    if engine == "vllm":
        return vllm.words_of(ask, role, degrees)
    if engine == "sglang":
        flags, notes = sglang.flags_of(ask, role, degrees)
        return ["python", "-m", "sglang.launch_server", "--host", "0.0.0.0",  # noqa: S104
                *[w for f in flags for w in f]], notes  # fmt: skip
    raise InputError(f"no pod is known here that serves with {engine}", where="plan",
                     hint="plan with --engine vllm,sglang, or export to trtllm")  # fmt: skip


def worker(ask: Ask, role: str, degrees: dict[str, int], size: int) -> tuple[Object, list[str]]:
    """The pod of one worker; over several hosts each takes its place from LWS's variables."""
    words, notes = command_of(ask, role, degrees)
    words += ["--port", str(PORT)]
    text = "exec " + shlex.join(words)
    if size > 1:
        at = ("--master-addr", "") if ask.serve.fleet.engine == "vllm" else ("--dist-init-addr",
                                                                             ":29500")  # fmt: skip
        text += (f' --nnodes {size} --node-rank "$LWS_WORKER_INDEX" {at[0]} '
                 f'"$LWS_LEADER_ADDRESS{at[1]}"')  # fmt: skip
        if ask.serve.fleet.engine == "vllm":
            text += ' $([ "$LWS_WORKER_INDEX" = 0 ] || echo --headless)'
    container: Object = {
        "name": "engine", "image": image_of(ask, DEFAULT_IMAGES[ask.serve.fleet.engine]),
        "command": ["bash", "-euc", text], "env": env_of(ask, {}),
        "ports": [{"containerPort": PORT, "name": "http"}],
    }  # fmt: skip
    spec, more = pod(ask, container, restart=None)
    return spec, [*notes, *more]


def _ready(spec: Object) -> Object:
    probe = {"httpGet": {"path": "/health", "port": PORT}, "periodSeconds": 10,
             "failureThreshold": 360}  # fmt: skip
    first, *others = spec["containers"]
    return {**spec, "containers": [{**first, "readinessProbe": probe}, *others]}


def sets(ask: Ask) -> tuple[list[Object], tuple[str, ...]]:
    """One LeaderWorkerSet a role."""
    found, notes = [], []
    for role, degrees, workers in pools_of(ask):
        chips = degrees.get("tp", 1) * degrees.get("pp", 1) * degrees.get("dp", 1)
        size = -(-chips // ask.per_host)
        spec, said = worker(ask, role, degrees, size)
        notes += said
        labels = {"app": ask.name, **({"weftline/role": role} if role else {})}
        annotations = {}
        if size > 1 and ask.set("topology"):
            annotations["leaderworkerset.sigs.k8s.io/exclusive-topology"] = ask.set("topology")
        elif size > 1:
            notes.append("a replica spans hosts: --set topology=LABEL keeps it in one rack")
        found.append({
            "apiVersion": "leaderworkerset.x-k8s.io/v1", "kind": "LeaderWorkerSet",
            "metadata": {"name": f"{ask.name}{'-' + role if role else ''}",
                         "namespace": ask.set("namespace"), "annotations": annotations},
            "spec": {
                "replicas": workers, "startupPolicy": "LeaderCreated",
                "leaderWorkerTemplate": {
                    "size": size, "restartPolicy": "RecreateGroupOnPodRestart",
                    "leaderTemplate": {"metadata": {"labels": {**labels, "role": "leader"}},
                                       "spec": _ready(spec)},
                    "workerTemplate": {"metadata": {"labels": labels}, "spec": spec},
                },
            },
        })  # fmt: skip
    return found, tuple(dict.fromkeys(notes))


def write(ask: Ask) -> Written:
    """``serve.yaml`` (sets and service), ``hpa.yaml`` or ``keda.yaml``, the scaling numbers."""
    found, notes = sets(ask)
    service: Object = {
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": ask.name, "namespace": ask.set("namespace")},
        "spec": {"selector": {"app": ask.name, "role": "leader"},
                 "ports": [{"name": "http", "port": 80, "targetPort": PORT}]},
    }  # fmt: skip
    numbers, said = scaling_json(ask)
    files = {"serve.yaml": documents([*found, service]), "scaling.json": numbers}
    notes = (*notes, *said)
    if ask.serve.fleet.routing != "round-robin":
        notes = (*notes, f"a Service spreads at random: {ask.serve.fleet.routing} routing wants "
                 "a router before it (llm-d, Dynamo or the engine's own)")  # fmt: skip
    how, names = ask.set("autoscaler"), [one["metadata"]["name"] for one in found]
    if how not in ("hpa", "keda", "none"):
        raise InputError(f"`{how}` is no autoscaler", where="--set autoscaler",
                         hint="hpa, keda or none")  # fmt: skip
    if how != "none" and len(names) == 1:
        scaling, _ = scaling_of(ask)
        target = {"apiVersion": "leaderworkerset.x-k8s.io/v1", "kind": "LeaderWorkerSet",
                  "name": names[0]}  # fmt: skip
        make = autoscaler if how == "hpa" else keda
        files[f"{how}.yaml"] = documents([make(ask, scaling, target)])
    elif how != "none":
        notes = (*notes, "prefill and decode scale apart: scaling.json has the numbers, "
                 "no autoscaler is written")  # fmt: skip
    return Written(files=files, start="kubectl apply -f .", notes=notes)


TARGET = Target(
    name="lws", title="LeaderWorkerSet", kinds=("serve",), version="v1", date="2026-11-30",
    source="kubernetes-sigs/lws@060ab4da; docs.vllm.ai/en/latest/deployment/frameworks/lws",
    checked="schema", how="CRD schema, CEL rules, kubernetes-validate, enums, the engine's flags",
    maps=(
        Mapped(what="replicas", where="spec.replicas"),
        Mapped(what="hosts a replica", where="leaderWorkerTemplate.size"),
        Mapped(what="engine, degrees, limits", where="the engine's command"),
        Mapped(what="scaling", where="hpa.yaml or keda.yaml on running requests a replica"),
        Mapped(what="nearness of a replica's hosts", where="exclusive-topology"),
        Mapped(what="fabric", where="env, resources"),
    ),
    cannot=("routing beside a Service's", "autoscaling of prefill and decode apart"),
    write=write,
    settings={**SETTINGS, **SERVE_SETTINGS, "topology": ("", "label a replica stays under"),
              **FABRIC},
)  # fmt: skip
