"""Sessions, a slower memory below the prefix cache, adapters, and a day's load."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weftline.errors import InputError, InputErrors
from weftline.serve.engine.adapters import Adapters, adapter_bytes
from weftline.serve.engine.config import ServingConfig
from weftline.serve.engine.memory import memory
from weftline.serve.engine.work import work_of
from weftline.serve.search.asked import options_of, parse_batch, serve_job_of
from weftline.serve.search.daily import curve_of, day_of, wanted_of
from weftline.serve.search.plan import plan_serve
from weftline.serve.simulate.asked import parse_lora, parse_offload
from weftline.serve.simulate.fleet import simulate
from weftline.serve.simulate.sessions import Shape, drawn
from weftline.serve.simulate.step import surface
from weftline.serve.simulate.trace_files import parse_trace
from weftline.spec.options import FleetOptions, ServingOptions, TrafficOptions

CONFIG = ServingConfig(model="llama-3.1-8b", chip="h100", prefix_cache=True)
SHAPE = Shape(turns=6, input_tokens=3000, grow_tokens=900, output_tokens=120, shared_tokens=1024,
              delay_s=2.0)  # fmt: skip


@pytest.mark.parametrize("routing", ["round-robin", "least-loaded", "prefix-aware"])
def test_turns_come_when_answers_end(routing: str) -> None:
    """Every turn comes its wait after the answer before, and all are answered."""
    traffic = drawn(6.0, 240, SHAPE, seed=3, spread=0.3)
    done = simulate(CONFIG, traffic, replicas=2, routing=routing)  # type: ignore[arg-type]
    assert traffic.follows is not None
    assert traffic.wait_s is not None
    later = np.flatnonzero(traffic.follows >= 0)
    ended = done.finished_s[traffic.follows[later]]
    assert np.allclose(done.arrived_s[later], ended + traffic.wait_s[later], atol=1e-6)
    assert np.isfinite(done.finished_s).all()
    assert done.cached_tokens.sum() > 0.3 * done.prefill_tokens.sum()


def test_sessions_without_a_cache_are_a_plain_trace_at_their_times() -> None:
    """The loop over turns against the loop that knows nothing of sessions: the same requests at
    the times that came out end at the same moments."""
    traffic = drawn(8.0, 300, SHAPE, seed=5, spread=0.2)
    config = replace(CONFIG, prefix_cache=False)
    done = simulate(config, traffic, replicas=3)
    order = np.argsort(done.arrived_s, kind="stable")
    plain = replace(
        traffic, follows=None, wait_s=None, arrived_s=done.arrived_s[order], hash_starts=None,
        hash_ids=None, prefill_tokens=traffic.prefill_tokens[order],
        decode_tokens=traffic.decode_tokens[order],
    )  # fmt: skip
    again = simulate(config, plain, replicas=3)
    assert np.allclose(again.finished_s, done.finished_s[order], rtol=0, atol=1e-5)


def test_a_growing_context_is_found_but_for_its_new_text() -> None:
    """By arithmetic: of each later prompt all but the new text, of the first what all share."""
    traffic = drawn(0.5, 120, SHAPE, seed=1)
    done = simulate(CONFIG, traffic)
    prompts = traffic.prefill_tokens.reshape(-1).sum()
    new = 20 * (3000 - 1024 + 5 * 900)
    found = done.cached_tokens.sum() / (prompts - new)
    assert 0.94 < found <= 1.0  # blocks of 64 tokens, and the first of all shared prefixes


def test_what_is_pushed_out_is_found_below() -> None:
    """With room for all of it below, nothing is computed twice, however small the cache; what is
    fetched takes its time; and more room never finds less."""
    small = replace(CONFIG, memory_fraction=0.32, max_batch=16)
    traffic = drawn(3.0, 240, replace(SHAPE, delay_s=20.0), seed=2)
    whole = simulate(CONFIG, traffic)
    found = []
    for size in (0.0, 4e9, 1e12):
        done = simulate(replace(small, offload_bytes=size), traffic)
        found.append(done.cached_tokens.sum())
        assert (done.loaded_tokens.sum() > 0) == (size > 0)
    assert found[0] < found[1] < found[2]
    assert found[2] >= 0.98 * whole.cached_tokens.sum()
    each = surface(CONFIG).kv_bytes_per_token
    slow = simulate(replace(small, offload_bytes=1e12, offload_bytes_per_s=each * 500), traffic)
    waits = slow.loaded_tokens / 500.0
    assert np.all(slow.ttft_s >= waits - 1e-9)


def test_files_of_sessions() -> None:
    """aiperf's lines: delays after answers, times of their own, contexts that grow."""
    text = "\n".join([
        '{"session_id": "a", "timestamp": 0, "input_length": 1000, "output_length": 50}',
        '{"session_id": "b", "timestamp": 500, "input_length": 800, "output_length": 60}',
        '{"session_id": "a", "delay": 2000, "input_length": 200, "output_length": 70}',
    ])  # fmt: skip
    found = parse_trace(text)
    assert found.follows is not None
    assert found.follows.tolist() == [-1, -1, 0]
    assert found.prefill_tokens.tolist() == [1000, 800, 1250]
    assert found.wait_s is not None
    assert found.wait_s[2] == 2.0
    wrong = text.replace('"delay": 2000', '"delay": -1').replace('"output_length": 60', '"x": 1')
    with pytest.raises(InputErrors) as error:
        parse_trace(wrong, where="t")
    assert [e.where for e in error.value.errors] == ["t:2", "t:3"]


