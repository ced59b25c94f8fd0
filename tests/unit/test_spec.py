"""The nouns: what they count, what they refuse, and a plan that survives its file."""

from __future__ import annotations

import dataclasses
import json
import math
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import weftline
from weftline.errors import InputError, InputErrors, InternalError
from weftline.spec import (
    Candidate,
    Cluster,
    Estimate,
    Job,
    Layout,
    Level,
    Part,
    Plan,
    PriceQuote,
    Rejection,
    SearchStats,
)
from weftline.spec.serialize import (
    MAX_PLAN_BYTES,
    plan_from_json,
    plan_to_json,
    read_plan,
    write_plan,
)

# --- layout -------------------------------------------------------------------------------------

degrees = st.integers(1, 4)
layouts = st.builds(
    Layout, tp=degrees, cp=degrees, dp=degrees, pp=degrees,
    order=st.permutations(("tp", "cp", "dp", "pp")).map(tuple),
)  # fmt: skip


@given(layouts)
def test_every_rank_has_a_place_of_its_own(layout: Layout) -> None:
    places = [layout.coordinates(rank) for rank in range(layout.chips)]
    assert len({tuple(sorted(p.items())) for p in places}) == layout.chips
    for axis in layout.order:
        assert {p[axis] for p in places} == set(range(getattr(layout, axis)))


@given(layouts)
def test_stride_is_the_distance_of_neighbours(layout: Layout) -> None:
    for axis in layout.order:
        if getattr(layout, axis) == 1:
            continue
        next_rank = layout.stride(axis)
        here, there = layout.coordinates(0), layout.coordinates(next_rank)
        assert there[axis] == here[axis] + 1
        assert all(there[a] == here[a] for a in layout.order if a != axis)


def test_experts_are_spread_inside_a_stage() -> None:
    layout = Layout(tp=2, dp=4, pp=2, ep=4)
    for stage in range(2):
        ranks = [c for c in map(layout.coordinates, range(16)) if c["pp"] == stage]
        assert sorted(c["ep"] for c in ranks) == [0, 0, 1, 1, 2, 2, 3, 3]


def test_a_rank_outside_is_an_index_error() -> None:
    for rank in (-1, 8):
        with pytest.raises(IndexError, match=r"outside 0\.\.7"):
            Layout(tp=8).coordinates(rank)


def test_short_names_only_what_is_cut() -> None:
    assert Layout().short() == "single chip"
    assert Layout(tp=8, pp=16, dp=128).short() == "TP8 PP16 DP128"
    assert Layout(tp=2, cp=4, ep=8, dp=8, pp=2, vp=3).short() == "TP2 CP4 PP2 VP3 EP8 DP8"


GOOD = Layout(tp=8, pp=4, dp=4, num_micro_batches=16, micro_batch=2)


