"""Why a chip cannot serve a model at all: no engine, no unit, or how many chips it lacks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from weftline.catalog import Accelerator
from weftline.errors import WeftlineError
from weftline.serve.engine.config import ServingConfig
from weftline.spec import ServeSpace
from weftline.units import format_bytes

__all__ = ["lacking", "short_of"]


def lacking(chip: Accelerator, space: ServeSpace) -> str:
    """Why no engine of ``space`` takes a chip in any of its number formats."""
    from weftline.serve.engine.engines import PROFILES, runs_format, serves_policy

    runs = [p.name for p in PROFILES.values() if chip.stack in p.vendors]
    if not runs:
        return f"no engine: none here runs on chips of {chip.stack}"
    named = [name for name in runs if not space.engines or name in space.engines]
    if not named:
        return f"no engine: {', '.join(space.engines)} not on it, {', '.join(runs)} would be"
    if not any(serves_policy(name, space.policy) for name in named):
        return f"no engine: {', '.join(named)} cannot serve the policy {space.policy}"
    formats = ", ".join(space.formats)
    known = sorted({f for name in named for f in PROFILES[name].formats if runs_format(chip, f)})
    if not known:
        return "no dense peak of any number format is published"
    return f"no unit for {formats}: {', '.join(known)} would run (--precision)"


def short_of(
    model: str, chip: Accelerator, ways: Sequence[tuple[str, str]],
    layouts: Sequence[Mapping[str, int]], kv: str,
) -> str:  # fmt: skip
    """How many chips more a replica would need, in the number format that takes the least.

    The largest replica of ``layouts`` is what there is; weights alone are counted against what
    drivers, sampler and working memory leave on a chip.
    """
    from weftline.serve.engine.memory import room_for_weights
    from weftline.serve.engine.parts import setting_of, weight_bytes

    one = np.ones(1)
    widest = max(d["tp"] * d["pp"] * d["dp"] for d in layouts)
    found: list[tuple[float, float, str]] = []
    said = ""
    for engine, weights in ways:
        try:
            config = ServingConfig(
                model=model, chip=chip.id, engine=engine, gemm_dtype=weights, kv_dtype=kv, tp=2
            )
            setting = setting_of(model, chip.id, weights, config.moe_format, kv)
        except WeftlineError as error:
            said = said or error.what
            continue
        whole = float(weight_bytes(setting, one, one, one, one)[0])
        room = room_for_weights(setting, config)
        if room > 0:
            found.append((whole / room, whole, weights))
    if not found:
        return said or "does not fit: nothing is left of a chip for weights"
    needed, whole, weights = min(found)
    taken = f"weights in {weights} take {format_bytes(whole)}"
    more = math.ceil(needed) - widest
    if more <= 0:
        return f"does not fit: no room for a cache beside the weights on {widest:,} ({taken})"
    plural = "" if more == 1 else "s"
    return f"does not fit: needs {more:,} chip{plural} more than a replica's {widest:,} ({taken})"
