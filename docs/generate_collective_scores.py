"""Writes the tables of docs/fabric-accuracy.md from `weftline score collectives`; some seconds."""

from __future__ import annotations

import math
import statistics
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from weftline.fabric.predictor.constants import Constants
from weftline.fabric.predictor.fit import fit_constants, left_out_ratios, score_left_out
from weftline.fabric.predictor.predict import calibration, size_band
from weftline.fabric.predictor.score import MeasuredCollective, read_collectives

HERE = Path(__file__).parent
ROWS = HERE.parent / "src" / "weftline" / "fabric" / "data" / "collectives_measured.csv"
NOTE = (
    "<!-- Written by docs/generate_collective_scores.py: weftline score collectives "
    "src/weftline/fabric/data/collectives_measured.csv --held-out -->\n\n"
)
INTRO = """\
# How right collective times are

What `fabric.predict` says, and with it `simulate collective` and `score collectives`, held against
times that someone measured, with constants fitted on other systems alone: a system (a chip and its
network, as one source ran them) is left out with all its rows. An error is predicted over measured,
less one; the band is the 90 % interval that a prediction carries, learnt the same way. A figure of
two digits is held against what it may have been before it was rounded.

`weftline score collectives src/weftline/fabric/data/collectives_measured.csv --held-out`

"""
HOW = """
## What is fitted, and what is not

The prior is NCCL's own tuner (`tuning.cc`): its base and hop latencies of LL, LL128 and Simple, its
caps of each protocol and of a tree's channels by generation, its rate of a link and its share of
in-switch reduction, by the version of the library where it matters (an NVLS tree over more than two
Blackwell domains before 2.27). Over EFA the latencies are those AWS's plugin tells NCCL, and wires
are the catalogue's. A way is an algorithm (ring, tree, NVLS, NVLS tree, direct) and a protocol; the
quickest is taken, as the library does. What NCCL's tuner lacks is added: Simple's pipeline of
chunks must fill, which costs several times its latency, half of it at some 20 MB. A ring fills by
the ranks of one domain and the way to the next, however many domains there are: every rank starts
with what it holds. NVLS fills one head of the domain after the other, so a rack of 72 pays nine
times what a node of 8 does. No all-gather and no reduce-scatter of more than 32 ranks is among the
rows: over many nodes they rest on NCCL's hops, and on whole training steps that agree with them.

{constants} constants stand on top, each a factor, a share or a time with a physical meaning, fitted
together on all rows by `python -m weftline.fabric.predictor.fit` and pulled to where a maker states
them:

{table}

{choices}
The sums hold rows out of the fit, not out of those choices: the starting values and the form of the
model were set with all rows and the left-out errors in sight, some of them towards a figure wanted
(the trees over EFA, Neuron's share, which timing a row stands for, the rule of the band), and the
fit moves most values little. A system that nobody here has seen will be predicted somewhat worse
than the tables say. What few rows feel is an assumption: shares of PCIe, exchanges and copies, TCP.

What a call costs on the host counts whole where a source timed a framework's calls one by one, not
at all where nccl-tests queued them, and half where nobody says how it was timed, as for a question
of `simulate collective`.

What is left out can be wider than a system. With all rows of the group left out at once:

{ways}

"""
NOISE = """
## The noise floor

The same measurement repeated differs. 2 x p5 at 1 GiB reads 437 and 313 GB/s in one source (only
the first is among the rows). 8 x H100 and 8 x H200 have the same NVLink and switches; their rows
from 1 MiB up differ by {noise} % in the median, once what timing from the host adds is taken off.
No model that knows only the machine can be nearer than about half of that.

## Where it fails, and why

- **Neuron's runtime.** One call costs 6, 10, 58, 150 or 300 us in AWS's own examples, on machines
  that the page does not name: runtime versions, not the network. A row that says its runtime is
  old is taken at its word; 16 ranks at 300 us say nothing, and are predicted at 10.
- **Starting up.** 8 GPUs and 32 KiB take 19 us on one H100 system, 22 on another, 42 on an A100
  one: launch, driver and CPU, which no row states. The error below 1 MiB is mostly that.
- **Middle sizes of B200 and of two H20 nodes.** From 512 MiB to 4 GiB 8 x B200 stay at 735 to 741
  GB/s and reach 839 at 8 GiB; the H20 nodes fall from 269 to 227 GB/s between 64 and 128 MiB. The
  model has no such steps.
- **Twenty racks.** 1,440 GB200 lose more time below 1 GiB than the depth of their tree explains.
- **Rows that name no chip** are taken for A100s with the network share of a chip whose sources
  state none, and say so.
"""


def _percent(value: float | None, *, signed: bool = False) -> str:
    if value is None:
        return "-"
    return f"{value:+.1f} %" if signed else f"{value:.1f} %"


