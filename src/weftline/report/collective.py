"""A simulated collective in the terminal: the answer, how far from the bound, load of the links."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from weftline.report.text import page, table, wrapped
from weftline.units import format_bytes, format_duration, format_rate

PICTURE_LINES = 30
"""Lines of a picture at most; slices that most look like come first."""
COLUMNS = 72
LIBRARY_NAMES = {"nccl": "NCCL", "rccl": "RCCL", "neuron": "the Neuron runtime", "xla": "XLA",
                 "oneccl": "oneCCL", "gloo": "Gloo"}  # fmt: skip
PARTS = {
    "startup_s": "startup of the library",
    "hops_s": "hops of a small message",
    "fill_s": "filling the pipeline",
    "bytes_s": "bytes at the rate reached",
    "host_s": "the host",
}
WORTH_A_TRY = 0.8
"""Share of the bound below which a schedule made for the network may be faster."""


def render_collective(answer: dict[str, Any]) -> str:
    """The answer of ``--json``; the first line is the time."""
    lines = [*_head(answer), "", *_numbers(answer)]
    if answer["library"] is not None:
        lines += ["", *_parts(answer)]
    if len(answer["considered"]) > 1:
        lines += ["", *_considered(answer)]
    lines += ["", *_links(answer)]
    if answer["evaluator"] == "steps" and answer["collective"] != "all-to-all":
        lines += ["", "`--evaluator flow` follows every message: minutes on large networks."]
    at_best = answer["bound"]["time_s"] / (answer["link_rate_s"] or 1.0)
    if at_best < WORTH_A_TRY and answer["algorithm"] != "synthesized":
        lines += ["", *wrapped(_may_be_faster(answer))]
    if answer["network"]["basis"]:
        lines += ["", "What the speeds rest on"]
        for key, text in answer["network"]["basis"].items():
            lines += wrapped(f"{key}: {text}", indent="  ", hang="  ")
    versus = answer.get("versus")
    if versus is not None:
        lines += ["", *_versus(answer, versus)]
    return page(lines)


def render_synthesis(answer: dict[str, Any]) -> str:
    """A synthesized schedule: its time, its certified gap, the best named one."""
    network = answer["network"]
    lines = wrapped(
        f"{_time(answer)}, {answer['ratio_to_bound']:.4f} x the bound: "
        f"{answer['collective']} of {format_bytes(answer['size_bytes'])} on {network['name']} "
        f"({_chips(network)}), synthesized",
        hang="  ",
    )
    lines += ["", *_numbers(answer)]
    lines += wrapped(
        f"made by              {answer['method']}: {answer['rows']:,} rows; seed {answer['seed']}",
        indent="  ", hang=" " * 21,
    )  # fmt: skip
    named = answer["named"]
    if named is not None:
        ratio = named["time_s"] / answer["time_s"] if answer["time_s"] > 0 else 1.0
        lines += wrapped(
            f"best by name         {_named(named)}, {format_duration(named['time_s'])}: "
            f"{ratio:.2f} x this",
            indent="  ", hang=" " * 21,
        )  # fmt: skip
    return page([*lines, "", *_links(answer)])


def _may_be_faster(answer: dict[str, Any]) -> str:
    if answer["collective"] in ("all-to-all", "send"):
        return "Messages that share links unevenly end late: the bound may be out of reach."
    return "A schedule made for this network may be faster: `weftline simulate synthesize`."


def _head(answer: dict[str, Any]) -> list[str]:
    network = answer["network"]
    return wrapped(
        f"{_time(answer)}, {100 * answer['bound_share']:.1f} % of the bound: "
        f"{answer['collective']} of {format_bytes(answer['size_bytes'])} on {network['name']} "
        f"({_chips(network)}) {_by(answer)}",
        hang="  ",
    )


def _by(answer: dict[str, Any]) -> str:
    library = answer["library"]
    if library is None:
        return f"by {_named(answer)}"
    return f"through {LIBRARY_NAMES.get(library['name'], library['name'])}, {library['way']}"


def _time(answer: dict[str, Any]) -> str:
    """The time, with its range where it is an estimate."""
    if answer["library"] is not None:
        low, high = format_duration(answer["time_low_s"]), format_duration(answer["time_high_s"])
        return f"{format_duration(answer['time_s'])} ({low} to {high})"
    if answer["exact"] or answer["time_low_s"] is None:
        return format_duration(answer["time_s"])
    low, high = format_duration(answer["time_low_s"]), format_duration(answer["time_high_s"])
    if low == high:
        return low
    return f"about {format_duration(answer['time_s'])} (an estimate: {low} to {high})"


def _chips(network: dict[str, Any]) -> str:
    return f"{network['chips']:,} chip{'s' if network['chips'] != 1 else ''}"


def _named(answer: dict[str, Any]) -> str:
    pieces = answer["pieces"]
    name: str = answer["algorithm"]
    return name + (f" in {pieces} pieces" if pieces and pieces > 1 else "")


def _numbers(answer: dict[str, Any]) -> list[str]:
    least = answer["bound"]
    lines = [
        f"  algorithm bandwidth  {format_rate(answer['algbw_bytes_per_s'])} a chip",
        f"  bus bandwidth        {format_rate(answer['busbw_bytes_per_s'])} a chip",
    ]
    lines += wrapped(
        f"bound                {format_duration(least['time_s'])} ({least['name']}: "
        f"{least['certificate']})",
        indent="  ", hang=" " * 21,
    )  # fmt: skip
    two = least.get("two_phase_s")
    if two is not None and two > 1.001 * least["bandwidth_s"]:
        lines += wrapped(
            f"in two phases        {format_duration(two)} at best with equal shares, "
            "reduce-scatter and then all-gather; unequal shares or overlap can do better",
            indent="  ", hang=" " * 21,
        )  # fmt: skip
    if answer["library"] is not None:
        lines += wrapped(
            f"at link rate         {format_duration(answer['link_rate_s'])} by {_named(answer)}: "
            "the best schedule, with nothing but links and their latency",
            indent="  ", hang=" " * 21,
        )  # fmt: skip
    exact = "exact in the model" if answer["exact"] else f"approximate: {answer['note']}"
    steps = f"{answer['steps']:,} step{'s' if answer['steps'] != 1 else ''}"
    lines += wrapped(
        f"evaluator            {answer['evaluator']}, {exact}; {steps}",
        indent="  ", hang=" " * 21,
    )  # fmt: skip
    proof = answer["proof"]
    said = f"proved: {proof['how']}" if proof["proved"] else f"not proved ({proof['how']}): --prove"
    lines += wrapped(f"schedule             {said}", indent="  ", hang=" " * 21)
    link = answer["busiest_link"]
    if link is not None:
        lines += wrapped(
            f"busiest link         {link['from']} -> {link['to']}: "
            f"{format_bytes(link['load_bytes'])} at {format_rate(link['bandwidth_bytes_per_s'])}, "
            f"busy {100 * link['busy_share']:.0f} % of the time"
            f"{' at link rate' if answer['library'] is not None else ''}",
            indent="  ", hang=" " * 21,
        )  # fmt: skip
    if answer["network"]["failed_or_slowed_links"]:
        lines.append(
            f"  faults               {answer['network']['failed_or_slowed_links']} links failed or "
            f"slowed (seed {answer['seed']})"
        )
    return lines


def _considered(answer: dict[str, Any]) -> list[str]:
    rows = []
    best = answer["link_rate_s"]
    for entry in answer["considered"]:
        if entry["time_s"] is None:
            rows.append((entry["algorithm"], "-", entry["reason"]))
        else:
            ratio = entry["time_s"] / best if best > 0 else 1.0
            rows.append((entry["algorithm"], format_duration(entry["time_s"]), f"{ratio:.2f} x"))
    name = "At link rate" if answer["library"] is not None else "Algorithms"
    return table((name, "time", "of the best"), rows, right=frozenset({1}))


def _parts(answer: dict[str, Any]) -> list[str]:
    """Where the library's time goes, and what that rests on."""
    library = answer["library"]
    total = answer["time_s"] or 1.0
    rows = [
        (PARTS[name], format_duration(seconds), f"{100 * seconds / total:.1f} %")
        for name, seconds in library["parts"].items() if seconds > 0
    ]  # fmt: skip
    lines = table(("Where the time goes", "time", "share"), rows, right=frozenset({1, 2}))
    per = library["ranks_per_domain"]
    where = f"{library['domains']:,} domain{'s' if library['domains'] != 1 else ''} of {per:,}"
    if library["across"] is not None:
        where += f" over {library['across']}"
    lines += wrapped(f"{where}; {library['basis']}; the band holds 9 in 10 rows of systems that "
                     "were left out of the fit", indent="  ", hang="  ")  # fmt: skip
    if library["host"] is not None:
        host = library["host"]
        lines += wrapped(f"host: {host['path']}; {host['source']}", indent="  ", hang="  ")
    if library["assumed"]:
        lines += wrapped(f"assumed: {library['assumed']}", indent="  ", hang="  ")
    if library["slowed_by"] > 1:
        slowed = f"{library['slowed_why']} make it {library['slowed_by']:.2f} x as long, as they do"
        lines += wrapped(f"{slowed} the schedule at link rate", indent="  ", hang="  ")
    return lines


