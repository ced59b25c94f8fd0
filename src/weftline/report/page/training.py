"""A training plan as a page: which wins, where step, memory and money go, can I trust it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

from weftline.report.page.chart import Chart, Page, Section, Table
from weftline.report.page.money import flips_section, is_compute, money_section
from weftline.report.page.parts import (
    calendar,
    front_of,
    joined,
    made_by,
    numbers_table,
    parts_table,
    stacked,
)
from weftline.report.page.step import (
    exchange_chart,
    links_section,
    memory_section,
    pipeline_chart,
)
from weftline.report.plan import number_rows
from weftline.report.text import model_label
from weftline.spec import Candidate, Plan
from weftline.units import (
    format_count,
    format_duration,
    format_number,
    format_usd,
)

__all__ = ["training_page"]

_SHOWN: Final = 8
"""Candidates whose steps are drawn beside the best."""
_RANKED: Final = 60


def training_page(plan: Plan) -> Page:
    """The page of one plan for training."""
    cluster, job = plan.cluster, plan.job
    run, cost = plan.estimates["train_time"], plan.estimates.get("cost")
    money = "" if cost is None else f" and {format_usd(cost.value)}"
    return Page(
        title=f"weftline: {job.model} on {cluster.accelerator}",
        headline=f"{cluster.chips:,} x {cluster.accelerator}, {plan.layout.short()}: "
                 f"{format_duration(run.value)}{money}",
        lead=(
            f"{model_label(job.model)} ({format_count(plan.parameters)} parameters), "
            f"{format_count(job.tokens)} tokens in {job.precision}, batch {job.global_batch:,} x "
            f"{job.seq_len:,}; {plan.framework}.",
            f"{plan.search.evaluated:,} layouts tried on {plan.search.accelerators} accelerators. "
            "Every number has a 90 % band and says what it rests on.",
        ),
        sections=tuple(filter(None, (
            Section(title="The answer", says=plan.why,
                    tables=(numbers_table(plan.estimates, number_rows()),)),
            _winners(plan), _step(plan), memory_section(plan), links_section(plan),
            money_section(plan), flips_section(plan), _saving(plan), _trust(plan),
            _network(plan), _without(plan),
        ))),
        made=made_by(plan.weftline, plan.catalog_date),
    )  # fmt: skip


def _winners(plan: Plan) -> Section:
    rows = plan.ranking
    table = Table(
        columns=("", "accelerator", "chips", "layout", "MFU", "time", "cost", "why not"),
        rows=tuple(
            (str(i), c.accelerator, f"{c.chips:,}", c.layout.short(), f"{c.mfu:.0%}",
             _time(c), "-" if c.cost_usd is None else format_usd(c.cost_usd),
             "the answer" if i == 1 else joined(c.lost, c.note))
            for i, c in enumerate(rows[:_RANKED], 1)
        ),
        right=frozenset({0, 2, 4, 5, 6}),
        left_out=max(0, len(rows) - _RANKED),
    )  # fmt: skip
    priced = [c for c in rows if c.cost_usd is not None and math.isfinite(c.train_time_s)]
    if not priced:
        return Section(title="Which plan wins", tables=(table,))
    size, unit = calendar([c.train_time_s for c in priced])
    points = [_point(c, "the answer" if c is rows[0] else "best of another chip", size)
              for c in priced]  # fmt: skip
    front = front_of([(c.train_time_s / size, c.cost_usd) for c in (*priced, *plan.pareto)
                      if c.cost_usd is not None])  # fmt: skip
    chart = Chart(
        title=_winning_words(rows), kind="scatter", size="tall", table=table,
        data={
            "x": {"name": f"time of the run, {unit}", "unit": "", "log": True},
            "y": {"name": "cost", "unit": "USD", "log": True},
            "points": points, "front": front, "front_name": "no plan is faster and cheaper",
        },
        note="One point an accelerator, at its best count and layout; whiskers are the 90 % bands "
             "of time, and of cost by it. The dashed line joins plans that none beats in time and "
             "cost at once, smaller counts among them.",
    )  # fmt: skip
    return Section(title="Which plan wins", charts=(chart,))


def _time(c: Candidate) -> str:
    return format_duration(c.train_time_s) if math.isfinite(c.train_time_s) else "-"


def _point(c: Candidate, group: str, size: float) -> dict[str, object]:
    says = [f"{c.chips:,} chips, {c.layout.short()}", f"{_time(c)}, {format_usd(c.cost_usd or 0)}"]
    says += [f"MFU {c.mfu:.0%}", *([c.lost] if c.lost else [])]
    found: dict[str, object] = {"name": c.accelerator, "x": c.train_time_s / size, "y": c.cost_usd,
                                "group": group, "says": says}  # fmt: skip
    if c.train_time_low_s is not None and c.train_time_high_s is not None:
        found |= {"x_low": c.train_time_low_s / size, "x_high": c.train_time_high_s / size,
                  "y_low": c.cost_low_usd, "y_high": c.cost_high_usd}  # fmt: skip
    return found


def _winning_words(rows: Sequence[Candidate]) -> str:
    best = rows[0]
    others = [c for c in rows[1:] if c.cost_usd is not None]
    if not others:
        return f"{best.accelerator} is the only plan with a price"
    second = others[0]
    return f"{best.accelerator} wins; {second.accelerator} comes next" + (
        f": {second.lost}" if second.lost else ""
    )


def _step(plan: Plan) -> Section:
    computes = sum(p.value for p in plan.step_parts if is_compute(p.name))
    total = sum(p.value for p in plan.step_parts)
    largest = max((p for p in plan.step_parts if not is_compute(p.name)), default=None,
                  key=lambda p: p.value)  # fmt: skip
    title = f"{computes / total:.0%} of a step computes" + (
        f"; {largest.name} takes {largest.value / total:.0%}" if largest else ""
    )
    shown = [c for c in plan.ranking[:_SHOWN] if c.step_parts]
    rows: list[tuple[str, Mapping[str, float]]] = [
        (f"{c.accelerator}, {c.chips:,}", c.step_parts) for c in shown
    ] or [(plan.cluster.accelerator, {p.name: p.value for p in plan.step_parts})]
    chart = Chart(
        title=title, kind="stack", size="tall" if len(rows) > 2 else "short",
        data=stacked(rows, "seconds of a step", "s"),
        table=parts_table(plan.step_parts, format_duration),
        note="What hides behind compute is not in it; the table is of the answer.",
    )  # fmt: skip
    beside = filter(None, (exchange_chart(plan), pipeline_chart(plan)))
    return Section(title="Where a step goes", charts=(chart, *beside))


def _saving(plan: Plan) -> Section | None:
    if not plan.interval_curve:
        return None
    best, good = plan.estimates["checkpoint_interval"], plan.estimates["goodput"]
    points = [[t, share] for t, share in plan.interval_curve]
    worst = min(share for _, share in plan.interval_curve)
    chart = Chart(
        title=f"A checkpoint every {format_duration(best.value)} keeps {good.value:.1%} of the "
              f"time; sixteen times as seldom, {points[-1][1]:.1%}",
        kind="line",
        data={
            "x": {"name": "time between checkpoints", "unit": "s", "log": True},
            "y": {"name": "share of wall time that makes progress", "unit": "1",
                  "min": math.floor(worst * 100) / 100},
            "series": [{"name": "goodput", "points": points}],
            "marks": [{"at": best.value, "name": "best"}],
        },
        table=Table(columns=("every", "goodput"), right=frozenset({0, 1}), rows=tuple(
            (format_duration(t), f"{share:.2%}") for t, share in plan.interval_curve[::4])),
        note=good.basis,
    )  # fmt: skip
    return Section(title="How often to save", charts=(chart,))


def _trust(plan: Plan) -> Section | None:
    step = plan.estimates["step_time"]
    if not plan.measured:
        return Section(title="Can I trust it", says=(
            "No published run is so like this plan that it says how far off this very step is: the "
            f"band of {step.low / step.value - 1:.0%} to {step.high / step.value - 1:+.0%} is what "
            "nine in ten runs of sources left out of the fit keep.",
            f"The step rests on: {step.basis}.",
        ))  # fmt: skip
    off = [abs(m.measured_over_predicted - 1) for m in plan.measured]
    held = sum(step.low / step.value <= m.measured_over_predicted <= step.high / step.value
               for m in plan.measured)  # fmt: skip
    chart = Chart(
        title=f"The {len(off)} most similar published runs took within "
              f"{max(off):.0%} of what is predicted; the band holds {held} of them",
        kind="bars", size="tall" if len(off) > 6 else "short" if len(off) < 4 else "",
        data={
            "name": "measured over predicted", "unit": "", "limit": {"value": 1.0, "name": "equal"},
            "rows": [{"name": m.run, "value": m.measured_over_predicted, "best": i == 0,
                      "says": [f"likeness {m.likeness:.0%}"]} for i, m in enumerate(plan.measured)],
        },
        table=Table(
            columns=("run", "likeness", "measured over predicted"), right=frozenset({1, 2}),
            rows=tuple((m.run, f"{m.likeness:.0%}", format_number(m.measured_over_predicted))
                       for m in plan.measured)),
        note="Each run is left out of what corrects its prediction.",
    )  # fmt: skip
    return Section(title="Can I trust it", charts=(chart,))


def _network(plan: Plan) -> Section:
    table = Table(
        columns=("level", "chips", "GB/s a chip, one way", "latency", "basis"),
        right=frozenset({1, 2, 3}),
        rows=tuple(
            (level.name, f"{level.size:,}",
             format_number(level.bandwidth_bytes_per_s / 1e9, 4),
             format_duration(level.latency_s), level.basis)
            for level in plan.cluster.levels
        ),
    )  # fmt: skip
    shares = (
        ()
        if plan.rank_map is None
        else tuple(f"{axis} inside the {tier}" for axis, tier in plan.rank_map.shares.items())
    )
    return Section(title="Where the ranks run", says=shares, tables=(table,))


def _without(plan: Plan) -> Section | None:
    if not plan.without_plan:
        return None
    rows = tuple((r.accelerator, r.reason) for r in plan.without_plan)
    return Section(title="Accelerators without a plan",
                   tables=(Table(columns=("accelerator", "why"), rows=rows),))  # fmt: skip
