"""A user's own runs joined with the shipped ones: few rows move little, near ones move most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from weftline.errors import InputError
from weftline.plan.calibrate.calibration import (
    PUBLISHED,
    calibrated,
    fit_pools,
    pool_of,
    pool_text,
    shipped_rows,
    user_file,
)
from weftline.plan.calibrate.row import Row, Unpredicted
from weftline.plan.calibrate.rows import read_rows
from weftline.plan.calibrate.score import score_rows, summary_of
from weftline.spec.serialize import write_text

FEW_ROWS = 4
"""Below this a group's constants rest mostly on other chips and frameworks."""
CONTRADICTION = 0.3
"""Runs of one configuration that differ by more than this cannot both be right."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibrated:
    """What a calibration did, errors in per cent over the user's rows."""

    rows: int
    unpredicted: tuple[Unpredicted, ...]
    groups: dict[str, int]
    before_mape_pct: float
    after_mape_pct: float
    """Each row predicted with itself left out of the residual process."""
    warnings: tuple[str, ...]
    files: tuple[str, ...]


def calibrate_from(path: Path) -> Calibrated:
    """Fit the shipped rows and those of ``path`` together, into the user's own folder.

    Raises InputError(s): unreadable rows, no measured time, rows that contradict each other.
    Nothing is written then.
    """
    rows, left = read_rows(path)
    known = [row for row in rows if row.measured_s is not None]
    if not known:
        raise InputError(
            "no row states a measured step time", where=str(path),
            hint="fill iter_time_s, or tokens_per_s_per_accel with gbs and seq_len",
        )  # fmt: skip
    _refuse_contradictions(known, path)
    before = _mape(known)
    pools = {pool_of(row) for row in known}
    # A shipped run that the user gives again must not count twice.
    own = {(row.id, row.group, row.measured_s) for row in known}
    shipped = [r for r in shipped_rows() if (r.id, r.group, r.measured_s) not in own]
    fitted = fit_pools([r for r in [*shipped, *known] if pool_of(r) in pools])
    files = []
    for pool, content in fitted.items():
        target = user_file(pool)
        target.parent.mkdir(parents=True, exist_ok=True)
        write_text(pool_text(content), target)
        files.append(str(target))
    calibrated.cache_clear()
    groups: dict[str, int] = {}
    for row in known:
        groups[row.group] = groups.get(row.group, 0) + 1
    return Calibrated(
        rows=len(known),
        unpredicted=tuple(left),
        groups=groups,
        before_mape_pct=before,
        after_mape_pct=_mape(known),
        warnings=tuple(_few(groups, [row.group for row in shipped_rows()])),
        files=tuple(files),
    )


def forget_calibration() -> tuple[str, ...]:
    """Remove the user's own calibration; the shipped one is in force again. Returns the files."""
    gone = []
    for file in sorted(user_file(PUBLISHED).parent.glob("calibration_*.json")):
        file.unlink()
        gone.append(str(file))
    calibrated.cache_clear()
    return tuple(gone)


def _mape(rows: Sequence[Row]) -> float:
    summary = summary_of(score_rows(rows, ()).rows, len(rows))
    return float(summary["mape_pct"] or 0.0)


def _few(groups: dict[str, int], shipped: Sequence[str]) -> list[str]:
    said = []
    for group, own in sorted(groups.items()):
        count = own + shipped.count(group)
        if count < FEW_ROWS:
            said.append(
                f"{group} has {count} row{'s' if count > 1 else ''}, shipped ones included: its "
                "constants rest mostly on other chips and frameworks"
            )
    return said


def _refuse_contradictions(rows: Sequence[Row], path: Path) -> None:
    """Raise where two rows of the same configuration disagree beyond any repeat's spread."""
    from weftline.plan.calibrate.fit import row_features

    features = row_features(rows)
    keys = [
        (tuple(labels), tuple(np.round(numbers, 6)), row.cluster.accelerator)
        for labels, numbers, row in zip(features.labels, features.numbers, rows, strict=True)
    ]
    first: dict[object, Row] = {}
    for key, row in zip(keys, rows, strict=True):
        other = first.setdefault(key, row)
        gap = abs(np.log((row.measured_s or 1.0) / (other.measured_s or 1.0)))
        if gap > np.log1p(CONTRADICTION):
            raise InputError(
                f"rows {other.id} and {row.id} are one configuration and take "
                f"{other.measured_s:.4g} and {row.measured_s:.4g} s",
                where=str(path),
                hint="remove the wrong one, or tell them apart by `framework` with its version",
            )