def _links(answer: dict[str, Any]) -> list[str]:
    rows = [
        (c["links"], f"{c['count']:,}", _percent(c["least_share"]), _percent(c["mean_share"]),
         _percent(c["most_share"]))
        for c in answer["links"]["classes"]
    ]  # fmt: skip
    lines = table(("Share of the time busy", "links", "least", "mean", "most"), rows,
                  right=frozenset({1, 2, 3, 4}))  # fmt: skip
    chart, shape = answer["links"]["map"], answer["network"]["shape"]
    if chart is not None and len(chart) > 1:
        lines += ["", *load_picture(chart, shape)]
    return lines


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def load_picture(shares: Sequence[float], shape: Sequence[int]) -> list[str]:
    """Tenths of the time that the busiest link leaving each chip is busy, slice by slice.

    ``shares`` are in rank order on a grid of ``shape``. A digit d means at least d tenths, ``#`` at
    least 0.95, ``.`` idle. Slices and rows that look the same are drawn once, wide ones are cut.
    """
    sides = [s for s in shape if s > 1] or [1]
    rows, columns = (sides[-2] if len(sides) > 1 else 1), sides[-1]
    size = rows * columns
    count = math.prod(sides) // size
    drawn: dict[tuple[str, ...], list[int]] = {}
    for number in range(count):
        own = shares[number * size : (number + 1) * size]
        lines = tuple(
            "".join(_mark(s) for s in own[r * columns : (r + 1) * columns][:COLUMNS])
            for r in range(rows)
        )
        drawn.setdefault(lines, []).append(number)
    out = ["Busiest link out of each chip, tenths of the time (# at least 95 %, . idle)"]
    left = 0
    for lines, numbers in sorted(drawn.items(), key=lambda d: (-len(d[1]), d[1][0])):
        slice_lines = [f"  {_slice_names(numbers, sides[:-2])}"] if count > 1 else []
        slice_lines += [f"    {line}" for line in _rows_drawn(lines)]
        if len(out) + len(slice_lines) > PICTURE_LINES and len(out) > 1:
            left += len(numbers)
        else:
            out += slice_lines
    if left:
        out.append(f"  {left} more slice{'s' if left > 1 else ''} with rows that differ")
    return out


