"""Counters, gauges and histograms in Prometheus' text form."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field

from weftline.runtime.server.engine.loop import Engine

__all__ = ["Histogram", "Metrics"]

_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)


@dataclass(slots=True)
class Histogram:
    """How often values fell under each bound."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(_SECONDS) + 1))
    total: float = 0.0

    def add(self, value: float) -> None:
        """One value, in seconds."""
        self.counts[bisect_left(_SECONDS, value)] += 1
        self.total += value

    def lines(self, name: str) -> list[str]:
        """As Prometheus reads it: counts up to each bound."""
        said, so_far = [], 0
        for bound, count in zip([*map(str, _SECONDS), "+Inf"], self.counts, strict=True):
            so_far += count
            said.append(f'{name}_bucket{{le="{bound}"}} {so_far}')
        return [*said, f"{name}_sum {self.total:.6f}", f"{name}_count {so_far}"]


@dataclass(slots=True)
class Metrics:
    """What the server has seen."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    generation_tokens: int = 0
    finished: dict[str, int] = field(default_factory=dict)
    refused: dict[int, int] = field(default_factory=dict)
    preemptions: int = 0
    ttft_s: Histogram = field(default_factory=Histogram)
    tpot_s: Histogram = field(default_factory=Histogram)
    latency_s: Histogram = field(default_factory=Histogram)

    def text(self, engine: Engine) -> str:
        """Everything, with the engine's state."""
        scheduler, pages = engine.scheduler, engine.pages
        plain: tuple[tuple[str, str, str, float], ...] = (
            ("num_requests_running", "gauge", "Sequences that run.", len(scheduler.running)),
            ("num_requests_waiting", "gauge", "Requests that wait.", len(scheduler.waiting)),
            ("kv_pages", "gauge", "Pages of the KV cache.", pages.count),
            ("kv_pages_held", "gauge", "Pages that sequences hold.", pages.held),
            ("kv_pages_cached", "gauge", "Pages kept for prompts that begin alike.", pages.cached),
            ("kv_cache_usage_perc", "gauge", "Share of pages held.", pages.held / pages.count),
            ("prompt_tokens_total", "counter", "Tokens of prompts.", self.prompt_tokens),
            ("cached_tokens_total", "counter", "Of them, found cached.", self.cached_tokens),
            ("generation_tokens_total", "counter", "Tokens made.", self.generation_tokens),
            ("preemptions_total", "counter", "Sequences begun again.", self.preemptions),
            ("steps_total", "counter", "Steps of the engine.", engine.steps),
        )
        said: list[str] = []
        for name, kind, what, value in plain:
            said += [f"# HELP weftline_{name} {what}", f"# TYPE weftline_{name} {kind}",
                     f"weftline_{name} {value:g}"]  # fmt: skip
        said += ["# HELP weftline_request_success_total Requests answered, by how they ended.",
                 "# TYPE weftline_request_success_total counter"]  # fmt: skip
        said += [f'weftline_request_success_total{{finished_reason="{k}"}} {v}'
                 for k, v in sorted(self.finished.items())]  # fmt: skip
        said += ["# HELP weftline_request_refused_total Requests refused, by status.",
                 "# TYPE weftline_request_refused_total counter"]  # fmt: skip
        said += [f'weftline_request_refused_total{{status="{k}"}} {v}'
                 for k, v in sorted(self.refused.items())]  # fmt: skip
        for name, what, histogram in (
            ("time_to_first_token_seconds", "From arrival to the first token.", self.ttft_s),
            ("time_per_output_token_seconds", "Between tokens, mean of a request.", self.tpot_s),
            ("e2e_request_latency_seconds", "From arrival to the last token.", self.latency_s),
        ):
            said += [f"# HELP weftline_{name} {what}", f"# TYPE weftline_{name} histogram",
                     *histogram.lines(f"weftline_{name}")]  # fmt: skip
        return "\n".join(said) + "\n"
