"""Fit the constants of collectives on measured rows; leave systems out whole to learn the error.

``python -m weftline.fabric.predictor.fit`` writes ``data/collective_calibration.json`` anew from
the rows beside it. Least squares of log(predicted / measured), robust (soft L1 from 10 %), every
constant pulled towards its starting value, which a maker or a library states; of a system with n
rows each counts 1 / sqrt(n) in the sum of squares, so that no single table rules the fit, and a
row whose printed digits leave more than 5 % open counts less.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from weftline.errors import InputError
from weftline.fabric.predictor.constants import PULL, SHARE_PULL, Constants
from weftline.fabric.predictor.predict import Calibration, calibration, size_band, times_s
from weftline.fabric.predictor.score import (
    LeftCollective,
    MeasuredCollective,
    read_collectives,
    score_collectives,
)

HERE: Final = Path(__file__).parents[1] / "data"
SLOW: Final = 0.1
LEAST_SYSTEMS: Final = 4
"""Systems of a class of levels and sizes below which all classes' rows make its band."""
OPEN: Final = 0.05
"""Share left open by printed digits from which a row counts less."""
Array = np.ndarray[Any, np.dtype[np.float64]]


class _Table:
    """Rows sorted by what the model asks of them, so that it is asked once a kind of row."""

    def __init__(self, rows: Sequence[MeasuredCollective]) -> None:
        groups: dict[tuple[Any, ...], list[int]] = defaultdict(list)
        for i, row in enumerate(rows):
            groups[row.machine, row.collective, row.algorithm, row.harness].append(i)
        self.groups = [(key, np.array(members)) for key, members in groups.items()]
        self.size = np.array([row.size_bytes for row in rows])

    def seconds(self, constants: Constants) -> Array:
        """[rows] what the model says."""
        out = np.empty(len(self.size))
        for (machine, collective, algorithm, harness), members in self.groups:
            out[members] = times_s(
                constants, machine, collective, self.size[members], algorithm=algorithm,
                harness=harness,
            )  # fmt: skip
        return out


def fit_constants(rows: Sequence[MeasuredCollective]) -> Constants:
    """Constants that fit these rows; raises InputError where none is measured."""
    from scipy.optimize import least_squares

    known = [r for r in rows if r.measured_s]
    if not known:
        raise InputError("no measured rows to fit on")
    start = Constants().to_dict()
    names = list(start)
    pull = np.array([PULL.get(n, SHARE_PULL) for n in names])
    counts = Counter(left_out_key(r) for r in known)
    weight = np.array([
        counts[left_out_key(r)] ** -0.25 / math.hypot(1.0, r.rounding / OPEN) for r in known
    ])  # fmt: skip
    measured = np.log([r.measured_s or 1.0 for r in known])
    table = _Table(known)

    def residuals(z: Array) -> Any:
        said = np.log(table.seconds(_constants(names, start, z)))
        return np.concatenate([weight * (said - measured), pull * z])

    found = least_squares(
        residuals, np.zeros(len(names)), loss="soft_l1", f_scale=SLOW, max_nfev=60, xtol=1e-6,
        ftol=1e-6,
    )  # fmt: skip
    return _constants(names, start, found.x)


def _constants(names: Sequence[str], start: dict[str, float], z: Any) -> Constants:
    return Constants(**{n: start[n] * math.exp(float(v)) for n, v in zip(names, z, strict=True)})


def left_out_key(row: MeasuredCollective) -> str:
    """The system that is left out whole with a row: chip and network, as one source ran them;
    where no chip is named (Neuron, GPUs without a name), the run."""
    if row.machine.kind == "neuron" or "names no chip" in row.machine.assumed:
        return row.system
    return f"{row.machine.group}, {row.source}"


def fit_left_out(rows: Sequence[MeasuredCollective]) -> dict[str, Constants]:
    """For each system, the constants fitted on all the others' rows."""
    groups = sorted({left_out_key(r) for r in rows})
    return {g: fit_constants([r for r in rows if left_out_key(r) != g]) for g in groups}


