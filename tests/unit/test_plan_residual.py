"""The residual process against textbook formulas, and the arithmetic of a score."""

from __future__ import annotations

import numpy as np
import pytest

from weftline.learn import Features, Kernel, fit_kernel, stack
from weftline.plan.calibrate.residual import (
    LABELS,
    NUMBERS,
    SHAPE,
    Residual,
    kernel_from_json,
    kernel_to_json,
    start_kernel,
)
from weftline.plan.calibrate.score import Z90, Score, Scored, score_to_dict, summary_of

SEED = 20261121


def some_rows(count: int, seed: int = SEED) -> tuple[Features, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, (count, len(LABELS))).astype(np.str_)
    numbers = rng.uniform(0, 8, (count, len(NUMBERS)))
    return Features(labels=labels, numbers=numbers), rng.normal(0, 0.1, count)


def kernel(noise: float = 0.03) -> Kernel:
    return Kernel(
        labels=np.linspace(0.02, 0.1, len(LABELS)), within=np.array([0.08]), near=0.05,
        noise=noise, scales=np.linspace(2, 4, len(NUMBERS)),
    )  # fmt: skip


def covariance_by_hand(k: Kernel, a: Features, b: Features) -> np.ndarray:
    out = np.zeros((len(a), len(b)))
    group = LABELS.index("group")
    for i in range(len(a)):
        for j in range(len(b)):
            for q in range(len(LABELS)):
                if a.labels[i, q] == b.labels[j, q]:
                    out[i, j] += k.labels[q] ** 2
            apart = sum(
                ((a.numbers[i, d] - b.numbers[j, d]) / k.scales[d]) ** 2
                for d in range(len(NUMBERS))
            )
            height = k.near**2
            if a.labels[i, group] == b.labels[j, group]:
                height += k.within[0] ** 2
            out[i, j] += height * np.exp(-0.5 * apart)
    return out


def test_covariance_is_what_the_formula_says() -> None:
    a, _ = some_rows(9)
    b, _ = some_rows(7, seed=1)
    np.testing.assert_allclose(kernel().covariance(SHAPE, a, b), covariance_by_hand(kernel(), a, b))


def test_covariance_of_rows_that_share_all_labels_takes_no_other_path() -> None:
    a, _ = some_rows(5)
    alike = Features(labels=np.tile(a.labels[:1], (5, 1)), numbers=a.numbers)
    np.testing.assert_allclose(
        kernel().covariance(SHAPE, alike, a), covariance_by_hand(kernel(), alike, a)
    )


def test_a_row_with_hardly_any_noise_gives_back_its_own_residual() -> None:
    rows, residual = some_rows(15)
    process = Residual(kernel(noise=1e-6), rows, residual)
    mean, deviation = process.at(rows)
    np.testing.assert_allclose(mean, residual, atol=1e-6)
    assert deviation.max() < 1e-4


def test_leaving_one_out_is_conditioning_on_all_others() -> None:
    rows, residual = some_rows(15)
    mean, deviation = Residual(kernel(), rows, residual).left_out()
    for i in range(len(rows)):
        rest = np.delete(np.arange(len(rows)), i)
        without = Residual(kernel(), rows.take(rest), residual[rest])
        one_mean, one_deviation = without.at(rows.take(np.array([i])))
        assert mean[i] == pytest.approx(one_mean[0])
        assert deviation[i] == pytest.approx(one_deviation[0])


def test_far_from_every_row_nothing_is_corrected_and_the_bar_is_widest() -> None:
    rows, residual = some_rows(15)
    process = Residual(kernel(), rows, residual)
    far = Features(labels=np.full((1, len(LABELS)), "elsewhere"), numbers=rows.numbers[:1] + 1e3)
    mean, deviation = process.at(far)
    assert mean[0] == pytest.approx(0.0, abs=1e-12)
    assert deviation[0] == pytest.approx((kernel().variance + kernel().noise ** 2) ** 0.5)
    assert deviation[0] >= process.at(rows)[1].max()


def test_every_measured_row_narrows_the_bar() -> None:
    rows, residual = some_rows(15)
    asked, _ = some_rows(4, seed=2)
    bars = [
        Residual(kernel(), rows.take(np.arange(n)), residual[:n]).at(asked)[1] for n in (1, 5, 15)
    ]
    assert (bars[1] <= bars[0] + 1e-12).all()
    assert (bars[2] <= bars[1] + 1e-12).all()


def test_bands_are_widened_until_nine_of_ten_left_out_rows_lie_in_theirs() -> None:
    rows, residual = some_rows(60)
    calm = Residual(kernel(), rows, residual * 0.1)
    wild = Residual(kernel(), rows, residual * 5)
    assert calm.widening == 1.0
    assert wild.widening > 1.5
    mean, deviation = wild.left_out()
    held = np.abs(wild.residual - mean) <= Z90 * deviation * (1 + 1e-9)
    assert 0.9 <= held.mean() <= 0.95
    asked, _ = some_rows(5, seed=3)
    few = Residual(kernel(), rows.take(np.arange(10)), 5 * residual[:10])
    assert few.widening == 1.0  # too few rows to tell
    plain = wild.at(asked)[1] / wild.widening
    assert (plain <= (kernel().variance + kernel().noise ** 2) ** 0.5 + 1e-12).all()


