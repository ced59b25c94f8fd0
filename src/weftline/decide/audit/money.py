"""Checks of money: what a run costs, what a token costs, which chip is the better buy."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from weftline.catalog import Accelerator, accelerator, measured_serving, ways_to_pay
from weftline.catalog.date import CATALOG_DATE
from weftline.decide.audit.terms import Finding, Terms
from weftline.errors import InputError, NoFeasiblePlanError
from weftline.plan import job_of, plan_train
from weftline.serve.search.asked import serve_job_of
from weftline.serve.search.plan import plan_serve
from weftline.spec.audit import Verdict
from weftline.spec.options import FleetOptions, JobOptions, ServingOptions, TrafficOptions
from weftline.units import (
    format_count,
    format_usd,
    parse_count,
    parse_duration_s,
    parse_usd,
)

__all__ = ["better_buy", "token_cost", "training_cost"]

HOUR_S: Final = 3600.0
CHINCHILLA: Final = 20.0
"""Tokens a parameter that spend a budget best (arXiv:2203.15556)."""


def prices_of(chip: Accelerator, terms: Terms) -> dict[str, float]:
    """Way to pay -> US dollars a chip-hour: the claim's own price, else every way of the list."""
    if "price" in terms.values:
        return {"given": terms.read("price", parse_usd)}
    if chip.id in terms.prices:
        return {"given": terms.prices[chip.id]}
    today = datetime.date.fromisoformat(CATALOG_DATE)
    return {way: found.usd_per_chip_hour
            for way, found in ways_to_pay(chip.id, today=today).items()}  # fmt: skip


def _words(prices: Mapping[str, float]) -> str:
    return ", ".join(f"{way} ${usd:.2f}" for way, usd in prices.items())


def training_cost(terms: Terms) -> Finding:
    """A model, days and dollars without tokens: the tokens at which the claim holds.

    ``chip`` and ``usd``, or ``runs`` of several chips, each with its dollars. The chips are those
    that the money rents for the days; their MFU is the planner's. The first run that has tokens
    gives the interval.
    """
    runs = terms.values.get("runs") or {terms.text("chip"): terms.values.get("usd", "")}
    told: list[str] = []
    found: dict[str, tuple[float, float, float]] = {}
    command, parameters = "", 0
    for name, usd in runs.items():
        chip = replace(terms, values={**terms.values, "chip": name}).chip()
        dollars = parse_usd(str(usd), where=terms.where)
        for way, price in sorted(prices_of(chip, terms).items(), key=lambda p: p[1]):
            tokens, words, shown, parameters = _afforded(terms, chip, dollars, way, price)
            told.append(words)
            command = command or shown
            if tokens is not None:
                found[f"{chip.id} {way}"] = tokens
    if not found:
        return Finding(verdict="undecidable", condition="; ".join(told) or "no price is known",
                       missing="a price and a plan", command=command)  # fmt: skip
    first = next(iter(found.values()))
    asked = terms.values.get("tokens")
    verdict: Verdict = "conditional"
    if asked is not None:
        need = parse_count(str(asked), where=terms.where)
        good = [name for name, t in found.items() if t[1] >= need]
        verdict = "holds" if len(good) == len(found) else "conditional" if good else "fails"
        most = max(t[1] for t in found.values())
        words = f"at {', '.join(good) or 'no price'}; {format_count(most)} tokens at most"
    else:
        short = CHINCHILLA * parameters / max(t[1] for t in found.values())
        each = "; ".join(f"{n}: {format_count(t[0])} to {format_count(t[2])}"
                         for n, t in found.items())  # fmt: skip
        ends = f"fails by {short:.1f} x" if short > 1 else "holds"
        words = f"no tokens are stated; holds for {each}; {ends} for {CHINCHILLA:g} a parameter"
    return Finding(verdict=verdict, condition=words, value=first[1], low=first[0], high=first[2],
                   unit="tokens", command=command, evidence=tuple(told))  # fmt: skip


