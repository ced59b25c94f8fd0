"""How long a step of the own engine takes, and from that what clients will see.

A step's time is a floor (Python, the scheduler, reading the weights), a part for each row, a part
for each row that decides a token (the head over the vocabulary, the choice; a prompt has one such
row, a decoding step nothing but such rows), a part for each pair of query and key of prompts, and
a part for each key that decoding reads. The five are fitted to steps timed inside the engine,
where kernels meet the caches and threads they really have; kernels timed alone come out too fast.
A forecast runs the engine's own scheduler over such times.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from weftline.errors import InputError
from weftline.runtime.server.engine.pages import Pages
from weftline.runtime.server.engine.requests import Request, Sampling
from weftline.runtime.server.engine.scheduler import Scheduler, Turn

__all__ = [
    "Forecast",
    "StepModel",
    "Work",
    "fitted",
    "forecast",
    "read_steps",
    "work_of",
    "write_steps",
]

_NAMES = ("floor_s", "row_s", "answer_row_s", "prompt_pair_s", "decode_key_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class StepModel:
    """Seconds of a step by what it does, and the settings under which that was timed."""

    model: str
    dtype: str
    kv: str
    policy: str
    page: int
    chunk_tokens: int
    threads: int
    floor_s: float
    row_s: float
    """A row: a token computed."""
    answer_row_s: float
    """A row that decides a token, beside what every row takes."""
    prompt_pair_s: float
    """A pair of query and key in a prompt."""
    decode_key_s: float
    """A key that a decoding query reads."""
    steps: int
    """Timed."""
    error: float
    """Median of |fitted over timed - 1| of steps that the fit did not see."""
    date: str

    def step_s(self, work: Sequence[float]) -> float:
        """Seconds of a step of so much ``work``, as :func:`work_of` counts."""
        parts = tuple(getattr(self, name) for name in _NAMES)
        return float(sum(p * w for p, w in zip(parts, work, strict=True)))


Work = tuple[float, float, float, float, float]


def work_of(turns: Sequence[Turn]) -> Work:
    """(1, rows, rows that decide a token, pairs in prompts, keys read by decoding) of a step.

    Counted before it is computed.
    """
    rows = answers = pairs = keys = 0.0
    for turn in turns:
        before = turn.request.done
        rows += turn.count
        answers += turn.samples
        if before >= len(turn.request.prompt):
            keys += before + turn.count
        else:
            pairs += turn.count * before + turn.count * (turn.count + 1) / 2
    return 1.0, rows, answers, pairs, keys


def fitted(work: Sequence[Sequence[float]], seconds: Sequence[float], **about: Any) -> StepModel:
    """The five parts, none below zero, by relative least squares; every third step is left out.

    Raises InputError for fewer than twelve steps.
    """
    from scipy.optimize import nnls

    w, s = np.asarray(work, np.float64), np.asarray(seconds, np.float64)
    if len(s) < 12:
        raise InputError(f"{len(s)} steps are too few to fit")
    kept = np.arange(len(s)) % 3 != 2
    parts, _ = nnls(w[kept] / s[kept, None], np.ones(kept.sum()))
    error = float(np.median(np.abs(w[~kept] @ parts / s[~kept] - 1)))
    found: dict[str, Any] = dict(zip(_NAMES, map(float, parts), strict=True))
    return StepModel(**found, steps=len(s), error=error, **about)


@dataclass(frozen=True, slots=True)
class Forecast:
    """What clients of a closed loop see; medians, seconds."""

    ttft_s: float
    tpot_s: float
    output_tokens_per_s: float


def forecast(
    model: StepModel, *, input_tokens: int, output_tokens: int, concurrency: int, requests: int,
    sequences: int = 64, pages: int = 1 << 16,
) -> Forecast:  # fmt: skip
    """A closed loop of ``concurrency`` clients through the engine's own scheduler."""
    scheduler = Scheduler(Pages(pages, model.page, prefix_cache=False), sequences=sequences,
                          tokens=model.chunk_tokens)  # fmt: skip
    wish = Sampling(max_tokens=output_tokens)
    now, sent, first, last = 0.0, dict[Request, float](), dict[Request, float](), list[float]()
    tpot: list[float] = []
    coming = [0.0] * min(concurrency, requests)
    begun = len(coming)
    while coming or scheduler.running or scheduler.waiting:
        while coming and coming[0] <= now:
            request = Request(tuple(range(input_tokens)), wish)
            sent[request] = heapq.heappop(coming)
            scheduler.waiting.append(request)
        turns = scheduler.next_step()
        if not turns:
            now = coming[0]
            continue
        now += model.step_s(work_of(turns))
        for turn in turns:
            samples = turn.samples
            scheduler.computed(turn)
            if not samples:
                continue
            turn.request.tokens.append(0)
            first.setdefault(turn.request, now)
            if turn.request.generated >= output_tokens:
                scheduler.leave(turn.request)
                last.append(now)
                if output_tokens > 1:
                    tpot.append((now - first[turn.request]) / (output_tokens - 1))
                if begun < requests:
                    heapq.heappush(coming, now)
                    begun += 1
    waits = [first[r] - at for r, at in sent.items()]
    return Forecast(float(np.median(waits)), float(np.median(tpot)) if tpot else 0.0,
                    requests * output_tokens / max(last))  # fmt: skip


def write_steps(model: StepModel, path: Path) -> None:
    """Keep what was fitted. Raises InputError where it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(model), indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write there: {error.strerror}", where=str(path)) from None


def read_steps(path: Path) -> StepModel:
    """What `weftline calibrate --engine own` wrote. Raises InputError."""
    try:
        return StepModel(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        raise InputError("is no calibration of an engine", where=str(path),
                         hint="`weftline calibrate --engine own -o FILE`") from None  # fmt: skip
