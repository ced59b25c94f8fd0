"""Writes docs/memory.md from `weftline score memory`; half a minute."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

from weftline.catalog.date import CATALOG_DATE
from weftline.cli.main import run

HERE = Path(__file__).parent
DATA = Path("src") / "weftline" / "plan" / "data"
FILES = ("published_runs.csv", "vtrain_single.csv", "vtrain_multi.csv")
GIB = 2**30
INTRO = """\
<!-- Written by docs/generate_memory.py: weftline score memory -->

# How right the count of memory is

Memory is counted ([plan.md](plan.md)), not fitted: no number was set on a source below, but for
torchtitan's allocator share, which was chosen with its eight peaks in view. What to count was also
looked for with rows in view: gradient placeholders and the fused projection that stays whole are
facts of Transformer Engine and Megatron-Core that SimuMax's rows led to.

A peak is compared with what its framework logs: tensors that are allocated, or (torchtitan) what
the allocator reserved. A stated layout is asked of the planner as a user would hold it: it is taken
or refused, perhaps with more in host memory, and counted over what the chip's driver reports.

"""


def scored(file: str) -> dict[str, Any]:
    """What the command prints with --json."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = run(["score", "memory", str(DATA / file), "--json"])
    if code:
        sys.exit(code)
    found: dict[str, Any] = json.loads(out.getvalue())
    return found


def percent(value: float | None, *, signed: bool = False) -> str:
    """A figure of a table."""
    if value is None:
        return "-"
    return f"{value:+.1f} %" if signed else f"{value:.1f} %"


def table(header: tuple[str, ...], right: str, rows: list[tuple[str, ...]]) -> str:
    """A Markdown table; ``right`` has ``>`` for each column aligned right."""
    lines = ["| " + " | ".join(header) + " |",
             "|" + "|".join("---:" if r == ">" else "---" for r in right) + "|"]  # fmt: skip
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def by_source(found: dict[str, Any]) -> str:
    """One line a source."""
    rows = [
        (g["source"], str(g["logged"]), percent(g["mape_pct"]), percent(g["bias_pct"], signed=True),
         percent(g["band_held_pct"]), str(g["stated"]), str(g["rejected"]), str(g["offloaded"]),
         percent(g["over_pct"]))
        for g in [*found["groups"], {"source": "all", **found["summary"]}]
    ]  # fmt: skip
    header = ("source", "peaks", "mean error", "bias", "in the band", "stated layouts", "refused",
              "with more offloaded", "over 100 %")  # fmt: skip
    return table(header, " >>>>>>>>", rows)


def peaks(found: dict[str, Any]) -> str:
    """Every logged peak, beside SimuMax's own count where its authors publish one."""
    with (HERE.parent / DATA / FILES[0]).open(encoding="utf-8") as text:
        notes = {row["id"]: row["notes"] for row in csv.DictReader(text)}
    rows = []
    for r in found["rows"]:
        if r["error_pct"] is None:
            continue
        theirs = re.search(r"and ([\d.]+) GiB", notes.get(r["id"], ""))
        other = "-" if theirs is None else percent(
            100 * (float(theirs[1]) * GIB / r["peak_bytes"] - 1), signed=True)  # fmt: skip
        rows.append((r["id"], r["accelerator"], r["model"], r["framework"],
                     f"{r['peak_bytes'] / GIB:.1f} GiB", f"{r['counted_bytes'] / GIB:.1f} GiB",
                     percent(r["error_pct"], signed=True), other))  # fmt: skip
    header = ("row", "chip", "model", "framework", "logged", "counted", "error", "SimuMax v1.2")
    return table(header, "    >>>>", rows)


def page() -> str:
    """docs/memory.md."""
    parts = [INTRO]
    for file in FILES:
        found = scored(file)
        parts.append(f"## {file}\n\n`weftline score memory {DATA / file}`\n\n{by_source(found)}\n")
        if file == FILES[0]:
            parts.append(f"### Logged peaks\n\n{peaks(found)}\n")
    return "".join(parts).rstrip() + "\n"


def main() -> None:
    """Write the page."""
    os.chdir(HERE.parent)
    os.environ["WEFTLINE_DATA_DIR"] = os.devnull
    os.environ["WEFTLINE_TODAY"] = CATALOG_DATE
    (HERE / "memory.md").write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
