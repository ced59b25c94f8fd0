"""The residual process and conformal bounds against independent computations."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weftline.learn import (
    Features,
    Kernel,
    Process,
    Shape,
    conformal_quantile,
    fit_kernel,
    process,
)

SHAPE = Shape(labels=("engine", "model"), numbers=("batch",), within=("engine",))


def _rows(n: int, seed: int) -> Features:
    rng = np.random.default_rng(seed)
    return Features(labels=rng.integers(0, 4, (n, 2)), numbers=rng.normal(0, 2, (n, 1)))


KERNEL = Kernel(labels=np.array([0.2, 0.1]), within=np.array([0.1]), near=0.15, noise=0.05,
                scales=np.array([1.5]))  # fmt: skip


def test_left_out_equals_fitting_again_without_the_row() -> None:
    rows, y = _rows(30, 1), np.random.default_rng(2).normal(0, 0.2, 30)
    mean, deviation = Process(SHAPE, KERNEL, rows, y).left_out()
    for i in (0, 7, 29):
        rest = np.arange(30) != i
        again = Process(SHAPE, KERNEL, rows.take(rest), y[rest]).at(rows.take(np.array([i])))
        assert again[0][0] == pytest.approx(mean[i])
        assert again[1][0] == pytest.approx(deviation[i])


def test_how_many_rows_are_compared_at_once_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    a, b = _rows(9, 6), _rows(5, 7)
    whole = KERNEL.covariance(SHAPE, a, b)
    monkeypatch.setattr(process, "BLOCK", 2 * b.labels.size)
    np.testing.assert_allclose(KERNEL.covariance(SHAPE, a, b), whole, rtol=1e-14)
    apart = (a.numbers - b.numbers.T) / 1.5
    same = a.labels[:, None, :] == b.labels[None, :, :]
    by_hand = 0.2**2 * same[..., 0] + 0.1**2 * same[..., 1]
    by_hand = by_hand + (0.15**2 + 0.1**2 * same[..., 0]) * np.exp(-0.5 * apart**2)
    np.testing.assert_allclose(whole, by_hand)


def test_far_from_all_rows_nothing_is_corrected() -> None:
    rows, y = _rows(20, 3), np.full(20, 0.5)
    far = Features(labels=np.full((1, 2), 99), numbers=np.full((1, 1), 1e6))
    mean, deviation = Process(SHAPE, KERNEL, rows, y).at(far)
    assert mean[0] == pytest.approx(0.0, abs=1e-9)
    assert deviation[0] == pytest.approx((KERNEL.variance + KERNEL.noise**2) ** 0.5)


def test_the_gradient_leads_to_a_likelier_kernel() -> None:
    rows = _rows(80, 4)
    rng = np.random.default_rng(5)
    truth = KERNEL.covariance(SHAPE, rows, rows) + KERNEL.noise**2 * np.eye(80)
    y = np.linalg.cholesky(truth) @ rng.normal(size=80)
    start = Kernel(labels=np.array([0.02, 0.02]), within=np.array([0.02]), near=0.02, noise=0.3,
                   scales=np.array([1.0]))  # fmt: skip

    def likelihood(kernel: Kernel) -> float:
        k = kernel.covariance(SHAPE, rows, rows) + kernel.noise**2 * np.eye(80)
        return float(-0.5 * y @ np.linalg.solve(k, y) - 0.5 * np.linalg.slogdet(k)[1])

    found = fit_kernel(SHAPE, rows, y, start, pull=0.01)
    assert likelihood(found) > likelihood(start) + 5
    assert Kernel.from_json(SHAPE, found.to_json(SHAPE)).near == pytest.approx(found.near, abs=1e-4)


@settings(max_examples=30, deadline=None)
@given(st.integers(10, 200), st.integers(0, 10_000))
def test_conformal_bounds_hold_as_often_as_they_say(n: int, seed: int) -> None:
    """Exchangeable scores: a new one stays under the bound in 90 % of draws, in the mean."""
    scores = np.random.default_rng(seed).exponential(size=(400, n + 1))
    held = [new <= conformal_quantile(list(old), 0.9) for *old, new in scores]
    assert np.mean(held) > 0.9 - 4 * (0.09 / 400) ** 0.5


def test_too_few_scores_bound_nothing() -> None:
    assert conformal_quantile([1.0, 2.0], 0.9) == float("inf")
