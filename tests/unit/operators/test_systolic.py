"""The prior: geometry of the array, bounds of its units, and a chip it was not made for."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weftline.operators import chip_of, operators
from weftline.operators.fit.systolic import predicted
from weftline.operators.systolic import SystolicPrior, smooth_max

ROWS = Path(__file__).parent / "tpu_rows.csv"


@given(a=st.floats(1e-9, 1), b=st.floats(1e-9, 1), c=st.floats(0, 1))
def test_a_smooth_maximum_is_never_below_and_never_far_above(a: float, b: float, c: float) -> None:
    found = float(smooth_max(a, b, c))
    assert max(a, b, c) * (1 - 1e-12) <= found <= max(a, b, c) * 3**0.25 * (1 + 1e-12)
    assert smooth_max(2 * a, b, c) >= found * (1 - 1e-12)


def test_tiles_are_computed_whole() -> None:
    # Enough bandwidth that only the array counts.
    chip = replace(chip_of("trainium2"), bandwidth_bytes_per_s=1e18)
    prior = SystolicPrior(chip)
    assert prior.gemm_s("bf16", 4096, 129, 4096) == pytest.approx(
        prior.gemm_s("bf16", 4096, 256, 4096)
    )
    assert prior.gemm_s("bf16", 4096, 4096, 1) == prior.gemm_s("bf16", 4096, 4096, 128)
    # Loading a tile's weights takes as long as streaming 128 tokens through it.
    assert prior.gemm_s("bf16", 1, 4096, 4096) == prior.gemm_s("bf16", 128, 4096, 4096)
    assert prior.gemm_s("bf16", 256, 4096, 4096) > 1.5 * prior.gemm_s("bf16", 128, 4096, 4096)


def test_few_tokens_cost_reading_the_weights() -> None:
    chip = chip_of("mi300x")
    prior = SystolicPrior(chip, {"launch_s": 0.0})
    read = 2 * 16384 * 16384 / (chip.bandwidth_bytes_per_s * prior.prior.memory_efficiency)
    assert prior.gemm_s("bf16", 1, 16384, 16384) == pytest.approx(read, rel=0.05)


def test_scalars_a_chip_states_replace_the_defaults() -> None:
    slow = operators(replace(chip_of("gaudi3"), prior={"memory_efficiency": 0.4}))
    fast = operators(replace(chip_of("gaudi3"), prior={"memory_efficiency": 0.8}))
    ratio = slow.gemm_s("bf16", 1, 16384, 16384) / fast.gemm_s("bf16", 1, 16384, 16384)
    assert ratio == pytest.approx(2, rel=0.05)


def test_a_vector_unit_bounds_what_has_no_products() -> None:
    base = chip_of("trainium2")
    weak = SystolicPrior(replace(base, prior={"vector_share": 1e-4}))
    strong = SystolicPrior(replace(base, prior={"vector_share": 1e-1}))
    for args in ((True, 1, 256, 64), (False, 4096, 1, 64)):
        assert weak.scan_s(*args) > 2 * strong.scan_s(*args)


@pytest.mark.parametrize(("kind", "most"), [("gemm", 0.12), ("prefill", 0.10), ("decode", 0.06)])
def test_a_tpu_with_six_fitted_scalars(kind: str, most: float) -> None:
    """Rows the fit has not seen; the defaults lie 18 to 63 % off."""
    with ROWS.open(encoding="utf-8") as file:
        rows = [r for r in csv.reader(file) if r[0] == kind]
    sizes = np.array([[float(v) for v in r[1:4]] for r in rows])
    seconds = np.array([float(r[4]) for r in rows])
    off = predicted(chip_of("tpu-v6e"), kind, sizes) / seconds - 1
    assert np.median(np.abs(off)) < most
