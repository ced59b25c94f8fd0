"""Fit chips that were profiled layer by layer: the RTX cards of LLMServingSim's tables (MIT).

A profile names layers, not shapes: shapes come from the model's config. Few shapes were timed, so
every table starts from the kin chip's table carried over and bends to the rows it has.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from weftline.operators.chips import chip_of
from weftline.operators.fit.base import DECODE_AXES, GROUP_AXIS, HEADS_AXIS, Family, fit_both
from weftline.operators.fit.rows import Columns, read_columns, where
from weftline.operators.measured import MeasuredTables
from weftline.operators.surface import FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The sizes of one profiled model."""

    hidden: int
    inter: int
    heads: int
    kv_heads: int
    vocab: int
    experts: int = 0
    expert_inter: int = 0
    top_k: int = 0


# config.json of the profiled models (Llama-3.1-8B, Qwen3-32B, Qwen3-30B-A3B); head size 128.
SHAPES = {
    "meta-llama/Llama-3.1-8B": Shape(
        hidden=4096, inter=14336, heads=32, kv_heads=8, vocab=128256
    ),
    "Qwen/Qwen3-32B": Shape(hidden=5120, inter=25600, heads=64, kv_heads=8, vocab=151936),
    "Qwen/Qwen3-30B-A3B-Instruct-2507": Shape(
        hidden=2048, inter=6144, heads=32, kv_heads=4, vocab=151936,
        experts=128, expert_inter=768, top_k=8,
    ),
}  # fmt: skip
CARDS = {"rtx-4090": "RTX4090", "rtx-pro-6000": "RTXPRO6000"}
HEAD_DIM = 128
LEAST_CHUNK = 128
"""Prompt tokens from which a mixed launch counts: as many as prompts have. Beside shorter chunks
decoding costs some percent less."""
ROWS_AXIS: list[float] = [
    1, 4, 8, 16, 24, 32, 48, 64, 96, 128, 160, 192, 224, 256, 320, 384, 512, 1024, 2048, 8192
]  # fmt: skip
PROFILE_GEMM_AXES: list[list[float]] = [
    ROWS_AXIS,
    [128, 1024, 2048, 3072, 4096, 5120, 6144, 10240, 14336, 25600, 28672, 51200, 64128, 128256,
     151936],
    [128, 1024, 2048, 4096, 5120, 7168, 8192, 12800, 14336, 25600],
]  # fmt: skip
PROFILE_PREFILL_AXES: list[list[float]] = [
    [1, 16, 32, 64, 128, 256, 512, 1024, 2048, 8192],
    [8, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 17408, 65536],
    [1, 2, 4, 8, 32, 256],
    [1, 4, 8, 16],
]
PROFILE_DECODE_AXES: list[list[float]] = [[16, 64, *DECODE_AXES[0][1:]], HEADS_AXIS, GROUP_AXIS]
PROFILE_EXPERT_AXES: list[list[float]] = [
    [8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 65536],
    [1, 8, 16, 32, 64, 128, 256], [128, 384, 768, 2048, 8192], [2048, 4096, 7168],
]  # fmt: skip
BYTES_AXIS = [float(2**i) for i in range(10, 31)]
_LOOSE: dict[str, Any] = {"smooth": 0.005, "prior_weight": 0.002}


def profiles(kernels: Path) -> Family:
    """Tables of the profiled cards."""
    family = Family("profile")
    family.source = (
        "llmservingsim_mit operator profiles (LLMServingSim, MIT): vLLM 0.19.0, as collected "
        "2026-11-21"
    )
    for chip, folder in CARDS.items():
        root = kernels / "llmservingsim_mit" / "perf" / folder
        runs = [
            (shape, int(path.name[2:]), path)
            for name, shape in SHAPES.items()
            for path in sorted((root / name / "bf16").glob("tp*"))
        ]
        start = MeasuredTables(chip_of(chip), profiled=False)
        _gemm(family, start, chip, runs)
        _attention(family, start, chip, runs)
        _experts(family, start, chip, runs)
        _small(family, chip, runs)
    return family


