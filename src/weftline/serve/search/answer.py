"""From simulated fleets to a plan: estimates with their bands, parts, reasons, flips, misses."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from weftline._version import __version__
from weftline.attention.quality import policy_remarks
from weftline.catalog import list_words, unconfirmed_words
from weftline.catalog.date import CATALOG_DATE
from weftline.errors import NoFeasiblePlanError, WeftlineError
from weftline.model import load_model
from weftline.serve.calibrate.bands import Band, band_of
from weftline.serve.engine.config import ServingConfig
from weftline.serve.search.asked import question_of
from weftline.serve.search.confirmed import Confirmed
from weftline.serve.search.economics import SPARES_BASIS, token_costs
from weftline.serve.search.launch import launch_settings
from weftline.serve.search.screen import Option, Screened
from weftline.spec import (
    METRICS,
    Estimate,
    Part,
    Rejection,
    ServeCandidate,
    ServeDemand,
    ServeJob,
    ServePlan,
    ServeSearch,
)
from weftline.units import format_bytes, format_duration, format_number, format_usd

RANKS_KEPT: Final = 30
PART_NAMES: Final = {
    "gemm": "matrix products", "decode_attention": "attention", "prefill_attention": "attention",
    "scan": "state-space scan", "elementwise": "norms and activations",
    "all_reduce": "tensor-parallel exchange", "exchange": "exchange of expert tokens",
    "kernels": "kernel launches", "launches": "launches of a prefill",
    "layers": "fixed cost of layers", "iteration": "host",
    "sequences": "host", "tokens": "host", "moe": "routed experts", "sampling": "sampling",
}  # fmt: skip


def plan_of(
    job: ServeJob, demand: ServeDemand, confirmed: Sequence[Confirmed], rate_most: float,
    search: ServeSearch, unpriced: Sequence[ServeCandidate], lost: tuple[Rejection, ...],
) -> ServePlan:  # fmt: skip
    """The plan around the first of ``confirmed``, which is the cheapest that meets the targets.

    ``unpriced`` chips stand behind the ranking with their times, ``lost`` ones with their reason.
    """
    best = confirmed[0]
    model = load_model(job.model)
    config = best.option.config
    row = None
    if best.market.known:
        row = best.market.cheapest(best.fleet.chips, best.option.group_chips)[1]
    occupancy = _occupancy(best)
    return ServePlan(
        weftline=__version__, catalog_date=CATALOG_DATE, demand=demand,
        parameters=model.parameters, active_parameters=model.active_parameters,
        fleet=best.fleet, estimates=_estimates(best, demand, rate_most, occupancy["batch"]),
        step_parts=step_parts(config, demand, occupancy["batch"]),
        memory_parts=memory_parts(config, occupancy["kv_share"]), price=best.market.quote(row),
        why=_why(confirmed, demand, occupancy), flips=_flips(confirmed, demand, rate_most),
        ranking=(*(c.candidate() for c in _one_a_price(confirmed)[:RANKS_KEPT]), *unpriced),
        pareto=tuple(c.candidate() for c in _front(confirmed)),
        without_plan=lost, search=search, occupancy=occupancy,
        asked=question_of(job), launch=launch_settings(config),
        model_notes=(
            *model.remarks,
            *policy_remarks(model, job.space.policy, context=demand.input_tokens),
        ),
    )  # fmt: skip


def _one_a_chip(confirmed: Sequence[Confirmed]) -> list[Confirmed]:
    seen: set[str] = set()
    kept = []
    for c in confirmed:
        if c.chip.id not in seen:
            seen.add(c.chip.id)
            kept.append(c)
    return kept


def _one_a_price(confirmed: Sequence[Confirmed]) -> list[Confirmed]:
    """The best fleet of each chip and way to pay."""
    best: dict[tuple[str, str], Confirmed] = {}
    for c in confirmed:
        best.setdefault((c.chip.id, c.market.price_type), c)
    return list(best.values())


def _point(c: Confirmed) -> tuple[float, ...]:
    cost = math.inf if c.usd_per_hour is None else c.usd_per_hour
    return cost, c.run.percentile("ttft", 99), c.run.percentile("tpot", 99)


def _front(confirmed: Sequence[Confirmed]) -> list[Confirmed]:
    """Fleets that meet the targets and that no other beats in cost, p99 TTFT and p99 TPOT."""
    meeting = [c for c in confirmed if c.run.meets]
    points = [_point(c) for c in meeting]
    return [
        c for c, p in zip(meeting, points, strict=True)
        if not any(all(a <= b for a, b in zip(q, p, strict=True)) and q != p for q in points)
    ]  # fmt: skip


def _occupancy(best: Confirmed) -> dict[str, float]:
    line = best.run.outcome.timeline
    last = float(best.run.outcome.arrived_s[-1])
    inside = slice(0, max(1, int(last / line.width_s)))
    workers = best.run.replicas * best.option.config.decode_workers
    working = float(line.busy[inside].mean()) or 1e-9
    return {
        "batch": float(line.running[inside].mean()) / working,
        "waiting": float(line.waiting[inside].mean()) / workers,
        "kv_share": float(line.kv_share[inside].mean()) / min(1.0, working / workers),
        "busy_share": best.demand.rate_per_s / best.capacity_per_s,
        "working_share": min(1.0, working / workers),
        "thrown_out_share": float((best.run.outcome.thrown_out > 0).mean()),
    }


def _percentiles(demand: ServeDemand) -> tuple[float, ...]:
    """Percentiles that are shown: the median, the 99th, and what the targets name."""
    named = {t.percentile for t in demand.targets} | {round(100 * demand.within, 6)}
    return tuple(sorted({50.0, 99.0, *named}))


def _within(value: float, unit: str, band: Band, how: str) -> Estimate:
    return Estimate(value=value, unit=unit, low=value * band.low, high=value * band.high,
                    basis=f"{band.basis}; {how}")  # fmt: skip


def _estimates(best: Confirmed, demand: ServeDemand, rate_most: float,
               batch: float) -> dict[str, Estimate]:  # fmt: skip
    config = best.option.config
    n = int(best.run.counted.sum())
    how = f"simulated on {n:,} requests"
    found: dict[str, Estimate] = {}
    for metric in METRICS:
        band = band_of(config, metric)
        for p in _percentiles(demand):
            value = best.run.percentile(metric, p)
            if math.isfinite(value):
                found[f"{metric}_p{p:g}"] = _within(value, "s", band, how)
    through = band_of(config, "throughput")
    most = Band(low=max(through.low, demand.rate_per_s / rate_most * through.low),
                high=through.high, basis=through.basis)  # fmt: skip
    found["capacity"] = _within(
        best.capacity_per_s,
        "requests/s",
        through,
        "steady-state throughput of the fleet, spares not counted",
    )
    found["rate_most"] = _within(
        rate_most,
        "requests/s",
        most,
        f"targets kept and {demand.headroom:.0%} headroom, by simulation",
    )
    good = demand.rate_per_s * best.run.goodput_share
    found["goodput"] = Estimate(
        value=good, unit="requests/s", low=0.0, high=demand.rate_per_s,
        basis=f"{how}: {best.run.goodput_share:.1%} of requests keep all limits",
    )  # fmt: skip
    found |= _money(best, demand, batch, through)
    if best.power_w is not None:
        tokens = best.served_per_s * demand.output_tokens
        value, low, high = (w / tokens for w in best.power_w)
        found["energy_per_output_token"] = Estimate(
            value=value, unit="J/token", low=low, high=high,
            basis="assumed share of design power while busy and idle; simulated busy time",
        )  # fmt: skip
    return found


def _money(best: Confirmed, demand: ServeDemand, batch: float, through: Band) -> Any:
    if best.usd_per_hour is None:
        return {}
    config, usd = best.option.config, best.usd_per_hour
    rests = best.market.quote(None)
    # At the price taken: what other offers cost stands apart, in the quote.
    row = best.market.cheapest(best.fleet.chips, best.option.group_chips)[1]
    basis = "given by the user" if rests is not None else "price list"
    if row is not None:
        basis = list_words(row)
    cost = Estimate.exact(
        usd, "USD/h", f"{basis}; {_chips(_paid_chips(best))} in whole instances, spares included"
    )
    parts = token_costs(
        config, usd_per_hour=usd, rate_per_s=best.served_per_s,
        input_tokens=demand.input_tokens, output_tokens=demand.output_tokens,
        cached_share=demand.cached_share, batch=batch,
    )  # fmt: skip
    how = f"divided by working time, {parts.prefill_share:.0%} of it on prompts"
    found = {"cost_per_hour": cost}
    for name, value in (("input", parts.input_usd), ("output", parts.output_usd),
                        ("cached", parts.cached_usd)):  # fmt: skip
        found[f"cost_per_m_{name}"] = Estimate(
            value=value, unit="USD/M tokens", low=value / through.high,
            high=value / through.low, basis=f"{basis}; {how}",
        )  # fmt: skip
    return found


def step_parts(config: ServingConfig, demand: ServeDemand, batch: float) -> tuple[Part, ...]:
    """One decode step at the mean batch by operator, seconds, largest first."""
    from weftline.serve.calibrate.shipped import constants_for
    from weftline.serve.engine.parts import PARTS, Iteration, part_seconds, setting_for

    setting = setting_for(config)
    some = max(1.0, batch) / config.pp
    queries = 1.0 + (config.spec_tokens if config.spec_method != "none" else 0)
    iteration = Iteration.of(
        tokens=np.array([some * queries]), sequences=np.array([some]), queries=queries,
        context=np.array([demand.input_tokens + demand.output_tokens / 2]), tp=float(config.tp),
        dp=float(config.dp), ep=float(config.ep), moe_tp=float(config.expert_tp),
    )  # fmt: skip
    seconds = part_seconds(setting, iteration)[0] * constants_for(config).parts[0] * config.pp
    sums: dict[str, float] = {}
    for name, value in zip(PARTS, seconds, strict=True):
        key = next((v for k, v in PART_NAMES.items() if name == k or name.startswith(k)), name)
        sums[key] = sums.get(key, 0.0) + float(value)
    total = sum(sums.values())
    basis = f"calibrated; {setting.operators.basis}"
    ordered = sorted(sums.items(), key=lambda kv: -kv[1])
    return tuple(Part(name=k, value=v, unit="s", basis=basis) for k, v in ordered
                 if v > 0.003 * total)  # fmt: skip


def memory_parts(config: ServingConfig, kv_share: float) -> tuple[Part, ...]:
    """Memory of one chip, bytes."""
    from weftline.serve.engine.memory import memory

    found = memory(config)
    held = max(0.0, found.cache_bytes)
    used = held * min(1.0, kv_share)
    return tuple(
        Part(name=name, value=value, unit="B", basis=basis)
        for name, value, basis in (
            ("weights", found.weight_bytes, "counted"),
            ("working memory", found.activation_bytes, "assumed rows of activations"),
            ("KV cache in use", used, "simulated mean while at work"),
            ("KV cache free", held - used, "what the engine may take beside"),
        )
    )  # fmt: skip


def _why(confirmed: Sequence[Confirmed], demand: ServeDemand,
         occupancy: dict[str, float]) -> tuple[str, ...]:  # fmt: skip
    best = confirmed[0]
    meeting = [c for c in confirmed if c.run.meets]
    chips = len({c.chip.id for c in meeting})
    said = []
    if best.usd_per_hour is not None:
        text = (
            f"cheapest of {len(meeting)} fleets on {chips} kinds of chips that meet the targets "
            f"when simulated: {format_usd(best.usd_per_hour)}/h"
        )
        others = [c for c in meeting if c.chip.id != best.chip.id and c.usd_per_hour is not None]
        if others:
            second = others[0]
            more = (second.usd_per_hour or 0.0) / best.usd_per_hour - 1
            text += (f"; next {second.fleet.chips} x {second.chip.id} ({second.fleet.short()}), "
                     f"{format_usd(second.usd_per_hour or 0.0)}/h, {more:+.0%}")  # fmt: skip
        said.append(text)
    positions = load_model(demand.model).max_seq_len
    if positions and demand.input_tokens + demand.output_tokens > positions:
        said.append(f"longer than the {positions:,} positions the model was made for: what it "
                    "answers there is not known")  # fmt: skip
    if best.market.warning:
        said.append(best.market.warning)
    if best.market.instead:
        said.append(f"{best.chip.id}: {best.market.instead}")
    tight = tightest(best, demand)
    if tight:
        said.append(tight)
    parts = step_parts(best.option.config, demand, occupancy["batch"])
    total = sum(p.value for p in parts)
    said.append(
        f"a replica runs {format_number(occupancy['batch'])} sequences at once, its KV cache "
        f"{occupancy['kv_share']:.0%} full; the fleet runs at {occupancy['busy_share']:.0%} of its "
        f"steady-state throughput; "
        f"{parts[0].value / total:.0%} of a decode step is {parts[0].name}"
    )
    if best.fleet.spares:
        said.append(f"{best.fleet.spares} spare of {_chips(best.fleet.chips_per_replica)}: "
                    f"{SPARES_BASIS}")  # fmt: skip
    else:
        said.append(f"no spare: {SPARES_BASIS}")
    return (*said, *unconfirmed_words(best.chip))


def _chips(count: int) -> str:
    return f"{count} chip{'' if count == 1 else 's'}"


def _paid_chips(c: Confirmed) -> int:
    """Chips on the bill: whole instances."""
    row = c.market.cheapest(c.fleet.chips, c.option.group_chips)[1]
    return c.fleet.chips if row is None else math.ceil(c.fleet.chips / row.chips) * row.chips


def _by_instance(c: Confirmed) -> str:
    more = _paid_chips(c) - c.fleet.chips
    return f"; {_chips(more)} of its instances would stand idle" if more else ""


def tightest(c: Confirmed, demand: ServeDemand) -> str:
    """The target that leaves the least room, in words; or that requests queue up without end."""
    if not c.run.stable:
        return (
            f"it serves {format_number(c.capacity_per_s)} requests/s at most and "
            f"{demand.headroom:.0%} is to stay free: the queue would grow without end"
        )
    if not c.run.meets and c.run.worst(demand.targets) <= 1.0:
        return f"{c.run.goodput_share:.1%} of requests keep all limits, not {demand.within:.4g}"
    if not demand.targets:
        return ""
    shares = [
        (c.run.reached[f"p{t.percentile:g} {t.metric}"] / t.limit_s, t) for t in demand.targets
    ]
    share, target = max(shares, key=lambda pair: pair[0])
    reached = format_duration(share * target.limit_s) if math.isfinite(share) else "no answer"
    held = f"{share:.0%}" if share < 10 else f"{format_number(share)} x"
    return f"tightest target: {target.short()}, reached {reached} ({held})"


def _flips(confirmed: Sequence[Confirmed], demand: ServeDemand,
           rate_most: float) -> tuple[str, ...]:  # fmt: skip
    best = confirmed[0]
    said = []
    meeting = [c for c in _one_a_chip([c for c in confirmed if c.run.meets])
               if c.usd_per_hour is not None]  # fmt: skip
    if len(meeting) > 1 and best.usd_per_hour:
        second = meeting[1]
        paid = second.usd_per_hour or 0.0
        now = paid / _paid_chips(second)
        wins = now * best.usd_per_hour / paid
        said.append(f"price: {second.chip.id} wins below {format_usd(wins)} a chip-hour "
                    f"(now {format_usd(now)}{_by_instance(second)})")  # fmt: skip
    said.append(
        f"rate: this fleet keeps {'the targets and ' if demand.targets else ''}"
        f"{demand.headroom:.0%} headroom up to {format_number(rate_most)}/s "
        f"({rate_most / demand.rate_per_s - 1:+.0%}); beyond, one replica of "
        f"{_chips(best.fleet.chips_per_replica)} more"
    )
    cheaper = [
        c for c in confirmed
        if not c.run.meets and c.usd_per_hour is not None and best.usd_per_hour is not None
        and c.usd_per_hour < best.usd_per_hour
    ]  # fmt: skip
    for c in _one_a_chip(cheaper)[:2]:
        missed = [
            f"{t.metric} p{t.percentile:g} at {format_duration(v)} instead of "
            f"{format_duration(t.limit_s)}"
            for t in demand.targets
            if (v := c.run.reached[f"p{t.percentile:g} {t.metric}"]) > t.limit_s
            and math.isfinite(v)
        ]  # fmt: skip
        if missed:
            said.append(f"target: {c.fleet.chips} x {c.chip.id} at "
                        f"{format_usd(c.usd_per_hour or 0.0)}/h would do with "
                        f"{' and '.join(missed)}")  # fmt: skip
    same = [c for c in confirmed if c.run.meets and c.chip.id == best.chip.id
            and c.fleet.weights != best.fleet.weights]  # fmt: skip
    if same and best.usd_per_hour and same[0].usd_per_hour:
        said.append(f"precision: with {same[0].fleet.weights} weights "
                    f"{format_usd(same[0].usd_per_hour)}/h on the same chip")  # fmt: skip
    return (*said, *_other_prices(confirmed))


def _other_prices(confirmed: Sequence[Confirmed]) -> list[str]:
    """What the best chip costs where it is paid for in the other ways that were asked for."""
    best = confirmed[0]
    return [
        f"price type: {c.fleet.chips} x {c.chip.id} {c.market.price_type} for "
        f"{format_usd(c.usd_per_hour)}/h"
        for c in _one_a_price([c for c in confirmed if c.run.meets])
        if c.chip.id == best.chip.id and c.market.price_type != best.market.price_type
        and c.usd_per_hour is not None
    ]  # fmt: skip


def no_plan(
    job: ServeJob, demand: ServeDemand, found: Screened, confirmed: Sequence[Confirmed],
    turned_down: Mapping[str, str],
) -> NoFeasiblePlanError:  # fmt: skip
    """Why nothing does, what came closest and what limits it."""
    asked = ", ".join(t.short() for t in demand.targets) or "any latency"
    if confirmed:
        c = min(
            confirmed, key=lambda c: (_excess(c, demand), float(np.nanmax(c.run.outcome.e2e_s)))
        )
        nearest = f"{c.fleet.chips} x {c.chip.id} ({c.fleet.engine}, {c.fleet.short()})"
        return NoFeasiblePlanError(
            f"{job.model} at {demand.rate_per_s:g} requests/s within {asked}",
            nearest=f"{nearest}; {tightest(c, demand)}",
            hint="more --max-chips, a longer target, a lower rate, or another precision",
        )  # fmt: skip
    if turned_down:
        reasons = [f"{name} {why}" for name, why in turned_down.items()]
        return NoFeasiblePlanError(
            f"{job.model} at {demand.rate_per_s:g} requests/s within {asked}",
            nearest="; ".join(reasons[:3]),
            hint="more --max-chips, a lower rate, or a smaller number format (--precision)",
        )  # fmt: skip
    if found.nearest:
        option = min(found.nearest.values(), key=lambda o: o.worst)
        return NoFeasiblePlanError(
            f"no chip serves {job.model} within {asked}",
            nearest=_miss(option), hint=_limit_hint(option, demand),
        )  # fmt: skip
    reasons = [f"{k}: {v}" for k, v in sorted(found.reasons.items())]
    if not any("fit" in why or "needs" in why for why in found.reasons.values()):
        return NoFeasiblePlanError(
            f"{job.model} runs on no chip asked for", nearest="; ".join(reasons[:3]) or None,
            hint="other chips with --on, or another --engine, --precision or --layout",
        )  # fmt: skip
    return NoFeasiblePlanError(
        f"{job.model} does not fit on any fleet tried",
        nearest=_fit_miss(job) or "; ".join(reasons[:3]) or None,
        hint="a smaller number format (--precision fp8,int4,nvfp4), other chips with --on, or "
        "more chips a replica",
    )  # fmt: skip


def _excess(c: Confirmed, demand: ServeDemand) -> float:
    return max(
        (c.run.reached[f"p{t.percentile:g} {t.metric}"] / t.limit_s for t in demand.targets),
        default=0.0,
    )


def _miss(option: Option) -> str:
    c = option.config
    return (
        f"{c.chips} x {c.chip} ({c.engine}, {c.gemm_dtype}, tp {c.tp}): first token in "
        f"{format_duration(option.ttft_s)}, {format_duration(option.tpot_s)} a token, "
        f"{format_number(option.worst)} x the tightest target with {option.in_flight:.0f} in flight"
    )


def _limit_hint(option: Option, demand: ServeDemand) -> str:
    """What the closest configuration spends its time on."""
    parts = step_parts(option.config, demand, option.batch)
    total = sum(p.value for p in parts)
    top = ", ".join(f"{p.name} {p.value / total:.0%}" for p in parts[:3])
    return f"a decode step there takes {format_duration(total)}: {top}; relax the targets"


def _fit_miss(job: ServeJob) -> str | None:
    """The widest layout of the largest memory and what it lacks."""
    from weftline.serve.engine.memory import memory
    from weftline.serve.search.screen import chips_of, layouts_of

    chips = [c for c in chips_of(job.space) if c.usable_memory_bytes]
    for chip in sorted(chips, key=lambda c: -(c.usable_memory_bytes or 0.0))[:6]:
        layouts = layouts_of(job.model, chip, job.space)
        if not layouts:  # nothing is as wide as is held: that is the reason, not the memory
            return None
        wide = max(layouts, key=lambda d: (d["tp"] * d["pp"] * d["dp"], d["ep"]))
        for name in job.space.formats:
            try:
                config = ServingConfig(
                    model=job.model,
                    chip=chip.id,
                    gemm_dtype=name,
                    tp=wide["tp"],
                    pp=wide["pp"],
                    dp=wide["dp"],
                    ep=wide["ep"],
                )
                left = memory(config)
            except NoFeasiblePlanError as error:
                have = format_bytes((chip.usable_memory_bytes or 0.0) * config.chips)
                return f"{config.chips} x {chip.id} with {have}: {error.what}"
            except WeftlineError:
                continue
            if not left.fits:
                return f"{config.chips} x {chip.id}: no room for the KV cache of one sequence"
    return None
