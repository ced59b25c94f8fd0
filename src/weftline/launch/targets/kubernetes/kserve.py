"""KServe LLMInferenceService: model, parallelism, pods and autoscaling in one object."""

from __future__ import annotations

from weftline.errors import InputError
from weftline.launch.nouns import Ask, Mapped, Target, Written
from weftline.launch.targets.engines import vllm
from weftline.launch.targets.engines.shared import (
    METRICS,
    SETTINGS,
    model_of,
    pools_of,
    scaling_json,
    scaling_of,
)
from weftline.launch.targets.job import FABRIC
from weftline.launch.targets.kubernetes.shared import (
    DEFAULT_IMAGES,
    SERVE_SETTINGS,
    Object,
    documents,
    env_of,
    image_of,
    pod,
)


def _workload(ask: Ask, role: str, degrees: dict[str, int]) -> tuple[Object, list[str]]:
    """Parallelism and pods of one role."""
    flags, notes = vllm.flags_of(ask, degrees)
    # KServe writes the degrees itself, from ``parallelism``.
    own = ("--tensor", "--pipeline", "--data", "--enable-expert")
    words = [w for f in flags if not f[0].startswith(own) for w in f]
    container: Object = {
        "name": "main", "image": image_of(ask, DEFAULT_IMAGES["vllm"]),
        "env": env_of(ask, {"VLLM_ADDITIONAL_ARGS": " ".join(words)}),
    }  # fmt: skip
    spec, more = pod(ask, container, restart=None, host_network=False)
    tp, pp, dp, ep = (degrees.get(n, 1) for n in ("tp", "pp", "dp", "ep"))
    parallelism: dict[str, int | bool] = {"tensor": tp}
    if pp > 1:
        parallelism["pipeline"] = pp
    if dp > 1:
        parallelism |= {"data": dp, "dataLocal": max(1, min(dp, ask.per_host // tp))}
    if ep > 1:
        parallelism["expert"] = True
    found: Object = {"parallelism": parallelism, "template": spec}
    if tp * pp * dp > ask.per_host:
        found["worker"] = spec
    said = [*notes, *more]
    if role:
        said.append(f"{role} workers scale with their own `scaling`")
    return found, said


def service(ask: Ask) -> tuple[Object, tuple[str, ...]]:
    """The object, and what it cannot say. Raises InputError for an engine beside vLLM."""
    fleet = ask.serve.fleet
    if fleet.engine != "vllm":
        raise InputError(
            f"LLMInferenceService serves with vLLM, the plan with {fleet.engine}",
            where="--to",
            hint="plan with --engine vllm, or export to lws",
        )
    scaling, notes = scaling_of(ask)
    pools = pools_of(ask)
    spec: Object = {
        "model": {"uri": f"hf://{model_of(ask)}", "name": ask.serve.demand.model},
        "router": {"gateway": {}, "route": {}, "scheduler": {}},
    }  # fmt: skip
    said = [*notes]
    for role, degrees, workers in pools:
        found, more = _workload(ask, role, degrees)
        said += more
        if len(pools) == 1 and ask.set("autoscaler") != "none":
            found["scaling"] = _scaling(ask, scaling.replicas, scaling.most, scaling.running)
        else:
            found["replicas"] = workers
        if role == "prefill":
            spec["prefill"] = found
        else:
            spec |= found
    if fleet.routing == "round-robin":
        spec["router"].pop("scheduler")
    return {
        "apiVersion": "serving.kserve.io/v1alpha2", "kind": "LLMInferenceService",
        "metadata": {"name": ask.name, "namespace": ask.set("namespace")}, "spec": spec,
    }, tuple(dict.fromkeys(said))  # fmt: skip


def _scaling(ask: Ask, least: int, most: int, running: int) -> Object:
    query = f'sum({METRICS["vllm"][0]}{{namespace="{ask.set("namespace")}"}})'
    return {"minReplicas": least, "maxReplicas": most, "keda": {"triggers": [
        {"type": "prometheus", "metricType": "AverageValue", "metadata": {
            "serverAddress": ask.set("prometheus"), "query": query,
            "threshold": str(running)}}]}}  # fmt: skip


def write(ask: Ask) -> Written:
    """``serve.yaml`` and the scaling numbers."""
    found, notes = service(ask)
    return Written(files={"serve.yaml": documents([found]), "scaling.json": scaling_json(ask)[0]},
                   start="kubectl apply -f serve.yaml", notes=notes)  # fmt: skip


TARGET = Target(
    name="kserve", title="KServe LLMInferenceService", kinds=("serve",), version="v1alpha2",
    date="2026-11-30", source="kserve/kserve@aaac4e29",
    checked="schema", how="CRD schema, CEL rules, enums, vLLM's flags",
    maps=(
        Mapped(what="tp, pp, dp, ep", where="spec.parallelism"),
        Mapped(what="most sequences, tokens a step, formats", where="VLLM_ADDITIONAL_ARGS"),
        Mapped(what="replicas, scaling", where="spec.replicas or spec.scaling.keda"),
        Mapped(what="prefill and decode", where="spec.prefill beside spec"),
        Mapped(what="routing", where="router.scheduler (its endpoint picker)"),
    ),
    cannot=("engines beside vLLM", "nearness of a replica's hosts"),
    write=write, settings={**SETTINGS, **SERVE_SETTINGS, **FABRIC},
)  # fmt: skip
