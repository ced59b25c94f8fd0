"""Spot chips with a deadline: never late, and near what a seer would pay."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from weftline.cli.main import run
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
        done = uniform_progress(job, there)
        assert done.done == pytest.approx(job.work)
        assert len(done.uses) == job.deadline
        assert all(there[i] for i, use in enumerate(done.uses) if use == "spot")


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


@pytest.mark.slow
def test_within_a_tenth_on_a_thousand_traces() -> None:
    runs = [(uniform_progress(*case(seed)).usd, offline_optimum(*case(seed)))
            for seed in range(1000)]  # fmt: skip
    ours, best = (np.array(x) for x in zip(*runs, strict=True))
    assert ours.sum() / best.sum() < 1.10
    assert (ours / best).mean() < 1.10


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["simulate", "spot", "--work", "40h", "--deadline", "3days", "--spot", "$1/h",
             "--on-demand", "$3/h", "--runs", "20"]  # fmt: skip
    assert run([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["late"] == 0
    assert found["seer_usd"] <= found["usd"] <= found["on_demand_usd"]
    assert found["on_demand_usd"] == pytest.approx(41 * 8 * 3)
    assert sum(found[n] for n in ("spot_hours", "on_demand_hours", "idle_hours")) == (
        pytest.approx(72)
    )
    trace = tmp_path / "trace.csv"
    trace.write_text("hour,there\n" + "".join(f"{i},1\n" for i in range(80)))
    assert run([*words, "--trace", str(trace)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("Best: $328.00 a run")  # 41 hours with the start, 8 chips, always spot
    assert max(map(len, out.splitlines())) <= 80
    trace.write_text("1\n2\n")
    assert run([*words, "--trace", str(trace)]) == 2
    assert "trace.csv:2: `2` is neither 0 nor 1" in capsys.readouterr().err
    assert run([*words[:3], "80h", *words[4:]]) == 3
    assert run(["simulate", "spot", "--work", "x", "--deadline", "3days", "--spot", "$1",
                "--on-demand", "much", "--step", "1s"]) == 2  # fmt: skip
    said = capsys.readouterr().err
    for part in ("--work", "--on-demand", "a step is a minute"):
        assert part in said, said


def test_the_seer_pays_what_can_be_worked_out() -> None:
    job = SpotJob(work=3, deadline=6, start=0.0, spot_usd=1, on_demand_usd=3)
    assert offline_optimum(job, np.array([1, 0, 0, 1, 0, 0], bool)) == pytest.approx(2 * 1 + 3)
    assert offline_optimum(job, np.ones(6, bool)) == pytest.approx(3)
    starts = SpotJob(work=3, deadline=6, start=0.5, spot_usd=1, on_demand_usd=3)
    assert offline_optimum(starts, np.ones(6, bool)) == pytest.approx(4)  # half a step is lost
