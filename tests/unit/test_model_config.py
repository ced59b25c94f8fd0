"""A config's mistakes: all at once, with lines, and never a traceback."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from weftline.errors import InputError, InputErrors, UnknownNameError
from weftline.model import load_model
from weftline.model.config import MAX_CONFIG_BYTES, HFConfig

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 100,
}


def write(tmp_path: Path, fields: dict[str, Any] | str) -> Path:
    path = tmp_path / "config.json"
    path.write_text(fields if isinstance(fields, str) else json.dumps(fields, indent=1))
    return path


def mistakes(tmp_path: Path, fields: dict[str, Any] | str) -> list[str]:
    """Every mistake as text, with ``config.json:LINE`` in front."""
    path = write(tmp_path, fields)
    with pytest.raises(InputError) as caught:
        load_model(path)
    error = caught.value
    errors = error.errors if isinstance(error, InputErrors) else (error,)
    return [str(e).replace(f"{tmp_path}/", "") for e in errors]


def test_a_good_config_loads(tmp_path: Path) -> None:
    model = load_model(write(tmp_path, LLAMA))
    assert model.name == tmp_path.name
    assert model.parameters == 2 * (64 * 128 + 64 * 64 + 3 * 64 * 128 + 2 * 64) + 2 * 6400 + 64
    assert load_model(tmp_path) == model


def test_all_mistakes_at_once_with_their_lines(tmp_path: Path) -> None:
    fields = LLAMA | {"hidden_size": 66, "num_key_value_heads": 3, "vocab_size": -1}
    del fields["intermediate_size"]
    fields["intermediate_sise"] = 12
    said = mistakes(tmp_path, fields)
    assert len(said) == 4
    assert said[0].startswith("config.json:7: field `vocab_size` is -1: a whole number")
    assert "field `intermediate_size` is missing" in said[1]
    assert "did you mean `intermediate_sise`?" in said[1]
    assert said[2].startswith("config.json:3: `hidden_size` 66 does not divide")
    assert said[3].startswith("config.json:6: `num_attention_heads` 4 does not divide")


@pytest.mark.parametrize("value", [0, -4, 4.5, "4", True, [4], {"n": 4}, 2**40, None])
def test_sizes_are_positive_whole_numbers(tmp_path: Path, value: Any) -> None:
    said = mistakes(tmp_path, LLAMA | {"num_hidden_layers": value})
    assert len(said) == 1
    assert "num_hidden_layers" in said[0]
    assert value is None or said[0].startswith("config.json:5:")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"tie_word_embeddings": "yes"}, "true or false is needed"),
        ({"model_type": "lama"}, "did you mean `llama`"),
        ({"model_type": None}, "`model_type` is missing"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, changes: dict[str, Any], text: str) -> None:
    assert text in "\n".join(mistakes(tmp_path, LLAMA | changes))


def test_contradictions_of_experts_and_layers(tmp_path: Path) -> None:
    fields = LLAMA | {
        "model_type": "gpt_oss",
        "num_local_experts": 4,
        "num_experts_per_tok": 8,
        "layer_types": ["full_attention", "sliding_attention", "slinding_attention"],
    }
    said = "\n".join(mistakes(tmp_path, fields))
    assert "`num_experts_per_tok` 8 exceeds `num_local_experts` 4" in said
    assert "`layer_types` has 3 entries, the model has 2 layers" in said
    fields["layer_types"] = ["full_attention", "slidin_attention"]
    said = "\n".join(mistakes(tmp_path, fields))
    assert "did you mean `sliding_attention`?" in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not valid JSON"),
        ('{"a": 1,\n"b": }', "config.json:2: not valid JSON"),
        ("[1, 2]", "holds no JSON object"),
        ('{"a": 1, "a": 2}', "field `a` stands twice"),
        ("[" * 200_000, "nested too deeply"),
        ('{"a": ' + "9" * 5000 + "}", "too long to be a size"),
    ],
)
def test_files_that_are_no_config(tmp_path: Path, text: str, said: str) -> None:
    assert said in mistakes(tmp_path, text)[0]


def test_large_binary_and_missing_files(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(b"{" + b" " * MAX_CONFIG_BYTES)
    with pytest.raises(InputError, match="larger than 8 MiB"):
        load_model(path)
    path.write_bytes(b"\x80\x04\x95pickle")
    with pytest.raises(InputError, match="not UTF-8"):
        load_model(path)
    with pytest.raises(InputError, match="does not exist"):
        load_model(tmp_path / "other.json")
    path.unlink()
    with pytest.raises(InputError, match="cannot be read"):
        load_model(tmp_path)


def test_the_text_part_is_read_and_its_lines_found(tmp_path: Path) -> None:
    text = LLAMA | {"model_type": "qwen3_vl_text", "head_dim": 16}
    fields = {"hidden_size": 64, "vision_config": {"hidden_size": 7}, "text_config": text}
    model = load_model(write(tmp_path, fields | {"model_type": "qwen3_vl"}))
    assert model.hidden == 64
    assert [str(part) for part in model.left_out] == ["vision tower, size not known, not counted"]
    text["hidden_size"] = 0
    said = mistakes(tmp_path, fields | {"model_type": "qwen3_vl"})
    assert said[0].startswith("config.json:8:")


def test_remote_code_is_never_looked_at(tmp_path: Path) -> None:
    fields = LLAMA | {"auto_map": {"AutoConfig": "evil.Config"}, "trust_remote_code": True}
    (tmp_path / "evil.py").write_text("raise SystemExit(3)")
    assert load_model(write(tmp_path, fields)).parameters > 0


def test_accessors_read_aliases_and_defaults() -> None:
    config = HFConfig('{"n_layer": 3, "eps": 1, "flag": false, "kinds": null}', "c.json")
    assert config.layers("num_hidden_layers", "n_layer") == 3
    assert config.int_or("absent", 7) == 7
    assert config.optional_int("absent") is None
    assert config.float_or("eps", 2.0) == 1.0
    assert config.bool_or("flag", True) is False
    assert config.list_or("kinds", [1]) == [1]
    assert config.str_or("absent", "a") == "a"
    config.check()
    assert config.float_or("flag", 0.5) == 0.5
    assert config.str_or("eps", "x", allowed=("x", "y")) == "x"
    assert config.list_or("n_layer", [1]) == [1]
    assert config.indices("n_layer", 2) == frozenset()
    with pytest.raises(InputErrors) as caught:
        config.check()
    assert len(caught.value.errors) == 3  # that `n_layer` is no list was found twice
    assert "one of x, y is needed" in str(caught.value)


@pytest.mark.parametrize("name", ["lama-3.1-8b", "x" * 5000, "bad\0name", ""])
def test_unknown_names(name: str) -> None:
    with pytest.raises(InputError) as caught:
        load_model(name)
    if name.startswith("lama"):
        assert isinstance(caught.value, UnknownNameError)
        assert "`llama-3.1-8b`" in str(caught.value)
