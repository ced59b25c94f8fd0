"""Serving predictions against measurements: per row, by group, honest about what the fit has seen.

Rows that stand in the shipped calibration are predicted with themselves left out of the residual
processes. ``score_held_out`` goes further: constants and processes are fitted again without whole
runs, harnesses, models, chips or random parts of the file, copies of a measurement included.
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
    of_kind,
    traits_of,
    with_rates,
    within_limits,
)
from weftline.serve.calibrate.harness import HARNESSES
from weftline.serve.calibrate.heldout import errors_of as spread_of
from weftline.serve.calibrate.heldout import held_out, widths_left_out
from weftline.serve.calibrate.pool import KINDS, by_times, implausible
from weftline.serve.calibrate.residual import features_of
from weftline.serve.calibrate.row import Row, Unanswered
from weftline.serve.calibrate.shipped import (
    factors,
    new_format_factor,
    points,
    shipped,
    shipped_vector,
    width_of,
)

__all__ = ["BY", "METRICS", "Prediction", "predict_rows", "score_held_out", "score_rows"]

FloatArray = npt.NDArray[np.float64]

METRICS: Final = ("ttft", "tpot", "throughput")
BY: Final = ("run", "harness", "model", "chip", "random")
_KIND: Final = {"ttft": "ttft", "tpot": "tpot", "throughput": "rate"}
NEW: Final = "model never measured: no correction of its own, wider interval"
_WORDS: Final = {
    "run": "whole runs (model, chip and engine together)", "harness": "whole harnesses",
    "model": "whole model families (sibling names together)", "chip": "whole chips",
}  # fmt: skip
LEAST_ROWS: Final = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """Predictions of rows, [n] each: seconds, seconds, output tokens a second and chip."""

    values: dict[str, FloatArray]
    widths: dict[str, FloatArray]
    """ln half widths of the 90 % intervals."""
    known: npt.NDArray[np.bool_]
    """Whether the row's model is in the calibration."""
    seen: npt.NDArray[np.bool_]
    """Whether the row itself is (it was then left out to predict it)."""


def predict_rows(rows: Sequence[Row]) -> Prediction:
    """Rows predicted with the shipped calibration, each without itself."""
    rows = within_limits(rows, shipped_vector())
    answer = answer_rows(compile_rows(rows), traits_of(rows, factors()), shipped_vector())
    features = features_of(rows, answer)
    families = frozenset(shipped().get("families", ()))
    known = np.array([r.family in families for r in rows])
    found: dict[str, FloatArray] = {}
    seen = np.zeros(len(rows), dtype=bool)
    spots = _spots(rows)
    for kind in KINDS:
        stored = points(kind)
        shift = stored.correction(features)
        for i, at in enumerate(spots[kind]):
            if at >= 0:
                shift[i] = stored.left_out[at]
                seen[i] = True
        found[kind] = of_kind(answer, kind) * np.exp(shift)
    found = with_rates(rows, found)
    wide = {m: np.array([_width(m, r, bool(s)) for r, s in zip(rows, seen, strict=True)])
            for m in METRICS}  # fmt: skip
    return Prediction(values={m: found[_KIND[m]] for m in METRICS}, widths=wide, known=known,
                      seen=seen)  # fmt: skip


def _spots(rows: Sequence[Row]) -> dict[str, list[int]]:
    """Where each row stands among the shipped points of each kind; -1 where it does not."""
    out: dict[str, list[int]] = {kind: [] for kind in KINDS}
    stored = {kind: points(kind) for kind in KINDS}
    for r in rows:
        place = f"{r.chip}|{r.engine}"
        late = stored["tpot"].find(r.family, r.tpot_s, place)
        first = stored["ttft"].find(r.family, r.ttft_s, place)
        # The points of both times are of the same rows, in the same order.
        both = sorted(set(late) & set(first))
        out["tpot"].append(both[0] if both else -1)
        out["ttft"].append(both[0] if both else -1)
        rate = [] if by_times(r) else stored["rate"].find(r.family, r.output_tokens_per_s, place)
        out["rate"].append(rate[0] if rate else -1)
    return out


