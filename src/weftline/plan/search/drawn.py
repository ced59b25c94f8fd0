"""What pictures of a plan need: hidden communication, memory by stage, one pipeline, link loads,
what drives the cost."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import numpy as np

from weftline.catalog import egress, storage_tiers
from weftline.cost import FAILURES_BASIS, FAILURES_HIGH, FAILURES_LOW, RECOVERY_BAND_S, goodput
from weftline.errors import InputError
from weftline.model import Model
from weftline.plan.search.prices import HOUR_S
from weftline.plan.search.rank_map import torus_of, traffic_of
from weftline.plan.search.reasons import MEMORY_NAMES, STEP_NAMES
from weftline.plan.search.search import Found
from weftline.plan.step.communication import send_s
from weftline.plan.step.compiled import Compiled, compile_layouts
from weftline.plan.step.layouts import columns_of
from weftline.plan.step.memory import count_memory
from weftline.plan.step.timing import time_passes, time_step
from weftline.spec import Cluster, Estimate, Job, Layout, Part, PriceQuote, RankMap
from weftline.spec.drawn import Exchange, LinkLoad, Pipeline, StageMemory, Swing

__all__ = ["beside_parts", "drawn_of", "link_loads", "stage_memory", "swings_of"]

_AXES: Final = (("tp", "tp_s"), ("cp", "cp_s"), ("ep", "ep_s"), ("pp", "pp_s"), ("dp", "dp_s"))
_AFTER: Final = ("dp_s", "optimizer_s", "overhead_s")
_KEPT: Final = 2
"""Checkpoints in object storage at a time: the newest, and the one before while it is written."""
_STATE_BYTES: Final = 14.0
"""A parameter in a checkpoint: a bf16 weight, its fp32 master and two moments."""
_MONTH_S: Final = 365.25 * 86400 / 12
_LARGE_CLOUDS: Final = ("aws", "azure", "gcp", "oci")


def drawn_of(found: Found, model: Model, job: Job, rank_map: RankMap | None) -> dict[str, Any]:
    """The fields of a plan that pictures need, by name; of a measured step only its memory."""
    fields: dict[str, Any] = {"stage_memory": stage_memory(found, model, job)}
    one = compile_layouts(
        model, found.cluster, found.frame, columns_of(found.layout, len(model.layers)),
        seq_len=job.seq_len, precision=job.precision,
    )  # fmt: skip
    fields["link_loads"] = link_loads(one, found.layout, found.cluster, rank_map)
    if found.measured is None:
        fields["exchanges"] = _exchanges(found, one)
        fields["pipeline"] = _pipeline(found, one)
    return fields


def _exchanges(found: Found, one: Compiled) -> tuple[Exchange, ...]:
    """Each kind of communication as it is, and as it would be if a recipe hid nothing."""
    bare = replace(
        one.recipe, overlap_tp=0.0, overlap_cp=0.0, overlap_ep=0.0, overlap_pp=0.0,
        overlap_interleaved=0.0, overlap_dp=0.0,
    )  # fmt: skip
    whole = time_step(replace(one, recipe=bare), found.constants.constants)
    names = {field: name for name, field in STEP_NAMES}
    said = []
    for axis, field in _AXES:
        shown, raw = float(getattr(found.parts, field)[0]), float(getattr(whole, field)[0])
        if max(shown, raw) > 0:
            said.append(Exchange(part=names[field], axis=axis, shown_s=shown,
                                 hidden_s=max(0.0, raw - shown)))  # fmt: skip
    return tuple(said)


def _pipeline(found: Found, one: Compiled) -> Pipeline:
    layout = found.layout
    forward, backward = time_passes(one, found.constants.constants)
    names = {field: name for name, field in STEP_NAMES}
    rest = {names[f]: float(getattr(found.parts, f)[0]) for f in _AFTER}
    send = float(send_s(one, found.constants.constants)[0]) if layout.pp > 1 else 0.0
    return Pipeline(
        micro_batches=layout.num_micro_batches, chunks=layout.vp,
        zero_bubble=layout.schedule == "zero-bubble",
        forward_s=tuple((forward / layout.vp).tolist()),
        backward_s=tuple((backward / layout.vp).tolist()), send_s=send,
        rest_s={name: s for name, s in rest.items() if s > 0},
    )  # fmt: skip


def stage_memory(found: Found, model: Model, job: Job) -> tuple[StageMemory, ...]:
    """Bytes by part of every stage; the fullest has the parts that the plan says."""
    layouts, stages = columns_of(found.layout, len(model.layers)), found.layout.pp
    said = []
    for stage in range(stages):
        counted = count_memory(model, found.frame, layouts, seq_len=job.seq_len,
                               middle_stage=max(stage, 1))  # fmt: skip
        moments = counted.at_moments(layouts)
        which = [2] if stage == stages - 1 else [0 if stage == 0 else 1]
        if stages == 1:
            which = [0, 2]
        at = max(which, key=lambda i: float(moments[i].total_bytes[0]))
        values = {name: float(getattr(moments[at], f)[0]) for name, f, _ in MEMORY_NAMES}
        said.append(StageMemory(
            stage=stage, moment="at the loss" if at == 2 else "in a layer's backward pass",
            parts={name: v for name, v in values.items() if v > 0},
        ))  # fmt: skip
    return tuple(said)


def link_loads(
    one: Compiled, layout: Layout, cluster: Cluster, rank_map: RankMap | None
) -> tuple[LinkLoad, ...]:
    """What each axis's groups send over each level, or over each axis of a torus, in a step.

    By the bytes of schedules that go tier by tier: at a tier that joins D units, each of n chips,
    a ring moves (D - 1) / D of the buffer over n, and an all-to-all what is for chips outside.
    """
    said = []
    for entry in traffic_of(one, layout):
        axis = entry.axes[0]
        tiers = _torus_tiers(axis, cluster, rank_map) or _tiers(axis, layout, cluster)
        ranks = int(np.prod([units for _, units, _ in tiers])) or 1
        inside = 1
        for name, units, bandwidth in tiers:
            if units > 1:
                sent = entry.count * _sent(entry.collective, entry.size_bytes, units, inside, ranks)
                said.append(LinkLoad(
                    level=name, axis=axis, collective=entry.collective, ranks=ranks,
                    sent_bytes=sent, busy_s=sent / bandwidth,
                ))  # fmt: skip
            inside *= units
    return tuple(said)


def _sent(collective: str, size: float, units: int, inside: int, ranks: int) -> float:
    if collective == "send":
        return size
    if collective == "all-to-all":
        return size * inside * (units - 1) / ranks
    return (2 if collective == "all-reduce" else 1) * (units - 1) / units * size / inside


def _tiers(axis: str, layout: Layout, cluster: Cluster) -> list[tuple[str, int, float]]:
    """(level, units of it that a group spans, bytes/s of a chip), innermost first."""
    stride, ranks = {
        "tp": (layout.stride("tp"), layout.tp), "cp": (layout.stride("cp"), layout.cp),
        "ep": (layout.etp, layout.ep), "dp": (layout.stride("cp"), layout.cp * layout.dp),
        "pp": (layout.stride("pp"), min(layout.pp, 2)),
    }[axis]  # fmt: skip
    found, within = [], 1
    for level in cluster.levels:
        here = min(max(level.size // stride, 1), ranks)
        if here > within:
            found.append((level.name, -(-here // within), level.bandwidth_bytes_per_s))
            within = here
    return found


def _torus_tiers(
    axis: str, cluster: Cluster, rank_map: RankMap | None
) -> list[tuple[str, int, float]]:
    if rank_map is None or axis not in rank_map.physical or torus_of(cluster) is None:
        return []
    named = [
        (f"torus axis {i + 1} of {len(level.shape)}, {level.name}",
         level.bandwidth_bytes_per_s / len(level.shape))
        for level in reversed([x for x in cluster.levels if x.size > 1])
        for i in range(len(level.shape))
    ]  # fmt: skip
    return [(named[at][0], members, named[at][1])
            for at, members, _ in rank_map.physical[axis]]  # fmt: skip


def swings_of(quote: PriceQuote, run: Estimate, chips: int, parameters: int) -> tuple[Swing, ...]:
    """What price, step time, failures and recovery do to the cost, each alone; widest first."""

    def usd(price: float, seconds: float, **failures: float) -> float:
        good = goodput(chips, parameters, **failures).availability
        return price * chips * seconds / HOUR_S / good

    rate, now = quote.usd_per_chip_hour, (quote.usd_per_chip_hour.value, run.value)
    ends = (
        ("price of a chip-hour", f"{rate.value:.2f} USD", rate.basis,
         usd(rate.low, run.value), usd(rate.high, run.value)),
        ("time of a step", "as predicted", run.basis,
         usd(rate.value, run.low), usd(rate.value, run.high)),
        ("how often chips fail", "as published", FAILURES_BASIS,
         usd(*now, failures_per_chip_day=FAILURES_LOW),
         usd(*now, failures_per_chip_day=FAILURES_HIGH)),
        ("time to recover", "22.5 minutes", "published: 3 to 30 minutes",
         usd(*now, recovery_s=RECOVERY_BAND_S[0]), usd(*now, recovery_s=RECOVERY_BAND_S[1])),
    )  # fmt: skip
    said = [Swing(driver=name, at=at, low_usd=min(a, b), high_usd=max(a, b), basis=basis)
            for name, at, basis, a, b in ends if a != b]  # fmt: skip
    return tuple(sorted(said, key=lambda s: s.low_usd - s.high_usd))


def beside_parts(
    quote: PriceQuote, model: Model, parameters: int, seconds: float
) -> tuple[Part, ...]:
    """Storage of checkpoints during the run, and egress of the model made; US dollars."""
    seller = quote.provider if quote.provider in _LARGE_CLOUDS else "aws"
    said = "" if seller == quote.provider else f"assumed: as {seller}; "
    priced = [t for t in storage_tiers().values()
              if t.provider == seller and t.kind == "object" and t.usd_per_byte_month]  # fmt: skip
    parts: list[Part] = []
    if priced:
        tier = min(priced, key=lambda t: t.usd_per_byte_month or 0.0)
        volume = _KEPT * _STATE_BYTES * parameters
        parts.append(Part(
            name="storage of checkpoints", unit="USD",
            value=(tier.usd_per_byte_month or 0.0) * volume * seconds / _MONTH_S,
            basis=f"{said}price list: {tier.id}, {_KEPT} checkpoints",
        ))  # fmt: skip
    try:
        table = egress(seller)
    except InputError:
        return tuple(parts)
    size = 2.0 * model.parameters
    parts.append(
        Part(
            name="egress of the model",
            value=table.usd(size),
            unit="USD",
            basis=f"{said}price list: {table.source} of {table.date}, bf16 weights once",
        )
    )
    return tuple(parts)
