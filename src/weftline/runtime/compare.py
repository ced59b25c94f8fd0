"""What a plan predicted and what its run measured, part by part, and what explains the difference.

Measured parts of the step come from one profiled step of rank 0, scaled to the median step: the
operators' own time, what the rank waited for in exchanges, and what it waited for its neighbours in
a pipeline.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from weftline.catalog.machines import HERE, machine, machines
from weftline.errors import InputError
from weftline.runtime.measure import forecast as parts_of
from weftline.runtime.measure.calibrate import key_of
from weftline.runtime.record import StepRecord, read_steps
from weftline.runtime.train import profile
from weftline.runtime.train.recipe import Recipe, read_recipe
from weftline.spec import Measurement, Plan

__all__ = ["Compared", "Row", "compare", "measured_run"]

_WARM: Final = 2
"""Steps at the start that connect, allocate and compile: not counted."""
_UNKNOWN: Final = "not profiled"
_GROUPS: Final[Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    "matrix products": ((parts_of.PRODUCTS,), (parts_of.PRODUCTS,)),
    "attention": ((parts_of.ATTENTION,), (parts_of.ATTENTION,)),
    "norms, activations, loss": (
        (parts_of.REST, parts_of.LOSS, "recomputation"), (parts_of.REST, parts_of.LOSS),
    ),
    "host between operators": (
        (parts_of.HOST, "kernel launches (host)"), (parts_of.HOST,),
    ),
    "exchanges, exposed": ((), (parts_of.EXCHANGE,)),
    "pipeline bubble and sends": (
        (parts_of.BUBBLE, "uneven stages", "pipeline sends, exposed"), (parts_of.BUBBLE,),
    ),
    "optimizer": ((parts_of.OPTIMIZER,), (parts_of.OPTIMIZER,)),
}  # fmt: skip
"""Row -> names of the plan's parts, names of the measured ones; all other parts of a plan are
exchanges and stragglers."""
_EXCHANGES: Final = "exchanges, exposed"
_LEARNT: Final = "what near measured runs add or save"
_PROFILED: Final = {
    profile.EXCHANGE: parts_of.EXCHANGE, profile.PIPELINE: parts_of.BUBBLE,
    profile.HOST: parts_of.HOST, profile.REST: parts_of.REST,
}  # fmt: skip
_FAR: Final = 0.03
"""Share by which the reference product must differ before it explains anything."""


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
    explains: tuple[str, ...]
    """What the difference is made of, most first."""


def measured_run(run: Path, today: str) -> Measurement:
    """What the steps of a run took. Raises InputError: no run, too few steps."""
    recipe = read_recipe(run)
    records = read_steps(run)
    counted = [r for r in records if r.step > _WARM and r.step != recipe.profile_step]
    if not counted:
        raise InputError(
            f"{len(records)} steps are too few: the first {_WARM} do not count", where=str(run)
        )
    steps = [r.step_s - r.parts.get("checkpoint", 0.0) for r in counted]
    step_s = float(np.median(steps))
    low, high = np.percentile(steps, (10, 90))
    references = [r.reference_s for r in counted if r.reference_s is not None]
    return Measurement(
        machine=HERE, model=recipe.model, model_key=key_of(recipe), layout=recipe.layout,
        seq_len=recipe.seq_len, dtype=recipe.dtype, source="run",
        parts_s=_parts(run, step_s, recipe), samples=len(counted), spread=float(high / low),
        memory_bytes=max(r.memory_peak_bytes for r in records), date=today,
        reference_s=float(np.median(references)) if references else None,
    )  # fmt: skip


def _parts(run: Path, step_s: float, recipe: Recipe) -> dict[str, float]:
    """Seconds by part of the median step; in one where no step was profiled."""
    found = _profile(run)
    whole = sum(found.values())
    if not whole:
        return {_UNKNOWN: step_s}
    parts: dict[str, float] = {}
    for name, seconds in found.items():
        known = _PROFILED.get(name, name)
        if known == parts_of.EXCHANGE and recipe.layout.chips == 1:
            known = parts_of.HOST
        parts[known] = parts.get(known, 0.0) + seconds * step_s / whole
    return parts


def _profile(run: Path) -> dict[str, float]:
    try:
        found: Any = json.loads((run / profile.PROFILE_FILE).read_text(encoding="utf-8"))
        return {str(k): float(v) for k, v in found["parts_s"].items()}
    except (OSError, ValueError, KeyError, AttributeError):
        return {}


def compare(plan: Plan, run: Path) -> Compared:
    """The plan beside the run in that folder. Raises InputError: no run, too few steps."""
    recipe = read_recipe(run)
    found = measured_run(run, "")
    records = read_steps(run)
    counted = [r for r in records if r.step > _WARM and r.step != recipe.profile_step]
    basis = f"median of {found.samples} steps"
    rows = [
        _of_plan(plan, "step time", "step_time", "s", found.step_s, basis),
        *_at_its_speed(plan, found),
        *_part_rows(plan, found),
        *_beside(plan, recipe, counted, found.step_s),
        _of_plan(plan, "tokens a second", "tokens_per_s", "1/s",
                 recipe.tokens_per_step / found.step_s, basis),
        _of_plan(plan, "MFU", "mfu", "1", float(np.median([r.mfu for r in counted])),
                 "of a square product's speed on these ranks"),
        _of_plan(plan, "memory a rank", "memory", "B", found.memory_bytes,
                 "most that rank 0 has held"),
    ]  # fmt: skip
    other = _difference(plan, recipe)
    return Compared(
        model=recipe.model, layout=recipe.layout.short(), steps=found.samples, same=not other,
        other=other, rows=tuple(rows), explains=_explains(rows, plan, found),
    )  # fmt: skip


def _of_plan(plan: Plan, name: str, key: str, unit: str, measured: float, basis: str) -> Row:
    estimate = plan.estimates.get(key)
    predicted = None if estimate is None else estimate.value
    return Row(name=name, unit=unit, predicted=predicted, measured=measured, basis=basis)


def _part_rows(plan: Plan, found: Measurement) -> list[Row]:
    """The step by part; measured ones only where a step was profiled."""
    named = {name for theirs, _ in _GROUPS.values() for name in theirs}
    own = {p.name: p.value for p in plan.step_parts}
    known = _UNKNOWN not in found.parts_s
    basis = "parts are of one profiled step of rank 0, scaled to the median" if known else ""
    rows = []
    for name, (theirs, ours) in _GROUPS.items():
        predicted = sum(own.get(part, 0.0) for part in theirs)
        if name == _EXCHANGES:
            predicted = sum(v for part, v in own.items() if part not in named | {_LEARNT})
        measured = sum(found.parts_s.get(part, 0.0) for part in ours) if known else None
        if predicted or measured:
            rows.append(Row(name=f"  {name}", unit="s", predicted=predicted, measured=measured,
                            basis=basis))  # fmt: skip
    if _LEARNT in own:
        rows.append(Row(name=f"  {_LEARNT}", unit="s", predicted=own[_LEARNT], measured=None,
                        basis=""))  # fmt: skip
    return rows


def _calibrated(plan: Plan, found: Measurement) -> Measurement | None:
    """What the plan's operators took when the machine was calibrated for it."""
    name = plan.cluster.accelerator
    if name not in machines():
        return None
    return next(
        (m for m in reversed(machine(name).measurements)
         if m.source == "operators" and m.about(found.model_key, found.layout, found.seq_len)),
        None,
    )  # fmt: skip


