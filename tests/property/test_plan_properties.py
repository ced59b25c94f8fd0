"""What must hold for every layout, every chip and every set of constants inside its bounds."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from weftline.fabric import cluster_of
from weftline.model import Model, load_model
from weftline.plan.calibrate.fit import constants_of, logits_of
from weftline.plan.calibrate.predict import join, predict
from weftline.plan.step.columns import Layouts
from weftline.plan.step.compiled import compile_layouts
from weftline.plan.step.constants import BOUNDS, FIELDS, PRIOR, Constants
from weftline.plan.step.frameworks import FRAMEWORKS
from weftline.plan.step.layouts import columns_of, enumerate_layouts, layout_at
from weftline.plan.step.memory import memory_of
from weftline.plan.step.states import stage_states
from weftline.plan.step.timing import StepTime, time_step
from weftline.spec import DEFAULT_ORDER, PIPELINE_INSIDE, RECOMPUTES, Cluster, Layout, Schedule

SEQ = 2048
MODELS = {
    "dense": load_model(f"gpt:layers=8,hidden=2048,heads=16,seq={SEQ}"),
    "experts": load_model(f"gpt:layers=8,hidden=2048,heads=16,experts=8,top_k=2,seq={SEQ}"),
    "odd": load_model(f"gpt:layers=13,hidden=1536,heads=12,kv_heads=4,gated=true,seq={SEQ}"),
}
CHIPS = ("h100-sxm", "mi300x", "tpu-v5p", "trainium2", "gb200-nvl72", "l4")
POWERS = st.sampled_from((1, 2, 4, 8))

models = st.sampled_from(sorted(MODELS))  # names: short to print when an example fails
chips = st.sampled_from(CHIPS)
frames = st.sampled_from(sorted(FRAMEWORKS)).map(FRAMEWORKS.__getitem__)
constants = st.builds(
    Constants, **{name: st.floats(*BOUNDS[name], allow_nan=False) for name in FIELDS}
)


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    tp, dp, pp = draw(POWERS), draw(POWERS), draw(POWERS)
    micro_batches = draw(st.integers(1, 4)) * pp
    recompute = draw(st.sampled_from(RECOMPUTES))
    vp = draw(st.sampled_from((1, 2))) if pp in (2, 4) else 1
    plain: tuple[Schedule, ...] = ("1f1b", "zero-bubble") if pp > 1 else ("1f1b",)
    return Layout(
        tp=tp, dp=dp, pp=pp, ep=1, vp=vp,
        schedule="interleaved" if vp > 1 else draw(st.sampled_from(plain)),
        order=draw(st.sampled_from((DEFAULT_ORDER, PIPELINE_INSIDE))),
        micro_batch=draw(st.sampled_from((1, 2))), num_micro_batches=micro_batches,
        zero=draw(st.sampled_from((0, 1, 2, 3) if pp == 1 else (0, 1, 2))),
        recompute=recompute,
        recompute_layers=draw(st.integers(1, 8 // pp)) if recompute == "full" else 0,
    )  # fmt: skip


def columns(layout: Layout, model: Model) -> Layouts:
    return columns_of(layout, len(model.layers))


def step(
    model: Model, cluster: Cluster, layout: Layout, values: Constants = PRIOR,
    framework: str = "megatron-core",
) -> StepTime:  # fmt: skip
    compiled = compile_layouts(
        model, cluster, FRAMEWORKS[framework], columns(layout, model), seq_len=SEQ, precision="bf16"
    )
    return time_step(compiled, values)


@given(models, chips, frames, st.sampled_from((1, 4, 6, 8, 16, 48, 64)), st.integers(1, 96))
@example("odd", "h100-sxm", FRAMEWORKS["megatron-core"], 48, 96)
@settings(max_examples=60)
def test_every_enumerated_layout_is_legal_and_listed_once(
    name: str, chip: str, frame: object, count: int, batch: int
) -> None:
    model = MODELS[name]
    cluster = cluster_of(chip, count)
    found = enumerate_layouts(model, cluster, frame, global_batch=batch, seq_len=SEQ)  # type: ignore[arg-type]
    listed = [layout_at(found, i, len(model.layers)) for i in range(len(found))]
    assert len(set(listed)) == len(listed)
    heads = 16 if model is not MODELS["odd"] else 12
    for layout in listed:
        # Embedding and loss may each stand for a layer, as in Llama 3 405B.
        layout.check(chips=count, global_batch=batch, layers=len(model.layers) + 2)
        assert heads % layout.tp == 0
        assert max(model.experts, 1) % layout.ep == 0
        if layout.vp > 1:
            assert layout.pp > 1
            assert layout.num_micro_batches % layout.pp == 0
        if layout.zero == 3:
            assert layout.pp == 1


@given(models, chips, layouts(), constants)
@settings(max_examples=150)
def test_the_parts_of_a_step_add_up_and_none_is_negative(
    name: str, chip: str, layout: Layout, values: Constants
) -> None:
    model = MODELS[name]
    found = step(model, cluster_of(chip, layout.chips), layout, values)
    parts = {
        f.name: float(getattr(found, f.name)[0]) for f in fields(StepTime) if f.name != "total_s"
    }
    assert sum(parts.values()) == pytest.approx(float(found.total_s[0]))
    assert min(parts.values()) >= -1e-12, parts


@given(models, chips, layouts(), constants)
@settings(max_examples=100)
def test_nothing_runs_faster_than_its_peak(
    name: str, chip: str, layout: Layout, values: Constants
) -> None:
    model = MODELS[name]
    cluster = cluster_of(chip, layout.chips)
    tokens = layout.global_batch * SEQ
    flops = 3 * model.forward_flops_per_token(SEQ) * tokens
    seconds = float(step(model, cluster, layout, values).total_s[0])
    assert seconds > flops / (cluster.peak_flops["bf16"] * layout.chips)


def faster(cluster: Cluster, what: str, factor: float) -> Cluster:
    if what == "peak":
        return replace(
            cluster, peak_flops={k: v * factor for k, v in cluster.peak_flops.items()},
            tdp_w=None if cluster.tdp_w is None else cluster.tdp_w * factor,
        )  # fmt: skip
    if what == "peak at the same power":
        return replace(cluster, peak_flops={k: v * factor for k, v in cluster.peak_flops.items()})
    if what == "memory":
        rate = cluster.memory_bandwidth_bytes_per_s
        return replace(cluster, memory_bandwidth_bytes_per_s=rate * factor)
    if what == "links":
        levels = (
            replace(v, bandwidth_bytes_per_s=v.bandwidth_bytes_per_s * factor)
            for v in cluster.levels
        )
        return replace(cluster, levels=tuple(levels))
    levels = (replace(v, latency_s=v.latency_s / factor) for v in cluster.levels)
    return replace(cluster, levels=tuple(levels))


@pytest.mark.parametrize("what", ["peak", "peak at the same power", "memory", "links", "latency"])
@given(models, chips, layouts(), constants, st.floats(1.0, 8.0))
@settings(max_examples=60)
def test_faster_hardware_is_never_slower(
    what: str, name: str, chip: str, layout: Layout, values: Constants, factor: float
) -> None:
    model = MODELS[name]
    cluster = cluster_of(chip, layout.chips)
    before = step(model, cluster, layout, values).total_s[0]
    after = step(model, faster(cluster, what, factor), layout, values).total_s[0]
    assert after <= before * (1 + 1e-9)


@given(models, chips, layouts(), constants, st.integers(2, 5))
@settings(max_examples=100)
def test_a_larger_batch_takes_longer_and_wastes_less(
    name: str, chip: str, layout: Layout, values: Constants, times: int
) -> None:
    model = MODELS[name]
    cluster = cluster_of(chip, layout.chips)
    more = replace(layout, num_micro_batches=layout.num_micro_batches * times)
    one = float(step(model, cluster, layout, values).total_s[0])
    many = float(step(model, cluster, more, values).total_s[0])
    assert one <= many * (1 + 1e-9)
    assert many / times <= one * (1 + 1e-9)


@given(models, chips, layouts(), constants)
@settings(max_examples=100)
def test_recomputing_more_never_saves_time_and_never_costs_memory(
    name: str, chip: str, layout: Layout, values: Constants
) -> None:
    model = MODELS[name]
    cluster = cluster_of(chip, layout.chips)
    frame = FRAMEWORKS["megatron-lm-2022"]
    whole = -(-len(model.layers) // layout.pp)
    some = [
        replace(layout, recompute=how, recompute_layers=again)
        for how, again in (("none", 0), ("selective", 0), ("full", 1), ("full", whole))
    ]
    none, selective, one, full = (float(step(model, cluster, s, values).total_s[0]) for s in some)
    assert none <= selective * (1 + 1e-9)
    assert none <= one * (1 + 1e-9)
    assert one <= full * (1 + 1e-9)
    kept = [
        float(memory_of(model, frame, columns(s, model), seq_len=SEQ).activations_bytes[0])
        for s in some
    ]
    assert kept[1] <= kept[0]
    assert kept[3] <= kept[2]


@given(models, layouts())
@settings(max_examples=100)
def test_memory_never_grows_with_the_zero_stage(name: str, layout: Layout) -> None:
    model = MODELS[name]
    frame = FRAMEWORKS["megatron-core"]
    assume(layout.dp > 2)
    split = [columns(replace(layout, zero=z), model) for z in (0, 1, 2, 3)]
    held = [memory_of(model, frame, each, seq_len=SEQ) for each in split]
    for stage in range(3):  # the stage that holds most need not stay the same one
        states = [stage_states(model, frame, each)[stage] for each in split]
        state = [float((s.gradients + s.optimizer)[0]) for s in states]
        assert state == sorted(state, reverse=True)
    # ZeRO-3 holds two gathered layers beside its shards: only small models may need more.
    totals = [float(m.total_bytes[0]) for m in held[:3]]
    assert totals == sorted(totals, reverse=True)


@given(
    st.lists(st.tuples(models, chips, layouts(), constants), min_size=1, max_size=6),
)
@settings(max_examples=40)
def test_joined_rows_are_each_row_alone(
    rows: list[tuple[str, str, Layout, Constants]],
) -> None:
    compiled = [
        compile_layouts(
            MODELS[name], cluster_of(chip, layout.chips), FRAMEWORKS["megatron-core"],
            columns(layout, MODELS[name]), seq_len=SEQ, precision="bf16",
        )
        for name, chip, layout, _ in rows
    ]  # fmt: skip
    values = Constants(**{name: np.array([getattr(c, name) for *_, c in rows]) for name in FIELDS})
    together = predict(join(compiled), values)
    alone = [predict(one, c)[0] for one, (*_, c) in zip(compiled, rows, strict=True)]
    np.testing.assert_allclose(together, alone, rtol=1e-9)


@given(st.lists(st.floats(-8, 8), min_size=len(FIELDS), max_size=len(FIELDS)))
def test_logits_keep_constants_inside_their_bounds(logits: list[float]) -> None:
    found = constants_of(np.array(logits))
    for name in FIELDS:
        low, high = BOUNDS[name]
        assert low <= getattr(found, name) <= high
    back = constants_of(logits_of(found))
    for name in FIELDS:
        low, high = BOUNDS[name]
        assert getattr(back, name) == pytest.approx(getattr(found, name), abs=2e-3 * (high - low))


def test_taking_layouts_keeps_their_order() -> None:
    found = enumerate_layouts(
        MODELS["dense"], cluster_of("h100-sxm", 16), FRAMEWORKS["megatron-core"],
        global_batch=16, seq_len=SEQ,
    )  # fmt: skip
    index = np.array([5, 3, 11])
    taken = found.take(index)
    assert isinstance(taken, Layouts)
    assert [layout_at(taken, i, 8) for i in range(3)] == [
        layout_at(found, int(i), 8) for i in index
    ]
