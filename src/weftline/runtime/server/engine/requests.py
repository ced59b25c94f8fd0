"""A request: what is asked, how far it is, what came of it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

__all__ = ["Finish", "Logprobs", "Request", "Sampling", "Token"]

Finish = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How tokens are chosen."""

    max_tokens: int = 16
    temperature: float = 1.0
    """0 takes the likeliest."""
    top_p: float = 1.0
    """Only the likeliest whose chances sum to this."""
    top_k: int = 0
    """Only this many of the likeliest; 0 takes all."""
    seed: int = 0
    """The draw of token i follows from seed and i alone, whatever else runs."""
    presence_penalty: float = 0.0
    """Taken off the logits of tokens that the answer has."""
    frequency_penalty: float = 0.0
    """The same, for each time."""
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    """Added to the logits of tokens."""
    ignore_eos: bool = False
    """Go on to ``max_tokens``."""
    min_tokens: int = 0
    """No end before that many."""
    stop_ids: frozenset[int] = frozenset()
    """Tokens that end the answer, beside the model's own."""
    logprobs: int | None = None
    """Alternatives told with each token; None tells nothing."""
    prompt_logprobs: bool = False
    """The same for the prompt, which then is computed in full."""


@dataclass(frozen=True, slots=True)
class Logprobs:
    """Of one token: its own natural logarithm, and the likeliest with theirs."""

    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class Token:
    """One token of an answer."""

    id: int | None
    """None where the answer ends without one more (a prompt that was only to be rated)."""
    logprobs: Logprobs | None
    finish: Finish | None
    """Why it is the last; None while it is not."""


@dataclass(slots=True, eq=False)
class Request:
    """One sequence on its way."""

    prompt: tuple[int, ...]
    sampling: Sampling
    tokens: list[int] = field(default_factory=list)
    """Prompt and answer."""
    done: int = 0
    """Tokens whose keys and values are in the cache."""
    pages: list[int] = field(default_factory=list)
    """The page of each slot; 0 where it was given back early."""
    keys: list[bytes] = field(default_factory=list)
    """Of the full pages, in order."""
    cached_tokens: int = 0
    """Tokens found in the prefix cache when it began."""
    prompt_logprobs: list[Logprobs | None] = field(default_factory=list)
    arrived: float = field(default_factory=time.perf_counter)
    first_token_at: float | None = None
    last_token_at: float | None = None
    preempted: int = 0
    cancelled: bool = False

    def __post_init__(self) -> None:
        self.tokens = list(self.prompt)

    @property
    def generated(self) -> int:
        """Tokens of the answer so far."""
        return len(self.tokens) - len(self.prompt)
