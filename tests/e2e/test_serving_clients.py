"""Clients that others wrote, run against the own server: ``make test-clients``.

$WEFTLINE_CLIENTS is a folder of environments, each with one client (they do not install beside each
other); $WEFTLINE_ENGINES_PYTHON, if set, an interpreter with vLLM. The model is SmolLM2-135M.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from served_process import Served, served

from weftline.runtime.load.rows import read_row
from weftline.runtime.load.served import ServedRow

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("WEFTLINE_CLIENTS" not in os.environ, reason="make test-clients"),
]
QUESTIONS = [
    ("The capital of France is", ["Paris", "a banana", "Tokyo"], 0),
    ("Two plus two equals", ["purple", "four", "the sea"], 1),
    ("The opposite of hot is", ["window", "run", "cold"], 2),
]
TASK = """\
task: three
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{q}}}}"
doc_to_choice: "{{{{c}}}}"
doc_to_target: a
metric_list: [{{metric: acc}}]
"""


@pytest.fixture(scope="module")
def model() -> Path:
    return Path(os.environ["WEFTLINE_DEMO_MODEL"]).resolve()


@pytest.fixture(scope="module")
def there(model: Path) -> Iterator[Served]:
    with served(model, "--name", "smol") as up:
        yield up


def run(client: str, tool: str, *words: str, cwd: Path, offline: bool = True) -> str:
    """One of their commands; its output if it went well."""
    place = Path(os.environ["WEFTLINE_CLIENTS"]).resolve() / client / "bin" / tool
    return _ran([str(place), *words], cwd, offline=offline)


def _ran(command: list[str], cwd: Path, *, offline: bool = True) -> str:
    quiet = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"} if offline else {}
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False,
                          timeout=300, env={**os.environ, **quiet, "COLUMNS": "200"})  # fmt: skip
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done.stdout + done.stderr


def test_lm_eval_rates_as_transformers_does(there: Served, model: Path, tmp_path: Path) -> None:
    """Its remote tokenizer and echoed log probabilities; the same sums by a plain forward."""
    docs = tmp_path / "docs.jsonl"
    docs.write_text("".join(json.dumps({"q": q, "c": c, "a": a}) + "\n" for q, c, a in QUESTIONS))
    (tmp_path / "three.yaml").write_text(TASK.format(file=docs))
    run("lm_eval", "lm_eval", "run", "--model", "local-completions", "--model_args",
        f"model=smol,base_url={there.url}/v1/completions,num_concurrent=2,max_retries=1",
        "--tasks", "three", "--include_path", str(tmp_path), "--batch_size", "2",
        "--output_path", "out", "--log_samples", cwd=tmp_path)  # fmt: skip
    samples = next((tmp_path / "out").rglob("samples_three_*.jsonl"))
    rows = [json.loads(line) for line in samples.read_text().splitlines()]
    assert len(rows) == len(QUESTIONS)
    for row in rows:
        question, choices, right = QUESTIONS[row["doc_id"]]
        got = [float(one[0][0]) for one in row["resps"]]
        assert got == pytest.approx(_sums(model, question, choices), abs=1e-3)
        assert got.index(max(got)) == right


def _sums(model: Path, question: str, choices: list[str]) -> list[float]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    plain = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    begin = len(tokenizer(question)["input_ids"])
    found = []
    for choice in choices:
        ids = torch.tensor([tokenizer(f"{question} {choice}")["input_ids"]])
        with torch.inference_mode():
            rated = torch.log_softmax(plain(ids).logits[0], -1)
        found.append(sum(float(rated[i - 1, ids[0, i]]) for i in range(begin, ids.shape[1])))
    return found


def _holds(row: ServedRow, requests: int, answer: int) -> None:
    assert (row.model, row.requests, row.failed) == ("smol", requests, 0)
    assert row.output_tokens == answer
    assert 0 < row.ttft_p50_s <= row.ttft_p99_s < 60
    assert row.tpot_p50_s is not None


@pytest.mark.parametrize("form", ["/v1/chat/completions", "/v1/completions"])
def test_guidellm(there: Served, model: Path, tmp_path: Path, form: str) -> None:
    run("guidellm", "guidellm", "run",
        "--backend", f"kind=openai_http,target={there.url},request_format={form}",
        "--profile", "kind=concurrent,streams=2", "--constraint", "kind=max_requests,count=6",
        "--data", "kind=synthetic_text,prompt_tokens=32,output_tokens=8",
        "--tokenizer", f"kind=hf_auto,model={model}", "--output", "kind=json,path=g.json",
        "--disable-console", cwd=tmp_path)  # fmt: skip
    row = read_row(tmp_path / "g.json")
    _holds(row, 6, 8)
    assert row.concurrency == 2


@pytest.mark.parametrize("form", ["chat", "completions"])
def test_aiperf(there: Served, model: Path, tmp_path: Path, form: str) -> None:
    """It takes a relative path for a tokenizer, and only where it may ask a hub."""
    (tmp_path / "smol").symlink_to(model)
    run("aiperf", "aiperf", "profile", "-m", "smol", "--tokenizer", "./smol", "--url", there.url,
        "--endpoint-type", form, "--streaming", "--isl", "32", "--osl", "8", "--concurrency", "2",
        "--request-count", "6", "--ui", "simple", "--workers-max", "1", "--random-seed", "1",
        "--extra-inputs", "ignore_eos:true", cwd=tmp_path, offline=False)  # fmt: skip
    row = read_row(next(tmp_path.rglob("profile_export_aiperf.json")))
    _holds(row, 6, 8)
    assert row.concurrency == 2


@pytest.mark.parametrize("form", ["openai", "openai-chat"])
@pytest.mark.skipif("WEFTLINE_ENGINES_PYTHON" not in os.environ, reason="no vLLM")
def test_vllm_bench_serve(there: Served, model: Path, tmp_path: Path, form: str) -> None:
    door = "/v1/completions" if form == "openai" else "/v1/chat/completions"
    python = os.environ["WEFTLINE_ENGINES_PYTHON"]
    said = _ran([python, "-m", "vllm.entrypoints.cli.main", "bench", "serve", "--backend", form,
                 "--endpoint", door, "--base-url", there.url, "--model", "smol",
                 "--tokenizer", str(model), "--dataset-name", "random", "--random-input-len", "32",
                 "--random-output-len", "8", "--num-prompts", "6", "--max-concurrency", "2",
                 "--ignore-eos", "--save-result", "--result-filename", "v.json"],
                tmp_path)  # fmt: skip
    assert "/tokenize unavailable" not in said
    row = read_row(tmp_path / "v.json")
    _holds(row, 6, 8)
    assert row.concurrency == 2
