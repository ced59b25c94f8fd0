"""A serving plan in the terminal: the answer first, then why, then the ranking."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from weftline.report.draw import cdf_lines, strip
from weftline.report.frame import (
    bases,
    breakdown,
    more,
    noted,
    numbers,
    reasons,
    remarks,
    shown_ranks,
)
from weftline.report.offers import offers_lines, with_age
from weftline.report.text import model_label, page, table, wrapped
from weftline.spec import Fleet, ServeCandidate, ServePlan
from weftline.units import format_bytes, format_count, format_duration, format_number, format_usd


def render_serve_plan(plan: ServePlan) -> str:
    """The whole answer; the first line starts with ``Best:``."""
    lines = [*_best(plan), "", *numbers(plan.estimates, number_rows(plan), ends=";:")]
    lines += offers_lines(plan.price, plan.fleet.accelerator)
    lines += _batch(plan)
    lines += _daily(plan)
    lines += ["", *reasons(plan.why, plan.flips)]
    lines += ["", *_ranking(plan.ranking)]
    if len(plan.pareto) > 1:
        lines += ["", "Nothing is better in cost, first token and time a token at once"]
        lines += _ranking(plan.pareto)
    lines += ["", *_search(plan)]
    return page(lines)


def _batch(plan: ServePlan) -> list[str]:
    """When a batch is done, and for how much; nothing where none was asked for."""
    b = plan.batch
    if not b:
        return []
    money = ""
    if "usd" in b:
        money = (f", for {format_usd(b['usd'])}: {format_usd(b['usd_per_m_tokens'])} a million "
                 "tokens of prompts and answers")  # fmt: skip
    return ["", *wrapped(
        f"{format_count(b['requests'])} requests are done in {format_duration(b['done_s'])} of "
        f"{format_duration(b['deadline_s'])}{money}. All wait at the start and every replica is "
        f"full until the end; no spares: what a lost replica leaves, the others do in the "
        f"{plan.demand.headroom:.0%} that stay free.", hang="  ",
    )]  # fmt: skip


def _daily(plan: ServePlan) -> list[str]:
    """A day's load: the fleet scaled with it, beside the fixed one; nothing where not asked."""
    d = plan.daily
    if not d:
        return []
    money = ""
    if "usd_per_day_scaled" in d:
        money = (f": {format_usd(d['usd_per_day_scaled'])} a day, "
                 f"{format_usd(d['usd_per_day_fixed'])} fixed")  # fmt: skip
    late = (
        f"{d['late_share']:.2%} of requests come into a queue, "
        f"{format_duration(d['longest_wait_s'])} at most" if d["late_share"] else "no queue forms"
    )  # fmt: skip
    return ["", *wrapped(
        f"Over a day of that peak and {format_number(d['mean_rate_per_s'], 4)}/s in the mean, "
        f"autoscaling holds {d['replicas_least']:.0f} to {d['replicas_most']:.0f} replicas, "
        f"{d['saved_share']:.0%} fewer replica-hours than {d['replicas_fixed']:.0f} fixed ones"
        f"{money}. A replica starts in {format_duration(d['replica_start_s'])}: {late}; "
        f"{d['headroom_for_growth']:.0%} headroom covers the growth meanwhile.", hang="  ",
    )]  # fmt: skip


def _best(plan: ServePlan) -> list[str]:
    f, d = plan.fleet, plan.demand
    cost = plan.estimates.get("cost_per_hour")
    money = f": {format_usd(cost.value)}/h" if cost is not None else ""
    if plan.price is not None and ", " in d.price_type:
        money += f" {plan.price.price_type}"
    head = f"Best: {f.counted()}{money}"
    seed = "" if d.seed is None else f", seed {d.seed}"
    targets = ", ".join(t.short() for t in d.targets) or "no latency target"
    if any(t.percentile == round(100 * d.within, 6) for t in d.targets):
        targets += f", all kept by {100 * d.within:g} % of requests"
    targets += f"; {d.headroom:.0%} headroom"
    cached = f", {d.cached_share:.1%} of prompts cached" if d.cached_share else ""
    return [
        *wrapped(head, hang="      "),
        *wrapped(
            f"{model_label(d.model)} ({format_count(plan.parameters)} parameters), {d.traffic}, "
            f"{format_number(d.rate_per_s, 4)} requests/s of {d.input_tokens:,.0f} + "
            f"{d.output_tokens:,.0f} tokens{cached}{seed}; {targets}; {d.price_type}",
            indent="      ",
        ),
        *remarks(plan.model_notes),
        *_launch(plan),
    ]


