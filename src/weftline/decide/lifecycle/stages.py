"""What each kind of stage costs at a site, from the plans of training and serving."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from weftline.cost import energy_of
from weftline.decide.lifecycle.answers import Answers
from weftline.decide.lifecycle.pieces import (
    CORES,
    Drivers,
    Piece,
    Rented,
    chips_line,
    cluster_lines,
    months_of,
)
from weftline.decide.lifecycle.read import Fields, Stage
from weftline.decide.lifecycle.sites import HOUR_S, MONTH_H, MONTH_S, Site
from weftline.errors import InputError
from weftline.serve.search.economics import IDLE_FRACTION
from weftline.spec import Plan, ServePlan
from weftline.spec.lifecycle import LifeLine
from weftline.spec.options import TrafficOptions
from weftline.spec.parse import choice, own_price
from weftline.units import (
    format_count,
    parse_count,
    parse_fraction,
    parse_rate_bytes_per_s,
)

__all__ = ["Context", "evaluated", "placed", "preprocessed"]

CORE_USD_H: Final = {
    "graviton": (0.0408, "published: m7g.large, 2 vCPU at $0.0816 on 2026-06-17 "
                         "(factualminds.com)"),
    "epyc": (0.0580, "unconfirmed: m7a.large, 2 vCPU at $0.1159, from memory"),
    "xeon": (0.0504, "unconfirmed: m7i.large, 2 vCPU at $0.1008, from memory"),
}  # fmt: skip
"""US dollars an hour of one vCPU; of Graviton and EPYC that is a core, of Xeon half of one."""
CORE_BASIS: Final = "measured: one thread of a Xeon, 2026-11-30 (BPE of 32k, word filter, hashes)"
CORE_W: Final = (4.0, "assumed: 4 W a core with its memory at the wall")
FORWARD_SHARE: Final = 1 / 3
"""Of the work of a training step, forward is a third."""
MONTHS_MOST: Final = 240
ROLLOUT_RATE: Final = 1.0
"""Requests a second of the fleet that is simulated for rollouts."""
DEFAULT: Final = TrafficOptions()


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What stages share while a lifecycle is planned."""

    answers: Answers
    drivers: Drivers
    parameters: int
    serving_months: float
    """Months of the longest serving stage; fine-tunes are spread over them."""


def placed(stage: Stage, site: Site, context: Context) -> Piece:
    """A stage that rents chips, at a site. Raises NoFeasiblePlanError where it cannot be there."""
    make: dict[str, Callable[[Stage, Site, Context], Piece]] = {
        "train": _trained, "finetune": _finetuned, "rollouts": _rolled_out, "serve": _served,
        "rent": _rented,
    }  # fmt: skip
    return make[stage.kind](stage, site, context)


def preprocessed(stage: Stage, context: Context) -> Piece:
    """Text turned into tokens on CPU cores: every kept byte tokenised, every raw byte filtered."""
    tokens = _count(stage, "tokens")
    kept = tokens * number(stage, "text_bytes")
    raw = kept * number(stage, "raw")
    core = choice(stage.text("core"), tuple(CORE_USD_H), "core", where=stage.where("core"))
    cores = _count(stage, "cores")
    rates = {n: parse_rate_bytes_per_s(stage.text(n), where=stage.where(n))
             for n in ("tokenise", "filter", "shard")}  # fmt: skip
    core_s = kept / rates["tokenise"] + raw / rates["filter"] + kept / rates["shard"]
    usd_h, basis = CORE_USD_H[core]
    told = stage.get("core_price")
    if told is not None:
        usd_h = own_price(told, where=stage.where("core_price")) or usd_h
        basis = "given by the user"
    name = context.drivers.of_file(CORES, "preprocess", CORE_BASIS, stage.text("tokenise"))
    hours = core_s / HOUR_S
    line = LifeLine(
        stage=stage.name, part="CPU nodes", place=stage.text("at"), seller=stage.text("at"),
        usd=hours * usd_h, drivers=context.drivers.known({name: -1.0}),
        formula=f"{format_count(hours)} core-hours x ${usd_h:.4f}",
        basis=f"{basis}; {CORE_BASIS}; energy {CORE_W[1]}", energy_j=core_s * CORE_W[0],
        kgco2e=core_s * CORE_W[0] * _usa_kg_per_joule(),
    )  # fmt: skip
    said = f"{cores:,} {core} cores, {raw / 1e12:,.3g} TB read, {kept / 1e12:,.3g} TB kept"
    return Piece(stage=stage.name, kind=stage.kind, site=None, lines=(line,), said=said,
                 lasts_s=core_s / cores)  # fmt: skip


