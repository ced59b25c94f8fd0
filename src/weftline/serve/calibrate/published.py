"""Scalars of published sets: one a metric for each set, scenario and chip, and how far they hold.

Published rows come from engines and tunings that no other row speaks for (NeuronX, JetStream,
MLPerf's submissions), so each (set, scenario, chip) gets one factor a metric: the median of
measured over predicted. First-token times of NeuronX follow the sizes its prompts are compiled
for, so they get three scalars a chip instead: a factor, and powers of the tokens prefilled
together and of long prompts (:func:`shape_of`).
``python -m weftline.serve.calibrate.published ROWS.csv OUT.json`` fits them and writes them
beside what was fitted for single chips.
"""

from __future__ import annotations

import json
import re
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from weftline.learn import conformal_quantile
from weftline.serve.calibrate.fit import answer_rows, compile_rows, traits_of
from weftline.serve.calibrate.row import Row
from weftline.serve.calibrate.rows import read_rows
from weftline.serve.calibrate.shipped import UNCALIBRATED_WIDTH, chip_scalars, shipped_vector
from weftline.serve.engine.closed_form import Compiled

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


def is_shaped(row: Row) -> bool:
    """Whether a row's first-token time has scalars of its chip in place of a factor."""
    return row.engine == "neuron"


def shape_of(rows: Sequence[Row]) -> FloatArray:
    """[n, 3] what a chip's scalars multiply to ln(measured / predicted) of a first-token time.

    One; ln of the tokens prefilled together, in units of 1,024; and ln of a prompt's tokens beyond
    1,024 under releases before 2.18.1, whose long prompts take up to seven times as long.
    """
    tokens = np.array([r.input_tokens for r in rows])
    together = np.array([r.concurrency for r in rows]) * tokens
    slow = np.array([_release(r) < _FLASH for r in rows])
    long = np.where(slow, np.log(np.maximum(tokens / UNIT_TOKENS, 1.0)), 0.0)
    return np.stack([np.ones(len(rows)), np.log(together / UNIT_TOKENS), long], axis=1)


UNIT_TOKENS: Final = 1024.0
_FLASH: Final = (2, 18, 1)
_RIDGE: Final = 0.02
_SOFT: Final = 0.1
"""Errors of ln(time) below this count squared, above linearly."""


def _release(row: Row) -> tuple[int, ...]:
    found = re.search(r"(\d+(?:\.\d+)+)", row.version)
    return tuple(int(n) for n in found[1].split(".")) if found else _FLASH


def fit_shape(rows: Sequence[Row], gaps: FloatArray) -> FloatArray:
    """The three scalars of one chip from ln(measured / predicted) of its rows; robust."""
    features = shape_of(rows)
    held = _RIDGE * np.diag([0.0, 1.0, 1.0])
    weight: FloatArray = np.ones(len(rows))
    found: FloatArray = np.zeros(features.shape[1])
    for _ in range(20):
        left = features.T @ (weight[:, None] * features) + held
        found = np.asarray(np.linalg.solve(left, features.T @ (weight * gaps)), np.float64)
        weight = 1.0 / np.maximum(np.abs(gaps - features @ found), _SOFT)
    return np.asarray(found)


def _shaped_by_chip(rows: Sequence[Row]) -> dict[str, npt.NDArray[np.int64]]:
    chips = sorted({r.chip for r in rows if is_shaped(r) and r.ttft_s is not None})
    return {
        c: np.array([i for i, r in enumerate(rows) if is_shaped(r) and r.chip == c and r.ttft_s])
        for c in chips
    }


def fit_shapes(rows: Sequence[Row], found: dict[str, FloatArray]) -> dict[str, Any]:
    """Scalars of first-token time and their 90 % half width, by chip."""
    gaps = _gaps(rows, found)["ttft"]
    out: dict[str, Any] = {}
    for chip, index in _shaped_by_chip(rows).items():
        own = [rows[i] for i in index]
        scalars = fit_shape(own, gaps[index])
        left = np.abs(gaps[index] - _left_out_shape(own, gaps[index]))
        out[chip] = {
            "rows": len(index), "scalars": [round(float(s), 4) for s in scalars],
            "ln_half_width": round(conformal_quantile(list(left), 0.9), 4),
        }  # fmt: skip
    return out


