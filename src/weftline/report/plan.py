"""A training plan in the terminal: the answer first, then why, then the ranking."""

from __future__ import annotations

import math
from collections.abc import Callable

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
from weftline.report.text import in_words, model_label, page, table, wrapped
from weftline.spec import Candidate, Plan, RankMap
from weftline.units import (
    format_bytes,
    format_count,
    format_duration,
    format_mass,
    format_number,
    format_usd,
)

FRONT_SHOWN = 6


def render_plan(plan: Plan) -> str:
    """The whole answer; the first line starts with ``Best:``."""
    lines = [*_best(plan), "", *numbers(plan.estimates, number_rows(), ends=";:,")]
    lines += offers_lines(plan.price, plan.cluster.accelerator, plan.estimates.get("cost"))
    lines += ["", *reasons(plan.why, plan.flips)]
    lines += ["", *_ranking(plan)]
    if len(plan.pareto) > 1:
        lines += ["", *_trade_offs(plan)]
    lines += ["", *_search(plan)]
    return page(lines)


def _best(plan: Plan) -> list[str]:
    run = plan.estimates["train_time"]
    cost = plan.estimates.get("cost")
    money = f", {format_usd(cost.value)}" if cost is not None else ""
    head = (
        f"Best: {plan.cluster.chips:,} x {plan.cluster.accelerator}, {plan.layout.short()}: "
        f"{format_duration(run.value)}{money}"
    )
    job = plan.job
    lay = plan.layout
    return [
        *wrapped(head, hang="      "),
        *wrapped(
            f"{model_label(job.model)} ({format_count(plan.parameters)} parameters), "
            f"{format_count(job.tokens)} tokens, {job.precision}, batch {job.global_batch:,} x "
            f"{job.seq_len:,} = dp {lay.dp} x micro-batch {lay.micro_batch} x "
            f"{lay.num_micro_batches}, ZeRO-{lay.zero}, {plan.framework}",
            indent="      ",
        ),
        *remarks(plan.model_notes),
    ]


def number_rows() -> list[tuple[str, str, Callable[[float], str]]]:
    """(label, name of the estimate, how it is written) of a plan's main numbers, in order."""
    return [
        ("step time", "step_time", format_duration),
        ("tokens a second", "tokens_per_s", format_count),
        ("MFU (bf16 peak)", "mfu", _percent),
        ("training time", "train_time", format_duration),
        ("  with failures", "effective_train_time", format_duration),
        ("cost", "cost", format_usd),
        ("  with failures", "effective_cost", format_usd),
        ("energy", "energy", _kwh),
        ("carbon", "carbon", format_mass),
        ("memory a chip", "memory", format_bytes),
        ("checkpoint every", "checkpoint_interval", format_duration),
    ]


def _percent(value: float) -> str:
    return f"{value:.1%}"


def _kwh(joules: float) -> str:
    return f"{format_count(joules / 3.6e6)} kWh"


def _ranking(plan: Plan) -> list[str]:
    ranks, left = shown_ranks([c.cost_usd is not None for c in plan.ranking])
    rows = [_row(i + 1, plan.ranking[i]) for i in ranks]
    lines = table(
        ("", "accelerator", "chips", "layout", "MFU", "time", "cost", ""),
        rows,
        right=frozenset({0, 2, 4, 5, 6}),
    )
    unpriced = [(c.accelerator, c.note) for c in plan.ranking if c.cost_usd is None]
    return lines + more(left) + noted("", unpriced)