def _afforded(
    terms: Terms, chip: Accelerator, usd: float, way: str, price: float
) -> tuple[tuple[float, float, float] | None, str, str, int]:
    """(tokens low, middle, high; in words; the command; parameters) of one chip at one price."""
    seconds = terms.read("time", parse_duration_s)
    model = terms.text("model")
    afford = usd / (price * seconds / HOUR_S)
    chips = 1 << (max(1, int(afford)).bit_length() - 1)
    options = JobOptions(
        tokens="1T", chip=terms.described, on=chip.id, chips=str(chips), price=f"${price!r}/h",
        seq=terms.text("seq", "8192"), allow_long=True,
    )  # fmt: skip
    head = f"{chip.id} {way} at ${price:.2f}: {format_count(afford)} chips"
    try:
        plan = plan_train(job_of(model, options))
    except NoFeasiblePlanError as error:
        return None, f"{head}, {error.what}", "", 0
    run, mfu = plan.estimates["train_time"], plan.estimates["mfu"]
    low, middle, high = (
        1e12 / t * afford / chips * seconds for t in (run.high, run.value, run.low)
    )
    words = (
        f"{head}, MFU {mfu.value:.0%} ({mfu.low:.0%} to {mfu.high:.0%}), {format_count(middle)} "
        f"tokens ({format_count(low)} to {format_count(high)})"
    )
    command = (
        f"weftline plan train {model} --tokens {format_count(middle)} --on {chip.id} --chips "
        f"{chips} --price ${price:.2f}/h --seq {options.seq} --allow-long"
    )
    return (low, middle, high), words, command, plan.parameters


def _served(terms: Terms, chip: Accelerator) -> tuple[float, float, float, str]:
    """(requests a second and chip at the middle, low, high; the command that shows them)."""
    model = terms.text("model", "llama-3.1-70b")
    prompt, answer = terms.text("input", "1024"), terms.text("output", "1024")
    fleet = FleetOptions(
        on=chip.id, price="$1/h", chip=terms.described, tpot=terms.text("tpot", "100ms"),
        ttft=terms.text("ttft", "5s"), headroom="0%", precision=terms.values.get("precision"),
    )  # fmt: skip
    traffic = TrafficOptions(rate=f"{terms.text('rate', '8')}/s", input=prompt, output=answer)
    plan = plan_serve(serve_job_of(model, fleet, traffic, ServingOptions()))
    through = plan.estimates["capacity"]
    chips = plan.fleet.replicas * plan.fleet.chips_per_replica
    command = (
        f"weftline plan serve {model} --on {chip.id}{' --chip CHIP.yaml' * bool(terms.described)} "
        f"--rate {traffic.rate} --input {prompt} "
        f"--output {answer} --ttft {fleet.ttft} --tpot {fleet.tpot} --headroom 0% --price"
    )
    return through.value / chips, through.low / chips, through.high / chips, command


def measured_on(chip: str) -> bool:
    """Whether the catalogue has measured serving points of a 70B model on a chip."""
    names = {str(row["gpu"]).partition("x")[2] for row in measured_serving()}
    return any(accelerator(name).id == chip for name in names if name)


