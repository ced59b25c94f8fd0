"""How far a prediction may lie off: 90 % conformal bands by engine and chip."""

from __future__ import annotations

from typing import Literal

from weftline.serve.calibrate.names import family_of, model_name
from weftline.serve.calibrate.shipped import points_families, shipped, width_of
from weftline.serve.engine.config import ServingConfig

__all__ = ["band"]


def band(
    config: ServingConfig, metric: Literal["ttft", "tpot", "throughput"]
) -> tuple[float, float, str]:
    """Low and high ratio to the prediction, and what they rest on.

    The shipped surfaces carry no correction for single models, so the band is the one of models
    never measured; the basis says whether this one was.
    """
    import numpy as np

    wide = width_of(metric, config.engine, config.chip_name, case="harness")
    count = int(shipped().get("rows", 0))
    family = family_of(model_name(config.model))
    what = (
        f"90 % of models left out of the fit, {count} measured points"
        if family in points_families()
        else f"model never measured: 90 % of models left out, {count} measured points"
    )
    return float(np.exp(-wide)), float(np.exp(wide)), what
