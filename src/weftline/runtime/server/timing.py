"""How long a step of the own engine takes, and from that what clients will see.

A step's time is what its rows take (Python, the scheduler, reading the weights and the head among
it), a part for each pair of query and key of prompts, and a part for each key that decoding reads.
Rows are no straight line: torch's products of 4 to 15 rows in fp32 can take as long as those of 16
to 32, so their time is fitted at the numbers of rows that were seen, and read between them. All is
fitted to steps timed inside the engine, where kernels meet the caches and threads they really
have; kernels timed alone come out too fast. A forecast runs the engine's own scheduler over such
times.
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

_NAMES = ("prompt_pair_s", "decode_key_s")
_APART = 1.4
"""Ratio of neighbouring numbers of rows at which time is fitted."""
_ASKS_AGAIN_S = 0.002
"""From a client's last token to its next request at the engine. That it is above 0 is what counts:
the engine's next step begins at once, so the newcomer waits for that one to end."""


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
    rows: tuple[int, ...]
    """Numbers of rows, rising, at which their time is known."""
    rows_s: tuple[float, ...]
    """What a step of so many takes."""
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
        parts = [*self.rows_s, *(getattr(self, name) for name in _NAMES)]
        return float(_parts_of(np.asarray([work], np.float64), self.rows)[0] @ parts)


Work = tuple[float, float, float]


def work_of(turns: Sequence[Turn]) -> Work:
    """(rows, pairs in prompts, keys read by decoding) of a step.

    Counted before it is computed.
    """
    rows = pairs = keys = 0.0
    for turn in turns:
        before = turn.request.done
        rows += turn.count
        if before >= len(turn.request.prompt):
            keys += before + turn.count
        else:
            pairs += turn.count * before + turn.count * (turn.count + 1) / 2
    return rows, pairs, keys


def _parts_of(work: np.ndarray[Any, Any], rows: Sequence[int]) -> np.ndarray[Any, Any]:
    """[steps, len(rows) + 2]: shares of the two neighbours in ``rows``, and the rest as it is.

    Above the last number of rows the line through the last two goes on.
    """
    at = np.asarray(rows, np.float64)
    seen = np.maximum(work[:, 0], at[0])
    above = np.clip(np.searchsorted(at, seen), 1, len(at) - 1)
    share = (seen - at[above - 1]) / (at[above] - at[above - 1])
    found = np.zeros((len(work), len(at) + 2))
    steps = np.arange(len(work))
    found[steps, above - 1], found[steps, above] = 1 - share, share
    found[:, len(at) :] = work[:, 1:]
    return found


def _rows_seen(rows: np.ndarray[Any, Any]) -> tuple[int, ...]:
    """Numbers of rows that were seen, far enough from each other, the least and the most."""
    kept: list[int] = []
    for count in np.unique(rows):
        if not kept or count >= _APART * kept[-1]:
            kept.append(int(count))
    most = int(rows.max())
    if kept[-1] != most and len(kept) > 1:
        kept[-1] = most
    return tuple(kept)


def fitted(work: Sequence[Work], seconds: Sequence[float], **about: Any) -> StepModel:
    """Every part, none below zero, by relative least squares; every third step is left out.

    Raises InputError for fewer than twelve steps, or steps that all have as many rows.
    """
    from scipy.optimize import nnls

    w, s = np.asarray(work, np.float64), np.asarray(seconds, np.float64)
    if len(s) < 12:
        raise InputError(f"{len(s)} steps are too few to fit")
    kept = np.arange(len(s)) % 3 != 2
    rows = _rows_seen(w[kept, 0])
    if len(rows) < 2:
        raise InputError("steps of one size alone say nothing of others")
    seen = _parts_of(w, rows)
    parts, _ = nnls(seen[kept] / s[kept, None], np.ones(kept.sum()))
    error = float(np.median(np.abs(seen[~kept] @ parts / s[~kept] - 1)))
    found: dict[str, Any] = dict(zip(_NAMES, map(float, parts[len(rows) :]), strict=True))
    return StepModel(rows=rows, rows_s=tuple(map(float, parts[: len(rows)])), **found,
                     steps=len(s), error=error, **about)  # fmt: skip


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
                    heapq.heappush(coming, now + _ASKS_AGAIN_S)
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
        data = json.loads(path.read_text(encoding="utf-8"))
        lists = {name: tuple(data[name]) for name in ("rows", "rows_s")}
        return StepModel(**{**data, **lists})
    except (OSError, ValueError, TypeError, KeyError):
        raise InputError("is no calibration of an engine", where=str(path),
                         hint="`weftline calibrate --engine own -o FILE`") from None  # fmt: skip
