"""Memory of a chip against the closed forms and the published bytes of arXiv:2205.05198."""

from __future__ import annotations

import csv
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

import weftline.plan
from weftline.fabric import cluster_of
from weftline.model import Model, load_model
from weftline.plan.step.columns import Layouts
from weftline.plan.step.compiled import RECOMPUTE_FULL, split_layers
from weftline.plan.step.constants import FloatArray
from weftline.plan.step.frameworks import FRAMEWORKS, Framework, in_precision
from weftline.plan.step.layouts import columns_of, enumerate_layouts
from weftline.plan.step.memory import Memory, count_memory, fit_recompute, memory_of, recomputed
from weftline.plan.step.releases import released, releases
from weftline.plan.step.saved import saved_values
from weftline.plan.step.states import stage_states
from weftline.spec import RECOMPUTES, Layout, Recompute

PUBLISHED = Path(weftline.plan.__file__).parent / "data" / "memory_published.csv"
GIB = 2**30
MEGATRON = FRAMEWORKS["megatron-lm-2022"]
RUNS = {
    "megatron-22B": ("megatron-22b", Layout(tp=8, pp=1, micro_batch=4, num_micro_batches=8)),
    "gpt3-175B": ("gpt3-175b", Layout(tp=8, pp=8, vp=3, num_micro_batches=64)),
    "turing-530B": ("turing-530b", Layout(tp=8, pp=35, vp=3, num_micro_batches=280)),
    "megatron-1T": ("megatron-1t", Layout(tp=8, pp=64, num_micro_batches=512)),
}
"""Table 3 of the paper: degrees and micro-batch of its four models."""


def memory(
    model: Model, frame: Framework, layout: Layout, *, seq_len: int, dropout: bool = False
) -> Memory:
    columns = columns_of(layout, len(model.layers))
    return memory_of(model, frame, columns, seq_len=seq_len, dropout=dropout)


def published() -> list[dict[str, str]]:
    with PUBLISHED.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def ours(row: dict[str, str]) -> Memory:
    name, layout = RUNS[row["model"]]
    saving = row["recompute_mode"] == "seq+selective"
    return memory(
        load_model(name),
        replace(MEGATRON, sequence_parallel=saving),
        replace(layout, zero=0, recompute="selective" if saving else "none"),
        seq_len=2048,
        dropout=True,
    )


@pytest.mark.parametrize("row", published(), ids=lambda r: f"{r['model']} {r['recompute_mode']}")
def test_activations_are_those_the_paper_states(row: dict[str, str]) -> None:
    assert ours(row).activations_bytes[0] / GIB == pytest.approx(
        float(row["activation_gib_paper"]), rel=0.03
    )


@pytest.mark.parametrize("row", published(), ids=lambda r: f"{r['model']} {r['recompute_mode']}")
def test_weights_gradients_and_optimizer_are_those_the_paper_states(row: dict[str, str]) -> None:
    found = ours(row)
    state = found.weights_bytes + found.gradients_bytes + found.optimizer_bytes
    # The paper counts the mean stage; the fullest also holds the embedding.
    assert state[0] / GIB == pytest.approx(float(row["param_opt_gib_paper"]), rel=0.10)


@pytest.mark.parametrize("sequence", [512, 2048, 8192])
@pytest.mark.parametrize(("hidden", "heads"), [(1024, 16), (6144, 64), (12288, 96)])
def test_a_gpt_layer_saves_the_bytes_of_equation_1(hidden: int, heads: int, sequence: int) -> None:
    model = load_model(f"gpt:layers=4,hidden={hidden},heads={heads},seq={sequence}")
    saved = saved_values(model, MEGATRON, sequence, dropout=True)
    found = saved.sharded + saved.sequence + saved.attention
    assert found == pytest.approx(hidden * (34 + 5 * heads * sequence / hidden))


@pytest.mark.parametrize("tp", [1, 2, 8])
def test_a_layer_is_split_as_equations_2_4_and_6_say(tp: int) -> None:
    model = load_model("gpt:layers=1,hidden=6144,heads=64,seq=2048")
    s, b, h, a = 2048, 4, 6144, 64
    layout = Layout(tp=tp, micro_batch=b, num_micro_batches=1, zero=0)

    def activations(layout: Layout, *, sequence_parallel: bool) -> float:
        frame = replace(MEGATRON, sequence_parallel=sequence_parallel)
        found = memory(model, frame, layout, seq_len=s, dropout=True)
        embedding_mask = s * b * h / (tp if sequence_parallel else 1)
        return float(found.activations_bytes[0]) - embedding_mask

    scores = 5 * a * s / (h * tp)
    assert activations(layout, sequence_parallel=False) == pytest.approx(
        s * b * h * (10 + 24 / tp + scores)
    )
    assert activations(layout, sequence_parallel=True) == pytest.approx(
        s * b * h * (34 / tp + scores)
    )
    assert activations(
        replace(layout, recompute="selective"), sequence_parallel=True
    ) == pytest.approx(s * b * h * 34 / tp)