def _usa_kg_per_joule() -> float:
    from weftline.catalog import grid_intensity

    return grid_intensity("country", "USA").kgco2e_per_joule


def evaluated(stage: Stage, of: Piece, of_stage: Stage, context: Context) -> Piece:
    """Checkpoints on benchmarks: forward passes at the pace of the training stage."""
    site = of.site
    if site is None:
        raise InputError(f"`{of.stage}` does not train", where=stage.where("of"))
    times, tokens = _count(stage, "times"), _count(stage, "tokens")
    plan = context.answers.train(of_stage, site)
    run = plan.estimates["train_time"].value
    each_s = run / plan.job.tokens * tokens * FORWARD_SHARE
    chip_hours = plan.cluster.chips * each_s * times / HOUR_S
    rate = _rate(plan, site)
    speed = f"training speed on {site.name}"
    rented = Rented(
        stage=stage.name, site=site, usd=chip_hours * rate, chips=plan.cluster.chips,
        months=months_of(each_s * times), chip_hours=chip_hours,
        formula=f"{times:,} x {format_count(tokens)} tokens forward, {chip_hours:,.0f} chip-hours "
                f"x ${rate:.2f}",
        basis=f"a third of the step of {of.stage}; {site.price_basis}",
        energy_j=_energy_j(site, chip_hours),
        drivers=context.drivers.known(
            {context.drivers.price(site, rate): 1.0, speed: -1.0}
        ),
    )  # fmt: skip
    lines = (chips_line(rented), *cluster_lines(rented, context.drivers, trains=False))
    return Piece(stage=stage.name, kind=stage.kind, site=site, lines=lines,
                 chips=plan.cluster.chips, lasts_s=each_s * times,
                 said=f"on the cluster of {of.stage}")  # fmt: skip


def _rate(plan: Plan, site: Site) -> float:
    """US dollars a chip-hour that the plan counts with."""
    return site.usd_per_chip_hour if plan.price is None else plan.price.usd_per_chip_hour.value


def _energy_j(site: Site, chip_hours: float) -> float | None:
    if site.chip.tdp_w is None:
        return None
    return energy_of(chips=1, seconds=chip_hours * HOUR_S, tdp_w=site.chip.tdp_w,
                     pue=site.facility[0], gco2e_per_kwh=0.0).joules  # fmt: skip


