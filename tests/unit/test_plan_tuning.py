"""Adapters, offload, held layouts and the fewest chips: against formulas of their papers."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from weftline.catalog import accelerator
from weftline.errors import InputError, NoFeasiblePlanError
from weftline.fabric import cluster_of
from weftline.model import Model, load_model
from weftline.operators.products import MEMORY_EFFICIENCY
from weftline.plan import job_of, plan_train
from weftline.plan.search.fits import first_that_holds, fits_on, state_bytes
from weftline.plan.step.compiled import adapter_parameters, compile_layouts
from weftline.plan.step.constants import PRIOR
from weftline.plan.step.frameworks import FRAMEWORKS, NF4_BYTES, recipe, recipe_of
from weftline.plan.step.frozen import FREEZABLE, frozen_of, trained_parameters
from weftline.plan.step.layouts import columns_of
from weftline.plan.step.memory import Memory, memory_of
from weftline.plan.step.states import stage_states
from weftline.plan.step.timing import StepTime, time_step
from weftline.spec import Job, Layout, Plan
from weftline.spec.options import JobOptions

LLAMA = load_model("llama-3.1-8b")
ONE = Layout(zero=0, micro_batch=1, num_micro_batches=4)


def held(layout: Layout = ONE, model: Model = LLAMA, **how: Any) -> Memory:
    frame = recipe("megatron-core", **how)
    return memory_of(model, frame, columns_of(layout, len(model.layers)), seq_len=4096)


def timed(layout: Layout = ONE, **how: Any) -> StepTime:
    compiled = compile_layouts(
        LLAMA, cluster_of("h100", layout.chips), recipe("megatron-core", **how),
        columns_of(layout, len(LLAMA.layers)), seq_len=4096, precision="bf16",
    )  # fmt: skip
    return time_step(compiled, PRIOR)


def planned(**asked: Any) -> Plan:
    return plan_train(job_of("llama-3.1-8b", JobOptions(tokens="1B", **asked)))


# --- adapters -----------------------------------------------------------------------------------


def test_adapters_have_a_row_and_a_column_for_each_rank() -> None:
    """Rank r beside an m x n matrix trains r (m + n) (arXiv:2106.09685, section 4.1). The seven
    matrices of a Llama 3.1 8B layer, from its config.json."""
    shapes = ((4096, 4096), (4096, 1024), (4096, 1024), (4096, 4096),
              (4096, 14336), (4096, 14336), (14336, 4096))  # fmt: skip
    assert adapter_parameters(LLAMA, 16) == 32 * 16 * sum(m + n for m, n in shapes) == 41_943_040
    assert adapter_parameters(LLAMA, 32) == 2 * adapter_parameters(LLAMA, 16)


def test_frozen_weights_have_no_gradients_and_no_states() -> None:
    full, lora, qlora = held(), held(tune="lora"), held(tune="qlora")
    trained = adapter_parameters(LLAMA, 16)
    assert full.weights_bytes[0] == 2 * LLAMA.parameters
    assert lora.weights_bytes[0] == pytest.approx(2 * (LLAMA.parameters + trained), rel=1e-6)
    for one in (lora, qlora):
        assert one.gradients_bytes[0] == pytest.approx(4 * trained)
        assert one.optimizer_bytes[0] == pytest.approx(12 * trained)
        assert one.activations_bytes[0] == full.activations_bytes[0]
    # Matrices of the layers in 4.127 bits, embedding and head in 16, and one layer unpacked.
    assert pytest.approx(4.127 / 8, abs=1e-3) == NF4_BYTES
    ends = 2 * 128256 * 4096
    matrices = LLAMA.parameters - ends
    layer = 2 * matrices / 32
    known = NF4_BYTES * matrices + 2 * ends + 2 * trained + layer
    assert qlora.weights_bytes[0] == pytest.approx(known, rel=0.001)


@pytest.mark.parametrize("degree", [{"tp": 4}, {"pp": 4}, {"dp": 4, "zero": 3}])
def test_frozen_weights_are_cut_as_trained_ones_are(degree: dict[str, int]) -> None:
    layout = replace(ONE, **degree)  # type: ignore[arg-type]
    whole, part = held(tune="lora").weights_bytes[0], held(layout, tune="lora").weights_bytes[0]
    # Embedding and head stand on one stage; ZeRO-3 has two layers whole at a time.
    slack = 0.15 * whole
    assert whole / 4 * 0.99 <= part <= whole / 4 + slack


def test_backward_of_adapters_saves_a_product_and_4_bits_cost_an_unpacking() -> None:
    full, lora, qlora = timed(), timed(tune="lora"), timed(tune="qlora")
    # Forward, and backward for inputs: two of three products, and what the adapters add.
    assert 2 / 3 < lora.gemm_s[0] / full.gemm_s[0] < 0.69
    assert lora.optimizer_s[0] < 0.01 * full.optimizer_s[0]
    assert lora.total_s[0] < qlora.total_s[0]
    more = qlora.memory_bound_s[0] - lora.memory_bound_s[0]
    bandwidth = 3.35e12 * MEMORY_EFFICIENCY
    matrices = LLAMA.parameters - 2 * 128256 * 4096
    assert more == pytest.approx(4 * 2 * matrices * (NF4_BYTES + 2) / bandwidth, rel=0.01)
    for one in (full, lora, qlora):
        parts = [getattr(one, f)[0] for f in StepTime.__slots__ if f != "total_s"]
        assert sum(parts) == pytest.approx(one.total_s[0])


def test_shards_of_frozen_weights_are_gathered_but_not_reduced() -> None:
    layout = Layout(zero=3, dp=8, micro_batch=1, num_micro_batches=4)
    full, lora, qlora = (timed(layout, tune=t).dp_s[0] for t in ("full", "lora", "qlora"))
    assert qlora <= lora <= full


def test_a_plan_with_adapters_says_so_and_counts_their_work() -> None:
    asked = {"on": "h100", "chips": "8", "global_batch": "64", "seq": "4096"}
    full, lora = planned(**asked), planned(**asked, tune="lora")
    assert lora.estimates["train_time"].value < full.estimates["train_time"].value
    assert 0 < lora.estimates["mfu"].value < 1
    assert any("adapters of rank 16 on every matrix" in text for text in lora.why)
    # Checkpoints hold the adapters alone: they are cheap, and so more often.
    interval = "checkpoint_interval"
    assert lora.estimates[interval].value < 0.5 * full.estimates[interval].value


# --- what else a recipe keeps -------------------------------------------------------------------


def test_pure_bf16_keeps_eight_bytes_a_parameter() -> None:
    pure = held(optimizer="adamw-pure-bf16")
    states = pure.weights_bytes + pure.gradients_bytes + pure.optimizer_bytes
    assert states[0] == 8 * LLAMA.parameters
    mixed = held()
    states = mixed.weights_bytes + mixed.gradients_bytes + mixed.optimizer_bytes
    assert states[0] == 18 * LLAMA.parameters


def test_offloaded_states_are_in_host_memory_and_nowhere_else() -> None:
    here, away = held(), held(offload=True)
    assert away.optimizer_bytes[0] == 0
    assert away.total_bytes[0] == pytest.approx(here.total_bytes[0] - here.optimizer_bytes[0])
    assert here.host_bytes[0] == 0
    # fp32 master weight, two moments and the gradient that comes down, four bytes each.
    assert away.host_bytes[0] == 16 * LLAMA.parameters


def test_a_chip_alone_has_no_communicators() -> None:
    alone, two = held(), held(replace(ONE, dp=2))
    assert alone.overhead_bytes[0] == two.overhead_bytes[0] - 1.5e9


# --- held layouts -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "layout",
    [
        {"tp": 8, "pp": 2}, {"zero": 3, "tp": 1, "micro_batch": 2}, {"recompute": "full"},
        {"recompute_layers": 4}, {"vp": 2, "pp": 4}, {"num_micro_batches": 8, "dp": 16},
        {"micro_batch": 3, "tp": 4, "dp": 4},
    ],
    ids=str,
)  # fmt: skip
def test_what_is_held_is_in_every_layout(layout: dict[str, Any]) -> None:
    text = ",".join(f"{k}={v}" for k, v in layout.items())
    plan = planned(on="h100", chips="16", global_batch="384", layout=text)
    for name, value in layout.items():
        assert getattr(plan.layout, name) == value
    assert plan.layout.chips == 16
    assert plan.layout.global_batch == 384
    if layout.get("recompute") == "full":
        assert plan.layout.recompute_layers * plan.layout.pp >= 32


def test_holding_what_wins_anyway_changes_nothing() -> None:
    free = planned(on="h100", chips="16", global_batch="128")
    text = ",".join(f"{k}={getattr(free.layout, k)}" for k in ("tp", "pp", "dp", "micro_batch"))
    same = planned(on="h100", chips="16", global_batch="128", layout=text)
    assert same.layout == free.layout
    for name, estimate in free.estimates.items():
        assert same.estimates[name].value == pytest.approx(estimate.value), name


def test_a_degree_of_none_is_refused() -> None:
    with pytest.raises(InputError, match="micro_batch=0: at least 1 is needed"):
        planned(on="h100", chips="16", layout="micro_batch=0,zero=1")


@pytest.mark.parametrize(
    ("layout", "says"),
    [
        ("tp=3", "tp=3 does not divide 32 attention heads"),
        ("zero=2", "megatron-core has ZeRO stage 1, 3"),
        ("zero=3,pp=2", "ZeRO-3 is paired with pp=1"),
        ("dp=3", "3 does not divide 16 chips"),
        ("micro_batch=7", "micro-batches of 7 do not divide a batch of 128"),
    ],
)
def test_a_layout_that_cannot_be_held_says_what_clashes(layout: str, says: str) -> None:
    with pytest.raises(NoFeasiblePlanError) as told:
        planned(on="h100", chips="16", global_batch="128", layout=layout)
    assert says in told.value.render()


# --- the fewest chips ---------------------------------------------------------------------------


def fits(job: Job, count: int, chip: str = "a100-80-sxm") -> bool:
    model = load_model(job.model)
    frame = recipe_of(job, "megatron-core")
    found = fits_on(model, job, frame, cluster_of(chip, count))
    return found is not None and bool(found.fits.any())


@pytest.mark.parametrize(("model", "batch"), [("llama-2-70b", "24"), ("llama-2-13b", "32")])
def test_no_smaller_count_holds_what_the_fewest_hold(model: str, batch: str) -> None:
    options = JobOptions(tokens="1B", on="a100", seq="4096", global_batch=batch, objective="chips")
    job = job_of(model, options)
    plan = plan_train(job)
    found = plan.cluster.chips
    assert fits(job, found)
    tried = [c for c in (1, 2, 4, *range(8, found, 8)) if c < found]
    assert not any(fits(job, c) for c in tried)


def test_what_lacks_is_counted() -> None:
    """A miss names a count that holds the job, and it does."""
    job = job_of("llama-2-70b", JobOptions(tokens="1B", on="a100", chips="8", seq="4096",
                                           global_batch="24"))  # fmt: skip
    with pytest.raises(NoFeasiblePlanError) as told:
        plan_train(job)
    assert "a100-80-sxm does not fit: needs 16 chips more, 24 in all" in told.value.render()
    assert fits(replace(job, chips=24), 24)
    model, frame = load_model(job.model), recipe_of(job, "megatron-core")
    assert first_that_holds(model, job, frame, accelerator("a100"), above=8) == 24


def test_states_alone_bound_every_layout_from_below() -> None:
    """The bound that counts are skipped by never skips one that fits."""
    job = job_of("llama-2-13b", JobOptions(tokens="1B", on="a100", seq="4096", global_batch="32"))
    model = load_model(job.model)
    for tune in ("full", "lora", "qlora"):
        tuned = replace(job, tune=tune)  # type: ignore[arg-type]
        frame = recipe_of(tuned, "megatron-core")
        for count in (1, 2, 4, 8, 16):
            found = fits_on(model, tuned, frame, cluster_of("a100", count))
            if found is not None:
                least = float(np.min(found.total_bytes)) * count
                assert least >= state_bytes(model, frame), (tune, count)


def test_a_longer_sequence_is_taken_knowingly() -> None:
    short = job_of("llama-2-7b", JobOptions(tokens="1B", on="h100", seq="4096", chips="8"))
    longer = replace(short, seq_len=16384, global_batch=8, allow_long=True)
    plan = plan_train(longer)
    assert any("beyond the 4,096 that the config allows" in text for text in plan.why)


def test_every_framework_tunes_adapters() -> None:
    for name in FRAMEWORKS:
        frame = recipe(name, tune="qlora", rank=8)
        assert (frame.adapter_rank, frame.frozen_bytes) == (8, NF4_BYTES)


@pytest.mark.parametrize(
    ("chip", "layout", "seconds"),
    [
        ("gb300", "tp=1,pp=2,vp=20,micro_batch=1", 2.19),
        ("gb200", "tp=1,pp=4,vp=20,micro_batch=1", 2.75),
        ("h100", "tp=2,pp=4,vp=20,micro_batch=1", 6.199),
    ],
)
def test_adapters_run_where_and_as_fast_as_was_measured(
    chip: str, layout: str, seconds: float
) -> None:
    """Llama 3 70B with LoRA on 8 chips in fp8 (rows r169, r172 and r173 of the shipped runs, from
    Megatron-Bridge's performance summary): it ran, so it fits; trained in full it does not."""
    asked = JobOptions(tokens="1B", on=chip, chips="8", seq="4096", global_batch="32",
                       precision="fp8", layout=layout)  # fmt: skip
    plan = plan_train(job_of("llama-3.1-70b", replace(asked, tune="lora")))
    assert plan.estimates["step_time"].value == pytest.approx(seconds, rel=0.1)
    with pytest.raises(NoFeasiblePlanError, match="--tune lora"):
        plan_train(job_of("llama-3.1-70b", asked))


def test_frozen_parts_keep_their_weights_and_nothing_else() -> None:
    """Embedding and head of Llama 3 8B frozen: 1.05B parameters without gradients and states."""
    layout = Layout(dp=8, num_micro_batches=1)
    columns = columns_of(layout, len(LLAMA.layers))
    plain, frozen = (
        stage_states(LLAMA, recipe("megatron-core", freeze=parts), columns)[0]
        for parts in ((), ("embeddings",))
    )
    ends = 2 * 128256 * 4096 + 4096  # the last norm goes with the head
    assert plain.weights[0] == frozen.weights[0]
    assert plain.gradients[0] - frozen.gradients[0] == pytest.approx(4 * ends)
    assert plain.optimizer[0] - frozen.optimizer[0] == pytest.approx(12 * ends / 8)
    assert trained_parameters(LLAMA, ("embeddings",)) == LLAMA.parameters - ends
    assert trained_parameters(LLAMA, FREEZABLE) == 0


def test_what_is_frozen_needs_no_product_for_its_gradients() -> None:
    asked = JobOptions(tokens="1B", on="h100", chips="8", global_batch="64")
    plain, frozen = (
        plan_train(job_of("llama-3.1-8b", replace(asked, freeze=parts))) for parts in (None, "mlp")
    )
    share = frozen_of(LLAMA, ("mlp",)).products
    assert 0.7 < share < 0.85
    faster = plain.estimates["step_time"].value / frozen.estimates["step_time"].value
    assert 1.1 < faster < 3 / (3 - share)
    assert any("mlp stay as they are" in text for text in frozen.why)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"freeze": "ears"}, "unknown part to freeze `ears`"),
        ({"freeze": "experts"}, "has no routed experts"),
        ({"freeze": "mlp", "tune": "lora"}, "adapters freeze every weight already"),
    ],
)
def test_what_cannot_be_frozen_is_refused(changes: dict[str, str], says: str) -> None:
    with pytest.raises(InputError, match=re.escape(says)):
        job_of("llama-3.1-8b", JobOptions(tokens="1B", **changes))  # type: ignore[arg-type]
