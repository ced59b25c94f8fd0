"""The capacity search: the cheapest fleet that keeps its promises, why, and what would flip it.

The closed form screens everything; the simulation confirms the cheapest of each chip, with as many
replicas as the percentiles really need; spares, dollars and joules are put on top.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from statistics import NormalDist
from typing import Final

import numpy as np

from weftline.catalog import Accelerator, accelerator, own_chips
from weftline.catalog.offers import ANY as ANY_WAY
from weftline.cost import Terms
from weftline.errors import InputError, NoFeasiblePlanError
from weftline.serve.engine.memory import memory
from weftline.serve.search.answer import plan_of
from weftline.serve.search.asked import checked_serve_job
from weftline.serve.search.bills import bills, cheapest_by
from weftline.serve.search.confirm import (
    MOST_REQUESTS,
    Promise,
    least_replicas,
    most_rate,
    tuned,
)
from weftline.serve.search.confirmed import Confirmed, priced
from weftline.serve.search.curves import latency_curves, load_curve
from weftline.serve.search.daily import curve_of, day_of, start_s_of
from weftline.serve.search.economics import Market, markets_of_any, power_w
from weftline.serve.search.losers import most_chips, reasons_of, unpriced
from weftline.serve.search.mix import Kind, mixes
from weftline.serve.search.nothing import no_plan
from weftline.serve.search.screen import Option, Screened, screen
from weftline.serve.simulate.capacity import (
    capacity_per_s,
    found_capacity_per_s,
    least_stable,
)
from weftline.serve.simulate.mixed import Part
from weftline.serve.simulate.traffic import at_rate, extended, gamma
from weftline.spec import (
    ANY,
    ServeDemand,
    ServeJob,
    ServePlan,
    ServeSearch,
    Traffic,
)

CONFIRMED: Final = 10
"""Chips whose cheapest configuration is simulated, cheapest by the closed form first."""
SECOND_LOOKS: Final = 3
"""Chips of which other configurations are simulated too."""
SPEEDS_KEPT: Final = 6
"""Kinds of chips, the best first, of which the plan keeps the front of speed against output."""
LEAST_REQUESTS: Final = 1500
LEAST_SPAN_S: Final = 120.0
LIVES: Final = 12.0
"""Length of a synthetic run in lives of a typical request, ``LEAST_SPAN_S`` at least."""

Progress = Callable[[str], None]


def plan_serve(job: ServeJob, *, progress: Progress | None = None) -> ServePlan:
    """The plan for a job.

    Raises NoFeasiblePlanError with the nearest miss and what limits it, InputError(s) for what
    cannot be (an engine that does not run on the named chip, an unknown model).
    """
    with own_chips(job.own_chips):
        return _planned(checked_serve_job(job), progress or _quiet)


def _planned(job: ServeJob, say: Progress) -> ServePlan:
    began = time.perf_counter()
    demand = demand_of(job)
    found = screen(job.model, demand, job.space, tails_of(job), headroom=job.headroom)
    say(f"{found.evaluated:,} configurations screened, {len(found.meeting)} chips may do")
    if not found.meeting:
        raise no_plan(job, demand, found, (), {})
    markets = {name: markets_of(accelerator(name), job)
               for name in {*found.meeting, *found.nearest, *job.space.prefill_chips}}  # fmt: skip
    cells = cells_of(job, found)
    traffic, trace = traffic_of(replace(job, rate_per_s=job.rate_per_s / cells), found)
    demand = replace(demand, requests=traffic.requests, cells=cells)
    tried = _confirm(job, demand, found, markets, traffic, trace, say)
    confirmed, turned_down = tried.confirmed, tried.turned_down
    meeting = sorted((c for c in confirmed if c.run.meets), key=lambda c: c.rank)
    if not meeting:
        raise no_plan(job, demand, found, confirmed, turned_down)
    best = meeting[0]
    if demand.cached_share:  # a real cache finds less than one without an end
        done = best.run.outcome
        found_tokens = float(done.cached_tokens[done.fits].sum())
        share = found_tokens / max(1.0, float(done.prefill_tokens[done.fits].sum()))
        demand = replace(demand, cached_share=share)
    points = [(traffic.rate_per_s, best.run)]
    rate = most_rate(best.parts, traffic, promise_of(job, 1, trace),
                     best.capacity_per_s * (1.0 - job.headroom) / cells, points)  # fmt: skip
    stats = ServeSearch(
        screened=found.evaluated, chips=len(found.nearest) + len(found.reasons),
        simulated=tried.runs, seconds=round(time.perf_counter() - began, 2),
    )  # fmt: skip
    ranked = sorted(confirmed, key=lambda c: c.rank)
    # Drawn arrivals are a little off the rate that was asked: scale that, not the draw's.
    most = min(demand.rate_per_s * rate / traffic.rate_per_s,
               best.capacity_per_s * (1.0 - job.headroom))  # fmt: skip
    shown = {c.chip.id for c in ranked if len(c.parts) == 1}
    beside = unpriced(job, demand, found, markets, shown)
    shown |= {c.fleet.accelerator for c in beside}
    lost = reasons_of(job, demand, found, markets, shown, turned_down)
    plan = plan_of(job, demand, ranked, most, stats, beside, lost)
    scale = demand.rate_per_s / traffic.rate_per_s
    kinds = list(dict.fromkeys(c.chip.id for c in ranked))[:SPEEDS_KEPT]
    plan = replace(plan, load_curve=load_curve(points, scale),
                   latency_curves=latency_curves(best.run),
                   speeds={name: found.speeds[name] for name in kinds
                           if name in found.speeds})  # fmt: skip
    if job.batch is not None:
        plan = replace(plan, batch=_batch(job.batch, best))
    return replace(plan, daily=_daily(job, best)) if job.daily else plan


def _batch(asked: tuple[float, float], best: Confirmed) -> dict[str, float]:
    """The chosen fleet over a batch: when it is done, and what it costs until then."""
    requests, deadline_s = asked
    found = {"requests": requests, "deadline_s": deadline_s, "done_s": best.done_s}
    hours = best.done_s / 3600.0
    if best.usd_per_hour is not None:
        tokens = requests * (best.demand.input_tokens + best.demand.output_tokens)
        found["usd"] = best.usd_per_hour * hours
        found["usd_per_m_tokens"] = found["usd"] / tokens * 1e6
    working = [power_w(b.market.chip, b.chips, 1.0) for b in best.bought]
    if all(watts is not None for watts in working):
        found["joules"] = sum(watts[0] for watts in working if watts is not None) * best.done_s
    return found


def _daily(job: ServeJob, best: Confirmed) -> dict[str, float]:
    """The chosen fleet over a day of which the rate is the peak, scaled and fixed."""
    config, fleet = best.option.config, best.fleet
    start_s = job.replica_start_s
    if start_s is None:
        start_s = start_s_of(memory(config).weight_bytes * config.chips_per_replica)
    day = day_of(
        curve_of(job.daily), peak_per_s=job.rate_per_s,
        each_per_s=best.capacity_per_s / fleet.replicas, headroom=job.headroom,
        start_s=start_s, fixed=fleet.replicas,
    )  # fmt: skip
    found = {
        "replicas_least": float(day.least), "replicas_most": float(day.most),
        "replicas_fixed": float(day.fixed_replicas), "replica_hours_scaled": day.scaled_hours,
        "replica_hours_fixed": day.fixed_hours, "saved_share": day.saved_share,
        "late_share": day.late_share, "longest_wait_s": day.longest_wait_s,
        "replica_start_s": start_s, "headroom_for_growth": day.lead,
        "mean_rate_per_s": day.mean_rate_per_s,
    }  # fmt: skip
    if best.usd_per_hour is not None:
        each = best.usd_per_hour / (fleet.replicas + fleet.spares)
        spares = 24.0 * fleet.spares
        found["usd_per_day_scaled"] = each * (day.scaled_hours + spares)
        found["usd_per_day_fixed"] = each * (day.fixed_hours + spares)
        tokens = day.mean_rate_per_s * 86400.0 * best.demand.output_tokens
        found["usd_per_m_output_scaled"] = found["usd_per_day_scaled"] / tokens * 1e6
    return found


def promise_of(job: ServeJob, least: int, trace: bool) -> Promise:
    """What fleets are held against; ``least`` is the fewest replicas whose queue ends."""
    return Promise(targets=job.targets, within=job.within, least=least, routing=job.routing,
                   trace=trace)  # fmt: skip


def _quiet(text: str) -> None:
    del text


def demand_of(job: ServeJob) -> ServeDemand:
    """The demand in means, the form that the closed form understands."""
    trace = job.trace
    mean_in = job.input_tokens if trace is None else float(trace.prefill_tokens.mean())
    mean_out = job.output_tokens if trace is None else float(trace.decode_tokens.mean())
    if min(mean_in, mean_out) < 1:
        raise InputError(
            "prompts and answers have at least one token", hint="--input 2000 --output 400"
        )
    cached = job.space.cache_hit
    if not cached and trace is not None and trace.hash_ids is not None and job.space.prefix_cache:
        from weftline.serve.simulate.prefix import prefix_use

        cached = prefix_use(trace).ideal_hit_rate
    return ServeDemand(
        model=job.model, rate_per_s=job.rate_per_s, input_tokens=mean_in,
        traffic=trace.name if trace is not None else _name(job), output_tokens=mean_out,
        cached_share=cached, targets=job.targets,
        price_type=(
            "given" if ANY in job.own_prices else ", ".join(job.price_types)
        ),
        region=job.region, requests=0, headroom=job.headroom, within=job.within,
        seed=None if trace is not None else job.seed,
    )  # fmt: skip


def tails_of(job: ServeJob) -> dict[float, float]:
    """Prompt tokens at the percentiles of the targets, where prompts differ."""
    percentiles = {t.percentile for t in job.targets if t.percentile >= 90}
    if job.trace is not None:
        lengths = job.trace.prefill_tokens
        return {p: float(np.percentile(lengths, p)) for p in percentiles}
    if job.spread == 0:
        return {}
    # Log-normal with the mean held, as traffic.lengths draws it.
    normal = NormalDist(-(job.spread**2) / 2, job.spread)
    return {p: job.input_tokens * math.exp(normal.inv_cdf(p / 100)) for p in percentiles}


def _name(job: ServeJob) -> str:
    return "Poisson" if job.burstiness == 1 else f"Gamma {job.burstiness:g}"


def _span_s(output_tokens: float, found: Screened) -> float:
    """Seconds of synthetic traffic that show a fleet in its stride."""
    options = (o for opts in found.meeting.values() for o in opts)
    life = min(o.ttft_s + o.tpot_s * output_tokens for o in options)
    return max(LEAST_SPAN_S, LIVES * life)


def cells_of(job: ServeJob, found: Screened) -> int:
    """Equal parts of a fleet too large to be simulated whole: each takes its share of the rate.

    ``MOST_REQUESTS`` must span the time that shows a fleet in its stride. A part holds tens of
    replicas there, so what a router could still gain by seeing all of them is little, and not
    counted.
    """
    answer = job.output_tokens
    if job.trace is not None:
        answer = float(job.trace.decode_tokens.mean())
    return max(1, math.ceil(job.rate_per_s * _span_s(answer, found) / MOST_REQUESTS - 1e-9))


def traffic_of(job: ServeJob, found: Screened) -> tuple[Traffic, bool]:
    """(the requests to simulate, whether they are a trace).

    A trace is played as it is, cut or repeated to a number that gives sound percentiles.
    """
    if job.trace is not None:
        trace = at_rate(job.trace, job.rate_per_s)
        least = max(trace.requests, int(job.rate_per_s * LEAST_SPAN_S))
        if min(least, MOST_REQUESTS) == trace.requests:
            return trace, True
        return at_rate(extended(trace, min(least, MOST_REQUESTS)), job.rate_per_s), True
    wanted = job.rate_per_s * _span_s(job.output_tokens, found)
    n = int(min(MOST_REQUESTS, max(LEAST_REQUESTS, wanted)))
    return gamma(
        job.rate_per_s, n, prefill_tokens=round(job.input_tokens),
        decode_tokens=round(job.output_tokens), burstiness=job.burstiness,
        seed=job.seed, spread=job.spread,
    ), False  # fmt: skip


def markets_of(chip: Accelerator, job: ServeJob) -> list[Market]:
    """The ways to pay for a chip that have a price; where none has, the first, which says so."""
    terms = Terms(own_prices=job.own_prices, discounts=job.discounts, region=job.region)
    ways = job.price_types if terms.own(chip.id) is None else job.price_types[:1]
    markets = [Market(chip, way, terms) for way in ways]
    known = [m for m in markets if m.known]
    if ways == (ANY_WAY,) and known and known[0].own is None:
        return markets_of_any(chip, terms)
    return known or markets[:1]


@dataclass(slots=True)
class _Found:
    """What simulating has found so far."""

    confirmed: list[Confirmed] = field(default_factory=list)
    kinds: list[Kind] = field(default_factory=list)
    """What could be mixed, alone too few or not."""
    turned_down: dict[str, str] = field(default_factory=dict)
    runs: int = 0


def _confirm(
    job: ServeJob, demand: ServeDemand, found: Screened, markets: dict[str, list[Market]],
    traffic: Traffic, trace: bool, say: Progress,
) -> _Found:  # fmt: skip
    """Simulate the cheapest configurations, and of two kinds together where that is asked for."""

    def guess(option: Option) -> float:
        best = cheapest_by([option], markets, demand.rate_per_s)
        if best is None:
            return 1e12 + option.group_chips * option.replicas(demand.rate_per_s)
        return best[0]

    best = sorted(((min(guess(o) for o in opts), name) for name, opts in found.meeting.items()))
    looks: list[Option] = []
    for place, (_, name) in enumerate(best[:CONFIRMED]):
        ordered = sorted(found.meeting[name], key=guess)
        looks += ordered if place < SECOND_LOOKS else ordered[:1]
    out = _Found()
    for look in sorted(looks, key=guess):
        _look_at(job, demand, look, markets, traffic, trace, out, say)
    if job.space.mix:
        costs = [c.usd_per_hour for c in out.confirmed if c.run.meets]
        least = min((usd for usd in costs if usd is not None), default=math.inf)
        together, runs = mixes(job, demand, out.kinds, markets, traffic,
                               promise_of(job, 1, trace), least)  # fmt: skip
        out.confirmed += together
        out.runs += runs
        say(f"{runs} fleets of two chips simulated")
    return out


def _look_at(
    job: ServeJob, demand: ServeDemand, option: Option, markets: dict[str, list[Market]],
    traffic: Traffic, trace: bool, out: _Found, say: Progress,
) -> None:  # fmt: skip
    """Simulate one configuration with as many replicas as it needs."""
    cells, rate = demand.cells, demand.rate_per_s / demand.cells
    chip = option.config.chip
    each = capacity_per_s(option.config, traffic)
    if each <= 0:
        out.turned_down.setdefault(chip, "no request fits a replica's cache")
        return
    least = least_stable(rate, each, job.headroom)
    start = max(option.replicas(rate), least)
    alone = Kind(option=option, each_per_s=each,
                 kept_per_s=min(option.rate_per_s, each * (1.0 - job.headroom)))  # fmt: skip
    bound = alone.most(job, cells)
    most = None if math.isinf(bound) else int(bound)
    if most is not None and most < least:
        if most > 0:
            out.kinds.append(alone)
        out.turned_down.setdefault(chip, _too_few(job, demand, option, most, each))
        return
    promise = promise_of(job, least, trace)
    try:
        config, tunings = tuned(option.config, traffic, promise, min(start, most or start))
    except NoFeasiblePlanError as error:  # the engine's memory is counted more closely there
        out.turned_down[chip] = f"does not fit: {error.what}"
        say(f"{chip}: {error.what}")
        return
    if config.chunk_tokens != option.config.chunk_tokens:
        each = capacity_per_s(config, traffic)
        promise = replace(promise, least=least_stable(rate, each, job.headroom))
    option = replace(option, config=config)
    run, made = least_replicas(config, traffic, promise, start, most=most)
    out.runs += tunings + made
    each = found_capacity_per_s(config, traffic, run.outcome)
    part = Part(config=config, replicas=run.replicas, each_per_s=each)
    fleets = [priced(job, demand, [(option, part)], run, [bill])
              for bill in bills(option, run.replicas * cells, markets)]  # fmt: skip
    out.confirmed += (
        [min(fleets, key=lambda c: c.rank)] if job.price_types == (ANY_WAY,) else fleets
    )
    # By what it took: one replica fewer than the fewest that do would be too few.
    needed = rate / max(run.replicas - 1, 1) if run.replicas > 1 else alone.kept_per_s
    kept = min(alone.kept_per_s, needed, each * (1.0 - job.headroom))
    out.kinds.append(Kind(option=option, each_per_s=each, kept_per_s=kept))
    say(f"{chip}: {run.replicas * cells} x {option.group_chips} chips simulated")


def _too_few(job: ServeJob, demand: ServeDemand, option: Option, most: int, each: float) -> str:
    """Why the chips there are do not do, by how many are missing or by what they work off."""
    allowed = most_chips(job, option.config.chip)
    if most >= 1:
        return overload_words(job, most * demand.cells * option.group_chips,
                              most * demand.cells * each)  # fmt: skip
    needed = option.group_chips * max(demand.cells, option.replicas(demand.rate_per_s))
    return (
        f"too few chips: this rate needs about {needed - allowed:,.0f} chips more than "
        f"--max-chips {allowed:,.0f}, {needed:,} in all"
    )


def overload_words(job: ServeJob, chips: int, capacity: float) -> str:
    """That a fleet cannot work off what comes, with what it can."""
    return (
        f"the queue would grow without end: {chips:,} chips serve {capacity:.3g} requests/s at "
        f"most, {job.rate_per_s:.3g} come and {job.headroom:.0%} is to stay free"
    )
