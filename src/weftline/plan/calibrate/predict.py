"""Step times of measured rows: many models and clusters in one evaluation.

Rows are compiled one by one (each has a model of its own) and then joined, so that one call of
``time_step`` serves them all, with constants given per row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from weftline.plan.calibrate.row import Row
from weftline.plan.step.columns import Layouts
from weftline.plan.step.compiled import Compiled, Device, compile_layouts
from weftline.plan.step.constants import PRIOR, Constants, FloatArray
from weftline.plan.step.groups import Groups
from weftline.plan.step.pricing import Priced
from weftline.plan.step.recipes import Recipe, flag_columns
from weftline.plan.step.timing import time_step
from weftline.plan.step.workload import Work


def compile_row(row: Row) -> Compiled:
    """One row (or all its candidate layouts) without constants."""
    return compile_layouts(
        row.model, row.cluster, row.frame, row.layout, seq_len=row.seq_len, precision=row.precision
    )


def prior_seconds(row: Row) -> FloatArray:
    """Step time of every candidate layout of a row with the unfitted constants."""
    return time_step(compile_row(row), PRIOR).total_s


def join(compiled: Sequence[Compiled]) -> Compiled:
    """Rows of one layout each as one batch: entry i is row i, and key i its key."""
    parts: dict[str, Any] = {}
    for f in fields(Compiled):
        values = [getattr(c, f.name) for c in compiled]
        match values[0]:
            case Work():
                parts[f.name] = _join_work(values)
            case Priced():
                parts[f.name] = Priced(
                    **{g.name: np.concatenate([getattr(v, g.name) for v in values], axis=-1)
                       for g in fields(Priced)}
                )  # fmt: skip
            case Recipe():
                flags: dict[str, Any] = {
                    name: np.array([getattr(v, name) for v in values], dtype=np.float64)
                    for name in flag_columns()
                }
                parts[f.name] = Recipe(**flags)
            case Device():
                parts[f.name] = Device(
                    **{
                        g.name: np.array([getattr(v, g.name) for v in values])
                        for g in fields(Device)
                    }
                )
            case Layouts():
                parts[f.name] = Layouts(
                    **{g.name: np.concatenate([getattr(v, g.name) for v in values])
                       for g in fields(Layouts)}
                )  # fmt: skip
            case Groups():
                parts[f.name] = Groups.joined(values)
            case np.ndarray():
                parts[f.name] = np.concatenate(values)
            case _:
                parts[f.name] = np.array(values)
    parts["key"] = np.arange(len(compiled))
    return Compiled(**parts)


def _join_work(works: Sequence[Work]) -> Work:
    parts: dict[str, Any] = {"keys": sum(w.keys for w in works)}
    starts = np.cumsum([0, *(w.keys for w in works[:-1])])
    for f in fields(Work):
        values = [getattr(w, f.name) for w in works]
        if f.name == "key":
            parts["key"] = np.concatenate([v + s for v, s in zip(values, starts, strict=True)])
        elif f.name == "tp_collectives":
            parts[f.name] = np.array(values)
        elif f.name != "keys":
            parts[f.name] = np.concatenate(values)
    return Work(**parts)


def predict(compiled: Compiled, constants: Constants) -> FloatArray:
    """Seconds a step of joined rows; ``constants`` hold one value a row, or one for all."""
    return time_step(compiled, constants).total_s
