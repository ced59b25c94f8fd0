"""The calibration in force: which rows, which constants, how sure.

``python -m weftline.plan.calibrate.calibration`` fits the shipped rows again and writes one file a
pool; ``weftline calibrate --from RUNS.csv`` fits them together with a user's rows into the user's
own folder, which is then preferred.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from weftline.catalog import user_data_dir
from weftline.errors import InputError
from weftline.learn import Features, code_of
from weftline.operators.products import family_of
from weftline.plan.calibrate.fit import KINDS, Fitted, Levels, constants_of, fit_pool
from weftline.plan.calibrate.residual import (
    LABELS,
    Residual,
    kernel_from_json,
    kernel_to_json,
    labels_of,
)
from weftline.plan.calibrate.row import Row
from weftline.plan.calibrate.rows import read_rows
from weftline.plan.calibrate.trust import Trust
from weftline.plan.step.constants import FIELDS, Constants, FloatArray
from weftline.plan.step.recipes import recipe_of_framework
from weftline.spec.serialize import write_text

DATA: Final = Path(__file__).parents[1] / "data"
SHIPPED: Final = ("published_runs.csv", "vtrain_single.csv", "vtrain_multi.csv")
PUBLISHED: Final = "published"
_DIGITS: Final = 6
_OFFSET_DIGITS: Final = 4


def pool_of(row: Row) -> str:
    """The pool of rows that are fitted together."""
    return row.group.split("/")[1] if "/vtrain-" in row.group else PUBLISHED


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupConstants:
    """The constants of one chip under one framework, and what they rest on."""

    group: str
    constants: Constants
    rows: int
    """Measured rows of this very group; 0 where it borrows from its framework or from all."""
    basis: str
    known: bool = True
    """Whether the framework is one that is known: of others nothing is taken from any row."""


@functools.cache
def calibrated(pool: str) -> tuple[Levels, Residual]:
    """Constants and residual process of one pool: the user's if there is one, else the shipped."""
    own = user_file(pool)
    path = own if own.is_file() else DATA / f"calibration_{pool}.json"
    if not path.is_file():
        raise InputError(f"no calibration for `{pool}`")
    try:
        raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return _pool_from(raw)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"not a calibration: {type(error).__name__}",
            where=str(path),
            hint="`weftline calibrate --reset` removes your own and brings back the shipped one",
        ) from None


def user_file(pool: str) -> Path:
    """Where a user's own calibration of a pool stands."""
    return user_data_dir() / f"calibration_{pool}.json"


def constants_for(accelerator: str, framework: str) -> GroupConstants:
    """Constants of one chip under one framework's newest recipe.

    What is not known of the chip, of its family or of the recipe is that of all: constants are
    fractions and losses, so they carry over; how well is part of the residual process' error bar.
    """
    levels, residual = calibrated(PUBLISHED)
    group = f"{accelerator}/{framework}"
    chip, release = accelerator.partition("+")[0], recipe_of_framework(framework, accelerator)
    recipe = release.family
    family = family_of(chip).name
    rows = int(np.count_nonzero(residual.rows.labels[:, LABELS.index("group")] == code_of(group)))
    lacking = [
        said
        for kind, name, said in (
            ("chip", chip, "chip"), ("family", family, "chip family"), ("recipe", recipe, "recipe")
        )
        if name not in levels.offsets[kind]
    ]  # fmt: skip
    if not release.known:
        basis = f"assumed, framework {framework} not known"
    elif rows:
        basis = f"calibrated n={rows}"
    elif lacking:
        basis = f"assumed, no rows of the {' or the '.join(lacking)}"
    else:
        basis = "assumed, chip and recipe calibrated apart"
    return GroupConstants(
        group=group,
        constants=constants_of(levels.at(family, chip, recipe)),
        rows=rows,
        basis=basis,
        known=release.known,
    )


