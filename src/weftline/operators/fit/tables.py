"""Fit every measured table: ``python -m weftline.operators.fit.tables KERNELS -o DATA``.

``KERNELS`` is the folder with ``aiconfigurator_apache2`` and ``llmservingsim_mit`` below it. Each
table is fitted twice: without every fifth group of shapes, to state its error on rows it has not
seen, and on all rows, which is what ships. Grids and smoothness were chosen with the H200's and
B200's held-out errors in view; no serving measurement was.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from weftline.operators import tables
from weftline.operators.chips import chip_of
from weftline.operators.fit.base import (
    CHIPS,
    DECODE_AXES,
    FORMAT_NAMES,
    GROUP_AXIS,
    HEADS_AXIS,
    Family,
    fit_both,
    leave_out,
    table_path,
)
from weftline.operators.fit.profiles import profiles
from weftline.operators.fit.rows import Columns, fastest, read_columns, where
from weftline.operators.roofline import Work, decode_work, gemm_work, prefill_work
from weftline.operators.surface import FloatArray, Surface

GEMM_AXES: list[list[float]] = [
    [1, 8, 16, 32, 64, 128, 192, 256, 512, 1024, 2048, 4096, 8192, 32768],
    [32, 128, 256, 512, 1024, 1536, 2048, 3072, 4096, 6144, 8192, 12288, 16384, 65536],
    [32, 128, 256, 512, 1024, 1536, 2048, 3072, 4096, 6144, 8192, 12288, 16384, 65536],
]
# The blockwise fp8 kernels were timed with their launches on the host's path: below about these
# times the row is the host's, not the chip's. Such rows are left out and the per-tensor table
# stands in for them.
HOST_BOUND_S = {"h100-sxm": 200e-6, "h200-sxm": 200e-6, "b200": 450e-6}


def start(chip: str, quantisation: str, work: Work, launch_s: float) -> FloatArray:
    """What corners without rows fall back to: launch and the roofline at 70 % of both peaks."""
    known = chip_of(chip)
    ideal = work.seconds(known.peak_flops(quantisation), known.bandwidth_bytes_per_s)
    return np.asarray(np.log2(launch_s + ideal / 0.7))


def gemm(kernels: Path) -> Family:
    """Tables of dense products over (m, n, k)."""
    family = Family("gemm")
    for chip in CHIPS:
        path = table_path(kernels, chip, "gemm_perf")
        if path is None:
            continue
        rows = read_columns(path)
        fitted: dict[str, Surface] = {}
        for raw, key in FORMAT_NAMES.items():
            chosen = (rows["gemm_dtype"] == raw) & _aligned(rows["m"])
            mine = fastest(where(rows, chosen), ["m", "n", "k"])
            seconds = mine["latency"] * 1e-3
            grid = np.meshgrid(*[np.asarray(a) for a in GEMM_AXES], indexing="ij")
            options: dict[str, Any] = {"prior": start(chip, key, gemm_work(key, *grid), 3e-6)}
            if key == "fp8_block":
                keep = seconds > HOST_BOUND_S[chip] if chip in HOST_BOUND_S else seconds > 0
                mine, seconds = where(mine, keep), seconds[keep]
                if not keep.any():
                    continue
                options = {"prior": fitted["fp8"].log2_s, "prior_weight": 0.5}
            if not len(seconds):
                continue
            sizes = [mine["m"], mine["n"], mine["k"]]
            surface, held = fit_both(GEMM_AXES, sizes, seconds, [sizes[1], sizes[2]], **options)
            fitted[key] = surface
            family.add("gemm", chip, key, GEMM_AXES, surface, len(seconds), held)
    return family


def _aligned(m: FloatArray) -> npt.NDArray[np.bool_]:
    """Numbers of tokens an engine really runs: captured graphs pad batches to multiples of 8.

    The tables also time one token more than each tile (129, 257...): on fp8 kernels those fall on
    an unaligned path up to 60 % slower, which would blur into their neighbours.
    """
    return np.asarray((m <= 16) | (m % 8 == 0), dtype=np.bool_)


PREFILL_AXES: list[list[float]] = [
    [1, 16, 64, 128, 256, 512, 1024, 1536, 2048, 4096, 8192, 16384], HEADS_AXIS, GROUP_AXIS
]  # fmt: skip
ATTENTION_KEYS = ["batch_size", "num_heads", "num_key_value_heads", "length"]


def attention(kernels: Path) -> Family:
    """Tables of attention over (length, sequences x kv heads, heads a kv head)."""
    family = Family("attention")
    for chip in CHIPS:
        for operator, name in (
            ("decode", "generation_attention_perf"), ("prefill", "context_attention_perf")
        ):  # fmt: skip
            path = table_path(kernels, chip, name)
            if path is None:
                continue
            rows = read_columns(path)
            rows["length"] = rows["step"] + 1 if operator == "decode" else rows["isl"]
            rows.setdefault("window_size", np.zeros(len(rows["length"])))
            for size in (64, 128, 192, 256):
                for raw, kv in (("bfloat16", "bf16"), ("fp8", "fp8")):
                    keep = (
                        (rows["head_dim"] == size)
                        & (rows["kv_cache_dtype"] == raw)
                        & (rows["window_size"] == 0)
                    )
                    if keep.any():
                        one_attention(family, operator, chip, f"{size}/{kv}", where(rows, keep))
    return family


def one_attention(family: Family, operator: str, chip: str, key: str, rows: Columns) -> None:
    """Fit one head size and cache format."""
    mine = fastest(rows, ATTENTION_KEYS)
    axes = DECODE_AXES if operator == "decode" else PREFILL_AXES
    kv_heads = mine["num_key_value_heads"]
    sizes = [
        np.maximum(mine["length"], axes[0][0]),
        mine["batch_size"] * kv_heads,
        mine["num_heads"] / kv_heads,
    ]
    # On the A100 one head a cache is decoded without splitting the cache: few sequences of
    # multi-head attention are four times slower than of any other. No model is served that way.
    odd = (sizes[2] == 1) & (sizes[1] < 64) & (operator == "decode") & (chip == "a100-80-sxm")
    mine = where(mine, ~odd)
    sizes = [s[~odd] for s in sizes]
    kv_heads = kv_heads[~odd]
    dim, kv = int(key.split("/", maxsplit=1)[0]), key.split("/")[1]
    grid = np.meshgrid(*[np.asarray(a) for a in axes], indexing="ij")
    if operator == "decode":
        work = decode_work(kv, dim, grid[0], grid[1], grid[2])
    else:
        work = prefill_work(kv, dim, grid[0], grid[0] / 2.0, grid[1], grid[2])
    prior = start(chip, "bf16", work, 10e-6)
    groups = [mine["batch_size"], mine["num_heads"], kv_heads]
    surface, held = fit_both(axes, sizes, mine["latency"] * 1e-3, groups, prior=prior)
    family.add(operator, chip, key, axes, surface, len(mine["latency"]), held)


FITS: dict[str, Callable[[Path], Family]] = {"gemm": gemm, "attention": attention}


def main() -> None:
    """Fit all families, or those named."""
    from weftline.operators.fit.experts import experts
    from weftline.operators.fit.others import others
    from weftline.operators.fit.windows import windows

    fits = FITS | {"window": windows, "moe": experts, "other": others, "profile": profiles}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kernels", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--only", choices=sorted(fits), action="append")
    parser.add_argument("--leave-out", action="store_true", help="fit without the held-out rows")
    arguments = parser.parse_args()
    if arguments.leave_out:
        leave_out()
        tables.read_from(arguments.output)
    for name in arguments.only or fits:
        fits[name](arguments.kernels).write(arguments.output)


if __name__ == "__main__":
    main()
