"""What every fit shares: the tables' places, the file being made, both fits of a surface."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from weftline.operators.fit.monotone import errors_pct, fit_surface, held_out
from weftline.operators.surface import FloatArray, Surface, log2_axis
from weftline.operators.tables import packed

SOURCE = (
    "aiconfigurator_apache2 kernel tables (NVIDIA, ai-dynamo/aiconfigurator, Apache-2.0), "
    "as collected 2026-11-21"
)
CHIPS = {
    "a100-80-sxm": "a100_sxm", "h100-sxm": "h100_sxm", "h200-sxm": "h200_sxm", "b200": "b200_sxm"
}  # fmt: skip
FORMAT_NAMES = {
    "bfloat16": "bf16", "fp8": "fp8", "fp8_block": "fp8_block", "nvfp4": "nvfp4",
    "int4_wo": "int4", "w4a16_mxfp4": "mxfp4", "w4a8_mxfp4_mxfp8": "mxfp4_fp8",
}  # fmt: skip
# Attention over (length, sequences x kv heads, heads a kv head); profiles fill the same grid.
HEADS_AXIS: list[float] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 8192, 32768]
GROUP_AXIS: list[float] = [1, 2, 4, 8, 16, 64]
DECODE_AXES: list[list[float]] = [
    [64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 131072], HEADS_AXIS, GROUP_AXIS
]  # fmt: skip
SMOOTH = 0.03
_kept: set[str] = set()


@dataclass
class Family:
    """One file of tables in the making."""

    name: str
    source: str = SOURCE
    operators: dict[str, Any] = field(default_factory=dict)
    constants: dict[str, Any] = field(default_factory=dict)

    def add(
        self,
        operator: str,
        chip: str,
        key: str,
        axes: list[list[float]],
        surface: Surface,
        rows: int,
        held: dict[str, float],
    ) -> None:
        """Keep one fitted table."""
        section = self.operators.setdefault(operator, {"axes": axes, "tables": {}})
        if section["axes"] != axes:
            raise ValueError(f"{operator}: tables of one family share their axes")
        section["tables"].setdefault(chip, {})[key] = {
            "rows": rows,
            "held_out": held,
            "log2_us_x100": packed(surface),
        }

    def constant(self, key: str, value: Any, basis: str) -> None:
        """Keep one plain constant with where it comes from."""
        self.constants[key] = {"value": value, "basis": basis}

    def write(self, folder: Path) -> None:
        """Write ``operators_<name>.json``: one line a table."""
        head = {
            "format": "weftline-operator-tables/1",
            "source": self.source,
            "script": "python -m weftline.operators.fit.tables",
            "held_out": "every fifth group of shapes, fitted without",
        }
        lines = [json.dumps(head)[:-1] + ',\n"constants": ' + json.dumps(self.constants)]
        parts = []
        for operator, section in self.operators.items():
            tables = ",\n".join(
                json.dumps(chip) + ": {" + ",\n".join(
                    f"{json.dumps(key)}: {json.dumps(entry, separators=(',', ':'))}"
                    for key, entry in keys.items()
                ) + "}"
                for chip, keys in section["tables"].items()
            )  # fmt: skip
            axes = json.dumps(section["axes"])
            parts.append(f'{json.dumps(operator)}: {{"axes": {axes}, "tables": {{\n{tables}}}}}')
        text = lines[0] + ',\n"operators": {\n' + ",\n".join(parts) + "}}\n"
        json.loads(text)
        (folder / f"operators_{self.name}.json").write_text(text, encoding="utf-8")


def fit_both(
    axes: list[list[float]],
    sizes: list[FloatArray],
    seconds: FloatArray,
    groups: list[FloatArray],
    **options: Any,
) -> tuple[Surface, dict[str, float]]:
    """The surface of all rows, and the error of one fitted without every fifth group."""
    grid = [log2_axis(a) for a in axes]
    options.setdefault("smooth", SMOOTH)
    held = held_out(np.stack(groups, axis=1))
    if held.any() and (~held).any():
        part = fit_surface(grid, [s[~held] for s in sizes], seconds[~held], **options)
        errors = errors_pct(part.seconds(*[s[held] for s in sizes]), seconds[held])
        if leaving_out():
            return part, errors
    else:
        errors = {}
    return fit_surface(grid, sizes, seconds, **options), errors


def leaving_out() -> bool:
    """Whether this fit keeps the surfaces that have not seen the held-out rows.

    Such surfaces score those rows; they are never shipped.
    """
    return "part" in _kept


def leave_out() -> None:
    """From here on keep what has not seen the held-out rows."""
    _kept.add("part")


def table_path(kernels: Path, chip: str, name: str) -> Path | None:
    """Where one chip's table of that name lies (the folders carry engine versions)."""
    found = sorted((kernels / "aiconfigurator_apache2" / CHIPS[chip]).rglob(f"{name}.parquet"))
    return found[-1] if found else None