def _rows_drawn(lines: Sequence[str]) -> list[str]:
    """Rows of a slice; runs of three and more that look the same are drawn once."""
    out: list[str] = []
    for line, run in groupby(lines):
        count = len(list(run))
        out += [f"{line}  x {count}"] if count > 2 else [line] * count
    return out[: PICTURE_LINES - 2]


def _slice_names(numbers: list[int], sides: Sequence[int]) -> str:
    def point(number: int) -> str:
        digits = []
        for side in reversed(sides):
            number, digit = divmod(number, side)
            digits.append(str(digit))
        return ",".join(reversed(digits))

    if len(numbers) == 1:
        return f"slice {point(numbers[0])}"
    if len(numbers) == math.prod(sides):
        return f"all {len(numbers)} slices alike"
    shown = "; ".join(point(n) for n in numbers[:6])
    return f"{len(numbers)} slices alike: {shown}{'; ...' if len(numbers) > 6 else ''}"


def _mark(share: float) -> str:
    if share >= 0.95:
        return "#"
    if share <= 1e-9:
        return "."
    return str(min(int(10 * share), 9))


def _versus(answer: dict[str, Any], other: dict[str, Any]) -> list[str]:
    mine, theirs = answer["time_s"], other["time_s"]
    name = other["network"]["name"]
    if mine <= 0 or theirs <= 0:
        text = f"Against {name}: {_time(other)}"
    else:
        factor = max(mine, theirs) / min(mine, theirs)
        word = "slower" if theirs > mine else "faster"
        text = (
            f"Against {name}: {_time(other)} with {_named(other)}, {factor:.2f} x "
            f"{word} ({100 * other['bound_share']:.1f} % of its bound)"
        )
    lines = wrapped(text, hang="  ")
    return lines + wrapped(other["assumed"], indent="  ") if other.get("assumed") else lines
