"""Load from outside, rows of other harnesses, steps timed inside, and what follows from them."""

from __future__ import annotations

import json
from pathlib import Path

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
STEPS = StepModel(**ABOUT, rows=(1, 101), rows_s=(0.011, 0.111),
                  prompt_pair_s=0.0, decode_key_s=0.0, steps=20, error=0.0)  # fmt: skip


def test_a_forecast_by_hand() -> None:
    """One client, prompt of 128 in two chunks of 64, three tokens after the first."""
    found = forecast(STEPS, input_tokens=128, output_tokens=4, concurrency=1, requests=3)
    assert found.ttft_s == pytest.approx(2 * (0.01 + 0.064))
    assert found.tpot_s == pytest.approx(0.011)
    assert found.output_tokens_per_s == pytest.approx(4 / (0.148 + 0.033), rel=0.01)
    two = forecast(STEPS, input_tokens=32, output_tokens=4, concurrency=2, requests=4)
    assert two.tpot_s == pytest.approx(0.012)  # both begin in one step, and decode together


def test_a_client_that_asks_again_misses_the_step_that_begins_at_once() -> None:
    """By hand: chunks of 64 hold A's prompt, then B's; steps take 0.010 + 0.001 a row."""
    found = forecast(STEPS, input_tokens=64, output_tokens=3, concurrency=2, requests=3)
    # A: 0.074. B then has 63 rows beside A's second token, and its last beside A's third. A's
    # client asks again 2 ms into B's second token, has 63 rows beside B's third, and its last.
    waits = [0.074, 0.074 + 0.074 + 0.012, 0.011 - 0.002 + 0.074 + 0.011]
    assert found.ttft_s == pytest.approx(sorted(waits)[1])


def test_the_fit_finds_what_made_the_times(tmp_path) -> None:
    draw = np.random.default_rng(0)
    draw_rows = draw.choice([1, 4, 16, 64, 512], 90)
    work = [(float(n), *map(float, rest)) for n, rest in
            zip(draw_rows, draw.integers(1, 5000, (90, 2)), strict=True)]  # fmt: skip
    rows_s = dict(zip([1, 4, 16, 64, 512], [0.02, 0.05, 0.05, 0.09, 0.3], strict=True))
    truth = np.array([2e-8, 3e-6])
    seconds = [(rows_s[n] + np.array(w[1:]) @ truth) * draw.uniform(0.99, 1.01)
               for n, w in zip(draw_rows, work, strict=True)]  # fmt: skip
    found = fitted(work, seconds, **ABOUT)
    assert found.error < 0.01
    assert found.rows == (1, 4, 16, 64, 512)
    assert found.rows_s == pytest.approx(list(rows_s.values()), rel=0.05)
    assert found.decode_key_s == pytest.approx(3e-6, rel=0.1)
    assert found.step_s((288.0, 0.0, 0.0)) == pytest.approx(0.195, rel=0.05)  # halfway
    assert found.step_s((736.0, 0.0, 0.0)) == pytest.approx(0.405, rel=0.05)  # and beyond
    write_steps(found, tmp_path / "steps.json")
    assert read_steps(tmp_path / "steps.json") == found
    with pytest.raises(InputError, match="too few"):
        fitted(work[:5], seconds[:5], **ABOUT)


def test_steps_are_timed_inside() -> None:
    engine = engine_over(tiny("llama"), tokens=32)
    work, seconds = timed_steps(engine, 2, 40, 5, seed=0)
    assert len(work) == len(seconds) == engine.steps - 1
    assert work[-1] == (1.0, 0.0, 44.0)  # the other began a chunk earlier
    engine.step()  # as it was


HARNESS = Path(__file__).parents[2] / "data" / "harness"
"""Real files of theirs; the README there says how they were made."""
CLOSED = {"vllm_closed": (12, 4, 64.0), "aiperf_closed": (8, 2, 94.0),
          "guidellm_closed": (8, 2, 94.0)}  # fmt: skip
"""Requests, clients, tokens of a prompt with what the chat template adds: as they were run."""


@pytest.mark.parametrize("name", CLOSED)
def test_a_closed_loop_of_another_harness(name: str) -> None:
    requests, clients, tokens = CLOSED[name]
    row = read_row(HARNESS / f"{name}.json")
    assert (row.model, row.requests, row.failed) == ("smol", requests, 0)
    assert (row.concurrency, row.rate_per_s) == (clients, None)
    assert (row.input_tokens, row.output_tokens) == (tokens, 16.0)
    # one figure that no reader uses ties the others: requests in flight are rate times latency
    stay = row.ttft_p50_s + 15 * row.tpot_p50_s
    assert row.output_tokens_per_s / 16 * stay == pytest.approx(clients, rel=0.25)
    assert row.ttft_p50_s <= row.ttft_p99_s


@pytest.mark.parametrize("name", ["vllm", "aiperf", "guidellm"])
def test_an_open_loop_with_refusals_of_another_harness(name: str) -> None:
    row = read_row(HARNESS / f"{name}_open_refused.json")
    assert (row.requests, row.failed, row.rate_per_s, row.concurrency) == (12, 8, 4.0, None)
    # one sequence at a time: a token every 50 ms or so, and one more wait before the first
    assert 0.04 < row.tpot_p50_s < 0.07
    assert 14 < row.output_tokens_per_s < 17


def test_files_that_are_no_row(tmp_path) -> None:
    one = json.loads((HARNESS / "guidellm_closed.json").read_text())
    two = json.loads((HARNESS / "guidellm_open_refused.json").read_text())
    path = tmp_path / "g.json"
    path.write_text(json.dumps({"benchmarks": one["benchmarks"] + two["benchmarks"]}))
    with pytest.raises(InputError, match=r"2 points of load \(1: 2 clients; 2: 4 requests a sec"):
        read_row(path)
    assert read_row(path, 2) == read_row(HARNESS / "guidellm_open_refused.json")
    with pytest.raises(InputError, match="no point 3"):
        read_row(path, 3)
    vllm = json.loads((HARNESS / "vllm_closed.json").read_text())
    for change, word in (({"completed": 0}, "no request was answered"), ({"duration": None}, "wr"),
                         ({"model_id": ...}, "'model_id'")):  # fmt: skip
        made = {k: v for k, v in {**vllm, **change}.items() if v is not ...}
        path.write_text(json.dumps(made))
        with pytest.raises(InputError, match=word):
            read_row(path)
    path.write_text(json.dumps({**vllm, "total_output_tokens": vllm["completed"]}))
    assert read_row(path).tpot_p50_s is None
    path.write_text("[1]")
    with pytest.raises(InputError, match="known"):
        read_row(path)


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
