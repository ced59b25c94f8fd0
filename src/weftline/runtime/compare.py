"""What a plan predicted and what its run measured, part by part, and what explains the difference.

Measured parts of the step come from one profiled step of rank 0, scaled to the median step: the
operators' own time, and what the rank waited for in exchanges (a pipeline's bubble among it).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from weftline.errors import InputError
from weftline.runtime.record import StepRecord, read_steps
from weftline.runtime.train.recipe import Recipe, read_recipe
from weftline.spec import Plan

__all__ = ["Compared", "Row", "compare"]

_WARM: Final = 2
"""Steps at the start that connect, allocate and compile: not counted."""
_GROUPS: Final[Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    "matrix products": (("matrix products",), ("matrix products",)),
    "attention": (("attention",), ("attention",)),
    "norms, activations, loss": (
        ("norms and activations",), ("norms, activations and the rest", "loss"),
    ),
    "exchanges and bubble": ((), ("exchange, waited for",)),
    "optimizer": (("optimizer",), ("optimizer",)),
}  # fmt: skip
"""Row -> names of the plan's parts, names of the profile's; all other parts of a plan are
exchanges, bubbles and stragglers."""
_EXCHANGES: Final = "exchanges and bubble"
_LEARNT: Final = "what near measured runs add or save"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One quantity; a side that does not exist is None."""

    name: str
    unit: str
    predicted: float | None
    measured: float | None
    basis: str
    """What the measured side rests on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """A plan beside a run of it."""

    model: str
    layout: str
    steps: int
    """Steps that were counted."""
    same: bool
    """Whether the run is what the plan is about: its chips, its model, its layout."""
    other: str
    """What is different, where it is not."""
    rows: tuple[Row, ...]
    explains: str
    """The part that differs most."""


def compare(plan: Plan, run: Path) -> Compared:
    """The plan beside the run in that folder. Raises InputError: no run, too few steps."""
    recipe = read_recipe(run)
    records = read_steps(run)
    counted = [r for r in records if r.step > _WARM and r.step != recipe.profile_step]
    if not counted:
        raise InputError(
            f"{len(records)} steps are too few: the first {_WARM} do not count", where=str(run)
        )
    step_s = float(np.median([r.step_s - r.parts.get("checkpoint", 0.0) for r in counted]))
    rows = [
        _of_plan(plan, "step time", "step_time", "s", step_s, f"median of {len(counted)} steps"),
        *_parts(plan, run, step_s),
        *_beside(counted, step_s),
        _of_plan(plan, "tokens a second", "tokens_per_s", "1/s",
                 recipe.tokens_per_step / step_s, f"median of {len(counted)} steps"),
        _of_plan(plan, "MFU", "mfu", "1", float(np.median([r.mfu for r in counted])),
                 "of a square product's speed on these ranks"),
        _of_plan(plan, "memory a rank", "memory", "B",
                 max(r.memory_peak_bytes for r in records), "most that rank 0 has held"),
    ]  # fmt: skip
    other = _difference(plan, recipe)
    return Compared(
        model=recipe.model, layout=recipe.layout.short(), steps=len(counted), same=not other,
        other=other, rows=tuple(rows), explains=_explains(rows),
    )  # fmt: skip


def _of_plan(plan: Plan, name: str, key: str, unit: str, measured: float, basis: str) -> Row:
    estimate = plan.estimates.get(key)
    predicted = None if estimate is None else estimate.value
    return Row(name=name, unit=unit, predicted=predicted, measured=measured, basis=basis)


def _parts(plan: Plan, run: Path, step_s: float) -> list[Row]:
    """The step by part; measured ones only where a step was profiled."""
    named = {name for theirs, _ in _GROUPS.values() for name in theirs}
    own = {p.name: p.value for p in plan.step_parts}
    profile = _profile(run)
    scale = step_s / sum(profile.values()) if profile else 0.0
    rows = []
    basis = "parts are of one profiled step of rank 0, scaled to the median" if profile else ""
    for name, (theirs, ours) in _GROUPS.items():
        predicted = sum(own.get(part, 0.0) for part in theirs)
        if name == _EXCHANGES:
            predicted = sum(v for part, v in own.items() if part not in named | {_LEARNT})
        measured = sum(profile.get(part, 0.0) for part in ours) * scale if profile else None
        rows.append(Row(name=f"  {name}", unit="s", predicted=predicted, measured=measured,
                        basis=basis))  # fmt: skip
    if _LEARNT in own:
        rows.append(Row(name=f"  {_LEARNT}", unit="s", predicted=own[_LEARNT], measured=None,
                        basis=""))  # fmt: skip
    return rows


def _profile(run: Path) -> dict[str, float]:
    from weftline.runtime.train.profile import PROFILE_FILE

    try:
        found: Any = json.loads((run / PROFILE_FILE).read_text(encoding="utf-8"))
        return {str(k): float(v) for k, v in found["parts_s"].items()}
    except (OSError, ValueError, KeyError, AttributeError):
        return {}


def _beside(counted: Sequence[StepRecord], step_s: float) -> list[Row]:
    """What a plan's step leaves out: data, and what saves make a step wait, as a mean."""
    rows = []
    for name, part in (("  reading data", "data"), ("  waiting for saves", "checkpoint")):
        mean = float(np.mean([r.parts.get(part, 0.0) for r in counted]))
        rows.append(Row(name=name, unit="s", predicted=None, measured=mean,
                        basis=f"mean a step; {mean / step_s:.1%} of it"))  # fmt: skip
    return rows


def _difference(plan: Plan, recipe: Recipe) -> str:
    """Why the plan's numbers are not about this run; empty where they are."""
    if recipe.predicted_step_s is not None:
        return ""
    what = []
    if recipe.model != plan.job.model or recipe.parameters != plan.parameters:
        what.append(f"the model ({recipe.parameters:,} parameters, {plan.parameters:,} planned)")
    if recipe.layout != plan.layout:
        what.append(f"the layout ({recipe.layout.short()}, {plan.layout.short()} planned)")
    what.append(f"the chips ({recipe.device}, {plan.cluster.accelerator} planned)")
    return ", ".join(what)


def _explains(rows: Sequence[Row]) -> str:
    """The part of the step that differs most."""
    inner = [
        (abs(r.measured - r.predicted), r)
        for r in rows
        if r.name.startswith("  ") and r.measured is not None and r.predicted is not None
    ]
    if not inner:
        return ""
    gap, row = max(inner, key=lambda pair: pair[0])
    more = (row.measured or 0.0) > (row.predicted or 0.0)
    return f"{row.name.strip()}: {gap:.4g} s {'more' if more else 'less'} than predicted"
