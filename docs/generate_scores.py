"""Writes docs/accuracy.md and the table of README.md from `weftline score`; some minutes."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import os
import re
import statistics
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from weftline.catalog.date import CATALOG_DATE
from weftline.cli.main import run

HERE = Path(__file__).parent
DATA = Path("src") / "weftline" / "plan" / "data"
NOTE = "<!-- Written by docs/generate_scores.py: weftline score training ... --held-out -->\n\n"
CALCULON = {  # per file: columns of Calculon's time, of the measured one, and their ratio
    "published_runs.csv": ("calculon_iter_s", "iter_time_s"),
    "vtrain_single.csv": ("calculon_pred_iter_ms_25GBps", "iteration time (ms)"),
    "vtrain_multi.csv": ("calculon_pred_iter_ms_25GBps", "iteration time (ms)"),
}

INTRO = """\
# How right the planner is

Step times predicted for runs that someone measured, with the constants and the residual process
fitted again on other rows alone. An error is predicted over measured, less one; the band is the
90 % interval that a plan shows beside its time. Where rows are cut at random, the figures are means
over the seeds 0 to 2.

"""
ROWS = """
## What the rows are

`published_runs.csv`: papers, MLPerf submissions and vendors' benchmark pages, each row with its
source. Its runs differ in chip, model and framework version, and what a source leaves open
(micro-batch, interleaving, recomputation) is predicted as the fastest choice that fits.
`vtrain_single.csv` and `vtrain_multi.csv`: the measurements that vTrain publishes (A100, one node
and several). Rows of one vTrain model differ by little, so a row cut at random has near twins in
the fit; the lines that leave a whole model out have none, and say more.

"""
SOURCES = """
## Every source left out

A source is the paper or repository that runs were read from; Megatron-Bridge's releases are one
source, MLPerf's rounds are one each. Where a whole source is left out nothing tells how its authors
tuned, and of chips or models that only it ran nothing at all: Trainium, and mixture models on
Blackwell. Hybrid Mamba models train slower on every chip than their kernels' tables say, and why is
not known here; the newest releases of Megatron-Bridge are faster than older ones for reasons that
its configurations name (graphs, fused experts, overlapped all-to-all) and rows of others do not
measure. Constants, their spreads and which recipes may differ were chosen with every row in view;
their values are fitted without the source.

"""
RELIABILITY = """
## Promised and held

How often the measured time lies inside the interval that promises it, by what was left out. Bands
come from sources that were left out while fitting, by how near the nearest measured run is.

"""
PEER = """
## Beside SimuMax, on its own B200 runs

SimuMax times operators by kernels measured on the very machine of these runs; here their source is
kept from the fit.

"""
BESIDE = """\
## Beside Calculon, on the same rows

Calculon's times stand in the files; where a source does not state micro-batch or interleaving they
are the fastest of several. Calculon is not fitted to any of these rows.

"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One line of the table: which rows, and what was kept from the fit."""

    title: str
    left_out: str
    file: str
    options: str

    @property
    def command(self) -> str:
        """What prints these figures."""
        return f"weftline score training {DATA / self.file} --held-out {self.options}"


RANDOM = "--seeds 3"
QUESTIONS = (
    Question(title="published runs", left_out="every source in turn", file="published_runs.csv",
             options="--by source"),
    Question(title="published runs", left_out="every release in turn", file="published_runs.csv",
             options="--by version"),
    Question(title="published runs", left_out="random fifths", file="published_runs.csv",
             options=RANDOM),
    Question(title="published runs", left_out="every chip in turn", file="published_runs.csv",
             options="--by accelerator"),
    Question(title="published runs", left_out="every model in turn", file="published_runs.csv",
             options="--by model"),
    Question(title="vTrain, one node", left_out="random quarters", file="vtrain_single.csv",
             options=f"--folds 4 {RANDOM}"),
    Question(title="vTrain, one node", left_out="every model in turn", file="vtrain_single.csv",
             options="--by model"),
    Question(title="vTrain, many nodes", left_out="random quarters", file="vtrain_multi.csv",
             options=f"--folds 4 {RANDOM}"),
    Question(title="vTrain, many nodes", left_out="every model in turn", file="vtrain_multi.csv",
             options="--by model"),
)  # fmt: skip


