"""How far the residual process is believed: as far as rows of other groups have served."""

from __future__ import annotations

import numpy as np
import pytest

from weftline.learn import Features, Kernel, Process, Shape
from weftline.plan.calibrate.residual import SHAPE, Residual, start_kernel
from weftline.plan.calibrate.trust import (
    EDGES,
    Trust,
    _Trials,
    _widening,
    learn_trust,
    nearness,
    steps_of,
)

SEED = 20261130
ONE = Shape(labels=("group",), numbers=("x",))
KERNEL = Kernel(labels=np.array([0.05]), within=np.zeros(0), near=0.2, noise=0.02,
                scales=np.array([1.0]))  # fmt: skip


def world(shared: bool) -> tuple[Features, np.ndarray, list[str]]:
    """Rows of eight sources on one line; what is left over is shared by place, or by nobody."""
    rng = np.random.default_rng(SEED)
    x = rng.uniform(0, 12, 240)
    source = rng.integers(0, 8, 240)
    left = 0.2 * np.sin(x) if shared else rng.normal(0, 0.2, 240)
    rows = Features(labels=source[:, None].astype(np.int64), numbers=x[:, None])
    return rows, left + rng.normal(0, 0.02, 240), [str(s) for s in source]


def learnt(shared: bool) -> Trust:
    rows, left, groups = world(shared)
    without = dict.fromkeys(sorted(set(groups)), left)
    return learn_trust(ONE, KERNEL, rows, left, np.zeros(len(rows)), groups, without)


def test_a_mean_that_carries_from_source_to_source_is_believed() -> None:
    assert learnt(shared=True).worth[-1] > 0.9


def test_a_mean_that_does_not_carry_is_not_believed() -> None:
    trust = learnt(shared=False)
    assert trust.worth[-1] < 0.3
    # and its band grows to hold what the physics leaves over
    assert trust.widening[-1] > 2 * learnt(shared=True).widening[-1]


def test_nearer_rows_never_count_for_less() -> None:
    for shared in (True, False):
        worth = learnt(shared).worth
        assert list(worth) == sorted(worth)
        assert len(worth) == len(EDGES)


def test_bands_hold_groups_that_were_left_out() -> None:
    rows, left, groups = world(shared=True)
    names = np.array(groups)
    held = []
    for name in sorted(set(groups)):
        out = names == name
        kept = [g for g in groups if g != name]
        trust = learn_trust(ONE, KERNEL, rows.take(~out), left[~out], np.zeros((~out).sum()), kept,
                            dict.fromkeys(sorted(set(kept)), left[~out]))  # fmt: skip
        worth, widening = trust.at(nearness(KERNEL, ONE, rows.take(out), rows.take(~out)))

        mean, deviation = Process(ONE, KERNEL, rows.take(~out), left[~out]).at(rows.take(out))
        held += (np.abs(left[out] - worth * mean) <= 1.6449 * widening * deviation).tolist()
    assert 0.8 <= float(np.mean(held)) <= 0.99


def test_without_trust_nothing_is_scaled_and_with_none_nothing_is_corrected() -> None:
    rng = np.random.default_rng(SEED)
    rows = Features(labels=rng.integers(0, 3, (30, len(SHAPE.labels))),
                    numbers=rng.uniform(0, 8, (30, len(SHAPE.numbers))))  # fmt: skip
    left = rng.normal(0, 0.1, 30)
    plain = Residual(start_kernel(), rows, left)
    no_trust = Trust(worth=(0.0,) * len(EDGES), widening=(1.0,) * len(EDGES))
    none = Residual(start_kernel(), rows, left, trust=no_trust)
    assert np.abs(plain.mean(rows)).max() > 0
    assert np.abs(none.mean(rows)).max() == 0
    np.testing.assert_allclose(none.at(rows)[1], plain.at(rows)[1] / plain.widening)


@pytest.mark.parametrize("near", [0.0, 0.5, 1.0])
def test_trust_reads_back(near: float) -> None:
    trust = learnt(shared=True)
    again = Trust.from_json(trust.to_json())
    np.testing.assert_allclose(again.at(np.array([near])), trust.at(np.array([near])), atol=1e-3)


@pytest.mark.parametrize("far", [0.02, 0.5])
def test_a_nearer_run_never_widens_a_band(far: float) -> None:
    """Rows near others are 0.1 off; far ones more, which is kept, or less, which is not."""
    near = np.repeat([0.2, 0.95], 40)
    trials = _Trials(
        near=near, mean=np.zeros(80), deviation=np.full(80, 0.02),
        residual=np.repeat([far, 0.1], 40), weight=np.full(80, 0.25),
    )  # fmt: skip
    steps = steps_of(near)
    known = [step in steps for step in range(len(EDGES))]
    widening = _widening(trials, steps, np.zeros(80), known)
    wide, narrow = widening[steps[0]], widening[steps[-1]]
    assert narrow <= wide * (1 + 1e-9)
    assert (narrow == pytest.approx(wide)) == (far < 0.1)
