"""Measurements say what they should where the truth is known: laws, linear steps, loud machines."""

from __future__ import annotations

import dataclasses
from functools import cache
from pathlib import Path
from typing import Any

import machines as made_up
import pytest
from hypothesis import given
from hypothesis import strategies as st
from runs import config, layout, recipe

pytest.importorskip("transformers")
from weftline.catalog.machines import (
    HERE,
    import_machine,
    machine,
    machines,
    read_machine,
)
from weftline.errors import InputError, ThresholdCrossedError, UnknownNameError
from weftline.runtime.measure import calibrate
from weftline.runtime.measure.forecast import BUBBLE, EXCHANGE, OPTIMIZER, PRODUCTS, forecast, held
from weftline.runtime.measure.loud import judged
from weftline.runtime.measure.shallow import depths_of
from weftline.runtime.train.pipeline import layers_of_stages, stage_count, stages_of_rank
from weftline.runtime.train.recipe import Recipe
from weftline.spec import Layout, Measurement

QUIET = {"others": 0.02, "stolen": 0.0, "pressure": 0.01}
STEADY = [1.0 + 0.01 * (i % 3) for i in range(30)]


@pytest.mark.parametrize(
    ("references", "more", "why"),
    [
        (STEADY, {"others": 0.3}, "other processes used 30%"),
        (STEADY, {"stolen": 0.2}, "hypervisor kept 20%"),
        (STEADY, {"pressure": 0.5}, "waited for cores 50%"),
        ([1.0, 1.6] * 15, {}, "longer at its 90th percentile"),
        ([1.0 + 0.01 * i for i in range(30)], {}, "drifted by +1"),
        ([1.3 - 0.01 * i for i in range(30)], {}, "drifted by -1"),
    ],
)
def test_a_loud_machine_is_told_by_why(
    references: list[float], more: dict[str, float], why: str
) -> None:
    assert judged(STEADY, **QUIET).reasons == ()
    found = judged(references, **(QUIET | more))
    assert len(found.reasons) == 1
    assert why in found.reasons[0]


@cache
def llama() -> Recipe:
    return recipe("llama", Path("nowhere"), layout())


def deep(cut: Layout, layers: int) -> Recipe:
    """A recipe whose parameters nobody counts."""
    fields = config("llama") | {"num_hidden_layers": layers}
    return dataclasses.replace(llama(), layout=cut, config=fields)


def found_of(low: int, high: int, times: float, per_layer: float, ends: float) -> dict[str, Any]:
    """What a rank finds on a machine whose steps are exactly linear in layers."""

    def row(layers: int) -> dict[str, float]:
        return {"step": ends + per_layer * layers, "optimizer": 0.01 * layers}

    return {
        "depths": [low, high, times],
        "rows": {"reference": [1.0], "low": [row(low)] * 5, "high": [row(high)] * 5},
        "operators": [["product", PRODUCTS, 2.0], ["layer", "layer", 1.0]],
        "times": {"product": [[0.001, 0.002]] * 3, "layer": [[0.003, 0.006]] * 3},
    }  # fmt: skip


@given(st.sampled_from((1, 2)), st.integers(2, 12), st.floats(0.05, 0.5), st.floats(0.0, 1.0))
def test_a_deep_step_follows_from_shallow_ones(
    pp: int, layers: int, per_layer: float, ends: float
) -> None:
    made = deep(layout(pp=pp), layers * pp)
    depths = depths_of(made)
    found = found_of(depths.low, depths.high, depths.times, per_layer, ends)
    parts = forecast(made, [found, found])
    assert sum(parts.values()) == pytest.approx(ends + per_layer * layers * pp)
    assert parts[OPTIMIZER] == pytest.approx(0.01 * layers * pp)
    # Two products of 3 ms a layer of rank 0, in every micro-batch.
    assert parts[PRODUCTS] == pytest.approx(0.006 * layers * made.layout.num_micro_batches)
    assert (parts[BUBBLE] > 0) == (pp > 1)
    assert parts[EXCHANGE] >= 0
    bytes_ = held(4e8 + 1e6 * depths.low, 4e8 + 1e6 * depths.high, depths.times)
    assert bytes_ == pytest.approx(4e8 + 1e6 * layers * pp)


@given(st.sampled_from(("1f1b", "interleaved", "zero-bubble")), st.integers(4, 40))
def test_depths_lead_to_the_fullest_rank(schedule: str, layers: int) -> None:
    cut = layout(pp=2, schedule=schedule, vp=2 if schedule == "interleaved" else 1)
    depths = depths_of(deep(cut, layers))
    ranges = layers_of_stages(cut, layers)
    held = [sum(ranges[s][1] - ranges[s][0] for s in stages_of_rank(cut, p)) for p in range(2)]
    assert depths.low + depths.times * (depths.high - depths.low) == pytest.approx(2 * max(held))
    assert depths.low % stage_count(cut) == depths.high % stage_count(cut) == 0 or not depths.times