def _run_lines(
    name: str, plan: Plan, site: Site, context: Context, times: float
) -> tuple[list[LifeLine], float]:
    """(lines of a training run done so many times, seconds of one with failures)."""
    run, whole = plan.estimates["train_time"], plan.estimates["effective_train_time"]
    chips, rate = plan.cluster.chips, _rate(plan, site)
    drivers = context.drivers
    # A slower run costs more: the driver is the speed, whose band is the time's upside down.
    speed = drivers.add(
        f"training speed on {site.name}", run.value / run.high, run.value / run.low,
        f"the plan's band: {run.basis}", f"{plan.estimates['mfu'].value:.0%} MFU",
    )  # fmt: skip
    powers = {drivers.price(site, rate): 1.0, speed: -1.0}
    hours = chips * run.value / HOUR_S * times
    many = f"{times:,.3g} x " if times != 1 else ""
    useful = Rented(
        stage=name, site=site, usd=hours * rate, chips=chips,
        months=months_of(whole.value * times), chip_hours=hours,
        formula=f"{many}{chips:,} chips x {run.value / HOUR_S:,.0f} h x ${rate:.2f}",
        basis=f"time {run.basis}; {site.price_basis}; energy {site.grid_basis}",
        energy_j=_energy_j(site, hours), drivers=drivers.known(powers),
    )  # fmt: skip
    lost = max(0.0, whole.value / run.value - 1)
    failed = replace(
        useful, usd=useful.usd * lost, chip_hours=hours * lost,
        energy_j=None if useful.energy_j is None else useful.energy_j * lost,
        formula=f"{lost:.2%} of the chips, lost to failures and checkpoints",
        basis=whole.basis.rpartition(";")[2].strip(),
        drivers=drivers.known({**powers, drivers.failures(): 1.0}),
    )  # fmt: skip
    return [
        chips_line(useful), chips_line(failed, "failures"),
        *cluster_lines(useful, drivers, trains=True),
    ], whole.value  # fmt: skip


def _said(plan: Plan) -> str:
    return f"{plan.layout.short()}, {plan.job.precision}, {plan.framework}"


def _trained(stage: Stage, site: Site, context: Context) -> Piece:
    plan = context.answers.train(stage, site)
    lines, seconds = _run_lines(stage.name, plan, site, context, 1.0)
    return Piece(
        stage=stage.name, kind=stage.kind, site=site, lines=tuple(lines), trains=True,
        chips=plan.cluster.chips, lasts_s=seconds, said=_said(plan),
    )  # fmt: skip


def _finetuned(stage: Stage, site: Site, context: Context) -> Piece:
    plan = context.answers.train(stage, site)
    if (stage.get("times") is None) == (stage.get("per_month") is None):
        raise InputError("how often?", where=f"{stage.path}:{stage.line}",
                         hint="times: 24, or per_month: 1")  # fmt: skip
    if stage.get("times") is not None:
        times = float(_count(stage, "times"))
    else:
        times = number(stage, "per_month") * max(1.0, context.serving_months)
    lines, seconds = _run_lines(stage.name, plan, site, context, times)
    months = max(1, math.ceil(context.serving_months))
    return Piece(
        stage=stage.name, kind=stage.kind, site=site, lines=tuple(lines), trains=True,
        chips=plan.cluster.chips, lasts_s=seconds * times, shares=(1 / months,) * months,
        said=f"{times:,.3g} runs of {seconds / HOUR_S:,.3g} h: {_said(plan)}",
    )  # fmt: skip


def _throughput(plan: ServePlan) -> tuple[float, float]:
    """(requests a second of one replica within targets and headroom, spares a replica)."""
    replicas = plan.fleet.replicas
    return plan.estimates["rate_most"].value / replicas, plan.fleet.spares / replicas


