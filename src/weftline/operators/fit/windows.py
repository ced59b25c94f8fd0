"""Fit what a window changes beyond the shorter reach: other kernels, tiles cut by the edge.

Run after the attention tables are written: a window is first priced from the full tables (as
triangles twice the window long; as a cache of window + one tile), and only the ratio of measured to
priced time is fitted, over (tokens, streams, group) for prompts and (streams, group) for decoding.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from weftline.operators.chips import chip_of
from weftline.operators.fit.base import CHIPS, Family, leaving_out, table_path
from weftline.operators.fit.monotone import design, errors_pct, held_out, second_differences
from weftline.operators.fit.rows import Columns, fastest, read_columns, where
from weftline.operators.measured import MeasuredTables
from weftline.operators.spans import decode_span, mean_span
from weftline.operators.surface import FloatArray, Surface, log2_axis

DECODE_WINDOW_AXES: list[list[float]] = [
    [1, 4, 16, 32, 64, 128, 256, 512, 1024, 2048], [1, 2, 4, 8, 16, 64]
]  # fmt: skip
PREFILL_WINDOW_AXES: list[list[float]] = [
    [128, 256, 512, 1024, 2048, 4096, 16384], [1, 4, 8, 16, 32, 64, 256, 1024], [1, 4, 16, 64]
]  # fmt: skip
REFERENCE = {64: 128, 128: 128, 192: 128, 256: 1024}
"""The window each head size's ratio is fitted at; others fade from it (see ``measured``)."""
_SMOOTH = 0.05
_SHRINK = 0.3
"""Weight of "no difference" at each node, in rows: corners without rows keep the plain price."""
_KEYS = ["batch_size", "num_heads", "num_key_value_heads", "length"]


def windows(kernels: Path) -> Family:
    """Ratios of windowed to priced times, by chip, head size and cache format."""
    family = Family("window")
    for chip in CHIPS:
        tables = MeasuredTables(chip_of(chip))
        for operator, name in (
            ("decode", "generation_attention_perf"), ("prefill", "context_attention_perf")
        ):  # fmt: skip
            path = table_path(kernels, chip, name)
            rows = read_columns(path) if path else {}
            if "window_size" not in rows:
                continue
            rows["length"] = rows["step"] + 1 if operator == "decode" else rows["isl"]
            for size, window in REFERENCE.items():
                for raw, kv in (("bfloat16", "bf16"), ("fp8", "fp8")):
                    keep = (rows["head_dim"] == size) & (rows["kv_cache_dtype"] == raw)
                    keep &= (rows["window_size"] == window) & (rows["length"] > window)
                    if keep.any():
                        _one(family, tables, operator, (size, kv, window), where(rows, keep))
    return family


def _one(
    family: Family,
    tables: MeasuredTables,
    operator: str,
    kind: tuple[int, str, int],
    rows: Columns,
) -> None:
    size, kv, window = kind
    mine = fastest(rows, _KEYS)
    kv_heads = mine["num_key_value_heads"]
    streams, group = mine["batch_size"] * kv_heads, mine["num_heads"] / kv_heads
    length = mine["length"]
    measured = mine["latency"] * 1e-3
    if operator == "decode":
        axes, sizes = DECODE_WINDOW_AXES, [streams, group]
        plain = tables.decode_s(kv, decode_span(length, window), streams, group, size)
    else:
        axes, sizes = PREFILL_WINDOW_AXES, [length, streams, group]
        span = mean_span(length, 0.0, window)
        plain = tables.prefill_s(kv, length, span, streams, group, size)
    held = held_out(np.stack([mine["batch_size"], mine["num_heads"], kv_heads], axis=1))
    ratio = measured / plain
    errors: dict[str, float] = {}
    if held.any():
        part = _ratio_surface(axes, [s[~held] for s in sizes], ratio[~held])
        errors = errors_pct(part.seconds(*[s[held] for s in sizes]) * plain[held], measured[held])
    surface = part if leaving_out() and held.any() else _ratio_surface(axes, sizes, ratio)
    key = f"{size}/{kv}"
    family.add(operator, tables.chip.name, key, axes, _as_us(surface), len(ratio), errors)


def _ratio_surface(axes: list[list[float]], sizes: list[FloatArray], ratio: FloatArray) -> Surface:
    """Log2 of the ratio on a grid, smooth, shrunk towards none where rows are few."""
    from scipy import sparse
    from scipy.sparse.linalg import spsolve

    grid = [log2_axis(a) for a in axes]
    a = design(grid, sizes)
    bend = second_differences(grid)
    y = np.log2(ratio)
    fixed = _SMOOTH * (bend.T @ bend) + _SHRINK * sparse.identity(a.shape[1])
    weights = np.ones(len(y))
    found = np.zeros(a.shape[1])
    for _ in range(3):
        weighted = a.multiply(weights[:, None]).tocsr()
        found = spsolve((weighted.T @ a + fixed).tocsc(), weighted.T @ y)
        weights = np.minimum(1.0, 0.25 / np.maximum(np.abs(a @ found - y), 1e-12))
    return Surface(tuple(grid), np.asarray(found).reshape([len(x) for x in axes]))


def _as_us(surface: Surface) -> Surface:
    """Ratios are kept like times: 1 microsecond stands for a ratio of one."""
    return Surface(surface.axes, surface.log2_s + float(np.log2(1e-6)))
