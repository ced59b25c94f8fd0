"""How right training predictions are on rows that no part of the fit has seen."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import pytest

from weftline.plan import plan_train
from weftline.plan.calibrate.calibration import DATA
from weftline.plan.calibrate.fit import fit_levels, physics_seconds
from weftline.plan.calibrate.predict import compile_row
from weftline.plan.calibrate.row import Row, Unpredicted
from weftline.plan.calibrate.rows import read_rows as read_rows_anew
from weftline.plan.calibrate.score import GROUPS, score_held_out, score_rows, summary_of
from weftline.spec import Job, Plan

FILES = ("published_runs.csv", "vtrain_single.csv", "vtrain_multi.csv")
MAPE_PCT_MAX = {"published_runs.csv": 8.0, "vtrain_single.csv": 8.0, "vtrain_multi.csv": 8.0}
FOLDS = {"published_runs.csv": 5, "vtrain_single.csv": 4, "vtrain_multi.csv": 4}
META_TFLOPS_PER_CHIP, META_MFU = 400e12, 0.41
"""Llama 3.1 405B on 16,384 H100 at 8,192 tokens a sequence (arXiv:2407.21783, table 4)."""


@functools.cache
def read_rows(path: Path) -> tuple[list[Row], list[Unpredicted]]:
    """Read once for all tests; no test changes rows."""
    return read_rows_anew(path)


def held_out(
    file: str, seeds: range, by: Callable[[Row], str] | None = None
) -> dict[str, float | int | None]:
    rows, left = read_rows(DATA / file)
    score = score_held_out(rows, left, folds=FOLDS[file], seeds=seeds, by=by)
    assert not any(row.seen for row in score.rows)
    return summary_of(score.rows, len(score.rows))


@pytest.mark.parametrize("file", ["published_runs.csv", "vtrain_multi.csv"])
def test_random_rows_that_were_left_out(file: str) -> None:
    """vTrain's single nodes, whose 714 rows take longest, are among the slow ones below."""
    found = held_out(file, range(1))
    assert (found["mape_pct"] or 100) <= MAPE_PCT_MAX[file]
    coverage = found["interval_coverage_pct"] or 0
    # 90 % is promised; a file of 68 rows cannot tell 80 from 90.
    assert (80 if file == "published_runs.csv" else 75) <= coverage <= 97


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES)
def test_random_rows_that_were_left_out_over_several_seeds(file: str) -> None:
    found = held_out(file, range(5))
    assert (found["mape_pct"] or 100) <= MAPE_PCT_MAX[file]
    assert 80 <= (found["interval_coverage_pct"] or 0) <= 97


@pytest.mark.slow
def test_a_source_without_any_row() -> None:
    """Papers and repositories left out whole: what a user's own runs are to the fit."""
    found = held_out("published_runs.csv", range(1), by=GROUPS["source"])
    assert (found["mape_pct"] or 100) <= 15.0
    assert (found["median_pct"] or 100) <= 12.0
    assert 80 <= (found["interval_coverage_pct"] or 0) <= 97


def test_bf16_runs_on_b200_without_their_source() -> None:
    """SimuMax's own runs, by what others measured: no kernel was timed on that machine."""
    rows, _ = read_rows(DATA / "published_runs.csv")
    compiled = {id(row): compile_row(row) for row in rows}
    kept = [r for r in rows if r.measured_s and "SimuMax" not in r.source]
    own = [r for r in rows if r.measured_s and "SimuMax" in r.source]
    levels = fit_levels(kept, [compiled[id(r)] for r in kept])
    seconds = physics_seconds(own, [compiled[id(r)] for r in own], levels)
    errors = [abs(t / (r.measured_s or 1) - 1) for t, r in zip(seconds, own, strict=True)]
    assert len(own) >= 15
    assert 100 * sum(errors) / len(errors) <= 8.0


@pytest.mark.slow
def test_a_chip_without_any_row() -> None:
    found = held_out("published_runs.csv", range(1), by=GROUPS["accelerator"])
    assert (found["mape_pct"] or 100) <= 25.0


@pytest.mark.slow
@pytest.mark.parametrize("file", ["published_runs.csv", "vtrain_single.csv"])
def test_a_model_without_any_row(file: str) -> None:
    found = held_out(file, range(1), by=GROUPS["model"])
    assert (found["mape_pct"] or 100) <= 20.0


@pytest.mark.parametrize("file", FILES)
def test_all_shipped_rows_are_in_the_calibration_that_is_shipped(file: str) -> None:
    """A row that is not known again would be scored with itself: the files belong together."""
    rows, left = read_rows(DATA / file)
    score = score_rows(rows, left)
    assert all(row.seen for row in score.rows if row.measured_s is not None)
    assert summary_of(score.rows, len(rows))["mape_pct"] <= MAPE_PCT_MAX[file]  # type: ignore[operator]
    assert all(u.reason for u in left)


def test_the_error_of_rows_that_were_left_out_is_not_that_of_rows_that_were_seen() -> None:
    rows, left = read_rows(DATA / "published_runs.csv")
    assert len(rows) > 300
    assert len(left) <= 5
    groups = {row.group for row in rows}
    assert len({row.accelerator for row in rows}) >= 10
    assert len(groups) >= 12


@pytest.fixture(scope="module")
def llama_405b() -> Plan:
    return plan_train(
        Job(model="llama-3.1-405b", tokens=15_600_000_000_000, seq_len=8192, global_batch=2048,
            accelerators=("h100-sxm",), chips=16384, objective="time"),
    )  # fmt: skip


def test_llama_405b_reaches_what_meta_reached(llama_405b: Plan) -> None:
    assert llama_405b.estimates["mfu"].value == pytest.approx(META_MFU, rel=0.25)
    low, high = llama_405b.estimates["mfu"].low, llama_405b.estimates["mfu"].high
    assert low <= META_MFU <= high


def test_llama_405b_takes_the_days_it_took_meta(llama_405b: Plan) -> None:
    days = 6 * 405e9 * llama_405b.job.tokens / (16384 * META_TFLOPS_PER_CHIP) / 86400
    assert llama_405b.estimates["train_time"].value / 86400 == pytest.approx(days, rel=0.25)
    assert llama_405b.layout.tp == 8
    assert llama_405b.layout.pp > 1
