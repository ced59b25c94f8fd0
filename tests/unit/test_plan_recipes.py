"""Recipes and sources: what a run's words are taken for, and what a user may state."""

from __future__ import annotations

import pytest

from weftline.errors import InputError
from weftline.plan.calibrate.sources import source_of
from weftline.plan.step.frameworks import FRAMEWORKS
from weftline.plan.step.recipes import (
    FLAGS,
    recipe_of_framework,
    recipe_of_run,
    recipes,
    stated_recipe,
)


def test_every_recipe_has_a_source_and_a_day() -> None:
    assert len({r.name for r in recipes()}) == len(recipes())
    for recipe in recipes():
        assert recipe.source
        assert recipe.released[:2] == "20"


def test_every_framework_a_plan_may_use_has_a_recipe() -> None:
    for name in FRAMEWORKS:
        assert not recipe_of_framework(name).family.startswith("unknown"), name


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("Megatron-Bridge 26.02.01", "megatron-bridge-26.02"),
        ("Megatron-Bridge 26.08", "megatron-bridge-26.06"),
        ("NeMo/Megatron-Core (MLPerf v5.1)", "nemo-mlperf"),
        ("torchtitan with asynchronous TP", "torchtitan-async-tp"),
        ("NeMo AutoModel (PyTorch FSDP2)", "automodel"),
        ("HAI-LLM (DualPipe)", "hai-llm"),
    ],
)
def test_a_run_is_known_by_its_frameworks_words(words: str, name: str) -> None:
    assert recipe_of_run(words).name == name


def test_an_unknown_framework_is_called_by_its_name_and_is_no_kin_of_any() -> None:
    found = recipe_of_run("SomeTrainer 7")
    assert found.name == "SomeTrainer 7"
    assert found.family not in {r.family for r in recipes()}


def test_a_release_does_other_things_on_other_chips() -> None:
    recipe = recipe_of_run("Megatron-Bridge 26.06")
    assert recipe.on("gb300-nvl72", "qwen3-30b-a3b").graphs == 1.0
    assert recipe.on("h100-sxm", "qwen3-30b-a3b").graphs == 0.0
    assert recipe.on("gb300-nvl72", "nemotron-3-super").fused_routing == 0.0


def test_megatron_hides_sends_only_between_interleaved_chunks() -> None:
    for words in ("Megatron-LM 2021", "Megatron-Bridge 26.06", "NeMo/Megatron-Core (MLPerf v5.1)"):
        found = recipe_of_run(words)
        assert (found.overlap_pp, found.overlap_interleaved) == (0.0, 1.0), words
    assert recipe_of_run("HAI-LLM (DualPipe)").overlap_pp == 1.0
    stated = stated_recipe("megatron-core", "overlap_pp=on").on("h100-sxm", "llama-3.1-70b")
    assert stated.overlap_pp == stated.overlap_interleaved == 1.0


def test_a_plan_takes_the_recipe_of_its_chips() -> None:
    assert recipe_of_framework("megatron-core", "mi300x").family == "primus"
    assert recipe_of_framework("megatron-core", "h100-sxm").family == "megatron-bridge"


def test_stated_flags_hold_on_every_chip() -> None:
    stated = stated_recipe("megatron-core", "overlap_tp=off, dispatch=copy,graphs=0.5")
    for chip in ("gb300-nvl72", "h100-sxm"):
        found = stated.on(chip, "deepseek-v3")
        assert (found.overlap_tp, found.once_a_node, found.graphs) == (0.0, 0.0, 0.5)
    assert stated_recipe("megatron-core", "torchtitan").name == "torchtitan"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("overlap=off", "unknown flag `overlap`"),
        ("graphs=2", "`graphs` cannot be `2`"),
        ("graphs=", "`graphs` cannot be `nothing`"),
        ("dispatch=ring", "`dispatch` cannot be `ring`"),
        ("megatron-bridge-99.01", "unknown release"),
    ],
)
def test_what_is_no_flag_or_release_is_refused(text: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        stated_recipe("megatron-core", text)
    assert "overlap_tp" in FLAGS


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("mlcommons/training_results_v5.1 NVIDIA/results/x @441d", "MLPerf v5.1"),
        ("SC21 Megatron-LM arXiv:2104.04473 Table 1; NVIDIA/Megatron-LM git", "arXiv:2104.04473"),
        ("NVIDIA-NeMo/Megatron-Bridge docs/performance-summary.md [26.08]",
         "NVIDIA-NeMo/Megatron-Bridge"),
        ("my own runs", "my own runs"),
        ("", "not stated"),
    ],
)  # fmt: skip
def test_runs_read_from_one_place_have_one_source(text: str, source: str) -> None:
    assert source_of(text) == source
