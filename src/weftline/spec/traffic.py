"""Requests over time: the noun that traces are read into and fleets are played with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Requests in order of arrival; arrays of one length N."""

    name: str
    arrived_s: Floats
    """When each comes, seconds from the start, never decreasing."""
    prefill_tokens: Ints
    """Tokens of each prompt, at least 1."""
    decode_tokens: Ints
    """Tokens of each answer, at least 1."""
    hash_starts: Ints | None = None
    """[N + 1]: request i has the prefix blocks ``hash_ids[hash_starts[i]:hash_starts[i + 1]]``."""
    hash_ids: Ints | None = None
    """Prefix blocks from the front of the prompt; equal ids mean equal text up to there."""
    hash_block_tokens: int = 512
    """Tokens of one prefix block, the last of a prompt may be short; Mooncake's traces have 512."""
    follows: Ints | None = None
    """[N]: the request whose answer this one waits for (an agent's turn before), -1 for none.
    ``arrived_s`` of those that follow is nominal, as if answers took no time."""
    wait_s: Floats | None = None
    """[N]: seconds from the end of that answer to this request: a tool, a reader."""
    seed: int | None = None
    """Set where chance had a part in it."""

    @property
    def requests(self) -> int:
        """How many there are."""
        return int(self.arrived_s.size)

    @property
    def span_s(self) -> float:
        """From the first arrival to the last, with one mean gap after it, seconds."""
        n = self.requests
        first_to_last = float(self.arrived_s[-1] - self.arrived_s[0])
        return first_to_last * n / (n - 1) if n > 1 and first_to_last > 0 else 1.0

    @property
    def rate_per_s(self) -> float:
        """Mean requests a second."""
        return self.requests / self.span_s

    @property
    def burstiness(self) -> float:
        """Squared coefficient of variation of the gaps: 1 for Poisson, more for bursts."""
        gaps = self.arrived_s[1:] - self.arrived_s[:-1]
        mean = float(gaps.mean()) if gaps.size else 0.0
        return float(gaps.var() / mean**2) if mean > 0 else 1.0
