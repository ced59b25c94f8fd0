"""How the own engine is run, as a user says it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["EngineOptions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """How the own engine runs a model."""

    dtype: Literal["auto", "fp32", "bf16"] = "auto"
    """Of the products; auto measures which is faster on this machine."""
    weights: Literal["as-is", "int8"] = "as-is"
    """int8 keeps one byte and a scale a row of every matrix in the layers."""
    kv: Literal["auto", "fp32", "bf16", "int8"] = "auto"
    """Number format of the KV cache; auto takes that of the products."""
    kv_memory: str = "25%"
    """Of the KV cache: bytes (2GB), or a share of the memory that is free."""
    page: int = 64
    """Tokens a page of it, a multiple of 16 up to 256."""
    max_len: int | None = None
    """Tokens a sequence, prompt and answer; the model's own limit if not given."""
    max_sequences: int = 64
    """Sequences that run at once."""
    chunk_tokens: int = 512
    """Tokens a step: prompts are cut to what decoding leaves of it."""
    max_waiting: int = 256
    """Requests that may wait; one more is told to come back (429)."""
    prefix_cache: bool = True
    """Keep pages of past prompts for those that begin alike."""