def test_a_row_that_is_noisier_says_less() -> None:
    rows, residual = some_rows(12)
    doubtful = np.zeros(12)
    doubtful[4] = 10.0
    process = Residual(kernel(), rows, residual, extra_noise=doubtful)
    rest = np.delete(np.arange(12), 4)
    without = Residual(kernel(), rows.take(rest), residual[rest])
    asked, _ = some_rows(5, seed=4)
    np.testing.assert_allclose(process.at(asked)[0], without.at(asked)[0], atol=1e-4)


def test_without_rows_there_is_no_correction() -> None:
    rows, _ = some_rows(3)
    empty = Residual(kernel(), rows.take(np.array([], dtype=int)), np.array([]))
    mean, deviation = empty.at(rows)
    assert not mean.any()
    assert (deviation > 0).all()
    assert not empty.mean(rows).any()
    assert empty.nearest(rows) is None


def test_its_mean_is_the_mean_it_shows_and_the_nearest_row_is_the_row_itself() -> None:
    rows, residual = some_rows(12)
    process = Residual(kernel(), rows, residual, ids=[f"r{i}" for i in range(12)])
    np.testing.assert_allclose(process.mean(rows), process.at(rows)[0])
    name, correlation = process.nearest(rows.take(np.array([7]))) or ("", 0.0)
    assert name == "r7"
    assert correlation == pytest.approx(1.0)


def test_it_knows_its_own_rows_again() -> None:
    rows, residual = some_rows(12)
    process = Residual(kernel(), rows, residual)
    others, values = some_rows(3, seed=5)
    asked = stack([rows.take(np.array([4, 11])), others])
    found = process.index_of(asked, np.concatenate([residual[[4, 11]], values]))
    assert found == [4, 11, None, None, None]
    assert process.index_of(rows.take(np.array([4])), residual[4:5] + 0.1) == [None]


def test_a_kernel_survives_its_file() -> None:
    found = kernel_from_json(kernel_to_json(kernel()))
    np.testing.assert_allclose(found.labels, kernel().labels, atol=1e-5)
    np.testing.assert_allclose(found.scales, kernel().scales, atol=1e-4)
    assert (found.near, found.within[0], found.noise) == (0.05, 0.08, 0.03)


def test_the_fitted_kernel_explains_rows_better_than_where_it_started() -> None:
    rows, _ = some_rows(60)
    rng = np.random.default_rng(SEED)
    truth = kernel_to_json(kernel())
    truth["labels"] = dict.fromkeys(LABELS, 1e-4) | {"model": 0.3}
    drawn = kernel_from_json(truth)
    cover = drawn.covariance(SHAPE, rows, rows) + 0.01**2 * np.eye(60)
    residual = np.linalg.cholesky(cover) @ rng.normal(size=60)
    found = fit_kernel(SHAPE, rows, residual, start_kernel())
    assert found.labels[LABELS.index("model")] == max(found.labels)

    def left_out_error(k: Kernel) -> float:
        return float(np.abs(Residual(k, rows, residual).left_out()[0] - residual).mean())

    assert left_out_error(found) < left_out_error(kernel())


def scored(name: str, predicted: float, measured: float | None, spread: float = 1.2) -> Scored:
    return Scored(
        id=name, accelerator="h100-sxm", framework="f", model="m", layout_stated=True,
        source="a paper", recipe="f", physics_s=predicted,
        predicted_s=predicted, low_s=predicted / spread, high_s=predicted * spread,
        measured_s=measured, seen=False,
    )  # fmt: skip


def test_the_summary_is_plain_arithmetic() -> None:
    rows = [
        scored("a", 1.1, 1.0),
        scored("b", 0.5, 1.0),
        scored("c", 1.0, 1.0),
        scored("d", 2, None),
    ]
    found = summary_of(rows, total=6)
    assert found == {
        "rows": 6, "predicted": 4, "mape_pct": 20.0, "median_pct": 10.0,
        "p90_pct": pytest.approx(42.0), "bias_pct": pytest.approx(-13.333, abs=1e-3),
        "physics_mape_pct": 20.0, "physics_median_pct": 10.0,
        "interval_coverage_pct": pytest.approx(66.667, abs=1e-3),
    }  # fmt: skip


def test_a_summary_of_nothing_measured_has_no_error() -> None:
    assert summary_of([scored("d", 2, None)], 1)["mape_pct"] is None
    assert summary_of([], 0)["predicted"] == 0


def test_an_error_is_predicted_over_measured() -> None:
    row = scored("a", 1.5, 2.0)
    assert row.error_pct == pytest.approx(-25.0)
    assert row.interval_hit is False
    assert scored("b", 1.9, 2.0).interval_hit is True
    assert scored("c", 1.9, None).error_pct is None


def test_groups_of_a_score_hold_all_its_rows() -> None:
    rows = tuple(scored(str(i), 1.0 + i / 10, 1.0) for i in range(5))
    found = score_to_dict(Score(rows=rows, unpredicted=(), how="by hand"))
    assert sum(g["rows"] for g in found["groups"]) == len(found["rows"]) == 5
    assert found["summary"]["rows"] == 5


def test_the_interval_is_the_central_90_percent_of_a_normal_error() -> None:
    from scipy.stats import norm

    assert norm.cdf(Z90) - norm.cdf(-Z90) == pytest.approx(0.9, abs=1e-4)