def _left_out_shape(rows: Sequence[Row], gaps: FloatArray) -> FloatArray:
    """What scalars fitted without a row, and without rows of its shape, say of it."""
    shapes = [(r.model, r.input_tokens, r.concurrency) for r in rows]
    features = shape_of(rows)
    out = np.zeros(len(rows))
    for i, shape in enumerate(shapes):
        others = np.array([j for j, s in enumerate(shapes) if s != shape])
        out[i] = features[i] @ fit_shape([rows[j] for j in others], gaps[others])
    return out


def chip_factors(rows: Sequence[Row], found: dict[str, FloatArray]) -> dict[str, Any]:
    """ln factors on decoding and prefill of chips that only the prior of systolic arrays times.

    Medians of measured over predicted times; where a chip's rows state rates alone, their inverse.
    Configurations that are planned on such a chip are priced with them.
    """
    from weftline.operators import operators

    gaps = _gaps(rows, found)
    out: dict[str, Any] = {}
    for chip in sorted({r.chip for r in rows}):
        if operators(chip).chip.like:
            continue  # its kernels were measured
        own = np.array([i for i, r in enumerate(rows) if r.chip == chip])
        times = {m: gaps[m][own][np.isfinite(gaps[m][own])] for m in METRICS}
        rate = -float(np.median(times["throughput"])) if len(times["throughput"]) else 0.0
        late = float(np.median(times["tpot"])) if len(times["tpot"]) else rate
        first = float(np.median(times["ttft"])) if len(times["ttft"]) else late
        out[chip] = {"rows": len(own), "ln_decode": round(late, 4), "ln_prefill": round(first, 4)}
    return out


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
    for index in _shaped_by_chip(rows).values():
        shift = _left_out_shape([rows[i] for i in index], gaps["ttft"][index])
        out["ttft"][index] = found["ttft"][index] * np.exp(shift)
    return out


def predict_published(
    rows: Sequence[Row], compiled: Compiled | None = None
) -> tuple[dict[str, FloatArray], dict[str, FloatArray], npt.NDArray[np.bool_]]:
    """Predictions, ln half widths and whether the group has factors of its own."""
    found = bare(rows, compiled)
    table = chip_scalars().get("published", {})
    shapes = chip_scalars().get("first_token_shapes", {})
    known = np.array([group_of(r) in table for r in rows])
    wide: dict[str, FloatArray] = {}
    for m in METRICS:
        entries = [table.get(group_of(r), {}).get(m, {}) for r in rows]
        found[m] = found[m] * np.exp([e.get("ln_factor", 0.0) for e in entries])
        wide[m] = np.array([e.get("ln_half_width", UNCALIBRATED_WIDTH) for e in entries])
    along = shape_of(rows)
    for i, r in enumerate(rows):
        if is_shaped(r) and r.chip in shapes:
            own, factor = shapes[r.chip], table.get(group_of(r), {}).get("ttft", {})
            shift = float(along[i] @ np.array(own["scalars"])) - factor.get("ln_factor", 0.0)
            found["ttft"][i] *= np.exp(shift)
            wide["ttft"][i] = own["ln_half_width"]
    return found, wide, known


def make(path: str, out: str) -> None:
    """Fit the factors on the rows of ``path`` and write them into the JSON file ``out``."""
    rows = [r for r in read_rows(path)[0] if is_published(r)]
    found = bare(rows)
    file = Path(out)
    data: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    data["published"] = fit_scalars(rows, found)
    data["first_token_shapes"] = fit_shapes(rows, found)
    data["chip_factors"] = chip_factors(rows, found)
    data["published_note"] = (
        "ln factors a metric for each set, scenario and chip: medians of measured over predicted; "
        "made by `python -m weftline.serve.calibrate.published ROWS.csv OUT.json`"
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
        raise SystemExit("usage: python -m weftline.serve.calibrate.published ROWS.csv OUT.json")
    make(sys.argv[1], sys.argv[2])
