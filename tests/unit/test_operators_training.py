"""Operators of a training step: tables where there are any, else the family's roofline."""

from __future__ import annotations

import numpy as np
import pytest

from weftline.catalog import accelerator
from weftline.learn import weighted_quantile
from weftline.operators.products import family_of, training_operators


def rates(chip: str, fmt: str) -> tuple[float, float]:
    acc = accelerator(chip)
    return acc.peak_flops(fmt) or 0.0, acc.memory_bandwidth_bytes_per_s or 0.0


@pytest.mark.parametrize(
    ("chip", "fmt", "low", "high"),
    [
        # Medians and 90th percentiles of public measurements of 8192^3; 724 to 765 on MI300X.
        ("h100-sxm", "fp8", 1053e12, 1335e12),
        ("mi300x", "bf16", 724e12, 765e12),
        ("h100-sxm", "bf16", 650e12, 810e12),
        ("a100-80-sxm", "bf16", 250e12, 300e12),
    ],
)
def test_a_large_product_runs_as_measured(chip: str, fmt: str, low: float, high: float) -> None:
    size = 8192.0
    seconds = training_operators(chip).product_s(fmt, size, size, size, *rates(chip, fmt))
    assert low <= 2 * size**3 / float(seconds) <= high


def test_arrays_of_shapes_are_each_shape_alone() -> None:
    room = training_operators("h100-sxm")
    m = np.array([128.0, 4096.0, 100000.0])
    n, k = np.array([4096.0, 8192.0, 70000.0]), np.array([4096.0, 1024.0, 8192.0])
    together = room.product_s("bf16", m, n, k, *rates("h100-sxm", "bf16"))
    alone = [float(room.product_s("bf16", *shape, *rates("h100-sxm", "bf16")))
             for shape in zip(m, n, k, strict=True)]  # fmt: skip
    np.testing.assert_allclose(together, alone)


def test_beyond_the_table_time_grows_with_work() -> None:
    room, (peak, rate) = training_operators("h100-sxm"), rates("h100-sxm", "bf16")
    edge = float(room.product_s("bf16", 32768.0, 65536.0, 65536.0, peak, rate))
    beyond = float(room.product_s("bf16", 4 * 32768.0, 65536.0, 65536.0, peak, rate))
    assert beyond == pytest.approx(4 * edge)


def test_a_slower_variant_of_a_chip_takes_the_rooflines_ratio() -> None:
    room, (peak, rate) = training_operators("h100-sxm"), rates("h100-sxm", "bf16")
    whole = float(room.product_s("bf16", 8192.0, 8192.0, 8192.0, peak, rate))
    half = float(room.product_s("bf16", 8192.0, 8192.0, 8192.0, peak / 2, rate))
    assert half == pytest.approx(2 * whole)


@pytest.mark.parametrize(
    ("chip", "family"),
    [
        ("gb300-nvl72", "blackwell"),
        ("h200-sxm", "hopper"),
        ("tpu7x", "tpu-256"),
        ("gaudi3", "other"),
    ],
)
def test_chips_have_families(chip: str, family: str) -> None:
    assert family_of(chip).name == family


def test_every_ground_is_said() -> None:
    said = training_operators("gb300-nvl72").grounds("fp8")
    assert "roofline" in said["products"]
    assert "b200" in said["attention forward"]
    assert "table of the h100-sxm, fp8" in training_operators("h100-sxm").grounds("fp8")["products"]
    assert "assumed" in training_operators("tpu-v5p").grounds("bf16")["attention forward"]


def test_a_weighted_quantile_with_equal_weights_is_the_conformal_one() -> None:
    scores = np.arange(1.0, 20.0)
    assert weighted_quantile(scores, np.ones(19), 0.9) == 18.0
    # A score of much weight moves it; too few leave the largest.
    assert weighted_quantile(scores, np.where(scores == 3.0, 100.0, 1.0), 0.5) == 3.0
    assert weighted_quantile(np.array([2.0]), np.ones(1), 0.9) == 2.0
