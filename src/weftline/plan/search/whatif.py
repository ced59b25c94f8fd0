"""What a plan would be with some knobs turned: another layout, recipe, machine, price or job.

A knob of the layout or the recipe is turned on the plan's own layout. One of the machine or the job
(another chip, count, framework, batch, sequence, way to tune) asks for the best layout there, with
the parts that are named held.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, cast

import numpy as np

from weftline.catalog import accelerator, own_chips
from weftline.catalog.date import CATALOG_DATE
from weftline.catalog.own import HOSTS
from weftline.cost import Terms, no_price
from weftline.errors import InputError, NoFeasiblePlanError, UnknownNameError
from weftline.fabric import cluster_of, host_source
from weftline.model import Model
from weftline.model.policy import model_under
from weftline.plan.calibrate.calibration import PUBLISHED, calibrated, constants_for
from weftline.plan.calibrate.residual import features_of
from weftline.plan.search.checked import check_lengths
from weftline.plan.search.fits import USABLE_MEMORY, fits_on
from weftline.plan.search.misses import no_layout, out_of_memory
from weftline.plan.search.search import Found, best_on
from weftline.plan.step.compiled import compile_layouts
from weftline.plan.step.constants import without_overlap
from weftline.plan.step.frameworks import framework, framework_for, recipe_of
from weftline.plan.step.layouts import check_model, columns_of
from weftline.plan.step.memory import memory_of
from weftline.plan.step.timing import time_step
from weftline.spec import (
    ANY,
    PARTS,
    PRECISIONS,
    PRICE_TYPES,
    RECOMPUTES,
    TUNES,
    Cluster,
    HostPath,
    Job,
    Layout,
    Plan,
)
from weftline.spec.parse import own_price, parse_knobs
from weftline.units import parse_count, parse_usd

LAYOUT_KNOBS: Final = tuple(PARTS)
RECIPE_KNOBS: Final = ("precision", "optimizer", "offload", "overlap")
ANEW_KNOBS: Final = ("accelerator", "chips", "framework", "batch", "seq", "tune", "rank")
CLUSTER_KNOBS: Final = ("peak", "memory", "memory_bandwidth", "scale_up", "scale_out")
KNOBS: Final = (*ANEW_KNOBS, "price", *RECIPE_KNOBS, *LAYOUT_KNOBS, *CLUSTER_KNOBS, "host")
_WHERE: Final = "--what-if"


@dataclass(frozen=True, slots=True, kw_only=True)
class WhatIf:
    """The plan as it is and as it would be."""

    changes: dict[str, str]
    accelerator: tuple[str, str]
    chips: tuple[int, int]
    layout: Layout
    anew: bool
    """Whether the layout was searched again, because the machine or the job is another."""
    step_time_s: tuple[float, float]
    memory_bytes: tuple[float, float]
    fits: bool
    capacity_bytes: float
    """What a chip has, with the changes."""
    train_time_s: tuple[float, float]
    cost_usd: tuple[float | None, float | None] | None
    """None where there is no price on either side."""
    usd_per_chip_hour: tuple[float | None, float | None]
    host_s: tuple[float, float] = (0.0, 0.0)
    """Of the step, what hosts add that do not let their NICs be driven from user space."""
    host: str = ""
    """What is known of the way asked for, where one is."""
    no_price: str = ""
    """Why there is no cost with the changes, where there is none."""


def parse_changes(text: str) -> dict[str, str]:
    """``tp=4,scale_out=2x`` -> names and values. Raises InputError, UnknownNameError."""
    return parse_knobs(text, KNOBS)


def what_if(plan: Plan, changes: Mapping[str, str]) -> WhatIf:
    """Evaluate ``plan`` with ``changes``; dp and the micro-batches follow unless they are given.

    Raises InputError(s) for values that cannot be and layouts that cannot run, NoFeasiblePlanError
    where a machine or job searched anew has no layout.
    """
    with own_chips(plan.job.own_chips):
        model = model_under(plan.job.model, plan.job.policy)
        asked = replace(plan.job, framework=plan.framework)
        job = _job(asked, changes)
        base = plan.cluster
        if {"accelerator", "chips"} & changes.keys():
            base = _machine(base, changes)
        cluster = _cluster(base, changes)
        anew = bool(set(ANEW_KNOBS) & changes.keys())
        turn = _searched if anew else _turned
        layout, step, held = turn(plan, model, job, cluster, changes)
        return _compared(plan, changes, job, cluster, layout, step, held, anew=anew)


def _compared(
    plan: Plan, changes: Mapping[str, str], job: Job, cluster: Cluster, layout: Layout,
    step: float, held: float, *, anew: bool,
) -> WhatIf:  # fmt: skip
    run, before_s = plan.estimates["train_time"].value, plan.estimates["step_time"].value
    after_s = step * job.steps if anew else run * step / before_s
    told = plan.price.usd_per_chip_hour.value if plan.price is not None else None
    rate, lacking = _rate(plan, job, cluster, changes, told)
    cost = plan.estimates.get("cost")
    before = None if cost is None else cost.value
    after = None if rate is None else rate * cluster.chips * after_s / 3600.0
    return WhatIf(
        changes=dict(changes), accelerator=(plan.cluster.accelerator, cluster.accelerator),
        chips=(plan.cluster.chips, cluster.chips), layout=layout, anew=anew,
        step_time_s=(before_s, step),
        memory_bytes=(plan.estimates["memory"].value, held),
        fits=held <= USABLE_MEMORY * cluster.memory_bytes, capacity_bytes=cluster.memory_bytes,
        train_time_s=(run, after_s),
        cost_usd=None if before is None and after is None else (before, after),
        usd_per_chip_hour=(told, rate), no_price=lacking,
        host_s=(_host_s(plan, plan.job, plan.cluster, plan.layout, before_s),
                _host_s(plan, job, cluster, layout, step)),
        host=host_source(changes["host"]) if "host" in changes else "",
    )  # fmt: skip


def _host_s(plan: Plan, job: Job, cluster: Cluster, layout: Layout, step_s: float) -> float:
    """Of a step, what its hosts add over ones that let NICs be driven from user space."""
    if cluster.host in ("auto", "bypass"):
        return 0.0
    asked = replace(job, framework=plan.framework)
    with_s, without_s = (
        _evaluate(model_under(job.model, job.policy), asked, one, layout)[0]
        for one in (cluster, replace(cluster, host="bypass"))
    )
    return step_s * (1 - without_s / with_s)


def _turned(
    plan: Plan, model: Model, job: Job, cluster: Cluster, changes: Mapping[str, str]
) -> tuple[Layout, float, float]:
    """(layout, step time in seconds, bytes a chip) of the plan's own layout with knobs turned."""
    layout = _layout(plan.layout, changes, job, cluster, len(model.layers))
    _check_recipe(job, cluster, layout)
    layout.check(chips=cluster.chips, global_batch=job.global_batch, layers=len(model.layers))
    check_model(layout, model)
    before = replace(plan.job, framework=plan.framework)
    before_s, _ = _evaluate(model, before, plan.cluster, plan.layout)
    after_s, after_bytes = _evaluate(model, job, cluster, layout)
    # The plan's own number stays as it is: the change is applied as a ratio.
    return layout, plan.estimates["step_time"].value * after_s / before_s, after_bytes


