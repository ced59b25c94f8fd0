"""A short key of what a model computes: two configs of one key are one model, whatever its name."""

from __future__ import annotations

import hashlib

from weftline.model.ir import Model
from weftline.model.once import once_per_model

__all__ = ["model_key"]

_DIGITS = 16


@once_per_model
def model_key(model: Model) -> str:
    """Of the operators of its layers and ends, which are frozen nouns with a stable text."""
    text = repr((model.layers, model.embedding, model.head))
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]
