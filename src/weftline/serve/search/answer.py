"""From simulated fleets to a plan: estimates with their bands, parts, reasons, flips, misses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from weftline._version import __version__
from weftline.attention.quality import policy_remarks
from weftline.catalog import list_words, unconfirmed_words
from weftline.catalog.date import CATALOG_DATE
from weftline.model import load_model
from weftline.serve.calibrate.bands import Band, Shown, band_of
from weftline.serve.engine.config import ServingConfig
from weftline.serve.search.asked import question_of
from weftline.serve.search.confirmed import Confirmed
from weftline.serve.search.economics import SPARES_BASIS, token_costs
from weftline.serve.search.launch import launch_settings
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
from weftline.units import format_duration, format_number, format_usd

RANKS_KEPT: Final = 30
PART_NAMES: Final = {
    "gemm": "matrix products", "fp32": "matrix products",
    "decode_attention": "attention", "prefill_attention": "attention",
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
    beside = best.parts[1].config if len(best.parts) > 1 else None
    occupancy = _occupancy(best)
    return ServePlan(
        weftline=__version__, catalog_date=CATALOG_DATE, demand=demand,
        parameters=model.parameters, active_parameters=model.active_parameters,
        fleet=best.fleet, estimates=_estimates(best, demand, rate_most, occupancy["batch"]),
        step_parts=step_parts(config, demand, occupancy["batch"]),
        memory_parts=memory_parts(config, occupancy["kv_share"]),
        price=best.market.quote(best.bought[0].row),
        why=_why(confirmed, demand, occupancy), flips=_flips(confirmed, demand, rate_most),
        ranking=(*(c.candidate() for c in _one_a_price(confirmed)[:RANKS_KEPT]), *unpriced),
        pareto=tuple(c.candidate() for c in _front(confirmed)),
        without_plan=lost, search=search, occupancy=occupancy,
        asked=question_of(job), launch=launch_settings(config),
        launch_beside={} if beside is None else launch_settings(beside),
        model_notes=(
            *_drafting(model.remarks, job.space.spec_method),
            *policy_remarks(model, job.space.policy, context=demand.input_tokens),
        ),
    )  # fmt: skip


MODULE_LEFT_OUT: Final = "next-token-prediction module"
"""How a model's remark begins whose own module for drafting is not among its layers."""


def _drafting(remarks: Sequence[str], method: str) -> tuple[str, ...]:
    """A model's remarks, with what drafts its tokens ahead where any are."""
    if method == "none":
        return tuple(remarks)
    kept = [said for said in remarks if not said.startswith(MODULE_LEFT_OUT)]
    if method == "draft":
        return (*kept, "the draft model is not named: drafting is priced as one more layer a token")
    if len(kept) < len(remarks):
        return (*kept, "drafts by its next-token-prediction module, priced as one more layer")
    return (*kept, "it has no next-token-prediction module: a drafting head of one layer is "
            "priced, which is yours to bring")  # fmt: skip


def _one_a_chip(confirmed: Sequence[Confirmed]) -> list[Confirmed]:
    seen: set[str] = set()
    kept = []
    for c in confirmed:
        if c.name not in seen:
            seen.add(c.name)
            kept.append(c)
    return kept


def _one_a_price(confirmed: Sequence[Confirmed]) -> list[Confirmed]:
    """The best fleet of each chip and way to pay."""
    best: dict[tuple[str, str], Confirmed] = {}
    for c in confirmed:
        best.setdefault((c.name, c.market.price_type), c)
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
    workers = best.workers
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


def _band(best: Confirmed, metric: Shown) -> Band:
    """The band of a metric; of several kinds of replicas or pools, the widest of theirs."""
    configs = [c for part in best.parts for c in (part.config, part.config.prefilling())]
    bands = [band_of(c, metric) for c in dict.fromkeys(configs)]
    widest = max(bands, key=lambda b: b.high / b.low)
    return Band(low=min(b.low for b in bands), high=max(b.high for b in bands),
                basis=widest.basis)  # fmt: skip


