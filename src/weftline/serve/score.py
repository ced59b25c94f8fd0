"""Serving predictions against measurements: per row, by group, honest about what the fit has seen.

Rows that stand in the shipped calibration are predicted with themselves left out of the residual
processes. ``score_held_out`` goes further: constants and processes are fitted again without whole
models, chips or random parts of the file, copies of a measurement included.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from weftline.errors import InputError
from weftline.serve.calibrate.fit import (
    answer_rows,
    compile_rows,
    held_out,
    throughput_of,
    traits_of,
)
from weftline.serve.calibrate.published import (
    bare,
    is_published,
    left_out_scalars,
    predict_published,
)
from weftline.serve.calibrate.residual import ELSEWHERE, features_of
from weftline.serve.calibrate.row import Row, Unanswered
from weftline.serve.calibrate.shipped import points, shipped_vector, width_of
from weftline.serve.engine.closed_form import Compiled

__all__ = ["METRICS", "Prediction", "predict_rows", "score_held_out", "score_rows"]

FloatArray = npt.NDArray[np.float64]

METRICS: Final = ("ttft", "tpot", "throughput")
NEW: Final = "model never measured: no correction, wider interval"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """Predictions of rows, [n] each: seconds, seconds, output tokens a second and chip."""

    values: dict[str, FloatArray]
    known: npt.NDArray[np.bool_]
    """Whether the row's model is in the calibration."""
    seen: npt.NDArray[np.bool_]
    """Whether the row itself is (it was then left out to predict it)."""


def predict_rows(rows: Sequence[Row], compiled: Compiled | None = None) -> Prediction:
    """Rows predicted with the shipped calibration, each without itself."""
    compiled = compiled if compiled is not None else compile_rows(rows)
    answer = answer_rows(compiled, traits_of(rows), shipped_vector())
    stored, features = points(), features_of(rows, answer)
    known = np.array([r.family in stored.families for r in rows])
    spots = np.array([stored.find(r.family, r.ttft_s, r.tpot_s) for r in rows])
    seen = spots >= 0
    found: dict[str, FloatArray] = {}
    for what, base in (("ttft", answer.ttft_s), ("tpot", answer.tpot_s)):
        shift = np.where(known, stored.correction(what, features), 0.0)
        if what == "ttft":
            shift *= np.where([r.chip in stored.chips for r in rows], 1.0, ELSEWHERE)
        shift = np.where(seen, stored.left_out[what][spots], shift)
        found[what] = base * np.exp(shift)
    found["throughput"] = throughput_of(rows, found["ttft"], found["tpot"])
    return Prediction(values=found, known=known, seen=seen)


def score_rows(rows: Sequence[Row], left: Sequence[Unanswered]) -> dict[str, Any]:
    """The score as ``--json`` prints it, with the shipped calibration."""
    if not rows:
        return _summed([], left, "no row states its configuration")
    if any(is_published(r) for r in rows):
        return _summed(_scored_published(rows, left_out=False), left, (
            "the closed form with one shipped factor a metric for each set, scenario and chip"
        ))  # fmt: skip
    found = predict_rows(rows)
    how = (
        f"{int(found.seen.sum())} of {len(rows)} rows are in the calibration, each predicted "
        f"with itself left out; {int((~found.known).sum())} are of models never measured"
    )
    return _summed(_scored(rows, found), left, how)


def score_held_out(
    rows: Sequence[Row], left: Sequence[Unanswered], *, by: str = "model", seed: int = 0
) -> dict[str, Any]:
    """The score with everything fitted again on other rows; ``by``: model, chip or random."""
    if by not in ("model", "chip", "random"):
        raise InputError(f"cannot leave out by `{by}`", hint="model, chip or random", where="--by")
    if any(is_published(r) for r in rows):
        return _summed(_scored_published(rows, left_out=True), left, (
            "each row left out of the factor of its set, scenario and chip; constants are those "
            "of the silicon rows"
        ))  # fmt: skip
    known = [r for r in rows if r.ttft_s is not None and r.tpot_s is not None]
    if len(known) < 40:
        raise InputError(f"{len(known)} measured rows are too few to leave some out")
    compiled = compile_rows(known)
    stored = points()
    kernels = (stored.kernels["tpot"], stored.kernels["ttft"])
    first, late = held_out(known, compiled, by, start=shipped_vector(), kernels=kernels, seed=seed)
    done = np.flatnonzero(np.isfinite(first))
    own = [known[i] for i in done]
    values = {"ttft": first[done], "tpot": late[done]}
    values["throughput"] = throughput_of(own, first[done], late[done])
    # A chip left out is priced as a chip never measured: with the wider interval.
    seen = np.full(len(own), by == "random")
    found = Prediction(
        values=values, known=np.full(len(own), by != "model"), seen=np.zeros(len(own), dtype=bool)
    )
    words = {"model": "whole model families (sibling names together)", "chip": "whole chips",
             "random": f"five random parts, seed {seed}"}  # fmt: skip
    how = f"constants and corrections fitted again without {words[by]}"
    return _summed(_scored(own, found, narrow=seen), left, how)


