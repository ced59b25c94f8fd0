"""Every rule on one plan: what it trains, where, on which chips, for whom; unknown never passes."""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from weftline._version import __version__
from weftline.catalog import Accelerator, accelerator, own_chips
from weftline.decide.policy.rules import Rule, die_area_mm2, rules_version
from weftline.errors import InputError
from weftline.model.policy import model_under
from weftline.plan.step.frozen import spared_flops_per_token
from weftline.spec import Plan, ServePlan
from weftline.spec.decision import OUTCOMES, Decision, Outcome, Ruling
from weftline.spec.serialize import plan_to_json
from weftline.units import format_flops

__all__ = ["decide", "performance", "training_flop"]

NOTE: Final = (
    "Not legal advice: rules in numbers, from the sources and days that are named. What is not "
    "declared is not known, and what is not known never passes; only a run that trains every "
    "weight is taken to have none before it."
)
BITS: Final = {"fp64": 64, "bf16": 16, "fp16": 16, "fp8": 8, "int8": 8, "fp4": 4}
"""Bit lengths of multiply-accumulate operands; TF32 and FP32 never lead on these chips."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What rules ask of a plan."""

    chip: Accelerator
    chips: int
    flop: float
    """Of this plan's training; 0 where it serves."""
    trains: bool
    tunes: bool
    """Whether it goes on from weights that somebody has trained."""
    seller: str
    region: str
    usd: float | None
    energy_kwh: float | None
    kgco2e: float | None
    declared: Mapping[str, Any]
    day: datetime.date


def training_flop(plan: Plan) -> float:
    """Operations of the run exactly as planned: every token through the model's own count.

    Recomputed activations are not counted; what adapters and frozen parts spare is taken off.
    """
    model = model_under(plan.job.model, plan.job.policy)
    each = model.training_flops_per_token(plan.job.seq_len)
    spared = spared_flops_per_token(model, plan.job.tune, plan.job.freeze)
    return float((each - spared) * plan.job.tokens)


def performance(chip: Accelerator) -> float | None:
    """Total processing performance: the most of dense TOP/s times bits over number formats.

    EAR 3A090's technical note counts a multiply-accumulate as two operations; dense peaks do, too.
    """
    found = [
        peak / 1e12 * bits for kind, bits in BITS.items()
        if (peak := chip.peak_flops(kind)) is not None
    ]  # fmt: skip
    return max(found, default=None)


def decide(
    plan: Plan | ServePlan, rules: Sequence[Rule], declared: Mapping[str, Any], *,
    day: datetime.date,
) -> Decision:  # fmt: skip
    """What the rules come to on a plan, on a day."""
    records = plan.job.own_chips if isinstance(plan, Plan) else ()
    with own_chips(records):
        facts = _facts(plan, declared, day)
        rulings = tuple(_ruling(rule, facts) for rule in rules)
    worst = max((OUTCOMES.index(r.outcome) for r in rulings), default=0)
    text = plan_to_json(plan) + "\n"
    return Decision(
        outcome=OUTCOMES[worst], plan_sha256=hashlib.sha256(text.encode()).hexdigest(),
        plan=" ".join(repr(plan).split()), flop=facts.flop, rules_version=rules_version(),
        decided_on=day.isoformat(), weftline=__version__, rulings=rulings, note=NOTE,
        declared={k: str(v) for k, v in declared.items()},
    )  # fmt: skip


def _facts(plan: Plan | ServePlan, declared: Mapping[str, Any], day: datetime.date) -> Facts:
    price = plan.price
    energy, carbon = plan.estimates.get("energy"), plan.estimates.get("carbon")
    cost = plan.estimates.get("effective_cost") or plan.estimates.get("cost")
    trains = isinstance(plan, Plan)
    if isinstance(plan, ServePlan) and plan.fleet.name != plan.fleet.accelerator:
        raise InputError(f"a fleet of two kinds of chips ({plan.fleet.name}): rules are judged for "
                         "one kind", hint="plan each kind with its share of the rate")  # fmt: skip
    name = plan.cluster.accelerator if isinstance(plan, Plan) else plan.fleet.accelerator
    return Facts(
        chip=accelerator(name), flop=training_flop(plan) if isinstance(plan, Plan) else 0.0,
        chips=plan.cluster.chips if isinstance(plan, Plan) else plan.fleet.chips,
        seller="" if price is None else price.provider, trains=trains,
        region="" if price is None else price.region, declared=declared, day=day,
        tunes=isinstance(plan, Plan) and (plan.job.tune != "full" or bool(plan.job.freeze)),
        usd=None if cost is None else cost.value,
        energy_kwh=None if energy is None else energy.value / 3.6e6,
        kgco2e=None if carbon is None else carbon.value,
    )  # fmt: skip


def _ruling(rule: Rule, facts: Facts) -> Ruling:
    judge: Callable[[Rule, Facts], tuple[Outcome, str, str]] = {
        "compute": _compute, "export": _export, "declaration": _declaration,
        "residency": _residency, "limit": _limit,
    }[rule.kind]  # fmt: skip
    outcome, why, missing = judge(rule, facts)
    if outcome not in ("pass", "undecided") and rule.in_force > facts.day.isoformat():
        outcome, why = "notify", f"{why}; in force from {rule.in_force}"
    return Ruling(
        rule=rule.id, title=rule.title, outcome=outcome, why=why, missing=missing, says=rule.says,
        in_force=rule.in_force, source=rule.source, date=rule.date, disagree=rule.disagree,
    )  # fmt: skip


