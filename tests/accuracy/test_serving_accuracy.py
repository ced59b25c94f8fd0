"""The shipped calibration against the measured rows it ships with.

Bounds are what was reached, with little room: a change that loses accuracy fails here. The refits
without whole models and chips are slow and stand behind the marker.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest

import weftline.serve
from weftline.serve.calibrate.rows import read_rows
from weftline.serve.score import score_held_out, score_rows

DATA = Path(weftline.serve.__file__).parent / "data"


@cache
def _score(name: str) -> dict[str, Any]:
    return score_rows(*read_rows(DATA / name))


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


def test_a_model_never_measured_gets_a_wider_interval_and_says_so() -> None:
    from dataclasses import replace

    rows, _ = read_rows(DATA / "serving_silicon.csv.gz")
    own = next(r for r in rows if r.model == "llama-3.1-70b" and r.chip == "b200")
    known = score_rows([own], [])["rows"][0]
    new = score_rows([replace(own, model="qwen3-8b", id="new")], [])["rows"][0]
    ratio = [r["tpot"]["high_s"] / r["tpot"]["low_s"] for r in (known, new)]
    assert ratio[1] > ratio[0]
    assert "never measured" in new["note"]


def test_published_rows() -> None:
    found = _score("serving_published.csv.gz")
    groups = {(g["by"], g["name"]): g for g in found["groups"]}
    for chip in ("inferentia2", "trainium1", "tpu-v5e", "mi300x"):
        assert groups["chip", chip]["throughput"]["median_pct"] < 20
    offline = groups["mode", "mlperf_inference_v5.1 Offline"]
    assert offline["throughput"]["median_pct"] < 15


@pytest.mark.slow
@pytest.mark.parametrize(("by", "tpot", "ttft"), [("model", 10.8, 28.0), ("chip", 9.8, 26.5)])
def test_whole_groups_left_out(by: str, tpot: float, ttft: float) -> None:
    rows, left = read_rows(DATA / "serving_silicon.csv.gz")
    summary = score_held_out(rows, left, by=by)["summary"]
    assert summary["tpot"]["median_pct"] < tpot
    assert summary["ttft"]["median_pct"] < ttft