def token_cost(terms: Terms) -> Finding:
    """Dollars a million tokens by each way to count a token and each way to pay.

    A million of output when all cost is put on it, or of prompt and answer together. Where the chip
    has measured rows of a model of this size the middle decides; where it has none, the band does.
    """
    chip = terms.chip()
    claimed = terms.read("usd", parse_usd)
    each, low, high, command = _served(terms, chip)
    prices = prices_of(chip, terms)
    if not prices and "implied" not in terms.values and chip.id not in terms.hypothetical:
        return Finding(verdict="undecidable", condition="no price", missing=f"a price of {chip.id}",
                       command=command)  # fmt: skip
    prompt, answer = terms.number("input", 1024), terms.number("output", 1024)
    tokens = {"output": answer, "blended": prompt + answer}
    measured = measured_on(chip.id)
    told, holds, inside, whole = [], [], 0, []
    for way, price in sorted(prices.items(), key=lambda p: p[1]):
        for name, count in tokens.items():
            costs = [price / HOUR_S / r / count * 1e6 for r in (high, each, low)]
            told.append(f"{name}, {way} ${price:.2f}: ${costs[1]:.3f} "
                        f"(${costs[0]:.3f} to ${costs[2]:.3f})")  # fmt: skip
            whole.append(costs)
            inside += costs[0] <= claimed <= costs[2]
            if costs[1] <= claimed:
                holds.append(f"{name} at {way}")
    breaks = {n: claimed * each * c * HOUR_S / 1e6 for n, c in tokens.items()}
    below = " or ".join(f"{n} below {format_usd(v)} a chip-hour" for n, v in breaks.items())
    value = sorted(c[1] for c in whole)[len(whole) // 2] if whole else breaks["output"]
    found = Finding(
        verdict="conditional", condition=f"holds for {below}", value=value,
        low=min((c[0] for c in whole), default=None), high=max((c[2] for c in whole), default=None),
        unit="USD/1M tokens" if whole else "USD/chip-hour",
        command=f"{command} ${min(prices.values(), default=breaks['blended']):.2f}/h",
        evidence=(*told, "prices: " + (_words(prices) or "none")),
    )  # fmt: skip
    if chip.id in terms.hypothetical:
        return replace(found, condition=f"on the chip being as described; {found.condition}")
    if not measured and inside:
        return replace(found, verdict="undecidable",
                       condition=f"inside the band; {found.condition}",
                       missing=f"a measured throughput of such a model on {chip.id}")  # fmt: skip
    if len(holds) == len(whole):
        return replace(found, verdict="holds")
    return found if holds else replace(found, verdict="fails")


def better_buy(terms: Terms) -> Finding:
    """``chip`` against ``than``: work a dollar, by number format and by the prices of both.

    ``least`` and ``most`` are what the claim promises: 1.3 and 1.4.
    """
    chip, than = terms.chip(), terms.chip("than")
    least, most = terms.number("least"), terms.number("most", terms.number("least"))
    model = terms.text("model", "llama-3.1-70b")
    chips = terms.text("chips", "256")
    told, speed, command = [], {}, ""
    for precision in ("bf16", "fp8"):
        times = {}
        for acc in (chip, than):
            options = JobOptions(
                tokens="1T", chip=terms.described, on=acc.id, chips=chips, price="$1/h",
                precision=precision,
            )  # fmt: skip
            try:
                times[acc.id] = plan_train(job_of(model, options)).estimates["train_time"]
            except (NoFeasiblePlanError, InputError):
                break
        if len(times) == 2:
            a, b = times[chip.id], times[than.id]
            speed[precision] = (b.value / a.value, b.low / a.high, b.high / a.low)
            told.append(f"{precision}: {b.value / a.value:.2f} x the work of {than.id} a chip-hour "
                        f"({b.low / a.high:.2f} to {b.high / a.low:.2f})")  # fmt: skip
            command = command or (
                f"weftline plan train {model} --tokens 1T --on {chip.id},{than.id} --chips {chips} "
                f"--price $1/h"
            )
    if not speed:
        return Finding(verdict="undecidable", condition="neither has a plan", command=command,
                       missing="a layout that both run")  # fmt: skip
    pay = {acc.id: prices_of(acc, replace(terms, values={})) for acc in (chip, than)}
    flips = "; ".join(f"{p}: a premium of {v[0] / least - 1:+.0%} flips it"
                      for p, v in speed.items())  # fmt: skip
    worth = []
    for way, usd in pay[chip.id].items():
        for other, theirs in pay[than.id].items():
            for precision, v in speed.items():
                worth.append(v[0] * theirs / usd)
                told.append(f"{precision}, {way} ${usd:.2f} against {other} ${theirs:.2f}: "
                            f"{worth[-1]:.2f} x a dollar")  # fmt: skip
    if not worth:
        worth = [v[0] for v in speed.values()]
        flips = f"at equal price, for no price of one is known; {flips}"
    good = [w >= least for w in worth]
    verdict: Verdict = "holds" if all(good) else "conditional" if any(good) else "fails"
    said = (
        f"{min(worth):.2f} to {max(worth):.2f} x a dollar, {least:g} to {most:g} claimed; {flips}"
    )
    first = next(iter(speed.values()))
    return Finding(
        verdict=verdict, condition=said, value=first[0], low=min(v[1] for v in speed.values()),
        high=max(v[2] for v in speed.values()), unit="x the work a chip-hour", command=command,
        evidence=tuple(told),
    )  # fmt: skip