def test_layers_of_several_kinds_are_tried_by_whole_periods() -> None:
    kinds = ["sliding_attention", "sliding_attention", "full_attention"] * 4
    fields = config("llama") | {"num_hidden_layers": 12, "layer_types": kinds}
    depths = depths_of(dataclasses.replace(deep(layout(), 12), config=fields))
    assert (depths.low, depths.high) == (3, 9)
    assert depths.times == pytest.approx(1.5)


def test_the_operators_room_reads_the_tables_of_a_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from weftline.catalog import own_chips
    from weftline.operators.products import training_operators

    made = made_up.written(tmp_path, monkeypatch, "table-box")
    with own_chips([made.chip]):
        room = training_operators("table-box")
        for fmt in ("fp32", "bf16"):
            # Between the nodes and beyond them: the law is a power law, which tables hold exactly.
            for m, n, k in ((64, 300, 1000), (8192, 4096, 512)):
                seconds = float(room.product_s(fmt, m, n, k, made_up.FLOPS, made_up.RATE))
                assert seconds == pytest.approx(2.0 * m * n * k / made_up.FLOPS, rel=0.02)
        assert "measured on `table-box`" in room.grounds("fp32")["products"]


def one_measured(made: Any, **more: Any) -> Measurement:
    return Measurement(**{
        "machine": HERE, "model": "m", "model_key": calibrate.key_of(made), "layout": made.layout,
        "seq_len": made.seq_len, "dtype": "fp32", "source": "operators", "parts_s": {PRODUCTS: 2.0},
        "memory_bytes": 1e9, "samples": 3, "spread": 1.0, "date": "2026-11-30", **more,
    })  # fmt: skip


def test_a_machine_is_shared_as_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made_up.written(tmp_path / "theirs", monkeypatch)
    plan = llama()
    calibrate.remember(one_measured(plan))
    calibrate.remember(one_measured(plan, parts_s={PRODUCTS: 3.0}))  # in the place of the first
    calibrate.remember(one_measured(plan, source="run", parts_s={PRODUCTS: 4.0}))
    file = tmp_path / "theirs" / "machines" / "here.json"
    assert [m.step_s for m in read_machine(file).measurements] == [3.0, 4.0]
    monkeypatch.setenv("WEFTLINE_CONFIG_DIR", str(tmp_path / "mine"))
    with pytest.raises(InputError, match="machine that weftline runs on"):
        import_machine(file)
    with pytest.raises(InputError, match="shipped catalogue"):
        import_machine(file, name="h100-sxm")
    with pytest.raises(InputError, match="no name"):
        import_machine(file, name="../up")
    assert machines() == ()
    import_machine(file, name="lab-box")
    found = machine("lab-box")
    assert found.chip["id"] == "lab-box"
    assert {m.machine for m in found.measurements} == {"lab-box"}
    assert found.measurements[0].basis.startswith("measured on lab-box")
    with pytest.raises(InputError, match="already"):
        import_machine(file, name="lab-box")
    with pytest.raises(InputError, match="has not been measured") as error:
        machine(HERE)
    assert "weftline calibrate" in str(error.value)
    with pytest.raises(UnknownNameError, match="lab-bix"):
        machine("lab-bix")


@pytest.mark.parametrize("text", ["", "[]", '{"format": 99}', '{"format": 1, "id": 3}'])
def test_a_file_that_is_no_machine_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=r"m\.json"):
        read_machine(path)


def test_a_loud_measurement_is_refused_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_up.written(tmp_path, monkeypatch)
    plan = llama()
    loud = one_measured(plan, loud=("other processes used 80% of the cores",))
    monkeypatch.setattr(calibrate, "measure_plan", lambda *_, **__: loud)
    with pytest.raises(ThresholdCrossedError, match="used 80%"):
        calibrate.calibrate_plan(plan, today="2026-11-30")
    assert machine(HERE).measurements == ()
    calibrate.calibrate_plan(plan, today="2026-11-30", accept_loud=True)
    assert "machine loud" in machine(HERE).measurements[0].basis


def test_a_real_measurement_adds_up() -> None:
    """One process, a tiny model: what it says is about the step that was timed, and of its size."""
    fields = config("qwen3") | {"num_hidden_layers": 6}
    made = recipe("qwen3", Path("nowhere"), layout(), config=fields)
    found = calibrate.measure_plan(made, today="2026-11-30", seconds=0.5)
    assert found.samples >= 5
    assert min(found.parts_s.values()) > 0
    assert {PRODUCTS, "attention", "norms and activations", "loss", OPTIMIZER} <= set(found.parts_s)
    assert found.parts_s[PRODUCTS] < found.step_s < 20
    assert 1e8 < found.memory_bytes < 2e9
    assert found.about(calibrate.key_of(made), made.layout, made.seq_len)