def _hit(rule: Rule) -> Outcome:
    """The outcome of a rule that applies."""
    return next(o for o in OUTCOMES if o == rule.outcome)


def _compute(rule: Rule, facts: Facts) -> tuple[Outcome, str, str]:
    """More operations than a threshold, earlier training included, where the model is offered."""
    if not facts.trains:
        return "pass", "nothing is trained", ""
    prior = facts.declared.get("prior_flop")
    total = facts.flop + float(prior or 0.0)
    said = f"{format_flops(total)} against {format_flops(rule.flop_above)}"
    markets = facts.declared.get("markets")
    if total <= rule.flop_above:
        if prior is not None:
            return "pass", said, ""
        if facts.tunes:
            return "undecided", f"{said} beside earlier training", "prior_flop: operations before"
        return "pass", f"{said}; earlier training is taken as none", ""
    if markets is None:
        return "undecided", said, "markets: where the model will be offered"
    if rule.market not in markets:
        return "pass", f"{said}, but it is not offered in {rule.market}", ""
    if rule.revenue_above_usd and "revenue" not in facts.declared:
        said += f"; declare `revenue`: more falls on those above ${rule.revenue_above_usd:,.0f}"
    return _hit(rule), f"above the threshold: {said}", ""


def _export(rule: Rule, facts: Facts) -> tuple[Outcome, str, str]:
    """Chips beyond a performance in, or for, a country that they may not go to unlicensed."""
    places = {facts.declared.get(name) for name in ("where", "who")}
    there = places & set(rule.countries)
    if not there and None in places:
        lacking = [n for n in ("where", "who") if n not in facts.declared]
        if not (lacking == ["where"] and facts.region.lower().startswith("us-")):
            return "undecided", "destination unknown", f"{' and '.join(lacking)}: a country"
    if not there:
        return "pass", "no controlled destination", ""
    tpp = performance(facts.chip)
    dram = facts.chip.memory_bandwidth_bytes_per_s
    if tpp is None or dram is None:
        return "undecided", f"{facts.chip.id} has no figures", "peak and memory bandwidth"
    said = f"{facts.chip.id} has {tpp:,.0f} TPP and {dram / 1e9:,.0f} GB/s"
    least, dense = rule.tpp_and_density
    if tpp < least:
        return "pass", f"{said}, below {least:,.0f}", ""
    if tpp < rule.tpp_at_least:
        areas = facts.declared.get("die_area", {})
        area = areas.get(facts.chip.id) or die_area_mm2(facts.chip.id)
        if area is None:
            return "undecided", f"{said}; its density decides", f"die area of {facts.chip.id}"
        said += f", {tpp / area:.2f} a square millimetre"
        if tpp / area < dense:
            return "pass", f"{said}, below {dense}", ""
    if tpp < rule.tpp_case_by_case_below and dram / 1e9 < rule.dram_gb_s_case_by_case_below:
        return "notify", f"{said}: a licence, reviewed case by case", ""
    return _hit(rule), f"{said}: a licence, presumed to be denied", ""


def _declaration(rule: Rule, facts: Facts) -> tuple[Outcome, str, str]:
    """Something that has to be declared, with the answer that lets a plan go."""
    if rule.seller and not facts.seller:
        return "undecided", "the seller is unknown", "a plan with a list price, or its seller"
    if rule.seller and facts.seller != rule.seller:
        return "pass", f"sold by {facts.seller}", ""
    value = facts.declared.get(rule.needs)
    if value is None:
        return "undecided", f"`{rule.needs}` is not declared", f"{rule.needs}: {rule.accepted}"
    if rule.accepted and str(value) != rule.accepted:
        return _hit(rule), f"`{rule.needs}` is declared as {value}", ""
    return "pass", f"`{rule.needs}` is declared", ""


def _residency(rule: Rule, facts: Facts) -> tuple[Outcome, str, str]:
    """Machines in one of the countries that are allowed."""
    where = facts.declared.get("where")
    if where is None:
        return "undecided", "where the machines stand is unknown", "where: a country"
    if where in rule.allowed:
        return "pass", f"in {where}", ""
    return _hit(rule), f"in {where}, allowed are {', '.join(rule.allowed)}", ""


def _limit(rule: Rule, facts: Facts) -> tuple[Outcome, str, str]:
    """A quantity of the plan that is bounded."""
    value = {"flop": facts.flop, "usd": facts.usd, "energy_kwh": facts.energy_kwh,
             "kgco2e": facts.kgco2e, "chips": float(facts.chips)}[rule.quantity]  # fmt: skip
    if value is None:
        return "undecided", f"{rule.quantity} is not known", f"{rule.quantity} of the plan"
    said = f"{rule.quantity} {value:,.4g}, at most {rule.most:,.4g}"
    return ("pass", said, "") if value <= rule.most else (_hit(rule), said, "")
