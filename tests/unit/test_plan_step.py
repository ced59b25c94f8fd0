"""Work and step time against formulas written out by hand, one operator and layout at a time."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest

from weftline.fabric import cluster_of, predict
from weftline.model import load_model
from weftline.operators import operators
from weftline.operators.products import MEMORY_EFFICIENCY
from weftline.plan.step.compiled import Compiled, compile_layouts
from weftline.plan.step.constants import FIELDS, PRIOR, Constants
from weftline.plan.step.frameworks import FRAMEWORKS
from weftline.plan.step.layouts import columns_of, enumerate_layouts
from weftline.plan.step.recipes import recipe_of_framework
from weftline.plan.step.timing import StepTime, time_operators, time_step
from weftline.plan.step.workload import ATTENTION, GEMM, LAYER, Keys, Work, lower
from weftline.spec import Cluster, Layout, Schedule

LLAMA = load_model("llama-3.1-8b")
HIDDEN, LAYERS, HEADS, KV_HEADS, DIM, FFN, VOCAB = 4096, 32, 32, 8, 128, 14336, 128256
CORE = FRAMEWORKS["megatron-core"]
NOTHING = ("sustained_w", "launch_s", "straggler", "step_overhead_s")
PERFECT = Constants(**{name: float(name not in NOTHING) for name in FIELDS})
"""Every time as the reference has it, every link at its rate; all communication shows."""


def keys(tp: float, cp: float, micro_batch: float) -> Keys:
    def one(value: float) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        return np.array([value])

    return Keys(tp=one(tp), cp=one(cp), ep=one(1.0), etp=one(1.0), micro_batch=one(micro_batch))


def products(work: Work, slot: int = LAYER) -> set[tuple[float, float, float]]:
    """(m, n, k) of the matrix products of one slot."""
    at = np.flatnonzero((work.kind == GEMM) & (work.slot == slot))
    return {(float(work.m[i]), float(work.n[i]), float(work.k[i])) for i in at}


def layer_flops(work: Work, kind: int) -> float:
    at = (work.kind == kind) & (work.slot == LAYER)
    return float((work.flops[at] * work.weight[at]).sum())


@pytest.mark.parametrize("tp", [1, 4, 8])
@pytest.mark.parametrize("cp", [1, 2])
@pytest.mark.parametrize("micro_batch", [1, 2])
def test_a_llama_layer_is_lowered_as_by_hand(tp: int, cp: int, micro_batch: int) -> None:
    sequence = 8192
    work = lower(LLAMA, keys(tp, cp, micro_batch), sequence)
    tokens = micro_batch * sequence / cp
    assert products(work) == {
        (tokens, (HEADS + 2 * KV_HEADS) * DIM / tp, HIDDEN),
        (tokens, HIDDEN, HEADS * DIM / tp),
        (tokens, 2 * FFN / tp, HIDDEN),
        (tokens, HIDDEN, FFN / tp),
    }
    weights = HIDDEN * ((HEADS + 2 * KV_HEADS) * DIM + HEADS * DIM + 3 * FFN)
    assert layer_flops(work, GEMM) == pytest.approx(2 * weights * tokens / tp)
    # Queries see (s + 1) / 2 keys in the mean; scores and values take 2 FLOP a multiply-add each.
    seen = (sequence + 1) / 2
    assert layer_flops(work, ATTENTION) == pytest.approx(4 * HEADS * DIM * seen * tokens / tp)


def test_the_head_is_the_only_product_outside_the_layers() -> None:
    work = lower(LLAMA, keys(4, 1, 1), 8192)
    outside = set().union(*(products(work, slot) for slot in (1, 2)))
    assert outside == {(8192.0, VOCAB / 4, HIDDEN)}


def test_kernels_that_do_not_skip_the_mask_compute_the_whole_square() -> None:
    masked, whole = (
        layer_flops(lower(LLAMA, keys(1, 1, 1), 4096, causal_skip=skip), ATTENTION)
        for skip in (True, False)
    )
    assert whole / masked == pytest.approx(2 * 4096 / 4097)


@pytest.mark.parametrize(("tp", "cp"), [(1, 1), (8, 1), (4, 2)])
def test_bytes_on_the_wire_are_those_of_the_buffers(tp: int, cp: int) -> None:
    work = lower(LLAMA, keys(tp, cp, 2), 8192)
    tokens = 2 * 8192 / cp
    assert work.tp_bytes[0] == tokens * HIDDEN * 2
    assert float(np.asarray(work.tp_collectives).ravel()[0]) == 2  # after attention and after MLP
    assert work.cp_bytes[0] == cp * tokens * 2 * KV_HEADS * DIM / tp * 2


def test_experts_share_the_tokens_that_are_routed_to_them() -> None:
    model = load_model("mixtral-8x7b")
    work = lower(model, replace(keys(1, 1, 1), ep=np.array([4.0])), 4096)
    grouped = np.flatnonzero(work.batch > 1)
    experts = [i for i in grouped if work.kind[i] == GEMM]
    assert {(work.m[i], work.batch[i]) for i in experts} == {(4096 * 2 / 2, 2.0)}
    routed = sum(float(work.flops[i] * work.weight[i]) for i in experts)
    # A rank with 2 of 8 experts serves four ranks' tokens: as many as its own send out.
    assert routed == pytest.approx(2 * 4096 * 2 * 3 * 4096 * 14336)


SHAPES = (((HEADS + 2 * KV_HEADS) * DIM, HIDDEN), (HIDDEN, HEADS * DIM), (2 * FFN, HIDDEN),
          (HIDDEN, FFN))  # fmt: skip
"""Rows and columns of a layer's four matrices."""


