"""One point of load on a server and what was measured, whoever measured it."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ServedRow"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedRow:
    """One point of load and what was measured; seconds and tokens."""

    model: str
    harness: str
    requests: int
    failed: int
    concurrency: float | None
    rate_per_s: float | None
    input_tokens: float
    """Mean of a prompt."""
    output_tokens: float
    ttft_p50_s: float
    ttft_p99_s: float
    tpot_p50_s: float | None
    tpot_p99_s: float | None
    output_tokens_per_s: float
    """Of all requests together, from the first sent to the last answered."""
    seed: int | None = None