def test_a_layout_that_fits_passes() -> None:
    GOOD.check(chips=128, global_batch=128, layers=80)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"tp": 4}, r"tp=4 \* cp=1 \* dp=4 \* pp=4 = 64, not 128 chips"),
        ({"micro_batch": 1}, "not the global batch 128"),
        ({"vp": 32}, "pp=4 * vp=32 stages for 80 layers".replace("*", r"\*")),
        ({"ep": 3}, "ep \\* etp = 3 does not divide"),
        ({"zero": 4}, "ZeRO has stages"),
        ({"order": ("tp", "tp", "dp", "pp")}, "must name tp, cp, dp and pp once each"),
        ({"tp": 32, "pp": 1, "vp": 2}, "without pipeline stages"),
    ],
)
def test_a_layout_says_why_it_cannot_run(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        dataclasses.replace(GOOD, **changes).check(chips=128, global_batch=128, layers=80)


def test_all_reasons_come_at_once() -> None:
    with pytest.raises(InputErrors) as caught:
        dataclasses.replace(GOOD, tp=4, zero=7).check(chips=128, global_batch=100, layers=80)
    assert len(caught.value.errors) == 3
    with pytest.raises(InputErrors) as caught:
        Layout(tp=0, pp=-1).check(chips=8, global_batch=8, layers=8)
    assert len(caught.value.errors) == 2


# --- job, estimate ------------------------------------------------------------------------------


def test_steps_count_the_last_short_one() -> None:
    job = Job(model="m", tokens=1_000_001, seq_len=100, global_batch=10)
    assert job.tokens_per_step == 1000
    assert job.steps == 1001


def test_an_estimate_holds_its_value() -> None:
    found = Estimate.within(10.0, "s", 0.25, "assumed")
    assert (found.low, found.value, found.high) == (8.0, 10.0, 12.5)
    assert Estimate.within(-10.0, "s", 0.25, "assumed").low == -12.5
    assert Estimate.exact(3.0, "GB", "counted").low == 3.0
    scaled = found.scaled(3600.0, "h")
    assert (scaled.low, scaled.high, scaled.unit) == (28_800.0, 45_000.0, "h")


@pytest.mark.parametrize(("value", "low", "high"), [(1, 2, 3), (3, 1, 2), (math.nan, 0, 1),
                                                    (math.inf, 0, math.inf)])  # fmt: skip
def test_an_estimate_outside_its_band_is_a_bug(value: float, low: float, high: float) -> None:
    with pytest.raises(InternalError):
        Estimate(value=value, unit="s", low=low, high=high, basis="assumed")


# --- plan ---------------------------------------------------------------------------------------


def a_plan() -> Plan:
    layout = Layout(tp=8, dp=2, num_micro_batches=4)
    seconds = Estimate.within(1.5, "s", 0.2, "calibrated n=212")
    return Plan(
        weftline=weftline.__version__,
        catalog_date="2026-11-21",
        job=Job(model="llama-3.1-8b", tokens=10**9, seq_len=8192, global_batch=8, chips=16),
        parameters=8_030_261_248,
        active_parameters=8_030_261_248,
        cluster=Cluster(
            accelerator="h100", chips=16, chips_per_host=8, memory_bytes=80e9,
            memory_bandwidth_bytes_per_s=3.35e12, peak_flops={"bf16": 989e12},
            levels=(Level(name="NVLink", kind="switch", size=8, bandwidth_bytes_per_s=450e9,
                          latency_s=3e-6),),
            basis={"memory": "datasheet: nvidia"},
        ),
        layout=layout,
        estimates={"step_time": seconds},
        step_parts=(Part(name="compute", value=1.0, unit="s", basis="counted"),),
        memory_parts=(Part(name="weights", value=2e9, unit="B", basis="counted"),),
        cost_parts=(),
        price=PriceQuote(
            usd_per_chip_hour=Estimate.exact(2.5, "USD/chip-hour", "price list"),
            price_type="on-demand", provider="aws", instance="p5.48xlarge", region="us-east-1",
            date="2026-11-01", source="aws",
        ),
        why=("fastest",), flips=("a price above $3/h",),
        pareto=(), framework="megatron-core",
        ranking=(Candidate(accelerator="h100", chips=16, layout=layout, step_time_s=1.5, mfu=0.4,
                           memory_bytes=60e9, train_time_s=1e5, cost_usd=None, energy_j=None),),
        without_plan=(Rejection(accelerator="l4", reason="memory"),),
        search=SearchStats(evaluated=10, feasible=2, rejected={"memory": 8}, accelerators=2),
    )  # fmt: skip


def test_a_plan_survives_its_file(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    write_plan(a_plan(), path)
    assert read_plan(path) == a_plan()
    assert [p.name for p in tmp_path.iterdir()] == ["plan.json"]
    assert stat.S_IMODE(path.stat().st_mode) & 0o600 == 0o600
    write_plan(dataclasses.replace(a_plan(), why=()), path)
    assert read_plan(path).why == ()


def test_a_plan_places_every_rank() -> None:
    assert a_plan().rank(11) == {
        "rank": 11, "host": 1, "local_chip": 3, "tp": 3, "cp": 0, "dp": 1, "pp": 0, "ep": 0,
    }  # fmt: skip
    with pytest.raises(IndexError):
        a_plan().rank(16)


Edit = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda p: p.update(bogus=1), "bogus: unexpected"),
        (lambda p: p["layout"].update(tpp=1), "layout.tpp: unexpected"),
        (lambda p: p["job"].update(tokens="many"), "job.tokens: input should be a valid integer"),
        (lambda p: p["job"].pop("model"), "job.model: field required"),
        (lambda p: p.update(format=3), "plan format 3 is not known"),
        (lambda p: p.pop("format"), "not a weftline plan"),
        (lambda p: p["layout"].update(tp=-1), "layout: tp is -1"),
        (lambda p: p["layout"].update(tp=4), "not 16 chips"),
        (lambda p: p["estimates"]["step_time"].update(low=9.0), "outside its band"),
    ],
)
def test_an_edited_plan_is_refused_with_its_field(edit: Edit, says: str) -> None:
    raw = json.loads(plan_to_json(a_plan()))
    edit(raw)
    with pytest.raises(InputError) as caught:
        plan_from_json(json.dumps(raw), where="my.json")
    assert says in caught.value.render()
    assert "my.json" in caught.value.render()


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000, '{"format": 1}'])
def test_what_is_no_plan_is_bad_input(text: str) -> None:
    with pytest.raises(InputError):
        plan_from_json(text)


def test_files_that_cannot_be_read_or_written_are_bad_input(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.json"):
        read_plan(tmp_path / "none.json")
    with pytest.raises(InputError):
        read_plan(tmp_path)
    with pytest.raises(InputError, match="cannot write"):
        write_plan(a_plan(), tmp_path / "nowhere" / "plan.json")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not a text file"):
        read_plan(tmp_path / "bytes")
    with (tmp_path / "large").open("wb") as out:
        out.truncate(MAX_PLAN_BYTES + 1)
    with pytest.raises(InputError, match="too large"):
        read_plan(tmp_path / "large")


def test_a_plan_fits_a_screen_and_becomes_a_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys
    import types

    from weftline import Job, load_model, plan_train

    job = Job(model="llama-3.1-8b", tokens=10**11, seq_len=8192, global_batch=512, chips=16,
              accelerators=("h100", "mi300x"))  # fmt: skip
    plan = plan_train(job)
    for value in (plan, load_model("deepseek-v3")):
        lines = repr(value).splitlines()
        assert len(lines) <= 10
        assert max(map(len, lines)) <= 120
    pandas = types.ModuleType("pandas")
    pandas.DataFrame = list  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pandas", pandas)
    rows = plan.to_frame()
    assert {row["accelerator"] for row in rows} == {"h100-sxm", "mi300x"}
    assert rows[0]["train_time_s"] == plan.ranking[0].train_time_s
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(InputError, match="pandas is not installed"):
        plan.to_frame()
