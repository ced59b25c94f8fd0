"""What a model answers under an attention policy beside what it answers under full attention."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["QualityRow"]


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityRow:
    """One policy, measured on the same texts as full attention."""

    model: str
    """Its name, as its config is called."""
    policy: str
    """As :func:`weftline.spec.attention_text.parse_policy` reads it; ``dense``."""
    density: float
    """Share of the entries of full attention that queries saw, mean over layers."""
    tokens: int
    """Of a text, needles and questions among them."""
    texts: int
    """Documents times depths and seeds."""
    perplexity: float
    """Teacher-forced, of the texts alone."""
    needles_found: int
    """Facts of which every token was the most likely one, asked for at the end of the text."""
    needles: int
    digits_found: float
    """Share of their tokens."""
    kl_nats: float
    """Mean divergence of the next token's distribution from full attention's."""
    logprob_difference: float
    """Mean absolute difference of the log probabilities of the true tokens, nats."""
    same_choice: float
    """Share of positions with the same most likely token."""
    seed: int
    date: str
    predicted_speed: float | None = None
    """Time of a prompt under full attention over that under the policy, by the planner."""
    measured_speed: float | None = None
    predicted_decode_speed: float | None = None
    """The same of a token after it."""
    measured_decode_speed: float | None = None
    measured_with: str = ""
    """What that was timed with."""
