"""Operators of a training step on one chip: products, attention and scans, on arrays of shapes.

Three grounds, best first: tables measured on the chip, tables of its kin carried over by the
roofline, and the roofline with efficiencies of the chip's family
(``data/operators_families.json``, each with its source). Beyond a table's shapes its edge grows as
the roofline does. Times are those of kernels alone: what a training run loses on top (power held
over hours, casts, launches) is the planner's.

Low precision on Blackwell has tables too, but of a serving engine's first kernels: whole training
steps run faster than they do (Megatron-Bridge's 405B on GB300), so the family's roofline stands in.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any, Final

import numpy as np

from weftline.catalog.machines import machines
from weftline.errors import InputError, UnknownNameError
from weftline.operators.chips import chip_of
from weftline.operators.lookup import look_up
from weftline.operators.operators import Operators, operators
from weftline.operators.surface import FloatArray, Number, Surface
from weftline.operators.tables import measured

__all__ = ["Family", "TrainingOperators", "family_of", "training_operators"]

TILE: Final = 128.0
"""Rows and columns of an output tile, on tensor cores and systolic arrays alike: what a product
falls short of whole tiles is computed and thrown away."""
_HALF_SIZE: Final = (64.0, 64.0, 256.0)
"""Sizes of m, n, k at which each costs half the rate where no table says it: pipelines fill."""
_SHARPNESS: Final = 4.0
"""Exponent of the smooth maximum of work and bytes."""
MEMORY_EFFICIENCY: Final = 0.85
"""Share of the bandwidth that streaming kernels reach: 0.85 to 0.9 in the profiles."""
ATTENTION_EFFICIENCY: Final = 0.5
"""Share of the bf16 peak of fused attention where no table says it."""
_TABLE_DIMS: Final = (64, 128, 256)
_STATE_VALUES: Final = 6.0
"""FLOP a token of a scan for each value of its state: decay, update, read-out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Chips of one architecture and what their large products reach of the peak in a burst."""

    name: str
    chips: tuple[str, ...]
    wide: float
    """bf16 and fp16."""
    low: float
    """fp8 and int8."""
    fp4: float
    low_tables: bool
    """Whether measured tables of low precision are those of training's kernels."""
    source: str


@lru_cache(maxsize=1)
def _families() -> tuple[Mapping[str, Family], Family]:
    file = resources.files("weftline.operators") / "data" / "operators_families.json"
    raw: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    found = [Family(name=name, **{**v, "chips": tuple(v["chips"])})
             for name, v in raw["families"].items()]  # fmt: skip
    return {chip: f for f in found for chip in f.chips}, next(f for f in found if not f.chips)


def family_of(accelerator: str) -> Family:
    """The family of a chip by its catalogue id; ``other`` for chips of none."""
    known, other = _families()
    return known.get(accelerator.partition("+")[0], other)


@lru_cache(maxsize=64)
def training_operators(accelerator: str) -> TrainingOperators:
    """The operators of a chip; one that the catalogue cannot price has its family's roofline.

    So has one whose tables are another family's: how far its large products reach is known better.
    """
    family = family_of(accelerator)
    try:
        found = operators(chip_of(accelerator.partition("+")[0]).name)
    except (InputError, UnknownNameError):
        found = None
    if found is not None and found.chip.like and family_of(found.chip.like) != family:
        found = None
    return TrainingOperators(family, found)


