"""From a Job to a Plan: search, price, rank, and say why."""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from weftline.catalog import Accelerator, accelerator, accelerators, own_chips
from weftline.catalog.date import CATALOG_DATE
from weftline.cost import goodput
from weftline.errors import NoFeasiblePlanError
from weftline.model import Model
from weftline.model.policy import model_under
from weftline.plan.search.answer import plan_of
from weftline.plan.search.checked import check_lengths, checked_job
from weftline.plan.search.misses import nothing_fits
from weftline.plan.search.offers import Offer, energy_of_run, misses, trained
from weftline.plan.search.prices import HOUR_S, ChipPrice, networks_of, prices_of
from weftline.plan.search.search import Found, search
from weftline.plan.step.frameworks import AUTO, recipe
from weftline.plan.step.frozen import spared_flops_per_token
from weftline.spec import ANY, Job, Objective, Plan, Tune

DEFAULT_SEQ_LEN = 8192
_DENSE_BATCH_TOKENS = ((100e9, 16 << 20), (5e9, 4 << 20), (0.0, 1 << 20))
"""Tokens a step by parameters, where the user states no batch: Llama 3 trained 8B and 70B with 4M
and 405B with 16M tokens a step (arXiv:2407.21783, section 3.4)."""
_MIXTURE_BATCH_TOKENS = ((500e9, 64 << 20), (10e9, 16 << 20), (0.0, 4 << 20))
"""The same for mixtures of experts, by all parameters: DeepSeek-V3 took 63M tokens a step at 671B
(arXiv:2412.19437, section 4.2), Kimi K2 67M at 1T (arXiv:2507.20534, section 2.5), DeepSeekMoE 18M
at 16B (arXiv:2401.06066, section 5.1), OLMoE 4M at 7B (arXiv:2409.02060)."""
_ADAPTER_BATCH_TOKENS = 64 << 10
"""For adapters: MLPerf's llama2_70b_lora takes 8 sequences of 8,192 a step on one node; more chips
take one sequence each at least."""


def default_batch(model: Model, seq_len: int, *, tune: Tune = "full", chips: int = 1) -> int:
    """Sequences a step where the user states none; a power of two."""
    if tune == "full":
        rule = _MIXTURE_BATCH_TOKENS if model.is_moe else _DENSE_BATCH_TOKENS
        tokens = next(t for least, t in rule if model.parameters >= least)
    else:
        tokens = max(_ADAPTER_BATCH_TOKENS, chips * seq_len)
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
    if usd_per_chip_hour is not None:
        job = replace(job, own_prices={**job.own_prices, ANY: usd_per_chip_hour})
    with own_chips(job.own_chips):
        day = today or datetime.date.fromisoformat(CATALOG_DATE)
        return _planned(checked_job(job), model, day, progress)


def _planned(
    job: Job, model: Model | None, day: datetime.date,
    progress: Callable[[str, float], None] | None,
) -> Plan:  # fmt: skip
    model = model_under(job.model, job.policy, model)
    if job.framework != AUTO:
        recipe(job.framework, optimizer=job.optimizer)  # not every one has every optimizer
    check_lengths(job, model, str)
    chosen = _accelerators(job)
    prices = prices_of(chosen, job, day)
    networks = networks_of(chosen, prices)
    tally = search(model, job, chosen, networks=networks, progress=progress)
    if not tally.found:
        raise nothing_fits(
            model, job, chosen, tally.without, tally.evaluated, tally.out_of_memory
        )  # fmt: skip
    offers = [_offer(f, job, model, prices[f.cluster.accelerator]) for f in tally.found]
    ranked = _ranked(offers, job)
    if all(misses(o, job) is not None for o in ranked):
        raise _limits_missed(ranked, job)
    return plan_of(job, model, ranked, tally)


def _accelerators(job: Job) -> list[Accelerator]:
    """The chips to try: those named, or all that can be bought and can train."""
    if job.accelerators:
        named = [accelerator(name) for name in job.accelerators]
        return list({a.id: a for a in named}.values())
    return [a for a in accelerators().values() if a.trains and a.rentable]


def _offer(found: Found, job: Job, model: Model, priced: ChipPrice) -> Offer:
    chips = found.cluster.chips
    train_time_s = found.step_time_s * job.steps
    whole = model.training_flops_per_token(job.seq_len)
    each = whole - spared_flops_per_token(model, job.tune, job.freeze)
    flops = each * job.tokens_per_step
    price = priced.choice
    rate = priced.own if price is None else price.usd_per_chip_hour
    energy = energy_of_run(found, price, train_time_s)
    return Offer(
        found=found,
        train_time_s=train_time_s,
        mfu=flops / found.step_time_s / chips / found.cluster.peak_flops["bf16"],
        price=price,
        own_price=priced.own,
        no_price=priced.lacking,
        availability=goodput(chips, trained(model, job)).availability,
        cost_usd=None if rate is None else rate * chips * train_time_s / HOUR_S,
        energy_j=None if energy is None else energy[0].joules,
    )


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
        case "chips":
            value = float(offer.found.cluster.chips)
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


def _describe(offer: Offer) -> str:
    cluster = offer.found.cluster
    return f"{cluster.chips:,} x {cluster.accelerator} ({offer.found.layout.short()})"


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
        nearest=f"{_describe(nearest)} {misses(nearest, job)}",
        hint="more chips (--max-chips), another --price type, a later --deadline or more --budget",
    )
