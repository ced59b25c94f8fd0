"""Pictures of a plan in the terminal: characters only, readable without colour."""

from __future__ import annotations

from collections.abc import Sequence

from weftline.report.draw import BAR, strip
from weftline.report.pipeline import events_of
from weftline.report.text import page, width
from weftline.spec import Plan, ServePlan
from weftline.units import format_bytes, format_duration, format_number, format_usd

__all__ = ["render_pictures"]

_MOST_TASKS = 50_000
_MARKS = {"forward": "F", "backward": "B", "weights": "W"}


def render_pictures(plan: Plan | ServePlan) -> str:
    """What a plan's page draws, as far as characters can."""
    return page(_training(plan) if isinstance(plan, Plan) else _serving(plan))


def _training(plan: Plan) -> list[str]:
    priced = [c for c in plan.ranking if c.cost_usd is not None][:12]
    lines = ["", "Cost of the run by accelerator, in the order of the ranking"]
    lines += _bars([(c.accelerator, c.cost_usd or 0.0, format_usd(c.cost_usd or 0.0))
                    for c in priced])  # fmt: skip
    if plan.stage_memory:
        have = plan.cluster.memory_bytes
        lines += ["", f"Memory by stage, of {format_bytes(have)}"]
        lines += _bars([(f"stage {m.stage}", m.total_bytes, format_bytes(m.total_bytes))
                        for m in plan.stage_memory], most=have)  # fmt: skip
    lines += _pipeline(plan)
    if plan.interval_curve:
        first, last = plan.interval_curve[0], plan.interval_curve[-1]
        least = min(share for _, share in plan.interval_curve)
        lines += ["", f"Goodput by time between checkpoints, {format_duration(first[0])} to "
                      f"{format_duration(last[0])}"]  # fmt: skip
        top = max(share for _, share in plan.interval_curve)
        scale = top - least or 1.0
        heights = [(share - least) / scale for _, share in plan.interval_curve]
        curve = strip("", heights, percent=True).rpartition("|")[0]
        lines.append(f"{curve.strip()}| {least:.2%} to {top:.2%}")
    return lines


def _pipeline(plan: Plan) -> list[str]:
    line = plan.pipeline
    if line is None or line.stages < 2:
        return []
    if 2 * line.stages * line.chunks * line.micro_batches > _MOST_TASKS:
        return []
    events = events_of(line)
    until, wide = max(e.ends_s for e in events), width() - 12
    rows = [[" "] * wide for _ in range(line.stages)]
    for e in events:
        a, b = (int(t / until * wide) for t in (e.starts_s, e.ends_s))
        for at in range(a, min(max(b, a + 1), wide)):
            rows[e.stage][at] = _MARKS[e.what]
    head = (f"One pipeline, {format_duration(until)}: {line.micro_batches} micro-batches, "
            "F forward, B backward, blank idle")  # fmt: skip
    return ["", head, *(f"stage {i:<3} |{''.join(row)}|" for i, row in enumerate(rows))]


def _serving(plan: ServePlan) -> list[str]:
    lines: list[str] = []
    names = list(dict.fromkeys(name for p in plan.load_curve for name in p.reached))
    for name in names:
        lines += ["", f"{name} by requests a second"]
        lines += _bars([
            (f"{format_number(p.rate_per_s)}/s", p.reached[name],
             format_duration(p.reached[name]) + ("" if p.meets else ", breaks a target"))
            for p in plan.load_curve if name in p.reached
        ])  # fmt: skip
    return lines


def _bars(rows: Sequence[tuple[str, float, str]], *, most: float | None = None) -> list[str]:
    top = most or max((value for _, value, _ in rows), default=0.0) or 1.0
    label = max((len(name) for name, _, _ in rows), default=0)
    said = max((len(text) for _, _, text in rows), default=0)
    wide = max(8, width() - label - said - 6)
    return [
        f"  {name:<{label}} {text:>{said}} |{BAR * max(0, round(value / top * wide))}"
        for name, value, text in rows
    ]  # fmt: skip