def test_an_adapter_holds_what_peft_says() -> None:
    """LoRA of rank 16 on all products of Llama-3.1-8B has 41,943,040 weights (peft's own count)."""
    assert adapter_bytes(work_of("llama-3.1-8b"), 16) == 2.0 * 41_943_040


def test_adapters_take_room_and_time() -> None:
    """Slots come off the cache by their bytes; a step reads the adapters of its batch."""
    one = Adapters(count=200, rank=16, slots=32)
    with_them = replace(CONFIG, adapters=one)
    bare, held = memory(CONFIG), memory(with_them)
    assert held.weight_bytes - bare.weight_bytes == pytest.approx(32 * 2.0 * 41_943_040)
    rng = np.random.default_rng(0)
    drawn_ones = np.mean([len(set(rng.integers(0, 200, 24))) for _ in range(2000)])
    assert one.distinct(np.array([24.0]))[0] == pytest.approx(drawn_ones, rel=0.01)
    step = [surface(c).step_s(0.0, 0.0, 24.0, 24 * 1000.0) for c in (CONFIG, with_them)]
    read = drawn_ones * 2.0 * 41_943_040 / 3.35e12
    assert step[1] - step[0] > read
    assert parse_lora("200:16:32") == (200, 16, 32)
    assert parse_offload("nvme:4TB@5GB/s") == (4e12, 5e9)
    with pytest.raises(InputError, match="adapters"):
        parse_lora("many")


@settings(max_examples=40, deadline=None)
@given(ratio=st.floats(1.0, 2.0), peak=st.floats(1.0, 500.0), headroom=st.floats(0.0, 0.5),
       start=st.floats(0.0, 900.0))  # fmt: skip
def test_a_scaled_day_never_costs_more_and_a_quick_start_never_waits(
    ratio: float, peak: float, headroom: float, start: float
) -> None:
    fixed = wanted_of(peak, 4.0, headroom)
    day = day_of(curve_of(f"{ratio}"), peak_per_s=peak, each_per_s=4.0, headroom=headroom,
                 start_s=start, fixed=fixed)  # fmt: skip
    assert day.scaled_hours <= day.fixed_hours + 1e-9
    assert 1 <= day.least <= day.most <= fixed
    if headroom >= day.lead + 0.02:
        assert day.late_share == 0.0