def _searched(
    plan: Plan, model: Model, job: Job, cluster: Cluster, changes: Mapping[str, str]
) -> tuple[Layout, float, float]:
    """The same of the best layout on another machine, or for another job."""
    held = {name: _value(name, changes[name]) for name in LAYOUT_KNOBS if name in changes}
    job = replace(job, layout={**plan.job.layout, **held}, chips=cluster.chips, max_chips=None)
    check_lengths(job, model, lambda _: _WHERE)
    acc = accelerator(cluster.accelerator)
    asked = changes.get("framework", plan.job.framework)
    frame = recipe_of(job, framework_for(asked, acc.vendor))
    _check_recipe(replace(job, framework=frame.name), cluster, Layout())
    fits = fits_on(model, job, frame, cluster)
    if fits is None:
        raise NoFeasiblePlanError(no_layout(model, job, frame, cluster.chips))
    if not fits.fits.any():
        said = out_of_memory(model, job, frame, acc, cluster, fits)
        raise NoFeasiblePlanError(f"{cluster.chips:,} x {acc.id} {said}")
    constants = constants_for(acc.like or acc.id, frame.name)
    if not job.overlap:
        constants = replace(constants, constants=without_overlap(constants.constants))
    found: Found = best_on(model, job, cluster, constants, fits)
    return found.layout, found.step_time_s, float(found.memory.total_bytes[0])


