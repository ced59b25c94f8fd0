"""Serving predictions beside AIConfigurator's: the same measured rows, the same inputs, one run.

``python bench/serving_peers.py PYTHON [--rows 80] [--seed 0] [--write docs/serving.md]``: PYTHON is
an interpreter that has ``aiconfigurator==0.12.0``. Rows that state both times are shuffled with the
seed and asked in that order until as many as wanted are answered by both. The peer is asked through
its ``cli_estimate`` with its newest database (it keeps none as old as the rows), each row's layout,
number formats, mean lengths and requests in flight. Ours are predicted without the row's run: no
row of its model on its chip under its engine is in the fit or the corrections.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import math
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import weftline.serve
from weftline.serve.calibrate.fit import compile_rows
from weftline.serve.calibrate.heldout import held_out
from weftline.serve.calibrate.pool import by_times, is_left_out, unique_rows
from weftline.serve.calibrate.row import Layout, Row
from weftline.serve.calibrate.rows import read_rows
from weftline.serve.calibrate.shipped import points, shipped_vector

DATA = Path(weftline.serve.__file__).parent / "data"
FILES = ("serving_silicon.csv.gz", "serving_published.csv.gz", "serving_published_2.csv.gz")
PATHS = {
    "meta-llama/Llama-3.1-70B": "meta-llama/Meta-Llama-3.1-70B", "zhipuai/GLM-5": "zai-org/GLM-5",
    "Qwen/Qwen3-235B-A22B-FP8": "Qwen/Qwen3-235B-A22B",
}  # fmt: skip
"""Names under which the peer keeps a model's config.json, where rows use another."""
QUANT = {"gemm": "gemm_quant_mode", "moe": "moe_quant_mode"}
PEER = """
import json, logging, sys
logging.disable(logging.ERROR)
from aiconfigurator.cli.api import cli_estimate
for line in sys.stdin:
    asked = json.loads(line)
    try:
        found = cli_estimate(**asked)
        said = {"ttft_ms": float(found.ttft), "tpot_ms": float(found.tpot)}
    except Exception as error:
        said = {"error": f"{type(error).__name__}: {error}"[:200]}
    print("said " + json.dumps(said), flush=True)
"""


def records() -> dict[str, Mapping[str, str]]:
    """The silicon file's records by id: what the peer's names are read from."""
    with gzip.open(DATA / FILES[0], "rt", encoding="utf-8", newline="") as file:
        return {r["id"]: r for r in csv.DictReader(file)}


def question(row: Row, record: Mapping[str, str]) -> dict[str, Any]:
    """The peer's arguments for a row."""
    path = PATHS.get(record["model_path"], record["model_path"])
    asked: dict[str, Any] = {
        "model_path": path, "system_name": record["system"], "backend_name": row.engine,
        "isl": round(row.input_tokens), "osl": round(row.output_tokens),
    }  # fmt: skip
    for ours, theirs in QUANT.items():
        if record.get(f"{ours}_quant_mode"):
            asked[theirs] = record[f"{ours}_quant_mode"]
    if row.drafted:
        asked["nextn"] = row.drafted
    each = row.concurrency / (row.layout.workers * row.layout.dp)
    if row.prefill is None:
        return asked | _sizes(row.layout) | {"mode": "agg", "batch_size": max(1, round(each))}
    pools = {f"prefill_{k}": v for k, v in _sizes(row.prefill).items()}
    pools |= {f"decode_{k}": v for k, v in _sizes(row.layout).items()}
    return asked | pools | {
        "mode": "disagg", "prefill_num_workers": row.prefill.workers,
        "decode_num_workers": row.layout.workers, "decode_batch_size": max(1, round(each)),
        "prefill_batch_size": max(1, round(float(record.get("prefill_batch_size") or 1))),
    }  # fmt: skip


def _sizes(layout: Layout) -> dict[str, int]:
    return {"tp_size": layout.tp, "pp_size": layout.pp, "attention_dp_size": layout.dp,
            "moe_tp_size": layout.moe_tp, "moe_ep_size": layout.ep}  # fmt: skip


