"""From logits to tokens: each row by its own request's wishes.

A draw follows from the request's seed and the token's place alone (a counter-based generator), so
batches, preemption and chunks never change what a seed gives.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from weftline.runtime.server.engine.requests import Logprobs, Request, Sampling

__all__ = ["choose", "logprobs_of"]


def choose(logits: torch.Tensor, requests: Sequence[Request]) -> list[tuple[int, Logprobs | None]]:
    """A token for each row of ``logits`` [requests, vocabulary], fp32."""
    likeliest = logits.argmax(dim=-1).tolist()
    found: list[tuple[int, Logprobs | None]] = []
    for row, best, request in zip(logits, likeliest, requests, strict=True):
        wish = request.sampling
        plain = wish.temperature == 0 and not _changes(wish, request)
        token = best if plain else _draw(_changed(row, request), wish, request.generated)
        told = None if wish.logprobs is None else logprobs_of(row, token, wish.logprobs)
        found.append((token, told))
    return found


def logprobs_of(row: torch.Tensor, token: int, alternatives: int) -> Logprobs:
    """Of a token under a row of logits [vocabulary], and the likeliest beside it."""
    all_of = torch.log_softmax(row, dim=-1)
    values, ids = all_of.topk(min(alternatives, len(row)))
    top = tuple(zip(ids.tolist(), values.tolist(), strict=True))
    return Logprobs(float(all_of[token]), top)


def _changes(wish: Sampling, request: Request) -> bool:
    return bool(
        wish.logit_bias or wish.presence_penalty or wish.frequency_penalty
        or (wish.min_tokens > request.generated and wish.stop_ids)
    )  # fmt: skip


def _changed(row: torch.Tensor, request: Request) -> torch.Tensor:
    """The row with penalties, biases, and without ends that come too early."""
    wish = request.sampling
    if not _changes(wish, request):
        return row
    row = row.clone()
    said = request.tokens[len(request.prompt) :]
    if said and (wish.presence_penalty or wish.frequency_penalty):
        ids, times = np.unique(said, return_counts=True)
        off = wish.presence_penalty + wish.frequency_penalty * times
        row[torch.from_numpy(ids)] -= torch.from_numpy(off).to(row.dtype)
    for token, bias in wish.logit_bias.items():
        row[token] += bias
    if wish.min_tokens > request.generated:
        row[list(wish.stop_ids)] = -torch.inf
    return row


def _draw(row: torch.Tensor, wish: Sampling, place: int) -> int:
    """The token at ``place`` of the answer."""
    if wish.temperature == 0:
        return int(row.argmax())
    scaled = row.double() / wish.temperature
    if wish.top_k:
        lowest = scaled.topk(min(wish.top_k, len(row))).values[-1]
        scaled = scaled.masked_fill(scaled < lowest, -torch.inf)
    chances = torch.softmax(scaled, dim=-1)
    if wish.top_p < 1:
        ordered, ids = chances.sort(descending=True, stable=True)
        beyond = ordered.cumsum(0) - ordered >= wish.top_p
        chances[ids[beyond]] = 0
    sums = chances.cumsum(0)
    draw = np.random.Generator(np.random.Philox(key=wish.seed, counter=place)).random()
    found = int(torch.searchsorted(sums, draw * float(sums[-1]), right=True))
    return min(found, int(chances.nonzero()[-1]))