@cache
def score(question: Question) -> dict[str, Any]:
    """What the command prints with --json."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = run([*question.command.split()[1:], "--json"])
    if code:
        sys.exit(code)
    found: dict[str, Any] = json.loads(out.getvalue())
    return found


def table(header: Iterable[str], right: str, rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table; ``right`` has ``>`` for each column aligned right."""
    lines = ["| " + " | ".join(header) + " |",
             "|" + "|".join("---:" if r == ">" else "---" for r in right) + "|"]  # fmt: skip
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def percent(value: float | None, *, signed: bool = False, digits: int = 1) -> str:
    """A figure of a table."""
    if value is None:
        return "-"
    return f"{value:{'+' if signed else ''}.{digits}f} %"


def readme() -> str:
    """The table of README.md."""
    rows = []
    for q in QUESTIONS:
        s = score(q)["summary"]
        measured = {r["id"] for r in score(q)["rows"] if r.get("error_pct") is not None}
        rows.append(
            (q.title, q.left_out, str(len(measured)), percent(s["mape_pct"]),
             percent(s["median_pct"]), percent(s["physics_mape_pct"]),
             percent(s["interval_coverage_pct"], digits=0), calculon(q.file))
        )  # fmt: skip
    header = ("rows", "kept from the fit", "n", "mean error", "median", "by physics alone",
              "in the 90 % band", "Calculon, as measured")  # fmt: skip
    return table(header, "  >>>>>>", rows)


def calculon(file: str) -> str:
    """Calculon's mean error on the rows of a file that it was run on."""
    errors = [100 * abs(theirs / measured - 1) for _, theirs, measured in compared(file)]
    return f"{statistics.mean(errors):.1f} % of {len(errors)}"


def compared(file: str) -> list[tuple[str, float, float]]:
    """Row, Calculon's time and the measured one, in one unit, where both are stated."""
    theirs, measured = CALCULON[file]
    with (HERE.parent / DATA / file).open(encoding="utf-8") as text:
        found = [
            (row.get("id") or f"line {line}", row[theirs], row[measured])
            for line, row in enumerate(csv.DictReader(text), start=2)
        ]
    return [(name, float(a), float(b)) for name, a, b in found if a and b]


def same_rows(question: Question) -> tuple[int, float, float]:
    """Rows that Calculon was run on: how many, our held-out mean error on them, and Calculon's."""
    theirs = {name: 100 * abs(a / b - 1) for name, a, b in compared(question.file)}
    ours: dict[str, list[float]] = {}
    for row in score(question)["rows"]:
        if row["id"] in theirs and row.get("error_pct") is not None:
            ours.setdefault(row["id"], []).append(abs(row["error_pct"]))
    mean = statistics.mean(statistics.mean(errors) for errors in ours.values())
    return len(ours), mean, statistics.mean(theirs[name] for name in ours)


PROMISED = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
"""Shares of a reliability diagram."""


def reliability(questions: Iterable[Question]) -> str:
    """How often intervals of several widths hold what was measured: promised against held."""
    from statistics import NormalDist

    rows = []
    wide = NormalDist().inv_cdf(0.95)
    for q in questions:
        apart = [
            abs(math.log(r["measured_s"] / r["predicted_s"]))
            / (math.log(r["high_s"] / r["predicted_s"]) / wide)
            for r in score(q)["rows"]
            if r.get("error_pct") is not None
        ]
        held = [
            statistics.mean(gap <= NormalDist().inv_cdf((1 + p) / 2) for gap in apart)
            for p in PROMISED
        ]
        rows.append((q.title, q.left_out, *(percent(100 * h, digits=0) for h in held)))
    header = ("rows", "kept from the fit", *(f"{100 * p:.0f} % promised" for p in PROMISED))
    return table(header, "  " + ">" * len(PROMISED), rows)


