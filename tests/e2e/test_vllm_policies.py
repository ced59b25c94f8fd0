"""vLLM itself under attention policies, in one process on a CPU: ``make test-vllm``.

The oracle is transformers' own module under an exact mask (:mod:`weftline.runtime.quality.attend`),
for policies whose keys are whole pages, so that both look at the same ones.
"""

from __future__ import annotations

import json
import os
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("WEFTLINE_ENGINES_PYTHON" not in os.environ, reason="make test-vllm"),
]
SCRIPT = Path(__file__).parents[1] / "support" / "vllm_policies.py"
LAYERS = 4
EXACT = (
    "dense", "topk=100%", "window=100000", "chunk=256", "chunk=256,dense=0-1",
    "topk=25%,floor=3,queries=64", "topk=3,score=mean,share=layer", "topk=2,queries=1",
    "window=1,sinks=1+topk=1,first=0,queries=32",
)  # fmt: skip
"""Chunks of the batch end between pieces of queries: a piece that is cut chooses twice."""
WORK_S = 1500


def engine(*words: str) -> list[dict[str, Any]]:
    done = subprocess.run([os.environ["WEFTLINE_ENGINES_PYTHON"], *words], capture_output=True,
                          text=True, check=False, timeout=WORK_S)  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first layers of SmolLM2-135M-Instruct, with its weights."""
    if "WEFTLINE_SMOLLM2_LAYERS" in os.environ:
        return Path(os.environ["WEFTLINE_SMOLLM2_LAYERS"])
    made = tmp_path_factory.mktemp("smollm2")
    write = (
        "import sys; from pathlib import Path; from weftline.runtime.gguf import *; "
        f"write_folder(smollm2_file(), Path(sys.argv[1]), layers={LAYERS})"
    )
    engine("-c", write, str(made))
    return made


@cache
def module(folder: Path) -> Any:
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def expected(folder: Path, ids: list[int], policy: str) -> list[float]:
    """Log probabilities of the prompt's tokens by transformers."""
    import torch

    from weftline.runtime.quality.attend import under
    from weftline.spec.attention_text import parse_policy

    model = module(folder)
    with torch.no_grad(), under(model, parse_policy(policy), prompt=len(ids)):
        logs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    return [float(logs[i, token]) for i, token in enumerate(ids[1:])]


def test_prompts_are_read_as_transformers_reads_them(folder: Path) -> None:
    """Three prompts in one batch, cut into chunks, a policy for every kind of rule."""
    rows = engine(str(SCRIPT), str(folder), "logprobs", "896", *EXACT)
    assert [row["policy"] for row in rows] == list(EXACT)
    dense = rows[0]
    for row in rows:
        off = [
            abs(a - b)
            for ids, told in zip(row["ids"], row["logprobs"], strict=True)
            for a, b in zip(expected(folder, ids, row["policy"]), told, strict=True)
        ]
        print(row["policy"], max(off))
        assert max(off) < 2e-3, row["policy"]
        whole = row["policy"] in EXACT[:3]
        assert (row["answers"] == dense["answers"]) or not whole
        assert whole or row["logprobs"] != dense["logprobs"]


def test_pages_from_the_prefix_cache_keep_their_summaries(folder: Path) -> None:
    """A prompt found in the cache answers as one that was computed."""
    policies = ("topk=25%,floor=3,queries=128", "topk=3,score=mean,share=layer", "chunk=256")
    for row in engine(str(SCRIPT), str(folder), "cache", "900", *policies):
        first, again = row["first"], row["again"]
        assert first["cached"] == 0
        assert again["cached"] >= 768, row["policy"]
        assert first["tokens"] == again["tokens"], row["policy"]
        off = [abs(a - b) for a, b in zip(first["logprobs"], again["logprobs"], strict=True)]
        assert max(off) < 1e-4, row["policy"]


def test_a_prompt_of_8k_is_forecast_and_40_percent_faster(folder: Path) -> None:
    """Rates from a dense prompt of 4k and one that is scored: all the rest is foretold."""
    from weftline.attention.forecast import PromptTime, prompt_s, rates_of, slowness
    from weftline.attention.speeds import fitted_rows
    from weftline.spec.attention_text import parse_policy

    policies = ("dense", "window=512,sinks=4", "window=2048,sinks=4",
                "topk=12.5%,block=128,floor=4", "topk=25%,block=128,floor=4")  # fmt: skip
    rows = engine(str(SCRIPT), str(folder), "speed", "4096,8192", *policies)
    times = [
        PromptTime(tokens=r["tokens"], total_s=r["ttft_cpu_s"],
                   attention_s=r["ttft_attention_cpu_s"], policy=parse_policy(r["policy"]))
        for r in rows
    ]  # fmt: skip
    known = fitted_rows(times)
    rates = rates_of(known, layers=rows[0]["layers"], page=rows[0]["page"])
    whole = next(t.total_s for t in times if t.tokens == 8192 and t.policy.is_dense)
    for t in times:
        if t.tokens < 4096 or t in known:
            continue
        # A shared machine's speed of that minute, by the products that no policy touches.
        said = prompt_s(rates, t.policy, t.tokens) * slowness(rates, t)
        print(t.tokens, t.policy.prefill, f"{said:.2f} for {t.total_s:.2f} s")
        assert said == pytest.approx(t.total_s, rel=0.15)
        if t.tokens == 8192 and t.policy.prefill == parse_policy("window=512,sinks=4").prefill:
            assert t.total_s <= 0.6 * whole
