"""What the search prefers, takes as practised, and says of its answer."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import weftline.plan
from weftline.errors import InputError, NoFeasiblePlanError
from weftline.fabric import cluster_of
from weftline.model import load_model
from weftline.plan import default_batch, job_of, plan_train
from weftline.plan.calibrate.best_measured import best_measured, measured
from weftline.plan.calibrate.rows import read_rows
from weftline.plan.search.fits import fits_on, stated
from weftline.plan.search.search import UNDECIDED, _simplest
from weftline.plan.step.frameworks import FRAMEWORKS, recipe_of
from weftline.plan.step.layouts import columns_of, concatenate
from weftline.spec import Layout, Plan
from weftline.spec.options import JobOptions

DATA = Path(weftline.plan.__file__).parent / "data"
CORE = FRAMEWORKS["megatron-core"]


@pytest.mark.parametrize(
    ("model", "tokens"),
    [
        ("llama-3.1-8b", 4 << 20),
        ("llama-3.1-405b", 16 << 20),
        ("qwen3-30b-a3b", 16 << 20),
        ("kimi-k2", 64 << 20),
    ],
)
def test_a_batch_is_what_models_of_its_size_are_trained_with(model: str, tokens: int) -> None:
    loaded = load_model(model)
    for seq in (4096, 8192):
        assert default_batch(loaded, seq) * seq == tokens


def test_adapters_take_a_small_batch_and_one_sequence_a_chip() -> None:
    model = load_model("llama-3.1-70b")
    assert default_batch(model, 8192, tune="lora") == 8
    assert default_batch(model, 8192, tune="lora", chips=1024) == 1024


def test_of_layouts_as_fast_as_can_be_told_the_plainest_is_taken() -> None:
    rows = [Layout(tp=4, cp=2), Layout(tp=8), Layout(tp=2, pp=4), Layout(dp=8)]
    layouts = concatenate([columns_of(row, 32) for row in rows])
    near = np.array([1.0, 1 + UNDECIDED / 2, 1 + UNDECIDED / 3, 2.0])
    order = np.argsort(near)
    at = _simplest(CORE, layouts.take(order), near[order])
    assert order[at] == 2  # no split sequence, and as many splits of layers: the faster of two
    apart = np.array([1.0, 1.1, 1.2, 1.3])
    assert _simplest(CORE, layouts, apart) == 0


def test_sequences_are_split_beyond_a_node_only_where_nothing_else_fits() -> None:
    model = load_model("llama-3.1-8b")
    asked = JobOptions(tokens="100B", on="h100", chips="32", seq="131072", global_batch="32")
    job = job_of("llama-3.1-8b", asked)
    near = fits_on(model, job, recipe_of(job, CORE.name), cluster_of("h100-sxm", 32))
    assert near is not None
    assert (near.layouts.tp * near.layouts.cp).max() <= 8
    long = replace(job, seq_len=1 << 20, global_batch=1, allow_long=True)
    far = fits_on(model, long, recipe_of(long, CORE.name), cluster_of("h100-sxm", 32))
    assert far is not None
    assert far.fits.any()
    assert (far.layouts.tp * far.layouts.cp)[far.fits].min() > 8


def test_a_stated_layout_is_taken_with_more_in_host_memory_before_it_is_refused() -> None:
    """The inputs of 80 layers, 4 sequences of 8,192 tokens each: 43 GB that may wait outside."""
    asked = JobOptions(tokens="1B", on="h100", chips="64", global_batch="256", seq="8192",
                       layout="tp=1,pp=1,dp=64,micro_batch=4,zero=3")  # fmt: skip
    job = job_of("llama-3.1-70b", asked)
    assert stated(job, 64)
    plan = plan_train(job)
    assert plan.layout.recompute == "full"
    assert any(text.startswith("offload: the layout that is held") for text in plan.why)
    with pytest.raises(NoFeasiblePlanError):
        plan_train(replace(job, layout={**job.layout, "recompute": "none"}))


def test_what_no_run_has_reached_is_said_with_the_run_that_came_closest() -> None:
    best = best_measured("h100-sxm", "bf16", mixture=False)
    assert best is not None
    assert 0.3 < best.share < 0.7
    assert best_measured("l40s", "bf16", mixture=False) is None
    # A chip without runs of a kind is held against its family: GB200's own bf16 runs are mixtures.
    kin, own = (best_measured("gb200-nvl72", "bf16", mixture=m) for m in (False, True))
    assert kin is not None
    assert own is not None
    assert (kin.chip, own.chip) == ("b200", "gb200-nvl72")
    asked = JobOptions(tokens="1B", on="trainium2", chips="64")
    said = " ".join(plan_train(job_of("llama-3.1-8b", asked)).why)
    assert "no run on trainium2 in bf16 is known to be measured" in said


def test_a_framework_nobody_knows_is_named_and_has_the_widest_band() -> None:
    def asked(framework: str) -> Plan:
        options = JobOptions(tokens="1B", on="h100", chips="8", seq="8192", global_batch="64",
                             framework=framework, layout="tp=1,pp=1,dp=8")  # fmt: skip
        return plan_train(job_of("llama-3.1-8b", options))

    unknown = asked("LightSpeed")
    assert unknown.framework == "lightspeed"
    assert "framework lightspeed is not known" in " ".join(unknown.why)

    def width(plan: Plan) -> float:
        step = plan.estimates["step_time"]
        return step.high / step.low

    assert all(width(unknown) > width(asked(name)) for name in ("megatron-core", "fsdp"))
    with pytest.raises(InputError, match="megatron-cor"):
        asked("megatron-cor")


def test_the_best_that_was_measured_is_that_of_the_shipped_rows() -> None:
    kept = json.loads((DATA / "best_measured.json").read_text(encoding="utf-8"))
    names = ("published_runs.csv", "vtrain_multi.csv")
    found = measured(row for name in names for row in read_rows(DATA / name)[0])
    for chip, own in found.items():
        for precision, (share, _) in own.items():
            assert kept[chip][precision][0] >= share - 1e-9, (chip, precision)
            if chip != "a100-80-sxm":  # of which vTrain's single nodes may be better
                assert kept[chip][precision][0] == share, (chip, precision)


def test_jobs_of_a_few_steps_are_rounded_up_and_say_so() -> None:
    asked = JobOptions(tokens="10M", on="h100", chips="8", seq="8192")
    plan = plan_train(job_of("llama-3.1-8b", asked))
    assert any("3 whole steps of 4.19M tokens: 12.6M instead of the 10.0M" in w for w in plan.why)