def _faster(plan: Plan, found: Measurement) -> float | None:
    """The reference product's seconds beside the run over those beside the calibration."""
    before = _calibrated(plan, found)
    if before is None or not before.reference_s or not found.reference_s:
        return None
    return found.reference_s / before.reference_s


def _at_its_speed(plan: Plan, found: Measurement) -> list[Row]:
    ratio = _faster(plan, found)
    if ratio is None:
        return []
    return [Row(
        name="  at the run's speed", unit="s", measured=found.step_s,
        predicted=plan.estimates["step_time"].value * ratio,
        basis=f"a reference product took {ratio - 1:+.0%} beside the run, as rank 0 timed it",
    )]  # fmt: skip


def _beside(plan: Plan, recipe: Recipe, counted: Sequence[StepRecord], step_s: float) -> list[Row]:
    """What a plan's step leaves out: data, and what saves make a step wait, as a mean."""
    rows = []
    stall = _stall_s(plan, recipe)
    for name, part, predicted in (
        ("  reading data", "data", None),
        ("  waiting for saves", "checkpoint", stall),
    ):
        mean = float(np.mean([r.parts.get(part, 0.0) for r in counted]))
        rows.append(Row(name=name, unit="s", predicted=predicted, measured=mean,
                        basis=f"mean a step; {mean / step_s:.1%} of it"))  # fmt: skip
    return rows


def _stall_s(plan: Plan, recipe: Recipe) -> float | None:
    """A mean step's wait for saves, by the speed at which the machine's store takes a copy."""
    name = plan.cluster.accelerator
    rate = machine(name).storage.get("staged_bytes_per_s") if name in machines() else None
    if not rate or not recipe.checkpoint_every:
        return None
    return 12.0 * recipe.parameters / recipe.layout.chips / rate / recipe.checkpoint_every


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


def _explains(rows: Sequence[Row], plan: Plan, found: Measurement) -> tuple[str, ...]:
    """The speed of the machine, where it changed, and the parts of the step that differ most."""
    said = []
    ratio = _faster(plan, found)
    if ratio is not None and abs(ratio - 1) > _FAR:
        share = plan.estimates["step_time"].value * (ratio - 1)
        slower = "slower" if ratio > 1 else "faster"
        said.append(f"the machine was {abs(ratio - 1):.0%} {slower} than when it was calibrated: "
                    f"{abs(share):.3g} s")  # fmt: skip
    inner = [
        (abs(r.measured - r.predicted), r)
        for r in rows
        if r.name.startswith("  ") and r.measured is not None and r.predicted is not None
        and not r.name.startswith("  at ")
    ]  # fmt: skip
    for gap, row in sorted(inner, key=lambda pair: -pair[0])[:2]:
        more = (row.measured or 0.0) > (row.predicted or 0.0)
        said.append(f"{row.name.strip()}: {gap:.4g} s {'more' if more else 'less'} than predicted")
    return tuple(said)
