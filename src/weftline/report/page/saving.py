"""Advice on how often to save as a page: what each way of saving leaves of the time."""

from __future__ import annotations

from typing import Any

from weftline.report.page.chart import Chart, Page, Section, Table
from weftline.report.page.parts import capital, stacked
from weftline.units import format_bytes, format_duration, format_rate

__all__ = ["saving_page"]

_LOSSES = (("stall_share", "stopped while saving"), ("rework_share", "work done again"),
           ("recovery_share", "recovering"))  # fmt: skip


def saving_page(answer: dict[str, Any]) -> Page:
    """The page of ``burst advise --json``. Raises KeyError where a field lacks."""
    job, best = answer["job"], answer["burst"]
    schedule = best["schedule"]
    ways = [best, answer["blocking"], *answer["others"]]
    worst = min(ways, key=lambda way: float(way["schedule"]["goodput"]))
    rows = [
        (way["name"], {"making progress": way["schedule"]["goodput"],
                       **{name: way["schedule"][field] for field, name in _LOSSES}})
        for way in ways
    ]  # fmt: skip
    table = Table(
        columns=("way", "every", "goodput", *(name for _, name in _LOSSES), "lost a failure"),
        right=frozenset(range(1, 7)),
        rows=tuple(
            (way["name"], format_duration(s["interval_s"]), f"{s['goodput']:.2%}",
             *(f"{s[field]:.2%}" for field, _ in _LOSSES),
             format_duration(max(s["lost_per_failure_s"])))
            for way in ways for s in (way["schedule"],)
        ),
    )  # fmt: skip
    chart = Chart(
        title=f"{capital(best['name'])} keeps {schedule['goodput']:.1%} of the time; "
              f"{worst['name']} {worst['schedule']['goodput']:.1%}",
        kind="stack", data=stacked(rows, "share of wall time", "1") | {"max": 1}, table=table,
        note=f"A failure every {format_duration(answer['mtbf_s'])}: {answer['mtbf_basis']}.",
    )  # fmt: skip
    forms = Table(columns=("formula", "interval"), right=frozenset({1}), rows=tuple(
        (name, format_duration(s)) for name, s in answer["forms_s"].items()))  # fmt: skip
    given = Table(columns=("assumption", "value", "basis"), right=frozenset({1}), rows=tuple(
        (name.replace("_", " "), _value(name, value), job["basis"].get(name, "assumed"))
        for name, value in job.items() if isinstance(value, int | float)))  # fmt: skip
    return Page(
        title="weftline: how often to save",
        headline=f"Save every {format_duration(schedule['interval_s'])}: "
                 f"{schedule['goodput']:.1%} of the time makes progress",
        lead=(f"{format_bytes(job['state_bytes'])} of state on {job['nodes']:,} nodes.",),
        sections=(Section(title="What each way leaves of the time", charts=(chart,)),
                  Section(title="Intervals by published formulas", tables=(forms,)),
                  Section(title="What it rests on", tables=(given,))),
        made="The answer's JSON has every field.",
    )  # fmt: skip


def _value(name: str, value: float) -> str:
    if name.endswith("_bytes_per_s"):
        return format_rate(value)
    if name.endswith("_bytes"):
        return format_bytes(value)
    if name.endswith("_s"):
        return format_duration(value)
    return f"{value:.0%}" if name.endswith("_share") else f"{value:,g}"