def _machine(cluster: Cluster, changes: Mapping[str, str]) -> Cluster:
    """Another chip, or another count of them."""
    name = changes.get("accelerator", cluster.accelerator)
    try:
        acc = accelerator(name)
    except UnknownNameError as error:
        error.where = _WHERE
        raise
    count = cluster.chips
    if "chips" in changes:
        count = parse_count(changes["chips"], where=_WHERE)
    return cluster_of(acc, count)


def _rate(
    plan: Plan, job: Job, cluster: Cluster, changes: Mapping[str, str], told: float | None
) -> tuple[float | None, str]:
    """(US dollars a chip-hour with the changes, or why there are none)."""
    own, kind = dict(job.own_prices), job.price_type
    if "price" in changes:
        text = changes["price"]
        if text.lower() in PRICE_TYPES:
            own, kind = {}, text.lower()  # type: ignore[assignment]
        else:
            mine = own_price(text, where=_WHERE) if "/" in text else parse_usd(text, where=_WHERE)
            own = {ANY: mine or 0.0}
    elif "accelerator" not in changes:
        return told, "" if told is not None else no_price(cluster.accelerator, kind, job.region)
    terms = Terms(own_prices=own, discounts=job.discounts, region=job.region)
    mine = terms.own(cluster.accelerator)
    if mine is not None:
        return mine, ""
    try:
        day = datetime.date.fromisoformat(plan.catalog_date or CATALOG_DATE)
        return terms.best(cluster.accelerator, kind, day).usd_per_chip_hour, ""
    except InputError:
        return None, no_price(cluster.accelerator, kind, job.region)


def _check_recipe(job: Job, cluster: Cluster, layout: Layout) -> None:
    """Raise InputError for what the framework or the chip does not have."""
    name = framework_for(job.framework, accelerator(cluster.accelerator).stack)
    if job.precision not in cluster.peak_flops:
        raise InputError(
            f"{cluster.accelerator} has no {job.precision} peak", where=_WHERE,
            hint=f"it has {', '.join(cluster.peak_flops)}",
        )  # fmt: skip
    if layout.schedule == "zero-bubble" and (layout.pp == 1 or not framework(name).zero_bubble):
        raise InputError(f"no zero-bubble schedule in {name} with pp={layout.pp}", where=_WHERE)


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
    seconds = time_step(compiled, constants).total_s
    if found.known:
        seconds = seconds * np.exp(calibrated(PUBLISHED)[1].mean(features))
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
            f"recompute_layers={asked}: a stage has {stage_layers} layers", where=_WHERE
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
        raise InputError(f"{name}={text}: a whole number is needed", where=_WHERE)
    return int(text)


def _one_of(name: str, text: str, allowed: tuple[str, ...]) -> str:
    if text not in allowed:
        raise UnknownNameError(name, text, allowed, where=_WHERE,
                               hint=f"one of {', '.join(allowed)}")  # fmt: skip
    return text


def _job(job: Job, changes: Mapping[str, str]) -> Job:
    given: dict[str, Any] = {}
    for name in ("optimizer", "framework"):
        if name in changes:
            given[name] = changes[name]
    for name, field in (("batch", "global_batch"), ("seq", "seq_len"), ("rank", "rank")):
        if name in changes:
            given[field] = parse_count(changes[name], where=_WHERE)
    if "tune" in changes:
        given["tune"] = _one_of("tune", changes["tune"], TUNES)
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
        host=cast("HostPath", _one_of("host", changes["host"], HOSTS))
        if "host" in changes
        else cluster.host,
        peak_flops={k: v * peak for k, v in cluster.peak_flops.items()},
        memory_bytes=cluster.memory_bytes * factor.get("memory", 1.0),
        memory_bandwidth_bytes_per_s=cluster.memory_bandwidth_bytes_per_s
        * factor.get("memory_bandwidth", 1.0),
    )


def _factor(name: str, text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)x", text)
    if match is None or float(match.group(1)) <= 0:
        raise InputError(f"{name}={text}: a factor is needed", where=_WHERE,
                         hint=f"for example {name}=2x")  # fmt: skip
    return float(match.group(1))