def test_a_day_by_arithmetic(tmp_path: Path) -> None:
    """Instant replicas of a sine: the mean of the rounded-up need. A file of two levels: twelve
    hours of each, and a queue where replicas start too late for the jump."""
    day = day_of(curve_of("1.5"), peak_per_s=150.0, each_per_s=5.0, headroom=0.2, start_s=0.0,
                 fixed=38)  # fmt: skip
    t = np.linspace(0, 1, 8640, endpoint=False)
    need = np.ceil(150 * (1 - 0.5 * np.cos(2 * np.pi * t)) / 1.5 / 4.0)
    assert day.scaled_hours == pytest.approx(24 * need.mean(), rel=0.01)
    assert day.late_share == 0.0
    file = tmp_path / "day.csv"
    file.write_text("hour,rate\n" + "\n".join(f"{h},{10 if h < 12 else 100}" for h in range(24)))
    slow = day_of(curve_of(str(file)), peak_per_s=100.0, each_per_s=5.0, headroom=0.0,
                  start_s=1800.0, fixed=20)  # fmt: skip
    assert slow.late_share > 0.0
    assert slow.least == 2
    assert 0.4 < slow.saved_share < 0.5
    file.write_text("1\nx\n")
    with pytest.raises(InputError, match="not a rate") as error:
        curve_of(str(file))
    assert error.value.where == f"{file}:2"


def test_a_batch_is_done_in_time_by_who_does_it_for_least() -> None:
    """The bill is capacity's arithmetic; half the time asks for twice the fleet, not the money."""
    fleet = FleetOptions(on="l40s,h100", batch="200k", deadline="2h", engine="vllm")
    traffic = TrafficOptions(input="500", output="100")
    job = serve_job_of("llama-3.1-8b", fleet, traffic, ServingOptions())
    assert job.rate_per_s == pytest.approx(200e3 / 7200)
    assert serve_job_of("llama-3.1-8b", *options_of(job)) == job
    plan = plan_serve(job)
    best, done = plan.ranking[0], plan.batch
    assert plan.fleet.spares == 0
    assert done["done_s"] == pytest.approx(200e3 / plan.estimates["capacity"].value)
    assert done["done_s"] <= 7200 * (1 - job.headroom) * (1 + 1e-9)
    assert done["usd"] == pytest.approx(
        plan.estimates["cost_per_hour"].value * done["done_s"] / 3600
    )
    for other in plan.ranking[1:]:
        assert other.usd_per_hour is not None
        assert done["usd"] <= other.usd_per_hour * 200e3 / other.capacity_per_s / 3600 * (1 + 1e-9)
    hurried = replace(fleet, deadline="1h", on=best.fleet.accelerator)
    sooner = plan_serve(serve_job_of("llama-3.1-8b", hurried, traffic, ServingOptions()))
    assert sooner.fleet.chips >= plan.fleet.chips
    assert sooner.batch["usd"] == pytest.approx(done["usd"], rel=0.25)


def test_a_batch_has_no_rate_or_latency_and_says_all_of_it_at_once() -> None:
    with pytest.raises(InputErrors) as error:
        parse_batch(FleetOptions(batch="10k", ttft="1s", daily="2"), TrafficOptions(rate="3/s"))
    assert [e.where for e in error.value.errors] == ["--deadline", "--ttft", "--daily", "--rate"]
    assert parse_batch(FleetOptions(), TrafficOptions(rate="3/s")) is None


def test_the_question_comes_back_as_it_was_asked() -> None:
    """Sessions, offload, adapters and a day are options of a job file again, to the same job."""
    fleet = FleetOptions(on="h200", daily="1.8", replica_start="3min")
    traffic = TrafficOptions(rate="2/s", turns=4, tool_delay="7s", grow="900", input="4000",
                             shared_prefix="1000")  # fmt: skip
    serving = ServingOptions(kv_offload="nvme:2TB", lora="200:16:32")
    job = serve_job_of("qwen3-32b", fleet, traffic, serving)
    again = serve_job_of("qwen3-32b", *options_of(job))
    assert job.trace is not None
    assert again.trace is not None
    assert np.array_equal(job.trace.prefill_tokens, again.trace.prefill_tokens)
    assert replace(job, trace=None) == replace(again, trace=None)
    with pytest.raises(InputError, match="pools of workers"):
        serve_job_of("qwen3-32b", replace(fleet, disaggregated=True), traffic, serving)
    with pytest.raises(InputErrors) as error:
        serve_job_of("qwen3-32b", replace(fleet, daily="9"), TrafficOptions(rate="2/s"),
                     ServingOptions(kv_offload="1TB", cache_hit="80%", lora="0:16"))  # fmt: skip
    assert len(error.value.errors) == 3
