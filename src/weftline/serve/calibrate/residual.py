"""What the closed form leaves over: measured points near a configuration correct it.

One process for each of first-token time and time per token (:mod:`weftline.learn`), over
logarithms of measured over predicted. Points share engine, version, chip generation, number
formats and layout; a model's own labels count only where that model was measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from weftline.learn import Features, Kernel, Shape, code_of
from weftline.serve.calibrate.row import Row
from weftline.serve.engine.closed_form import Answer

__all__ = ["ELSEWHERE", "SHAPE", "features_of", "start_kernel"]

ELSEWHERE: Final = 0.5
"""What a first token's correction counts on a chip never measured: much of it is the host beside
the chip. Chosen of 0, 0.25, 0.5, 0.75 and 1 by the error of chips left out."""

SHAPE: Final = Shape(
    labels=(
        "engine", "version", "engine+generation+format", "version+generation+format",
        "engine+layout", "engine+mode", "version+mode", "chip", "chip+format", "harness",
        "drafted", "model", "model+engine", "model+version", "model+engine+chip+format",
        "model+version+chip+format+layout",
    ),
    numbers=("concurrency", "input", "output", "tp", "dp", "ep", "prefill_share", "load"),
    within=("engine", "model+engine", "model+engine+chip+format"),
)  # fmt: skip
_OWN: Final = ("model", "model+engine", "model+version", "model+engine+chip+format",
               "model+version+chip+format+layout")  # fmt: skip


def generation(chip: str) -> str:
    """The chip's generation, as kernels see it."""
    if chip.startswith(("h100", "h200", "h800", "gh200")):
        return "hopper"
    return "blackwell" if chip.startswith(("b200", "b300", "gb200", "gb300", "rtx-pro")) else chip


def labels_of(row: Row) -> tuple[str, ...]:
    """What a point shares with others, in the order of ``SHAPE.labels``."""
    version = f"{row.engine} {row.version}"
    made = f"{generation(row.chip)} {row.moe_dtype}/{row.gemm_dtype}"
    own = row.family
    return (
        row.engine, version, f"{row.engine}|{made}", f"{version}|{made}",
        f"{row.engine}|{row.layout.kind}", f"{row.engine}|{row.mode}", f"{version}|{row.mode}",
        row.chip, f"{row.chip}|{row.precision}", f"{row.engine}|{row.harness}",
        f"{row.engine}|{row.drafted}", own, f"{own}|{row.engine}|{row.mode}",
        f"{own}|{version}|{row.era}",
        f"{own}|{row.engine}|{row.chip}|{row.precision}|{row.mode}",
        f"{own}|{version}|{row.era}|{row.chip}|{row.precision}|{row.layout}|{row.prefill}",
    )  # fmt: skip


def label_code(name: str, text: str) -> int:
    """The code of one label's text: equal texts of different labels differ."""
    return code_of(f"{SHAPE.labels.index(name)}{text}")


def features_of(rows: Sequence[Row], answer: Answer) -> Features:
    """Features of rows and what the closed form says of them."""
    labels = np.array([[code_of(f"{i}{t}") for i, t in enumerate(labels_of(r))] for r in rows])
    each = answer.prefill_s / (answer.prefill_s + answer.decode_s * 10.0)
    numbers = np.stack([
        np.log2([r.concurrency for r in rows]), np.log2([r.input_tokens for r in rows]),
        np.log2([r.output_tokens for r in rows]), np.log2([float(r.layout.tp) for r in rows]),
        np.log2([float(r.layout.dp) for r in rows]), np.log2([float(r.layout.ep) for r in rows]),
        5.0 * each, 5.0 * np.clip(answer.load, 0.0, 1.0),
    ], axis=1)  # fmt: skip
    return Features(labels=labels.reshape(len(rows), -1), numbers=numbers)


def start_kernel(*, first: bool = False) -> Kernel:
    """Where the kernel starts and what holds it: models differ most; ``first``: TTFT's, wider."""
    wide = 1.8 if first else 1.0
    sd = {k: wide * (0.08 if k in _OWN else 0.03) for k in SHAPE.labels}
    return Kernel(
        labels=np.array([sd[k] for k in SHAPE.labels]), within=wide * np.array([0.05, 0.06, 0.06]),
        near=wide * 0.05, noise=wide * 0.04, scales=np.full(len(SHAPE.numbers), 2.5),
    )  # fmt: skip