def _width(metric: str, row: Row, seen: bool) -> float:
    """Half width of one row's interval: by what the calibration knows of its like."""
    data = shipped()
    case = "run" if row.harness in data.get("harnesses", ()) else "harness"
    wide = width_of(metric, row.engine, row.chip, case="seen" if seen else case)
    if not seen and row.run not in data.get("runs", ()):
        wide = max(wide, width_of(metric, row.engine, row.chip, case="run"))
    if not seen and f"{row.chip}|{row.gemm_dtype}" not in data.get("formats", ()):
        wide *= new_format_factor()
    return wide


def score_rows(rows: Sequence[Row], left: Sequence[Unanswered]) -> dict[str, Any]:
    """The score as ``--json`` prints it, with the shipped calibration."""
    if not rows:
        return _summed([], left, "no row states its configuration")
    found = predict_rows(rows)
    how = (
        f"{int(found.seen.sum())} of {len(rows)} rows are in the calibration, each predicted "
        f"with itself left out; {int((~found.known).sum())} are of models never measured"
    )
    return _summed(_scored(rows, found), left, how)


def score_held_out(
    rows: Sequence[Row], left: Sequence[Unanswered], *, by: str = "run", seed: int = 0
) -> dict[str, Any]:
    """The score with everything fitted again on other rows; ``by`` is one of ``BY``.

    Intervals are as wide as the errors of the other groups say. Raises InputError where the file
    has too few rows to leave some out.
    """
    if by not in BY:
        raise InputError(f"cannot leave out by `{by}`", hint=", ".join(BY), where="--by")
    own = [r for r in rows if by_times(r) or r.output_tokens_per_s is not None]
    if len(own) < LEAST_ROWS:
        raise InputError(f"{len(own)} measured rows are too few to leave some out",
                         hint=f"{LEAST_ROWS} at least")  # fmt: skip
    own = within_limits(own, shipped_vector())
    kernels = {kind: points(kind).kernel for kind in KINDS}
    found = held_out(own, compile_rows(own), by, start=shipped_vector(), kernels=kernels,
                     seed=seed)  # fmt: skip
    done = np.flatnonzero(np.isfinite(found["tpot"]))
    errors = spread_of(own, found)
    wide = {m: widths_left_out(own, errors[_KIND[m]], by)[done] for m in METRICS}
    some = [own[i] for i in done]
    prediction = Prediction(
        values={m: found[_KIND[m]][done] for m in METRICS}, widths=wide,
        known=np.full(len(some), by != "model"), seen=np.zeros(len(some), dtype=bool),
    )  # fmt: skip
    words = _WORDS.get(by, f"five random parts, seed {seed}")
    how = (
        f"constants and corrections fitted again without {words}; intervals from the errors of the "
        "other groups"
    )
    return _summed(_scored(some, prediction), left, how)


def _scored(rows: Sequence[Row], found: Prediction) -> list[dict[str, Any]]:
    out = []
    for i, r in enumerate(rows):
        own = bool(found.known[i])
        title = HARNESSES[r.harness].title if r.harness in HARNESSES else r.harness
        entry: dict[str, Any] = {
            "id": r.id, "model": r.model, "chip": r.chip, "engine": r.engine,
            "version": r.version, "mode": r.mode, "harness": title, "known_model": own,
            "in_calibration": bool(found.seen[i]),
        }  # fmt: skip
        measured = {"ttft": r.ttft_s, "tpot": r.tpot_s, "throughput": r.output_tokens_per_s}
        for what in METRICS:
            value, spread = float(found.values[what][i]), float(np.exp(found.widths[what][i]))
            entry[what] = _one(what, value, spread, measured[what])
        if r.derived:
            entry["throughput"]["derived"] = True
        notes = [said for said in ("" if own else NEW, implausible(r)) if said]
        if notes:
            entry["note"] = "; ".join(notes)
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
    for key in ("chip", "engine", "model", "mode", "harness"):
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
