"""A ServePlan: the cheapest fleet found for a stream of requests, as one frozen value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from weftline.spec.drawn import LoadPoint, SpeedPoint
from weftline.spec.estimate import Estimate
from weftline.spec.frame import frame_of
from weftline.spec.notebook import Shown
from weftline.spec.plan import Part, PriceQuote, Rejection
from weftline.units import format_duration, format_usd

SERVE_PLAN_FORMAT = 1
Metric = Literal["ttft", "tpot", "e2e"]
METRICS: tuple[Metric, ...] = ("ttft", "tpot", "e2e")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One promise: the ``percentile`` of a metric stays at or under ``limit_s`` seconds."""

    metric: Metric
    percentile: float
    """50 for the median, 99 for one request in a hundred."""
    limit_s: float

    def short(self) -> str:
        """``p99 ttft 500 ms``."""
        return f"p{self.percentile:g} {self.metric} {format_duration(self.limit_s)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeDemand:
    """What is to be served, as asked."""

    model: str
    traffic: str
    """Poisson, a trace's name..."""
    rate_per_s: float
    """Mean requests a second."""
    input_tokens: float
    """Mean tokens of a prompt."""
    output_tokens: float
    cached_share: float
    """Share of prompt tokens that a prefix cache finds, 0 where none is used."""
    targets: tuple[Target, ...]
    price_type: str
    region: str | None
    requests: int
    """How many the simulation ran."""
    seed: int | None
    headroom: float = 0.0
    """Share of the fleet's steady-state throughput that stays free."""
    within: float = 0.95
    """Share of requests that keep the targets, where a fleet meets them."""
    cells: int = 1
    """Equal parts of the fleet, of which one is simulated with its share of the rate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """So many replicas of one configuration."""

    accelerator: str
    engine: str
    replicas: int
    """Needed for the targets; of a disaggregated fleet, groups of prefill and decode workers."""
    spares: int
    """Beside those, so that failures do not break the targets."""
    chips_per_replica: int
    layout: Mapping[str, int]
    """tp, pp, dp, ep, prefill_workers, prefill_tp, decode_workers..."""
    weights: str
    """Number format of the matrix products."""
    experts: str
    """Number format of routed experts; as ``weights`` for a dense model."""
    kv: str
    max_batch: int
    chunk_tokens: int
    prefix_cache: bool
    routing: str
    prefill_accelerator: str = ""
    """Of the workers for prompts, where it is another chip."""
    share: float = 1.0
    """Of the requests, by what each part works off: below one where there is a ``beside``."""
    beside: Fleet | None = None
    """Replicas of another kind behind the same router."""

    @property
    def chips(self) -> int:
        """All chips, spares and those of the other part included."""
        own = (self.replicas + self.spares) * self.chips_per_replica
        return own + (0 if self.beside is None else self.beside.chips)

    @property
    def name(self) -> str:
        """Its chips: ``h200-sxm``, ``h200-sxm + l40s`` of two kinds of replicas, ``b200 > h100``
        where prompts have chips of their own."""
        own = self.accelerator
        if self.prefill_accelerator:
            own = f"{self.prefill_accelerator} > {own}"
        return own if self.beside is None else f"{own} + {self.beside.name}"

    def counted(self) -> str:
        """``4 + 1 spare x 2 h200-sxm, TP2 fp8, vllm``, each part of it."""
        spare = f" + {self.spares} spare" if self.spares else ""
        own = replace(self, beside=None)
        said = (f"{self.replicas}{spare} x {self.chips_per_replica} {own.name}, {own.short()}, "
                f"{self.engine}")  # fmt: skip
        if self.beside is None:
            return said
        return f"{said} ({self.share:.0%} of requests); {self.beside.counted()}"

    def short(self) -> str:
        """``TP4 fp8``: degrees above one, then the number format."""
        degrees = [f"{n.upper()}{v}" for n, v in self.layout.items() if v > 1 and "_" not in n]
        pools = ""
        if self.layout.get("prefill_workers"):
            pools = f" {self.layout['prefill_workers']}P{self.layout.get('decode_workers', 1)}D"
        more = "" if self.beside is None else f" + {self.beside.short()}"
        return f"{' '.join(degrees) or '1 chip'}{pools} {self.weights}{more}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeCandidate:
    """One row of the ranking: a fleet, what it gives and costs; latencies as simulated, seconds."""

    fleet: Fleet
    usd_per_hour: float | None
    usd_per_m_output: float | None
    """US dollars a million output tokens when all cost is put on them."""
    joules_per_token: float | None
    """A token of output."""
    reached: Mapping[str, float]
    """Target (``p99 ttft``) -> seconds."""
    goodput_share: float | None
    """Share of requests that meet every target's limit; None where nothing was simulated."""
    meets: bool
    simulated: bool
    """False where only the closed form has looked at it."""
    note: str = ""
    price_type: str = ""
    """on-demand, spot, ...; empty without a price."""
    capacity_per_s: float | None = None
    """Requests a second that the fleet without its spares works off for ever."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeSearch:
    """How much was looked at."""

    screened: int
    """Configurations the closed form has answered."""
    chips: int
    """Kinds of accelerator tried."""
    simulated: int
    """Fleets the discrete-event simulation has run."""
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ServePlan(Shown):
    """The demand, the fleet, every estimate and what it rests on.

    ``estimates`` holds ttft, tpot and e2e at p50, p95 (or what the targets name) and p99, as
    ttft_p95; capacity (requests a second in a steady state), rate_most (within targets and
    headroom), goodput, cost_per_hour, cost_per_m_input,
    cost_per_m_output, cost_per_m_cached, energy_per_output_token; a key is absent where nothing is
    known (no price).
    """

    format: int = SERVE_PLAN_FORMAT
    kind: Literal["serve"] = "serve"
    weftline: str
    catalog_date: str
    demand: ServeDemand
    parameters: int
    active_parameters: int
    fleet: Fleet
    estimates: Mapping[str, Estimate]
    step_parts: tuple[Part, ...]
    """Of one decode step at the mean load, seconds."""
    memory_parts: tuple[Part, ...]
    """Of one chip, bytes."""
    price: PriceQuote | None
    why: tuple[str, ...]
    flips: tuple[str, ...]
    ranking: tuple[ServeCandidate, ...]
    """The cheapest of each accelerator that meets the targets, then the nearest misses."""
    pareto: tuple[ServeCandidate, ...]
    """No other is better in cost, first-token time and time per token at once."""
    without_plan: tuple[Rejection, ...]
    search: ServeSearch
    occupancy: Mapping[str, float] = field(default_factory=dict)
    """Means of the simulation: batch, waiting, kv_share, thrown_out_share, working_share (of the
    time, with any request in work); busy_share is the rate over the steady-state throughput."""
    daily: Mapping[str, float] = field(default_factory=dict)
    """Where a day's curve was asked for, autoscaling beside the fixed fleet: replicas_least,
    replicas_most, replicas_fixed, replica_hours_scaled, replica_hours_fixed, saved_share,
    usd_per_day_scaled, usd_per_day_fixed (spares included), usd_per_m_output_scaled, late_share,
    longest_wait_s, replica_start_s, headroom_for_growth, mean_rate_per_s."""
    batch: Mapping[str, float] = field(default_factory=dict)
    """Where a batch was asked for: requests, deadline_s, done_s (all chips busy from the start on),
    usd, usd_per_m_tokens (prompts and answers together), joules."""
    launch: Mapping[str, str] = field(default_factory=dict)
    """Settings that one engine process is started with, in its own words; "" for a bare flag."""
    launch_beside: Mapping[str, str] = field(default_factory=dict)
    """The same of a second kind of replicas."""
    asked: Mapping[str, str | bool | float] = field(default_factory=dict)
    """The question as fields of a job file: what makes this plan again."""
    model_notes: tuple[str, ...] = ()
    """What of the model is not counted (a vision tower), or was taken for granted."""
    load_curve: tuple[LoadPoint, ...] = ()
    """The fleet at other rates, least first: until it breaks a promise."""
    latency_curves: Mapping[str, tuple[tuple[float, float], ...]] = field(default_factory=dict)
    """Metric -> (share of the requests, seconds that so many keep), as simulated."""
    speeds: Mapping[str, tuple[SpeedPoint, ...]] = field(default_factory=dict)
    """Accelerator -> configurations that none of its own beats in speed of a user and output of a
    chip at once, slowest first: by the closed form, whatever the targets."""

    def __repr__(self) -> str:
        """The answer in a few lines; ``to_frame()`` and the fields have the rest."""
        money = self.estimates.get("cost_per_hour")
        fleet = self.fleet
        return (
            f"ServePlan({self.demand.model}: {fleet.counted()}\n"
            f"          {self.demand.rate_per_s:g} requests/s"
            f"{'' if money is None else ', ' + format_usd(money.value) + ' an hour'}; "
            f"best of {len(self.ranking)} in .ranking)"
        )

    def to_frame(self) -> Any:
        """The ranking as a pandas DataFrame: fleet, US dollars, joules, latencies in seconds.

        Raises InputError where pandas is not installed.
        """
        return frame_of([
            {"accelerator": c.fleet.name, "chips": c.fleet.chips, "engine": c.fleet.engine,
             **{name: c.fleet.layout.get(name, 1) for name in ("tp", "pp", "dp", "ep")},
             "weights": c.fleet.weights, "replicas": c.fleet.replicas, "meets": c.meets,
             "usd_per_hour": c.usd_per_hour, "usd_per_m_output": c.usd_per_m_output,
             "joules_per_token": c.joules_per_token, **c.reached, "note": c.note}
            for c in self.ranking
        ])  # fmt: skip
