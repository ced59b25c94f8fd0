"""The shipped calibration against the measured rows it ships with.

Bounds are what was reached, with little room: a change that loses accuracy fails here. The refits
without whole runs and harnesses are slow and stand behind the marker.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import weftline.serve
from weftline.model import load_model
from weftline.serve.calibrate.pool import unique_rows
from weftline.serve.calibrate.row import Row
from weftline.serve.calibrate.rows import read_rows
from weftline.serve.score import score_held_out, score_rows

DATA = Path(weftline.serve.__file__).parent / "data"
FILES = ("serving_silicon.csv.gz", "serving_published.csv.gz", "serving_published_2.csv.gz")


@cache
def _score(name: str) -> dict[str, Any]:
    return score_rows(*read_rows(DATA / name))


@cache
def _pool() -> list[Row]:
    return unique_rows([r for name in FILES for r in read_rows(DATA / name)[0]])


@cache
def _left_out(by: str) -> dict[str, Any]:
    return score_held_out(_pool(), [], by=by)


def test_silicon_rows_each_left_out_of_the_corrections() -> None:
    summary = _score("serving_silicon.csv.gz")["summary"]
    assert summary["rows"] == 3544
    assert summary["answered_of_stated_pct"] >= 95
    assert summary["tpot"]["median_pct"] < 3
    assert summary["ttft"]["median_pct"] < 8
    assert summary["throughput"]["median_pct"] < 3
    assert abs(summary["tpot"]["bias_pct"]) < 1
    for metric in ("ttft", "tpot", "throughput"):
        assert 84 <= summary[metric]["interval_coverage_pct"] <= 96


def test_every_answered_row_carries_all_that_was_asked() -> None:
    found = _score("serving_silicon.csv.gz")
    answered = [r for r in found["rows"] if "tpot" in r]
    assert len(answered) == found["summary"]["predicted"]
    for r in answered[::97]:
        for metric, unit in (("ttft", "s"), ("throughput", "tokens_per_s_per_chip")):
            assert r[metric][f"low_{unit}"] < r[metric][f"predicted_{unit}"]
            assert r[metric][f"predicted_{unit}"] < r[metric][f"high_{unit}"]
    assert all(r["reason"] for r in found["rows"] if "tpot" not in r)


def test_what_was_not_measured_gets_a_wider_interval() -> None:
    """A row of the calibration, a fresh one of its run, and one of a harness nobody knows."""
    from dataclasses import replace

    rows, _ = read_rows(DATA / "serving_silicon.csv.gz")
    own = next(r for r in rows if r.model == "llama-3.1-70b" and r.chip == "b200")
    fresh = replace(own, tpot_s=(own.tpot_s or 0) * 1.2, ttft_s=(own.ttft_s or 0) * 1.2)
    elsewhere = replace(fresh, harness="published")
    ratio = [
        r["tpot"]["high_s"] / r["tpot"]["low_s"]
        for r in score_rows([own, fresh, elsewhere], [])["rows"]
    ]
    assert ratio[0] < ratio[1] < ratio[2]
    new = score_rows([replace(fresh, model="qwen3-8b")], [])["rows"][0]
    assert "never measured" in new["note"]


def test_published_rows() -> None:
    found = _score("serving_published.csv.gz")
    groups = {(g["by"], g["name"]): g for g in found["groups"]}
    for chip in ("inferentia2", "trainium1", "tpu-v5e", "mi300x"):
        assert groups["chip", chip]["throughput"]["median_pct"] < 20
    assert groups["harness", "MLPerf Offline"]["throughput"]["median_pct"] < 8


@pytest.mark.slow
@pytest.mark.parametrize(
    ("by", "tpot", "ttft", "rate"), [("run", 9.2, 17.5, 9.0), ("harness", 13.0, 20.4, 12.0)]
)
def test_whole_groups_left_out(by: str, tpot: float, ttft: float, rate: float) -> None:
    summary = _left_out(by)["summary"]
    assert summary["tpot"]["median_pct"] < tpot
    assert summary["ttft"]["median_pct"] < ttft
    assert summary["throughput"]["median_pct"] < rate
    for metric in ("ttft", "tpot", "throughput"):
        assert 84.5 <= summary[metric]["interval_coverage_pct"] <= 95


@pytest.mark.slow
def test_runs_and_harnesses_left_out_as_wanted() -> None:
    for by, tpot, ttft, rate in (("run", 9, 18, 9), ("harness", 14, 30, 14)):
        summary = _left_out(by)["summary"]
        assert summary["tpot"]["median_pct"] <= tpot
        assert summary["ttft"]["median_pct"] <= ttft
        assert summary["throughput"]["median_pct"] <= rate


@pytest.mark.slow
def test_pipelines_and_dense_models_of_tensorrt_llm_left_out() -> None:
    """Runs left out: dense rows of trtllm-bench, and 70B over 1 to 8 stages."""
    rows = {r.id: r for r in _pool() if r.harness == "trtllm-bench"}
    errors = {
        r["id"]: r["throughput"]["error_pct"] for r in _left_out("run")["rows"] if r["id"] in rows
    }
    dense = [abs(e) for i, e in errors.items() if not load_model(rows[i].model).is_moe]
    assert len(dense) > 80
    assert np.median(dense) <= 12
    for stages in (2, 4, 8):
        own = [e for i, e in errors.items() if rows[i].layout.pp == stages]
        assert len(own) == 10
        assert abs(np.median(own)) <= 12, stages
