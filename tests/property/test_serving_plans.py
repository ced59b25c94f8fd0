"""Plans of random questions: never above what chips can do, never an overload sold as a plan."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weftline.errors import NoFeasiblePlanError
from weftline.model import load_model
from weftline.operators import chip_of
from weftline.serve.search.plan import plan_serve
from weftline.spec import ServeJob, ServeSpace, Target

MODELS = ("llama-3.1-8b", "llama-3.1-70b", "qwen3-30b-a3b", "gpt-oss-120b", "deepseek-v3")
CHIPS = ("h100", "h200", "b200", "mi300x", "l40s", "tpu-v6e", "inferentia2", "rtx-pro-6000")


@st.composite
def questions(draw: st.DrawFn) -> ServeJob:
    targets = []
    if draw(st.booleans()):
        targets.append(Target(metric="tpot", percentile=95, limit_s=draw(st.floats(0.02, 0.3))))
    if draw(st.booleans()):
        targets.append(Target(metric="ttft", percentile=95, limit_s=draw(st.floats(0.2, 20.0))))
    return ServeJob(
        model=draw(st.sampled_from(MODELS)), targets=tuple(targets),
        rate_per_s=draw(st.floats(0.05, 60.0)), input_tokens=draw(st.integers(1, 30_000)),
        output_tokens=draw(st.integers(1, 1500)), price_types=("any",),
        headroom=draw(st.sampled_from([0.0, 0.2])),
        supply=draw(st.sampled_from([{}, {"h100-sxm": 8, "l40s": 16}])),
        space=ServeSpace(
            chips=tuple(draw(st.lists(st.sampled_from(CHIPS), min_size=1, max_size=2,
                                      unique=True))),
            max_replica_chips=16, mix=draw(st.booleans()),
            formats=draw(st.sampled_from([("bf16",), ("fp8", "bf16"), ("int8", "bf16")])),
        ),
    )  # fmt: skip


def _holds(asked: ServeJob) -> None:
    model = load_model(asked.model)
    try:
        plan = plan_serve(asked)
    except NoFeasiblePlanError:
        return
    active = model.active_parameters or model.parameters
    computed = 0.9 * 2.0 * active * (asked.input_tokens + asked.output_tokens)
    capacity, peak = plan.estimates["capacity"].value, 0.0
    for fleet in (plan.fleet, plan.fleet.beside):
        if fleet is not None:
            chip, chips = chip_of(fleet.accelerator), fleet.replicas * fleet.chips_per_replica
            assert chips <= asked.supply.get(fleet.accelerator, chips)
            peak += chips * max(chip.peak_flops(fleet.weights), chip.peak_flops("bf16"))
    assert capacity * computed <= peak * 1.001
    assert asked.rate_per_s <= capacity * (1.0 - asked.headroom) * 1.001
    assert plan.estimates["rate_most"].value <= capacity * (1.0 - asked.headroom) * 1.001
    assert plan.occupancy["busy_share"] <= 1.0 - asked.headroom + 1e-3
    for c in plan.ranking:
        if c.meets and c.simulated:
            assert c.goodput_share is not None
            assert not asked.targets or c.goodput_share >= asked.within - 1e-9
    good = plan.estimates["goodput"].value
    assert asked.within * asked.rate_per_s - 1e-9 <= good <= asked.rate_per_s + 1e-9


@settings(max_examples=6)
@given(asked=questions())
def test_no_plan_is_above_the_peak_or_above_what_its_fleet_works_off(asked: ServeJob) -> None:
    _holds(asked)


@pytest.mark.slow
@settings(max_examples=80)
@given(asked=questions())
def test_no_plan_of_many_is(asked: ServeJob) -> None:
    _holds(asked)