def _scored_published(rows: Sequence[Row], *, left_out: bool) -> list[dict[str, Any]]:
    found, wide, known = predict_published(rows)
    if left_out:
        found = left_out_scalars(rows, bare(rows))
    out = []
    for i, r in enumerate(rows):
        entry: dict[str, Any] = {
            "id": r.id, "model": r.model, "chip": r.chip, "engine": r.engine,
            "version": r.version, "mode": r.harness, "known_model": bool(known[i]),
            "in_calibration": bool(known[i]),
        }  # fmt: skip
        measured = {"ttft": r.ttft_s, "tpot": r.tpot_s, "throughput": r.output_tokens_per_s}
        for what in METRICS:
            entry[what] = _one(what, float(found[what][i]), float(np.exp(wide[what][i])),
                               measured[what])  # fmt: skip
        if not known[i]:
            entry["note"] = "no factor for this set and chip: wider interval"
        out.append(entry)
    return out


def _scored(
    rows: Sequence[Row], found: Prediction, *, narrow: npt.NDArray[np.bool_] | None = None
) -> list[dict[str, Any]]:
    narrow = found.known if narrow is None else narrow
    out = []
    for i, r in enumerate(rows):
        own = bool(found.known[i])
        entry: dict[str, Any] = {
            "id": r.id, "model": r.model, "chip": r.chip, "engine": r.engine,
            "version": r.version, "mode": r.mode, "known_model": own,
            "in_calibration": bool(found.seen[i]),
        }  # fmt: skip
        measured = {"ttft": r.ttft_s, "tpot": r.tpot_s, "throughput": r.output_tokens_per_s}
        for what in METRICS:
            value = float(found.values[what][i])
            spread = float(np.exp(width_of(what, r.engine, r.chip, seen=bool(narrow[i]))))
            entry[what] = _one(what, value, spread, measured[what])
        if r.derived:
            entry["throughput"]["derived"] = True
        if not own:
            entry["note"] = NEW
        out.append(entry)
    return out


def _one(what: str, value: float, spread: float, measured: float | None) -> dict[str, Any]:
    unit = "tokens_per_s_per_chip" if what == "throughput" else "s"
    low, high = value / spread, value * spread
    entry: dict[str, Any] = {
        f"predicted_{unit}": value, f"low_{unit}": low, f"high_{unit}": high,
        f"measured_{unit}": measured,
    }  # fmt: skip
    known = measured is not None and math.isfinite(value)
    entry["error_pct"] = 100 * (value / measured - 1) if known and measured else None
    entry["interval_hit"] = bool(low <= measured <= high) if known and measured else None
    # What is not a number is no answer, and no JSON either.
    return {k: v if not isinstance(v, float) or math.isfinite(v) else None
            for k, v in entry.items()}  # fmt: skip


def errors_of(rows: Sequence[dict[str, Any]], what: str) -> dict[str, Any]:
    """Mean, median and bias of one metric's errors in per cent, and how often intervals held."""
    known = [r[what] for r in rows if r.get(what) and r[what]["error_pct"] is not None]
    if not known:
        return {"rows": 0, "mape_pct": None, "median_pct": None, "bias_pct": None,
                "interval_coverage_pct": None}  # fmt: skip
    errors = np.array([k["error_pct"] for k in known])
    return {
        "rows": len(known),
        "mape_pct": round(float(np.mean(np.abs(errors))), 3),
        "median_pct": round(float(np.median(np.abs(errors))), 3),
        "bias_pct": round(float(np.median(errors)), 3),
        "interval_coverage_pct": round(100 * float(np.mean([k["interval_hit"] for k in known])), 2),
    }


def _summed(rows: list[dict[str, Any]], left: Sequence[Unanswered], how: str) -> dict[str, Any]:
    stated = len(rows) + sum(u.stated for u in left)
    # Rounded down: 100 means that every one of them is.
    answered = math.floor(1e4 * len(rows) / stated) / 100 if stated else None
    groups = []
    for key in ("chip", "engine", "model", "mode"):
        for name in sorted({r[key] for r in rows}):
            own = [r for r in rows if r[key] == name]
            groups.append({"by": key, "name": name, "rows": len(own),
                           **{m: errors_of(own, m) for m in METRICS}})  # fmt: skip
    missing = [
        {"id": u.id, "model": u.model, "chip": u.chip, "engine": u.engine, "predicted": False,
         "configuration_stated": u.stated, "where": u.where,
         "reason": f"unanswered: {u.reason}"}
        for u in left
    ]  # fmt: skip
    return {
        "summary": {
            "rows": len(rows) + len(left), "predicted": len(rows),
            "stating_their_configuration": stated,
            "answered_of_stated_pct": answered,
            **{m: errors_of(rows, m) for m in METRICS},
        },
        "how": how, "groups": groups, "rows": rows + missing,
    }  # fmt: skip
