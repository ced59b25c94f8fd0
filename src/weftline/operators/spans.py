"""How far queries reach: spans of causal, windowed and chunked attention."""

from __future__ import annotations

import numpy as np

from weftline.operators.surface import FloatArray, Number

WINDOW_TILE = 128.0
"""A window's edge falls inside a tile of keys: one tile more is read."""


def mean_span(tokens: Number, context: Number, window: Number | None) -> FloatArray:
    """Keys a query sees in the mean: queries ``context`` + 1 .. ``context`` + ``tokens``, causal.

    With a window, queries before position ``window`` see all before them, the rest ``window``.
    Counts half the diagonal, as a triangle does: without context or window it is tokens / 2.
    """
    tokens = np.asarray(tokens, dtype=np.float64)
    context = np.asarray(context, dtype=np.float64)
    if window is None:
        return np.asarray(context + tokens / 2.0)
    reach = np.maximum(np.asarray(window, dtype=np.float64), 1.0)
    growing = np.clip(reach - context, 0.0, tokens)
    seen = growing * (np.minimum(context, reach) + growing / 2.0)
    return np.asarray((seen + (tokens - growing) * reach) / tokens)


def decode_span(context: Number, window: Number | None) -> FloatArray:
    """Cached keys one decoding query reads: all, or a window and the tile its edge falls in."""
    reach = np.maximum(np.asarray(context, dtype=np.float64), 1.0)
    if window is None:
        return reach
    edge = np.asarray(window, dtype=np.float64)
    return np.where(reach > edge, np.minimum(reach, edge + WINDOW_TILE), reach)
