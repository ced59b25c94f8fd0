"""SkyPilot: a task whose ``any_of`` is the plan's ranking, each with its price beside it."""

from __future__ import annotations

import datetime
from typing import Any, Final

from weftline.launch.environment import as_mapping, environment_of, network_resources, tags_of
from weftline.launch.nouns import Ask, Mapped, Target, Written
from weftline.launch.targets.job import FABRIC, PREFLIGHT, job_of, meeting_at, under_torchrun
from weftline.launch.yaml_text import yaml_text
from weftline.spec import Plan

# Our seller -> SkyPilot's cloud; chip -> its accelerator name (catalogue v8, 0.14.1).
CLOUDS: Final = {
    "aws": "aws", "gcp": "gcp", "azure": "azure", "oci": "oci", "lambda": "lambda",
    "nebius": "nebius", "runpod": "runpod", "cudo": "cudo", "do": "do", "fluidstack": "fluidstack",
    "hyperbolic": "hyperbolic", "hyperstack": "hyperstack", "ibm": "ibm", "vast": "vast",
    "paperspace": "paperspace", "primeintellect": "primeintellect", "scp": "scp",
    "seeweb": "seeweb", "shadeform": "shadeform", "mithril": "mithril", "verda": "verda",
}  # fmt: skip
ACCELERATORS: Final = {
    "h100-sxm": "H100", "h100-pcie": "H100", "h200-sxm": "H200", "b200": "B200", "b300": "B300",
    "gb200-nvl72": "GB200", "a100-80-sxm": "A100-80GB", "a100-40-sxm": "A100", "l4": "L4",
    "l40s": "L40S", "a10g": "A10G", "t4": "T4", "v100-16-sxm": "V100", "v100-32-sxm": "V100-32GB",
    "mi300x": "MI300X", "mi325x": "MI325X", "trainium1": "Trainium", "trainium2": "Trainium2",
    "tpu-v5e": "tpu-v5litepod", "tpu-v5p": "tpu-v5p", "tpu-v6e": "tpu-v6e",
}  # fmt: skip
# Clouds on which SkyPilot starts single machines only (sky/clouds/*.py, MULTI_NODE, 0.14.1).
SINGLE: Final = frozenset({"hyperbolic", "primeintellect", "runpod", "seeweb", "shadeform", "vast",
                           "verda"})  # fmt: skip


def resources_of(ask: Ask, plan: Plan) -> tuple[list[dict[str, Any]], list[str]]:
    """``any_of``: the seller of the plan first, then the others that sell its chip, cheapest first.

    The layout is for one chip and count, so other chips of the ranking are not in it.
    """
    from weftline.catalog import offers_to_take

    name = ACCELERATORS.get(ask.accelerator)
    if name is None:
        return [], [f"SkyPilot's name of {ask.accelerator} is not known"]
    base: dict[str, Any] = {"accelerators": {name: ask.per_host}}
    if plan.job.price_type == "spot":
        base["use_spot"] = True
    quote, found, notes = plan.price, [], []
    if quote is not None:
        found.append(_one(ask, base, quote.provider, quote.region,
                          quote.usd_per_chip_hour.value * ask.per_host))  # fmt: skip
    others: dict[str, float] = {}
    day = datetime.date.fromisoformat(plan.catalog_date)
    for offer in offers_to_take(ask.accelerator, _paid(plan), today=day):
        rate = offer.usd_per_chip_hour
        if quote is None or offer.provider != quote.provider:
            others[offer.provider] = min(rate, others.get(offer.provider, rate))
    for seller, rate in sorted(others.items(), key=lambda pair: pair[1]):
        found.append(_one(ask, base, seller, "unstated", rate * ask.per_host))
    kept = [one for one in found if one]
    if quote is not None and ask.nodes > 1 and CLOUDS.get(quote.provider) in SINGLE:
        notes.append(f"SkyPilot starts single machines on {quote.provider}, the plan wants "
                     f"{ask.nodes} together")  # fmt: skip
    if quote is not None and quote.provider not in CLOUDS:
        notes.append(
            f"SkyPilot does not start machines of {quote.provider}, whose price the plan "
            f"took: {'the others of any_of are dearer' if kept else 'any cloud will do'}"
        )
    return kept or [base], notes