def _launch(plan: ServePlan) -> list[str]:
    """The settings that the fleet was simulated with, as its engine names them."""
    if not plan.launch:
        return []
    lines = []
    for of, settings in (("each", plan.launch), ("each of the others", plan.launch_beside)):
        words = ", ".join(f"{name} {value}".strip() for name, value in settings.items())
        lines += wrapped(f"start {of} with {words}", indent="      ", hang="  ") if words else []
    return lines


def _per_m(value: float) -> str:
    return f"${format_number(value)}"


def _joules(value: float) -> str:
    return f"{format_number(value)} J"


def _rate(value: float) -> str:
    return f"{format_number(value)}/s"


def number_rows(plan: ServePlan) -> list[tuple[str, str, Callable[[float], str]]]:
    """(label, name of the estimate, how it is written) of a plan's main numbers, in order."""
    rows: list[tuple[str, str, Callable[[float], str]]] = []
    for label, metric in (("first token", "ttft"), ("a token", "tpot"), ("last token", "e2e")):
        shares = sorted(
            float(name.partition("_p")[2]) for name in plan.estimates
            if name.startswith(f"{metric}_p")
        )  # fmt: skip
        rows += [
            (f"{label}, {'median' if p == 50 else f'p{p:g}'}", f"{metric}_p{p:g}", format_duration)
            for p in shares
        ]
    rows += [
        ("capacity", "capacity", _rate),
        ("most requests", "rate_most", _rate),
        ("goodput", "goodput", _rate),
        ("cost an hour", "cost_per_hour", format_usd),
        ("a million input tokens", "cost_per_m_input", _per_m),
        ("a million output tokens", "cost_per_m_output", _per_m),
        ("a million cached tokens", "cost_per_m_cached", _per_m),
        ("energy an output token", "energy_per_output_token", _joules),
    ]
    return rows


def _ranking(candidates: Sequence[ServeCandidate]) -> list[str]:
    names: list[str] = []
    for c in candidates:
        names += [name for name in c.reached if name not in names]
    rows = []
    several = len({c.price_type for c in candidates if c.price_type}) > 1
    ranks, left = shown_ranks([c.usd_per_hour is not None for c in candidates])
    shown = [candidates[i] for i in ranks]
    for i, c in zip(ranks, shown, strict=True):
        f = c.fleet
        rows.append((
            str(i + 1), f.name, f"{f.chips:,}",
            "-" if c.usd_per_hour is None else format_usd(c.usd_per_hour),
            "" if c.meets else "misses",
            *(format_duration(c.reached[n]) if n in c.reached else "-" for n in names),
            f"{c.price_type + ', ' if several and c.price_type else ''}{f.short()} {f.engine}",
        ))  # fmt: skip
    header = ["", "accelerator", "chips", "an hour", "", *names, "fleet"]
    if all(c.meets for c in shown):
        header, rows = header[:4] + header[5:], [r[:4] + r[5:] for r in rows]
    last = len(header) - 1
    lines = table(header, rows, right=frozenset({0, 2, *range(3, last)}))
    lines += more(left)
    unseen = [(c.fleet.name, c.note) for c in candidates if not c.simulated]
    lines += noted("By the closed form, not simulated", unseen)
    return lines


def _search(plan: ServePlan) -> list[str]:
    s = plan.search
    lines = wrapped(
        f"{s.screened:,} configurations of {s.chips} accelerator{'' if s.chips == 1 else 's'} "
        f"screened, {s.simulated} fleets "
        f"simulated on {plan.demand.requests:,} requests each in {format_number(s.seconds)} s.",
        hang="  ",
    )
    if plan.demand.cells > 1:
        lines += wrapped(
            f"Simulated was one of {plan.demand.cells:,} equal parts of the fleet, with its share "
            "of the rate.", hang="  ",
        )  # fmt: skip
    if plan.without_plan:
        names = ", ".join(r.accelerator for r in plan.without_plan)
        lines += wrapped(f"Not in the ranking: {names} (`weftline explain` says why).", hang="  ")
    return lines


def fleet_words(fleet: Fleet) -> str:
    """Everything one would have to configure, in a sentence."""
    degrees = ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in fleet.layout.items() if v > 1)
    cache = "prefix cache on" if fleet.prefix_cache else "prefix cache off"
    return (
        f"{fleet.engine}, {degrees or 'one chip'}, weights {fleet.weights}, KV {fleet.kv}, at most "
        f"{fleet.max_batch} sequences and {fleet.chunk_tokens:,} tokens an iteration, {cache}, "
        f"{fleet.routing} routing"
    )