def by_source(question: Question) -> str:
    """One row a source: with what near runs correct, by physics alone, and the band."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in score(question)["rows"]:
        if row.get("error_pct") is not None:
            found.setdefault(row["source"], []).append(row)
    lines = []
    for source, own in sorted(found.items(), key=lambda pair: -len(pair[1])):
        errors = [row["error_pct"] for row in own]
        alone = [100 * abs(row["physics_s"] / row["measured_s"] - 1) for row in own]
        held = statistics.mean(row["interval_hit"] for row in own)
        lines.append(
            (source, str(len(own)), percent(statistics.mean(map(abs, errors))),
             percent(statistics.median(map(abs, errors))), percent(statistics.mean(alone)),
             percent(statistics.mean(errors), signed=True), percent(100 * held, digits=0))
        )  # fmt: skip
    header = ("source", "rows", "mean error", "median", "by physics alone", "bias", "in the band")
    return table(header, " >>>>>>", lines)


SIMUMAX = re.compile(r"predicts ([\d.]+) ms \(([+-][\d.]+)%\)")
"""SimuMax's own figure as its release notes state it beside the measured one."""


def simumax(question: Question) -> str:
    """SimuMax on its own B200 runs, and ours with that source kept from the fit."""
    with (HERE.parent / DATA / question.file).open(encoding="utf-8") as text:
        theirs = {row["id"]: float(found[2]) for row in csv.DictReader(text)
                  if (found := SIMUMAX.search(row["notes"]))}  # fmt: skip
    ours = {row["id"]: row for row in score(question)["rows"] if row["id"] in theirs}
    lines = [
        (run, percent(theirs[run], signed=True), percent(row["error_pct"], signed=True),
         percent(100 * (row["physics_s"] / row["measured_s"] - 1), signed=True))
        for run, row in sorted(ours.items())
    ]  # fmt: skip
    mean = (
        "mean of sizes",
        percent(statistics.mean(abs(theirs[run]) for run in ours)),
        percent(statistics.mean(abs(row["error_pct"]) for row in ours.values())),
        percent(statistics.mean(100 * abs(r["physics_s"] / r["measured_s"] - 1)
                                for r in ours.values())),
    )  # fmt: skip
    header = ("run", "SimuMax v1.2", "weftline, source kept out", "by physics alone")
    return table(header, " >>>", [*lines, mean])


def groups(question: Question) -> str:
    """One table a question: error by chip and framework family."""
    rows: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in score(question)["rows"]:
        if row.get("error_pct") is not None:
            family = re.sub(r"\s+r?\d[\d.]*$", "", row["framework"].split(" (")[0])
            rows.setdefault((row["accelerator"], family), []).append(row)
    lines = []
    for (chip, family), own in sorted(rows.items()):
        errors = [row["error_pct"] for row in own]
        sizes = [abs(e) for e in errors]
        held = statistics.mean(row["interval_hit"] for row in own)
        lines.append(
            (chip, family, str(len({row["id"] for row in own})), percent(statistics.mean(sizes)),
             percent(statistics.median(sizes)), percent(statistics.mean(errors), signed=True),
             percent(100 * held, digits=0))
        )  # fmt: skip
    header = ("chip", "framework", "rows", "mean error", "median", "bias", "in the band")
    return table(header, "  >>>>>", lines)


def accuracy() -> str:
    """docs/accuracy.md."""
    parts = [
        INTRO,
        readme(),
        ROWS,
        BESIDE,
        table(
            ("rows", "n", "weftline, rows kept from the fit", "Calculon, as measured"), " >>>",
            ((q.title, str(n), percent(ours), percent(theirs))
             for q in QUESTIONS if q.left_out.startswith("random")
             for n, ours, theirs in (same_rows(q),)),
        ),
    ]  # fmt: skip
    sources = QUESTIONS[0]
    parts += [
        SOURCES, f"`{sources.command}`\n\n", by_source(sources),
        RELIABILITY, reliability(QUESTIONS),
        PEER, simumax(sources),
    ]  # fmt: skip
    for q in QUESTIONS:
        parts.append(f"\n## {q.title[0].upper()}{q.title[1:]}, {q.left_out} left out\n\n")
        parts.append(f"`{q.command}`\n\n{groups(q)}")
    return NOTE + "".join(parts)


def main() -> None:
    """Write the page and the table."""
    sys.path.insert(0, str(HERE))
    from generate_picture import between

    os.chdir(HERE.parent)
    os.environ["WEFTLINE_DATA_DIR"] = os.devnull
    os.environ["WEFTLINE_TODAY"] = CATALOG_DATE
    (HERE / "accuracy.md").write_text(accuracy(), encoding="utf-8")
    page = HERE.parent / "README.md"
    page.write_text(between(page.read_text(encoding="utf-8"), "score", readme()), encoding="utf-8")


if __name__ == "__main__":
    main()
