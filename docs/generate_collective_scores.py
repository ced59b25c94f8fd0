"""Writes the tables of docs/fabric-accuracy.md from `weftline score collectives`; some seconds."""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

from weftline.fabric.calibration import calibration, size_band
from weftline.fabric.fit import fit_constants, score_left_out
from weftline.fabric.score import MeasuredCollective, read_collectives

HERE = Path(__file__).parent
ROWS = HERE.parent / "src" / "weftline" / "fabric" / "data" / "collectives_measured.csv"
NOTE = (
    "<!-- Written by docs/generate_collective_scores.py: weftline score collectives "
    "src/weftline/fabric/data/collectives_measured.csv --held-out -->\n\n"
)
INTRO = """\
# How right collective times are

Times of collectives that someone measured, predicted with constants fitted on other machines alone:
a machine (a chip and its network) is left out with all its rows. An error is predicted over
measured, less one; the band is the 90 % interval that a prediction carries.

`weftline score collectives src/weftline/fabric/data/collectives_measured.csv --held-out`

"""
HOW = """
## What is fitted, and what is not

Bandwidths and latencies come first from what makers and libraries state: NCCL's rate of a link and
its latency of a hop (`topo.h`, `tuning.cc`), the latencies that AWS's plugin gives NCCL
(`aws-ofi-nccl`), the catalogue's wires. In-switch reduction (NVLS) moves M (1 + 1/N) out of a chip,
a ring 2 M (N-1)/N: which is why 8 x H200 read 480 GB/s over 450 GB/s of wire. On top of these stand
{constants} constants, fitted together on all rows by `python -m weftline.fabric.fit`
(`fabric/data/collective_calibration.json`): the host's share of timing PyTorch calls, two factors
on latency, how latency grows with size while a pipeline fills (two), the share of link, switch and
network rates that is reached (seven), what of a tree's two stages (inside a node, between nodes)
does not overlap, and the floor of a Neuron call. Which protocol is taken, low latency or bandwidth,
and which algorithm, is not fitted: the quickest of the modelled ways, as the library chooses.

{choices}
The sums hold rows out of the fit, not out of those choices.

What is left out can be wider than a machine. With all rows of the group left out at once:

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
  that the page does not name: runtime versions, not the network. Nothing in a row tells them apart,
  so predictions are off by up to a factor of ten below 1 MiB, and carry a band that says so.
- **EFA below 1 MiB.** p4de has 161 us, p5 69 us for 8 bytes. The plugin's latencies (75 and 20 us a
  hop) give the ratio right and each about a fifth wrong, one up, one down.
- **Middle sizes of B200.** From 512 MiB to 4 GiB 8 x B200 stay at 735 to 741 GB/s and reach 839 at
  8 GiB; 8 x H100 jump likewise at 4 GiB, 8 x H200 do not. The model has no such step.
- **Nothing is said** of rows whose text names no chip (20 rows of four unnamed nodes): they are
  listed with that reason and not predicted.
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
    ("a chip, on every network", lambda r: r.machine.chip),
    ("one node of NVLink, or several, or a mesh, or a torus",
     lambda r: (r.machine.kind, r.machine.network is None)),
    ("all that was timed from the host, or all from the device", lambda r: r.harness),
)  # fmt: skip


def _ways(rows: list[MeasuredCollective]) -> str:
    """Median error by size band for each wider way of leaving out."""
    lines = ["| left out | 1 MiB and up | below 1 MiB |", "|---|---:|---:|"]
    known = [r for r in rows if r.measured_s]
    for name, key in WAYS:
        off: dict[str, list[float]] = {"1 MiB and up": [], "below 1 MiB": []}
        for group in {key(r) for r in known}:
            constants = fit_constants([r for r in known if key(r) != group])
            for row in known:
                if key(row) == group and row.measured_s:
                    ratio = row.predicted_s(constants) / row.measured_s
                    off[size_band(row.size_bytes)].append(abs(100 * (ratio - 1)))
        lines.append(f"| {name} | " + " | ".join(
            _percent(statistics.median(e)) for e in off.values()) + " |")  # fmt: skip
    return "\n".join(lines)


def page() -> str:
    """The page."""
    known, left = read_collectives(ROWS)
    found = score_left_out(known, left)
    record = calibration().record
    sums = ["| sizes | median error | mean | bias | in the band |", "|---|---:|---:|---:|---:|"]
    for band, s in {**found["bands"], "all": found["summary"]}.items():
        sums.append(f"| {band} | {_percent(s['median_pct'])} | {_percent(s['mape_pct'])} | "
                    f"{_percent(s['bias_pct'], signed=True)} | "
                    f"{_percent(s['interval_coverage_pct'])} |")  # fmt: skip
    predicted = f"{found['summary']['predicted']} of {found['summary']['rows']} rows predicted.\n\n"
    choices = textwrap.fill(
        f"Choices made with the rows in view: {record['choices_made_with_rows_in_view']}.", 100
    )
    how = HOW.format(constants=len(record["constants"]), choices=choices, ways=_ways(known))
    noise = NOISE.format(noise=f"{_noise_percent(known):.1f}")
    return NOTE + INTRO + predicted + "\n".join(sums) + "\n" + how + _table(found) + noise


if __name__ == "__main__":
    (HERE / "fabric-accuracy.md").write_text(page(), encoding="utf-8")
