"""Load from outside, rows of other harnesses, steps timed inside, and what follows from them."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from tiny_models import engine_over, tiny

from weftline.errors import InputError
from weftline.runtime.load.client import Answer
from weftline.runtime.load.rows import read_row, row_of, write_row
from weftline.runtime.server.calibrate import timed_steps
from weftline.runtime.server.timing import (
    StepModel,
    fitted,
    forecast,
    read_steps,
    write_steps,
)

ABOUT = {"model": "m", "dtype": "fp32", "kv": "fp32", "policy": "dense", "page": 16,
         "chunk_tokens": 64, "threads": 1, "date": "2026-11-30"}  # fmt: skip
STEPS = StepModel(**ABOUT, floor_s=0.01, row_s=1e-3, prompt_pair_s=0.0, decode_key_s=0.0,
                  steps=20, error=0.0)  # fmt: skip


def test_a_forecast_by_hand() -> None:
    """One client, prompt of 128 in two chunks of 64, three tokens after the first."""
    found = forecast(STEPS, input_tokens=128, output_tokens=4, concurrency=1, requests=3)
    assert found.ttft_s == pytest.approx(2 * (0.01 + 0.064))
    assert found.tpot_s == pytest.approx(0.011)
    assert found.output_tokens_per_s == pytest.approx(4 / (0.148 + 0.033))
    two = forecast(STEPS, input_tokens=32, output_tokens=4, concurrency=2, requests=4)
    assert two.tpot_s == pytest.approx(0.012)  # both begin in one step, and decode together


def test_the_fit_finds_what_made_the_times(tmp_path) -> None:
    draw = np.random.default_rng(0)
    work = [(1.0, float(r), float(p), float(k)) for r, p, k in draw.integers(1, 5000, (60, 3))]
    truth = np.array([0.004, 1e-5, 2e-8, 3e-7])
    seconds = (np.array(work) @ truth * draw.uniform(0.99, 1.01, 60)).tolist()
    found = fitted(work, seconds, **ABOUT)
    assert found.error < 0.01
    assert found.row_s == pytest.approx(1e-5, rel=0.1)
    assert found.decode_key_s == pytest.approx(3e-7, rel=0.1)
    write_steps(found, tmp_path / "steps.json")
    assert read_steps(tmp_path / "steps.json") == found
    with pytest.raises(InputError, match="too few"):
        fitted(work[:5], seconds[:5], **ABOUT)


def test_steps_are_timed_inside() -> None:
    engine = engine_over(tiny("llama"), tokens=32)
    work, seconds = timed_steps(engine, 2, 40, 5, seed=0)
    assert len(work) == len(seconds) == engine.steps - 1
    assert work[-1] == (1.0, 1.0, 0.0, 44.0)  # the other began a chunk earlier
    engine.step()  # as it was


def test_rows_of_every_harness(tmp_path) -> None:
    """Files of the forms the harnesses are documented to write; none came from a run of theirs."""
    vllm = {
        "model_id": "m", "num_prompts": 10, "completed": 9, "duration": 3.0, "request_rate": "inf",
        "max_concurrency": 4, "total_input_tokens": 900, "total_output_tokens": 180,
        "median_ttft_ms": 50.0, "p99_ttft_ms": 90.0, "median_tpot_ms": 7.0, "p99_tpot_ms": 9.0,
    }  # fmt: skip
    aiperf = {
        "time_to_first_token": {"p50": 50.0, "p99": 90.0, "unit": "ms"},
        "inter_token_latency": {"p50": 7.0, "p99": 9.0, "unit": "ms"},
        "input_sequence_length": {"avg": 100.0}, "output_sequence_length": {"avg": 20.0},
        "output_token_throughput": {"avg": 60.0}, "request_count": {"avg": 9.0},
        "error_request_count": {"avg": 1.0},
        "input_config": {"endpoint": {"model_names": ["m"]}, "loadgen": {"concurrency": 4}},
    }  # fmt: skip

    def part(mean: float, p99: float = 0.0) -> dict[str, object]:
        return {"successful": {"mean": mean, "median": mean, "percentiles": {"p99": p99}}}

    guidellm = {"benchmarks": [{
        "config": {"strategy": {"type_": "concurrent", "streams": 4}},
        "metrics": {
            "request_totals": {"total": 10, "errored": 1},
            "time_to_first_token_ms": part(50.0, 90.0), "inter_token_latency_ms": part(7.0, 9.0),
            "prompt_token_count": part(100.0), "output_token_count": part(20.0),
            "output_tokens_per_second": part(60.0),
        },
    }], "args": {"model": "m"}}  # fmt: skip
    found = []
    for name, data in (("v", vllm), ("a", aiperf), ("g", guidellm)):
        (tmp_path / name).write_text(json.dumps(data))
        found.append(read_row(tmp_path / name))
    assert [row.harness for row in found] == ["vllm bench serve", "aiperf", "guidellm"]
    assert all(replace(row, harness="") == replace(found[0], harness="") for row in found)
    del vllm["duration"]
    (tmp_path / "v").write_text(json.dumps(vllm))
    with pytest.raises(InputError, match="duration"):
        read_row(tmp_path / "v")
    (tmp_path / "v").write_text("[1]")
    with pytest.raises(InputError, match="known"):
        read_row(tmp_path / "v")


def test_our_own_row_round_trips(tmp_path) -> None:
    answers = [Answer(0.0, 0.5, 1.5, 10, 11), Answer(0.0, 1.0, 3.0, 10, 11),
               Answer(0.0, None, 1.0, 10, 0, "503")]  # fmt: skip
    row = row_of(answers, model="m", concurrency=3, rate_per_s=None, seed=1)
    assert (row.failed, row.ttft_p50_s, row.tpot_p50_s) == (1, 0.75, pytest.approx(0.15))
    assert row.output_tokens_per_s == pytest.approx(22 / 3)
    write_row(row, tmp_path / "run")
    assert read_row(tmp_path / "run") == row
    with pytest.raises(InputError, match="503"):
        row_of(answers[2:], model="m", concurrency=3, rate_per_s=None, seed=1)