Run = tuple[Shape, int, Path]


def layer_shape(layer: str, shape: Shape, tp: int) -> tuple[float, float] | None:
    """(output, input) features of a dense layer on one of ``tp`` ranks; None for other layers."""
    query = shape.heads * HEAD_DIM
    match layer:
        case "qkv_proj":
            return (query + 2 * shape.kv_heads * HEAD_DIM) / tp, shape.hidden
        case "o_proj":
            return shape.hidden, query / tp
        case "gate_up_proj":
            return 2 * shape.inter / tp, shape.hidden
        case "down_proj":
            return shape.hidden, shape.inter / tp
        case "lm_head":
            return shape.vocab / tp, shape.hidden
        case _:
            return None


def _gemm(family: Family, start: MeasuredTables, chip: str, runs: list[Run]) -> None:
    found: list[tuple[float, float, float, float]] = []
    for shape, tp, path in runs:
        for name, count in (("dense.csv", "tokens"), ("per_sequence.csv", "sequences")):
            rows = read_columns(path / name)
            for layer in np.unique(rows["layer"]):
                sizes = layer_shape(str(layer), shape, tp)
                if sizes is None:
                    continue
                mine = where(rows, rows["layer"] == layer)
                found += [
                    (float(m), *sizes, float(t) * 1e-6)
                    for m, t in zip(mine[count], mine["time_us"], strict=True)
                ]
    table = np.asarray(found)
    m, n, k, seconds = table.T
    prior = np.log2(start.gemm_s("bf16", *_grid(PROFILE_GEMM_AXES)))
    groups = [m]
    surface, held = fit_both(PROFILE_GEMM_AXES, [m, n, k], seconds, groups, prior=prior, **_LOOSE)
    family.add("gemm", chip, "bf16", PROFILE_GEMM_AXES, surface, len(m), held)


def _grid(axes: list[list[float]]) -> list[FloatArray]:
    return [np.asarray(g) for g in np.meshgrid(*axes, indexing="ij")]


def _three(axes: list[list[float]]) -> tuple[FloatArray, FloatArray, FloatArray]:
    first, second, third = _grid(axes)
    return first, second, third


