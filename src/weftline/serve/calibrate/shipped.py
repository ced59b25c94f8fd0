"""The shipped calibration: constants, the measured points' corrections, and how wide intervals are.

``data/calibration.json`` holds the constants, ``data/calibration.npz`` the points they were fitted
on as the residual processes see them (see :mod:`weftline.serve.calibrate.fit`, which made both).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from weftline.learn import Features, Kernel
from weftline.serve.calibrate.constants import (
    SLOTS,
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

__all__ = [
    "Points",
    "constants_for",
    "points",
    "shipped",
    "shipped_vector",
    "traits_for",
    "width_of",
]

FloatArray = npt.NDArray[np.float64]

FILE: Final = Path(__file__).parents[1] / "data" / "calibration.json"
SAME: Final = 1e-3
"""Two rows whose times agree to this are one measurement: some files round to 0.01 ms."""
MODEL_LABEL: Final = SHAPE.labels.index("model")
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Points:
    """The measured points behind the corrections."""

    ids: tuple[str, ...]
    rows: Features
    kernels: dict[str, Kernel]
    weights: dict[str, FloatArray]
    measured_s: dict[str, FloatArray]
    left_out: dict[str, FloatArray]
    families: frozenset[str]
    chips: frozenset[str]

    def find(self, family: str, ttft_s: float | None, tpot_s: float | None) -> int:
        """The point that is this measurement, in whatever file it stands; -1 if there is none."""
        if ttft_s is None or tpot_s is None:
            return -1
        same = np.abs(self.measured_s["ttft"] / ttft_s - 1.0) < SAME
        same &= np.abs(self.measured_s["tpot"] / tpot_s - 1.0) < SAME
        same &= self.rows.labels[:, MODEL_LABEL] == label_code("model", family)
        hits = np.flatnonzero(same)
        return int(hits[0]) if len(hits) else -1

    def correction(self, what: str, features: Features) -> FloatArray:
        """ln(measured / closed form) expected of each row; ``what`` is ``tpot`` or ``ttft``."""
        cross = self.kernels[what].covariance(SHAPE, features, self.rows)
        out: FloatArray = cross @ self.weights[what]
        return out


@cache
def points() -> Points:
    """The shipped points."""
    raw = np.load(FILE.with_suffix(".npz"), allow_pickle=False)
    names = ("tpot", "ttft")
    kernels = {n: Kernel.from_json(SHAPE, shipped()["kernels"][n]) for n in names}
    return Points(
        ids=tuple(str(i) for i in raw["ids"]),
        rows=Features(labels=raw["labels"], numbers=raw["numbers"].astype(np.float64)),
        kernels=kernels, weights={n: raw[f"{n}_weights"] for n in names},
        measured_s={n: raw[f"{n}_s"] for n in names},
        left_out={n: raw[f"{n}_left_out"] for n in names},
        families=frozenset(shipped()["families"]), chips=frozenset(shipped()["chips"]),
    )  # fmt: skip


def points_families() -> frozenset[str]:
    """Model families that measured points speak for."""
    return frozenset(shipped().get("families", ()))


def width_of(what: str, engine: str, chip: str, *, seen: bool) -> float:
    """Half width of the 90 % interval of ln(time): from the most particular group measured.

    ``seen``: the model is in the calibration. An engine and chip never measured together get the
    width of what was left out whole, whatever the model.
    """
    tables = shipped().get("intervals", {})
    own = f"{engine}|{chip}"
    table = tables.get(f"{what}.seen", {})
    if seen and own in table:
        return float(table[own])
    table = tables.get(f"{what}.unseen", {})
    for name in (own, engine):
        if name in table:
            return float(table[name])
    return max(float(table.get("all", UNCALIBRATED_WIDTH)), UNCALIBRATED_WIDTH)


def traits_for(config: ServingConfig) -> Traits:
    """What decides the constants of a configuration."""
    return Traits.of(
        engine=[config.engine], chip=[config.chip_name], apart=[config.prefill is not None],
        early=[False], drafted=[config.spec_tokens if config.spec_method != "none" else 0],
        captured=[False], triton=[False],
        fused=[fuses(config.chip_name, config.prefill.dp if config.prefill else config.dp)],
    )  # fmt: skip


def constants_for(config: ServingConfig) -> Constants:
    """The engine model's constants for one configuration."""
    found = constants_of(vector_for(config.chip_name), traits_for(config))
    own = chip_scalars().get("chip_factors", {}).get(config.chip_name)
    if own is None:
        return found
    return replace(
        found, parts=found.parts * np.exp(own["ln_decode"]),
        prefill_parts=found.prefill_parts * np.exp(own["ln_prefill"]),
    )  # fmt: skip


PROFILED: Final = ("rtx-4090", "rtx-pro-6000")
"""Chips whose tables are an engine's own layers, timed: nothing is scaled but what is said here."""


@cache
def vector_for(chip: str) -> FloatArray:
    """The constants a chip is priced with: the shipped ones, with what was fitted for it alone."""
    vector = (profiled_of() if chip in PROFILED else shipped_vector()).copy()
    own = chip_scalars().get("chips", {}).get(chip, {}).get("constants", {})
    for at, (name, _, _) in enumerate(SLOTS):
        if name in own:
            vector[at] = np.log(float(own[name]))
    return vector


@cache
def chip_scalars() -> dict[str, Any]:
    """What was fitted for single chips: ``data/calibration_chips.json``."""
    file = FILE.with_name("calibration_chips.json")
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return found
