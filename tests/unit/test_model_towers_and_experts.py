"""Models in two towers, experts that a text never meets, and what stands beside experts."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import weftline.model
from weftline.errors import InputError, InputErrors
from weftline.model import Model, load_model
from weftline.model.config import HFConfig
from weftline.model.load import load_config

CONFIGS = Path(weftline.model.__file__).with_name("configs")


def fields_of(file: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((CONFIGS / file).read_text(encoding="utf-8"))
    return found


def built(fields: dict[str, Any]) -> Model:
    return load_config(HFConfig(json.dumps(fields, indent=1), "config.json"))


# -- two towers ---------------------------------------------------------------------------------

CLIP = "openai--clip-vit-large-patch14.json"


def test_clip_is_both_towers_and_what_joins_them() -> None:
    fields = fields_of(CLIP)
    text, image = (built(fields[f"{side}_config"]) for side in ("text", "vision"))
    clip = load_model("openai/clip-vit-large-patch14")
    joined = 768 * 768 + 1024 * 768 + 1
    assert clip.parameters == text.parameters + image.parameters + joined
    assert clip.parameters == 427_616_513  # as published
    assert len(clip.layers) == 12 + 24
    assert [layer.index for layer in clip.layers] == list(range(36))
    assert clip.left_out == ()
    assert (clip.max_seq_len, text.max_seq_len) == (257, 77)
    assert clip.kv_bytes_per_token() == 0
    ours, theirs = (m.forward_flops_per_token(64) for m in (clip, text))
    assert ours == pytest.approx(
        theirs + image.forward_flops_per_token(64) + 2 * (768 * 768 + 1024 * 768)
    )


def test_a_text_tower_looks_back_only_and_an_image_both_ways() -> None:
    clip = load_model("clip-vit-l-14")
    kinds = [op.attention.causal for layer in clip.layers for op in layer.operators if op.attention]
    assert kinds == [True] * 12 + [False] * 24


def test_mistakes_in_either_tower_are_named_together_with_their_lines() -> None:
    fields = fields_of(CLIP)
    fields["text_config"]["num_attention_heads"] = 7
    fields["vision_config"]["num_attention_heads"] = 5
    fields["projection_dim"] = "wide"
    expected = {
        "`hidden_size` 768, `num_attention_heads` 7": line_of(fields, '"num_attention_heads": 7'),
        "`hidden_size` 1024 does not divide": line_of(fields, '"hidden_size": 1024'),
        "field `projection_dim` is": line_of(fields, '"projection_dim": "wide"'),
    }
    assert lines_blamed(fields, *expected) == expected


def test_a_field_of_either_tower_that_is_not_read_is_refused() -> None:
    fields = fields_of(CLIP)
    fields["text_config"]["windows"] = 7
    fields["vision_config"]["registers"] = 4
    fields["depth"] = 3
    expected = {
        f"field `{key}` may carry a shape": line_of(fields, f'"{key}"')
        for key in ("windows", "registers", "depth")
    }
    assert lines_blamed(fields, *expected) == expected


def line_of(fields: dict[str, Any], text: str) -> int:
    (at,) = [n for n, s in enumerate(json.dumps(fields, indent=1).split("\n"), 1) if text in s]
    return at


def lines_blamed(fields: dict[str, Any], *starts: str) -> dict[str, int]:
    """The line that is named with each of the mistakes, which are all there are."""
    with pytest.raises(InputErrors) as raised:
        built(fields)
    found = re.findall(r"config\.json:(\d+): (.*)", str(raised.value))
    assert len(found) == len(starts), found
    return {s: int(line) for s in starts for line, what in found if what.startswith(s)}


def test_a_section_that_old_files_state_twice_must_say_the_same() -> None:
    fields = fields_of(CLIP)
    fields["text_config_dict"] = {"hidden_size": 768, "num_hidden_layers": 12}
    fields["vision_config_dict"] = {"patch_size": 14, "dropout": 0.1}
    assert built(fields).parameters == 427_616_513
    fields["vision_config_dict"]["patch_size"] = 32
    with pytest.raises(InputError, match=r"vision_config_dict\.patch_size` 32 is not that of"):
        built(fields)


# -- experts ------------------------------------------------------------------------------------

ERNIE: dict[str, Any] = {
    "model_type": "ernie4_5_vl_moe",
    "text_config": {
        "model_type": "ernie4_5_vl_moe_text", "hidden_size": 256, "intermediate_size": 512,
        "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
        "vocab_size": 1000, "moe_num_experts": 8, "moe_k": 2, "moe_num_shared_experts": 1,
        "moe_intermediate_size": [128, 64],
    },
}  # fmt: skip


def test_image_experts_are_held_and_do_nothing_for_a_text() -> None:
    wider = json.loads(json.dumps(ERNIE))
    wider["text_config"]["moe_intermediate_size"] = [128, 96]
    narrow, wide = built(ERNIE), built(wider)
    more = 2 * 8 * 3 * 256 * (96 - 64)  # layers, experts, matrices of each
    assert wide.parameters - narrow.parameters == more
    assert sum(layer.expert_parameters for layer in wide.layers) - more == sum(
        layer.expert_parameters for layer in narrow.layers
    )
    assert wide.active_parameters == narrow.active_parameters
    assert wide.forward_flops_per_token(100) == narrow.forward_flops_per_token(100)
    assert any("image tokens" in note for note in wide.notes)


@pytest.mark.parametrize("widths", [[128], [128, 0], [128, "64"], 128])
def test_two_widths_are_needed(widths: Any) -> None:
    wrong = json.loads(json.dumps(ERNIE))
    wrong["text_config"]["moe_intermediate_size"] = widths
    with pytest.raises(InputError, match="moe_intermediate_size"):
        built(wrong)


def test_arctic_is_a_dense_model_and_experts_beside_it() -> None:
    """Published: a 10B dense model with 128 x 3.66B of experts, 480B in all, 17B active."""
    arctic = load_model("Snowflake/snowflake-arctic-instruct")
    routed = sum(layer.expert_parameters for layer in arctic.layers)
    assert routed == 35 * 128 * 3 * 7168 * 4864
    assert routed / 128 == pytest.approx(3.66e9, rel=0.001)
    assert arctic.parameters - routed == pytest.approx(10e9, rel=0.01)
    assert arctic.parameters == pytest.approx(480e9, rel=0.005)
    assert arctic.active_parameters == pytest.approx(17e9, rel=0.02)


def test_arctic_without_what_stands_beside_and_with_dense_layers() -> None:
    fields = fields_of("Snowflake--snowflake-arctic-instruct.json")
    del fields["use_residual"]
    whole = built(fields)
    bare = built(fields | {"parallel_attn_mlp_res": False})
    assert whole.parameters - bare.parameters == 35 * (3 * 7168**2 + 7168)
    every_other = built(fields | {"moe_layer_frequency": 2})
    assert [layer.kind for layer in every_other.layers[:4]] == ["gqa+mlp", "gqa+moe"] * 2
    with pytest.raises(InputError, match="name the same and differ"):
        built(fields | {"use_residual": False})


def test_the_experts_of_attention_bring_a_query_each_for_every_key() -> None:
    fields = {
        "model_type": "jetmoe", "hidden_size": 64, "num_hidden_layers": 1, "vocab_size": 100,
        "num_key_value_heads": 2, "kv_channels": 16, "intermediate_size": 32,
        "num_local_experts": 8, "num_experts_per_tok": 2,
    }  # fmt: skip
    model = built(fields)
    ops = {op.name: op for op in model.layers[0].operators}
    assert ops["attn.q"].parameters == ops["attn.out"].parameters == 8 * 64 * 32
    assert ops["attn.q"].active == 2 * 64 * 32
    core = ops["attn.core"].attention
    assert core is not None
    assert (core.heads, core.kv_heads) == (4, 2)
    assert model.kv_bytes_per_token() == 2 * 2 * 2 * 16
    with pytest.raises(InputError, match="`num_attention_heads` 2 is not"):
        built(fields | {"num_attention_heads": 2})