def _pool_from(raw: dict[str, Any]) -> tuple[Levels, Residual]:
    def level(values: dict[str, float]) -> FloatArray:
        return np.array([float(values.get(name, 0.0)) for name in FIELDS])

    levels = Levels(
        everything=np.array([float(raw["levels"]["*"][name]) for name in FIELDS]),
        offsets={
            kind: {name: level(v) for name, v in raw["levels"][kind].items()} for kind in KINDS
        },
    )
    rows = raw["rows"]
    features = Features(
        labels=np.array([[code_of(t) for t in r["labels"]] for r in rows], dtype=np.int64),
        numbers=np.array([r["numbers"] for r in rows], dtype=np.float64),
    )
    residual = np.array([float(r["residual"]) for r in rows])
    return levels, Residual(
        kernel_from_json(raw["kernel"]),
        features,
        residual,
        extra_noise=np.array([float(r.get("extra_noise", 0.0)) for r in rows]),
        ids=[str(r["id"]) for r in rows],
        trust=Trust.from_json(raw["trust"]),
    )


def pool_to_json(fitted: Fitted, rows: Sequence[Row]) -> dict[str, Any]:
    """One pool as plain values: logits of the constants, the constants, kernel and rows."""

    def offsets(logits: FloatArray) -> dict[str, float]:
        """What differs from all, without what is nothing."""
        return {n: round(float(v), _OFFSET_DIGITS) for n, v in zip(FIELDS, logits, strict=True)
                if abs(v) >= 10**-_OFFSET_DIGITS}  # fmt: skip

    levels, residual = fitted.levels, fitted.residual
    everything = zip(FIELDS, levels.everything, strict=True)
    if residual.trust is None:
        raise AssertionError("a fitted pool says how far it is trusted")
    return {
        "levels": {
            "*": {n: round(float(v), _DIGITS) for n, v in everything},
            **{kind: {k: offsets(v) for k, v in levels.offsets[kind].items()} for kind in KINDS},
        },
        "constants": {"*": _plain(constants_of(levels.everything))},
        "trust": residual.trust.to_json(),
        "kernel": kernel_to_json(residual.kernel),
        "rows": [
            {
                "id": row.id,
                "labels": labels_of(
                    row.model, row.cluster, group=row.group, version=row.framework,
                    precision=row.recipe,
                ),
                "numbers": [round(float(v), _DIGITS) for v in numbers],
                "residual": round(float(value), _DIGITS),
                "extra_noise": round(float(extra), _DIGITS),
            }
            for row, numbers, value, extra in zip(
                rows,
                residual.rows.numbers,
                residual.residual,
                residual.extra_noise,
                strict=True,
            )
        ],
    }  # fmt: skip


def _plain(constants: Constants) -> dict[str, float]:
    return {name: float(f"{float(getattr(constants, name)):.4g}") for name in FIELDS}


def fit_pools(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """Fit every pool of some rows; the result is what the pools' files hold."""
    pools: dict[str, dict[str, Any]] = {}
    for pool in sorted({pool_of(row) for row in rows}):
        own = [row for row in rows if pool_of(row) == pool and row.measured_s is not None]
        pools[pool] = pool_to_json(fit_pool(own), own)
    return pools


def shipped_rows() -> list[Row]:
    """The rows that weftline ships."""
    return [row for name in SHIPPED for row in read_rows(DATA / name)[0]]


def pool_text(pool: dict[str, Any]) -> str:
    """A pool as JSON with one row a line, so that a diff shows which rows moved."""
    rows = ",\n".join(json.dumps(row, separators=(",", ":")) for row in pool["rows"])
    head = json.dumps({k: v for k, v in pool.items() if k != "rows"}, indent=1)
    return head.removesuffix("\n}") + f',\n "rows": [\n{rows}\n ]\n}}\n'


def main() -> None:
    """Fit the shipped rows again and replace the shipped calibration."""
    for name, pool in fit_pools(shipped_rows()).items():
        write_text(pool_text(pool), DATA / f"calibration_{name}.json")
        sys.stdout.write(f"{name}: {len(pool['rows'])} rows, trust {pool['trust']}\n")


if __name__ == "__main__":
    main()
