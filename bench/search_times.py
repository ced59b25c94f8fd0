"""Seconds and peak memory of the searches a user waits for, each in a process of its own.

Prints the ratio to the time that Calculon's search was given for the nearest question (its figures,
measured on 2026-11-21 on such a machine, are quoted: it is not on PyPI).

Run: python bench/search_times.py
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time

QUESTIONS = (
    ("405B on any chip, up to 16,384",
     "llama-3.1-405b --tokens 15T --on all --max-chips 16384", None),
    ("GPT-3 175B on 1,024 A100",
     "gpt3-175b --tokens 300B --seq 2048 --on a100 --chips 1024 --global-batch 1536", 170.0),
    ("530B on 5,120 A100",
     "turing-530b --tokens 300B --seq 2048 --on a100 --chips 5120 --global-batch 2560", 51.0),
    ("70B on any chip, up to 1,024 (make plan)",
     "llama-3.1-70b --tokens 2T --on all --max-chips 1024", None),
)  # fmt: skip
REPEATS = 3


def main() -> None:
    """Print wall seconds (best of some), peak memory and the ratio to a quoted peer."""
    rows = []
    for name, question, peer_s in QUESTIONS:
        command = [sys.executable, "-m", "weftline", "plan", "train", *question.split(), "--json"]
        best = float("inf")
        for _ in range(REPEATS):
            start = time.perf_counter()
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            best = min(best, time.perf_counter() - start)
        search = json.loads(done.stdout)["search"]
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        ratio = "" if peer_s is None else f"  Calculon / ours: {peer_s / best:,.0f}x"
        print(f"{name}: {best:.2f} s, {search['evaluated']:,} layouts, peak {peak:.0f} MiB{ratio}")
        rows.append({"question": name, "seconds": best, "layouts": search["evaluated"]})
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
