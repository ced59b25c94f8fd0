"""From ranked offers to a Plan: estimates with their bands, parts, and why each chip lost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from weftline._version import __version__
from weftline.attention.quality import policy_remarks
from weftline.catalog import PriceChoice
from weftline.catalog.date import CATALOG_DATE
from weftline.cost import (
    FAILURES_BASIS,
    FAILURES_HIGH,
    FAILURES_LOW,
    RECOVERY_BAND_S,
    Goodput,
    goodput,
)
from weftline.model import Model, load_model
from weftline.plan.calibrate.residual import Z90
from weftline.plan.search.drawn import beside_parts, drawn_of, swings_of
from weftline.plan.search.evidence import (
    band_of,
    break_evens,
    interval_curve,
    lost_because,
    measured_runs,
)
from weftline.plan.search.fits import MEMORY_BAND
from weftline.plan.search.measured import MEASURED_BAND
from weftline.plan.search.offers import Offer, energy_of_run, misses, pareto_front, trained
from weftline.plan.search.prices import HOUR_S, cost_of, quote_of
from weftline.plan.search.rank_map import rank_map_of
from weftline.plan.search.reasons import (
    causal_mfu,
    flips_of,
    memory_parts,
    step_parts,
    why_of,
)
from weftline.plan.search.search import Tally
from weftline.plan.step.frameworks import recipe_of
from weftline.spec import (
    Candidate,
    Estimate,
    Job,
    Part,
    Plan,
    PriceQuote,
    Rejection,
    SearchStats,
)


def plan_of(job: Job, model: Model, ranked: Sequence[Offer], tally: Tally) -> Plan:
    """The plan around the first of ``ranked`` that keeps the limits; one must."""
    allowed = [o for o in ranked if misses(o, job) is None]
    best = allowed[0]
    by_chip: dict[str, Offer] = {}
    for offer in allowed:
        by_chip.setdefault(offer.found.cluster.accelerator, offer)
    ranking = [_candidate(o, best, job) for o in by_chip.values()]
    without = [
        Rejection(accelerator=name, reason=reason) for name, reason in sorted(tally.without.items())
    ]
    seen = set(by_chip)
    for offer in ranked:
        cluster = offer.found.cluster
        if cluster.accelerator not in seen:
            seen.add(cluster.accelerator)
            said = f"misses a limit: {misses(offer, job)} on {cluster.chips:,}"
            without.append(Rejection(accelerator=cluster.accelerator, reason=said))
    quote = quote_of(best.price, best.own_price)
    chips, kept = best.found.cluster.chips, trained(model, job)
    good = goodput(chips, kept)
    estimates, cost_parts = _estimates(best, job, model, quote, good)
    rank_map = rank_map_of(
        model, best.found.cluster, recipe_of(job, best.found.framework), best.found.layout,
        seq_len=job.seq_len, precision=job.precision,
    )  # fmt: skip
    drawn = drawn_of(best.found, model, job, rank_map)
    if quote is not None:
        drawn |= {
            "swings": swings_of(quote, estimates["train_time"], chips, kept),
            "beside_parts": beside_parts(quote, model, kept,
                                         estimates["effective_train_time"].value),
        }  # fmt: skip
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
        why=why_of(best.found, quote, model, job),
        flips=flips_of(list(by_chip.values()), job),
        break_evens=break_evens(list(by_chip.values()), job),
        interval_curve=interval_curve(good),
        measured=measured_runs(best, model, job),
        ranking=tuple(ranking),
        pareto=tuple(_candidate(o, best, job) for o in pareto_front(allowed)),
        without_plan=tuple(without),
        search=SearchStats(
            evaluated=tally.evaluated,
            feasible=tally.feasible,
            rejected={"memory": tally.out_of_memory},
            accelerators=len({f.cluster.accelerator for f in tally.found}) + len(tally.without),
        ),
        rank_map=rank_map,
        model_notes=(*model.remarks, *_of_policy(job)),
        **drawn,
    )  # fmt: skip


def _of_policy(job: Job) -> tuple[str, ...]:
    if not job.policy:
        return ()
    return policy_remarks(load_model(job.model), job.policy, context=job.seq_len,
                          training=True)  # fmt: skip


def _candidate(offer: Offer, best: Offer, job: Job) -> Candidate:
    found, (low, high) = offer.found, band_of(offer)
    cost = offer.cost_usd
    note = ""
    if offer.cost_usd is None:
        note = offer.no_price
    elif offer.price is not None:
        note = _price_note(offer.price, job)
    return Candidate(
        accelerator=found.cluster.accelerator,
        chips=found.cluster.chips,
        layout=found.layout,
        step_time_s=found.step_time_s,
        mfu=offer.mfu,
        memory_bytes=found.memory_bytes,
        train_time_s=offer.train_time_s,
        cost_usd=offer.cost_usd,
        energy_j=offer.energy_j,
        note=note,
        train_time_low_s=offer.train_time_s * low,
        train_time_high_s=offer.train_time_s * high,
        cost_low_usd=None if cost is None else cost * low,
        cost_high_usd=None if cost is None else cost * high,
        step_parts={part.name: part.value for part in step_parts(found)},
        lost=lost_because(offer, best),
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
    offer: Offer, job: Job, model: Model, quote: PriceQuote | None, good: Goodput
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
        "mfu_causal": _mfu(causal_mfu(found, model, job), spread, basis, job.precision),
        "train_time": run,
        "memory": Estimate.within(
            found.memory_bytes,
            "B",
            MEMORY_BAND if found.measured is None else MEASURED_BAND,
            "counted; allocator overhead assumed"
            if found.measured is None
            else found.measured.basis,
        ),
    }
    host = float(found.memory.host_bytes[0])
    if host:
        estimates["host_memory"] = Estimate.within(
            host * found.cluster.chips_per_host, "B a host", MEMORY_BAND,
            f"counted: states and gradients of {found.cluster.chips_per_host} chips' share",
        )  # fmt: skip
    chips = found.cluster.chips
    kept = trained(model, job)
    worst = goodput(chips, kept, failures_per_chip_day=FAILURES_HIGH, recovery_s=RECOVERY_BAND_S[1])
    best = goodput(chips, kept, failures_per_chip_day=FAILURES_LOW, recovery_s=RECOVERY_BAND_S[0])
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
    energy = energy_of_run(found, offer.price, effective.value)
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
