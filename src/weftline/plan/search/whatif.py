"""What a plan would be with some knobs turned: another layout, recipe or machine, same job."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Final

import numpy as np

from weftline.catalog import accelerator
from weftline.errors import InputError, UnknownNameError
from weftline.model import Model, load_model
from weftline.plan.calibrate.calibration import PUBLISHED, calibrated, constants_for
from weftline.plan.calibrate.residual import features_of
from weftline.plan.search.search import USABLE_MEMORY
from weftline.plan.step.compiled import compile_layouts
from weftline.plan.step.constants import without_overlap
from weftline.plan.step.frameworks import framework, framework_for, recipe_of
from weftline.plan.step.layouts import check_model, columns_of
from weftline.plan.step.memory import memory_of
from weftline.plan.step.timing import time_step
from weftline.spec import PRECISIONS, RECOMPUTES, Cluster, Job, Layout, Plan

LAYOUT_KNOBS: Final = tuple(f.name for f in fields(Layout) if f.name not in ("order",))
JOB_KNOBS: Final = ("precision", "optimizer", "offload", "overlap", "framework")
CLUSTER_KNOBS: Final = ("peak", "memory", "memory_bandwidth", "scale_up", "scale_out")
KNOBS: Final = LAYOUT_KNOBS + JOB_KNOBS + CLUSTER_KNOBS


@dataclass(frozen=True, slots=True, kw_only=True)
class WhatIf:
    """The plan as it is and as it would be."""

    changes: dict[str, str]
    layout: Layout
    step_time_s: tuple[float, float]
    memory_bytes: tuple[float, float]
    fits: bool
    capacity_bytes: float
    """What a chip has, with the changes."""
    train_time_s: tuple[float, float]
    cost_usd: tuple[float, float] | None


def parse_changes(text: str) -> dict[str, str]:
    """``tp=4,scale_out=2x`` -> names and values. Raises InputError, UnknownNameError."""
    changes: dict[str, str] = {}
    for part in text.split(","):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not value:
            raise InputError(f"`{part.strip()}` is not name=value", where="--what-if",
                             hint="for example tp=4,micro_batch=2 or scale_out=2x")  # fmt: skip
        if name not in KNOBS:
            raise UnknownNameError("knob", name, KNOBS, where="--what-if")
        changes[name] = value
    return changes


def what_if(plan: Plan, changes: Mapping[str, str]) -> WhatIf:
    """Evaluate ``plan`` with ``changes``; dp and the micro-batches follow unless they are given.

    Raises InputError(s) for values that cannot be and layouts that cannot run.
    """
    model = load_model(plan.job.model)
    asked = replace(plan.job, framework=plan.framework)
    job, cluster = _job(asked, changes), _cluster(plan.cluster, changes)
    layout = _layout(plan.layout, changes, job, cluster, len(model.layers))
    _check_recipe(job, cluster, layout)
    layout.check(chips=cluster.chips, global_batch=job.global_batch, layers=len(model.layers))
    check_model(layout, model)
    before_s, _ = _evaluate(model, asked, plan.cluster, plan.layout)
    after_s, after_bytes = _evaluate(model, job, cluster, layout)
    told = plan.estimates["step_time"].value
    # The plan's own number stays as it is: the change is applied as a ratio.
    step = told * after_s / before_s
    run = plan.estimates["train_time"].value
    cost = plan.estimates.get("cost")
    ratio = step / told
    return WhatIf(
        changes=dict(changes),
        layout=layout,
        step_time_s=(told, step),
        memory_bytes=(plan.estimates["memory"].value, after_bytes),
        fits=after_bytes <= USABLE_MEMORY * cluster.memory_bytes,
        capacity_bytes=cluster.memory_bytes,
        train_time_s=(run, run * ratio),
        cost_usd=None if cost is None else (cost.value, cost.value * ratio),
    )


def _check_recipe(job: Job, cluster: Cluster, layout: Layout) -> None:
    """Raise InputError for what the framework or the chip does not have."""
    name = framework_for(job.framework, accelerator(cluster.accelerator).stack)
    if job.precision not in cluster.peak_flops:
        raise InputError(
            f"{cluster.accelerator} has no {job.precision} peak", where="--what-if",
            hint=f"it has {', '.join(cluster.peak_flops)}",
        )  # fmt: skip
    if layout.schedule == "zero-bubble" and (layout.pp == 1 or not framework(name).zero_bubble):
        raise InputError(
            f"no zero-bubble schedule in {name} with pp={layout.pp}", where="--what-if"
        )


def _evaluate(model: Model, job: Job, cluster: Cluster, layout: Layout) -> tuple[float, float]:
    """Step time in seconds and memory in bytes of one layout."""
    frame = recipe_of(job, job.framework)
    found = constants_for(cluster.accelerator, frame.name)
    constants = found.constants if job.overlap else without_overlap(found.constants)
    columns = columns_of(layout, len(model.layers))
    memory = memory_of(model, frame, columns, seq_len=job.seq_len)
    compiled = compile_layouts(
        model, cluster, frame, columns, seq_len=job.seq_len, precision=job.precision
    )
    features = features_of(
        model, cluster, columns, group=found.group, version="", precision=job.precision,
        seq_len=job.seq_len,
    )  # fmt: skip
    mean = calibrated(PUBLISHED)[1].mean(features)
    seconds = time_step(compiled, constants).total_s * np.exp(mean)
    return float(seconds[0]), float(memory.total_bytes[0])


def _layout(
    layout: Layout, changes: Mapping[str, str], job: Job, cluster: Cluster, layers: int
) -> Layout:
    given: dict[str, Any] = {}
    stages = int(changes["pp"]) if changes.get("pp", "").isdigit() else layout.pp
    stage_layers = -(-layers // max(stages, 1))
    for name in LAYOUT_KNOBS:
        if name in changes:
            given[name] = _value(name, changes[name])
    if "vp" in given and "schedule" not in given:
        given["schedule"] = "interleaved" if given["vp"] > 1 else "1f1b"
    if "recompute" in given and "recompute_layers" not in given:
        given["recompute_layers"] = stage_layers if given["recompute"] == "full" else 0
    if given.get("recompute_layers") and "recompute" not in given:
        given["recompute"] = "full"
    if given.get("recompute_layers", 0) > stage_layers:
        asked = given["recompute_layers"]
        raise InputError(
            f"recompute_layers={asked}: a stage has {stage_layers} layers", where="--what-if"
        )
    new = replace(layout, **given)
    if "dp" not in given:
        new = replace(new, dp=max(1, cluster.chips // (new.tp * new.cp * new.pp)))
    if "num_micro_batches" not in given:
        new = replace(new, num_micro_batches=max(1, job.global_batch // (new.dp * new.micro_batch)))
    if "shard" not in given and {"tp", "cp", "dp", "pp"} & given.keys():
        new = replace(new, shard=0)
    return new


def _value(name: str, text: str) -> int | str:
    if name == "recompute":
        return _one_of(name, text, RECOMPUTES)
    if name == "schedule":
        return _one_of(name, text, ("1f1b", "interleaved", "zero-bubble"))
    if name == "context":
        return _one_of(name, text, ("ring", "ulysses"))
    if not re.fullmatch(r"\d{1,7}", text):
        raise InputError(f"{name}={text}: a whole number is needed", where="--what-if")
    return int(text)


def _one_of(name: str, text: str, allowed: tuple[str, ...]) -> str:
    if text not in allowed:
        raise UnknownNameError(name, text, allowed, where="--what-if",
                               hint=f"one of {', '.join(allowed)}")  # fmt: skip
    return text


def _job(job: Job, changes: Mapping[str, str]) -> Job:
    given: dict[str, Any] = {}
    for name in ("optimizer", "framework"):
        if name in changes:
            given[name] = changes[name]
    if "precision" in changes:
        given["precision"] = _one_of("precision", changes["precision"], PRECISIONS)
    for name in ("offload", "overlap"):
        if name in changes:
            given[name] = _one_of(name, changes[name], ("on", "off")) == "on"
    return replace(job, **given)


def _cluster(cluster: Cluster, changes: Mapping[str, str]) -> Cluster:
    factor = {name: _factor(name, changes[name]) for name in CLUSTER_KNOBS if name in changes}
    levels = tuple(
        replace(lv, bandwidth_bytes_per_s=lv.bandwidth_bytes_per_s
                * factor.get("scale_up" if i == 0 else "scale_out", 1.0))
        for i, lv in enumerate(cluster.levels)
    )  # fmt: skip
    peak = factor.get("peak", 1.0)
    return replace(
        cluster,
        levels=levels,
        peak_flops={k: v * peak for k, v in cluster.peak_flops.items()},
        memory_bytes=cluster.memory_bytes * factor.get("memory", 1.0),
        memory_bandwidth_bytes_per_s=cluster.memory_bandwidth_bytes_per_s
        * factor.get("memory_bandwidth", 1.0),
    )


def _factor(name: str, text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)x", text)
    if match is None or float(match.group(1)) <= 0:
        raise InputError(f"{name}={text}: a factor is needed", where="--what-if",
                         hint=f"for example {name}=2x")  # fmt: skip
    return float(match.group(1))
