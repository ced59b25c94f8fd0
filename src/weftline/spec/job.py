"""What the user wants trained: one frozen value, the same for every chip that is tried."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

Objective = Literal["cost", "time", "cost-time", "energy", "chips"]
PriceType = Literal["on-demand", "spot", "reserved", "capacity-block", "any"]
Precision = Literal["fp32", "bf16", "fp8", "fp4"]
Tune = Literal["full", "lora", "qlora"]

OBJECTIVES: tuple[Objective, ...] = get_args(Objective)
PRICE_TYPES: tuple[PriceType, ...] = ("on-demand", "spot", "reserved", "capacity-block")
PRICE_CHOICES: tuple[PriceType, ...] = (*PRICE_TYPES, "any")
"""``any`` is the cheapest way to pay for each chip."""
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "fp8", "fp4")
TUNES: tuple[Tune, ...] = get_args(Tune)
ANY = "*"
"""Every chip, of own prices, and every seller, of discounts."""


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
    recipe: str = ""
    """What the framework's release does, where stated: a release, or flags such as graphs=on."""
    own_prices: Mapping[str, float] = field(default_factory=dict)
    """US dollars a chip-hour that replace the catalogue's, by chip; ``*`` for every other one."""
    discounts: Mapping[str, float] = field(default_factory=dict)
    """Share taken off list prices, by seller; ``*`` for every other one."""
    layout: Mapping[str, int | str] = field(default_factory=dict)
    """Parts of the layout that are fixed, named as the fields of :class:`Layout`."""
    allow_long: bool = False
    """Take a sequence beyond what the model's config allows."""
    tune: Tune = "full"
    """Train every weight, adapters beside frozen weights, or beside frozen 4-bit weights."""
    rank: int = 16
    """Rank of the adapters; nothing to a job that trains every weight."""
    policy: str = ""
    """What queries see in the place of full attention (:mod:`weftline.spec.attention_text`)."""
    freeze: tuple[str, ...] = ()
    """Parts whose weights stay as they are where every other weight is trained."""
    own_chips: tuple[Mapping[str, Any], ...] = ()
    """Chips of the user's own and changed figures, as :mod:`weftline.catalog.own` reads them."""

    @property
    def tokens_per_step(self) -> int:
        """Tokens in one global batch."""
        return self.global_batch * self.seq_len

    @property
    def steps(self) -> int:
        """Optimizer steps of the run, the last one possibly short."""
        return -(-self.tokens // self.tokens_per_step)