def _paid(plan: Plan) -> str:
    return plan.price.price_type if plan.price is not None else "on-demand"


def _one(
    ask: Ask, base: dict[str, Any], seller: str, region: str, usd_per_hour: float
) -> dict[str, Any]:  # fmt: skip
    cloud = CLOUDS.get(seller)
    if cloud is None or (ask.nodes > 1 and cloud in SINGLE):
        return {}
    place = f"{cloud}/{region}" if region not in ("unstated", "", "any") else cloud
    found = {
        "infra": place,
        **base,
        "labels": {"weftline-usd-per-node-hour": f"{usd_per_hour:.2f}"},
    }
    if ask.nodes > 1 and cloud in ("aws", "gcp", "azure", "nebius"):
        found["network_tier"] = "best"
    return found


def _pod_config(ask: Ask) -> dict[str, Any]:
    """EFA asked for by name, and one zone: SkyPilot leaves both out in cases (#10055, #10056)."""
    network, _ = network_resources(ask)
    container: dict[str, Any] = {"securityContext": {"capabilities": {"add": ["IPC_LOCK"]}}}
    if network:
        container["resources"] = {"limits": dict(network), "requests": dict(network)}
    term = {"labelSelector": {"matchExpressions": [
        {"key": "skypilot-cluster-name", "operator": "Exists"}]},
        "topologyKey": "topology.kubernetes.io/zone"}  # fmt: skip
    affinity = {"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
        {"weight": 100, "podAffinityTerm": term}]}}  # fmt: skip
    return {"spec": {"containers": [container], "affinity": affinity}}


def write(ask: Ask) -> Written:
    """``task.yaml`` beside the job's files, which it sends as its workdir."""
    plan = ask.train
    job = job_of(ask)
    any_of, notes = resources_of(ask, plan)
    if ask.hosts:
        notes.append("SkyPilot chooses the hosts: their names cannot be given")
    if "efa" in tags_of(ask):
        notes.append("check that EFA is there before you train (--set preflight=yes): it is left "
                     "out on scale-from-zero EKS (skypilot #10055)")  # fmt: skip
    run = (
        "source job.env\n"
        'head=$(echo "$SKYPILOT_NODE_IPS" | head -n 1)\n'
        f"{meeting_at('$head')}\n"
        + under_torchrun(ask, job, node='"$SKYPILOT_NODE_RANK"', head='"$head"', last="")
    )
    task: dict[str, Any] = {
        "name": ask.name, "num_nodes": ask.nodes, "workdir": ".",
        "resources": {"any_of": any_of} if len(any_of) > 1 else any_of[0],
        "envs": as_mapping(environment_of(ask)), "run": run,
    }  # fmt: skip
    if ask.nodes > 1:
        task["config"] = {"kubernetes": {"pod_config": _pod_config(ask)}}
    if ask.image:
        where = task["resources"]["any_of"] if len(any_of) > 1 else [task["resources"]]
        for one in where:
            one["image_id"] = f"docker:{ask.image}"
    return Written(files={**job.files, "task.yaml": yaml_text(task)},
                   start="sky launch task.yaml", notes=(*job.notes, *notes))  # fmt: skip


TARGET = Target(
    name="skypilot", title="SkyPilot", kinds=("train",), version="0.14.1", date="2026-11-30",
    source="https://docs.skypilot.co/en/latest/reference/yaml-spec.html",
    checked="own parser", how="sky.Task.from_yaml where SkyPilot is installed, else its keys",
    maps=(
        Mapped(what="hosts, chips a host", where="num_nodes, accelerators"),
        Mapped(what="seller, region, price; the others by price", where="any_of, labels"),
        Mapped(what="spot", where="use_spot"),
        Mapped(what="rank map", where="weftline_place.py under torchrun"),
        Mapped(what="fabric", where="network_tier, envs, pod_config with EFA and zone affinity"),
    ),
    cannot=("host names", "nearness of hosts beside one zone", "other chips of the ranking: the "
            "layout is for one"),
    write=write, settings={**FABRIC, **PREFLIGHT},
)  # fmt: skip
