"""llm-d: values of its model-service chart, as text."""

from __future__ import annotations

from weftline.errors import InputError
from weftline.launch.environment import network_resources, resource_of
from weftline.launch.nouns import Ask, Mapped, Target, Written
from weftline.launch.targets.engines import vllm
from weftline.launch.targets.engines.shared import SETTINGS, model_of, pools_of, scaling_json
from weftline.launch.targets.job import FABRIC
from weftline.launch.targets.kubernetes.shared import (
    DEFAULT_IMAGES,
    SERVE_SETTINGS,
    Object,
    env_of,
    image_of,
)
from weftline.launch.yaml_text import yaml_text


def write(ask: Ask) -> Written:
    """``values.yaml`` and the scaling numbers. Raises InputError for an engine beside vLLM."""
    if ask.serve.fleet.engine != "vllm":
        raise InputError(f"llm-d serves with vLLM, the plan with {ask.serve.fleet.engine}",
                         where="--to", hint="plan with --engine vllm")  # fmt: skip
    values: Object = {
        "modelArtifacts": {"uri": f"hf://{model_of(ask)}", "name": model_of(ask)},
        "routing": {"servicePort": 8000, "proxy": {"enabled": True}},
        "multinode": False,
    }  # fmt: skip
    network, notes = network_resources(ask)
    said = list(notes)
    for role, degrees, workers in pools_of(ask):
        flags, more = vllm.flags_of(ask, degrees)
        said += more
        tp, dp = degrees.get("tp", 1), degrees.get("dp", 1)
        chips = tp * dp * degrees.get("pp", 1)
        values["multinode"] = values["multinode"] or chips > ask.per_host
        limits = {resource_of(ask): min(chips, ask.per_host), **network}
        words = [w for f in flags if not f[0].startswith(("--tensor", "--data-par")) for w in f]
        values[role or "decode"] = {
            "create": True, "replicas": workers, "parallelism": {"tensor": tp, "data": dp},
            "containers": [{
                "name": "vllm", "image": image_of(ask, DEFAULT_IMAGES["vllm"]),
                "modelCommand": "vllmServe", "args": words,
                "env": env_of(ask, {}),
                "resources": {"limits": limits, "requests": limits},
            }],
        }  # fmt: skip
    values.setdefault("prefill", {"create": False})
    said.append("the endpoint picker of its gateway chart routes by load and by prefix")
    return Written(files={"values.yaml": yaml_text(values),
                          "scaling.json": scaling_json(ask)[0]},
                   start=f"helm install {ask.name} llm-d-modelservice/llm-d-modelservice "
                   "-f values.yaml", notes=tuple(dict.fromkeys(said)))  # fmt: skip


TARGET = Target(
    name="llm-d", title="llm-d model service", kinds=("serve",), version="chart of 2026-11",
    date="2026-11-30", source="llm-d-incubation/llm-d-modelservice values.yaml",
    checked="not checked", how="text: the chart ships no schema; vLLM's flags are checked",
    maps=(
        Mapped(what="tp, dp", where="decode.parallelism, prefill.parallelism"),
        Mapped(what="most sequences, formats", where="containers.args"),
        Mapped(what="workers", where="decode.replicas, prefill.replicas"),
    ),
    cannot=("pipeline degrees in `parallelism`", "engines beside vLLM", "autoscaling"),
    write=write, settings={**SETTINGS, **SERVE_SETTINGS, **FABRIC},
)  # fmt: skip
