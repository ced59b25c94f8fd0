"""Fit the constants of collectives on measured rows; leave machines out whole to learn the error.

``python -m weftline.fabric.fit`` writes ``data/collective_calibration.json`` anew from the rows
beside it. Least squares of log(predicted / measured), robust (soft L1 from 10 %), every constant
pulled towards its starting value; of a machine with n rows each counts 1 / sqrt(n) in the sum of
squares, so that no single table rules the fit.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from weftline.errors import InputError
from weftline.fabric.calibration import Calibration, Constants, calibration, size_band
from weftline.fabric.score import (
    LeftCollective,
    MeasuredCollective,
    read_collectives,
    score_collectives,
)

HERE: Final = Path(__file__).parent / "data"
PULL: Final = {"host_s": 0.5, "neuron_call_s": 0.5, "ramp": 0.5, "ramp_power": 0.5,
               "one_node_latency": 1.0, "serial": 1.0, "many_nodes_latency": 1.0}  # fmt: skip
SHARE_PULL: Final = 2.0
"""Inverse spread of the log of a share around its starting value."""
SLOW: Final = 0.1
BAND_DEFAULT: Final = {"below 1 MiB": 2.0, "1 MiB and up": 1.5,
                       "neuron, below 1 MiB": 10.0, "neuron, 1 MiB and up": 5.0}  # fmt: skip


def fit_constants(rows: Sequence[MeasuredCollective]) -> Constants:
    """Constants that fit these rows; raises InputError where none is measured."""
    from scipy.optimize import least_squares

    known = [r for r in rows if r.measured_s]
    if not known:
        raise InputError("no measured rows to fit on")
    start = Constants().to_dict()
    names = list(start)
    pull = np.array([PULL.get(n, SHARE_PULL) for n in names])
    counts = Counter(r.machine.group for r in known)
    weight = np.array([counts[r.machine.group] ** -0.25 for r in known])
    measured = np.log([r.measured_s or 1.0 for r in known])

    def residuals(z: np.ndarray[Any, np.dtype[np.float64]]) -> Any:
        values = _constants(names, start, z)
        said = np.log([r.predicted_s(values) for r in known])
        return np.concatenate([weight * (said - measured), pull * z])

    found = least_squares(residuals, np.zeros(len(names)), loss="soft_l1", f_scale=SLOW)
    return _constants(names, start, found.x)


def _constants(names: Sequence[str], start: dict[str, float], z: Any) -> Constants:
    return Constants(**{n: start[n] * math.exp(float(v)) for n, v in zip(names, z, strict=True)})


def fit_left_out(rows: Sequence[MeasuredCollective]) -> dict[str, Constants]:
    """For each machine (chip and network), the constants fitted on all the others' rows."""
    groups = sorted({left_out_key(r) for r in rows})
    return {g: fit_constants([r for r in rows if left_out_key(r) != g]) for g in groups}


def left_out_key(row: MeasuredCollective) -> str:
    """What is left out whole with a row: its machine; where no chip is named (Neuron), its run."""
    return row.system if row.machine.kind == "neuron" else row.machine.group


def left_out_calibrations(rows: Sequence[MeasuredCollective]) -> dict[str, Calibration]:
    """For each machine, constants fitted on the others, and the bands the others' errors give.

    The others' errors are theirs when they were left out in turn. Raises InputError where there is
    only one machine.
    """
    if len({left_out_key(r) for r in rows}) < 2:
        raise InputError(
            "all measured rows are of one machine: none can be left out",
            hint="without --held-out the shipped calibration predicts them",
        )
    fitted = fit_left_out(rows)
    return {
        key: Calibration(
            constants=constants,
            band=bands([r for r in rows if left_out_key(r) != key], fitted),
            record={},
        )
        for key, constants in fitted.items()
    }


def score_left_out(
    known: Sequence[MeasuredCollective], left: Sequence[LeftCollective]
) -> dict[str, Any]:
    """The score of rows whose machines the fit has not seen; rows without a measurement too."""
    measured = [r for r in known if r.measured_s]
    fitted = left_out_calibrations(measured)
    shipped = calibration()
    return score_collectives(
        known, left, fitted=lambda r: fitted.get(left_out_key(r), shipped),
        how=f"fitted on this file's rows of the other {len(fitted) - 1} machines, each left out "
            "whole in turn",
    )  # fmt: skip


def bands(rows: Sequence[MeasuredCollective], fitted: dict[str, Constants]) -> dict[str, float]:
    """Of each size band the ratio within which 90 % of rows of machines left out lie."""
    found = dict(BAND_DEFAULT)
    for name in BAND_DEFAULT:
        off = [
            abs(math.log(r.predicted_s(fitted[left_out_key(r)]) / r.measured_s))
            for r in rows
            if r.measured_s and size_band(r.size_bytes, r.machine) == name
        ]  # fmt: skip
        if len(off) >= 10:
            found[name] = float(math.exp(np.quantile(off, 0.9)))
    return found


def main() -> None:
    """Fit on all shipped rows and write the file."""
    rows, left = read_collectives(HERE / "collectives_measured.csv")
    known = [r for r in rows if r.measured_s]
    fitted = fit_left_out(known)
    off = {
        band: sorted(
            abs(100 * (r.predicted_s(fitted[left_out_key(r)]) / r.measured_s - 1))
            for r in known if r.measured_s and size_band(r.size_bytes) == band
        )
        for band in ("below 1 MiB", "1 MiB and up")
    }  # fmt: skip
    record = {
        "about": "Constants of collective times, fitted on data/collectives_measured.csv",
        "written_by": "python -m weftline.fabric.fit",
        "rows": len(known),
        "rows_left_aside": len(left),
        "fitted_on": dict(sorted(Counter(left_out_key(r) for r in known).items())),
        "choices_made_with_rows_in_view": (
            "the form of the ramp, which latency of EFA to take where AWS states two, that one "
            "repository's tables are timed from the host, and all starting values"
        ),
        "constants": {k: float(f"{v:.5g}") for k, v in fit_constants(known).to_dict().items()},
        "band_90": {k: float(f"{v:.4g}") for k, v in bands(known, fitted).items()},
        "left_out_median_error_pct": {
            b: float(f"{np.median(e):.3g}") for b, e in off.items()
        },
    }  # fmt: skip
    text = json.dumps(record, indent=2) + "\n"
    (HERE / "collective_calibration.json").write_text(text, "utf-8")


if __name__ == "__main__":
    main()