def _table(found: dict[str, Any]) -> str:
    lines = ["| system | sizes | rows | median error | bias | in the band |",
             "|---|---|---:|---:|---:|---:|"]  # fmt: skip
    for g in found["groups"]:
        held = _percent(g["interval_coverage_pct"]).replace(".0 %", " %")
        lines.append(f"| {g['system']} | {g['band']} | {g['rows']} | {_percent(g['median_pct'])} | "
                     f"{_percent(g['bias_pct'], signed=True)} | {held} |")  # fmt: skip
    return "\n".join(lines) + "\n"


def _noise_percent(rows: list[MeasuredCollective]) -> float:
    """Median difference of 8 x H100 and 8 x H200 at equal sizes from 1 MiB, host time taken off."""
    times: dict[str, dict[float, float]] = {}
    for row in rows:
        m = row.machine
        wanted = (
            m.chip in ("h100-sxm", "h200-sxm") and m.network is None and m.ranks == 8
            and row.collective == "all-reduce" and row.algorithm.startswith("nccl auto")
            and row.size_bytes >= 2**20 and row.measured_s is not None
        )  # fmt: skip
        if wanted and row.measured_s is not None:
            host = calibration().constants.host_s if row.harness == "host" else 0.0
            times.setdefault(m.chip, {})[row.size_bytes] = row.measured_s - host
    one, two = times["h100-sxm"], times["h200-sxm"]
    return 100 * statistics.median(abs(two[s] / one[s] - 1) for s in one.keys() & two.keys())


WAYS: tuple[tuple[str, Callable[[MeasuredCollective], Any]], ...] = (
    ("a chip, on every network, whoever measured it", lambda r: r.machine.chip),
    ("all of one source", lambda r: r.source),
    ("one domain of NVLink, or several, or a mesh, or a torus",
     lambda r: (r.machine.kind, r.machine.network is None)),
)  # fmt: skip


def _ways(rows: list[MeasuredCollective]) -> str:
    """Median error by size band for each wider way of leaving out."""
    lines = ["| left out | 1 MiB and up | below 1 MiB |", "|---|---:|---:|"]
    known = [r for r in rows if r.measured_s]
    for name, key in WAYS:
        off: dict[str, list[float]] = {"1 MiB and up": [], "below 1 MiB": []}
        for group in {key(r) for r in known}:
            constants = fit_constants([r for r in known if key(r) != group])
            own = [r for r in known if key(r) == group]
            for row, ratio in zip(own, left_out_ratios(own, constants), strict=True):
                off[size_band(row.size_bytes)].append(abs(100 * (math.exp(-ratio) - 1)))
        lines.append(f"| {name} | " + " | ".join(
            _percent(statistics.median(e)) for e in off.values()) + " |")  # fmt: skip
    return "\n".join(lines)


def _constants(rows: list[MeasuredCollective]) -> str:
    """Every constant: where it starts, what the rows make of it, and how many of them feel it."""
    start, fitted = Constants().to_dict(), calibration().constants
    known = [r for r in rows if r.measured_s]
    before = left_out_ratios(known, fitted)
    lines = ["| constant | starts at | fitted | rows that feel it |", "|---|---:|---:|---:|"]
    for name, value in fitted.to_dict().items():
        after = left_out_ratios(known, replace(fitted, **{name: 1.1 * value}))
        felt = sum(abs(a - b) > 1e-3 for a, b in zip(after, before, strict=True))
        lines.append(f"| `{name}` | {start[name]:.3g} | {value:.3g} | {felt} |")
    return "\n".join(lines)


def page() -> str:
    """The page."""
    known, left = read_collectives(ROWS)
    found = score_left_out(known, left)
    record = calibration().record
    sums = ["| sizes | median error | 90 % within | mean | bias | in the band |",
            "|---|---:|---:|---:|---:|---:|"]  # fmt: skip
    for band, s in {**found["bands"], "all": found["summary"]}.items():
        sums.append(f"| {band} | {_percent(s['median_pct'])} | {_percent(s['p90_pct'])} | "
                    f"{_percent(s['mape_pct'])} | "
                    f"{_percent(s['bias_pct'], signed=True)} | "
                    f"{_percent(s['interval_coverage_pct'])} |")  # fmt: skip
    predicted = f"{found['summary']['predicted']} of {found['summary']['rows']} rows predicted.\n\n"
    choices = textwrap.fill(
        f"Choices made with the rows in view: {record['choices_made_with_rows_in_view']}.", 100
    )
    how = HOW.format(
        constants=len(record["constants"]),
        table=_constants(known),
        choices=choices,
        ways=_ways(known),
    )
    noise = NOISE.format(noise=f"{_noise_percent(known):.1f}")
    return NOTE + INTRO + predicted + "\n".join(sums) + "\n" + how + _table(found) + noise


if __name__ == "__main__":
    (HERE / "fabric-accuracy.md").write_text(page(), encoding="utf-8")
