"""What the closed form leaves over: measured points near a configuration correct it.

One process for each of first-token time, time per token and rate (:mod:`weftline.learn`), over
logarithms of measured over predicted. Points share what they have in common in one place: a chip, a
pair of number formats, a harness. Nothing is carried to another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from weftline.learn import Features, Kernel, Shape, code_of
from weftline.serve.calibrate.row import Row
from weftline.serve.engine.closed_form import Answer

__all__ = ["SHAPE", "features_of", "place_of", "start_kernel", "tempered"]

SHAPE: Final = Shape(
    labels=("engine", "version", "mode", "layout", "drafted", "family", "family+engine",
            "family+version", "family+version+layout"),
    numbers=("concurrency", "input", "output", "tp", "dp", "ep", "prefill_share", "load"),
    within=("engine", "family+engine", "family+version"),
)  # fmt: skip
"""Every label is one within a place: chip, number formats and harness. What was learnt of one
place says nothing of another."""
_OWN: Final = ("family", "family+engine", "family+version", "family+version+layout")
_WITHIN: Final = (0.05, 0.06, 0.06)


def place_of(row: Row) -> str:
    """What a correction is confined to: chip, number formats, harness."""
    return f"{row.chip}|{row.moe_dtype}/{row.gemm_dtype}|{row.harness}"


def labels_of(row: Row) -> tuple[str, ...]:
    """What a point shares with others, in the order of ``SHAPE.labels``."""
    version = f"{row.engine} {row.version}"
    own = row.family
    said = (
        row.engine, version, f"{row.engine}|{row.mode}", f"{row.engine}|{row.layout.kind}",
        f"{row.engine}|{row.drafted}", own, f"{own}|{row.engine}|{row.mode}",
        f"{own}|{version}|{row.era}",
        f"{own}|{version}|{row.era}|{row.layout}|{row.prefill}",
    )  # fmt: skip
    place = place_of(row)
    return tuple(f"{place}|{text}" for text in said)


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
    return Features(
        labels=labels.astype(np.int64).reshape(len(rows), len(SHAPE.labels)), numbers=numbers
    )


def start_kernel(*, first: bool = False) -> Kernel:
    """Where the kernel starts and what holds it: models differ most; ``first``: TTFT's, wider."""
    wide = 1.8 if first else 1.0
    sd = {k: wide * (0.08 if k in _OWN else 0.03) for k in SHAPE.labels}
    return Kernel(
        labels=np.array([sd[k] for k in SHAPE.labels]), within=wide * np.array(_WITHIN),
        near=1e-4, noise=wide * 0.04, scales=np.full(len(SHAPE.numbers), 2.5),
    )  # fmt: skip


def tempered(kernel: Kernel) -> Kernel:
    """The kernel as learnt, what models have in common of each other's errors cut to a quarter.

    A place holds two or three models. What they share (engine, version, mode, layout, drafts) is
    then hardly told from what each has of its own, and a model left out was led astray by it.
    """
    own = np.array([label in _OWN for label in SHAPE.labels])
    return replace(kernel, labels=np.where(own, 1.0, IN_COMMON) * kernel.labels)


IN_COMMON: Final = 0.25
"""Chosen of a quarter, a half and all by the errors of runs left out."""
