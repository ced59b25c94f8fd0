"""A plan beside itself with knobs turned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from weftline.report.text import page, table, wrapped
from weftline.spec import Layout
from weftline.units import format_bytes, format_duration, format_number, format_usd


def render_what_if(answer: dict[str, Any]) -> str:
    """The change first, then the numbers before and after."""
    before, after = answer["step_time_s"]
    run = answer["train_time_s"]
    said = ", ".join(f"{name}={value}" for name, value in answer["changes"].items())
    # Another job has steps of another size: then the run is what compares.
    change = run[1] / run[0] - 1 if answer["anew"] else after / before - 1
    verdict = [f"{_share(change)} {'slower' if change > 0 else 'faster'}"]
    if abs(change) < 0.0005:
        verdict = ["as fast"]
    old, new = answer["cost_usd"] or (None, None)
    if old and new is not None and abs(dearer := new / old - 1) >= 0.0005:
        verdict.append(f"{_share(dearer)} {'dearer' if dearer > 0 else 'cheaper'}")
    if not answer["fits"]:
        verdict.append("and it does not fit in memory")
    lines = wrapped(f"With {said}: {', '.join(verdict)}", hang="  ")
    rows = [
        ("step time", format_duration(before), format_duration(after)),
        ("training time", *(format_duration(v) for v in run)),
        ("memory a chip", *(format_bytes(v) for v in answer["memory_bytes"])),
    ]
    if any(answer["host_s"]):
        rows.insert(1, ("  of it the hosts", *(format_duration(v) for v in answer["host_s"])))
    if answer["anew"]:
        machines = zip(answer["chips"], answer["accelerator"], strict=True)
        rows.insert(0, ("on", *(f"{chips:,} x {name}" for chips, name in machines)))
    if answer["cost_usd"] is not None:
        rows.append(("cost", *_money(answer["cost_usd"])))
    if answer["usd_per_chip_hour"][0] != answer["usd_per_chip_hour"][1]:
        rows.append(("a chip-hour", *_money(answer["usd_per_chip_hour"])))
    lines += ["", *table(("", "plan", "what if"), rows, right=frozenset({1, 2}))]
    lines.append(f"(a chip has {format_bytes(answer['capacity_bytes'])})")
    if answer["host"]:
        lines += wrapped(f"Hosts: {answer['host']}", hang="  ")
    if answer["anew"]:
        layout = Layout(**{**answer["layout"], "order": tuple(answer["layout"]["order"])})
        lines += wrapped(f"The layout was searched again: {layout.short()}, micro-batch "
                         f"{layout.micro_batch}, ZeRO-{layout.zero}", hang="  ")  # fmt: skip
    if answer["no_price"]:
        lines += wrapped(f"{answer['no_price']}; price=$2.50/h gives one of your own", hang="  ")
    return page(lines)


def _share(change: float) -> str:
    return f"{abs(change):.1%}" if abs(change) < 10 else f"{format_number(1 + change, 3)} x"


def _money(pair: Sequence[float | None]) -> tuple[str, ...]:
    return tuple("-" if v is None else format_usd(v) for v in pair)


def render_serve_what_if(answer: dict[str, Any]) -> str:
    """A serving plan's fleet beside the one that the changes ask for."""
    said = ", ".join(f"{name}={value}" for name, value in answer["changes"].items())
    cost = answer["usd_per_hour"]
    verdict = ""
    if cost[0] and cost[1] is not None:
        change = cost[1] / cost[0] - 1
        verdict = f": {_share(change)} {'dearer' if change > 0 else 'cheaper'}"
    lines = wrapped(f"With {said}{verdict}", hang="  ")
    for label, fleet in zip(("plan", "what if"), answer["fleet"], strict=True):
        lines += wrapped(f"{label:<8} {fleet}", indent="  ", hang="  ")
    rows = [
        ("chips", *(f"{v:,}" for v in answer["chips"])),
        ("an hour", *_money(cost)),
    ]
    for name, pair in answer["estimates"].items():
        show = format_duration if pair["unit"] == "s" else format_number
        values = ("-" if v is None else show(v) for v in pair["value"])
        unit = "" if pair["unit"] == "s" else f" [{pair['unit']}]"
        rows.append((f"{name.replace('_', ' ')}{unit}", *values))
    return page([*lines, "", *table(("", "plan", "what if"), rows, right=frozenset({1, 2}))])
