"""How far a prediction may lie off: 90 % conformal bands by engine and chip."""

from __future__ import annotations

from typing import Literal

from weftline.serve.calibrate.names import family_of, model_name
from weftline.serve.calibrate.shipped import (
    new_format_factor,
    points_families,
    shipped,
    width_of,
)
from weftline.serve.engine.config import ServingConfig

__all__ = ["band"]


def band(
    config: ServingConfig, metric: Literal["ttft", "tpot", "throughput"]
) -> tuple[float, float, str]:
    """Low and high ratio to the prediction, and what they rest on.

    What is planned is measured by no harness and carries no correction, so the band is that of rows
    of harnesses left out whole; it is wider for a number format that no row of the chip was in.
    """
    import numpy as np

    data = shipped()
    wide = width_of(metric, config.engine, config.chip_name, case="harness")
    together = f"{config.engine}|{config.chip_name}" in data.get("measured_together", ())
    if together and not _format_known(config):
        wide *= new_format_factor()
    count = int(data.get("rows", 0))
    what = f"90 % of harnesses left out of the fit, {count} measured points"
    if not together:
        what = f"no row of {config.engine} on {config.chip_name} was fitted: {what}, 2 x at least"
    elif not _format_known(config):
        what = f"no row of {config.chip_name} was in {config.gemm_dtype}: {what}, widened"
    if family_of(model_name(config.model)) not in points_families():
        what = f"model never measured: {what}"
    return float(np.exp(-wide)), float(np.exp(wide)), what


def _format_known(config: ServingConfig) -> bool:
    """Whether any fitted row of the chip multiplies in the configuration's format."""
    known = shipped().get("formats", ())
    names = {config.gemm_dtype, f"{config.gemm_dtype}_block"}
    return not known or any(f"{config.chip_name}|{name}" in known for name in names)
