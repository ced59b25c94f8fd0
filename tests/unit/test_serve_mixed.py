"""Fleets of two chips: behind one router, and with prompts on chips of their own."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weftline.errors import InputError, InputErrors, NoFeasiblePlanError
from weftline.launch import export_plan
from weftline.serve.engine.config import PoolConfig, ServingConfig
from weftline.serve.engine.memory import memory
from weftline.serve.search.asked import options_of, serve_job_of
from weftline.serve.search.plan import plan_serve
from weftline.serve.simulate.asked import beside_of
from weftline.serve.simulate.capacity import capacity_per_s
from weftline.serve.simulate.fleet import simulate
from weftline.serve.simulate.mixed import Part, dealt, part_of, simulate_parts
from weftline.serve.simulate.sessions import Shape, drawn
from weftline.serve.simulate.step import prefill_surface, surface
from weftline.serve.simulate.traffic import bundled, poisson
from weftline.spec import ServeJob, ServePlan, ServeSpace, Target
from weftline.spec.options import (
    FleetOptions,
    ReplicaOptions,
    ServingOptions,
    TrafficOptions,
)
from weftline.spec.serialize import plan_to_json, serve_plan_from_json

FAST = ServingConfig(model="llama-3.1-8b", chip="h100-sxm", gemm_dtype="fp8")
SLOW = replace(FAST, chip="l40s")
ASKED = ServeJob(
    model="llama-3.1-8b", rate_per_s=30.0, input_tokens=2000, output_tokens=300,
    targets=(Target(metric="tpot", percentile=95, limit_s=0.06),
             Target(metric="ttft", percentile=95, limit_s=2.0)),
    supply={"h100-sxm": 2, "l40s": 4},
    space=ServeSpace(chips=("h100-sxm", "l40s"), engines=("vllm",), formats=("fp8",), mix=True,
                     max_replica_chips=1),
)  # fmt: skip


@cache
def _plan() -> ServePlan:
    return plan_serve(ASKED)


# --- the router ------------------------------------------------------------------------------


@given(share=st.floats(0.05, 0.95), n=st.integers(1, 400))
@settings(max_examples=30)
def test_every_part_has_had_its_share_after_every_request(share: float, n: int) -> None:
    traffic = poisson(5.0, n, prefill_tokens=10, decode_tokens=10, seed=n)
    owner = dealt(traffic, (share, 1.0 - share))
    had = np.cumsum(owner == 0)
    assert np.all(np.abs(had - share * np.arange(1, n + 1)) <= 1.0 + 1e-9)


def test_turns_of_a_session_stay_with_one_part_and_wait_for_their_answers() -> None:
    shape = Shape(turns=4, input_tokens=600, grow_tokens=200, output_tokens=50, shared_tokens=0,
                  delay_s=1.0)  # fmt: skip
    traffic = drawn(4.0, 200, shape, seed=3)
    assert traffic.follows is not None
    owner = dealt(traffic, (0.6, 0.4))
    later = np.flatnonzero(traffic.follows >= 0)
    assert np.array_equal(owner[later], owner[traffic.follows[later]])
    parts = (Part(config=FAST, replicas=1, each_per_s=3.0), Part(config=SLOW, replicas=1))
    done = simulate_parts(parts, traffic, routing="least-loaded")
    before = done.finished_s[traffic.follows[later]]
    assert np.all(done.arrived_s[later] >= before - 1e-9)


def test_a_part_keeps_its_requests_and_their_prefixes() -> None:
    trace = bundled("mooncake-conversation")
    assert trace.hash_starts is not None
    assert trace.hash_ids is not None
    place = np.arange(3, 300, 7)
    part = part_of(trace, place)
    assert part.hash_starts is not None
    assert part.hash_ids is not None
    for k, i in enumerate(place):
        own = trace.hash_ids[trace.hash_starts[i] : trace.hash_starts[i + 1]]
        assert np.array_equal(part.hash_ids[part.hash_starts[k] : part.hash_starts[k + 1]], own)
    assert np.array_equal(part.prefill_tokens, trace.prefill_tokens[place])


def test_two_parts_give_each_request_what_its_part_alone_gives() -> None:
    """By construction of nothing else: the parts share a router and no more."""
    traffic = poisson(20.0, 600, prefill_tokens=1500, decode_tokens=100, seed=1)
    parts = (Part(config=FAST, replicas=2, each_per_s=6.0), Part(config=SLOW, replicas=3,
                                                                each_per_s=2.0))  # fmt: skip
    both = simulate_parts(parts, traffic, routing="least-loaded")
    owner = dealt(traffic, (12 / 18, 6 / 18))
    for k, part in enumerate(parts):
        place = np.flatnonzero(owner == k)
        alone = simulate(part.config, part_of(traffic, place), replicas=part.replicas)
        assert np.array_equal(both.finished_s[place], alone.finished_s)
    assert both.replica[owner == 1].min() == 2
    line, front_s = both.timeline, surface(FAST).front_end_s
    waits = both.scheduled_s - both.arrived_s - front_s
    lives = both.finished_s - both.scheduled_s
    assert line.running.sum() * line.width_s == pytest.approx(float(lives.sum()), rel=0.05)
    assert line.waiting.sum() * line.width_s == pytest.approx(float(waits.sum()), rel=0.05)


# --- the search ------------------------------------------------------------------------------


def test_what_no_chip_has_enough_of_two_have_together() -> None:
    with pytest.raises(NoFeasiblePlanError) as caught:
        plan_serve(replace(ASKED, space=replace(ASKED.space, mix=False)))
    assert "queue would grow without end" in (caught.value.nearest or "")
    plan = _plan()
    first, second = plan.fleet, plan.fleet.beside
    assert second is not None
    assert {first.accelerator, second.accelerator} == {"h100-sxm", "l40s"}
    counts = {f.accelerator: f.replicas * f.chips_per_replica for f in (first, second)}
    assert all(counts[name] <= most for name, most in ASKED.supply.items())
    # The split follows what each kind works off, and the whole keeps headroom and limits.
    traffic = poisson(30.0, 2000, prefill_tokens=2000, decode_tokens=300, seed=0)
    off = {
        f.accelerator: f.replicas * capacity_per_s(
            replace(FAST, chip=f.accelerator, engine=f.engine, max_batch=f.max_batch,
                    chunk_tokens=f.chunk_tokens), traffic)
        for f in (first, second)
    }  # fmt: skip
    assert first.share == pytest.approx(off[first.accelerator] / sum(off.values()), rel=0.02)
    assert first.share + second.share == pytest.approx(1.0)
    assert plan.estimates["capacity"].value == pytest.approx(sum(off.values()), rel=0.02)
    assert plan.demand.rate_per_s <= 0.8 * plan.estimates["capacity"].value
    assert plan.ranking[0].goodput_share is not None
    assert plan.ranking[0].goodput_share >= 0.95
    assert plan.fleet.chips == sum(
        (f.replicas + f.spares) * f.chips_per_replica for f in (first, second)
    )
    assert serve_plan_from_json(plan_to_json(plan)) == plan


@pytest.mark.parametrize(
    ("supply", "rate"), [({}, 23.0), ({"h100-sxm": 1}, 7.0), ({"h100-sxm": 3, "l40s": 9}, 23.0)]
)
def test_two_chips_are_never_dearer_than_one(supply: dict[str, int], rate: float) -> None:
    asked = replace(ASKED, supply=supply, rate_per_s=rate)

    def usd(mix: bool) -> float:
        try:
            plan = plan_serve(replace(asked, space=replace(ASKED.space, mix=mix)))
        except NoFeasiblePlanError:
            return math.inf
        return plan.estimates["cost_per_hour"].value

    assert usd(mix=True) <= usd(mix=False)


def test_prompts_on_chips_of_their_own_are_priced_and_timed_on_them() -> None:
    asked = ServeJob(
        model="llama-3.1-70b", rate_per_s=6.0, input_tokens=6000, output_tokens=300,
        targets=(Target(metric="tpot", percentile=95, limit_s=0.04),
                 Target(metric="ttft", percentile=95, limit_s=3.0)),
        space=ServeSpace(chips=("h200-sxm",), engines=("vllm",), formats=("fp8",),
                         disaggregated=True, max_replica_chips=4),
    )  # fmt: skip
    alone = plan_serve(asked)
    plan = plan_serve(replace(asked, space=replace(asked.space, prefill_chips=("b200",))))
    apart = next(c.fleet for c in plan.ranking if c.fleet.prefill_accelerator)
    assert apart.name == "b200 > h200-sxm"
    cost = plan.estimates["cost_per_hour"].value
    assert cost <= alone.estimates["cost_per_hour"].value
    pool = PoolConfig(workers=2, tp=1, chip="b200")
    config = ServingConfig(model="llama-3.1-70b", chip="h200-sxm", gemm_dtype="fp8", tp=2,
                           prefill=pool)  # fmt: skip
    same = replace(config, prefill=replace(pool, chip=""))
    assert config.chips_by_kind() == {"h200-sxm": 2, "b200": 2}
    quick, slow = prefill_surface(config), prefill_surface(same)
    assert quick.token(8192.0, prompts=True) < 0.7 * slow.token(8192.0, prompts=True)
    assert memory(config.prefilling()).usable_bytes > memory(same.prefilling()).usable_bytes
    assert np.array_equal(surface(config).token_s, surface(same).token_s)


# --- at the edges ----------------------------------------------------------------------------


def test_the_question_of_two_chips_is_read_and_written_back() -> None:
    fleet = FleetOptions(on="h100,l40s", max_chips="h100=2,l40s=4", mix=True, tpot="60ms",
                         disaggregated=True, prefill_on="b200")  # fmt: skip
    job = serve_job_of("llama-3.1-8b", fleet, TrafficOptions(rate="3/s"), ServingOptions())
    assert job.supply == {"h100-sxm": 2, "l40s": 4}
    assert job.max_chips is None
    assert job.space.prefill_chips == ("b200",)
    back, _, _ = options_of(job)
    assert (back.max_chips, back.mix, back.prefill_on) == ("h100-sxm=2,l40s=4", True, "b200")


@pytest.mark.parametrize(
    ("options", "said"),
    [({"max_chips": "h100=2,l40x=4"}, "l40x"), ({"max_chips": "h100=2,four"}, "chip=count"),
     ({"prefill_on": "b200"}, "--disaggregated"), ({"mix": True, "daily": "2"}, "one kind")],
)  # fmt: skip
def test_what_cannot_be_asked_of_two_chips_is_said(options: dict[str, object], said: str) -> None:
    with pytest.raises((InputError, InputErrors), match=said):
        serve_job_of("llama-3.1-8b", FleetOptions(on="h100", **options),  # type: ignore[arg-type]
                     TrafficOptions(rate="3/s"), ServingOptions())  # fmt: skip


def test_a_second_kind_is_as_the_first_but_for_what_is_said() -> None:
    found = beside_of(ReplicaOptions(tp=2, precision="fp8", beside="on=l40s,replicas=3"))
    assert found == (ReplicaOptions(on="l40s", tp=2, precision="fp8"), 3)
    with pytest.raises((InputError, InputErrors), match="tpp"):
        beside_of(ReplicaOptions(beside="tpp=2"))


def test_a_fleet_of_two_kinds_is_not_written_as_one(tmp_path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "plan.json"
    path.write_text(plan_to_json(_plan()), encoding="utf-8")
    assert json.loads(path.read_text())["fleet"]["beside"]["accelerator"]
    with pytest.raises(InputError, match="two kinds of replicas") as caught:
        export_plan(path, "vllm")
    assert "--rate" in (caught.value.hint or "")