def render_serve_explanation(plan: ServePlan) -> str:
    """Where time, memory and money go, and what each number rests on."""
    lines = [*_best(plan), *wrapped(fleet_words(plan.fleet), indent="      "), ""]
    step = sum(p.value for p in plan.step_parts) or 1.0
    lines += [f"One decode step at the mean batch: {format_duration(step)}"]
    lines += breakdown("time", plan.step_parts, step, format_duration)
    memory = sum(p.value for p in plan.memory_parts) or 1.0
    lines += ["", f"Memory the engine takes on a chip: {format_bytes(memory)}"]
    lines += breakdown("bytes", plan.memory_parts, memory, format_bytes)
    lines += ["", "While it serves"]
    lines += table(("", "mean"), [(k.replace("_", " "), format_number(v))
                                  for k, v in plan.occupancy.items()],
                   right=frozenset({1}))  # fmt: skip
    if plan.price is not None:
        lines += ["", "Price"]
        lines += wrapped(
            f"{format_usd(plan.price.usd_per_chip_hour.value)} a chip-hour, "
            f"{plan.price.price_type}: {plan.price.note or plan.price.source} "
            f"({with_age(plan.price.usd_per_chip_hour.basis)})",
            indent="  ", hang="  ",
        )  # fmt: skip
        lines += [f"  {line}" for line in offers_lines(plan.price, plan.fleet.accelerator)]
    lines += ["", *bases(plan.estimates)]
    if plan.without_plan:
        lines += ["", "Accelerators not in the ranking"]
        for r in plan.without_plan:
            lines += wrapped(f"{r.accelerator}: {r.reason}", indent="  ", hang="  ")
    return page(lines)


def _band(value: float, band: Mapping[str, Any] | None) -> str:
    if band is None:
        return ""
    return f"{format_duration(value * band['low'])} to {format_duration(value * band['high'])}"


def render_simulation(answer: Mapping[str, Any]) -> str:
    """One simulated configuration: numbers, curves and occupancy over time.

    ``answer`` is what `simulate serving --json` prints.
    """
    lines = wrapped(answer["head"], hang="  ")
    lines += wrapped(answer["traffic"], indent="  ")
    if answer["unservable"]:
        lines += wrapped(
            f"{answer['unservable']:,} requests are longer than the KV memory of a replica",
            indent="  ",
        )
    bands = answer["bands"]
    rows = [
        (label, *(format_duration(answer[key][p]) for p in ("p50", "p90", "p99", "mean")),
         _band(answer[key]["p50"], bands.get(key)))
        for label, key in (("first token", "ttft_s"), ("a token", "tpot_s"),
                           ("last token", "e2e_s"), ("in the queue", "queue_s"))
        if answer[key]
    ]  # fmt: skip
    lines += ["", *table(("", "median", "p90", "p99", "mean", "90 % band of the median"), rows,
                         right=frozenset({1, 2, 3, 4}))]  # fmt: skip
    for basis in dict.fromkeys(band["basis"] for band in bands.values()):
        lines += wrapped(f"bands: {basis}", indent="  ", hang="  ")
    facts = [
        ("requests a second served", format_number(answer["requests_per_s"], 4)),
        ("output tokens a second", format_number(answer["output_tokens_per_s"], 4)),
        ("prompt tokens a second", format_number(answer["input_tokens_per_s"], 4)),
        ("prompt tokens found in the cache", f"{answer['cached_share']:.1%}"),
        ("requests thrown out and computed again", f"{answer['thrown_out']:,}"),
        ("busy, of its steady-state throughput", f"{answer['busy_share']:.0%}"),
        ("steady-state throughput, requests a second", format_number(answer["capacity_per_s"], 3)),
        ("time with any request in work", f"{answer['working_share']:.0%}"),
        ("simulated in", f"{answer['wall_s']:.2f} s"),
    ]
    lines += ["", *table(("", ""), facts, right=frozenset({1}))[1:]]
    for label, key in (("first token", "ttft_s"), ("a token", "tpot_s")):
        if answer[key]:
            lines += ["", f"Share of requests by {label}", *cdf_lines(answer[key]["curve"])]
    line = answer["timeline"]
    lines += ["", f"Over time, one mark is {format_duration(line['mark_s'])}"]
    for label, key in (("batch", "running"), ("queue", "waiting"), ("KV full", "kv_share")):
        lines.append(strip(label, line[key], percent=key == "kv_share"))
    return page(lines)
