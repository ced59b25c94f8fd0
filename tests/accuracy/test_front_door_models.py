"""What people bring to the front door: names, saved configs, detectors, towers, quantised files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from model_types import comparable, small_config, theirs

import weftline.model
from weftline.errors import InputError
from weftline.model import load_model
from weftline.model.config import HFConfig
from weftline.model.load import bundled_index, load_config
from weftline.model.names import find_name, near_in_family
from weftline.runtime.meta import meta_model

CONFIGS = Path(weftline.model.__file__).with_name("configs")
LLAMA = {
    "model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 100,
}  # fmt: skip


def read(fields: dict[str, Any]) -> weftline.model.Model:
    return load_config(HFConfig(json.dumps(fields, indent=1), "config.json"))


@pytest.mark.parametrize(
    ("asked", "means", "parameters"),
    [
        ("meta-llama/Llama-3.1-8B", "llama-3.1-8b", 8_030_261_248),
        ("meta-llama/Llama-3.1-8B-Instruct", "llama-3.1-8b", 8_030_261_248),
        ("Llama_3.1-8B-FP8", "llama-3.1-8b", 8_030_261_248),
        ("LLAMA3.1-8b", "llama-3.1-8b", 8_030_261_248),
        ("Qwen/Qwen2.5-7B", "qwen2.5-7b", 7_615_616_512),
        ("Qwen/Qwen2.5-7B-Instruct-AWQ", "qwen2.5-7b", 7_615_616_512),
        ("meta-llama/Llama-3.3-70B-Instruct", "llama-3.3-70b", 70_553_706_496),
        ("mistralai/Mistral-Small-24B-Instruct-2501", "mistral-small-24b", 23_572_403_200),
        ("meta-llama/Llama-2-7b-chat-hf", "llama-2-7b", 6_738_415_616),
        ("deepseek-ai/DeepSeek-R1-0528", "deepseek-r1", 671_026_404_352),
        ("google/gemma-2-9b-it", "gemma-2-9b", 9_241_705_984),
    ],
)
def test_names_as_people_write_them(asked: str, means: str, parameters: int) -> None:
    model = load_model(asked)
    assert (model.name, model.parameters) == (means, parameters)


@pytest.mark.parametrize(
    ("asked", "means", "form"),
    [
        ("Qwen/Qwen2.5-72B-Instruct-AWQ", "qwen2.5-72b", "int4"),
        ("Qwen/Qwen2.5-7B-Instruct-GPTQ-Int8", "qwen2.5-7b", "int8"),
        ("nvidia/Llama-3.1-70B-Instruct-NVFP4", "llama-3.1-70b", "nvfp4"),
        ("RedHatAI/Llama-3.1-70B-Instruct-FP8-dynamic", "llama-3.1-70b", "fp8"),
        ("meta-llama/Llama-3.1-8B-Instruct", "llama-3.1-8b", None),
        ("Qwen/Qwen3-32B-FP8", "qwen3-32b-fp8", "fp8"),
        ("Qwen/Qwen3-30B-A3B-Instruct-2507-FP8", "qwen3-30b-a3b-2507", "fp8"),
    ],
)
def test_a_format_in_a_name_is_that_of_the_weights(
    asked: str, means: str, form: str | None
) -> None:
    model = load_model(asked)
    assert (model.name, model.weights_format) == (means, form)


def test_every_name_of_a_bundled_model_means_itself() -> None:
    known = {n: tuple(x for x in (e.hf_id, *e.also) if x) for n, e in bundled_index().items()}
    for name, others in known.items():
        assert {find_name(each, known) for each in (name, *others)} == {name}


def test_a_loose_name_says_what_it_was_taken_as() -> None:
    assert load_model("meta-llama/Llama-3.1-8B").notes == ()
    assert "taken as `llama-3.1-8b`" in load_model("meta-llama/Llama-3.1-8B-Instruct").notes[-1]


@pytest.mark.parametrize(
    ("name", "family"),
    [("llama-9-9b", "llama-"), ("lama-3-8b", "llama-"), ("qwen7-8b", "qwen"),
     ("mistral-9b", "mistral-")],
)  # fmt: skip
def test_a_suggestion_stays_in_the_family(name: str, family: str) -> None:
    near = near_in_family(name, bundled_index())
    assert near
    assert all(each.startswith(family) for each in near)


def test_a_name_of_no_family_gets_no_guess() -> None:
    assert near_in_family("zzz-9b", bundled_index()) == []
    assert near_in_family("", bundled_index()) == []


def test_gemma_4_as_transformers_saves_it(transformers: Any) -> None:
    """Its global heads stand in ``per_layer_config``: the same cache, 2.26 GB at 100,000 tokens."""
    fields = json.loads((CONFIGS / "google--gemma-4-26B-A4B.json").read_text())
    saved = transformers.AutoConfig.for_model(fields.pop("model_type"), **fields).to_dict()
    text = json.dumps(saved, default=str)
    assert "per_layer_config" in text
    assert "global_head_dim" not in saved["text_config"]
    model, published = load_config(HFConfig(text, "saved")), load_model("gemma-4-26b-a4b")
    assert model.parameters == published.parameters
    assert model.kv_bytes(100_000) == published.kv_bytes(100_000) == pytest.approx(2.26e9, rel=5e-3)


def test_a_detector_is_no_bert(transformers: Any) -> None:
    fields = json.loads(transformers.AutoConfig.for_model("grounding-dino").to_json_string())
    assert fields["text_config"]["model_type"] == "bert"
    with pytest.raises(InputError, match="`grounding-dino` is not known"):
        read(fields)


def test_a_field_that_no_builder_reads_is_named_with_its_line() -> None:
    with pytest.raises(InputError) as caught:
        read(LLAMA | {"num_key_value_head": 2, "global_head_dim": 512, "dropout": 0.1})
    said = str(caught.value)
    assert "config.json:9: field `num_key_value_head` may carry a shape" in said
    assert "did you mean `num_key_value_heads`?" in said
    assert "config.json:10: field `global_head_dim`" in said
    assert "dropout" not in said


def test_two_names_of_one_field_must_agree() -> None:
    moe = LLAMA | {"model_type": "qwen3_moe", "num_experts": 8, "num_experts_per_tok": 2,
                   "moe_intermediate_size": 32}  # fmt: skip
    assert read(moe | {"num_local_experts": 8}).experts == 8
    with pytest.raises(InputError, match="name the same and differ"):
        read(moe | {"num_local_experts": 16})


def test_overrides_of_layers_change_those_layers_only() -> None:
    base = LLAMA | {"model_type": "qwen2"}
    wide = read(base | {"per_layer_config": {"1": {"intermediate_size": 256}}})
    plain = read(base)
    assert wide.layers[0] == plain.layers[0]
    assert wide.layers[1].parameters - plain.layers[1].parameters == 3 * 64 * 128
    with pytest.raises(InputError, match="per_layer_config"):
        read(base | {"per_layer_config": {"7": {"intermediate_size": 256}}})
    with pytest.raises(InputError, match="`skip`"):
        read(base | {"per_layer_config": {"1": {"skip": ["mlp"]}}})
    with pytest.raises(InputError, match="per_layer_config"):
        read(LLAMA | {"per_layer_config": {"1": {"intermediate_size": 256}}})


@pytest.mark.parametrize(
    ("outer", "inner", "tied"),
    [(True, False, True), (False, True, True), (False, False, False), (None, True, True)],
)
def test_the_outer_word_on_tying_counts(outer: bool | None, inner: bool, tied: bool) -> None:
    """LLaVA's class also takes over its section's ``true``, as transformers does."""
    text = LLAMA | {"tie_word_embeddings": inner}
    fields: dict[str, Any] = {"model_type": "llava", "text_config": text}
    if outer is not None:
        fields["tie_word_embeddings"] = outer
    assert read(fields).tied_embeddings is tied


def test_a_flat_multimodal_file_is_read_as_transformers_reads_it(transformers: Any) -> None:
    """Qwen2-VL was published without a ``text_config``: its fields stand at the top."""
    text = LLAMA | {"tie_word_embeddings": True, "use_sliding_window": False}
    vision = {"depth": 2, "embed_dim": 32, "hidden_size": 64, "num_heads": 2, "mlp_ratio": 4,
              "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2,
              "in_channels": 3}  # fmt: skip
    flat = text | {"model_type": "qwen2_vl", "vision_config": vision}
    count, headed = theirs(flat)
    model = read(flat)
    assert comparable(model, headed) == count
    (tower,) = model.left_out
    whole = sum(p.numel() for p in meta_model(flat).parameters())
    assert tower.parameters == whole - count


@pytest.mark.parametrize("kind", ["qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "qwen3_5"])
def test_a_tower_is_all_that_is_left_out(transformers: Any, kind: str) -> None:
    """Where the projector is part of the tower, language model and tower are the whole model."""
    fields = small_config(transformers, kind)
    model = read(fields)
    whole = sum(p.numel() for p in meta_model(fields).parameters())
    assert model.parameters + sum(part.parameters or 0 for part in model.left_out) == whole


def test_towers_are_said_with_their_size() -> None:
    (tower,) = load_model("qwen3-vl-4b").left_out
    assert str(tower) == "vision tower, 0.4B parameters, not counted"
    (tower,) = load_model("llava-1.5-7b").left_out
    assert tower.parameters == 303_507_456  # CLIP ViT-L/14 at 336
    assert load_model("llama-3.1-8b").left_out == ()


@pytest.mark.parametrize(
    ("quantization", "form"),
    [
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8_block"),
        ({"quant_method": "fp8", "activation_scheme": "static"}, "fp8"),
        ({"quant_method": "mxfp4"}, "mxfp4"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "nvfp4"),
        ({"quant_method": "modelopt", "quantization": {"quant_algo": "FP8"}}, "fp8"),
        ({"quant_method": "awq", "bits": 4}, "int4"),
        ({"quant_method": "gptq", "bits": 8}, "int8"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "int4"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "int8"),
        ({"quant_method": "compressed-tensors", "config_groups": {
            "group_0": {"weights": {"num_bits": 4, "type": "float"}}}}, "nvfp4"),
        ({"quant_method": "compressed-tensors", "config_groups": {
            "group_0": {"weights": {"num_bits": 8, "type": "int"}}}}, "int8"),
        ({}, None), (None, None),
    ],
)  # fmt: skip
def test_the_weights_have_the_format_of_the_file(quantization: Any, form: str | None) -> None:
    assert read(LLAMA | {"quantization_config": quantization}).weights_format == form


def test_an_unknown_quantization_is_said() -> None:
    model = read(LLAMA | {"quantization_config": {"quant_method": "aqlm"}})
    assert model.weights_format is None
    assert "`aqlm` is not known" in model.notes[-1]


def test_a_plain_stack_only_when_asked(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(LLAMA | {"model_type": "novel", "mystery_size": 7}))
    with pytest.raises(InputError, match="`novel` is not known"):
        load_model(path)
    model = load_model(f"as=llama:{path}")
    assert model.parameters == read(LLAMA).parameters
    assert "taken as a plain Llama stack" in model.notes[0]
    assert "`mystery_size`" in model.notes[1]
    with pytest.raises(InputError, match="cannot take a model as `rwkv`"):
        load_model(f"as=rwkv:{path}")


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("flux.1-dev", 11_901_408_320), ("flux.1-schnell", 11_891_178_560),
     ("sd3-medium", 2_028_328_000), ("sd3.5-large", 8_056_627_520)],
)  # fmt: skip
def test_diffusion_transformers_have_their_published_totals(name: str, parameters: int) -> None:
    assert load_model(name).parameters == parameters


def test_a_double_block_does_each_product_once_a_token() -> None:
    """Image and text tokens pass the weights of their own stream: two sets, one product."""
    model = load_model("flux.1-dev")
    up = next(op for op in model.layers[0].operators if op.name == "mlp.up")
    assert up.parameters == 2 * (up.in_features + 1) * up.out_features
    assert up.forward_flops_per_token(512) == 2.0 * up.in_features * up.out_features