def _served(stage: Stage, site: Site, context: Context) -> Piece:
    """A fleet that follows growth month by month; its first month's peak is simulated."""
    prompt = float(_count(stage, "input", DEFAULT.input))
    answer = float(_count(stage, "output", DEFAULT.output))
    tokens_day = _count(stage, "tokens_per_day")
    mean = tokens_day / (prompt + answer) / 86400
    peak = number(stage, "peak")
    if peak < 1:
        raise InputError("the busiest hour is below the mean", where=stage.where("peak"),
                         hint="peak: 1.5")  # fmt: skip
    growth = parse_fraction_above(stage, "growth")
    months = round(number(stage, "months"))
    plan = context.answers.serve(stage, site, mean * peak, prompt, answer)
    each, spare = _throughput(plan)
    grown = [(1 + growth) ** (m / 12) for m in range(months)]
    counts = [_replicas(mean * g, peak, each, spare, stage.flag("autoscale")) for g in grown]
    per = plan.fleet.chips_per_replica
    hours = sum(counts) * per * MONTH_H
    usd_h = _fleet_rate(plan, site)
    tokens = sum(grown) * tokens_day * MONTH_H / 24
    drivers = context.drivers
    speed = drivers.speed(f"serving speed on {site.name}", plan.estimates["capacity"],
                          f"{each:.3g} requests/s a replica")  # fmt: skip
    asked = drivers.demand(f"{format_count(tokens_day)} tokens a day")
    energy = plan.estimates.get("energy_per_output_token")
    joules = None
    if energy is not None:
        # A chip that waits draws its idle share: the fleet is sized for the peak.
        waits = 1.0 if stage.flag("autoscale") else peak * (
            IDLE_FRACTION + (1 - IDLE_FRACTION) / peak
        )  # fmt: skip
        joules = energy.value * tokens * answer / (prompt + answer) * waits
    average = sum(counts) / months * per
    rented = Rented(
        stage=stage.name, site=site, usd=hours * usd_h, chips=average, months=float(months),
        formula=f"{average:,.1f} chips on average ({counts[0]:,.3g} to {counts[-1]:,.3g} replicas "
                f"of {per}) x {months} months x 730 h x ${usd_h:.2f}",
        basis=f"{each:.3g} requests/s a replica, simulated; {site.price_basis}; "
              f"{site.grid_basis}",
        chip_hours=hours, energy_j=joules,
        drivers=drivers.known({drivers.price(site, usd_h): 1.0, speed: -1.0, asked: 1.0}),
    )  # fmt: skip
    lines = [chips_line(rented), *cluster_lines(rented, drivers, trains=False)]
    leaving = tokens * answer / (prompt + answer) * number(stage, "answer_bytes")
    out, basis = site.egress_usd(leaving / months)
    lines.append(LifeLine(
        stage=stage.name, part="egress", place=site.name, seller=site.seller, usd=out * months,
        formula=f"{leaving / months / 1e9:,.3g} GB a month to users", basis=basis,
        drivers=drivers.known({asked: 1.0}),
    ))  # fmt: skip
    total = sum(counts)
    return Piece(
        stage=stage.name, kind=stage.kind, site=site, lines=tuple(lines), tokens=tokens,
        chips=math.ceil(max(counts)) * per, lasts_s=months * MONTH_S,
        shares=tuple(c / total for c in counts),
        said=f"{plan.fleet.short()} {plan.fleet.engine}, {format_count(tokens)} tokens",
    )  # fmt: skip


def _replicas(mean: float, peak: float, each: float, spare: float, autoscale: bool) -> float:
    """Replicas with spares: for the peak, or the mean over a day of those each hour needs."""
    if not autoscale:
        needed = math.ceil(mean * peak / each - 1e-9)
        return needed + math.ceil(needed * spare)
    hours = [mean * (1 + (peak - 1) * math.sin(2 * math.pi * h / 24)) for h in range(24)]
    counts = [max(1, math.ceil(rate / each - 1e-9)) for rate in hours]
    return sum(n + math.ceil(n * spare) for n in counts) / 24


def _fleet_rate(plan: ServePlan, site: Site) -> float:
    """US dollars a chip-hour of the fleet, chips that stand idle in its machines included."""
    cost = plan.estimates.get("cost_per_hour")
    return site.usd_per_chip_hour if cost is None else cost.value / plan.fleet.chips


