"""One measured serving point: what was run, and what was measured. Readers of files make these."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from weftline.serve.calibrate.harness import Limits
from weftline.serve.calibrate.names import family_of
from weftline.serve.engine.launch_settings import DEFAULT, Launch

__all__ = ["Layout", "Row", "Unanswered", "with_throughput"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """One worker's layout and how many workers there are."""

    tp: int = 1
    pp: int = 1
    dp: int = 1
    ep: int = 1
    workers: int = 1

    @property
    def moe_tp(self) -> int:
        """Ways one expert is split."""
        return max(self.tp * self.dp // self.ep, 1)

    @property
    def chips(self) -> int:
        """Chips of all workers."""
        return self.tp * self.pp * self.dp * self.workers

    @property
    def kind(self) -> str:
        """``dp`` with attention data parallelism, else ``ep``, ``tp`` or ``one``."""
        return "dp" if self.dp > 1 else "ep" if self.ep > 1 else "tp" if self.tp > 1 else "one"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One measured point. Times in seconds, lengths in tokens (means over requests)."""

    id: str
    model: str
    chip: str
    engine: str
    version: str
    era: str
    """Year and month it was measured, or empty."""
    precision: str
    gemm_dtype: str
    moe_dtype: str
    kv_dtype: str
    layout: Layout
    prefill: Layout | None = None
    input_tokens: float
    output_tokens: float
    concurrency: float
    """Requests in flight over all workers."""
    max_batch: float = float("inf")
    """Sequences one replica may run, where that is known to bind."""
    scenario: str = "closed"
    """``closed`` loop, ``offline`` (as fast as it goes) or ``static`` batch."""
    drafted: int = 0
    """Tokens drafted a step where the run is known to use multi-token prediction."""
    launch: Launch = DEFAULT
    """How the server was started, where that is public."""
    ttft_s: float | None = None
    tpot_s: float | None = None
    output_tokens_per_s: float | None = None
    """A chip; stated, or derived from concurrency and both times (``derived`` tells)."""
    derived: bool = False
    """Whether the rate was worked out from the times."""
    source: str = ""
    harness: str = ""
    """Who drove the load (``harness.HARNESSES``): decides lengths and what the statistics are."""
    limits: Limits | None = None
    """What the harness held 99 % of requests to when it sought the highest rate."""
    notes: tuple[str, ...] = field(default=())

    @property
    def family(self) -> str:
        """Sibling names are one family: no sibling of a left-out model stays in a fit."""
        return family_of(self.model)

    @property
    def run(self) -> str:
        """What was set up and measured together: model, chip and engine."""
        return f"{self.family}|{self.chip}|{self.engine}"

    @property
    def mode(self) -> str:
        """``disagg`` where prefill has workers of its own, else ``agg``."""
        return "disagg" if self.prefill else "agg"

    @property
    def chips(self) -> int:
        """All chips."""
        return self.layout.chips + (self.prefill.chips if self.prefill else 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unanswered:
    """A row that is not predicted, and why."""

    id: str
    chip: str
    engine: str
    model: str
    reason: str
    where: str = ""
    """File and line."""
    stated: bool = False
    """Whether the row does state its configuration (and something else is wrong)."""


def with_throughput(row: Row) -> Row:
    """The row with output tokens a second and chip, from Little's law where not stated.

    In a closed loop ``concurrency`` requests are always in flight, each for TTFT + (output - 1)
    TPOT, so that many requests end in that time.
    """
    if row.ttft_s is None or row.tpot_s is None or row.output_tokens_per_s is not None:
        return row
    each = row.ttft_s + (row.output_tokens - 1.0) * row.tpot_s
    rate = row.concurrency * row.output_tokens / each / row.chips
    return replace(row, output_tokens_per_s=rate, derived=True)
