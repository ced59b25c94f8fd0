"""The shipped calibration: constants, the measured points' corrections, and how wide intervals are.

``data/calibration.json`` holds the constants, ``data/calibration.npz`` the points they were fitted
on as the residual processes see them (:mod:`weftline.serve.calibrate.make` made both).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from weftline.learn import Features, Kernel
from weftline.operators import chip_of
from weftline.serve.calibrate.constants import (
    Traits,
    constants_of,
    from_json,
    fuses,
    profiled_of,
    start_of,
)
from weftline.serve.calibrate.residual import SHAPE, label_code
from weftline.serve.engine.closed_form import Constants
from weftline.serve.engine.config import ServingConfig
from weftline.serve.engine.engines import is_old

__all__ = [
    "Points", "constants_for", "constants_for_all", "factors", "points", "shipped",
    "shipped_vector", "traits_for",
    "width_of",
]  # fmt: skip

FloatArray = npt.NDArray[np.float64]

FILE: Final = Path(__file__).parents[1] / "data" / "calibration.json"
SAME: Final = 1e-3
"""Two rows whose times agree to this are one measurement: some files round to 0.01 ms."""
UNCALIBRATED_WIDTH: Final = 0.7
"""|ln| half width where no measured point speaks for an engine and chip: a factor two."""


@cache
def shipped() -> dict[str, Any]:
    """The calibration file as parsed; empty where none is shipped."""
    if not FILE.exists():
        return {}
    found: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return found


@cache
def shipped_vector() -> FloatArray:
    """The shipped constants as the fit sees them, or their physical starts."""
    raw = shipped().get("constants")
    return from_json(raw) if raw else start_of()


def factors() -> dict[str, tuple[float, float]]:
    """ln factors on decoding and prefill of chips that other chips' kernels or a prior price."""
    return {c: (f[0], f[1]) for c, f in shipped().get("chip_factors", {}).items()}


@cache
def factor_of(chip: str) -> tuple[float, float]:
    """The factors of a chip: its own, or those of its maker's chips that read the same tables."""
    known = factors()
    if chip in known:
        return known[chip]
    own = chip_of(chip)
    kin = [
        f for name, f in known.items()
        if own.like is not None and own.like != chip and chip_of(name).like == own.like
        and chip_of(name).vendor == own.vendor
    ]  # fmt: skip
    if not kin:
        return (0.0, 0.0)
    return float(np.mean([f[0] for f in kin])), float(np.mean([f[1] for f in kin]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Points:
    """The measured points of one kind behind the corrections."""

    rows: Features
    kernel: Kernel
    weights: FloatArray
    measured: FloatArray
    left_out: FloatArray
    """ln correction of each point from the others alone."""
    families: npt.NDArray[np.int64]

    def find(self, family: str, value: float | None, chip_engine: str) -> list[int]:
        """Points that may be this measurement, in whatever file it stands."""
        if value is None or not len(self.measured):
            return []
        same = np.abs(self.measured / value - 1.0) < SAME
        same &= self.families == label_code("family", f"{family}|{chip_engine}")
        return [int(i) for i in np.flatnonzero(same)]

    def correction(self, features: Features) -> FloatArray:
        """ln(measured / closed form) expected of each row."""
        if not len(self.weights):
            return np.zeros(len(features))
        out: FloatArray = self.kernel.covariance(SHAPE, features, self.rows) @ self.weights
        return out


@cache
def points(kind: str) -> Points:
    """The shipped points of one kind of measurement."""
    raw = np.load(FILE.with_suffix(".npz"), allow_pickle=False)
    return Points(
        rows=Features(labels=raw[f"{kind}_labels"],
                      numbers=raw[f"{kind}_numbers"].astype(np.float64)),
        kernel=Kernel.from_json(SHAPE, shipped()["kernels"][kind]),
        weights=raw[f"{kind}_weights"], measured=raw[f"{kind}_measured"],
        left_out=raw[f"{kind}_left_out"], families=raw[f"{kind}_families"],
    )  # fmt: skip


def points_families() -> frozenset[str]:
    """Model families that measured points speak for."""
    return frozenset(shipped().get("families", ()))


def width_of(what: str, engine: str, chip: str, *, case: str) -> float:
    """Half width of the 90 % interval of ln(value): from the most particular group measured.

    ``case`` is what the points that are nearest were when widths were measured: ``seen`` (rows left
    out one at a time), ``run`` (whole runs of model, chip and engine) or ``harness`` (all of one
    harness). An engine and chip never measured together get at least a factor two.
    """
    table: dict[str, float] = shipped().get("intervals", {}).get(f"{what}.{case}", {})
    known = f"{engine}|{chip}" in shipped().get("measured_together", ())
    for name in (f"{engine}|{chip}", engine, "all"):
        if name in table:
            return max(float(table[name]), 0.0 if known else UNCALIBRATED_WIDTH)
    return UNCALIBRATED_WIDTH


def new_format_factor() -> float:
    """How much wider an interval is for a number format that no row of the chip was in."""
    return float(shipped().get("intervals", {}).get("new_format", 1.0))


def traits_for(configs: Sequence[ServingConfig]) -> Traits:
    """What decides the constants of configurations of one chip."""
    chip, n = configs[0].chip_name, len(configs)
    return Traits.of(
        engine=[c.engine for c in configs], chip=[chip] * n,
        apart=[c.prefill is not None for c in configs],
        early=[is_old(c.engine, c.engine_version) for c in configs],
        drafted=[c.spec_tokens if c.spec_method != "none" else 0 for c in configs],
        captured=[False] * n, triton=[False] * n,
        fused=[fuses(chip, c.prefill.dp if c.prefill else c.dp) for c in configs],
        slower=np.tile(factor_of(chip), (n, 1)),
    )  # fmt: skip


@lru_cache(maxsize=1024)
def constants_for(config: ServingConfig) -> Constants:
    """The engine model's constants for one configuration."""
    return constants_for_all([config])


def constants_for_all(configs: Sequence[ServingConfig]) -> Constants:
    """The same for many configurations of one chip (and one of their prefill pools)."""
    found = constants_of(vector_for(configs[0].chip_name), traits_for(configs))
    if configs[0].prefill_chip == configs[0].chip:
        return found
    there = [replace(c, chip=c.prefill_chip) for c in configs]
    ahead = constants_of(vector_for(there[0].chip_name), traits_for(there))
    return replace(found, prefill_parts=ahead.prefill_parts)


PROFILED: Final = ("rtx-4090", "rtx-pro-6000")
"""Chips whose tables are an engine's own layers, timed: nothing is scaled."""


@cache
def vector_for(chip: str) -> FloatArray:
    """The constants a chip is priced with."""
    return profiled_of() if chip in PROFILED else shipped_vector()
