"""Rows of quality kept and quoted, and prompts foretold from an engine's dense ones."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_models import tiny

from weftline.attention.forecast import PromptTime, prompt_s, rates_of, slowness, step_s
from weftline.attention.quality import keep_rows, policy_remarks, quality_rows
from weftline.attention.speeds import read_times, with_speeds
from weftline.catalog.machines import CONFIG_DIR_VARIABLE
from weftline.errors import InputError
from weftline.model import load_model
from weftline.report.quality import quality_markdown, render_quality
from weftline.runtime.quality import timed_here
from weftline.serve.engine.engines import serves_policy
from weftline.spec.attention import AttentionPolicy
from weftline.spec.attention_text import parse_policy
from weftline.spec.quality import QualityRow

DENSE = QualityRow(
    model="llama-3.1-8b", policy="dense", density=1.0, tokens=2048, texts=2, perplexity=10.0,
    needles_found=14, needles=16, digits_found=0.9, kl_nats=0.0, logprob_difference=0.0,
    same_choice=1.0, seed=0, date="2026-11-30",
)  # fmt: skip
WINDOW = replace(DENSE, policy="window=512,sinks=4", density=0.4, perplexity=11.0, needles_found=3)


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CONFIG_DIR_VARIABLE, str(tmp_path / "config"))


def test_a_plan_quotes_what_was_measured_of_its_policy() -> None:
    model = load_model("llama-3.1-8b")
    said = policy_remarks(model, WINDOW.policy, context=8192)
    assert "32 of 32 layers" in said[0]
    assert "unmeasured" in said[1]
    keep_rows([DENSE, replace(WINDOW, perplexity=99.0)])
    keep_rows([WINDOW])  # in the place of the one before
    assert len(quality_rows("meta-llama/Llama-3.1-8B")) == 2
    said = policy_remarks(model, WINDOW.policy, context=8192)
    assert "perplexity +10%" in said[1]
    assert "3 of 16 needles (14 under full attention)" in said[1]
    assert policy_remarks(model, "", context=8192) == ()
    assert "unmeasured" in policy_remarks(model, "chunk=64", context=8192)[1]


def test_rows_are_shown_beside_full_attention() -> None:
    rows = (DENSE, replace(WINDOW, predicted_speed=1.7, measured_speed=1.66, measured_with="x"))
    for text in (render_quality(rows), quality_markdown(rows)):
        for part in ("window=512,sinks=4", "11.00 (+10%)", "3 of 16", "1.70x", "1.66x", "40.0%"):
            assert part in text


def test_a_prompt_is_foretold_from_an_engine_that_keeps_the_rule() -> None:
    """Times made from known rates are met exactly, whatever is timed."""

    def took(policy: str, tokens: int) -> PromptTime:
        parsed = parse_policy(policy)
        whole = tokens * (tokens + 1) / 2
        pages = [min(b + 1, 6) for b in range(tokens // 128)]
        kept = whole if parsed.is_dense else sum((p - 1) * 128**2 + 128 * 129 / 2 for p in pages)
        attention = 2e-8 * 4 * kept
        return PromptTime(tokens=tokens, total_s=attention + 1e-4 * tokens, attention_s=attention,
                          policy=parsed)  # fmt: skip

    rates = rates_of([took("dense", 1024), took("dense", 2048)], layers=4, page=128)
    for policy, tokens in (("dense", 8192), ("window=512,sinks=4", 4096)):
        expected = took(policy, tokens)
        assert prompt_s(rates, expected.policy, tokens) == pytest.approx(expected.total_s)
        assert slowness(rates, expected) == pytest.approx(1.0)
    mixed = parse_policy("window=512,sinks=4,dense=0-1")
    assert prompt_s(rates, mixed, 4096) == pytest.approx(
        (took("dense", 4096).total_s + took("window=512,sinks=4", 4096).total_s) / 2
    )


def test_a_token_is_foretold_from_steps_after_dense_prompts() -> None:
    """Steps made from known rates are met exactly: keys read, layers, and choosing."""

    def took(policy: str, tokens: int, keys: float, choosing: float = 0.0) -> PromptTime:
        inside = 4 * (2e-4 + choosing) + 3e-8 * 4 * keys
        return PromptTime(tokens=tokens, total_s=1.0, attention_s=0.5, policy=parse_policy(policy),
                          step_s=inside + 5e-3, step_attention_s=inside)  # fmt: skip

    topk = "topk=4,block=128"
    rates = rates_of([took("dense", 1024, 1025), took("dense", 2048, 2049),
                      took(topk, 2048, 3 * 128 + 1, 1e-3)], layers=4, page=128)  # fmt: skip
    for made in (took("dense", 8192, 8193), took("window=512,sinks=4", 8192, 5 * 128 + 1),
                 took(topk, 8192, 3 * 128 + 1, 1e-3)):  # fmt: skip
        assert step_s(rates, made.policy, made.tokens) == pytest.approx(made.step_s, rel=1e-6)


def test_prompts_are_timed_here_under_the_policies_that_pages_serve() -> None:
    """Every policy but merged entries, in pages that the smallest block is made of."""
    texts = ("dense", "window=64,sinks=4", "topk=25%,block=32,floor=2", "compress=4,local=64")
    policies = [parse_policy(text) for text in texts]
    timed = timed_here(tiny("llama"), policies, 512)
    known = [(row.policy, row.tokens) for row in timed.fitted]
    assert known == [(policies[0], 128), (policies[0], 256), (policies[2], 256)]
    assert timed.rates.page == 32
    for policy in policies[:3]:
        assert min(timed.seconds(policy, 512) or 0, timed.step(policy, 512) or 0) > 0
    assert timed.seconds(policies[3], 512) is None
    with pytest.raises(InputError, match="can be timed"):
        timed_here(tiny("llama"), policies, 100_000)


def test_speeds_stand_beside_quality(tmp_path: Path) -> None:
    rows = [
        {"tokens": n, "policy": p, "layers": 4, "page": 128, "about": "made",
         "ttft_cpu_s": total, "ttft_attention_cpu_s": attention}
        for n, p, total, attention in (
            (4096, "dense", 3.0, 1.0), (8192, "dense", 8.0, 4.0),
            (8192, "window=512,sinks=4", 5.0, 0.7),
        )
    ]  # fmt: skip
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    dense, window = with_speeds((DENSE, WINDOW), read_times(file))
    assert dense.predicted_speed == dense.measured_speed == 1.0
    assert window.measured_speed == pytest.approx(1.6)
    assert window.predicted_speed == pytest.approx(8.0 / (4.0 + 4.0 * 0.165), rel=0.01)
    assert read_times(file).seconds(AttentionPolicy(), 4096) == 3.0
    for text, said in (("", "not rows"), ('{"tokens": 1}', "not rows"),
                       (json.dumps(rows[2]), "full attention")):  # fmt: skip
        file.write_text(text)
        with pytest.raises(InputError, match=said):
            read_times(file)


@pytest.mark.parametrize(("policy", "engines"), [
    ("", ["vllm", "sglang", "trtllm"]), ("window=512,sinks=4", ["vllm"]), ("topk=10%", ["vllm"]),
    ("window=512,kv=free", ["trtllm"]), ("chunk=9,kv=free", []), ("compress=4", []),
])  # fmt: skip
def test_engines_serve_the_policies_they_can(policy: str, engines: list[str]) -> None:
    assert [e for e in ("vllm", "sglang", "trtllm") if serves_policy(e, policy)] == engines
