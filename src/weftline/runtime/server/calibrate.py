"""Steps of the own engine timed from inside: prompts and decoding, alone and together."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from weftline.runtime.server.engine.loop import Engine
from weftline.runtime.server.engine.requests import Sampling
from weftline.runtime.server.options import EngineOptions
from weftline.runtime.server.start import engine_of
from weftline.runtime.server.timing import StepModel, Work, fitted, work_of

__all__ = ["calibrate_engine", "timed_mixes", "timed_steps"]

_MIXES = ((1, 64, 12), (1, 700, 12), (4, 256, 12), (8, 128, 12), (16, 96, 10), (2, 1500, 8),
          (6, 64, 8), (12, 64, 8), (32, 40, 6))  # fmt: skip
"""(requests, tokens of a prompt, tokens of an answer), each begun at once."""


def calibrate_engine(
    place: Path, options: EngineOptions, today: str, say: Callable[[str], None]
) -> StepModel:
    """Time steps of the model in ``place`` under ``options`` and fit them. Raises InputError."""
    import torch

    say("reading the weights")
    ready = engine_of(place, options)
    work, seconds = timed_mixes(ready.engine, say)
    policy = options.policy or "dense"
    kernel = ready.engine.model
    return fitted(
        work, seconds, model=place.resolve().stem, dtype=str(kernel.model.dtype).split(".")[-1],
        kv=options.kv, policy=policy, page=options.page, chunk_tokens=options.chunk_tokens,
        threads=torch.get_num_threads(), date=today,
    )  # fmt: skip


def timed_mixes(
    engine: Engine, say: Callable[[str], None] = lambda _: None
) -> tuple[list[Work], list[float]]:
    """Work and seconds of the steps of every mix that the engine's sequences can hold."""
    work: list[Work] = []
    seconds: list[float] = []
    for many, prompt, answer in _MIXES:
        if prompt + answer >= engine.max_len:
            continue
        say(f"timing {many} prompts of {prompt} tokens")
        more, took = timed_steps(engine, many, prompt, answer, seed=len(work))
        work += more
        seconds += took
    return work, seconds


def timed_steps(
    engine: Engine, many: int, prompt: int, answer: int, *, seed: int
) -> tuple[list[Work], list[float]]:
    """Work and seconds of every step of some requests begun together; the first is left out."""
    draw = np.random.default_rng(seed)
    wish = Sampling(max_tokens=answer, temperature=0.0, ignore_eos=True)
    most = min(1000, engine.model.config.vocab_size)
    for _ in range(many):
        engine.submit(draw.integers(3, most, prompt).tolist(), wish)
    work, seconds = [], []
    planned = engine.scheduler.next_step

    def watched() -> list:  # type: ignore[type-arg]
        turns = planned()
        work.append(work_of(turns))
        return turns

    engine.scheduler.next_step = watched  # type: ignore[method-assign]
    try:
        while not engine.idle:
            begun = time.perf_counter()
            engine.step()
            seconds.append(time.perf_counter() - begun)
    finally:
        del engine.scheduler.next_step
    return work[1:], seconds[1:]