def _trade_offs(plan: Plan) -> list[str]:
    """The Pareto front, thinned to a few lines from the fastest to the cheapest."""
    front = plan.pareto
    step = max(1, -(-len(front) // FRONT_SHOWN))
    shown = sorted({*range(0, len(front), step), len(front) - 1})
    rows = [
        (c.accelerator, f"{c.chips:,}", format_duration(c.train_time_s),
         "-" if c.cost_usd is None else format_usd(c.cost_usd),
         "-" if c.energy_j is None else _kwh(c.energy_j))
        for c in (front[i] for i in shown)
    ]  # fmt: skip
    title = f"Nothing is better in time, cost and energy at once ({len(shown)} of {len(front)})"
    header = ("accelerator", "chips", "time", "cost", "energy")
    return [title, *table(header, rows, right=frozenset({1, 2, 3, 4}))]


def _row(rank: int, c: Candidate) -> tuple[str, ...]:
    cost = "-" if c.cost_usd is None else format_usd(c.cost_usd)
    time = format_duration(c.train_time_s) if math.isfinite(c.train_time_s) else "-"
    note = c.note if c.cost_usd is not None else ""  # what has no price is said below
    return (
        str(rank), c.accelerator, f"{c.chips:,}", _degrees(c), f"{c.mfu:.0%}", time, cost, note,
    )  # fmt: skip


def _degrees(c: Candidate) -> str:
    """The layout in few columns: degrees above one, without interleaving."""
    names = (("TP", c.layout.tp), ("CP", c.layout.cp), ("PP", c.layout.pp), ("EP", c.layout.ep),
             ("DP", c.layout.dp))  # fmt: skip
    return " ".join(f"{n}{v}" for n, v in names if v > 1) or "1 chip"


def _search(plan: Plan) -> list[str]:
    s = plan.search
    lines = [
        f"{s.evaluated:,} layouts tried on {s.accelerators} accelerator"
        f"{'' if s.accelerators == 1 else 's'}, "
        f"{s.rejected.get('memory', 0):,} did not fit in memory."
    ]
    if plan.without_plan:
        names = ", ".join(r.accelerator for r in plan.without_plan)
        lines += wrapped(f"No plan: {names} (`weftline explain` says why).", hang="  ")
    return lines


def _rank_map(plan: Plan) -> list[str]:
    """Where the ranks run, in words; the map itself is in the plan."""
    found = plan.rank_map
    if found is None:
        return []
    if found.tiers:
        return _rank_map_behind_switches(found)
    parts = [
        f"{name}: " + ", ".join(
            f"{members} along axis {axis}" + (f", {apart} apart" if apart > 1 else "")
            for axis, members, apart in spans
        )
        for name, spans in found.physical.items()
        if spans
    ]  # fmt: skip
    jax = (
        "JAX's rule refuses this shape" if found.jax_s is None
        else f"by JAX's rule {format_duration(found.jax_s)}"
    )  # fmt: skip
    text = (
        f"{'; '.join(parts)}. Exchanges take {format_duration(found.exchange_s)} a step so, "
        f"nothing overlapped; {jax}. `rank_map` in the plan has the chip of each rank."
    )
    return ["", "Ranks on the torus", *wrapped(text, indent="  ", hang="  ")]


def _rank_map_behind_switches(found: RankMap) -> list[str]:
    shares = "; ".join(f"{axis} inside the {tier}" for axis, tier in found.shares.items())
    order = ""
    if found.rank_order_s is not None:
        gain = found.rank_order_s / found.exchange_s if found.exchange_s else 1.0
        order = f"; in rank order {format_duration(found.rank_order_s)}" + (
            f", {gain:.2f} times as long" if gain > 1.005 else "")  # fmt: skip
    spare = ""
    if found.spare_chips:
        spare = f" {found.spare_chips} chips stay spare so that no group straddles two units."
    text = (
        f"{shares}. Exchanges take {format_duration(found.exchange_s)} a step so, nothing "
        f"overlapped{order}.{spare} `rank_map` in the plan has the chip of each rank."
    )
    return ["", "Ranks on the network", *wrapped(text, indent="  ", hang="  ")]


def render_explanation(plan: Plan) -> str:
    """Where time, memory and money go, and what each number rests on."""
    lines = [*_best(plan), ""]
    step = plan.estimates["step_time"].value
    lines += [f"Step: {format_duration(step)}"]
    lines += breakdown("time", plan.step_parts, step, format_duration)
    memory = plan.estimates["memory"].value
    have = plan.cluster.memory_bytes
    lines += ["", f"Memory of the fullest chip: {format_bytes(memory)} of {format_bytes(have)}"]
    lines += breakdown("bytes", plan.memory_parts, memory, format_bytes)
    if plan.cost_parts:
        lines += ["", f"Money: {format_usd(plan.estimates['effective_cost'].value)}"]
        for part in plan.cost_parts:
            lines += wrapped(
                f"{part.name} {format_usd(part.value)}: {with_age(part.basis)}",
                indent="  ", hang="  ",
            )  # fmt: skip
        found = offers_lines(plan.price, plan.cluster.accelerator, plan.estimates["cost"])
        lines += [f"  {line}" for line in found]
    lines += ["", "Network"]
    for level in plan.cluster.levels:
        lines += wrapped(
            f"{level.name}: {level.size:,} chips, "
            f"{format_number(level.bandwidth_bytes_per_s / 1e9, 4)} GB/s a chip one way, "
            f"{format_number(level.latency_s * 1e6)} us a hop ({level.basis})",
            indent="  ", hang="  ",
        )  # fmt: skip
    lines += _rank_map(plan)
    lines += ["", *bases(plan.estimates)]
    for name, source in plan.cluster.basis.items():
        lines += wrapped(f"{name}: {in_words(source)}", indent="  ", hang="  ")
    if plan.without_plan:
        lines += ["", "Accelerators without a plan"]
        for rejection in plan.without_plan:
            lines += wrapped(f"{rejection.accelerator}: {rejection.reason}", indent="  ", hang="  ")
    return page(lines)
