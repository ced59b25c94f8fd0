"""Make the shipped calibration: ``python -m weftline.serve.calibrate.make OUT.json ROWS.csv...``.

Writes the constants with their errors on rows left out (``OUT.json``) and the points behind the
corrections (``OUT.npz``). Takes a quarter of an hour: every run and every harness is left out once.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from weftline.learn import conformal_quantile
from weftline.serve.calibrate.constants import start_of, to_json
from weftline.serve.calibrate.fit import (
    Fitted,
    answer_rows,
    compile_rows,
    fit_all,
    of_kind,
    traits_of,
    with_rates,
    within_limits,
)
from weftline.serve.calibrate.heldout import LEVEL, errors_of, held_out, widths, widths_left_out
from weftline.serve.calibrate.pool import (
    KINDS,
    LEFT_OUT_VERSIONS,
    ODD_HARNESSES,
    by_times,
    is_left_out,
    measured,
    unique_rows,
)
from weftline.serve.calibrate.residual import SHAPE, label_code
from weftline.serve.calibrate.row import Row
from weftline.serve.calibrate.rows import read_rows
from weftline.serve.engine.closed_form import Compiled

FloatArray = npt.NDArray[np.float64]
ROUNDS: Final = 30
"""Evaluations of the fit at most: constants that few rows speak for take many to settle."""
AS_OF: Final = "2026-12-01"
NAMES: Final = {"tpot": "tpot", "ttft": "ttft", "rate": "throughput"}


def make(out: str, paths: Sequence[str]) -> None:
    """Fit the rows of ``paths`` and write ``out`` (.json) and its points (.npz)."""
    rows = unique_rows([r for path in paths for r in read_rows(path)[0]])
    rows = within_limits(rows, start_of())
    compiled = compile_rows(rows)
    fitted = fit_all(rows, compiled, rounds=ROUNDS)
    kernels = {k: p.kernel for k, p in fitted.processes.items()}
    keep = [i for i, r in enumerate(rows) if not is_left_out(r)]
    own = [rows[i] for i in keep]
    found = {"seen": (own, _seen(fitted, own, compiled.take(np.array(keep))))}
    for by in ("run", "harness"):
        found[by] = (rows, held_out(rows, compiled, by, start=fitted.vector, kernels=kernels))
    data: dict[str, Any] = {
        "format": "weftline-serving-calibration/2",
        "as_of": AS_OF,
        "source": "measured serving points: aiconfigurator-core 0.12.0 (Apache-2.0) and published "
        "tables, every row with its source; made by `python -m weftline.serve.calibrate.make`",
        "rows": len(own),
        "left_out_versions": list(LEFT_OUT_VERSIONS),
        "constants": to_json(fitted.vector),
        "chip_factors": {c: list(f) for c, f in fitted.factors.items()},
        "kernels": {k: kernel.to_json(SHAPE) for k, kernel in kernels.items()},
        "families": sorted(fitted.families),
        "runs": sorted({r.run for r in own}),
        "harnesses": sorted({r.harness for r in own}),
        "formats": sorted({f"{r.chip}|{r.gemm_dtype}" for r in own}),
        "measured_together": sorted({f"{r.engine}|{r.chip}" for r in own}),
        "intervals": {"level": LEVEL},
        "errors": {},
    }  # fmt: skip
    for case, (group, values) in found.items():
        _write_errors(data, case, group, values)
    data["intervals"]["new_format"] = _new_format(*found["run"])
    Path(out).write_text(json.dumps(data, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    np.savez_compressed(Path(out).with_suffix(".npz"), **_arrays(fitted, own))


def _seen(fitted: Fitted, rows: Sequence[Row], compiled: Compiled) -> dict[str, FloatArray]:
    """Rows by kind, each without itself in the corrections."""
    answer = answer_rows(compiled, traits_of(rows, fitted.factors), fitted.vector)
    found = {k: of_kind(answer, k) for k in KINDS}
    for kind, process in fitted.processes.items():
        shift = np.zeros(len(rows))
        shift[_has(rows, kind)] = process.left_out()[0]
        found[kind] = found[kind] * np.exp(shift)
    return with_rates(rows, found)


def _has(rows: Sequence[Row], kind: str) -> npt.NDArray[np.bool_]:
    """Rows behind the process of a kind."""
    has = np.isfinite(measured(rows, kind))
    return has & ~np.array([by_times(r) for r in rows]) if kind == "rate" else has


def _write_errors(
    data: dict[str, Any], case: str, rows: Sequence[Row], found: Mapping[str, FloatArray]
) -> None:
    """Widths, medians and how often the widths of other groups held."""
    for kind, errors in errors_of(rows, found).items():
        name, known = f"{NAMES[kind]}.{case}", np.isfinite(errors)
        data["intervals"][name] = widths(rows, errors)
        middle = np.expm1(np.log(found[kind] / measured(rows, kind)))[known]
        entry = {"rows": int(known.sum()),
                 "median_pct": round(100 * float(np.median(np.abs(middle))), 2),
                 "bias_pct": round(100 * float(np.median(middle)), 2)}  # fmt: skip
        if case != "seen":
            wide = widths_left_out(rows, errors, case)
            both = known & np.isfinite(wide)
            held = errors[both] <= wide[both]
            entry["held_pct"] = round(100 * float(np.mean(held)), 1)
        data["errors"][name] = entry


def _new_format(rows: Sequence[Row], found: Mapping[str, FloatArray]) -> float:
    """The bound of rows whose run was the only one of its chip in a number format, over all's."""
    errors = errors_of(rows, found)["tpot"]
    # What is odd for its server or version says nothing of a format.
    odd = [r.harness in ODD_HARNESSES or is_left_out(r) for r in rows]
    errors = np.where(odd, np.nan, errors)
    by_format: dict[str, set[str]] = {}
    for r in rows:
        by_format.setdefault(f"{r.chip}|{r.gemm_dtype}", set()).add(r.run)
    alone = np.array([len(by_format[f"{r.chip}|{r.gemm_dtype}"]) == 1 for r in rows])
    known = np.isfinite(errors)
    some = errors[alone & known]
    if len(some) < 20:
        return 1.5
    ratio = conformal_quantile(list(some), LEVEL) / conformal_quantile(list(errors[known]), LEVEL)
    return round(max(1.0, float(ratio)), 3)


def _arrays(fitted: Fitted, rows: Sequence[Row]) -> dict[str, Any]:
    """The points of every process as arrays."""
    out: dict[str, Any] = {}
    for kind, process in fitted.processes.items():
        own = [r for r, has in zip(rows, _has(rows, kind), strict=True) if has]
        out |= {
            f"{kind}_labels": process.rows.labels,
            f"{kind}_numbers": process.rows.numbers.astype(np.float32),
            f"{kind}_weights": process.weights, f"{kind}_left_out": process.left_out()[0],
            f"{kind}_measured": measured(own, kind),
            f"{kind}_families": np.array([
                label_code("family", f"{r.family}|{r.chip}|{r.engine}") for r in own
            ]),
        }  # fmt: skip
    return out


if __name__ == "__main__":
    if len(sys.argv) < 3:
        raise SystemExit("usage: python -m weftline.serve.calibrate.make OUT.json ROWS.csv...")
    make(sys.argv[1], sys.argv[2:])