def product_s(m: float, n: float, k: float) -> float:
    """A bf16 product on an H100: its table, or nine tenths of the peak where that is slower."""
    held = 2 * m * n * k / (0.9 * 989e12)
    return max(float(operators("h100-sxm").gemm_s("bf16", m, n, k)), held)


def forward_s(sequence: int, batch: int) -> tuple[float, float, float]:
    """Seconds of a layer's products, of its attention and of the head, forward on an H100."""
    tokens = batch * sequence
    attention = operators("h100-sxm").kernels.prefill_s(
        "bf16", sequence, (sequence + 1) / 2, batch * KV_HEADS, HEADS / KV_HEADS, DIM
    )
    return (
        sum(product_s(tokens, n, k) for n, k in SHAPES), float(attention),
        product_s(tokens, VOCAB, HIDDEN),
    )  # fmt: skip


@pytest.mark.parametrize(("sequence", "batch"), [(8192, 1), (2048, 4), (128, 1)])
def test_one_perfect_chip_takes_what_its_tables_say(sequence: int, batch: int) -> None:
    found = step(Layout(micro_batch=batch), cluster_of("h100-sxm", 1), PERFECT, seq_len=sequence)
    tokens = batch * sequence
    # Gradients of inputs and of weights are products of their own shapes.
    layer = sum(
        product_s(tokens, n, k) + product_s(tokens, k, n) + product_s(k, n, tokens)
        for n, k in (*SHAPES,)
    )
    head = (product_s(tokens, VOCAB, HIDDEN) + product_s(tokens, HIDDEN, VOCAB)
            + product_s(HIDDEN, VOCAB, tokens))  # fmt: skip
    assert found.gemm_s[0] == pytest.approx(LAYERS * layer + head, rel=1e-3)
    # Forward has two products, flash attention's backward pass five.
    attention = forward_s(sequence, batch)[1]
    assert found.attention_s[0] == pytest.approx(3.5 * LAYERS * attention)
    for part in ("tp_s", "cp_s", "ep_s", "pp_s", "dp_s", "bubble_s", "imbalance_s", "recompute_s"):
        assert getattr(found, part)[0] == 0, part


def step(
    layout: Layout, cluster: Cluster, constants: Constants = PRIOR, *, seq_len: int = 8192,
    model: str = "llama-3.1-8b", framework: str = "megatron-core", precision: str = "bf16",
) -> StepTime:  # fmt: skip
    loaded = load_model(model)
    compiled = compile_layouts(
        loaded, cluster, FRAMEWORKS[framework], columns_of(layout, len(loaded.layers)),
        seq_len=seq_len, precision=precision,
    )  # fmt: skip
    return time_step(compiled, constants)


