"""A serving plan as a page: which fleet wins, will it hold its targets, where a step goes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from weftline.report.page.chart import Chart, Page, Section, Table
from weftline.report.page.load import load_section
from weftline.report.page.parts import joined, made_by, numbers_table, parts_table, stacked
from weftline.report.serving import number_rows
from weftline.report.text import model_label
from weftline.spec import METRICS, ServeCandidate, ServePlan, Target
from weftline.units import format_bytes, format_count, format_duration, format_number, format_usd

__all__ = ["serving_page"]

_RANKED: Final = 60
_NAMES: Final = {"ttft": "Time to first token", "tpot": "Time per output token",
                 "e2e": "Time to last token"}  # fmt: skip


def serving_page(plan: ServePlan) -> Page:
    """The page of one plan for serving."""
    fleet, demand = plan.fleet, plan.demand
    cost = plan.estimates.get("cost_per_hour")
    money = "" if cost is None else f", {format_usd(cost.value)} an hour"
    targets = ", ".join(t.short() for t in demand.targets) or "no targets"
    return Page(
        title=f"weftline: {demand.model} on {fleet.name}",
        headline=f"{fleet.counted()}{money}" if fleet.beside else
                 f"{fleet.chips:,} x {fleet.name}, {fleet.replicas} x {fleet.short()}, "
                 f"{fleet.engine}{money}",
        lead=(
            f"{model_label(demand.model)} ({format_count(plan.parameters)} parameters), "
            f"{demand.traffic}, {demand.rate_per_s:g} requests a second of "
            f"{demand.input_tokens:,.0f} tokens in and {demand.output_tokens:,.0f} out; {targets}.",
            f"{plan.search.screened:,} configurations screened on {plan.search.chips} chips, "
            f"{plan.search.simulated} fleets simulated on {demand.requests:,} requests"
            + ("" if demand.seed is None else f", seed {demand.seed}") + ".",
        ),
        sections=tuple(filter(None, (
            Section(title="The answer", says=plan.why,
                    tables=(numbers_table(plan.estimates, number_rows(plan)),)),
            _winners(plan), _targets(plan), load_section(plan), _speed(plan), _step(plan),
            _memory(plan),
            Section(title="What would flip it", says=plan.flips) if plan.flips else None,
            _started(plan), _without(plan),
        ))),
        made=made_by(plan.weftline, plan.catalog_date),
    )  # fmt: skip


def _ranking(plan: ServePlan) -> Table:
    names = list(dict.fromkeys(n for c in plan.ranking for n in c.reached))
    rows = tuple(
        (str(i), c.fleet.name, f"{c.fleet.chips:,}", c.fleet.short(), c.fleet.engine,
         *(format_duration(c.reached[n]) if n in c.reached else "-" for n in names),
         "-" if c.usd_per_hour is None else format_usd(c.usd_per_hour),
         joined("" if c.meets else "misses a target", c.note))
        for i, c in enumerate(plan.ranking[:_RANKED], 1)
    )  # fmt: skip
    return Table(
        columns=("", "accelerator", "chips", "a replica", "engine", *names, "an hour", ""),
        rows=rows, right=frozenset({0, 2, *range(5, 6 + len(names))}),
        left_out=max(0, len(plan.ranking) - _RANKED),
    )  # fmt: skip


def _winners(plan: ServePlan) -> Section:
    table = _ranking(plan)
    name = next(iter(plan.ranking[0].reached), None) if plan.ranking else None
    points = [
        _cost_point(c, name, "the answer" if i == 0 else
                    "keeps the targets" if c.meets else "misses a target")
        for i, c in enumerate(_once(plan))
        if name is not None and c.usd_per_hour is not None and name in c.reached
    ]  # fmt: skip
    if not points or name is None:
        return Section(title="Which fleet wins", tables=(table,))
    best, *others = [c for c in plan.ranking if c.usd_per_hour is not None and c.meets] or [
        plan.ranking[0]]  # fmt: skip
    second = ""
    if others and best.usd_per_hour:
        dearer = (others[0].usd_per_hour or 0) / best.usd_per_hour - 1
        second = f"; {others[0].fleet.name} comes next, {dearer:.0%} dearer"
    chart = Chart(
        title=f"{best.fleet.name} wins{second}", kind="scatter", size="tall", table=table,
        data={"x": {"name": f"{name} of the requests", "unit": "s", "log": True},
              "y": {"name": "cost an hour", "unit": "USD", "log": True},
              "points": points, "front": [], "front_name": ""},
        note="Fleets as simulated on the demand; down and left is better.",
    )  # fmt: skip
    return Section(title="Which fleet wins", charts=(chart,))


def _once(plan: ServePlan) -> list[ServeCandidate]:
    """Ranked fleets and those of the front, each once, the answer first."""
    found: list[ServeCandidate] = []
    for c in (*plan.ranking, *plan.pareto):
        if not any(c.fleet == f.fleet and c.usd_per_hour == f.usd_per_hour for f in found):
            found.append(c)
    return found


def _cost_point(c: ServeCandidate, name: str, group: str) -> dict[str, object]:
    f = c.fleet
    says = [f"{f.chips:,} chips, {f.replicas} x {f.short()}, {f.engine}",
            f"{format_usd(c.usd_per_hour or 0)} an hour", *filter(None, [c.note])]  # fmt: skip
    return {"name": c.fleet.name, "x": c.reached[name], "y": c.usd_per_hour, "group": group,
            "says": says}  # fmt: skip


def _targets(plan: ServePlan) -> Section | None:
    limits: Mapping[str, Target] = {f"{t.metric}_p{t.percentile:g}": t for t in plan.demand.targets}
    charts = []
    for metric in METRICS:
        rows = sorted(
            (float(name.partition("_p")[2]), name, e)
            for name, e in plan.estimates.items() if name.startswith(f"{metric}_p")
        )  # fmt: skip
        if not rows:
            continue
        aimed = [(p, e, limits[name]) for p, name, e in rows if name in limits]
        title = f"{_NAMES[metric]}: median {format_duration(rows[0][2].value)}"
        if aimed:
            p, e, limit = aimed[0]
            title = (f"{_NAMES[metric]}: p{p:g} {format_duration(e.value)} of the "
                     f"{format_duration(limit.limit_s)} allowed; the band ends at "
                     f"{format_duration(e.high)}")  # fmt: skip
        charts.append(Chart(
            title=title, kind="range", size="short",
            data={"x": {"name": _NAMES[metric].lower(), "unit": "s", "log": True}, "rows": [
                {"name": f"p{p:g}", "low": e.low, "value": e.value, "high": e.high,
                 "limit": limits[name].limit_s if name in limits else None}
                for p, name, e in rows]},
            table=Table(
                columns=("share of requests", "estimate", "90 % band", "limit"),
                right=frozenset({1, 2, 3}), rows=tuple(
                    (f"p{p:g}", format_duration(e.value),
                     f"{format_duration(e.low)} to {format_duration(e.high)}",
                     format_duration(limits[name].limit_s) if name in limits else "-")
                    for p, name, e in rows)),
            note=rows[0][2].basis,
        ))  # fmt: skip
    return Section(title="Will it hold the targets", charts=tuple(charts)) if charts else None


def _speed(plan: ServePlan) -> Section | None:
    """Throughput a chip against speed a user, as InferenceX shows it."""
    tokens, points = plan.demand.output_tokens, []
    for i, c in enumerate((*plan.ranking, *plan.pareto)):
        tpot = next((s for name, s in c.reached.items() if name.endswith("tpot")), None)
        if tpot and c.capacity_per_s:
            points.append({
                "name": c.fleet.name, "x": 1 / tpot,
                "y": c.capacity_per_s * tokens / max(c.fleet.chips, 1),
                "group": "the answer" if i == 0 else "others",
                "says": [f"{c.fleet.short()}, {c.fleet.engine}"],
            })  # fmt: skip
    if not points:
        return None
    most = max(points, key=lambda p: float(str(p["y"])))
    chart = Chart(
        title=f"Most output a chip: {most['name']}, "
              f"{format_number(float(str(most['y'])), 3)} tokens a second",
        kind="scatter",
        data={"x": {"name": "tokens a second of one user", "unit": ""},
              "y": {"name": "output tokens a second, a chip", "unit": ""},
              "points": points, "front": [], "front_name": ""},
        table=Table(
            columns=("accelerator", "tokens/s of a user", "tokens/s a chip", "fleet"),
            right=frozenset({1, 2}),
            rows=tuple((str(p["name"]), format_number(float(str(p["x"]))),
                        format_number(float(str(p["y"]))), joined(*p["says"]))  # type: ignore[misc]
                       for p in points)),
    )  # fmt: skip
    return Section(title="Speed of a user against output of a chip", charts=(chart,))


def _step(plan: ServePlan) -> Section | None:
    if not plan.step_parts:
        return None
    total = sum(p.value for p in plan.step_parts)
    largest = max(plan.step_parts, key=lambda p: p.value)
    parts = {p.name: p.value for p in plan.step_parts}
    chart = Chart(
        title=f"A decode step takes {format_duration(total)}; {largest.value / total:.0%} is "
              f"{largest.name}",
        kind="stack", size="short",
        data=stacked([("a step at the mean load", parts)], "seconds of a step", "s"),
        table=parts_table(plan.step_parts, format_duration),
    )  # fmt: skip
    return Section(title="Where a decode step goes", charts=(chart,))


def _memory(plan: ServePlan) -> Section | None:
    if not plan.memory_parts:
        return None
    parts = {p.name: p.value for p in plan.memory_parts}
    free = sum(v for name, v in parts.items() if name.endswith("free"))
    chart = Chart(
        title=f"{format_bytes(sum(parts.values()) - free)} of a chip in use, {format_bytes(free)} "
              "free for more sequences",
        kind="stack", size="short", data=stacked([("one chip", parts)], "bytes", "B"),
        table=parts_table(plan.memory_parts, format_bytes),
    )  # fmt: skip
    return Section(title="What a chip holds", charts=(chart,))


def _started(plan: ServePlan) -> Section | None:
    if not plan.launch:
        return None
    rows = tuple((name, value) for name, value in plan.launch.items())
    return Section(title=f"How {plan.fleet.engine} is started",
                   tables=(Table(columns=("setting", "value"), rows=rows),))  # fmt: skip


def _without(plan: ServePlan) -> Section | None:
    if not plan.without_plan:
        return None
    rows = tuple((r.accelerator, r.reason) for r in plan.without_plan)
    return Section(title="Accelerators without a fleet",
                   tables=(Table(columns=("accelerator", "why"), rows=rows),))  # fmt: skip
