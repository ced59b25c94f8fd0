"""What the user wants served: one frozen value, the same for every fleet that is tried."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, get_args

from weftline.spec.job import PriceType
from weftline.spec.serve_plan import Target
from weftline.spec.traffic import Traffic

Routing = Literal["round-robin", "least-loaded", "prefix-aware"]
ROUTINGS: Final[tuple[Routing, ...]] = get_args(Routing)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeSpace:
    """What may be tried."""

    chips: tuple[str, ...] = ()
    """Catalogue names; empty for all that can be bought."""
    engines: tuple[str, ...] = ()
    """Empty for every engine that runs on the chip."""
    formats: tuple[str, ...] = ("bf16", "fp8")
    kv: str = "bf16"
    disaggregated: bool = False
    """Try groups of prefill and decode workers too."""
    prefill_chips: tuple[str, ...] = ()
    """Chips that workers for prompts may have beside those of ``chips``, which then decode; empty
    for the same."""
    mix: bool = False
    """Try fleets of two chips behind one router too."""
    max_replica_chips: int = 64
    layout: Mapping[str, int] = field(default_factory=dict)
    """Degrees of a replica that are fixed: tp, pp, dp, ep."""
    max_batch: int | None = None
    """Sequences that may run at once in a replica; the engine's own number if None."""
    engine_version: str = ""
    """Release of the one engine that is named; a recent one if empty."""
    prefix_cache: bool = False
    policy: str = ""
    """What queries see in the place of full attention (:mod:`weftline.spec.attention_text`)."""
    spec_method: str = "none"
    spec_tokens: int = 0
    spec_acceptance: float = 0.7
    cache_hit: float = 0.0
    """Share of every prompt's tokens that a prefix cache is said to find."""
    offload_bytes: float = 0.0
    """Memory of a replica beside its chips' that keeps what the prefix cache pushes out."""
    offload_bytes_per_s: float = 0.0
    """From there to one chip; the memory's usual rate where 0."""
    lora: tuple[int, int, int] | None = None
    """Adapters over the one base model, their rank, those a replica holds at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeJob:
    """What is asked: the model, its traffic, and how it may be served."""

    model: str
    targets: tuple[Target, ...]
    rate_per_s: float
    input_tokens: float = 0.0
    output_tokens: float = 0.0
    spread: float = 0.0
    """Sigma of log-normal lengths; 0 for equal ones. Only without a trace."""
    burstiness: float = 1.0
    trace: Traffic | None = None
    """Real requests, already at ``rate_per_s``."""
    trace_from: str = ""
    """The bundled name or the file that the trace was read from, to ask again."""
    sessions: tuple[int, float, int, int] | None = None
    """Of drawn sessions: requests, mean seconds between them, new tokens in each, tokens shared by
    all at the start."""
    seed: int = 0
    price_types: tuple[PriceType, ...] = ("on-demand",)
    """Each fleet is priced in every one of these, and they compete."""
    region: str | None = None
    own_prices: Mapping[str, float] = field(default_factory=dict)
    """US dollars a chip-hour that replace the catalogue's, by chip; ``*`` for every other one."""
    discounts: Mapping[str, float] = field(default_factory=dict)
    """Share taken off list prices, by seller; ``*`` for every other one."""
    own_chips: tuple[Mapping[str, Any], ...] = ()
    """Chips of the user's own and changed figures, as :mod:`weftline.catalog.own` reads them."""
    headroom: float = 0.2
    """Share of the fleet's steady-state throughput that stays free."""
    within: float = 0.95
    """Share of requests that must keep every limit of that percentile."""
    routing: Routing = "least-loaded"
    space: ServeSpace = field(default_factory=ServeSpace)
    daily: str = ""
    """Peak over mean of a day's load, of which the rate is the peak, or a file of its rates."""
    replica_start_s: float | None = None
    """Until a new replica serves; worked out from its weights if None."""
    batch: tuple[float, float] | None = None
    """Of work that waits: requests, and seconds until all must be done. The rate is their ratio."""
    max_chips: int | None = None
    """Of the whole fleet, spares not counted."""
    supply: Mapping[str, int] = field(default_factory=dict)
    """Chips there are of one kind, by name; without limit where it is not named."""
