"""A Plan: the answer, as one frozen value and one JSON file. Nothing recomputes what it says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from weftline.spec.cluster import Cluster
from weftline.spec.drawn import Exchange, LinkLoad, Pipeline, StageMemory, Swing
from weftline.spec.estimate import Estimate
from weftline.spec.frame import frame_of
from weftline.spec.job import Job
from weftline.spec.layout import Layout
from weftline.spec.notebook import Shown
from weftline.spec.rank_map import RankMap
from weftline.units import format_duration, format_usd

PLAN_FORMAT = 2
"""Format 2 adds what pictures need, every field of it with a default: format 1 is read, too."""
PLAN_FORMATS_READ = (1, 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One line of a breakdown: a share of the step, of the memory or of the money."""

    name: str
    value: float
    unit: str
    basis: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceQuote:
    """The price a plan rests on, and the span of the offers beside it."""

    usd_per_chip_hour: Estimate
    """The price taken, with the lowest and the highest offer."""
    price_type: str
    provider: str
    instance: str
    region: str
    date: str
    source: str
    note: str = ""
    offers: int = 0
    """How many offers the span is of."""
    sellers: int = 0
    """How many sellers make them."""
    undated: int = 0
    """How many of the offers say no day."""
    host_included: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One row of the ranked table: the best layout found on one accelerator."""

    accelerator: str
    chips: int
    layout: Layout
    step_time_s: float
    mfu: float
    memory_bytes: float
    train_time_s: float
    cost_usd: float | None
    energy_j: float | None
    note: str = ""
    train_time_low_s: float | None = None
    train_time_high_s: float | None = None
    """Ends of the 90 % band of ``train_time_s``."""
    cost_low_usd: float | None = None
    cost_high_usd: float | None = None
    """Cost at either end of that band; the price itself is as quoted."""
    step_parts: Mapping[str, float] = field(default_factory=dict)
    """Part -> seconds of a step, as in the plan's own ``step_parts``."""
    lost: str = ""
    """Why it is not the answer; empty for the answer itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakEven:
    """The price a chip-hour at which another accelerator would be the answer."""

    accelerator: str
    now_usd_per_chip_hour: float
    wins_below_usd_per_chip_hour: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredRun:
    """A published run like this plan, and how right the model is about it."""

    run: str
    likeness: float
    """Correlation with the plan, 0 to 1, as the correction of near runs weighs it."""
    measured_over_predicted: float
    """Step time, this run left out of the correction."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """An accelerator that has no plan, and what limits it."""

    accelerator: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchStats:
    """How much was looked at. ``rejected`` counts layouts by the limit that broke them."""

    evaluated: int
    feasible: int
    rejected: Mapping[str, int]
    accelerators: int


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Plan(Shown):
    """The job, the machine, the layout, every estimate, and what they rest on.

    ``estimates`` holds step_time, tokens_per_s, mfu, train_time, effective_train_time, cost,
    effective_cost, energy, carbon, memory; a key is absent where nothing is known (no price).
    """

    format: int = PLAN_FORMAT
    kind: Literal["train"] = "train"
    weftline: str
    catalog_date: str
    job: Job
    parameters: int
    active_parameters: int
    cluster: Cluster
    framework: str
    layout: Layout
    estimates: Mapping[str, Estimate]
    step_parts: tuple[Part, ...]
    memory_parts: tuple[Part, ...]
    cost_parts: tuple[Part, ...]
    price: PriceQuote | None
    why: tuple[str, ...]
    flips: tuple[str, ...]
    ranking: tuple[Candidate, ...]
    """The best of each accelerator, best first."""
    pareto: tuple[Candidate, ...]
    """Over all accelerators and counts: no other is better in time, cost and energy at once."""
    without_plan: tuple[Rejection, ...]
    search: SearchStats
    rank_map: RankMap | None = None
    """The chip of each rank; without one rank r runs on chip r."""
    model_notes: tuple[str, ...] = ()
    """What of the model is not counted (a vision tower), or was taken for granted."""
    break_evens: tuple[BreakEven, ...] = ()
    """By how far the price has to move, nearest first; empty where money does not decide."""
    interval_curve: tuple[tuple[float, float], ...] = ()
    """(seconds between checkpoints, share of wall time that makes progress)."""
    measured: tuple[MeasuredRun, ...] = ()
    """Published runs, most like this plan first."""
    exchanges: tuple[Exchange, ...] = ()
    """Communication of a step, hidden and shown."""
    stage_memory: tuple[StageMemory, ...] = ()
    """Of every pipeline stage."""
    pipeline: Pipeline | None = None
    """One pipeline's micro-batches; a plan without pipeline stages has one stage."""
    link_loads: tuple[LinkLoad, ...] = ()
    """What the plan's own groups put on the network."""
    swings: tuple[Swing, ...] = ()
    """What drives the cost with failures, widest first."""
    beside_parts: tuple[Part, ...] = ()
    """Money beside the price of chips, not in ``cost``: storage of checkpoints, egress."""

    def rank(self, rank: int) -> dict[str, int | str]:
        """Host, local chip and axis indices of one rank. Raises IndexError outside the plan.

        With a rank map also ``chip`` and ``coordinate`` (``2,0,3``); the host is then that of the
        chip, as chips are numbered.
        """
        found = self.layout.coordinates(rank)
        chip = rank if self.rank_map is None else self.rank_map.chip(rank)
        per_host = self.cluster.chips_per_host
        place = {"rank": rank, "host": chip // per_host, "local_chip": chip % per_host}
        if self.rank_map is None:
            return {**place, **found}
        at = ",".join(map(str, self.rank_map.coordinate(rank)))
        return {**place, "chip": chip, "coordinate": at, **found}

    def __repr__(self) -> str:
        """The answer in a few lines; ``to_frame()`` and the fields have the rest."""
        money = self.estimates.get("cost")
        return (
            f"Plan({self.job.model}: {self.layout.chips:,} x {self.cluster.accelerator}, "
            f"{self.layout.short()}, {self.framework}\n"
            f"     step {format_duration(self.estimates['step_time'].value)}, run "
            f"{format_duration(self.estimates['train_time'].value)}"
            f"{'' if money is None else ', ' + format_usd(money.value)}; "
            f"best of {len(self.ranking)} in .ranking)"
        )

    def to_frame(self) -> Any:
        """The ranking as a pandas DataFrame: accelerator, chips, degrees, seconds, dollars, joules.

        Raises InputError where pandas is not installed.
        """
        return frame_of([
            {"accelerator": c.accelerator, "chips": c.chips,
             **{name: getattr(c.layout, name) for name in ("tp", "cp", "pp", "ep", "dp")},
             "mfu": c.mfu, "train_time_s": c.train_time_s, "cost_usd": c.cost_usd,
             "energy_j": c.energy_j, "note": c.note}
            for c in self.ranking
        ])  # fmt: skip
