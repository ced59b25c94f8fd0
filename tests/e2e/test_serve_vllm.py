"""`weftline serve --engine vllm` with vLLM installed beside weftline: ``make test-vllm``."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("WEFTLINE_ENGINES_PYTHON" not in os.environ, reason="make test-vllm"),
]
START_S = 600
"""vLLM compiles for the CPU first: 200 s on two busy cores."""
POLICY = "window=512,sinks=4"
QUIET = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_KVCACHE_SPACE": "1",
         "VLLM_CPU_NUM_OF_RESERVED_CPU": "0", "OMP_NUM_THREADS": "1"}  # fmt: skip


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[openai.OpenAI, Path]]:
    """vLLM's server under a policy, started by our command, and what it said."""
    python = Path(os.environ["WEFTLINE_ENGINES_PYTHON"])
    place = tmp_path_factory.mktemp("vllm")
    write = ("import sys; from pathlib import Path; from weftline.runtime.gguf import *; "
             "write_folder(smollm2_file(), Path(sys.argv[1]))")  # fmt: skip
    subprocess.run([python, "-c", write, place / "smollm2"], check=True, timeout=200)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [python, "-m", "weftline", "serve", "smollm2", "--engine", "auto", "--port",
               str(port), "--policy", POLICY, "--max-len", "1024", "--dtype", "fp32"]  # fmt: skip
    said = place / "said.txt"
    environment = {**os.environ, **QUIET, "PATH": f"{python.parent}:{os.environ['PATH']}"}
    with said.open("w") as log:
        running = subprocess.Popen(command, cwd=place, env=environment, stdout=log, stderr=log)
    try:
        end = time.monotonic() + START_S
        while not _listens(port):
            assert running.poll() is None, said.read_text()[-3000:]
            assert time.monotonic() < end, said.read_text()[-3000:]
            time.sleep(0.5)
        yield openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none"), said
    finally:
        running.send_signal(signal.SIGTERM)
        running.wait(60)


def _listens(port: int) -> bool:
    with socket.socket() as link:
        return link.connect_ex(("127.0.0.1", port)) == 0


def test_auto_takes_vllm_with_our_policy(up: tuple[openai.OpenAI, Path]) -> None:
    client, said = up
    assert [model.id for model in client.models.list()] == ["smollm2"]
    whole = client.completions.create(model="smollm2", prompt="The capital of France is",
                                      max_tokens=6, temperature=0)  # fmt: skip
    assert "Paris" in whole.choices[0].text
    stream = client.chat.completions.create(
        model="smollm2", messages=[{"role": "user", "content": "Say hello."}], max_tokens=8,
        temperature=0, stream=True,
    )  # fmt: skip
    assert "".join(piece.choices[0].delta.content or "" for piece in stream)
    assert f"attention policy {POLICY}" in said.read_text()
