"""Spot chips with a deadline: never late, and near what a seer would pay."""

from __future__ import annotations

import numpy as np
import pytest

from weftline.decide.portfolio.spot import (
    SpotJob,
    offline_optimum,
    two_state_trace,
    uniform_progress,
)


def case(seed: int) -> tuple[SpotJob, np.ndarray]:
    """A job of two to five days in hours, and a trace with stays and absences of its own."""
    rng = np.random.default_rng(seed)
    deadline = int(rng.integers(48, 121))
    job = SpotJob(
        work=round(deadline * float(rng.uniform(0.5, 0.85)) * 4) / 4, deadline=deadline,
        start=0.25, spot_usd=1.0, on_demand_usd=float(rng.uniform(2, 4)),
    )  # fmt: skip
    up, down = float(rng.uniform(3, 40)), float(rng.uniform(2, 30))
    return job, two_state_trace(deadline, up, down, seed)


def test_never_late_on_a_thousand_traces() -> None:
    for seed in range(1000):
        job, there = case(seed)
        run = uniform_progress(job, there)
        assert run.done == pytest.approx(job.work)
        assert len(run.uses) == job.deadline
        assert all(there[i] for i, use in enumerate(run.uses) if use == "spot")


def test_never_late_with_hardly_any_slack_or_spot() -> None:
    for start in (0.0, 0.25, 1.0):
        for work in (96.0, 99.0, 100.0 - start):
            job = SpotJob(work=work, deadline=100, start=start, spot_usd=1, on_demand_usd=3)
            for there in (np.zeros(100, bool), np.ones(100, bool), np.arange(100) % 2 == 0,
                          two_state_trace(100, 2, 2, 1)):  # fmt: skip
                if job.possible:
                    assert uniform_progress(job, there).done == pytest.approx(work)
    with pytest.raises(ValueError, match="late"):
        uniform_progress(SpotJob(work=100, deadline=100, start=0.25, spot_usd=1, on_demand_usd=3),
                         np.ones(100, bool))  # fmt: skip


def test_within_a_tenth_of_what_a_seer_would_pay() -> None:
    runs = [(uniform_progress(*case(seed)).usd, offline_optimum(*case(seed)))
            for seed in range(60)]  # fmt: skip
    ours, best = (np.array(x) for x in zip(*runs, strict=True))
    assert (ours >= best * (1 - 1e-9)).all()
    assert ours.sum() / best.sum() < 1.10
    assert (ours / best).mean() < 1.10


def test_the_seer_pays_what_can_be_worked_out() -> None:
    job = SpotJob(work=3, deadline=6, start=0.0, spot_usd=1, on_demand_usd=3)
    assert offline_optimum(job, np.array([1, 0, 0, 1, 0, 0], bool)) == pytest.approx(2 * 1 + 3)
    assert offline_optimum(job, np.ones(6, bool)) == pytest.approx(3)
    starts = SpotJob(work=3, deadline=6, start=0.5, spot_usd=1, on_demand_usd=3)
    assert offline_optimum(starts, np.ones(6, bool)) == pytest.approx(4)  # half a step is lost
