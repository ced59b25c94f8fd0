"""Environment variables by fabric: rows with reason and source, by what a plan runs on."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from weftline.errors import UnknownNameError
from weftline.launch.nouns import Ask
from weftline.spec import Plan

_EFA_SELLERS = frozenset({"aws", "amazon"})
_ROCE_SELLERS = frozenset({"oci", "oracle", "nscale", "tensorwave"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """One variable: where it holds (every tag of ``when``), why, and who says so."""

    name: str
    value: str
    when: tuple[str, ...]
    why: str
    source: str
    date: str


@cache
def variables() -> tuple[Variable, ...]:
    """Every row of ``data/environment.json``."""
    text = files("weftline.launch").joinpath("data/environment.json").read_text("utf-8")
    return tuple(
        Variable(**{**row, "when": tuple(row["when"])}) for row in json.loads(text)["rows"]
    )


@cache
def efa_interfaces() -> dict[str, int]:
    """EFA interfaces of an EC2 instance, by type."""
    text = files("weftline.launch").joinpath("data/environment.json").read_text("utf-8")
    return dict(json.loads(text)["efa_interfaces"])


def tags_of(ask: Ask) -> frozenset[str]:
    """What the job runs on: nccl, rccl, neuron or xla; ib, roce or efa; mnnvl; the framework.

    ``--set fabric=efa`` (or roce, ib) overrules what the seller suggests.
    """
    plan = ask.plan
    vendor = ask.chip.vendor
    stack = {"nvidia": "nccl", "amd": "rccl", "aws": "neuron", "google": "xla"}.get(vendor, vendor)
    tags = {stack}
    seller = plan.price.provider if plan.price is not None else ""
    fabric = ask.set("fabric")
    if fabric and fabric not in ("efa", "ib", "roce"):
        raise UnknownNameError("fabric", fabric, ("efa", "ib", "roce"), where="--set fabric")
    if not fabric and stack in ("nccl", "rccl", "neuron"):
        fabric = "efa" if seller in _EFA_SELLERS or stack == "neuron" else (
            "roce" if seller in _ROCE_SELLERS else "ib")  # fmt: skip
    if fabric and ask.nodes > 1:
        tags.add(fabric)
    if stack == "nccl" and _one_domain_over_hosts(ask):
        tags.add("mnnvl")
    if isinstance(plan, Plan):
        tags |= {"train", plan.framework.split("-20")[0]}
        if plan.layout.tp > 1:
            tags.add("tp")
    else:
        tags |= {"serve", plan.fleet.engine}
    generation = "blackwell" if ask.accelerator.startswith(("b", "gb", "vr", "r")) else "hopper"
    return frozenset({*tags, generation})


def _one_domain_over_hosts(ask: Ask) -> bool:
    return ("nvl72" in ask.accelerator and ask.nodes > 1) or ask.domain_nodes > 1


def environment_of(ask: Ask) -> tuple[Variable, ...]:
    """The variables of the job, in the order of the table."""
    tags = tags_of(ask)
    return tuple(row for row in variables() if tags.issuperset(row.when))


def as_shell(rows: Iterable[Variable]) -> str:
    """A file for ``source``: each variable under its reason."""
    lines = ["# Set by fabric; what is set already stays."]
    for row in rows:
        lines += [f"# {row.why} ({row.source}, {row.date})",
                  f'export {row.name}="${{{row.name}:-{row.value}}}"']  # fmt: skip
    return "\n".join(lines) + "\n"


def as_mapping(rows: Iterable[Variable]) -> dict[str, str]:
    """The same where a target wants names and values."""
    return {row.name: row.value for row in rows}


def resource_of(ask: Ask) -> str:
    """Name of the chip as a Kubernetes resource."""
    vendor = ask.chip.vendor
    return {
        "nvidia": "nvidia.com/gpu",
        "amd": "amd.com/gpu",
        "aws": "aws.amazon.com/neuron",
        "google": "google.com/tpu",
        "intel": "habana.ai/gaudi",
    }.get(vendor, "nvidia.com/gpu")


def network_resources(ask: Ask) -> tuple[dict[str, int | str], tuple[str, ...]]:
    """Kubernetes resources of the host's network, and what could not be told."""
    tags = tags_of(ask)
    if ask.nodes == 1:
        return {}, ()
    if "efa" in tags:
        instance = ask.plan.price.instance if ask.plan.price is not None else ""
        count = efa_interfaces().get(ask.set("instance") or instance)
        if count is None:
            said = f"how many EFA interfaces `{instance or 'the instance'}` has is not known: "
            return {}, (said + "give `--set instance=p5.48xlarge`, or the job runs over TCP",)
        return {"vpc.amazonaws.com/efa": count}, ()
    if tags & {"ib", "roce"} and tags & {"nccl", "rccl"}:
        return {"rdma/hca": 1}, ("`rdma/hca` is the shared-device plugin's usual name: "
                                "your cluster may call it otherwise",)  # fmt: skip
    return {}, ()
