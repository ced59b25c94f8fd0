"""What the user wants trained: one frozen value, the same for every chip that is tried."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Objective = Literal["cost", "time", "cost-time", "energy"]
PriceType = Literal["on-demand", "spot", "reserved", "capacity-block", "any"]
Precision = Literal["fp32", "bf16", "fp8", "fp4"]

OBJECTIVES: tuple[Objective, ...] = ("cost", "time", "cost-time", "energy")
PRICE_TYPES: tuple[PriceType, ...] = ("on-demand", "spot", "reserved", "capacity-block")
PRICE_CHOICES: tuple[PriceType, ...] = (*PRICE_TYPES, "any")
"""``any`` is the cheapest way to pay for each chip."""
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "fp8", "fp4")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One training job, as asked.

    ``global_batch`` is in sequences a step and is held whatever the layout; ``tokens`` is the whole
    run. ``accelerators`` is empty for all. ``chips`` fixes the count, ``max_chips`` bounds it.
    """

    model: str
    tokens: int
    seq_len: int
    global_batch: int
    precision: Precision = "bf16"
    accelerators: tuple[str, ...] = ()
    chips: int | None = None
    max_chips: int | None = None
    budget_usd: float | None = None
    deadline_s: float | None = None
    price_type: PriceType = "on-demand"
    region: str | None = None
    objective: Objective = "cost-time"
    framework: str = "auto"
    """``auto`` is what each maker's chips are usually trained with."""
    optimizer: str = "adamw"
    offload: bool = False
    """Keep optimizer states in host memory and update them there."""
    overlap: bool = True
    """Hide communication behind compute as the framework can; False adds all of it up."""

    @property
    def tokens_per_step(self) -> int:
        """Tokens in one global batch."""
        return self.global_batch * self.seq_len

    @property
    def steps(self) -> int:
        """Optimizer steps of the run, the last one possibly short."""
        return -(-self.tokens // self.tokens_per_step)
