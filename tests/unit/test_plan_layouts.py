"""All legal layouts, held against nested loops, and the words for one that is not."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest

from weftline.errors import InputError
from weftline.fabric import cluster_of
from weftline.model import load_model
from weftline.plan.step.compiled import split_layers
from weftline.plan.step.frameworks import FRAMEWORKS
from weftline.plan.step.layouts import UNEVEN_LIMIT, columns_of, enumerate_layouts, layout_at
from weftline.spec import PIPELINE_INSIDE, Layout

GOOD = Layout(tp=2, pp=2, dp=4, micro_batch=2, num_micro_batches=4)


def complaint(layout: Layout, **job: int) -> str:
    with pytest.raises(InputError) as caught:
        layout.check(**{"chips": 16, "global_batch": 32, "layers": 32, **job})
    return caught.value.render()


def test_degrees_that_do_not_multiply_are_named_with_the_divisors_that_would() -> None:
    text = complaint(GOOD, chips=24)
    assert "tp=2 * cp=1 * dp=4 * pp=2 = 16, not 24 chips" in text
    assert "hint: 24 chips have the divisors 1, 2, 3, 4, 6, 8, 12, 24" in text


def test_many_divisors_are_cut_short() -> None:
    assert complaint(GOOD, chips=5040).rstrip().endswith("12, 14, ...")


def test_a_batch_that_is_not_held_is_named() -> None:
    text = complaint(GOOD, global_batch=48)
    assert "dp=4 * micro-batch 2 * 4 micro-batches = 32, not the global batch 48" in text
    assert "hint: dp * micro-batch must divide the global batch" in text


def variants(
    plain: Layout, *, experts: int, kv_heads: int, domain: int, zero_bubble: bool
) -> Iterator[Layout]:
    """A plain layout, and what else it could be, one thing at a time."""
    yield plain
    tp, cp, dp, pp, ep = plain.tp, plain.cp, plain.dp, plain.pp, plain.ep
    if experts > 1 and tp > 1 and tp * cp * dp % (ep * tp) == 0:
        yield replace(plain, etp=tp)
    inside = domain // tp
    if plain.zero == 3 and ep == 1 and 1 < inside < cp * dp and cp * dp % inside == 0:
        yield replace(plain, shard=inside)
    if pp > 1 and dp > 1 and cp == ep == 1 and tp * pp <= domain:
        yield replace(plain, order=PIPELINE_INSIDE)
    if cp > 1 and kv_heads % (tp * cp) == 0:
        yield replace(plain, context="ulysses")
    if zero_bubble and pp > 1 and plain.vp == 1:
        yield replace(plain, schedule="zero-bubble")


def by_hand(
    *,
    chips: int,
    batch: int,
    layers: int,
    heads: int,
    keys: int,
    experts: int,
    seq: int,
    zeros: Sequence[int],
) -> Iterator[Layout]:
    """The rules of docs/plan.md as nested loops over every plain layout that could be."""
    powers = [1 << i for i in range(11)]
    for tp, cp, ep in itertools.product(powers, powers, powers):
        if tp > chips or heads % tp or cp > chips or (cp > 1 and seq // cp < 8192):
            continue
        if keys % tp or (cp > 1 and seq % (2 * cp)) or seq % (cp * tp):
            continue
        if ep > experts or experts % ep or (cp > 1 and tp * cp > min(8, chips)):
            continue
        for pp in range(1, min(layers, chips) + 1):
            even = layers % pp == 0 or (layers + 2) % pp == 0
            if not even and math.ceil(layers / pp) * pp / layers > UNEVEN_LIMIT:
                continue
            dp = chips // (tp * cp * pp)
            if tp * cp * pp * dp != chips or dp == 0 or tp * cp * dp % ep:
                continue
            for micro, vp, zero in itertools.product((1, 2, 4, 8, 16), range(1, 17), zeros):
                if vp > layers or batch % (dp * micro) or (zero == 3 and pp > 1):
                    continue
                num = batch // (dp * micro)
                whole = layers % (pp * vp) == 0 or (layers + 2) % (pp * vp) == 0
                deepest = math.ceil(layers / (pp * vp)) * pp * vp
                whole = whole or (not even and deepest <= UNEVEN_LIMIT * layers)
                if vp > 1 and (pp == 1 or num % pp or not whole):
                    continue
                yield Layout(
                    tp=tp, cp=cp, dp=dp, pp=pp, ep=ep, vp=vp, micro_batch=micro,
                    num_micro_batches=num, zero=zero, shard=cp * dp if zero else 0,
                    schedule="interleaved" if vp > 1 else "1f1b",
                )  # fmt: skip


@pytest.mark.parametrize(
    ("spec", "chips", "batch", "seq", "frame"),
    [
        ("gpt:layers=6,hidden=512,heads=8", 8, 16, 2048, "megatron-core"),
        ("gpt:layers=6,hidden=512,heads=8", 12, 24, 2048, "megatron-lm-2022"),
        ("gpt:layers=7,hidden=512,heads=4", 16, 16, 16384, "megatron-core"),
        ("gpt:layers=6,hidden=512,heads=8,kv_heads=2", 32, 32, 8192, "torchtitan"),
        ("gpt:layers=4,hidden=512,heads=8,experts=4,top_k=2", 8, 8, 2048, "megatron-core"),
        ("gpt:layers=19,hidden=512,heads=4", 16, 16, 32768, "megatron-core"),
    ],
)
def test_enumeration_finds_what_nested_loops_find(
    spec: str, chips: int, batch: int, seq: int, frame: str
) -> None:
    model, kind = load_model(f"{spec},seq={seq}"), FRAMEWORKS[frame]
    cluster = cluster_of("h100-sxm", chips)
    attention = next(op.attention for op in model.operators if op.attention is not None)
    expected = {
        replace(layout, recompute=again)
        for plain in by_hand(
            chips=chips, batch=batch, layers=len(model.layers), heads=attention.heads,
            keys=attention.kv_heads,
            experts=max(model.experts, 1), seq=seq, zeros=kind.zero_stages,
        )
        for layout in variants(
            plain, experts=model.experts, kv_heads=attention.kv_heads,
            domain=min(8, chips), zero_bubble=kind.zero_bubble,
        )
        for again in (("none",) if kind.flash_attention else ("none", "selective"))
    }  # fmt: skip
    found = enumerate_layouts(model, cluster, kind, global_batch=batch, seq_len=seq)
    listed = [layout_at(found, i, len(model.layers)) for i in range(len(found))]
    assert len(listed) == len(set(listed)) > 20
    assert set(listed) == expected


def test_a_batch_smaller_than_the_chips_still_finds_model_parallel_layouts() -> None:
    model = load_model("llama-3.1-8b")
    found = enumerate_layouts(
        model, cluster_of("h100-sxm", 64), FRAMEWORKS["megatron-core"], global_batch=4, seq_len=8192
    )
    assert len(found)
    assert found.dp.max() <= 4


def test_degrees_that_cannot_multiply_leave_no_layout() -> None:
    model = load_model("llama-3.1-8b")
    found = enumerate_layouts(
        model, cluster_of("h100-sxm", 37), FRAMEWORKS["megatron-core"], global_batch=512,
        seq_len=8192,
    )  # fmt: skip
    assert len(found) == 0


@pytest.mark.parametrize(
    "layout",
    [
        Layout(),
        Layout(tp=4, pp=3, dp=2, recompute="selective", shard=2, num_micro_batches=12),
        Layout(tp=4, pp=3, dp=2, recompute="full", recompute_layers=11, shard=2, ep=8, etp=4),
        Layout(cp=2, dp=8, zero=3, shard=4, context="ulysses"),
        Layout(pp=4, vp=8, schedule="interleaved", order=PIPELINE_INSIDE, zero=0),
        Layout(pp=4, schedule="zero-bubble", zero=0, micro_batch=2),
    ],
    ids=Layout.short,
)
def test_a_layout_survives_the_way_to_columns_and_back(layout: Layout) -> None:
    layout = replace(layout, shard=layout.shard or (layout.cp * layout.dp if layout.zero else 0))
    assert layout_at(columns_of(layout, 32), 0, 32) == layout


@pytest.mark.parametrize(("layers", "pp"), [(96, 8), (126, 16), (61, 16), (30, 1), (7, 4), (80, 7)])
def test_every_layer_stands_on_some_stage(layers: int, pp: int) -> None:
    middle, edge = split_layers(float(layers), np.array([float(pp)]))
    stages = edge[0] if pp == 1 else 2 * edge[0] + (pp - 2) * middle[0]
    assert stages == pytest.approx(layers)
