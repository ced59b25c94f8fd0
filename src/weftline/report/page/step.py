"""Charts of a step: what shows and hides, one pipeline, memory by stage, loads of the network."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Final

from weftline.report.page.chart import Chart, Section, Table
from weftline.report.page.parts import parts_table, stacked
from weftline.report.pipeline import Event, events_of
from weftline.spec import Plan
from weftline.spec.drawn import Pipeline
from weftline.units import format_bytes, format_duration

__all__ = ["exchange_chart", "links_section", "memory_section", "pipeline_chart"]

_BLOCKS: Final = 3000
"""Of a pipeline that are drawn: beyond them a page gets too heavy."""
_SIMULATED: Final = 200_000
_TONES: Final = {"forward": 0, "backward": 1, "weights": 2}
_NEVER_HOT: Final = 0.5


def exchange_chart(plan: Plan) -> Chart | None:
    """Communication by axis, what shows beside what hides behind compute."""
    found = [x for x in plan.exchanges if x.shown_s + x.hidden_s > 0]
    if not found:
        return None
    hidden, shown = (sum(getattr(x, name) for x in found) for name in ("hidden_s", "shown_s"))
    worst = max(found, key=lambda x: x.shown_s)
    data: dict[str, Any] = stacked(
        [(x.part.partition(",")[0], {"shows": x.shown_s, "hides behind compute": x.hidden_s})
         for x in found], "seconds of a step", "s")  # fmt: skip
    for part in data["parts"]:
        part["hidden"] = part["name"].startswith("hides")
    return Chart(
        title=f"{hidden / (hidden + shown):.0%} of communication hides behind compute; of the rest "
              f"most is {worst.part.partition(',')[0]}",
        kind="stack", size="" if len(found) > 2 else "short", data=data,
        table=Table(columns=("communication", "groups", "shows", "hides"), right=frozenset({2, 3}),
                    rows=tuple((x.part.partition(",")[0], x.axis, format_duration(x.shown_s),
                                format_duration(x.hidden_s)) for x in found)),
        note="What hides adds nothing to the step; it is what the same exchanges would add if "
             "nothing overlapped, less what shows.",
    )  # fmt: skip


def pipeline_chart(plan: Plan) -> Chart | None:
    """One pipeline's micro-batches as a Gantt chart, from the first on."""
    line = plan.pipeline
    if line is None or line.stages < 2 or line.micro_batches < 1:
        return None
    tasks = line.stages * line.chunks * line.micro_batches * 2
    if tasks > _SIMULATED:
        return None
    events = events_of(line)
    until = max(e.ends_s for e in events)
    busy = sum(e.ends_s - e.starts_s for e in events) / (until * line.stages)
    shown = sorted(events, key=lambda e: e.starts_s)[:_BLOCKS]
    cut = max(e.ends_s for e in shown)
    return Chart(
        title=f"Stages of a pipeline compute {busy:.0%} of the time from the first micro-batch to "
              "the last",
        kind="gantt", size="tall" if line.stages > 8 else "",
        data={"name": "seconds from the step's start", "unit": "s", "until": cut,
              "rows": [f"stage {i}" for i in range(line.stages)],
              "blocks": [{"row": e.stage, "from": round(e.starts_s, 6),
                          "until": round(e.ends_s, 6), "tone": _TONES[e.what],
                          "name": _named(e, line)} for e in shown]},
        table=_stages(events, line, until),
        note=f"{line.micro_batches} micro-batches in {line.chunks} chunks a stage; blue is forward,"
             " orange backward" + (", green gradients of weights" if line.zero_bubble else "")
             + (f"; the first {format_duration(cut)} of {format_duration(until)} are drawn"
                if len(shown) < len(events) else "")
             + ". `weftline report --trace` writes all of it for Perfetto.",
    )  # fmt: skip


def _named(event: Event, line: Pipeline) -> str:
    return event.name + (f", chunk {event.chunk}" if line.chunks > 1 else "")