def _rolled_out(stage: Stage, site: Site, context: Context) -> Piece:
    """Answers for reinforcement learning: a fleet without latency targets, run full."""
    tokens, pace = _count(stage, "tokens"), _count(stage, "tokens_per_s")
    prompt, answer = float(_count(stage, "input")), float(_count(stage, "output"))
    # A few replicas are simulated: without latency targets each works as it does among many.
    plan = context.answers.serve(stage, site, min(pace / answer, ROLLOUT_RATE), prompt, answer)
    through = plan.estimates["capacity"]
    each = through.value / plan.fleet.replicas * answer
    replicas = math.ceil(pace / each)
    seconds = tokens / (each * replicas)
    chips = replicas * plan.fleet.chips_per_replica
    rate = _fleet_rate(plan, site)
    hours = chips * seconds / HOUR_S
    drivers = context.drivers
    at = f"{through.value / plan.fleet.replicas:.3g} requests/s a replica"
    speed = drivers.speed(f"serving speed on {site.name}", through, at)
    energy = plan.estimates.get("energy_per_output_token")
    rented = Rented(
        stage=stage.name, site=site, usd=hours * rate, chips=chips, months=months_of(seconds),
        formula=f"{format_count(tokens)} tokens, {chips:,} chips x {seconds / HOUR_S:,.0f} h x "
                f"${rate:.2f}",
        basis=f"{each:,.0f} tokens/s a replica, {through.basis}; {site.price_basis}",
        chip_hours=hours, energy_j=None if energy is None else energy.value * tokens,
        drivers=drivers.known({drivers.price(site, rate): 1.0, speed: -1.0}),
    )  # fmt: skip
    lines = (chips_line(rented), *cluster_lines(rented, drivers, trains=True))
    return Piece(stage=stage.name, kind=stage.kind, site=site, lines=lines, chips=chips,
                 lasts_s=seconds, trains=True,
                 said=f"{plan.fleet.short()} {plan.fleet.engine}")  # fmt: skip


def _rented(stage: Stage, site: Site, context: Context) -> Piece:
    """A cluster rented for a time, at the price of the site."""
    chips, months = _count(stage, "chips"), number(stage, "months")
    rate = site.usd_per_chip_hour
    restarts = bool(stage.values.get("restarts", True))
    drivers = context.drivers
    hours = chips * months * MONTH_H
    rented = Rented(
        stage=stage.name, site=site, usd=hours * rate, chips=chips, months=months,
        formula=f"{chips:,} chips x {months:g} months x 730 h x ${rate:.4g}",
        basis=f"{site.price_basis}; {site.grid_basis}", chip_hours=hours,
        energy_j=_energy_j(site, hours), drivers=drivers.known({drivers.price(site, rate): 1.0}),
    )  # fmt: skip
    lines = [chips_line(rented), *cluster_lines(rented, drivers, trains=restarts)]
    loss = site.overheads.goodput_loss
    if restarts and loss:
        lines.append(LifeLine(
            stage=stage.name, part="failures", place=site.name, seller=site.seller,
            usd=loss * rented.usd, formula=f"{loss:.2%} of the chips",
            basis=site.overheads.basis,
            drivers=drivers.known({drivers.price(site, rate): 1.0, drivers.failures(): 1.0}),
        ))  # fmt: skip
    return Piece(stage=stage.name, kind=stage.kind, site=site, lines=tuple(lines), chips=chips,
                 lasts_s=months * MONTH_S, trains=restarts, said="rented")  # fmt: skip


def _count(fields: Fields, name: str, default: str = "") -> int:
    return parse_count(fields.get(name) or default, where=fields.where(name))


def number(fields: Fields, name: str) -> float:
    """A plain number above zero. Raises InputError."""
    try:
        value = float(fields.text(name))
    except ValueError:
        value = -1.0
    if not 0 < value < 1e6 or (name == "months" and not 1 <= value <= MONTHS_MOST):
        raise InputError(f"`{fields.text(name)}`: a number above zero is needed",
                         where=fields.where(name), hint="36 or 1.5")  # fmt: skip
    return value


def parse_fraction_above(fields: Fields, name: str) -> float:
    """A growth: ``50%`` or more than all, never below minus nothing. Raises InputError."""
    text = fields.text(name).strip()
    if text.endswith("%"):
        try:
            value = float(text[:-1]) / 100
        except ValueError:
            value = -1.0
        if value >= 0:
            return value
        raise InputError(f"`{text}` is not a growth", where=fields.where(name), hint="50%")
    return parse_fraction(text, where=fields.where(name))
