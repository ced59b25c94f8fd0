"""Write the tables of docs/serving.md: ``python docs/generate_serving_scores.py [--held-out]``.

Without ``--held-out`` only the quick tables are written; with it the refits without whole runs and
harnesses run too (a few minutes).
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

import weftline.serve
from weftline.serve.calibrate.pool import unique_rows
from weftline.serve.calibrate.rows import read_rows
from weftline.serve.score import score_held_out, score_rows

PAGE = Path(__file__).with_name("serving.md")
DATA = Path(weftline.serve.__file__).parent / "data"
METRICS = ("tpot", "ttft", "throughput")


def put(page: str, name: str, table: str) -> str:
    """The page with one marked table replaced."""
    marks = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    if not marks.search(page):
        raise SystemExit(f"docs/serving.md has no place for `{name}`")
    return marks.sub(lambda m: m[1] + table + m[2], page)


def pct(value: float | None) -> str:
    """A figure in per cent, or a dash."""
    return "-" if value is None else f"{value:.1f} %"


def line(title: str, part: dict[str, Any]) -> str:
    """One row of a score table."""
    cells = [f"{part['rows']}"]
    for m in METRICS:
        cells.append(f"{pct(part[m]['median_pct'])} ({pct(part[m]['bias_pct'])})")
    cells.append(pct(part["tpot"]["interval_coverage_pct"]))
    return f"| {title} | " + " | ".join(cells) + " |\n"


HEAD = (
    "| | rows | TPOT median (bias) | TTFT median (bias) | throughput median (bias) | "
    "TPOT in its 90 % interval |\n|---|---|---|---|---|---|\n"
)


FILES = ("serving_silicon.csv.gz", "serving_published.csv.gz", "serving_published_2.csv.gz")


def tables(page: str, held_out: bool) -> str:
    """The tables of all shipped rows."""
    parts = [read_rows(DATA / name) for name in FILES]
    rows, left = [r for own, _ in parts for r in own], [u for _, own in parts for u in own]
    rows = unique_rows(rows)
    found = score_rows(rows, left)
    table = HEAD + line("all, each row left out of the corrections", found["summary"] | {
        "rows": found["summary"]["predicted"]})  # fmt: skip
    page = put(page, "seen", table)
    if not held_out:
        return page
    for by in ("run", "harness"):
        score = score_held_out(rows, left, by=by)
        whole = score["summary"] | {"rows": score["summary"]["predicted"]}
        table = HEAD + line("**all**", whole)
        for g in score["groups"]:
            if g["by"] in ("harness", "engine", "mode") or (g["by"] == "chip" and g["rows"] > 20):
                table += line(f"{g['by']} {g['name']}", g)
        page = put(page, f"left-out-{by}", table)
    return page


def main() -> None:
    """Write the page anew."""
    options = argparse.ArgumentParser()
    options.add_argument("--held-out", action="store_true")
    given = options.parse_args()
    page = tables(PAGE.read_text(encoding="utf-8"), given.held_out)
    stored = json.loads((DATA / "calibration.json").read_text(encoding="utf-8"))
    page = put(page, "fitted", f"Fitted on {stored['rows']} unique measurements.\n")
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