def test_mixed_precision_adam_keeps_18_bytes_a_parameter() -> None:
    model = load_model("gpt:layers=4,hidden=1024,heads=16")
    found = memory(model, MEGATRON, Layout(zero=0), seq_len=2048)
    state = found.weights_bytes + found.gradients_bytes + found.optimizer_bytes
    assert state[0] == pytest.approx(18 * model.parameters)


@pytest.mark.parametrize(("name", "ep"), [("llama-3.1-70b", 1), ("mixtral-8x7b", 8)])
def test_zero_never_asks_for_more(name: str, ep: int) -> None:
    model = load_model(name)
    frame = FRAMEWORKS["megatron-core"]
    stages = [
        memory(model, frame, Layout(tp=8, dp=64, ep=ep, num_micro_batches=8, zero=z),
               seq_len=4096)
        for z in (0, 1, 2, 3)
    ]  # fmt: skip
    totals = [float(m.total_bytes[0]) for m in stages]
    assert totals == sorted(totals, reverse=True)
    assert len(set(totals)) == 4
    assert stages[1].optimizer_bytes[0] < stages[0].optimizer_bytes[0]
    assert stages[2].gradients_bytes[0] < stages[1].gradients_bytes[0]
    assert stages[3].weights_bytes[0] < stages[2].weights_bytes[0]


def test_more_of_any_degree_never_needs_more_state() -> None:
    model = load_model("llama-3.1-70b")
    frame = FRAMEWORKS["megatron-core"]

    def state(layout: Layout) -> float:
        m = memory(model, frame, layout, seq_len=4096)
        return float((m.weights_bytes + m.gradients_bytes + m.optimizer_bytes)[0])

    base = Layout(tp=2, pp=2, dp=4, num_micro_batches=16)
    for change in ({"tp": 4}, {"pp": 4}, {"dp": 8}, {"cp": 2}):
        assert state(replace(base, **change)) <= state(base), change


def test_recomputation_keeps_less_and_full_least() -> None:
    model = load_model("gpt3-175b")
    ways: tuple[tuple[Recompute, int], ...] = (
        ("none", 0), ("selective", 0), ("full", 6), ("full", 12),
    )  # fmt: skip
    none, selective, half, full = (
        float(
            memory(
                model, MEGATRON, seq_len=2048, dropout=True,
                layout=Layout(tp=8, pp=8, num_micro_batches=64, zero=0, recompute=how,
                              recompute_layers=layers),
            ).activations_bytes[0]
        )
        for how, layers in ways
    )  # fmt: skip
    assert none > selective > full > 0
    assert none > half > full
    # Twelve layers' inputs of eight micro-batches in flight, and the one layer that is run again.
    inputs = 12 * 8 * 2048 * 12288 * 2 / 8
    assert full > inputs


@pytest.mark.parametrize("name", ["llama-3.1-70b", "mixtral-8x7b"])
def test_no_more_layers_are_recomputed_than_memory_asks(name: str) -> None:
    model, frame = load_model(name), FRAMEWORKS["megatron-core"]
    capacity = 80e9
    layouts = enumerate_layouts(
        model, cluster_of("h100-sxm", 64), frame, global_batch=128, seq_len=4096
    )
    fitted = fit_recompute(model, frame, layouts, seq_len=4096, capacity_bytes=capacity)

    def total(columns: Layouts) -> FloatArray:
        return memory_of(model, frame, columns, seq_len=4096).total_bytes

    all_again = replace(
        layouts,
        recompute=np.full(len(layouts), float(RECOMPUTE_FULL)),
        recompute_share=np.ones(len(layouts)),
    )
    could, as_is = total(all_again) <= capacity, total(layouts) <= capacity
    now = total(fitted) <= capacity
    assert (could & ~as_is).any()
    assert now[could | as_is].all()
    assert not fitted.recompute_share[as_is].any()
    stage = split_layers(float(len(model.layers)), layouts.pp)[0]
    counted = fitted.recompute_share * stage
    np.testing.assert_allclose(counted, np.round(counted), atol=1e-9)
    # One layer fewer would not fit.
    some = (could & ~as_is) & (counted >= 2)
    fewer = replace(fitted, recompute_share=np.maximum(fitted.recompute_share - 1 / stage, 0.0))
    assert not (total(fewer) <= capacity)[some].any()


