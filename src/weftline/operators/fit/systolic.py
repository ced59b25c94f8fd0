"""Fit the prior's scalars of one profiled chip, and test the prior on it.

``python -m weftline.operators.fit.systolic KERNELS -o operators_systolic.json`` fits the TPU
v6e to LLMServingSim's vLLM profile of Llama-3.1-8B (MIT), leaving out every fifth shape, and
states how far the unfitted defaults and the fitted scalars lie off the rows left out.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from weftline.operators.chips import Chip, chip_of
from weftline.operators.fit.monotone import errors_pct, held_out
from weftline.operators.fit.profiles import SHAPES
from weftline.operators.fit.rows import read_columns, where
from weftline.operators.surface import FloatArray
from weftline.operators.systolic import SystolicPrior

CHIP: Final = "tpu-v6e"
MODEL: Final = "meta-llama/Llama-3.1-8B"
FOLDER: Final = f"llmservingsim_mit/v0/perf_models/TPU-v6e-1/{MODEL}/tp1"
# Scalars, where each starts, and the bounds it is kept in.
FITTED: Final[dict[str, tuple[float, float, float]]] = {
    "matrix_efficiency": (0.75, 0.2, 1.0),
    "memory_efficiency": (0.8, 0.2, 1.0),
    "gather_efficiency": (0.5, 0.05, 1.0),
    "attention_efficiency": (0.3, 0.01, 1.0),
    "stream_s": (1e-7, 1e-9, 2e-6),
    "launch_s": (1.5e-6, 1e-7, 2e-5),
}
HEAD_DIM: Final = 128


def rows_of(folder: Path) -> list[tuple[str, FloatArray, FloatArray]]:
    """(kind, sizes [rows, 3], seconds) of products, prompts and decode steps."""
    shape = SHAPES[MODEL]
    layers = read_columns(folder / "layers.csv")
    found = []
    # Products that read their weights from memory. o_proj runs faster than the memory could
    # deliver its weights (they stay on the chip when it is timed alone) and says nothing here.
    for layer, n, k in (
        ("gate_proj", shape.inter, shape.hidden), ("up_proj", shape.inter, shape.hidden),
        ("down_proj", shape.hidden, shape.inter), ("lm_head", shape.vocab, shape.hidden),
    ):  # fmt: skip
        mine = where(layers, layers["layer_name"] == layer)
        ones = np.ones(len(mine["input"]))
        sizes = np.stack([mine["input"], ones * n, ones * k], axis=1)
        found.append(("gemm", sizes, mine["latency(ns)"] * 1e-9))
    rows = read_columns(folder / "attention.csv")
    prompt = np.asarray(rows["is_prefill"], dtype=str) == "True"
    for kind, chosen in (("prefill", prompt), ("decode", ~prompt)):
        part = where(rows, chosen)
        sizes = np.stack(
            [part["prefill_chunk_size"], part["kv_cache_size"], part["batch_size"]], axis=1
        )
        found.append((kind, sizes, part["p50_ns"] * 1e-9))
    return found


def predicted(chip: Chip, kind: str, sizes: FloatArray) -> FloatArray:
    """Seconds of the rows of one kind."""
    shape = SHAPES[MODEL]
    group = shape.heads / shape.kv_heads
    prior = SystolicPrior(chip)
    if kind == "gemm":
        return prior.gemm_s("bf16", sizes[:, 0], sizes[:, 1], sizes[:, 2])
    if kind == "prefill":
        tokens, cached = sizes[:, 0], sizes[:, 1]
        return prior.prefill_s(
            "bf16", tokens, cached + tokens / 2, float(shape.kv_heads), group, HEAD_DIM
        )
    return prior.decode_s(
        "bf16", np.maximum(sizes[:, 1], 1.0), sizes[:, 2] * shape.kv_heads, group, HEAD_DIM
    )


def fit(kernels: Path) -> dict[str, Any]:
    """The fitted scalars with their rows and errors."""
    from scipy.optimize import least_squares

    base = replace(chip_of(CHIP), prior={"rows": 256.0, "columns": 256.0})
    rows = rows_of(kernels / FOLDER)
    held = [held_out(np.round(sizes)) for _, sizes, _ in rows]
    names = list(FITTED)
    low, high = (np.log([FITTED[n][i] for n in names]) for i in (1, 2))

    def chip(values: FloatArray) -> Chip:
        scalars = {n: float(v) for n, v in zip(names, np.exp(values), strict=True)}
        return replace(base, prior={**base.prior, **scalars})

    def off(values: FloatArray) -> FloatArray:
        parts = []
        for (kind, sizes, seconds), left in zip(rows, held, strict=True):
            error = np.log(predicted(chip(values), kind, sizes[~left]) / seconds[~left])
            parts.append(error / np.sqrt(len(error)))
        return np.concatenate(parts)

    start = np.log([FITTED[n][0] for n in names])
    found = least_squares(off, start, bounds=(low, high), loss="soft_l1", f_scale=0.01)
    return {
        "scalars": {n: float(f"{v:.3g}") for n, v in zip(names, np.exp(found.x), strict=True)},
        "rows": int(sum((~left).sum() for left in held)),
        "held_out": _errors(chip(found.x), rows, held),
        "held_out_unfitted": _errors(base, rows, held),
    }


def _errors(chip: Chip, rows: list[Any], held: list[Any]) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for kind in ("gemm", "prefill", "decode"):
        pairs = [
            (predicted(chip, kind, sizes[left]), seconds[left])
            for (name, sizes, seconds), left in zip(rows, held, strict=True)
            if name == kind
        ]
        found[kind] = errors_pct(*(np.concatenate(p) for p in zip(*pairs, strict=True)))
    return found


def main() -> None:
    """Fit, and write the scalars into the data file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kernels", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    found = fit(arguments.kernels)
    content = json.loads(arguments.output.read_text(encoding="utf-8"))
    entry = content["chips"][CHIP]
    entry["scalars"] |= found.pop("scalars")
    entry["fitted"] = {
        **found,
        "script": "python -m weftline.operators.fit.systolic",
        "data": f"{FOLDER} (LLMServingSim, MIT), collected 2026-11-21",
    }
    head = {k: v for k, v in content.items() if k != "chips"}
    lines = ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in content["chips"].items())
    text = json.dumps(head, indent=1)[:-2] + f',\n "chips": {{\n{lines}\n }}\n}}\n'
    json.loads(text)
    arguments.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
