"""Families up to 2024: what their builders refuse, and how, and what stands beside the count."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from weftline.errors import InputError, InputErrors
from weftline.model import Model, load_model
from weftline.model.config import HFConfig
from weftline.model.families import BUILDERS
from weftline.model.families.recurrent.mamba import selective_scan_flops, ssd_flops

SMALL: dict[str, dict[str, Any]] = {
    "mistral": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
                "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 100},
    "gemma2": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4,
               "vocab_size": 100},
    "gemma3_text": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 7},
    "phi": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
            "num_attention_heads": 4, "vocab_size": 100},
    "phi3": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
             "num_attention_heads": 4, "vocab_size": 100},
    "jamba": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 8,
              "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 100,
              "num_experts": 4, "num_experts_per_tok": 2},
    "mamba": {"hidden_size": 60, "num_hidden_layers": 2, "vocab_size": 100},
    "mamba2": {"hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 100, "num_heads": 8,
               "head_dim": 16},
    "gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 100},
    "gpt_neox": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
                 "num_attention_heads": 4, "vocab_size": 100},
    "opt": {"hidden_size": 64, "ffn_dim": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
            "vocab_size": 100, "max_position_embeddings": 32},
    "bloom": {"n_embed": 64, "n_layer": 2, "num_attention_heads": 4, "vocab_size": 100},
    "t5": {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4,
           "vocab_size": 100},
    "bert": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
             "num_attention_heads": 4, "vocab_size": 100, "max_position_embeddings": 32},
}  # fmt: skip

HAVE_DEFAULTS = {"head_dim", "num_key_value_heads"}


def config(kind: str, **changes: Any) -> HFConfig:
    fields = {"model_type": kind} | SMALL[kind] | changes
    return HFConfig(json.dumps(fields, indent=1), "config.json")


def build(kind: str, **changes: Any) -> Model:
    return BUILDERS[kind](config(kind, **changes))


@pytest.mark.parametrize("kind", SMALL)
def test_a_small_model_of_every_family(kind: str) -> None:
    model = build(kind)
    assert model.family == kind
    assert model.parameters > 0
    assert model.forward_flops_per_token(16) > 0
    assert [layer.index for layer in model.layers] == list(range(len(model.layers)))


@pytest.mark.parametrize("kind", SMALL)
def test_every_missing_field_is_reported_at_once(kind: str) -> None:
    with pytest.raises(InputError) as caught:
        BUILDERS[kind](HFConfig(json.dumps({"model_type": kind}), "config.json"))
    assert isinstance(caught.value, InputErrors)
    text = caught.value.render()
    said_as = {"n_embed": "hidden_size", "num_attention_heads": "n_head"} if kind == "bloom" else {}
    optional = {"vocab_size"} if kind == "gemma2" else HAVE_DEFAULTS
    for field in set(SMALL[kind]) - optional:
        assert f"`{said_as.get(field, field)}` is missing" in text


@pytest.mark.parametrize(
    ("kind", "changes", "field", "said"),
    [
        ("mistral", {"num_key_value_heads": 3}, "num_key_value_heads", "does not divide"),
        ("mistral", {"sliding_window": "all"}, "sliding_window", "whole number"),
        ("gemma2", {"num_attention_heads": 9}, "num_attention_heads", "does not divide"),
        ("gemma2", {"layer_types": ["sliding_attention"] * 3}, "layer_types", "3 entries"),
        ("gemma2", {"layer_types": ["slidin_attention"] * 4}, "layer_types", "sliding_attention"),
        ("gemma3_text", {"use_bidirectional_attention": True}, "use_bidirectional_attention",
         "encoder"),
        ("phi", {"num_attention_heads": 5}, "hidden_size", "does not divide"),
        ("phi", {"qk_layernorm": "yes"}, "qk_layernorm", "true or false"),
        ("phi3", {"partial_rotary_factor": -1}, "partial_rotary_factor", "at least 0"),
        ("jamba", {"num_experts_per_tok": 5}, "num_experts_per_tok", "exceeds"),
        ("jamba", {"attn_layer_offset": 8}, "attn_layer_offset", "not below"),
        ("jamba", {"expert_layer_offset": 2}, "expert_layer_offset", "not below"),
        ("jamba", {"mamba_dt_rank": "automatic"}, "mamba_dt_rank", "whole number"),
        ("mamba", {"time_step_rank": 0}, "time_step_rank", "at least 1"),
        ("mamba2", {"num_heads": 24}, "num_heads", "is not `expand` 2"),
        ("mamba2", {"n_groups": 3}, "n_groups", "does not divide"),
        ("gpt2", {"n_head": 5}, "n_head", "does not divide"),
        ("gpt2", {"add_cross_attention": True}, "add_cross_attention", "not modelled"),
        ("gpt_neox", {"num_key_value_heads": 2}, "num_key_value_heads", "not a field"),
        ("gpt_neox", {"attention_bias": 1}, "attention_bias", "true or false"),
        ("opt", {"word_embed_proj_dim": 0}, "word_embed_proj_dim", "at least 1"),
        ("bloom", {"num_attention_heads": 5}, "num_attention_heads", "does not divide"),
        ("t5", {"feed_forward_proj": "doubly-gated-gelu"}, "feed_forward_proj", "gated-gelu"),
        ("t5", {"feed_forward_proj": "gated-"}, "feed_forward_proj", "activation"),
        ("bert", {"is_decoder": True}, "is_decoder", "not modelled"),
        ("bert", {"num_hidden_layers": 10**9}, "num_hidden_layers", "10000"),
    ],
)  # fmt: skip
def test_a_mistake_names_field_line_and_remedy(
    kind: str, changes: dict[str, Any], field: str, said: str
) -> None:
    read = config(kind, **changes)
    with pytest.raises(InputError) as caught:
        BUILDERS[kind](read)
    assert said in caught.value.render()
    assert field in caught.value.render()
    line = read.line(field)
    if line:
        assert f"config.json:{line}" in caught.value.render()


def test_two_mistakes_come_together() -> None:
    with pytest.raises(InputErrors) as caught:
        build("mamba2", num_heads=24, n_groups=5, vocab_size=None)
    assert len(caught.value.errors) == 3


def test_layers_alternate_as_published() -> None:
    def kinds(name: str) -> Counter[str]:
        return Counter(layer.kind for layer in load_model(name).layers)

    assert kinds("gemma-2-2b") == {"swa+mlp": 13, "gqa+mlp": 13}
    assert kinds("gemma-3-27b") == {"swa+mlp": 52, "gqa+mlp": 10}
    assert kinds("mistral-7b-v0.1") == {"swa+mlp": 32}
    assert kinds("mistral-7b-v0.3") == {"gqa+mlp": 32}
    assert kinds("jamba-v0.1") == {"mamba+moe": 16, "mamba+mlp": 12, "gqa+mlp": 4}
    layers = load_model("jamba-v0.1").layers
    assert [layer.index for layer in layers if "gqa" in layer.kind] == [4, 12, 20, 28]


def test_window_bounds_the_cache() -> None:
    windowed, full = load_model("mistral-7b-v0.1"), load_model("mistral-7b-v0.3")
    a_token = 32 * 2 * 8 * 128 * 2
    assert full.kv_bytes(32_768) == 32_768 * a_token
    assert windowed.kv_bytes(32_768) == 4096 * a_token
    assert windowed.forward_flops_per_token(32_768) < full.forward_flops_per_token(32_768)


def test_state_of_recurrent_models_does_not_grow() -> None:
    mamba = load_model("mamba-2.8b")
    assert mamba.kv_bytes(100_000) == 0
    assert mamba.state_bytes(bytes_per_value=1) == 64 * 5120 * (16 + 3)
    mamba2 = load_model("mamba2-2.7b")
    assert mamba2.state_bytes(bytes_per_value=1) == 64 * (80 * 64 * 128 + 3 * (5120 + 256))


def test_scan_formulas() -> None:
    assert selective_scan_flops(10, 16) == 10 * (7 * 16 + 3)
    one = ssd_flops(heads=2, head_dim=8, state=16, groups=1, chunk=4)
    assert one == 2 * 4 * 16 + 2 * 4 * 16 + 4 * 16 * 16 + 2 * 16 * 16 / 4
    more = ssd_flops(heads=2, head_dim=8, state=16, groups=2, chunk=4)
    assert more - one == 2 * 4 * 16


def test_mamba_rank_is_rounded_up() -> None:
    step = next(op for op in build("mamba").operators if op.name == "ssm.step")
    assert step.in_features == 4
    assert build("mamba", time_step_rank="auto").parameters == build("mamba").parameters


def test_t5_has_two_stacks_and_says_what_a_token_is() -> None:
    model = build("t5", num_decoder_layers=3)
    assert [layer.role for layer in model.layers] == ["encoder"] * 2 + ["decoder"] * 3
    biases = [op for op in model.operators if op.name == "attn.position_bias"]
    assert [op.parameters for op in biases] == [32 * 4] * 2
    crossing = [op.attention for op in model.operators if op.attention and op.attention.cross]
    assert len(crossing) == 3
    # Cached: the decoder's own keys and values, and those it made of the encoder's output.
    assert model.kv_bytes_per_token(bytes_per_value=1) == 2 * 3 * (2 * 64)
    assert any("equally long" in note for note in model.notes)


def test_t5_v1_1_owns_its_output_projection() -> None:
    model = load_model("t5-v1.1-base")
    assert not model.tied_embeddings
    assert model.parameters == 247_577_856


def test_bert_counts_its_pre_training_heads() -> None:
    model = build("bert")
    names = {op.name: op.parameters for op in model.head}
    assert names["head.pooler"] == 64 * 65
    assert names["head.next_sentence"] == 2 * 65
    assert names["head.lm"] == 100
    assert any("BertForPreTraining" in note for note in model.notes)
    assert model.kv_bytes(512) == 0
    bidirectional = [op.attention for op in model.operators if op.attention]
    assert not any(a.causal for a in bidirectional)


def test_opt_350m_embeds_narrow() -> None:
    names = {op.name: op for op in load_model("opt-350m").operators}
    assert names["embed.tokens"].out_features == 512
    assert names["embed.project"].parameters == names["head.project"].parameters == 512 * 1024
    assert names["embed.positions"].parameters == 2050 * 1024
    assert "head.norm" not in names


def test_gemma3_multimodal_config_is_read_as_its_language_model() -> None:
    model = load_model("gemma-3-4b")
    assert [part.what for part in model.left_out] == ["vision tower"]
    assert model.parameters == 3_880_263_168
    text = SMALL["gemma3_text"] | {"model_type": "gemma3_text"}
    both = {"model_type": "gemma3", "text_config": text}
    inner = BUILDERS["gemma3"](HFConfig(json.dumps(both), "config.json"))
    assert inner.parameters == build("gemma3_text").parameters
    assert inner.vocab == 262_208
