"""Fit the expert layers: time over (routed pairs, experts used, expert width, hidden size).

Only rows without expert parallelism are used: there the kernel's work is known exactly (every
routed pair is local). What an expert-parallel rank does is the same kernel on its own experts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from weftline.operators.dtypes import number_format
from weftline.operators.fit.base import CHIPS, FORMAT_NAMES, Family, fit_both, table_path
from weftline.operators.fit.rows import Columns, fastest, read_columns, where
from weftline.operators.surface import FloatArray, Surface

EXPERT_AXES: list[list[float]] = [
    [1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144],
    [1, 4, 8, 32, 128, 256, 512],
    [64, 128, 256, 512, 1024, 2048, 4096, 16384],
    [2048, 4096, 6144, 7168],
]
# Dense peaks (FLOP/s) and bandwidth (bytes/s) of the catalogue, for the prior only.
_PEAKS = {
    "a100-80-sxm": {"bf16": 312e12, "bw": 2.039e12},
    "h100-sxm": {"bf16": 989e12, "fp8": 1979e12, "bw": 3.35e12},
    "h200-sxm": {"bf16": 989e12, "fp8": 1979e12, "bw": 4.8e12},
    "b200": {"bf16": 2250e12, "fp8": 4500e12, "fp4": 9000e12, "bw": 7.7e12},
}
SMOOTH = 0.05
_FEW_MODELS = 6
WIDTH_TILE = 64
"""Experts narrower than whole tiles are padded to them."""
_KEYS = ["num_tokens", "hidden_size", "inter_size", "topk", "num_experts", "moe_tp_size"]
# Kernels an engine does not choose for the format where a better one exists on that chip.
_PASSED_OVER = ("marlin_marlinexperts_situ_as_silu", "w4a4mxfp4moe_marlin")


def experts(kernels: Path) -> Family:
    """Tables of routed experts, balanced and with power-law routing."""
    family = Family("moe")
    elsewhere: dict[str, dict[str, float]] = {}
    for chip in CHIPS:
        path = table_path(kernels, chip, "moe_perf")
        if path is None:
            continue
        rows = read_columns(path)
        sources = np.asarray(rows["kernel_source"], dtype=str)
        usable = _sound(rows) & ~np.any(
            [np.char.find(sources, name) >= 0 for name in _PASSED_OVER], axis=0
        )
        balanced = np.char.startswith(np.asarray(rows["distribution"], dtype=str), "balanced")
        whole = rows["moe_ep_size"] == 1
        for raw, key in FORMAT_NAMES.items():
            if key == "fp8" and chip in ("h100-sxm", "h200-sxm"):
                continue  # a per-tensor path several times slower than the blockwise one
            mine = usable & (rows["moe_dtype"] == raw)
            for operator, chosen in (("balanced", balanced), ("skewed", ~balanced)):
                if not (mine & chosen & whole).any():
                    continue
                surface = _one(family, operator, chip, key, where(rows, mine & chosen & whole))
                spread = mine & chosen & (rows["moe_ep_size"] >= 64)
                if operator == "balanced" and spread.any():
                    cost = _elsewhere(chip, surface, where(rows, spread))
                    elsewhere.setdefault(chip, {})[key] = cost
        if chip == "h200-sxm":
            _imbalance(family, rows)
    family.constant(
        "elsewhere",
        elsewhere,
        "balanced rows of 64 and more expert-parallel ranks and 4,096 and more tokens: seconds "
        "beyond the local experts, over the time to read and write every routed row once",
    )
    return family


def _one(family: Family, operator: str, chip: str, key: str, rows: Columns) -> Surface:
    mine = fastest(rows, _KEYS)
    pairs = mine["num_tokens"] * mine["topk"]
    width = mine["inter_size"] / mine["moe_tp_size"]
    sizes = [pairs, np.minimum(pairs, mine["num_experts"]), width, mine["hidden_size"]]
    grid = np.meshgrid(*[np.asarray(a) for a in EXPERT_AXES], indexing="ij")
    options: dict[str, Any] = {
        "prior": np.log2(_prior(chip, key, *grid)),
        "smooth": SMOOTH,
        "outlier": 0.7,
    }
    groups = [mine["hidden_size"], mine["inter_size"], mine["num_experts"]]
    if len(np.unique(np.stack(groups), axis=1).T) < _FEW_MODELS:
        groups.append(mine["num_tokens"])  # too few models to leave whole ones out
    surface, held = fit_both(EXPERT_AXES, sizes, mine["latency"] * 1e-3, groups, **options)
    family.add(operator, chip, key, EXPERT_AXES, surface, len(pairs), held)
    return surface


def _elsewhere(chip: str, surface: Surface, rows: Columns) -> float:
    """What rows routed to other ranks cost a rank that holds them all the same.

    Without a dispatch step every rank sorts, skips and sums all routed rows. The median cost, in
    times of reading and writing each of them once.
    """
    big = where(rows, rows["num_tokens"] >= 4096)
    routed = big["num_tokens"] * big["topk"]
    pairs = routed / big["moe_ep_size"]
    used = np.minimum(pairs, big["num_experts"] / big["moe_ep_size"])
    local = surface.seconds(pairs, used, big["inter_size"], big["hidden_size"])
    once = 4.0 * routed * big["hidden_size"] / _PEAKS[chip]["bw"]
    return round(float(np.median((big["latency"] * 1e-3 - local) / once)), 3)


def _imbalance(family: Family, rows: Columns) -> None:
    """The busiest rank's load over the mean under power-law routing, by ranks.

    From the blockwise fp8 rows of 4,096 and more tokens, where time follows load.
    """
    big = (rows["num_tokens"] >= 4096) & (rows["moe_dtype"] == "fp8_block") & _sound(rows)
    names = ["hidden_size", "inter_size", "num_experts", "topk", "moe_ep_size", "num_tokens"]
    ranks = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0]
    times: dict[str, dict[tuple[float, ...], float]] = {}
    for name in ("balanced", "power_law_1.01", "power_law_1.2"):
        mine = where(rows, big & (rows["distribution"] == name))
        keys = zip(*[mine[n] for n in names], strict=True)
        times[name] = {
            tuple(float(v) for v in k): float(t) for k, t in zip(keys, mine["latency"], strict=True)
        }
    found: dict[str, list[float]] = {}
    for name, alpha in (("power_law_1.01", "1.01"), ("power_law_1.2", "1.2")):
        ratios = [
            [t / times["balanced"][k] for k, t in times[name].items()
             if k[4] == count and k in times["balanced"]]
            for count in ranks
        ]  # fmt: skip
        found[alpha] = [1.0, *(round(float(np.median(r)), 3) for r in ratios[1:])]
        found[alpha] = [float(v) for v in np.maximum.accumulate(found[alpha])]
    family.constant(
        "imbalance",
        {"ranks": ranks, "by_skew": found},
        "h200-sxm, fp8_block, 4,096 and more tokens: power-law over balanced time, median",
    )


def _prior(
    chip: str, key: str, pairs: FloatArray, used: FloatArray, width: FloatArray, hidden: FloatArray
) -> FloatArray:
    """What unseen corners fall back to: launch + products at half the peak + bytes at 3/4."""
    kind = number_format(key)
    peaks = _PEAKS[chip]
    peak = next(peaks[p] for p in kind.peaks if p in peaks)
    used = np.minimum(used, pairs)
    flops = 6.0 * np.maximum(pairs, 8.0 * used) * width * hidden
    moved = 3.0 * used * width * hidden * kind.weight_bytes + 4.0 * pairs * hidden
    return 15e-6 + flops / (0.55 * peak) + moved / (0.75 * peaks["bw"])


def _sound(rows: Columns) -> npt.NDArray[np.bool_]:
    """Rows whose work is what their columns say.

    DeepSeek's router picks whole groups of experts; with the tables' tied logits it always picks
    the first ones, and about half of the experts are never read (the rows run faster than the
    memory could deliver all of them). Widths that are no multiple of 64 run on kernels an engine
    avoids by padding.
    """
    grouped = (rows["hidden_size"] == 7168) & (rows["num_experts"] == 256)
    padded = np.char.find(np.asarray(rows["moe_dtype"], dtype=str), "mxfp4") >= 0
    whole = rows["inter_size"] / rows["moe_tp_size"] % WIDTH_TILE == 0
    return np.asarray(~grouped & (padded | whole), dtype=np.bool_)
