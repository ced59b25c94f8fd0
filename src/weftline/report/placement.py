"""A placement in the terminal: which axis lies where, then what the habits would cost."""

from __future__ import annotations

from typing import Any

from weftline.report.text import page, table, wrapped
from weftline.units import format_duration

AXIS_NAMES = "xyzwuv"


def render_placement(found: dict[str, Any]) -> str:
    """The placement of ``--json``."""
    grid = "x".join(map(str, found["grid"]))
    box = "x".join(map(str, found["box"]))
    used = "" if grid == box else f", on a {box} part of it"
    lines = wrapped(f"{format_duration(found['cost_s'])} of communication a step on "
                    f"{found['network']}{used}")  # fmt: skip
    rows = []
    for name, size in found["axes"].items():
        parts = found["physical"].get(name, [])
        where = ", ".join(
            f"{AXIS_NAMES[a]}: {n}" + (f" every {apart}" if apart > 1 else "")
            for a, n, apart in parts
        )
        cost = found["cost_by_axis_s"].get(name)
        rows.append((name, str(size), where or "-",
                     "-" if cost is None else format_duration(cost)))  # fmt: skip
    lines += ["", *table(("axis", "ranks", "chips along each side", "time"), rows,
                         right=frozenset({1, 3}))]  # fmt: skip
    orders = []
    for row in found["orders"]:
        hops = row["hops_most"]
        orders.append((
            row["order"], _time(row["bucket_s"]), _time(row["ring_s"]),
            row["note"] or ", ".join(f"{k} {v}" for k, v in hops.items()),
        ))  # fmt: skip
    header = ("order", "all links", "rings", "hops between neighbours")
    lines += ["", *table(header, orders, right=frozenset({1, 2}))]
    lines += ["", *wrapped("all links: collectives use every link of the part an axis spans; "
                           "rings: each runs in rank order, routed axis by axis")]  # fmt: skip
    looked = f"{found['looked_at']} arrangements looked at"
    lines.append(looked if found["complete"] else f"{looked}; there are more")
    return page(lines)


def _time(value: float | None) -> str:
    return "-" if value is None else format_duration(value)


def render_packed(said: dict[str, Any]) -> str:
    """The summary of a placement behind switches."""
    gain = said["gain"]
    first = f"{format_duration(said['cost_s'])} of exchanges a step on {said['network']}"
    if gain is not None:
        first += f", rank order takes {gain:.2f} times as long" if gain > 1.005 else (
            ", as in rank order")  # fmt: skip
    rows = [
        (axis, str(said["axes"][axis]), said["shares"].get(axis, ""))
        for axis in reversed(said["order"])
        if said["axes"][axis] > 1
    ]
    head = ("axis, closest first", "ranks", "groups inside the")
    lines = [*wrapped(first), "", *table(head, rows, right=frozenset({1})), ""]
    times = [(name, format_duration(seconds)) for name, seconds in said["cost_by_axis_s"].items()]
    lines += table(("exchange", "a step"), times, right=frozenset({1}))
    habits = [(name, format_duration(s)) for name, s in said["habits_s"].items()]
    lines += ["", *table(("other orders", "a step"), habits, right=frozenset({1}))]
    units = list(said["units"].items())
    lines += ["", *wrapped(_listed("hosts used: ", [f"{n} of {u}" for u, n in units]))]
    spare = said["spare_hosts"]
    if spare:
        lines += wrapped(_listed(f"spare there: {len(spare)} hosts: ", spare))
    lines += wrapped(f"{said['looked_at']} placements looked at; {said['basis']['time']}. "
                     "--json has the chip of each rank, in runs.")  # fmt: skip
    return page(lines)


def _listed(head: str, items: list[str]) -> str:
    """The first eight of a list, and how many more there are."""
    more = f" and {len(items) - 8} more" if len(items) > 8 else ""
    return f"{head}{', '.join(items[:8])}{more}"
