"""What failures and power cost, against optimisers, limits and published examples."""

from __future__ import annotations

import itertools
import math
import re

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from weftline.catalog import reliability
from weftline.cost import (
    FAILURES_HIGH,
    FAILURES_LOW,
    RECOVERY_BAND_S,
    availability,
    checkpoint_interval_s,
    energy_of,
    goodput,
)

STALLS_S = (0.1, 1.0, 10.0, 300.0, 1800.0)
MTBFS_S = (1800.0, 11_124.0, 1e6)
RECOVERIES_S = (0.0, 180.0, 1350.0)


@pytest.mark.parametrize(("stall", "mtbf", "recovery"),
                         list(itertools.product(STALLS_S, MTBFS_S, RECOVERIES_S)))  # fmt: skip
def test_the_interval_is_where_availability_peaks(
    stall: float, mtbf: float, recovery: float
) -> None:
    found = minimize_scalar(
        lambda log_t: -availability(stall, math.exp(log_t), mtbf, recovery),
        bounds=(math.log(stall), math.log(1e9)),
        method="bounded",
        options={"xatol": 1e-9},
    )
    interval = checkpoint_interval_s(stall, mtbf, recovery)
    assert interval == pytest.approx(math.exp(found.x), rel=1e-3)
    assert availability(stall, interval, mtbf, recovery) == pytest.approx(-found.fun, abs=1e-12)


def test_young_is_the_limit_of_short_stalls() -> None:
    """Stall << recovery << time between failures."""
    for stall, recovery, mtbf in ((1e-3, 1e2, 1e8), (1e-4, 1e1, 1e7)):
        young = math.sqrt(2 * stall * mtbf)
        assert checkpoint_interval_s(stall, mtbf, recovery) == pytest.approx(young, rel=1e-4)


def test_worked_examples_of_the_facts() -> None:
    """16,384 chips, 3.09 h between failures, first order: interval and share of time wasted.

    The facts' T is Young's; without recovery ours is s + sqrt(T**2 + s**2) exactly. Their waste,
    s/T + T/2M, is (1 - availability) (1 + T/2M) exactly.
    """
    mtbf = 3.09 * 3600
    examples = [e for e in reliability()["worked_examples"] if "T_opt_s" in e]
    assert len(examples) == 4
    for example in examples:
        match = re.search(r"C=(\d+) s", example["case"])
        assert match is not None
        stall, interval = float(match[1]), float(example["T_opt_s"])
        ours = checkpoint_interval_s(stall, mtbf, 0.0)
        assert math.sqrt((ours - stall) ** 2 - stall**2) == pytest.approx(interval, rel=0.02)
        lost = 1 - availability(stall, interval, mtbf, 0.0)
        waste = lost * (1 + interval / 2 / mtbf)
        assert waste == pytest.approx(example["ckpt_plus_rework_waste"], rel=0.02, abs=5e-4)


def test_availability_is_a_share_and_falls_with_every_loss() -> None:
    stall, interval, mtbf = np.meshgrid([0.1, 10, 100], [200.0, 1e3, 1e5], [600.0, 1e4, 1e6])
    found = np.vectorize(availability)(stall, interval, mtbf, 1350.0)
    assert np.all((found > 0) & (found < 1))
    assert availability(1, 100, 1e4, 60) > availability(2, 100, 1e4, 60)
    assert availability(1, 100, 1e4, 60) > availability(1, 100, 1e4, 600)
    assert availability(1, 100, 1e4, 60) < availability(1, 100, 1e5, 60)


def test_goodput_of_the_published_run() -> None:
    """Llama 3 405B: 16,384 H100, a failure every 3.09 h, over 90 % effective training time."""
    found = goodput(16_384, 405_853_388_800, recovery_s=RECOVERY_BAND_S[0])
    assert found.mtbf_s / 3600 == pytest.approx(3.09, rel=0.01)
    assert 0.90 < found.availability < 1
    assert found.stall_s < found.interval_s < found.mtbf_s


def test_more_chips_fail_more_often_and_lose_more() -> None:
    runs = [goodput(n, 70_000_000_000) for n in (64, 1024, 16_384, 131_072)]
    assert [r.mtbf_s for r in runs] == sorted((r.mtbf_s for r in runs), reverse=True)
    assert [r.availability for r in runs] == sorted((r.availability for r in runs), reverse=True)
    worse, better = (
        goodput(1024, 70_000_000_000, failures_per_chip_day=f)
        for f in (FAILURES_HIGH, FAILURES_LOW)
    )
    assert worse.availability < runs[1].availability < better.availability


def test_energy_and_carbon_by_hand() -> None:
    """1,000 chips of 700 W for a day, 35 % of host power, PUE 1.1, 400 g a kWh."""
    found = energy_of(chips=1000, seconds=86_400, tdp_w=700, pue=1.1, gco2e_per_kwh=400)
    kwh = 1000 * 0.7 * 0.85 * 1.35 * 1.1 * 24
    assert found.joules / 3.6e6 == pytest.approx(kwh)
    assert found.kgco2e == pytest.approx(kwh * 0.4)
    assert found.low_joules < found.joules < found.high_joules
    assert found.high_joules / found.joules == pytest.approx(1 / 0.85)