def _estimates(best: Confirmed, demand: ServeDemand, rate_most: float,
               batch: float) -> dict[str, Estimate]:  # fmt: skip
    n = int(best.run.counted.sum())
    how = f"simulated on {n:,} requests"
    found: dict[str, Estimate] = {}
    for metric in METRICS:
        band = _band(best, metric)
        for p in _percentiles(demand):
            value = best.run.percentile(metric, p)
            if math.isfinite(value):
                found[f"{metric}_p{p:g}"] = _within(value, "s", band, how)
    through = _band(best, "throughput")
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
    # At the price taken: what other offers cost stands apart, in the quote.
    words = ["given by the user" if b.row is None else list_words(b.row) for b in best.bought]
    basis = "; ".join(dict.fromkeys(words))
    cost = Estimate.exact(
        usd, "USD/h", f"{basis}; {_chips(best.paid_chips)} in whole instances, spares included"
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
    from weftline.serve.engine.scheduler import kernels_of

    setting = setting_for(config)
    some = max(1.0, batch) / config.pp
    queries = 1.0 + (config.spec_tokens if config.spec_method != "none" else 0)
    iteration = Iteration.of(
        tokens=np.array([some * queries]), sequences=np.array([some]), queries=queries,
        context=np.array([demand.input_tokens + demand.output_tokens / 2]), tp=float(config.tp),
        dp=float(config.dp), ep=float(config.ep), moe_tp=float(config.expert_tp),
        **kernels_of(config.engine),
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
    chips = len({b.market.chip.id for c in meeting for b in c.bought})
    said = []
    if best.usd_per_hour is not None:
        text = (
            f"cheapest of {len(meeting)} fleets on {chips} kinds of chips that meet the targets "
            f"when simulated: {format_usd(best.usd_per_hour)}/h"
        )
        others = [c for c in meeting if c.name != best.name and c.usd_per_hour is not None]
        if others:
            second = others[0]
            more = (second.usd_per_hour or 0.0) / best.usd_per_hour - 1
            text += (f"; next {second.fleet.chips} x {second.name} ({second.fleet.short()}), "
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
    if len(best.parts) > 1:
        said.append(f"the router gives each kind what it works off of all: {best.fleet.counted()}; "
                    f"a step and the memory are shown of {best.chip.id}")  # fmt: skip
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


def _by_instance(c: Confirmed) -> str:
    more = c.paid_chips - c.fleet.chips
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
        now = paid / second.paid_chips
        wins = now * best.usd_per_hour / paid
        said.append(f"price: {second.name} wins below {format_usd(wins)} a chip-hour "
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
            said.append(f"target: {c.fleet.chips} x {c.name} at "
                        f"{format_usd(c.usd_per_hour or 0.0)}/h would do with "
                        f"{' and '.join(missed)}")  # fmt: skip
    same = [c for c in confirmed if c.run.meets and c.name == best.name
            and c.fleet.weights != best.fleet.weights]  # fmt: skip
    if same and best.usd_per_hour and same[0].usd_per_hour:
        said.append(f"precision: with {same[0].fleet.weights} weights "
                    f"{format_usd(same[0].usd_per_hour)}/h on the same chip")  # fmt: skip
    return (*said, *_other_prices(confirmed))


def _other_prices(confirmed: Sequence[Confirmed]) -> list[str]:
    """What the best chip costs where it is paid for in the other ways that were asked for."""
    best = confirmed[0]
    return [
        f"price type: {c.fleet.chips} x {c.name} {c.market.price_type} for "
        f"{format_usd(c.usd_per_hour)}/h"
        for c in _one_a_price([c for c in confirmed if c.run.meets])
        if c.name == best.name and c.market.price_type != best.market.price_type
        and c.usd_per_hour is not None
    ]  # fmt: skip