class TrainingOperators:
    """Times of one chip at the rates it is given: a variant may run at others than the catalogue's.

    ``peak_flops`` is that of the number format, ``bandwidth`` bytes a second.
    """

    def __init__(self, family: Family, measured: Operators | None) -> None:
        self.family = family
        self.measured = measured if measured is not None and measured.chip.like else None

    def _has_table(self, fmt: str) -> bool:
        if self.measured is None:
            return False
        if fmt == "fp32":
            return self._own_fp32() is not None
        return fmt == "bf16" or (self.family.low_tables and fmt == "fp8"
                                 and self.measured.chip.native(fmt))  # fmt: skip

    def _own_fp32(self) -> Surface | None:
        """fp32 products as the user's own machine was measured; shipped chips are timed in bf16."""
        if self.measured is None:
            return None
        return measured("gemm", "gemm", self.measured.chip.name, "fp32")

    def product_s(
        self, fmt: str, m: Number, n: Number, k: Number, peak_flops: float, bandwidth: float
    ) -> FloatArray:
        """Seconds of (m, k) times (k, n), ``fmt`` one of bf16, fp8, int8, fp4, fp32."""
        own = self._own_fp32() if fmt == "fp32" else None
        if own is not None:
            return look_up(own, (m, n, k))
        table = "bf16" if fmt == "fp32" else fmt
        if not self._has_table(table) or self.measured is None:
            return self.grouped_s(fmt, m, n, k, 1.0, peak_flops, bandwidth)
        chip = self.measured.chip
        flops = 2.0 * np.asarray(m, dtype=np.float64) * n * k
        moved = 2.0 * (m * np.asarray(n) + np.asarray(n) * k + m * np.asarray(k))
        there = np.maximum(flops / chip.peak_flops(table), moved / chip.bandwidth_bytes_per_s)
        here = np.maximum(flops / peak_flops, moved / bandwidth)
        return self.measured.gemm_s(table, m, n, k) * (here / there)

    def grouped_s(
        self, fmt: str, m: Number, n: Number, k: Number, batch: Number, peak_flops: float,
        bandwidth: float,
    ) -> FloatArray:  # fmt: skip
        """Seconds of ``batch`` products of (m, k) times (k, n) as one grouped kernel: roofline."""
        f = self.family
        reach = {"fp8": f.low, "int8": f.low, "fp4": f.fp4}.get(fmt, f.wide)
        m, n, k = (np.asarray(v, dtype=np.float64) for v in (m, n, k))
        half_m, half_n, half_k = _HALF_SIZE
        fill = m / (m + half_m) * n / (n + half_n) * k / (k + half_k)
        work = 2.0 * np.ceil(m / TILE) * TILE * np.ceil(n / TILE) * TILE * k * batch
        moved = 2.0 * (m * n + n * k + m * k) * batch
        busy = work / (peak_flops * reach * fill)
        read = moved / (bandwidth * MEMORY_EFFICIENCY)
        return np.asarray((busy**_SHARPNESS + read**_SHARPNESS) ** (1 / _SHARPNESS))

    def attention_s(
        self, tokens: Number, span: Number, streams: Number, group: Number, qk_dim: int,
        v_dim: int, peak_flops: float, bandwidth: float,
    ) -> FloatArray:  # fmt: skip
        """Seconds of fused attention's forward pass: ``tokens`` queries of ``streams`` key heads,
        each shared by ``group`` query heads, which see ``span`` keys in the mean."""
        tokens = np.asarray(tokens, dtype=np.float64)
        width = qk_dim + v_dim
        pairs = tokens * span * streams * group
        moved = 2.0 * width * tokens * streams * (np.asarray(group) + 1.0)
        here = np.maximum(2.0 * width * pairs / peak_flops, moved / bandwidth)
        if self.measured is None:
            busy = 2.0 * width * pairs / (peak_flops * ATTENTION_EFFICIENCY)
            return np.asarray(busy + moved / (bandwidth * MEMORY_EFFICIENCY))
        chip = self.measured.chip
        dim = width // 2 if width // 2 in _TABLE_DIMS else 128
        timed = self.measured.kernels.prefill_s("bf16", tokens, span, streams, group, dim)
        there = np.maximum(
            2.0 * width * pairs / chip.peak_flops("bf16"), moved / chip.bandwidth_bytes_per_s
        )
        return timed * (width / (2.0 * dim)) * (here / there)

    def scan_s(
        self, batch: Number, tokens: Number, flops_per_token: Number, bandwidth: float
    ) -> FloatArray:
        """Seconds of a recurrent layer's scan forward; kernels without a table as the H100's,
        carried over by bandwidth."""
        values = np.asarray(flops_per_token, dtype=np.float64) / _STATE_VALUES
        source = self.measured or operators("h100-sxm")
        found = source.scan_s(batch, tokens, values, decode=False)
        return found * (source.chip.bandwidth_bytes_per_s / bandwidth)

    def grounds(self, fmt: str) -> dict[str, str]:
        """What each part rests on, in words."""
        f = self.family
        roof = f"roofline of the {f.name} family ({f.source})"
        if self.measured is None:
            attention = f"roofline, {ATTENTION_EFFICIENCY:.0%} of the peak, assumed"
            return {"products": roof, "experts": roof, "attention forward": attention,
                    "attention backward": "forward's rate and a fitted ratio",
                    "scan": "table of the h100-sxm, by bandwidth"}  # fmt: skip
        chip = self.measured.chip
        kin = "" if chip.like == chip.name else ", carried over by the roofline"
        table = f"table of the {chip.like}{kin}"
        if chip.name in machines():
            table = f"measured on `{chip.name}`"
        products = f"{table}, {fmt}" if self._has_table(fmt) else roof
        return {
            "products": products,
            "experts": roof,
            "attention forward": f"{table}, bf16",
            "attention backward": "forward's table and a fitted ratio",
            "scan": table,
        }