def _attention(family: Family, start: MeasuredTables, chip: str, runs: list[Run]) -> None:
    parts: list[Columns] = []
    for shape, tp, path in runs:
        rows = read_columns(path / "attention.csv")
        rows["kv_heads"] = np.full(len(rows["time_us"]), shape.kv_heads / tp)
        rows["group"] = np.full(len(rows["time_us"]), shape.heads / shape.kv_heads)
        parts.append(rows)
    rows = {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
    key = f"{HEAD_DIM}/bf16"
    alone = where(rows, (rows["prefill_chunk"] == 0) & (rows["n_decode"] > 0))
    sizes = [alone["kv_decode"], alone["n_decode"] * alone["kv_heads"], alone["group"]]
    prior = np.log2(start.decode_s("bf16", *_three(PROFILE_DECODE_AXES), HEAD_DIM))
    groups = [alone["kv_decode"], alone["n_decode"]]
    surface, held = fit_both(
        PROFILE_DECODE_AXES, sizes, alone["time_us"] * 1e-6, groups, prior=prior, **_LOOSE
    )
    family.add("decode", chip, key, PROFILE_DECODE_AXES, surface, len(sizes[0]), held)

    alone = where(rows, (rows["n_decode"] == 0) & (rows["prefill_chunk"] > 0))
    chunk = alone["prefill_chunk"]
    sizes = [chunk, alone["kv_prefill"] + chunk / 2, alone["kv_heads"], alone["group"]]
    grid = _grid(PROFILE_PREFILL_AXES)
    prior = np.log2(start.prefill_s("bf16", grid[0], grid[1], grid[2], grid[3], HEAD_DIM))
    groups = [chunk, alone["kv_prefill"]]
    prefill, held = fit_both(
        PROFILE_PREFILL_AXES, sizes, alone["time_us"] * 1e-6, groups, prior=prior, **_LOOSE
    )
    family.add("prefill", chip, key, PROFILE_PREFILL_AXES, prefill, len(chunk), held)

    # Decoding queries that share a launch with a prompt run as prompts of one token: their caches
    # are read once a query head. What the mixed launch costs beyond the prompt alone is theirs.
    both = where(rows, (rows["n_decode"] > 0) & (rows["prefill_chunk"] >= LEAST_CHUNK))
    chunk = both["prefill_chunk"]
    span = both["kv_prefill"] + chunk / 2
    prompt = prefill.seconds(chunk, span, both["kv_heads"], both["group"])
    rest = both["time_us"] * 1e-6 - prompt
    keep = rest > 0.15 * both["time_us"] * 1e-6
    both, rest = where(both, keep), rest[keep]
    sizes = [both["kv_decode"], both["n_decode"] * both["kv_heads"], both["group"]]
    groups = [both["kv_decode"], both["n_decode"]]
    mixed, held = fit_both(PROFILE_DECODE_AXES, sizes, rest, groups, prior=surface.log2_s, **_LOOSE)
    family.add("decode_mixed", chip, key, PROFILE_DECODE_AXES, mixed, len(rest), held)


def _experts(family: Family, start: MeasuredTables, chip: str, runs: list[Run]) -> None:
    for shape, tp, path in runs:
        file = path / "moe.csv"
        if not file.is_file():
            continue
        rows = read_columns(file)
        pairs = rows["tokens"] * shape.top_k
        ones = np.ones(len(pairs))
        sizes = [
            pairs,
            rows["activated_experts"],
            ones * shape.expert_inter / tp,
            ones * shape.hidden,
        ]
        grid = _grid(PROFILE_EXPERT_AXES)
        grid[1] = np.minimum(grid[1], grid[0])
        prior = np.log2(start.experts_s("bf16", grid[0], grid[1], grid[2], grid[3], 0.0))
        surface, held = fit_both(
            PROFILE_EXPERT_AXES, sizes, rows["time_us"] * 1e-6, [pairs, sizes[1]],
            prior=prior, **_LOOSE,
        )  # fmt: skip
        family.add("balanced", chip, "bf16", PROFILE_EXPERT_AXES, surface, len(pairs), held)


def elementwise_bytes(layer: str, shape: Shape, tp: int) -> float | None:
    """Bytes one token moves through a norm, activation or rotary embedding, bf16."""
    match layer:
        case "layernorm":
            return 8.0 * shape.hidden  # the residual is read, added and written as well
        case "act_fn":
            return 6.0 * shape.inter / tp
        case "rotary_emb":
            return 4.0 * (shape.heads + shape.kv_heads) * HEAD_DIM / tp
        case _:
            return None


def _small(family: Family, chip: str, runs: list[Run]) -> None:
    """Elementwise layers over the bytes they move, sampling over the logits it reads."""
    moved: list[tuple[float, float]] = []
    sampled: list[tuple[float, float]] = []
    for shape, tp, path in runs:
        rows = read_columns(path / "dense.csv")
        for layer in np.unique(rows["layer"]):
            each = elementwise_bytes(str(layer), shape, tp)
            if each is not None:
                mine = where(rows, rows["layer"] == layer)
                moved += [
                    (each * float(m), float(t) * 1e-6)
                    for m, t in zip(mine["tokens"], mine["time_us"], strict=True)
                ]
        rows = read_columns(path / "per_sequence.csv")
        mine = where(rows, rows["layer"] == "sampler")
        sampled += [
            (4.0 * shape.vocab * float(b), float(t) * 1e-6)
            for b, t in zip(mine["sequences"], mine["time_us"], strict=True)
        ]
    for operator, pairs in (("elementwise", moved), ("sampling", sampled)):
        nbytes, seconds = np.asarray(pairs).T
        axes = [BYTES_AXIS]
        surface, held = fit_both(axes, [nbytes], seconds, [nbytes], smooth=0.05)
        family.add(operator, chip, "bytes", axes, surface, len(nbytes), held)
