"""Every bundled config against transformers' own model on the meta device: totals equal.

Nothing is downloaded and no weight is made: both sides start from the bundled file. Of multimodal
models the language model and its output projection count. Families up to 2024 stand in
``test_model_legacy.py``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from model_types import comparable, theirs

import weftline.model
from weftline.model import load_model, parameter_table
from weftline.model.load import bundled_index
from weftline.model.rows import unverified
from weftline.model.table import markdown

pytest.importorskip("torch")

CONFIGS = Path(weftline.model.__file__).with_name("configs")
LEGACY = {
    "bert", "bloom", "gemma2", "gemma3", "gemma3_text", "gpt2", "gpt_neox", "jamba", "mamba",
    "mamba2", "mistral", "opt", "phi", "phi3", "t5",
}  # fmt: skip
SAME_CLASS = {"kimi_k2": "deepseek_v3", "mimo": "qwen2", "minimax_m3": "minimax_m3_vl_text"}
"""Model types that transformers has under another name, by their makers' own description."""


def raw_config(name: str) -> dict[str, Any]:
    file = bundled_index()[name].file
    fields: dict[str, Any] = json.loads((CONFIGS / file).read_text()) if file else {}
    for key in ("auto_map", "quantization_config"):
        fields.pop(key, None)
    return fields


NAMES = [
    name
    for name in bundled_index()
    if raw_config(name).get("model_type", "") not in ("", *LEGACY) and name not in unverified()
]


# transformers warns about kernels that are not installed and about its own arguments.
pytestmark = pytest.mark.filterwarnings("ignore")


def reference(transformers: Any, fields: dict[str, Any]) -> tuple[int, bool]:
    """Parameters of transformers' own language model of a config, and whether it has a head."""
    fields = dict(fields)
    if fields["model_type"] == "kimi_k25":  # its text model is Kimi-K2
        fields = {k: v for k, v in fields["text_config"].items() if k != "auto_map"}
    kind = fields["model_type"] = SAME_CLASS.get(fields["model_type"], fields["model_type"])
    if kind == "step3p7" and "text_config" not in fields:  # the file is the language part alone
        text = transformers.models.step3p7.configuration_step3p7.Step3p7TextConfig(**fields)
        fields = {"model_type": kind, "text_config": text}
    return theirs(fields)


def test_what_is_covered() -> None:
    assert len(NAMES) >= 120
    assert set(unverified()) <= set(bundled_index())


@pytest.mark.parametrize("name", NAMES)
def test_parameters_equal_transformers(transformers: Any, name: str) -> None:
    expected, headed = reference(transformers, raw_config(name))
    assert comparable(load_model(name), headed) == expected


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("qwen3-30b-a3b", {"decoder_sparse_step": 2, "mlp_only_layers": [1, 3]}),
        ("qwen3-8b", {"tie_word_embeddings": True, "attention_bias": True}),
        ("llama-3.1-8b", {"attention_bias": True, "mlp_bias": True, "head_dim": 96}),
        ("llama-4-maverick", {"interleave_moe_layer_step": 4, "moe_layers": None}),
        ("gpt-oss-20b", {"num_hidden_layers": 7, "layer_types": None}),
        ("deepseek-v3", {"q_lora_rank": None, "first_k_dense_replace": 5}),
        ("deepseek-v3", {"attention_bias": True, "n_shared_experts": 3}),
        ("deepseek-v4-flash", {"compress_ratios": None, "hc_mult": 2, "o_groups": 4}),
        ("glm-5", {"index_topk_freq": 3, "index_skip_topk_offset": 4}),
        ("step-3.7-flash", {"attention_other_setting": {"num_attention_heads": 96}}),
        ("nemotron-3-nano-30b-a3b", {"moe_latent_size": 512, "use_conv_bias": False}),
        ("nemotron-h-56b", {"use_bias": True, "mlp_bias": True}),
        ("minimax-m3", {"num_local_experts": 16, "shared_intermediate_size": 1024}),
    ],
)
def test_parameters_equal_with_unusual_switches(
    transformers: Any, tmp_path: Path, name: str, changes: dict[str, Any]
) -> None:
    fields = raw_config(name) | changes
    if changes.get("moe_layers", 1) is None:  # a multimodal config: its text part changes
        fields = raw_config(name)
        fields["text_config"] |= changes
    path = tmp_path / "config.json"
    path.write_text(json.dumps(fields))
    expected, headed = reference(transformers, fields)
    assert comparable(load_model(path), headed) == expected


@pytest.mark.parametrize("changes", [{}, {"q_lora_rank": 512, "num_shared_experts": 2}])
def test_kimi_linear_equals_transformers(
    transformers: Any, tmp_path: Path, changes: dict[str, Any]
) -> None:
    """No Kimi-Linear is bundled; Kimi-K3 is built on it."""
    config = transformers.AutoConfig.for_model("kimi_linear", **changes)
    path = tmp_path / "config.json"
    path.write_text(config.to_json_string(use_diff=False))
    expected, headed = reference(transformers, json.loads(path.read_text()))
    assert comparable(load_model(path), headed) == expected


@pytest.mark.parametrize("row", parameter_table(), ids=lambda row: str(row.name))
def test_totals_are_near_what_the_makers_state(row: Any) -> None:
    """Within 6 % of a card (phi-4's says 14B); of a rounded name, or one with vision, 15 %."""
    if row.published_parameters is None:
        return
    assert abs(row.difference) <= (0.15 if row.basis == "name" else 0.06)


def test_the_table_says_what_these_tests_check() -> None:
    verified = {row.name for row in parameter_table() if row.equals_transformers}
    assert set(NAMES) <= verified
    here_or_legacy = {n for n, entry in bundled_index().items() if entry.file} - set(unverified())
    assert verified == here_or_legacy


def test_the_page_is_as_generated() -> None:
    page = Path(__file__).parents[2] / "docs" / "models.md"
    assert page.read_text(encoding="utf-8") == markdown()