class Peer:
    """The peer's interpreter, asked one row at a time."""

    def __init__(self, python: str) -> None:
        self._process = subprocess.Popen(
            [python, "-c", PEER], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip

    def ask(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Its answer, or ``error`` with the reason."""
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("no pipes")
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith("said "):
                found: dict[str, Any] = json.loads(line[5:])
                return found
        raise SystemExit("the peer's interpreter ended: has it aiconfigurator 0.12.0?")


def ours(rows: Sequence[Row]) -> dict[str, np.ndarray]:
    """Every row's times without its run."""
    kernels = {kind: points(kind).kernel for kind in ("tpot", "ttft", "rate")}
    return held_out(rows, compile_rows(rows), "run", start=shipped_vector(), kernels=kernels)


def compared(
    python: str, wanted: int, seed: int, seconds: float
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Rows answered by both, with errors in per cent; and why the peer did not answer others."""
    began = time.monotonic()
    rows = unique_rows([r for name in FILES for r in read_rows(DATA / name)[0]])
    known, found, peer = records(), ours(rows), Peer(python)
    able = [i for i, r in enumerate(rows) if by_times(r) and r.id in known and not is_left_out(r)]
    out: list[dict[str, Any]] = []
    refused: dict[str, int] = {}
    for i in np.random.default_rng(seed).permutation(able):
        row = rows[i]
        said = peer.ask(question(row, known[row.id]))
        if "error" in said or not (said["ttft_ms"] > 0 and said["tpot_ms"] > 0):
            reason = said.get("error", "no time").partition(":")[0]
            refused[reason] = refused.get(reason, 0) + 1
            continue
        entry: dict[str, Any] = {"cluster": f"{row.family}, {row.engine}, {row.chip}"}
        for kind, theirs in (("ttft", "ttft_ms"), ("tpot", "tpot_ms")):
            truth = getattr(row, f"{kind}_s")
            entry[kind] = {"ours": 100 * abs(float(found[kind][i]) / truth - 1),
                           "theirs": 100 * abs(said[theirs] / 1e3 / truth - 1)}  # fmt: skip
        out.append(entry)
        if len(out) == wanted or time.monotonic() - began > seconds:
            break
    return out, refused


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Medians of all rows and of every cluster, side by side."""
    lines = [
        "| | rows | TTFT ours | TTFT peer | TPOT ours | TPOT peer |\n|---|---|---|---|---|---|"
    ]

    def line(title: str, some: Sequence[dict[str, Any]]) -> str:
        cells = [f"{np.median([r[kind][who] for r in some]):.1f} %"
                 for kind in ("ttft", "tpot") for who in ("ours", "theirs")]  # fmt: skip
        return f"| {title} | {len(some)} | {' | '.join(cells)} |"

    lines.append(line("**all**", rows))
    for by in (1, 0, None):  # by engine, by model, by both and chip
        names = sorted({_named(r["cluster"], by) for r in rows})
        lines += [line(n, [r for r in rows if _named(r["cluster"], by) == n]) for n in names]
    return "\n".join(lines) + "\n"


def _named(cluster: str, by: int | None) -> str:
    return cluster if by is None else cluster.split(", ")[by]


def main() -> None:
    """Print the table; with ``--write``, put it on the page too."""
    options = argparse.ArgumentParser()
    options.add_argument("python")
    options.add_argument("--rows", type=int, default=80)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--seconds", type=float, default=math.inf, help="ask no more after these")
    options.add_argument("--write", type=Path)
    given = options.parse_args()
    rows, refused = compared(given.python, given.rows, given.seed, given.seconds)
    text = table(rows)
    print(text)
    print(f"seed {given.seed}; not answered by the peer on the way: {refused or 'none'}")
    if given.write:
        sys.path.insert(0, str(Path(__file__).parents[1] / "docs"))
        from generate_serving_scores import put

        said = ", ".join(f"{n} {reason}" for reason, n in sorted(refused.items())) or "none"
        note = f"Rows drawn on the way that the peer did not answer: {said}.\n\n"
        page = put(given.write.read_text(encoding="utf-8"), "peer", note + text)
        given.write.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