def test_the_parts_add_up_to_the_total() -> None:
    model = load_model("mixtral-8x7b")
    frame = FRAMEWORKS["megatron-core"]
    layouts = enumerate_layouts(
        model, cluster_of("h100-sxm", 32), frame, global_batch=64, seq_len=4096
    )
    found = memory_of(model, frame, layouts, seq_len=4096)
    parts = sum(getattr(found, f.name) for f in fields(Memory) if f.name != "total_bytes")
    np.testing.assert_allclose(parts, found.total_bytes)
    assert min(getattr(found, f.name).min() for f in fields(Memory)) >= 0


def test_a_product_keeps_its_input_in_the_format_it_multiplies_in() -> None:
    """Of a Llama layer's inputs of products only fp8 copies stay, and attention's bf16 output
    beside that of its projection; norms, rotated heads and the gate's halves stay in bf16."""
    model = load_model("llama-3.1-8b")
    plain = FRAMEWORKS["megatron-core"]
    bf16 = saved_values(model, plain, 8192, dropout=False)
    fp8 = saved_values(model, in_precision(plain, "fp8"), 8192, dropout=False)
    hidden, ffn, each = 4096, 14336, 1 + 1 / 32
    # Two norms' outputs; attention's output gains a copy; the activated values.
    assert bf16.sequence - fp8.sequence == pytest.approx(2 * hidden * (2 - each))
    assert bf16.sharded - fp8.sharded == pytest.approx(ffn * (2 - each) - hidden * each)


def test_what_several_products_read_is_kept_once() -> None:
    """Router, shared expert and nothing else read the norm's output of a DeepSeek-V3 layer."""
    model = load_model("deepseek-v3")
    saved = saved_values(model, FRAMEWORKS["megatron-core"], 4096, dropout=False)
    # Inputs of both norms and of the first product after each, and of the two latent products.
    assert saved.sequence == pytest.approx(2.0 * (4 * 7168 + 1536 + 512))


def test_placeholders_stand_for_every_shape_of_matrix_once() -> None:
    model, frame = load_model("llama-3.1-8b"), FRAMEWORKS["megatron-core"]
    first, _, last = stage_states(model, frame, columns_of(Layout(pp=2, num_micro_batches=2), 32))
    shapes = 4096 * 6144 + 4096 * 4096 + 4096 * 28672 + 14336 * 4096
    assert first.buffers[0] == 2 * shapes
    assert last.buffers[0] == 2 * (shapes + 128256 * 4096)


def test_memory_never_falls_below_that_of_any_moment() -> None:
    """The parts that are said are those of the highest moment, of every layout."""
    model, frame = load_model("mixtral-8x7b"), FRAMEWORKS["megatron-core"]
    layouts = enumerate_layouts(
        model, cluster_of("h100-sxm", 32), frame, global_batch=64, seq_len=4096
    )
    counted = count_memory(model, frame, layouts, seq_len=4096)
    totals = counted.totals(layouts)
    np.testing.assert_allclose(counted.memory(layouts).total_bytes, totals.max(axis=0))
    some = np.arange(0, len(layouts), 7)
    np.testing.assert_array_equal(counted.take(some).totals(layouts.take(some)), totals[:, some])


def test_inputs_of_layers_that_wait_on_the_host_are_counted_there() -> None:
    model = load_model("llama-3.1-8b")
    full = Layout(recompute="full", recompute_layers=32, num_micro_batches=4)
    here = memory(model, FRAMEWORKS["megatron-core"], full, seq_len=8192)
    away = replace(FRAMEWORKS["megatron-core"], offload_inputs=True)
    there = memory(model, away, full, seq_len=8192)
    moved = 32 * 8192 * 4096 * 2
    assert here.activations_bytes[0] - there.activations_bytes[0] == moved
    assert there.host_bytes[0] - here.host_bytes[0] == moved


def test_cheap_modules_are_computed_again_before_whole_layers() -> None:
    model, frame = load_model("deepseek-v3"), FRAMEWORKS["megatron-core"]
    layouts = columns_of(Layout(pp=16, ep=64, dp=64, num_micro_batches=64), 61)
    counted = count_memory(model, frame, layouts, seq_len=4096)
    need = float(counted.totals(layouts).max())
    names = []
    for share in (1.01, 0.97, 0.6):
        found = recomputed(layouts, counted, capacity_bytes=share * need)
        names.append(RECOMPUTES[int(found.recompute[0])])
    assert names == ["none", "selective", "full"]


def test_a_release_keeps_what_its_row_says() -> None:
    plain = FRAMEWORKS["megatron-core"]
    assert released(plain, "Megatron-Bridge 26.08", "LLAMA3_70B").grad_bytes == 2
    assert released(plain, "Megatron-Bridge 26.08", "DeepSeekV3").state_bytes == 4
    assert released(plain, "Megatron-Bridge 26.08", "Kimi-K2").grad_bytes == 4
    assert released(plain, "another framework") == plain
    assert all(row.source and row.date for row in releases())
