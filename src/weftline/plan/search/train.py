"""From a Job to a Plan: search, price, rank, and say why."""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from weftline._version import __version__
from weftline.catalog import (
    Accelerator,
    PriceChoice,
    accelerator,
    accelerators,
    grid_intensity,
    pue,
)
from weftline.catalog.date import CATALOG_DATE
from weftline.cost import (
    FAILURES_BASIS,
    FAILURES_HIGH,
    FAILURES_LOW,
    RECOVERY_BAND_S,
    Energy,
    energy_of,
    goodput,
)
from weftline.errors import InputError, InputErrors, NoFeasiblePlanError
from weftline.model import Model, load_model
from weftline.model.once import once_per_model
from weftline.plan.calibrate.residual import Z90
from weftline.plan.search.checked import checked_job
from weftline.plan.search.offers import Offer, pareto_front
from weftline.plan.search.prices import (
    HOUR_S,
    ChipPrice,
    cost_of,
    networks_of,
    prices_of,
    quote_of,
)
from weftline.plan.search.rank_map import rank_map_of
from weftline.plan.search.reasons import flips_of, memory_parts, step_parts, why_of
from weftline.plan.search.search import Found, Tally, search
from weftline.plan.step.frameworks import AUTO, recipe, recipe_of
from weftline.spec import (
    Candidate,
    Estimate,
    Job,
    Objective,
    Part,
    Plan,
    PriceQuote,
    Rejection,
    SearchStats,
)
from weftline.units import format_duration, format_usd

DEFAULT_SEQ_LEN = 8192
_BATCH_TOKENS = ((100e9, 16 << 20), (5e9, 4 << 20), (0.0, 1 << 20))
"""Tokens a step by active parameters, where the user states no batch: Llama 3 trained 8B and 70B
with 4M and 405B with 16M tokens a step (arXiv:2407.21783, section 3.4)."""


