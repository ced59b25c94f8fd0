"""Model types by what has been shown of them here."""

from __future__ import annotations

from typing import Final

__all__ = ["PIPELINED"]

PIPELINED: Final = frozenset({"llama", "mistral", "qwen3", "qwen3_moe", "gemma"})
"""Types whose later stages go on from hidden states: no factor on the embeddings in between, no
mask that only the first stage could make. Held by tests; others may be right."""
