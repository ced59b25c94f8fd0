"""CPU seconds of whole commands, warm, beside the parser's own import and beside peers' help.

    python bench/startup.py [--runs 5] [--peer "aiconfigurator --help" --peer "sky --help"]

Every command runs as a process of its own, once to warm caches (bytecode, compiled kernels) and
then ``--runs`` times, in turn with ``python -c "import cyclopts"``; the least user + system time of
each counts, because neighbours on the same host only ever add to it. Peers are commands that are
installed where this runs; those that are not found are named.
"""

from __future__ import annotations

import argparse
import os
import resource
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
RUNS = ROOT / "src" / "weftline" / "plan" / "data" / "published_runs.csv"
PARSER = [sys.executable, "-c", "import cyclopts"]
COMMANDS = {
    "--help": ("--help", "1.2 x the parser"),
    "--version": ("--version", ""),
    "plan train, one chip": (
        "plan train llama-3.1-70b --tokens 2T --on h100 --max-chips 1024", "0.8 s"),
    "plan train, all": ("plan train llama-3.1-70b --tokens 2T --on all --max-chips 1024", "2 s"),
    "plan serve, all": (
        "plan serve llama-3.1-70b --rate 12/s --input 2000 --output 400 --ttft 500ms --tpot 40ms",
        "4 s"),
    "simulate serving": (
        "simulate serving llama-3.1-8b --on h100 --trace azure-2023-conv", "1.5 s"),
    "score training": (f"score training {RUNS}", ""),
}  # fmt: skip
PEERS = ("aiconfigurator --help", "sky --help")


def cpu_s(command: list[str]) -> float:
    """User and system seconds of one run. Raises CalledProcessError where it fails."""
    env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        command, check=True, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measured(command: list[str], runs: int) -> tuple[float, float]:
    """(least CPU seconds of the command, of the parser's import in the same turns)."""
    cpu_s(command)
    own, parser = [], []
    for _ in range(runs):
        parser.append(cpu_s(PARSER))
        own.append(cpu_s(command))
    return min(own), min(parser)


def main() -> None:
    """Print a line a command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--peer", action="append", default=None)
    options = parser.parse_args()
    cpu_s(PARSER)
    print(f"{'command':<24}{'CPU s':>8}{'parser s':>10}{'ratio':>8}  goal")
    for name, (words, goal) in COMMANDS.items():
        own, base = measured([sys.executable, "-m", "weftline", *shlex.split(words)], options.runs)
        print(f"{name:<24}{own:>8.2f}{base:>10.3f}{own / base:>8.1f}  {goal}", flush=True)
    for peer in PEERS if options.peer is None else options.peer:
        words = shlex.split(peer)
        if shutil.which(words[0]) is None:
            print(f"{peer:<24} not installed here")
            continue
        own, base = measured(words, options.runs)
        print(f"{peer:<24}{own:>8.2f}{base:>10.3f}{own / base:>8.1f}  peer", flush=True)


if __name__ == "__main__":
    main()
