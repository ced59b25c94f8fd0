"""Fifty people at one studio: does it keep answering, in turns, and say so when it cannot?

Starts `weftline studio` as a user does, then sessions that each ask one question after the other
(training plans of small models, another chip count each time) and read its events to the end; shows
answers a second beside what the same worker does for one session alone, the wait at the median and
the 95th percentile, how long the first page takes while all cores compute, how even the turns were,
and how many questions were refused with 429 and a reason.

    python bench/studio_sessions.py [--sessions 50] [--seconds 30] [--greedy 0]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx2 as httpx

MODELS = ("smollm2-135m", "llama-3.2-1b", "qwen3-0.6b", "llama-3.1-8b")
CHIPS = ("h100-sxm", "mi300x", "b200", "tpu-v5e", "trainium2")


@dataclass
class Seen:
    """What one session saw."""

    answered: list[float] = field(default_factory=list)
    refused: int = 0
    wrong: list[str] = field(default_factory=list)


async def session(base: str, until: float, seed: int, seen: Seen, at_once: int = 1) -> None:
    """Ask until the time is up; ``at_once`` questions together where it is greedy."""
    limits = httpx.Limits(max_connections=2 * at_once + 2)
    async with httpx.AsyncClient(base_url=base, headers={"origin": base}, timeout=300,
                                 limits=limits) as client:  # fmt: skip
        await client.get("/")
        draws = random.Random(seed)  # noqa: S311

        async def ask() -> None:
            while time.monotonic() < until:
                began = time.monotonic()
                question = {
                    "kind": "train", "model": draws.choice(MODELS), "tokens": "10B",
                    "on": draws.choice(CHIPS), "chips": str(8 << draws.randrange(4)),
                }  # fmt: skip
                asked = await client.post("/ask", data=question)
                if asked.status_code == 429:
                    seen.refused += 1
                    assert "Too many questions" in asked.text
                    await asyncio.sleep(float(asked.headers["retry-after"]) * draws.random())
                    continue
                job = re.search(r"/jobs/([\w-]+)/events", asked.text)
                if job is None:
                    seen.wrong.append(f"{asked.status_code} {asked.text[:200]}")
                    continue
                await client.get(f"/jobs/{job[1]}/events")
                answer = await client.get(f"/jobs/{job[1]}")
                if answer.status_code == 200:
                    seen.answered.append(time.monotonic() - began)
                else:
                    seen.wrong.append(f"{answer.status_code} {answer.text[:200]}")

        await asyncio.gather(*(ask() for _ in range(at_once)))


async def first_page(base: str, until: float, times: list[float]) -> None:
    """Open the first page twice a second."""
    async with httpx.AsyncClient(base_url=base, timeout=60) as client:
        while time.monotonic() < until:
            began = time.monotonic()
            assert (await client.get("/")).status_code == 200
            times.append(time.monotonic() - began)
            await asyncio.sleep(0.5)


async def load(
    base: str, sessions: int, seconds: float, greedy: int
) -> tuple[list[Seen], list[float]]:
    """All sessions for the time; the last one asks ``greedy`` at once, if that is more than one."""
    until = time.monotonic() + seconds
    all_seen, pages = [Seen() for _ in range(sessions)], list[float]()
    many = [1] * (sessions - 1) + [max(1, greedy)]
    await asyncio.gather(
        *(session(base, until, i, seen, n)
          for i, (seen, n) in enumerate(zip(all_seen, many, strict=True))),
        first_page(base, until, pages),
    )  # fmt: skip
    return all_seen, pages


def share(values: list[float], part: float) -> float:
    """The value below which ``part`` of them lie."""
    return sorted(values)[min(len(values) - 1, int(part * len(values)))]


def report(name: str, seen: list[Seen], pages: list[float], seconds: float) -> float:
    """Print what was seen; answers a second."""
    waits = [w for one in seen for w in one.answered]
    counts = [len(one.answered) for one in seen]
    wrong = [w for one in seen for w in one.wrong]
    rate = len(waits) / seconds
    print(f"{name}: {len(waits)} answers in {seconds:.0f} s, {rate:.2f}/s; wait "
          f"{statistics.median(waits):.2f} s median, {share(waits, 0.95):.2f} s p95; a session "
          f"{min(counts)} to {max(counts)} answers; {sum(s.refused for s in seen)} refused with "
          f"429; {len(wrong)} wrong; first page {1e3 * statistics.median(pages):.0f} ms median, "
          f"{1e3 * share(pages, 0.95):.0f} ms p95")  # fmt: skip
    for text in wrong[:3]:
        print(f"  wrong: {text}")
    return rate


def main() -> int:
    """Run the studio, one session alone, then all; 1 where it did not keep answering."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sessions", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--greedy", type=int, default=0, help="questions at once of the last")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "weftline", "studio", "--port", "0", "--workers", "2",
                   "--history", str(Path(folder) / "h.sqlite3")]  # fmt: skip
        studio = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert studio.stderr is not None
        found = re.search(r"http://[\d.]+:\d+", studio.stderr.readline())
        assert found is not None
        base = found[0]
        print(f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, "
              f"load {os.getloadavg()[0]:.1f}, seeds 0 to {asked.sessions - 1}, "
              "2 workers", flush=True)  # fmt: skip
        try:
            asyncio.run(load(base, 1, 4.0, 0))  # warm
            alone = asyncio.run(load(base, 1, asked.seconds / 3, 0))
            one = report("one session", *alone, asked.seconds / 3)
            seen, pages = asyncio.run(load(base, asked.sessions, asked.seconds, asked.greedy))
            many = report(f"{asked.sessions} sessions", seen, pages, asked.seconds)
        finally:
            studio.send_signal(signal.SIGINT)
            studio.wait(20)
        counts = [len(one.answered) for one in seen]
        print(f"{many / one:.2f} times the answers of one session alone")
        kept = min(counts) > 0 and not any(one.wrong for one in seen)
        return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
