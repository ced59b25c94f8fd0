"""The fitted tables as they are kept: JSON, a hundredth of an octave a step.

``data/operators_<family>.json`` holds, for each operator, its axes and one table of log2
microseconds (times 100, whole numbers) for each chip and number format, with the rows it was fitted
on, the script that fitted it and its error on rows it has not seen. 0.01 octaves are 0.7 %.
"""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Final

import numpy as np

from weftline.catalog.machines import machine, machines
from weftline.operators.surface import FloatArray, Surface

FAMILIES: Final = ("gemm", "attention", "window", "moe", "other", "profile")
STEPS: Final = 100.0
"""Steps an octave."""
_LOG2_US: Final = float(np.log2(1e-6))


def packed(surface: Surface) -> list[int]:
    """A surface's table as whole hundredths of log2 microseconds, row-major."""
    steps = np.rint((surface.log2_s - _LOG2_US) * STEPS).astype(int)
    return [int(v) for v in steps.ravel()]


def unpacked(axes: list[list[float]], values: list[int]) -> Surface:
    """The inverse of :func:`packed`; ``axes`` hold sizes."""
    grid = tuple(np.log2(np.asarray(a, dtype=np.float64)) for a in axes)
    table = np.asarray(values, dtype=np.float64).reshape([len(a) for a in grid])
    return Surface(grid, table / STEPS + _LOG2_US)


_FOLDER: Path | None = None
"""Where tables are read from instead of the bundled ones (scoring of held-out rows only)."""


def read_from(folder: Path | None) -> None:
    """Read tables from another folder. Operators made before keep theirs."""
    global _FOLDER  # noqa: PLW0603  (one process scores one set of tables)
    _FOLDER = folder
    family.cache_clear()
    measured.cache_clear()


@cache
def family(name: str) -> dict[str, Any]:
    """One bundled file of tables, as parsed."""
    folder = resources.files("weftline.operators") / "data" if _FOLDER is None else _FOLDER
    file = folder / f"operators_{name}.json"
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def own_family(name: str, chip: str) -> dict[str, Any] | None:
    """The same of a machine of the user's own (:mod:`weftline.catalog.machines`), if it is one."""
    if chip not in machines():
        return None
    found: dict[str, Any] | None = machine(chip).tables.get(name)
    return found


@cache
def measured(name: str, operator: str, chip: str, key: str) -> Surface | None:
    """The measured table of one operator on one chip (catalogue id), or None if there is none."""
    section = family(name)["operators"].get(operator)
    if section is None or chip not in section["tables"]:
        section = ((own_family(name, chip) or {}).get("operators") or {}).get(operator)
    entry = None if section is None else section["tables"].get(chip, {}).get(key)
    return None if entry is None else unpacked(section["axes"], entry["log2_us_x100"])


def table(name: str, operator: str, chip: str, key: str) -> Surface:
    """A table that is known to be there. Raises KeyError where it is not."""
    found = measured(name, operator, chip, key)
    if found is None:
        raise KeyError((name, operator, chip, key))
    return found


def measured_keys(name: str, operator: str, chip: str) -> tuple[str, ...]:
    """The keys (number formats, head sizes) one chip has tables for."""
    section = family(name)["operators"].get(operator, {"tables": {}})
    if chip not in section["tables"] and (own := own_family(name, chip)) is not None:
        section = own["operators"].get(operator, {"tables": {}})
    return tuple(section["tables"].get(chip, {}))


def number(name: str, key: str) -> Any:
    """A plain fitted constant of one family."""
    return family(name)["constants"][key]["value"]


def axes_of(name: str, operator: str) -> list[FloatArray]:
    """The log2 axes of one operator's tables."""
    return [
        np.log2(np.asarray(a, dtype=float)) for a in family(name)["operators"][operator]["axes"]
    ]
