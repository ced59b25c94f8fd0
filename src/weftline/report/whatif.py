"""A plan beside itself with knobs turned."""

from __future__ import annotations

from typing import Any

from weftline.report.text import page, table, wrapped
from weftline.units import format_bytes, format_duration, format_usd


def render_what_if(answer: dict[str, Any]) -> str:
    """The change first, then the numbers before and after."""
    before, after = answer["step_time_s"]
    said = ", ".join(f"{name}={value}" for name, value in answer["changes"].items())
    change = after / before - 1
    speed = "slower" if change > 0 else "faster"
    verdict = "" if answer["fits"] else ", and it does not fit in memory"
    lines = wrapped(f"With {said}: {abs(change):.1%} {speed}{verdict}", hang="  ")
    have = answer["capacity_bytes"]
    rows = [
        ("step time", format_duration(before), format_duration(after)),
        ("training time", *(format_duration(v) for v in answer["train_time_s"])),
        ("memory a chip", *(format_bytes(v) for v in answer["memory_bytes"])),
    ]
    if answer["cost_usd"] is not None:
        rows.append(("cost", *(format_usd(v) for v in answer["cost_usd"])))
    lines += ["", *table(("", "plan", "what if"), rows, right=frozenset({1, 2}))]
    lines.append(f"(a chip has {format_bytes(have)})")
    return page(lines)