def default_batch(model: Model, seq_len: int) -> int:
    """Sequences a step where the user states none; a power of two."""
    tokens = next(t for least, t in _BATCH_TOKENS if model.active_parameters >= least)
    return 1 << (max(1, tokens // seq_len).bit_length() - 1)


def plan_train(
    job: Job,
    *,
    model: Model | None = None,
    today: datetime.date | None = None,
    usd_per_chip_hour: float | None = None,
    progress: Callable[[str, float], None] | None = None,
) -> Plan:
    """The best plan for ``job``.

    ``usd_per_chip_hour`` replaces the catalogue's prices. Raises InputError(s) for a job that
    cannot be, UnknownNameError for names, NoFeasiblePlanError with the nearest miss.
    """
    job = checked_job(job)
    model = model or load_model(job.model)
    if job.framework != AUTO:
        recipe(job.framework, optimizer=job.optimizer)  # not every one has every optimizer
    _check(job, model)
    chosen = _accelerators(job)
    day = today or datetime.date.fromisoformat(CATALOG_DATE)
    prices = prices_of(chosen, job, day, usd_per_chip_hour)
    networks = networks_of(chosen, prices)
    tally = search(model, job, chosen, networks=networks, progress=progress)
    if not tally.found:
        raise _nothing_fits(model, tally)
    unpriced = ChipPrice(choice=None)
    offers = [
        _offer(f, job, model, prices.get(f.cluster.accelerator, unpriced), usd_per_chip_hour)
        for f in tally.found
    ]
    ranked = _ranked(offers, job)
    allowed = [o for o in ranked if _misses(o, job) is None]
    if not allowed:
        raise _limits_missed(ranked, job)
    return _plan(job, model, allowed, tally, usd_per_chip_hour)


def _check(job: Job, model: Model) -> None:
    wrong: list[InputError] = []
    if model.max_seq_len is not None and job.seq_len > model.max_seq_len:
        wrong.append(
            InputError(
                f"a sequence of {job.seq_len:,} tokens is longer than {model.name} takes "
                f"({model.max_seq_len:,})",
                where="--seq",
                hint=f"use --seq {model.max_seq_len} or less",
            )
        )
    if job.tokens < job.tokens_per_step:
        wrong.append(
            InputError(
                f"{job.tokens:,} tokens are less than one step of {job.tokens_per_step:,}",
                where="--tokens",
                hint="lower --global-batch or --seq",
            )
        )
    if job.chips is not None and job.max_chips is not None:
        wrong.append(
            InputError("--chips fixes the count and --max-chips bounds it", hint="give one of them")
        )
    if wrong:
        raise wrong[0] if len(wrong) == 1 else InputErrors(wrong)


def _accelerators(job: Job) -> list[Accelerator]:
    """The chips to try: those named, or all that can be bought and can train."""
    if job.accelerators:
        named = [accelerator(name) for name in job.accelerators]
        return list({a.id: a for a in named}.values())
    return [a for a in accelerators().values() if a.trains and a.rentable]


@once_per_model
def _flops_per_token(model: Model, seq_len: int) -> float:
    return model.training_flops_per_token(seq_len)


def _offer(
    found: Found, job: Job, model: Model, priced: ChipPrice, usd_per_chip_hour: float | None
) -> Offer:
    chips = found.cluster.chips
    train_time_s = found.step_time_s * job.steps
    flops = _flops_per_token(model, job.seq_len) * job.tokens_per_step
    mfu = flops / found.step_time_s / chips / found.cluster.peak_flops["bf16"]
    price = priced.choice
    rate = usd_per_chip_hour if price is None else price.usd_per_chip_hour
    energy = _energy(found, price, train_time_s)
    return Offer(
        found=found,
        train_time_s=train_time_s,
        mfu=mfu,
        price=price,
        known_instead=priced.instead,
        availability=goodput(chips, model.parameters).availability,
        cost_usd=None if rate is None else rate * chips * train_time_s / HOUR_S,
        energy_j=None if energy is None else energy[0].joules,
    )


def _energy(found: Found, price: PriceChoice | None, seconds: float) -> tuple[Energy, str] | None:
    """Energy of the run and what PUE and grid it rests on; None without a design power."""
    if found.cluster.tdp_w is None:
        return None
    provider = price.price.provider if price is not None else ""
    region = price.price.region if price is not None else ""
    try:
        facility, facility_basis = pue(provider, region).value, f"PUE of {provider}"
    except InputError:
        facility, facility_basis = pue("aws").value, "PUE of aws, assumed"
    try:
        grid = grid_intensity(provider, region)
        grid_basis = f"grid of {region}"
    except InputError:
        grid = grid_intensity("country", "USA")
        grid_basis = "grid of the USA, assumed"
    energy = energy_of(
        chips=found.cluster.chips,
        seconds=seconds,
        tdp_w=found.cluster.tdp_w,
        pue=facility,
        gco2e_per_kwh=grid.gco2e_per_kwh,
    )
    return energy, f"design power, {facility_basis}, {grid_basis}"


def _score(offer: Offer, objective: Objective) -> tuple[bool, float]:
    """Sort key: what has no value for the objective (no price, no design power) comes last."""
    unknown = math.inf
    match objective:
        case "time":
            value: float | None = offer.train_time_s
        case "cost":
            value = offer.cost_usd
        case "energy":
            value = offer.energy_j
        case _:
            value = None if offer.cost_usd is None else offer.cost_usd * offer.train_time_s
    return value is None, unknown if value is None else value


def _ranked(offers: Sequence[Offer], job: Job) -> list[Offer]:
    """All offers, best first; those within deadline and budget before those beyond."""
    return sorted(
        offers,
        key=lambda o: (
            *_score(o, job.objective),
            o.train_time_s,
            o.found.cluster.accelerator,
            o.found.cluster.chips,
        ),
    )


def _misses(offer: Offer, job: Job) -> str | None:
    """Which of the user's limits an offer breaks, in words; None if none."""
    said: list[str] = []
    if job.deadline_s is not None and offer.effective_time_s > job.deadline_s:
        said.append(
            f"takes {format_duration(offer.effective_time_s)} with failures, "
            f"deadline {format_duration(job.deadline_s)}"
        )
    if job.budget_usd is not None:
        if offer.cost_usd is None:
            said.append("has no price to hold against the budget")
        elif offer.cost_usd / offer.availability > job.budget_usd:
            cost = format_usd(offer.cost_usd / offer.availability)
            said.append(f"costs {cost} with failures, budget {format_usd(job.budget_usd)}")
    return " and ".join(said) or None


def _describe(offer: Offer) -> str:
    cluster = offer.found.cluster
    return f"{cluster.chips:,} x {cluster.accelerator} ({offer.found.layout.short()})"


def _nothing_fits(model: Model, tally: Tally) -> NoFeasiblePlanError:
    # What only lacked memory came closer than what cannot run at all.
    missed = sorted(tally.without.items(), key=lambda item: not item[1].startswith("needs"))
    reasons = [f"{name} {reason}" for name, reason in missed]
    return NoFeasiblePlanError(
        f"no layout of {model.name} runs on any of {len(tally.without)} accelerators "
        f"({tally.evaluated:,} layouts tried, {tally.out_of_memory:,} out of memory)",
        nearest="; ".join(reasons[:3]) or None,
        hint="more chips (--chips, --max-chips), a shorter --seq, or another --global-batch",
    )


def _limits_missed(ranked: Sequence[Offer], job: Job) -> NoFeasiblePlanError:
    def excess(offer: Offer) -> float:
        late = offer.effective_time_s / job.deadline_s if job.deadline_s is not None else 0.0
        dear = 0.0
        if job.budget_usd is not None:
            dear = math.inf if offer.cost_usd is None else offer.cost_usd / job.budget_usd
        return max(late, dear)

    nearest = min(ranked, key=excess)
    return NoFeasiblePlanError(
        f"none of {len(ranked)} plans keeps the limits",
        nearest=f"{_describe(nearest)} {_misses(nearest, job)}",
        hint="more chips (--max-chips), another --price type, a later --deadline or more --budget",
    )


def _plan(
    job: Job, model: Model, allowed: Sequence[Offer], tally: Tally, usd: float | None
) -> Plan:
    best = allowed[0]
    by_chip: dict[str, Offer] = {}
    for offer in allowed:
        by_chip.setdefault(offer.found.cluster.accelerator, offer)
    ranking = [_candidate(o, job) for o in by_chip.values()]
    without = [
        Rejection(accelerator=name, reason=reason) for name, reason in sorted(tally.without.items())
    ]
    lost = {o.found.cluster.accelerator for o in allowed}
    for found in tally.found:
        if found.cluster.accelerator not in lost:
            lost.add(found.cluster.accelerator)
            without.append(
                Rejection(accelerator=found.cluster.accelerator, reason="misses a limit")
            )
    quote = quote_of(best.price, usd)
    estimates, cost_parts = _estimates(best, job, model, quote)
    return Plan(
        weftline=__version__,
        catalog_date=CATALOG_DATE,
        job=job,
        parameters=model.parameters,
        active_parameters=model.active_parameters,
        cluster=best.found.cluster,
        framework=best.found.framework,
        layout=best.found.layout,
        estimates=estimates,
        step_parts=step_parts(best.found),
        memory_parts=memory_parts(best.found),
        cost_parts=cost_parts,
        price=quote,
        why=why_of(best.found, quote, model, best.known_instead),
        flips=flips_of(list(by_chip.values()), job),
        ranking=tuple(ranking),
        pareto=tuple(_candidate(o, job) for o in pareto_front(allowed)),
        without_plan=tuple(without),
        search=SearchStats(
            evaluated=tally.evaluated,
            feasible=tally.feasible,
            rejected={"memory": tally.out_of_memory},
            accelerators=len({f.cluster.accelerator for f in tally.found}) + len(tally.without),
        ),
        rank_map=rank_map_of(
            model, best.found.cluster, recipe_of(job, best.found.framework), best.found.layout,
            seq_len=job.seq_len, precision=job.precision,
        ),
    )  # fmt: skip


def _candidate(offer: Offer, job: Job) -> Candidate:
    found = offer.found
    note = ""
    if offer.cost_usd is None:
        note = "no price"
    elif offer.price is not None:
        note = _price_note(offer.price, job)
    return Candidate(
        accelerator=found.cluster.accelerator,
        chips=found.cluster.chips,
        layout=found.layout,
        step_time_s=found.step_time_s,
        mfu=offer.mfu,
        memory_bytes=float(found.memory.total_bytes[0]),
        train_time_s=offer.train_time_s,
        cost_usd=offer.cost_usd,
        energy_j=offer.energy_j,
        note=note,
    )


def _price_note(choice: PriceChoice, job: Job) -> str:
    """What a reader of the ranking must know of a price: its way to pay, host and age."""
    said: list[str] = [choice.price.price_type] if job.price_type == "any" else []
    if not choice.price.host_included:
        said.append("host not included")
    if choice.stale:
        said.append(f"price of {choice.price.date}")
    return ", ".join(said)


def _estimates(
    offer: Offer, job: Job, model: Model, quote: PriceQuote | None
) -> tuple[dict[str, Estimate], tuple[Part, ...]]:
    found = offer.found
    spread = math.exp(Z90 * found.log_error) - 1
    basis = found.constants.basis
    step = Estimate.within(found.step_time_s, "s", spread, basis)
    run = step.scaled(job.steps, "s")
    estimates = {
        "step_time": step,
        "tokens_per_s": Estimate.within(
            job.tokens_per_step / found.step_time_s, "tokens/s", spread, basis
        ),
        "mfu": _mfu(offer.mfu, spread, basis, job.precision),
        "train_time": run,
        "memory": Estimate.within(
            float(found.memory.total_bytes[0]), "B", 0.1, "counted; allocator overhead assumed"
        ),
    }
    chips = found.cluster.chips
    good = goodput(chips, model.parameters)
    worst = goodput(
        chips, model.parameters, failures_per_chip_day=FAILURES_HIGH, recovery_s=RECOVERY_BAND_S[1]
    )
    best = goodput(
        chips, model.parameters, failures_per_chip_day=FAILURES_LOW, recovery_s=RECOVERY_BAND_S[0]
    )
    estimates["goodput"] = Estimate(
        value=good.availability, unit="of wall time", low=worst.availability,
        high=best.availability, basis=FAILURES_BASIS,
    )  # fmt: skip
    estimates["checkpoint_interval"] = Estimate(
        value=good.interval_s, unit="s", low=min(worst.interval_s, good.interval_s),
        high=max(best.interval_s, good.interval_s), basis=FAILURES_BASIS,
    )  # fmt: skip
    effective = Estimate(
        value=run.value / good.availability, unit="s", low=run.low / best.availability,
        high=run.high / worst.availability, basis=f"{basis}; {FAILURES_BASIS}",
    )  # fmt: skip
    estimates["effective_train_time"] = effective
    parts: list[Part] = []
    if quote is not None:
        rate = quote.usd_per_chip_hour
        ideal = rate.value * chips * run.value / HOUR_S
        estimates["cost"] = cost_of(rate, chips, run)
        estimates["effective_cost"] = cost_of(rate, chips, effective)
        parts.append(Part(name="compute", value=ideal, unit="USD",
                          basis=rate.basis.partition(";")[0]))  # fmt: skip
        parts.append(
            Part(name="lost to failures and checkpoints", unit="USD", basis=FAILURES_BASIS,
                 value=estimates["effective_cost"].value - ideal)
        )  # fmt: skip
    energy = _energy(found, offer.price, effective.value)
    if energy is not None:
        joules, ground = energy
        # The band holds the draw's and the time's: energy is their product.
        least, most = effective.low / effective.value, effective.high / effective.value
        estimates["energy"] = Estimate(
            value=joules.joules, unit="J", low=joules.low_joules * least,
            high=joules.high_joules * most, basis=f"{ground}; mean draw assumed",
        )  # fmt: skip
        ratio = joules.kgco2e / joules.joules
        estimates["carbon"] = estimates["energy"].scaled(ratio, "kgCO2e")
    return estimates, tuple(parts)


def _mfu(value: float, spread: float, basis: str, precision: str) -> Estimate:
    """MFU, whose band ends at the peak where products run in bf16."""
    found = Estimate.within(value, "of the bf16 peak", spread, basis)
    top = max(1.0, value) if precision == "bf16" else found.high
    return replace(found, high=min(found.high, top))