@pytest.mark.parametrize(("pp", "vp", "micro_batches"), [(2, 1, 8), (4, 1, 16), (4, 2, 16)])
def test_the_bubble_is_that_of_interleaved_1f1b(pp: int, vp: int, micro_batches: int) -> None:
    schedule: Schedule = "interleaved" if vp > 1 else "1f1b"
    layout = Layout(pp=pp, vp=vp, num_micro_batches=micro_batches, schedule=schedule)
    found = step(layout, cluster_of("h100-sxm", pp))
    busy = sum(
        float(getattr(found, part)[0])
        for part in ("gemm_s", "attention_s", "memory_bound_s", "recompute_s", "host_s", "tp_s")
    )
    # Narayanan et al. 2021, section 2.2: (p - 1) / (m v) of the time without a bubble.
    assert found.bubble_s[0] / busy == pytest.approx((pp - 1) / (micro_batches * vp))


def predicted_s(collective: str, nbytes: float, cluster: Cluster) -> float:
    """What the collectives' predictor says of a call that is not waited for."""
    return predict(collective, nbytes, None, cluster, harness="device").time_s


def test_data_parallel_exchange_is_a_reduce_scatter_and_an_all_gather_a_bucket() -> None:
    cluster = cluster_of("h100-sxm", 8)
    found = step(Layout(dp=8, zero=1), cluster, PERFECT)
    sent = float(recipe_of_framework(CORE.name).reduce_bytes)
    bucket = 40e6  # Megatron-Core's
    expected = (
        LLAMA.parameters
        / bucket
        * (
            predicted_s("reduce-scatter", bucket * sent, cluster)
            + predicted_s("all-gather", bucket * 2, cluster)
        )
    )
    assert found.dp_s[0] == pytest.approx(expected, rel=0.01)
    whole = step(Layout(dp=8, zero=0), cluster, PERFECT)
    expected = LLAMA.parameters / bucket * predicted_s("all-reduce", bucket * sent, cluster)
    assert whole.dp_s[0] == pytest.approx(expected, rel=0.01)


def test_tensor_parallel_exchange_is_four_gathers_and_four_scatters_a_layer() -> None:
    cluster = cluster_of("h100-sxm", 8)
    found = step(Layout(tp=8), cluster, PERFECT)
    one = predicted_s("all-gather", 8192 * HIDDEN * 2, cluster)
    assert found.tp_s[0] == pytest.approx(LAYERS * 8 * one)


@pytest.mark.parametrize("again", [32, 8])
def test_full_recomputation_runs_its_layers_once_more(again: int) -> None:
    cluster = cluster_of("h100-sxm", 1)
    none = step(Layout(micro_batch=2), cluster, PERFECT)
    full = step(Layout(micro_batch=2, recompute="full", recompute_layers=again), cluster, PERFECT)
    gemm, attention, _ = forward_s(8192, 2)
    norms = none.memory_bound_s[0] / 3
    least = (gemm + attention) * again
    assert least * (1 - 1e-3) <= full.recompute_s[0] <= least * (1 + 1e-3) + norms
    assert full.total_s[0] - none.total_s[0] == pytest.approx(full.recompute_s[0])


