"""Frameworks by maker, the Pareto front, what-if: choices that a plan rests on."""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weftline.errors import InputError, NoFeasiblePlanError, UnknownNameError
from weftline.plan import plan_train
from weftline.plan.search.offers import Offer, pareto_front
from weftline.plan.search.whatif import parse_changes, what_if
from weftline.plan.step.frameworks import AUTO, FRAMEWORKS, OPTIMIZERS, framework_for, recipe
from weftline.spec import Job, Plan


@pytest.fixture(scope="module")
def plan() -> Plan:
    return plan_train(
        Job(model="llama-3.1-8b", tokens=10**11, seq_len=8192, global_batch=512, chips=64,
            accelerators=("h100-sxm",))
    )  # fmt: skip


@pytest.mark.parametrize(
    ("vendor", "name"), [("google", "maxtext"), ("aws", "neuronx"), ("nvidia", "megatron-core")]
)
def test_auto_is_the_makers_own_framework(vendor: str, name: str) -> None:
    assert framework_for(AUTO, vendor) == name


def test_a_framework_that_does_not_run_on_a_chip_is_refused() -> None:
    with pytest.raises(InputError, match="does not run on chips of google"):
        framework_for("megatron-core", "google")


def test_optimizers_change_what_a_parameter_costs() -> None:
    sizes = {name: recipe("megatron-core", optimizer=name).optimizer_bytes for name in OPTIMIZERS}
    assert sizes["adamw"] == 12
    assert sizes["adamw"] > sizes["adamw-bf16"] > sizes["adafactor"]
    assert recipe("megatron-core", offload=True).resident_bytes == 0
    with pytest.raises(UnknownNameError, match="adamz"):
        recipe("megatron-core", optimizer="adamz")


points = st.tuples(
    st.integers(1, 6).map(float),
    st.none() | st.integers(1, 6).map(float),
    st.none() | st.integers(1, 6).map(float),
)


@given(st.lists(points, min_size=1, max_size=12))
def test_the_front_is_what_nothing_beats(values: list[tuple[float, Any, Any]]) -> None:
    offers = [
        cast("Offer", SimpleNamespace(train_time_s=t, cost_usd=c, energy_j=e)) for t, c, e in values
    ]
    front = pareto_front(offers)
    big = float("inf")

    def key(o: Offer) -> tuple[float, float, float]:
        return (o.train_time_s, big if o.cost_usd is None else o.cost_usd,
                big if o.energy_j is None else o.energy_j)  # fmt: skip

    def beats(a: Offer, b: Offer) -> bool:
        return key(a) != key(b) and all(x <= y for x, y in zip(key(a), key(b), strict=True))

    assert front
    assert not any(beats(a, b) for a, b in itertools.product(offers, front))
    outside = [o for o in offers if not any(o is f for f in front)]
    assert all(any(beats(f, o) for f in front) for o in outside)


def test_nothing_changed_changes_nothing(plan: Plan) -> None:
    same = what_if(plan, {"tp": str(plan.layout.tp)})
    assert same.step_time_s[1] == pytest.approx(same.step_time_s[0])
    assert same.memory_bytes[1] == pytest.approx(same.memory_bytes[0])
    assert same.fits


def test_faster_parts_are_never_slower_and_no_overlap_is_never_faster(plan: Plan) -> None:
    for knob in ("peak", "memory_bandwidth", "scale_up", "scale_out"):
        found = what_if(plan, {knob: "2x"})
        assert found.step_time_s[1] <= found.step_time_s[0] * (1 + 1e-9), knob
    for path in ("tcp", "virtual"):
        found = what_if(plan, {"host": path})
        added = found.step_time_s[1] - found.step_time_s[0]
        assert 0 < added == pytest.approx(found.host_s[1], rel=0.01)
        assert found.host.startswith("assumed")
    off = what_if(plan, {"overlap": "off"})
    assert off.step_time_s[1] >= off.step_time_s[0]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("tp=3", "not 64 chips"),
        ("tp", "not name=value"),
        ("tpp=4", "unknown knob `tpp`"),
        ("tpp=4,bar", "`bar` is not name=value"),
        ("peak=fast", "a factor is needed"),
        ("host=usb", "unknown host `usb`"),
        ("precision=fp6", "unknown precision `fp6`"),
        ("ep=8", "does not divide 0 experts"),
        ("tp=64,cp=1,pp=1,vp=1", "does not divide 32 attention heads"),
    ],
)
def test_knobs_that_cannot_turn_are_refused(plan: Plan, text: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        what_if(plan, parse_changes(text))


def test_every_framework_names_itself() -> None:
    assert all(name == frame.name for name, frame in FRAMEWORKS.items())
    assert all(dataclasses.is_dataclass(frame) for frame in FRAMEWORKS.values())


# --- what-if: another machine, price or job ----------------------------------------------------


def test_a_price_moves_money_alone(plan: Plan) -> None:
    found = what_if(plan, {"price": "$2/h"})
    assert found.step_time_s[1] == pytest.approx(found.step_time_s[0])
    assert found.cost_usd is not None
    hours = found.train_time_s[1] / 3600 * plan.cluster.chips
    assert found.cost_usd[1] == pytest.approx(2 * hours)


@pytest.mark.parametrize(
    ("changes", "asked"),
    [
        ({"chips": "32"}, {"chips": 32, "max_chips": None}),
        ({"accelerator": "h200", "chips": "16"},
         {"accelerators": ("h200-sxm",), "chips": 16, "max_chips": None}),
        ({"batch": "1024"}, {"global_batch": 1024, "chips": 64, "max_chips": None}),
        ({"seq": "4096"}, {"seq_len": 4096, "chips": 64, "max_chips": None}),
        ({"tune": "lora", "rank": "8"},
         {"tune": "lora", "rank": 8, "chips": 64, "max_chips": None}),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_searched_anew_is_what_a_plan_of_it_would_be(
    plan: Plan, changes: dict[str, str], asked: dict[str, Any]
) -> None:
    """The same question asked of the planner itself, on the plan's own chip."""
    found = what_if(plan, changes)
    own = {"accelerators": (plan.cluster.accelerator,), **asked}
    other = plan_train(replace(plan.job, **own))  # type: ignore[arg-type]
    assert found.anew
    assert found.layout == other.layout
    assert found.step_time_s[1] == pytest.approx(other.estimates["step_time"].value)
    assert found.train_time_s[1] == pytest.approx(other.estimates["train_time"].value)
    assert found.memory_bytes[1] == pytest.approx(other.estimates["memory"].value)
    assert found.cost_usd is not None
    assert found.cost_usd[1] == pytest.approx(other.estimates["cost"].value)


def test_an_unknown_knob_is_answered_with_all_of_them() -> None:
    with pytest.raises(InputError) as told:
        parse_changes("sped=3")
    for knob in ("price", "chips", "accelerator", "batch", "seq", "precision", "framework"):
        assert knob in (told.value.hint or "")


def test_a_machine_that_cannot_hold_the_job_says_what_it_lacks(plan: Plan) -> None:
    with pytest.raises(NoFeasiblePlanError, match="does not fit: needs"):
        what_if(plan, {"accelerator": "l4", "chips": "1"})
