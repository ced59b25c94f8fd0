"""Names, ``gpt:`` numbers, and what a loaded model answers."""

from __future__ import annotations

import subprocess
import sys
import time
from itertools import pairwise

import pytest

from weftline.errors import InputError, InputErrors
from weftline.model import bundled_models, load_model
from weftline.model.families import BUILDERS, REFUSED


@pytest.mark.parametrize("name", bundled_models())
def test_every_bundled_model_loads_and_adds_up(name: str) -> None:
    model = load_model(name)
    assert model.name == name
    assert model.parameters >= model.active_parameters > 0
    assert [layer.index for layer in model.layers] == list(range(len(model.layers)))
    names = [op.name for op in model.head]
    assert "head.lm" in names or model.vocab == 0
    assert model.forward_flops_per_token(512) <= model.forward_flops_per_token(512, masked=False)
    assert all(op.parameters >= op.active >= 0 for op in model.operators)


@pytest.mark.parametrize("name", bundled_models())
def test_stages_hold_every_parameter_once(name: str) -> None:
    model = load_model(name)
    count = len(model.layers)
    cuts = [0, count // 3, count // 2, count]
    stages = [model.stage_parameters(a, b) for a, b in pairwise(cuts)]
    copied = model.vocab * model.hidden if model.tied_embeddings and cuts[1] > 0 else 0
    assert sum(stages) == model.parameters + copied
    assert model.stage_parameters(0, count) == model.parameters


def test_names_are_found_in_any_case_and_by_repository() -> None:
    model = load_model("llama-3.1-70b")
    assert load_model("Llama-3.1-70B") is model
    assert load_model("meta-llama/Meta-Llama-3.1-70B") is model
    assert load_model(" meta-llama-3.1-70b ") is model
    assert model.source == "meta-llama/Meta-Llama-3.1-70B"
    assert len(bundled_models()) >= 55
    assert not set(REFUSED) & set(BUILDERS)


def test_known_caches_a_token() -> None:
    assert load_model("llama-3.1-8b").kv_bytes_per_token() == 131072
    assert load_model("deepseek-v3").kv_bytes_per_token() == 61 * 576 * 2
    assert load_model("llama-3.1-8b").kv_bytes(1000) == 131_072_000
    gpt_oss = load_model("gpt-oss-20b")  # half the layers keep 128 tokens
    assert gpt_oss.kv_bytes(1000) == 12 * (1000 + 128) * 2 * 8 * 64 * 2
    assert load_model("qwen3.5-27b").state_bytes() > 0


def test_published_flops_a_token() -> None:
    """GPT-3's 96 layers by the Megatron-LM paper's formula, with its vocabulary and sequence."""
    layers, hidden, seq_len, vocab = 96, 12288, 2048, 51200
    formula = (
        72 * layers * hidden**2 * (1 + seq_len / (6 * hidden) + vocab / (12 * layers * hidden))
    )  # a token, without the activation recomputation that the paper adds
    assert load_model("gpt3-175b").training_flops_per_token(seq_len) == pytest.approx(formula)


def test_gpt_by_numbers() -> None:
    spec = "gpt:layers=96,hidden=12288,heads=96,ffn=49152,vocab=51200,seq=2048"
    assert load_model(spec).parameters == load_model("gpt3-175b").parameters
    assert load_model("gpt:layers=96,hidden=12288").parameters == 174_615_846_912
    llama = load_model(
        "gpt:layers=32,hidden=4096,heads=32,kv_heads=8,ffn=14336,vocab=128256,gated=true,"
        "positions=rope,tied=false,bias=false,norm=rms"
    )
    assert llama.parameters == load_model("llama-3.1-8b").parameters
    sparse = load_model("gpt:layers=2,hidden=256,experts=8,top_k=2,vocab=1_000")
    assert sparse.experts == 8
    assert sparse.active_parameters < sparse.parameters


def test_gpt_mistakes_come_together() -> None:
    with pytest.raises(InputErrors) as caught:
        load_model("gpt:layer=3,hidden=100,heads=7,vocab=x,vocab=1,gated=maybe,top_k=3,seq")
    text = str(caught.value)
    for part in (
        "unknown key `layer`", "did you mean `layers`", "`layers` is missing",
        "`vocab` stands twice",
        "`gated=maybe`: true or false", "does not divide by `heads=7`", "`top_k` needs `experts`",
        "`seq` has no value",
    ):  # fmt: skip
        assert part in text


@pytest.mark.parametrize(
    "spec",
    ["gpt:", "gpt:layers=0,hidden=64", "gpt:layers=99999999,hidden=64", "gpt:layers=2,hidden=1e3",
     "gpt:layers=2,hidden=-64", "gpt:layers=2,hidden=64,positions=alibi",
     "gpt:layers=2,hidden=128,heads=4,kv_heads=3", "gpt:layers=2,hidden=64,experts=2,top_k=3"],
)  # fmt: skip
def test_gpt_refuses_what_cannot_be(spec: str) -> None:
    with pytest.raises(InputError):
        load_model(spec)


def test_loading_is_light_and_fast() -> None:
    code = (
        "import sys, weftline.model; "
        "heavy = {'torch', 'transformers', 'numpy', 'yaml', 'pydantic'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    load_model("llama-3.1-8b")
    from weftline.model.load import _bundled

    _bundled.cache_clear()
    start = time.perf_counter()
    load_model("nemotron-super-49b")
    assert time.perf_counter() - start < 0.2  # 2 ms where it was written
