"""CPU seconds of whole capacity questions, warm, beside a peer's same question in the same run.

``python bench/plan_serve.py [--peer PYTHON]``: PYTHON is an interpreter that has
``aiconfigurator`` (0.12); its default sweep is asked about the same
model, chip, lengths and limits.
Every question runs in a process of its own, as a user's does; the second run of each counts.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
from pathlib import Path

QUESTIONS = {
    "70B on every chip": (
        "llama-3.1-70b", "--rate", "12/s", "--ttft", "500ms", "--tpot", "40ms", "--on", "all",
    ),
    "70B on H200": (
        "llama-3.1-70b", "--rate", "12/s", "--ttft", "500ms", "--tpot", "40ms", "--on", "h200",
    ),
    "prefix cache, Mooncake's trace": (
        "qwen3-32b", "--trace", "mooncake-conversation", "--prefix-cache", "--on", "h200",
    ),
    "agents, 80 % of prompts cached": (
        "qwen3-32b", "--rate", "2/s", "--input", "30000", "--output", "300", "--cache-hit", "80%",
        "--on", "h200",
    ),
}  # fmt: skip
PEER = (
    "cli", "default", "--model-path", "meta-llama/Meta-Llama-3.1-70B", "--total-gpus", "32",
    "--system", "h200_sxm", "--isl", "2000", "--osl", "400", "--ttft", "500", "--tpot", "40",
)  # fmt: skip


def cpu_s(command: list[str]) -> float:
    """User and system seconds of a command that has to succeed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Print one line a question."""
    options = argparse.ArgumentParser()
    options.add_argument("--peer", help="an interpreter with aiconfigurator")
    given = options.parse_args()
    own: dict[str, float] = {}
    for name, words in QUESTIONS.items():
        command = [sys.executable, "-m", "weftline", "plan", "serve", *words]
        own[name] = min(cpu_s(command), cpu_s(command))
        print(f"{name:32s} {own[name]:6.2f} CPU-s")
    if given.peer:
        command = [str(Path(given.peer).parent / "aiconfigurator"), *PEER]
        peer = min(cpu_s(command), cpu_s(command))
        print(f"{'aiconfigurator, 70B on H200':32s} {peer:6.2f} CPU-s, "
              f"{peer / own['70B on H200']:.1f} times ours")  # fmt: skip


if __name__ == "__main__":
    main()