def left_out_calibrations(rows: Sequence[MeasuredCollective]) -> dict[str, Calibration]:
    """For each system, constants fitted on the others, and the bands the others' errors give.

    The others' errors are theirs when they were left out in turn. Raises InputError where there is
    only one system.
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
        )
        for key, constants in fitted.items()
    }


def score_left_out(
    known: Sequence[MeasuredCollective], left: Sequence[LeftCollective]
) -> dict[str, Any]:
    """The score of rows whose systems the fit has not seen; rows without a measurement too."""
    measured = [r for r in known if r.measured_s]
    fitted = left_out_calibrations(measured)
    shipped = calibration()
    return score_collectives(
        known, left, fitted=lambda r: fitted.get(left_out_key(r), shipped),
        how=f"fitted on this file's rows of the other {len(fitted) - 1} machines, each left out "
            "whole in turn",
    )  # fmt: skip


def left_out_ratios(
    rows: Sequence[MeasuredCollective], fitted: Mapping[str, Constants] | Constants
) -> list[float]:
    """[rows] log of measured over predicted, each predicted by the fit that has not seen it."""
    out = [0.0] * len(rows)
    members: dict[str, list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        members[left_out_key(row)].append(i)
    for key, indices in members.items():
        constants = fitted if isinstance(fitted, Constants) else fitted[key]
        said = _Table([rows[i] for i in indices]).seconds(constants)
        for i, seconds in zip(indices, said.tolist(), strict=True):
            out[i] = math.log((rows[i].measured_s or 1.0) / seconds)
    return out


def bands(
    rows: Sequence[MeasuredCollective], fitted: Mapping[str, Constants]
) -> dict[str, tuple[float, float]]:
    """Of each class of levels and sizes the ratio within which 90 % of a further system's rows lie.

    Conformal over whole systems: half a system more than there are, with the mean number of rows,
    counts as farther off than all (the errors are of fits that lacked one system already).
    Classes of few systems take the band of all rows of their sizes but the Neuron runtime's, whose
    versions differ by a factor of 50.
    """
    ratios = left_out_ratios(rows, fitted)
    found: dict[str, tuple[float, float]] = {}
    for band in ("below 1 MiB", "1 MiB and up"):
        here = [i for i, r in enumerate(rows) if size_band(r.size_bytes) == band]
        for name in ("one domain", "several domains", "torus", "neuron"):
            own = [i for i in here if rows[i].machine.level_class == name]
            if len({left_out_key(rows[i]) for i in own}) < LEAST_SYSTEMS:
                own = [i for i in here if name == "neuron" or rows[i].machine.kind != "neuron"]
            systems = len({left_out_key(rows[i]) for i in own})
            ratio = math.exp(_conformal(np.abs([ratios[i] for i in own]), systems))
            found[f"{name}, {band}"] = (1 / ratio, ratio)
    return found


def _conformal(off: Array, systems: int) -> float:
    """The 90 % quantile of ``off`` with half a system more at infinity; log 2 of nothing."""
    if not systems:
        return math.log(2.0)
    share = 0.9 * (systems + 0.5) / systems
    return float(np.quantile(off, min(share, 1.0)))


def main() -> None:
    """Fit on all shipped rows and write the file."""
    rows, left = read_collectives(HERE / "collectives_measured.csv")
    known = [r for r in rows if r.measured_s]
    fitted = fit_left_out(known)
    off: dict[str, list[float]] = defaultdict(list)
    for row, ratio in zip(known, left_out_ratios(known, fitted), strict=True):
        off[size_band(row.size_bytes)].append(abs(100 * (math.exp(-ratio) - 1)))
    record = {
        "about": "Constants of collective times, fitted on data/collectives_measured.csv",
        "written_by": "python -m weftline.fabric.predictor.fit",
        "basis": f"calibrated n={len(known)}",
        "rows": len(known),
        "rows_left_aside": len(left),
        "fitted_on": dict(sorted(Counter(left_out_key(r) for r in known).items())),
        "choices_made_with_rows_in_view": (
            "the form of the pipeline's filling, which latency of EFA to take where AWS states "
            "two, that one repository's tables are timed from the host, that Neuron's runtimes "
            "are old where their text says so, that a line of a TPU slice reaches less than a "
            "closed axis, and all starting values"
        ),
        "constants": {k: float(f"{v:.5g}") for k, v in fit_constants(known).to_dict().items()},
        "band_90": {k: [float(f"{v:.4g}") for v in pair]
                    for k, pair in bands(known, fitted).items()},
        "left_out_median_error_pct": {b: float(f"{np.median(e):.3g}") for b, e in off.items()},
        "left_out_p90_error_pct": {b: float(f"{np.quantile(e, 0.9):.3g}") for b, e in off.items()},
    }  # fmt: skip
    text = json.dumps(record, indent=2) + "\n"
    (HERE / "collective_calibration.json").write_text(text, "utf-8")


if __name__ == "__main__":
    main()
