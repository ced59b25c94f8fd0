"""The pool of measured rows: one row a measurement, what counts in a fit, what cannot be true."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from weftline.errors import InputError
from weftline.model import load_model
from weftline.operators import operators
from weftline.serve.calibrate.row import Row
from weftline.serve.engine.engines import is_old

__all__ = ["implausible", "is_early", "twin_of", "unique_rows", "weights_of"]

FloatArray = npt.NDArray[np.float64]

CROWD: Final = -0.25
"""A row counts by this power of its group's size: large groups of one run do not rule."""
LEFT_OUT_VERSIONS: Final = ("1.3.0rc1", "0.12.0", "0.11.2")
"""Versions whose rows contradict all others by more than a factor two; scored, never fitted on."""
LEFT_OUT_FIRST_TOKENS: Final = (("sglang", "2025-11"),)
"""Engines and versions whose first-token times contradict all others by more than a factor two:
scored, never fitted on. Their times per token agree with the others'."""
ODD_HARNESSES: Final = ("splitwise", "inferencex-positions")
"""Harnesses whose servers are not of the kind that is fitted: vLLM of 2023 (its uncaptured decoding
is priced, its prefills of 2023 are not), and one whose prompts take four times as long as those of
any other row. Constants are not fitted on them; their own corrections are."""
KINDS: Final = ("tpot", "ttft", "rate")
"""What is measured: rates count where no times are stated, elsewhere they follow from them."""
EARLY: Final = "2025-12"
"""Runs before this month are `early`: kernels and host paths were slower."""
_FIELDS: Final = {"tpot": "tpot_s", "ttft": "ttft_s", "rate": "output_tokens_per_s"}


def is_early(row: Row) -> bool:
    """Whether a run's software is of before ``EARLY``, by its version where that is older."""
    return (bool(row.era) and row.era < EARLY) or is_old(row.engine, row.version)


def measured(rows: Sequence[Row], kind: str) -> FloatArray:
    """What rows state of one of ``KINDS``, nan where they do not."""
    return np.array([getattr(r, _FIELDS[kind]) for r in rows], dtype=np.float64)  # None: nan


def by_times(row: Row) -> bool:
    """Whether a row states both times, from which its rate follows."""
    return row.ttft_s is not None and row.tpot_s is not None


def twin_of(row: Row) -> tuple[object, ...]:
    """What two copies of one measurement have in common."""
    if by_times(row):
        return (row.family, row.chip, round(row.ttft_s or 0.0, 4), round(row.tpot_s or 0.0, 6))
    rate = round(row.output_tokens_per_s or 0.0, 3)
    return (row.family, row.chip, row.input_tokens, row.output_tokens, rate)


def unique_rows(rows: Sequence[Row]) -> list[Row]:
    """One row for each measurement: files repeat each other in different words and digits."""
    seen: set[tuple[object, ...]] = set()
    kept: dict[tuple[object, ...], list[tuple[float, float]]] = defaultdict(list)
    out = []
    for r in rows:
        if not (by_times(r) or r.output_tokens_per_s is not None) or twin_of(r) in seen:
            continue
        seen.add(twin_of(r))
        if r.ttft_s is not None and r.tpot_s is not None:
            place = (r.family, r.chip, r.engine, r.input_tokens, r.output_tokens, r.concurrency,
                     r.layout, r.prefill, r.harness)  # fmt: skip
            if any(abs(r.tpot_s - late) <= ROUNDED_S and abs(r.ttft_s / first - 1.0) <= SAME
                   for first, late in kept[place]):  # fmt: skip
                continue
            kept[place].append((r.ttft_s, r.tpot_s))
        out.append(r)
    return out


ROUNDED_S: Final = 1.1e-5
"""Files round times per token to a hundredth of a millisecond."""
SAME: Final = 1e-3
"""First-token times of copies agree to this."""


def implausible(row: Row) -> str:
    """Why a row cannot be what it says it is; empty where it can.

    A prompt's products need a time that no chip undercuts, and so do tokens: less than that is a
    prompt that a prefix cache had seen, or fewer tokens or more chips than stated.
    """
    try:
        peak = operators(row.chip).chip.peak_flops(row.gemm_dtype)
        model = load_model(row.model)
    except InputError:
        return ""
    flops = 2.0 * (model.active_parameters or model.parameters) * _COMPUTED
    side = row.prefill or row.layout
    one = side.chips / side.workers
    if row.ttft_s is not None and row.input_tokens * flops / (peak * one) > row.ttft_s:
        return "its first token comes sooner than the chips' peak allows: cached prompts?"
    rate = row.output_tokens_per_s
    each = 1.0 + row.input_tokens / row.output_tokens
    if rate is not None and rate * each * flops > peak:
        return "it serves more tokens than the chips' peak allows: cached prompts?"
    return ""


_COMPUTED: Final = 0.9
"""Share of parameters that every token multiplies: embeddings are looked up."""


def weights_of(rows: Sequence[Row]) -> FloatArray:
    """How much each row counts in the fit of the constants; 0 for those that are not fitted on."""
    keys = [(r.family, r.engine, r.version, r.chip, r.precision, r.mode, r.harness) for r in rows]
    size = Counter(keys)
    weight = np.array([float(size[k]) for k in keys]) ** CROWD
    weight[[is_left_out(r) or r.harness in ODD_HARNESSES for r in rows]] = 0.0
    return np.asarray(weight / weight[weight > 0].mean())


def is_left_out(row: Row) -> bool:
    """Whether a row is scored and never fitted on."""
    return row.version in LEFT_OUT_VERSIONS or bool(implausible(row))
