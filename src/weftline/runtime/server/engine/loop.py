"""The engine: requests in, tokens out, a step at a time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from weftline.runtime.server.engine.model import Batch, PagedModel, rows_of
from weftline.runtime.server.engine.pages import Pages
from weftline.runtime.server.engine.requests import Finish, Logprobs, Request, Sampling, Token
from weftline.runtime.server.engine.sampling import choose, logprobs_of
from weftline.runtime.server.engine.scheduler import Scheduler, Turn

__all__ = ["Busy", "Engine", "Step"]


class Busy(Exception):  # noqa: N818  (a state, told to clients as 429)
    """As many requests wait as may."""


@dataclass(frozen=True, slots=True)
class Step:
    """What one step did, for those who measure."""

    seconds: float
    attention_s: float
    prefill_tokens: int
    decodes: int
    context: int
    """Tokens in the sequences of the step."""


@dataclass(slots=True)
class Engine:
    """One model, one cache, one scheduler; not safe for several threads at once."""

    model: PagedModel
    pages: Pages
    scheduler: Scheduler
    max_len: int
    max_waiting: int = 256
    steps: int = 0
    last: Step | None = None

    @classmethod
    def over(
        cls, model: PagedModel, *, pages: int, sequences: int = 64, tokens: int = 512,
        max_len: int | None = None, max_waiting: int = 256, prefix_cache: bool = True,
    ) -> Engine:  # fmt: skip
        """An engine with ``pages`` pages of cache (one of them nobody's)."""
        model.allocate(pages)
        store = Pages(pages, model.page, prefix_cache=prefix_cache)
        limit = int(getattr(model.config, "max_position_embeddings", 0) or 1 << 30)
        room = store.count * model.page
        return cls(
            model=model, pages=store, max_waiting=max_waiting,
            scheduler=Scheduler(store, sequences=sequences, tokens=tokens,
                                unseen=model.unseen if model.frees else None),
            max_len=min(limit, room, max_len or limit),
        )  # fmt: skip

    def submit(self, prompt: Sequence[int], sampling: Sampling) -> Request:
        """Queue a request. Raises Busy, or ValueError for a prompt that no sequence can hold."""
        request = self.request(prompt, sampling)
        self.scheduler.waiting.append(request)
        return request

    def request(self, prompt: Sequence[int], sampling: Sampling, *, ahead: int = 0) -> Request:
        """One that may be queued with ``ahead`` others on their way there. Raises as ``submit``."""
        if not prompt:
            raise ValueError("the prompt has no tokens")
        if len(prompt) + min(1, sampling.max_tokens) > self.max_len:
            raise ValueError(f"the prompt has {len(prompt)} tokens; a sequence holds "
                             f"{self.max_len} with its answer")  # fmt: skip
        if len(self.scheduler.waiting) + ahead >= self.max_waiting:
            raise Busy(f"{self.max_waiting} requests wait already")
        return Request(tuple(prompt), sampling)

    def cancel(self, request: Request) -> None:
        """Drop a request, wherever it stands."""
        request.cancelled = True
        self.scheduler.leave(request)

    @property
    def idle(self) -> bool:
        """Whether nothing runs or waits."""
        return not (self.scheduler.running or self.scheduler.waiting)

    def step(self) -> list[tuple[Request, Token]]:
        """Compute one step; the tokens that it gave."""
        begun = time.perf_counter()
        turns = self.scheduler.next_step()
        if not turns:
            return []
        batch, wanted = _batch_of(turns, self.model.page)
        logits = self.model.logits(batch)
        told = self._told(turns, logits, wanted)
        for turn in turns:
            self.scheduler.computed(turn)
        events = [self._add(request, token, logprobs) for request, token, logprobs in told]
        self.steps += 1
        prefill = sum(t.count for t, late in zip(turns, batch.decoding, strict=True) if not late)
        self.last = Step(time.perf_counter() - begun, self.model.attention_s, prefill,
                         int(batch.decoding.sum()), int(batch.lengths.sum()))  # fmt: skip
        return events

    def _told(
        self, turns: Sequence[Turn], logits: torch.Tensor, wanted: Sequence[range]
    ) -> list[tuple[Request, int | None, Logprobs | None]]:
        """Tokens of the turns that sample; prompts that are to be rated get their logprobs."""
        sampling = [(t.request, logits[rows[-1]]) for t, rows in zip(turns, wanted, strict=True)
                    if t.samples and t.request.sampling.max_tokens]  # fmt: skip
        for turn, rows in zip(turns, wanted, strict=True):
            if turn.request.sampling.prompt_logprobs:
                _rate_prompt(turn, logits[rows.start : rows.stop])
        chosen = []
        if sampling:
            chosen = choose(torch.stack([row for _, row in sampling]), [r for r, _ in sampling])
        told: list[tuple[Request, int | None, Logprobs | None]] = [
            (request, *said) for (request, _), said in zip(sampling, chosen, strict=True)
        ]
        told += [(t.request, None, None) for t in turns
                 if t.samples and not t.request.sampling.max_tokens]  # fmt: skip
        return told

    def _add(
        self, request: Request, token: int | None, logprobs: Logprobs | None
    ) -> tuple[Request, Token]:
        finish: Finish | None = None
        wish = request.sampling
        request.last_token_at = time.perf_counter()
        if request.first_token_at is None:
            request.first_token_at = request.last_token_at
        if token is not None:
            request.tokens.append(token)
        if token in wish.stop_ids and request.generated >= wish.min_tokens:
            finish = "stop"
        elif request.generated >= wish.max_tokens or len(request.tokens) >= self.max_len:
            finish = "length"
        if finish:
            self.scheduler.leave(request)
        return request, Token(token, logprobs, finish)


def _batch_of(turns: Sequence[Turn], page: int) -> tuple[Batch, list[range]]:
    """The rows of a step, and which rows of the wanted logits are each turn's."""
    width = max(len(turn.request.pages) for turn in turns)
    tables = np.zeros((len(turns), width), np.int32)
    tokens: list[int] = []
    positions: list[Any] = []
    slots: list[Any] = []
    rows: list[int] = []
    wanted: list[range] = []
    at = 0
    for i, turn in enumerate(turns):
        request = turn.request
        tables[i, : len(request.pages)] = request.pages
        place = np.arange(request.done, request.done + turn.count)
        tokens += request.tokens[request.done : request.done + turn.count]
        positions.append(place)
        slots.append(tables[i, place // page].astype(np.int64) * page + place % page)
        first = 0 if request.sampling.prompt_logprobs else turn.count - 1
        wanted.append(range(len(rows), len(rows) + turn.count - first))
        rows += range(at + first, at + turn.count)
        at += turn.count
    requests = [turn.request for turn in turns]
    return Batch(
        tokens=torch.tensor(tokens), positions=torch.from_numpy(np.concatenate(positions)),
        slots=np.concatenate(slots), starts=rows_of([t.count for t in turns]),
        lengths=np.asarray([t.request.done + t.count for t in turns], np.int32), tables=tables,
        decoding=np.asarray([r.done >= len(r.prompt) for r in requests]),
        rows=torch.tensor(rows),
    ), wanted  # fmt: skip


def _rate_prompt(turn: Turn, logits: torch.Tensor) -> None:
    """Logprobs of the prompt's tokens that a turn's rows foretell; the first has none."""
    request = turn.request
    if request.done == 0:
        request.prompt_logprobs = [None]
    for i in range(turn.count):
        after = request.done + i + 1
        if after < len(request.prompt):
            found = logprobs_of(logits[i], request.prompt[after], request.sampling.logprobs or 0)
            request.prompt_logprobs.append(found)