def _stages(events: Sequence[Event], line: Pipeline, until: float) -> Table:
    spent: dict[tuple[int, str], float] = defaultdict(float)
    for e in events:
        spent[e.stage, "forward" if e.what == "forward" else "backward"] += e.ends_s - e.starts_s
    rows = []
    for stage in range(line.stages):
        ahead, back = spent[stage, "forward"], spent[stage, "backward"]
        rows.append((str(stage), format_duration(ahead), format_duration(back),
                     f"{1 - (ahead + back) / until:.1%}"))  # fmt: skip
    return Table(columns=("stage", "forward", "backward", "idle"), rows=tuple(rows),
                 right=frozenset({0, 1, 2, 3}))  # fmt: skip


def memory_section(plan: Plan) -> Section:
    """Memory of every stage at its highest moment, against what a chip has."""
    have, used = plan.cluster.memory_bytes, plan.estimates["memory"]
    rows = [(f"stage {m.stage}", m.parts) for m in plan.stage_memory]
    fullest = max(plan.stage_memory, key=lambda m: m.total_bytes, default=None)
    largest = max(plan.memory_parts, key=lambda p: p.value)
    when = ""
    if fullest is not None and len(rows) > 1:
        when = f", on stage {fullest.stage} {fullest.moment}"
    elif fullest is not None:
        when = f", {fullest.moment}"
    moments = "".join(
        f" Stage {m.stage}: {format_bytes(m.total_bytes)} {m.moment}." for m in plan.stage_memory
    ) if 1 < len(rows) <= 8 else ""  # fmt: skip
    chart = Chart(
        title=f"{format_bytes(used.value)} of {format_bytes(have)}, {used.value / have:.0%} full"
              f"{when}; most is {largest.name}",
        kind="stack", size="tall" if len(rows) > 8 else "" if len(rows) > 2 else "short",
        table=parts_table(plan.memory_parts, format_bytes),
        data=stacked(
            rows or [("fullest chip", {p.name: p.value for p in plan.memory_parts})], "bytes", "B",
        ) | {"limit": {"value": have, "name": "all of it"}, "max": 1.05 * max(have, used.value)},
        note=f"Band {format_bytes(used.low)} to {format_bytes(used.high)}: {used.basis}.{moments}",
    )  # fmt: skip
    return Section(title="Does it fit", charts=(chart,))


def links_section(plan: Plan) -> Section | None:
    """What the plan's own groups put on each level of the network, as a share of the step."""
    loads = plan.link_loads
    step = plan.estimates["step_time"].value
    if not loads:
        return None
    by_level: dict[str, dict[str, float]] = {}
    for load in loads:
        of = by_level.setdefault(load.level, {})
        name = f"{load.axis} groups"
        of[name] = of.get(name, 0.0) + load.busy_s / step
    hot = max(by_level, key=lambda level: sum(by_level[level].values()))
    share = sum(by_level[hot].values())
    most = max(by_level[hot], key=lambda name: by_level[hot][name])
    quiet = "No link is hot; most on " if share < _NEVER_HOT else "Hottest is "
    chart = Chart(
        title=f"{quiet}{hot}: its links carry {share:.0%} of the step, most of it for {most}",
        kind="stack", size="" if len(by_level) > 2 else "short",
        data=stacked(list(by_level.items()), "share of the step that a chip's links carry", "1")
        | {"limit": {"value": 1.0, "name": "always"},
           "max": math.ceil(10 * max(1.0, share)) / 10},
        table=Table(
            columns=("links", "groups", "collective", "ranks", "a chip sends", "carried for"),
            right=frozenset({3, 4, 5}),
            rows=tuple((x.level, x.axis, x.collective, f"{x.ranks:,}", format_bytes(x.sent_bytes),
                        format_duration(x.busy_s)) for x in loads)),
        note="Bytes of schedules that go tier by tier over what the links of one chip carry in one "
             "direction: the time that the bytes alone need, hidden or not.",
    )  # fmt: skip
    return Section(title="Which link is hot", charts=(chart,))