@pytest.mark.parametrize(
    ("model", "chip", "chips", "seq"),
    [
        ("llama-3.1-8b", "h100-sxm", 16, 16384),
        ("mixtral-8x7b", "mi300x", 16, 4096),
        ("llama-3.1-8b", "tpu-v5p", 32, 8192),
    ],
)
def test_many_layouts_at_once_are_each_one_alone(
    model: str, chip: str, chips: int, seq: int
) -> None:
    loaded, cluster = load_model(model), cluster_of(chip, chips)
    layouts = enumerate_layouts(loaded, cluster, CORE, global_batch=64, seq_len=seq)
    together = time_step(
        compile_layouts(loaded, cluster, CORE, layouts, seq_len=seq, precision="bf16"), PRIOR
    )
    for index in range(0, len(layouts), max(1, len(layouts) // 40)):
        alone = time_step(
            compile_layouts(
                loaded, cluster, CORE, layouts.take(np.array([index])), seq_len=seq,
                precision="bf16",
            ),
            PRIOR,
        )  # fmt: skip
        for part in fields(StepTime):
            assert getattr(alone, part.name)[0] == pytest.approx(
                getattr(together, part.name)[index], rel=1e-12, abs=1e-15
            ), (part.name, index)


def test_fp8_speeds_up_products_and_pays_for_casts() -> None:
    cluster = cluster_of("h100-sxm", 8)
    wide, low = (step(Layout(dp=8), cluster, precision=p) for p in ("bf16", "fp8"))
    assert low.gemm_s[0] < wide.gemm_s[0]
    assert low.attention_s[0] == wide.attention_s[0]
    assert low.memory_bound_s[0] > wide.memory_bound_s[0]


def test_graphs_take_launches_from_the_host() -> None:
    """A layer takes a smooth maximum of both, so that launches show before they decide."""
    cluster = cluster_of("a100-80-sxm", 1)
    small = "gpt:layers=12,hidden=768,heads=12,seq=128"
    eager = step(Layout(), cluster, seq_len=128, model=small, framework="fsdp")
    long = step(Layout(micro_batch=64), cluster, seq_len=2048, model=small, framework="fsdp")
    frame = FRAMEWORKS["fsdp"]
    graphs = recipe_of_framework("fsdp").with_flags(("graphs=on",))
    loaded = load_model(small)
    captured = time_step(
        compile_layouts(
            loaded, cluster, replace(frame, recipe=graphs), columns_of(Layout(), 12), seq_len=128,
            precision="bf16",
        ),
        PRIOR,
    )  # fmt: skip
    device = eager.gemm_s[0] + eager.attention_s[0] + eager.memory_bound_s[0]
    assert eager.host_s[0] > 0.1 * device
    assert captured.host_s[0] == pytest.approx(0.0, abs=1e-9)
    assert 0 < long.host_s[0] < 0.05 * long.total_s[0]


def test_a_recipe_that_overlaps_nothing_shows_all_of_its_exchange() -> None:
    cluster, layout = cluster_of("h100-sxm", 8), Layout(tp=8)
    loaded = load_model("llama-3.1-8b")
    shown = []
    for stated in (("overlap_tp=on",), ("overlap_tp=off",)):
        recipe = recipe_of_framework("megatron-core").with_flags(stated)
        compiled = compile_layouts(
            loaded, cluster, replace(CORE, recipe=recipe), columns_of(layout, 32), seq_len=8192,
            precision="bf16",
        )  # fmt: skip
        shown.append(float(time_step(compiled, PRIOR).tp_s[0]))
    assert shown[0] == pytest.approx(float(PRIOR.tp_exposed) * shown[1])


def one_chip(stated: tuple[str, ...] = (), model: str = "llama-3.1-8b") -> Compiled:
    """A layout on one A100, under a recipe with stated flags."""
    loaded = load_model(model)
    recipe = recipe_of_framework("fsdp").with_flags(stated)
    return compile_layouts(
        loaded, cluster_of("a100-80-sxm", 1), replace(FRAMEWORKS["fsdp"], recipe=recipe),
        columns_of(Layout(), len(loaded.layers)), seq_len=4096, precision="bf16",
    )  # fmt: skip


def test_vector_lanes_bound_what_memory_outruns() -> None:
    """Many lanes leave memory's own time; few take instructions a byte over lanes."""
    compiled = one_chip()
    times = []
    for lanes_per_s in (1e30, 1e12):
        device = replace(compiled.device, vector_flops=2 * lanes_per_s)
        times.append(time_operators(replace(compiled, device=device), PRIOR).memory_s[LAYER][0])
    memory = compiled.device.memory_bandwidth_bytes_per_s * MEMORY_EFFICIENCY
    assert times[1] / times[0] == pytest.approx(PRIOR.vector_ops * memory / 1e12, rel=0.01)


def test_attention_in_triton_takes_its_factor_of_flash_attention_2() -> None:
    old, triton = (
        time_operators(one_chip((f"attention={how}",)), PRIOR) for how in ("flash2", "triton")
    )
    for part in ("attention_s", "attention_back_s"):
        ratio = getattr(triton, part)[LAYER][0] / getattr(old, part)[LAYER][0]
        assert ratio == pytest.approx(PRIOR.triton_attention_loss)
