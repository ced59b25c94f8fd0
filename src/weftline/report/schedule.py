"""Schedules of files in the terminal: what was proved, how long it takes, what each step sends."""

from __future__ import annotations

from typing import Any

from weftline.report.text import page, table, wrapped
from weftline.units import format_bytes, format_duration, format_rate

STEPS_SHOWN = 40


def render_check(said: dict[str, Any]) -> str:
    """The answer of ``weftline schedule check``."""
    on = f" on {said['network']}" if said["network"] else ""
    return page([
        *wrapped(f"{_name(said)}{on}: proved"), "",
        *wrapped(f"{said['rows']:,} rows in {said['steps']:,} steps over {said['chunks']:,} "
                 "chunks; every place of the result holds every contribution once"),
    ])  # fmt: skip


def render_time(said: dict[str, Any]) -> str:
    """The answer of ``weftline schedule time``."""
    share = said["share_of_bound"]
    of_bound = "" if share is None else f", {share:.0%} of the bound"
    exact = "" if said["exact"] else " (estimate)"
    return page([
        *wrapped(f"{format_duration(said['time_s'])} for {_name(said)} of "
                 f"{format_bytes(said['size_bytes'])} on {said['network']}{of_bound}"), "",
        *table(("", ""), [
            ("algorithm bandwidth", format_rate(said["algorithm_bytes_per_s"])),
            ("bus bandwidth", format_rate(said["bus_bytes_per_s"])),
            ("lower bound", format_duration(said["bound_s"])),
            ("busiest link", f"{said['busiest_link']}, {format_bytes(said['busiest_link_bytes'])}"),
            ("evaluator", f"{said['evaluator']}{exact}"),
        ]),
    ])  # fmt: skip


def render_show(said: dict[str, Any]) -> str:
    """The answer of ``weftline schedule show``."""
    rows = [
        (str(s["step"]), f"{s['messages']:,}", f"{s['reductions']:,}", f"{s['buffers_sent']:.4g}")
        for s in said["by_step"][:STEPS_SHOWN]
    ]
    lines = [
        *wrapped(f"{_name(said)}: {said['rows']:,} rows in {said['steps']:,} steps"),
        *wrapped(f"a rank sends {said['buffers_sent_least']:.4g} to "
                 f"{said['buffers_sent_most']:.4g} of its buffer"), "",
        *table(("step", "messages", "reductions", "buffers sent"), rows,
               right=frozenset({0, 1, 2, 3})),
    ]  # fmt: skip
    if said["steps"] > STEPS_SHOWN:
        lines += ["", f"{said['steps'] - STEPS_SHOWN:,} more steps; --json has them all"]
    return page(lines)


def _name(said: dict[str, Any]) -> str:
    return f"{said['collective']} by {said['algorithm']} on {said['ranks']:,} ranks"
