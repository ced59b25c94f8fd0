"""The most of a chip's peak that any shipped run has measured, by chip and precision.

Run ``python -m weftline.plan.calibrate.best_measured`` after rows change: it writes
``plan/data/best_measured.json``, which plans are held against.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable
from pathlib import Path

from weftline.model import Model
from weftline.plan.calibrate.row import Row
from weftline.plan.calibrate.rows import read_rows

__all__ = ["best_measured", "causal_flops_per_token", "measured"]

_DATA = Path(__file__).parents[1] / "data"
_FILE = _DATA / "best_measured.json"
_ROWS = ("published_runs.csv", "vtrain_single.csv", "vtrain_multi.csv")


def causal_flops_per_token(model: Model, seq_len: int) -> float:
    """FLOP a token of a step that are needed: attention's causal half, nothing twice."""
    return 3 * model.forward_flops_per_token(seq_len)


def measured(rows: Iterable[Row]) -> dict[str, dict[str, tuple[float, str]]]:
    """(share of the bf16 peak, id of the run) of the best run by chip, then by precision.

    Runs of adapters are left out: what their step computes is not what a full one does.
    """
    best: dict[str, dict[str, tuple[float, str]]] = {}
    for row in rows:
        if row.measured_s is None or row.frame.adapter_rank:
            continue
        lay = row.layout
        tokens = float((lay.dp * lay.micro_batch * lay.num_micro_batches)[0]) * row.seq_len
        flops = causal_flops_per_token(row.model, row.seq_len) * tokens
        peak = row.cluster.peak_flops["bf16"] * row.cluster.chips
        share = round(flops / row.measured_s / peak, 4)
        own = best.setdefault(row.accelerator, {})
        own[row.precision] = max(own.get(row.precision, (0.0, "")), (share, row.id))
    return {chip: dict(sorted(own.items())) for chip, own in sorted(best.items())}


@functools.cache
def _kept() -> dict[str, dict[str, list[float | str]]]:
    found: dict[str, dict[str, list[float | str]]] = json.loads(_FILE.read_text(encoding="utf-8"))
    return found


def best_measured(accelerator: str, precision: str) -> tuple[float, str] | None:
    """The best share of a chip's bf16 peak measured in a precision, and the run; None without."""
    found = _kept().get(accelerator, {}).get(precision)
    return None if found is None else (float(found[0]), str(found[1]))


if __name__ == "__main__":
    found = measured(row for name in _ROWS for row in read_rows(_DATA / name)[0])
    _FILE.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
