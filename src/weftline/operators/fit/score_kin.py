"""Score tables carried from one chip to another: ``python -m ...score_kin KERNELS``.

Every chip with kernel tables is priced once from its own and once from each other chip's, as if it
had none, and compared with its measured rows.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from weftline.operators.chips import chip_of
from weftline.operators.fit.base import CHIPS, table_path
from weftline.operators.fit.monotone import errors_pct
from weftline.operators.fit.rows import Columns, read_columns, where
from weftline.operators.operators import Operators

_STRIDE = 7
"""Every how many rows are scored: enough for a median."""


def scores(kernels: Path) -> Iterator[dict[str, Any]]:
    """One entry for every (chip, chip whose tables are used, operator)."""
    for chip in CHIPS:
        rows = {
            name: where(found, np.arange(len(found["latency"])) % _STRIDE == 0)
            for name in ("gemm_perf", "generation_attention_perf", "context_attention_perf")
            if (path := table_path(kernels, chip, name)) and (found := read_columns(path))
        }
        for like in CHIPS:
            ops = Operators(replace(chip_of(chip), like=like))
            for name, mine in rows.items():
                seconds, measured = _predicted(ops, name, mine)
                yield {
                    "chip": chip,
                    "tables of": like,
                    "operator": name.removesuffix("_perf"),
                    **errors_pct(seconds, measured),
                }


def _predicted(ops: Operators, name: str, rows: Columns) -> tuple[Any, Any]:
    """Predicted and measured seconds of the bf16 rows (full attention, 128-wide heads)."""
    if name == "gemm_perf":
        mine = where(rows, (rows["gemm_dtype"] == "bfloat16") & (rows["m"] % 8 == 0))
        found = ops.gemm_s("bf16", mine["m"], mine["n"], mine["k"])
        return found, mine["latency"] * 1e-3
    whole = rows.get("window_size", np.zeros(len(rows["latency"]))) == 0
    chosen = whole & (rows["kv_cache_dtype"] == "bfloat16") & (rows["head_dim"] == 128)
    mine = where(rows, chosen)
    sizes = (mine["num_heads"], mine["num_key_value_heads"], 128)
    if name.startswith("generation"):
        found = ops.decode_attention_s("bf16", mine["batch_size"], mine["step"] + 1, *sizes)
    else:
        found = ops.prefill_attention_s("bf16", mine["batch_size"], mine["isl"], 0.0, *sizes)
    return found, mine["latency"] * 1e-3


def main() -> None:
    """Write the scores as JSON lines."""
    for entry in scores(Path(sys.argv[1])):
        sys.stdout.write(json.dumps(entry) + "\n")


if __name__ == "__main__":
    main()
