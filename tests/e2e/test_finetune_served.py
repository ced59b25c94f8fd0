"""From a folder of weights to a served model of one's own: adapters trained, found, and asked for.

WEFTLINE_DEMO_MODEL names a real folder (`make serve-demo` writes one); else a tiny random model.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import httpx2
import machines
import pytest
import torch
from commands import weftline
from runs import own_text
from served_process import Served, served
from tiny_models import tiny_folder

transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    said = os.environ.get("WEFTLINE_DEMO_MODEL")
    return Path(said) if said else Path(tiny_folder(tmp_path_factory.mktemp("base")))


@pytest.fixture(scope="module")
def tuned(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that has trained adapters beside the base."""
    folder = tmp_path_factory.mktemp("tuned")
    text = folder / "text.txt"
    words = own_text().decode().split()
    # The tiny model's words are w0 to w123: each word of the licence as one of them.
    text.write_text("\n".join(" ".join(f"w{len(w)} {w}" for w in words[i : i + 40])
                              for i in range(0, len(words), 40)))  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        machines.written(folder / "catalogue", patch)
        weftline("prepare", text, "-o", folder / "data", "--tokenizer", base)
        weftline("plan", "train", base, "--tune", "lora", "--rank", 8, "--tokens", "4k", "--seq",
                 64, "--global-batch", 4, "--on", "here", "--chips", 2, "-o",
                 folder / "plan.json")  # fmt: skip
        weftline("train", folder / "plan.json", "--data", folder / "data", "--weights", base, "-o",
                 folder / "run", "--lr", "5e-3", "--dtype", "fp32", "--steps", 8)  # fmt: skip
    return folder / "run"


@pytest.mark.filterwarnings("ignore::FutureWarning")  # peft asks transformers by an old name
def test_what_is_served_is_what_peft_makes_of_the_run(base: Path, tuned: Path) -> None:
    """Tokens and their log probabilities over HTTP, beside peft's own module, unmerged."""
    model = tuned / "model"
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(base)
    whole: Any = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    prompt = "w3 w7 w2 w9 w4"
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    with torch.no_grad():
        plain = whole(ids).logits[0, -1].log_softmax(-1)
        wanted = peft.PeftModel.from_pretrained(whole, str(model)).eval()
        for _ in range(6):
            logits = wanted(ids).logits[0, -1]
            ids = torch.cat([ids, logits.argmax()[None, None]], 1)
        scores = wanted(ids).logits[0].log_softmax(-1)
    new = ids[0, -6:]
    kept = [float(scores[ids.shape[1] - 7 + i, token]) for i, token in enumerate(new)]
    assert abs(float(plain[new[0]]) - kept[0]) > 0.01  # the adapters do something
    with served(model, "--kv-memory", "64MB") as server:
        said = _completed(server, prompt, 6)
        code, _ = server.end(signal.SIGTERM)
    assert code == 0
    assert said["logprobs"]["token_logprobs"] == pytest.approx(kept, abs=1e-3)
    with served(base, "--kv-memory", "64MB", "--adapter", str(model)) as server:
        assert _completed(server, prompt, 6) == said


def _completed(server: Served, prompt: str, tokens: int) -> dict[str, Any]:
    asked = {"prompt": prompt, "max_tokens": tokens, "temperature": 0, "logprobs": 1,
             "ignore_eos": True}  # fmt: skip
    answer = httpx2.post(f"{server.url}/v1/completions", json=asked, timeout=60)
    found: dict[str, Any] = answer.raise_for_status().json()["choices"][0]
    return found
