"""Groups in the plan's order, stages without gaps, layouts on fewer ranks, small models counted."""

from __future__ import annotations

import json
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weftline.errors import InputError
from weftline.model.config import HFConfig
from weftline.model.load import bundled_index, config_path, load_config
from weftline.runtime.train.smaller import fitted_layout, small_config
from weftline.spec import Layout

pytest.importorskip("transformers")
DEGREES = st.sampled_from((1, 2, 3, 4))
ORDERS = st.sampled_from(tuple(permutations(("tp", "cp", "dp", "pp"))))


@given(DEGREES, DEGREES, DEGREES, DEGREES, ORDERS)
def test_a_rank_stands_where_the_plan_says(
    tp: int, cp: int, dp: int, pp: int, order: tuple[str, ...]
) -> None:
    from weftline.runtime.train.meshes import rank_grid

    layout = Layout(tp=tp, cp=cp, dp=dp, pp=pp, order=order)  # type: ignore[arg-type]
    grid = rank_grid(layout)
    for rank in range(layout.chips):
        at = layout.coordinates(rank)
        assert int(grid[at["pp"], at["dp"], at["cp"], at["tp"]]) == rank


@given(st.integers(1, 8), st.integers(1, 3), st.integers(1, 60), st.booleans())
def test_stages_cover_the_layers(pp: int, vp: int, layers: int, zero_bubble: bool) -> None:
    from weftline.runtime.train.pipeline import (
        layers_of_stages,
        stage_count,
        stages_of_rank,
    )

    kind = "zero-bubble" if zero_bubble else ("interleaved" if vp > 1 and pp > 1 else "1f1b")
    vp = 1 if zero_bubble or pp == 1 else vp
    layout = Layout(pp=pp, vp=vp, schedule=kind if pp > 1 else "1f1b")
    count = stage_count(layout)
    held = sorted(s for p in range(pp) for s in stages_of_rank(layout, p))
    assert held == list(range(count))
    if layers < count:
        with pytest.raises(InputError, match="cannot fill"):
            layers_of_stages(layout, layers)
        return
    ranges = layers_of_stages(layout, layers)
    assert [i for a, b in ranges for i in range(a, b)] == list(range(layers))
    sizes = [b - a for a, b in ranges]
    assert max(sizes) - min(sizes) <= 1
    assert sizes[-1] == min(sizes)  # the last holds the loss beside its layers


@given(st.sampled_from((1, 2, 4, 8)), st.sampled_from((1, 2)), st.sampled_from((1, 2, 16)),
       st.sampled_from((1, 2, 4)), st.sampled_from((1, 2, 4, 8)))  # fmt: skip
def test_a_layout_on_fewer_ranks_is_one(tp: int, cp: int, dp: int, pp: int, ranks: int) -> None:
    asked = Layout(tp=tp, cp=cp, dp=dp, pp=pp, micro_batch=1, num_micro_batches=4, zero=3)
    made = fitted_layout(asked, ranks, micro_batch=1, global_batch=64)
    assert made.chips == ranks
    assert made.global_batch == 64
    if ranks <= asked.chips:
        for axis in ("tp", "cp", "pp"):
            assert getattr(made, axis) <= getattr(asked, axis)


def test_a_layout_that_cannot_be_made_says_what_would() -> None:
    asked = Layout(tp=4, dp=2, micro_batch=1, num_micro_batches=4)
    with pytest.raises(InputError, match="no multiple") as error:
        fitted_layout(asked, 8, micro_batch=3, global_batch=8)
    assert "--global-batch 6" in str(error.value)


@pytest.mark.parametrize(
    "name", ["llama-3.1-8b", "qwen2.5-0.5b", "qwen3-30b-a3b", "mistral-7b-v0.1", "gemma-2b"]
)
def test_a_small_model_is_of_its_kind_and_counted_alike(name: str) -> None:
    import math

    from weftline.runtime.train import models

    if name not in bundled_index():
        pytest.skip("not bundled")
    fields = json.loads(config_path(name).read_text(encoding="utf-8"))
    layout = Layout(pp=2, schedule="zero-bubble", num_micro_batches=4)
    made = small_config(fields, layout, seq_len=64, vocab=512)
    ours = load_config(HFConfig(json.dumps(made), name)).parameters
    module = models.build(models.config_of(made), attention="eager")
    assert sum(math.prod(p.shape) for p in module.parameters()) == ours < 20e6
    assert made["model_type"] == fields["model_type"]
