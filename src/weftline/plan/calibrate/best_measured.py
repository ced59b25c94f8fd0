"""The most of a chip's peak any shipped run has measured, by chip, precision and kind of model.

Run ``python -m weftline.plan.calibrate.best_measured`` after rows change: it writes
``plan/data/best_measured.json``, which plans are held against.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from weftline.model import Model
from weftline.operators.products import family_of
from weftline.plan.calibrate.row import Row
from weftline.plan.calibrate.rows import read_rows

__all__ = ["Best", "best_measured", "causal_flops_per_token", "measured"]

_DATA = Path(__file__).parents[1] / "data"
_FILE = _DATA / "best_measured.json"
_ROWS = ("published_runs.csv", "vtrain_single.csv", "vtrain_multi.csv")


def causal_flops_per_token(model: Model, seq_len: int) -> float:
    """FLOP a token of a step that are needed: attention's causal half, nothing twice."""
    return 3 * model.forward_flops_per_token(seq_len)


@dataclass(frozen=True, slots=True)
class Best:
    """The best of some runs."""

    share: float
    """Of the chip's bf16 peak, attention's causal half counted."""
    run: str
    """Its id."""
    chip: str
    """The chip it ran on: the one asked for, or the best of its family where that has none."""


def _kind(precision: str, mixture: bool) -> str:
    return f"{precision} {'mixture' if mixture else 'dense'}"


def measured(rows: Iterable[Row]) -> dict[str, dict[str, tuple[float, str]]]:
    """(share of the bf16 peak, id of the run) of the best run by chip, then by precision and kind.

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
        kind = _kind(row.precision, row.model.is_moe)
        own[kind] = max(own.get(kind, (0.0, "")), (share, row.id))
    return {chip: dict(sorted(own.items())) for chip, own in sorted(best.items())}


@functools.cache
def _kept() -> dict[str, dict[str, list[float | str]]]:
    found: dict[str, dict[str, list[float | str]]] = json.loads(_FILE.read_text(encoding="utf-8"))
    return found


def best_measured(accelerator: str, precision: str, *, mixture: bool) -> Best | None:
    """The best dense or mixture run of a chip in a precision, else of its family; None without."""
    kind, kept = _kind(precision, mixture), _kept()
    family = family_of(accelerator)
    for chips in ((accelerator,), family.chips):
        found = [
            Best(float(share), str(run), chip)
            for chip in chips
            if kind in kept.get(chip, {})
            for share, run in (kept[chip][kind],)
        ]
        if found:
            return max(found, key=lambda best: best.share)
    return None


if __name__ == "__main__":
    found = measured(row for name in _ROWS for row in read_rows(_DATA / name)[0])
    _FILE.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
