"""Score sliding-window attention: predicted against measured speed-ups over full attention.

``python -m weftline.operators.fit.score_windows PAIRS.csv[.gz]`` with the columns batch_size,
isl, num_heads, num_key_value_heads, head_dim, step, full_ms, swa_ms, window, system, phase.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Final

import numpy as np

from weftline.operators import tables
from weftline.operators.fit.monotone import held_out
from weftline.operators.fit.rows import Columns, read_columns, where
from weftline.operators.operators import operators
from weftline.operators.surface import FloatArray
from weftline.spec.attention import DENSE, Window

SYSTEMS: Final = {"h100_sxm": "h100-sxm", "h200_sxm": "h200-sxm", "b200_sxm": "b200"}


def predicted_pairs(rows: Columns) -> tuple[FloatArray, FloatArray]:
    """Predicted milliseconds of full and of windowed attention, a row each."""
    full, cut = np.zeros(len(rows["window"])), np.zeros(len(rows["window"]))
    sizes = [rows[name].astype(int).astype(str) for name in ("head_dim", "window")]
    keys = np.stack([rows["system"], rows["phase"], *sizes])
    for system, phase, dim, window in np.unique(keys, axis=1).T:
        mine = np.all(keys == np.asarray([[system], [phase], [dim], [window]]), axis=0)
        ops = operators(SYSTEMS[str(system)])
        batch, heads, kv_heads = (
            np.asarray(rows[name][mine], dtype=np.float64)
            for name in ("batch_size", "num_heads", "num_key_value_heads")
        )
        for found, rule in ((full, DENSE), (cut, Window(tokens=int(window)))):
            if phase == "generation":
                context = rows["step"][mine] + 1
                seconds = ops.decode_attention_s(
                    "bf16", batch, context, heads, kv_heads, int(dim), rule
                )
            else:
                seconds = ops.prefill_attention_s(
                    "bf16", batch, rows["isl"][mine], 0.0, heads, kv_heads, int(dim), rule
                )
            found[mine] = seconds * 1e3
    return full, cut


def score_windows(rows: Columns) -> dict[str, dict[str, float]]:
    """Error of the speed-up by system and phase, and in all: median, 90th percentile, share
    within 10 %, all in percent."""
    full, cut = predicted_pairs(rows)
    off = full / cut / (rows["full_ms"] / rows["swa_ms"]) - 1.0
    groups = np.asarray([f"{s} {p}" for s, p in zip(rows["system"], rows["phase"], strict=True)])
    found = {"all": _errors(off)}
    for group in np.unique(groups):
        found[str(group)] = _errors(off[groups == group])
    return found


def _errors(off: FloatArray) -> dict[str, float]:
    return {
        "rows": float(len(off)),
        "median_pct": float(np.median(np.abs(off)) * 100),
        "p90_pct": float(np.quantile(np.abs(off), 0.9) * 100),
        "bias_pct": float(np.median(off) * 100),
        "within_10_pct": float(np.mean(np.abs(off) <= 0.1) * 100),
    }


def held_out_rows(rows: Columns) -> Columns:
    """The pairs whose (batch, heads, kv heads) no table fitted with ``--leave-out`` has seen."""
    names = ("batch_size", "num_heads", "num_key_value_heads")
    return where(rows, held_out(np.stack([rows[n] for n in names], axis=1)))


def main() -> None:
    """Write the scores of one file of pairs as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("--tables", type=Path, help="a folder fitted with --leave-out")
    arguments = parser.parse_args()
    rows = read_columns(arguments.pairs)
    if arguments.tables:
        tables.read_from(arguments.tables)
        rows = held_out_rows(rows)
    sys.stdout.write(json.dumps(score_windows(rows), indent=1) + "\n")


if __name__ == "__main__":
    main()
