"""Closed and open loops, and traces, over a server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from weftline.runtime.load.client import Answer, Target, ask

__all__ = ["Load", "drive", "planned"]

_LOW, _HIGH = 10, 1000
"""Token numbers that every vocabulary has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What to send. ``concurrency`` makes a closed loop; without it, requests go at their times."""

    arrivals_s: Sequence[float]
    input_tokens: Sequence[int]
    output_tokens: Sequence[int]
    concurrency: int | None
    seed: int
    timeout_s: float = 600.0

    def prompts(self) -> list[list[int]]:
        """Random tokens: nothing that a prefix cache knows."""
        draw = np.random.default_rng(self.seed)
        return [draw.integers(_LOW, _HIGH, n).tolist() for n in self.input_tokens]


def planned(
    *, requests: int, input_tokens: int, output_tokens: int, seed: int,
    concurrency: int | None = None, rate_per_s: float | None = None,
) -> Load:  # fmt: skip
    """Requests alike: a closed loop, or a Poisson stream."""
    arrivals = [0.0] * requests
    if rate_per_s is not None:
        gaps = np.random.default_rng(seed).exponential(1 / rate_per_s, requests)
        arrivals = np.cumsum(gaps).tolist()
    return Load(
        arrivals_s=arrivals, input_tokens=[input_tokens] * requests,
        output_tokens=[output_tokens] * requests, concurrency=concurrency, seed=seed,
    )  # fmt: skip


def drive(target: Target, load: Load, *, say: Callable[[int], None] | None = None) -> list[Answer]:
    """Send everything; the answers in the order of the requests."""
    return asyncio.run(_drive(target, load, say or (lambda _: None)))


async def _drive(target: Target, load: Load, say: Callable[[int], None]) -> list[Answer]:
    prompts = load.prompts()
    gate = asyncio.Semaphore(load.concurrency or len(prompts) or 1)
    begun = time.perf_counter()
    done = 0

    async def one(i: int) -> Answer:
        nonlocal done
        wait = load.arrivals_s[i] - (time.perf_counter() - begun)
        if wait > 0:
            await asyncio.sleep(wait)
        async with gate:
            answer = await ask(target, prompts[i], load.output_tokens[i], begun, load.timeout_s)
        done += 1
        say(done)
        return answer

    return list(await asyncio.gather(*(one(i) for i in range(len(prompts)))))
