"""Models at the command line: listed, counted by transformers, taken as a plain stack, honest."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import Say

from weftline.model import bundled_models

TINY = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2,
        "num_attention_heads": 4, "vocab_size": 1000}  # fmt: skip


def config(folder: Path, **fields: object) -> str:
    (folder / "config.json").write_text(json.dumps(TINY | fields))
    return str(folder)


def test_the_list_has_every_bundled_model(say: Say) -> None:
    code, out, _ = say("catalog", "list", "models")
    assert code == 0
    assert max(len(line) for line in out.splitlines()) <= 80
    assert "Licences as the model cards state them" in " ".join(out.split())
    code, out, _ = say("catalog", "list", "models", "--json")
    rows = json.loads(out)["rows"]
    assert [row["id"] for row in rows] == list(bundled_models())
    by_id = {row["id"]: row for row in rows}
    assert by_id["llama-3.1-8b"]["attention"] == "GQA"
    assert by_id["deepseek-v3"]["attention"] == "MLA"
    assert by_id["qwen2.5-7b"]["licence"] == "Apache-2.0"
    assert all(row["source"] and row["parameters"] > 0 for row in rows)
    code, out, _ = say("catalog", "list", "models", "--vendor", "mistralai", "--json")
    assert {row["repository"].partition("/")[0] for row in json.loads(out)["rows"]} == {"mistralai"}


def test_a_tower_is_named_in_every_answer(say: Say, tmp_path: Path) -> None:
    said = "vision tower, 0.4B parameters, not counted"
    for words in (("plan", "train", "qwen3-vl-4b", "--tokens", "10B", "--max-chips", "8"),
                  ("plan", "serve", "qwen3-vl-4b", "--rate", "2/s")):  # fmt: skip
        file = tmp_path / f"{words[1]}.json"
        code, out, _ = say(*words, "--on", "h100", "-o", str(file))
        assert code == 0
        assert said in " ".join(out.split())
        assert said in json.loads(file.read_text())["model_notes"]
        code, out, _ = say("explain", str(file))
        assert said in " ".join(out.split())
        code, out, _ = say("explain", str(file), "--json")
        assert said in json.loads(out)["model_notes"]


def test_an_unknown_type_is_planned_only_when_asked(say: Say, tmp_path: Path) -> None:
    folder = config(tmp_path, model_type="rwkv")
    asked = ("plan", "train", folder, "--tokens", "1B", "--on", "h100", "--chips", "8")
    code, _, err = say(*asked)
    assert code == 2
    assert "`rwkv` is not known" in err
    assert "--as llama" in err
    code, out, _ = say(*asked, "--as", "llama")
    assert code == 0
    assert "`rwkv` taken as a plain Llama stack, as asked" in " ".join(out.split())
    code, _, err = say(*asked, "--as", "mamba")
    assert (code, "cannot take a model as `mamba`" in err) == (2, True)


@pytest.mark.filterwarnings("ignore")
def test_a_count_by_transformers_stands_beside_ours(say: Say, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    code, out, _ = say("model", "count", config(tmp_path, model_type="llama"))
    assert code == 0
    assert "LlamaForCausalLM of transformers" in out
    assert "weftline counts the same" in out
    code, out, _ = say("model", "count", config(tmp_path, model_type="rwkv"), "--json")
    answer = json.loads(out)
    assert answer["model_class"] == "RwkvForCausalLM"
    assert answer["parameters"] > 0
    assert answer["planned_parameters"] is None
    code, out, _ = say("model", "count", "Qwen/Qwen2.5-0.5B-Instruct", "--json")
    answer = json.loads(out)
    assert (code, answer["parameters"]) == (0, answer["planned_parameters"])
    code, _, err = say("model", "count", config(tmp_path, model_type="nothing"))
    assert (code, "does not know the model type `nothing`" in err) == (2, True)


@pytest.mark.parametrize("name", ["bert-base", "flux.1-dev", "mamba-130m"])
def test_what_an_engine_cannot_serve_is_refused(say: Say, name: str) -> None:
    code, _, err = say("plan", "serve", name, "--on", "h100", "--rate", "1/s")
    assert code == 2
    assert f"`{name}` " in err


def test_quantised_weights_are_served_in_their_format(say: Say) -> None:
    asked = ("plan", "serve", "deepseek-r1", "--on", "h200", "--rate", "1/s", "--json")
    code, out, _ = say(*asked)
    assert code == 0
    assert json.loads(out)["fleet"]["weights"].startswith("fp8_block")
    code, out, _ = say("memory", "qwen3-32b-fp8", "--serve", "--on", "h100", "--json")
    need = json.loads(out)["needs"][0]
    assert need["how"].startswith("weights in fp8,")
    assert need["parts"][0]["value"] < 1.1 * 32.8e9


def test_memory_says_what_it_takes_a_model_as(say: Say, tmp_path: Path) -> None:
    _, out, _ = say("memory", "Qwen/Qwen2.5-VL-7B-Instruct", "--serve", "--on", "h100")
    assert "vision tower, 0.7B parameters, not counted" in " ".join(out.split())
    file = config(tmp_path, model_type="rwkv")
    code, out, _ = say("memory", file, "--as", "llama", "--train", "--on", "h100")
    assert (code, "`rwkv` taken as a plain Llama stack" in " ".join(out.split())) == (0, True)
