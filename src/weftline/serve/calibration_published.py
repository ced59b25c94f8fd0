"""Scalars of published sets: one a metric for each set, scenario and chip, and how far they hold.

Published rows come from engines and tunings that no other row speaks for (NeuronX, JetStream,
MLPerf's submissions), so each (set, scenario, chip) gets one factor a metric: the median of
measured over predicted. ``python -m weftline.serve.calibration_published ROWS.csv OUT.json`` fits
them and writes them beside what was fitted for single chips.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from weftline.learn import conformal_quantile
from weftline.serve.calibration import UNCALIBRATED_WIDTH, chip_scalars, shipped_vector
from weftline.serve.calibration_fit import answer_rows, compile_rows, traits_of
from weftline.serve.closed_form import Compiled
from weftline.serve.rows import Row, read_rows

__all__ = ["fit_scalars", "is_published", "left_out_scalars", "make", "predict_published"]

FloatArray = npt.NDArray[np.float64]

METRICS: Final = ("ttft", "tpot", "throughput")
_OWN_HARNESSES: Final = ("closed-loop", "fixed-length")


def is_published(row: Row) -> bool:
    """Whether a row is of a published set rather than of the silicon files."""
    return row.harness not in _OWN_HARNESSES


def group_of(row: Row) -> str:
    """What shares a factor: set, scenario and chip."""
    return f"{row.harness}|{row.chip}"


def bare(rows: Sequence[Row], compiled: Compiled | None = None) -> dict[str, FloatArray]:
    """What the closed form says without any factor."""
    compiled = compiled if compiled is not None else compile_rows(rows)
    answer = answer_rows(compiled, traits_of(rows), shipped_vector())
    return {"ttft": answer.ttft_s, "tpot": answer.tpot_s, "throughput": answer.output_tokens_per_s}


def _gaps(rows: Sequence[Row], found: dict[str, FloatArray]) -> dict[str, FloatArray]:
    measured = {
        "ttft": [r.ttft_s for r in rows], "tpot": [r.tpot_s for r in rows],
        "throughput": [r.output_tokens_per_s for r in rows],
    }  # fmt: skip
    return {
        m: np.log(np.array(v, dtype=np.float64) / found[m]) for m, v in measured.items()
    }  # None becomes nan


def fit_scalars(rows: Sequence[Row], found: dict[str, FloatArray]) -> dict[str, Any]:
    """ln factor, rows and 90 % half width of every group and metric."""
    gaps = _gaps(rows, found)
    members: dict[str, list[int]] = defaultdict(list)
    for i, r in enumerate(rows):
        members[group_of(r)].append(i)
    out: dict[str, Any] = {}
    for name, index in sorted(members.items()):
        entry: dict[str, Any] = {"rows": len(index)}
        for m in METRICS:
            own = gaps[m][index]
            own = own[np.isfinite(own)]
            if not len(own):
                continue
            middle = float(np.median(own))
            wide = conformal_quantile(list(np.abs(own - middle)), 0.9)
            entry[m] = {
                "ln_factor": round(middle, 4),
                "ln_half_width": round(min(wide, UNCALIBRATED_WIDTH), 4)
                if np.isfinite(wide) else UNCALIBRATED_WIDTH,
            }  # fmt: skip
        out[name] = entry
    return out


def left_out_scalars(rows: Sequence[Row], found: dict[str, FloatArray]) -> dict[str, FloatArray]:
    """Predictions with each row left out of its own group's factors (1 where it is alone)."""
    gaps = _gaps(rows, found)
    names = np.array([group_of(r) for r in rows])
    out: dict[str, FloatArray] = {}
    for m in METRICS:
        shift = np.zeros(len(rows))
        for i in range(len(rows)):
            others = gaps[m][(names == names[i]) & (np.arange(len(rows)) != i)]
            others = others[np.isfinite(others)]
            shift[i] = float(np.median(others)) if len(others) else 0.0
        out[m] = found[m] * np.exp(shift)
    return out


def predict_published(
    rows: Sequence[Row], compiled: Compiled | None = None
) -> tuple[dict[str, FloatArray], dict[str, FloatArray], npt.NDArray[np.bool_]]:
    """Predictions, ln half widths and whether the group has factors of its own."""
    found = bare(rows, compiled)
    table = chip_scalars().get("published", {})
    known = np.array([group_of(r) in table for r in rows])
    wide: dict[str, FloatArray] = {}
    for m in METRICS:
        entries = [table.get(group_of(r), {}).get(m, {}) for r in rows]
        found[m] = found[m] * np.exp([e.get("ln_factor", 0.0) for e in entries])
        wide[m] = np.array([e.get("ln_half_width", UNCALIBRATED_WIDTH) for e in entries])
    return found, wide, known


def make(path: str, out: str) -> None:
    """Fit the factors on the rows of ``path`` and write them into the JSON file ``out``."""
    rows = [r for r in read_rows(path)[0] if is_published(r)]
    found = bare(rows)
    file = Path(out)
    data: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    data["published"] = fit_scalars(rows, found)
    data["published_note"] = (
        "ln factors a metric for each set, scenario and chip: medians of measured over predicted; "
        "made by `python -m weftline.serve.calibration_published ROWS.csv OUT.json`"
    )
    gaps = _gaps(rows, left_out_scalars(rows, found))
    data["published_left_out_median_pct"] = {
        name: {
            m: round(100 * float(np.median(np.abs(np.expm1(-own)))), 2)
            for m in METRICS
            if len(own := gaps[m][index][np.isfinite(gaps[m][index])])
        }
        for name in sorted({group_of(r) for r in rows})
        for index in [[i for i, r in enumerate(rows) if group_of(r) == name]]
    }
    file.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit("usage: python -m weftline.serve.calibration_published ROWS.csv OUT.json")
    make(sys.argv[1], sys.argv[2])
