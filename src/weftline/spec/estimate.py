"""A number a user sees: value, unit, band and what it rests on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from weftline.errors import InternalError

Basis = Literal["datasheet", "published", "price list", "calibrated", "measured here", "assumed"]
"""Kinds of ground under an estimate; ``Estimate.basis`` starts with one and may add detail."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A value with its unit, a low and a high (90 % unless the basis says otherwise), its basis.

    Raises InternalError when the band does not hold the value: such a number must never be shown.
    """

    value: float
    unit: str
    low: float
    high: float
    basis: str

    def __post_init__(self) -> None:
        if not (math.isfinite(self.value) and self.low <= self.value <= self.high):
            raise InternalError(
                f"estimate {self.value} {self.unit} lies outside its band {self.low}..{self.high}"
            )

    @classmethod
    def within(cls, value: float, unit: str, relative: float, basis: str) -> Estimate:
        """An estimate with a band that is symmetric in ratio: value / (1+r) .. value * (1+r)."""
        a, b = value / (1 + relative), value * (1 + relative)
        return cls(value=value, unit=unit, low=min(a, b), high=max(a, b), basis=basis)

    @classmethod
    def exact(cls, value: float, unit: str, basis: str) -> Estimate:
        """A number without a band: counted, not estimated."""
        return cls(value=value, unit=unit, low=value, high=value, basis=basis)

    def scaled(self, factor: float, unit: str) -> Estimate:
        """The same estimate in another unit, or times an exact positive number."""
        return Estimate(
            value=self.value * factor,
            unit=unit,
            low=self.low * factor,
            high=self.high * factor,
            basis=self.basis,
        )
