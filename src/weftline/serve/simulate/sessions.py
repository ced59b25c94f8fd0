"""Sessions: turns that wait for the answer before, tools that take their time, growing context.

A turn's prompt holds the turns before it with their answers, so a prefix cache finds them while
they last. Its arrival is not drawn: it comes when the answer before has ended and the tool (or the
reader) is done.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from weftline.errors import InputError
from weftline.serve.simulate.traffic import gamma, lengths
from weftline.spec import Traffic

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Ints = NDArray[np.int64]
    Floats = NDArray[np.float64]

__all__ = ["Shape", "Turn", "drawn", "joined"]

BLOCK_TOKENS: Final = 64
"""Tokens of a prefix block of sessions whose text is not known: a multiple of every engine's."""
MOST_TURNS: Final = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What drawn sessions look like; lengths are means in tokens."""

    turns: int
    input_tokens: int
    """Of the first prompt, what all sessions share included."""
    grow_tokens: int
    """New text of every later turn: what a tool returned, or a reader asked."""
    output_tokens: int
    shared_tokens: int = 0
    """Of the first prompt, what all sessions begin with: system prompt and tools."""
    delay_s: float = 0.0
    """Mean time from the end of an answer to the next turn, exponential."""

    def __post_init__(self) -> None:
        if not 1 <= self.turns <= MOST_TURNS:
            raise InputError(f"{self.turns} turns: 1 to {MOST_TURNS:,}", where="--turns")
        if self.shared_tokens > self.input_tokens:
            raise InputError(
                f"{self.shared_tokens:,} tokens shared, of a first prompt of "
                f"{self.input_tokens:,}", where="--shared-prefix",
            )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One turn of a session as a file has it."""

    session: str
    at_s: float | None
    """Its own time, where the file gives one."""
    delay_s: float | None
    """Seconds after the answer before."""
    prompt: int
    answer: int
    hashes: tuple[int, ...]


def drawn(
    rate_per_s: float, requests: int, shape: Shape, *, burstiness: float = 1.0, seed: int = 0,
    spread: float = 0.0,
) -> Traffic:  # fmt: skip
    """Sessions that begin at random and make ``rate_per_s`` requests a second in the mean.

    ``requests`` is rounded up to whole sessions. Raises InputError.
    """
    count = max(1, -(-requests // shape.turns))
    began = gamma(rate_per_s / shape.turns, count, prefill_tokens=1, decode_tokens=1,
                  burstiness=burstiness, seed=seed).arrived_s  # fmt: skip
    rng = np.random.default_rng(seed + 1)
    size = (count, shape.turns)
    first = shape.shared_tokens + lengths(
        max(1, shape.input_tokens - shape.shared_tokens), count, spread, rng
    )
    new = lengths(max(1, shape.grow_tokens), count * shape.turns, spread, rng).reshape(size)
    answer = lengths(shape.output_tokens, count * shape.turns, spread, rng).reshape(size)
    wait = rng.exponential(shape.delay_s, size) if shape.delay_s else np.zeros(size)
    wait[:, 0] = 0.0
    new[:, 0] = first
    before = np.cumsum(answer, axis=1) - answer
    prompt = np.cumsum(new, axis=1) + before
    shared = shape.shared_tokens // BLOCK_TOKENS
    return _traffic(
        f"{count:,} sessions of {shape.turns} turns", began, prompt, answer, wait, shared, seed
    )


def _traffic(
    name: str, began: Floats, prompt: Ints, answer: Ints, wait: Floats, shared: int, seed: int
) -> Traffic:
    """Whole sessions, [sessions, turns], as requests in order of their nominal times."""
    count, turns = prompt.shape
    nominal = (began[:, None] + np.cumsum(wait, axis=1)).ravel()
    number = np.arange(count * turns).reshape(count, turns)
    follows = np.where(np.arange(turns) > 0, number - 1, -1).ravel()
    whole = (prompt + answer).max(axis=1) // BLOCK_TOKENS + 1
    base = shared + np.cumsum(whole) - whole
    blocks = (prompt + answer) // BLOCK_TOKENS
    ids = [
        np.concatenate([np.arange(min(shared, n)), base[s] + np.arange(max(0, n - shared))])
        for s, row in enumerate(blocks) for n in row
    ]  # fmt: skip
    return _ordered(name, nominal, prompt.ravel(), answer.ravel(), follows, wait.ravel(), ids,
                    BLOCK_TOKENS, seed)  # fmt: skip


def _ordered(
    name: str, nominal: Floats, prompt: Ints, answer: Ints, follows: Ints, wait: Floats,
    ids: Sequence[Any], block_tokens: int, seed: int | None,
) -> Traffic:  # fmt: skip
    """Requests sorted by nominal time, what they follow renumbered with them."""
    order = np.argsort(nominal, kind="stable")
    place = np.empty_like(order)
    place[order] = np.arange(order.size)
    follows = np.where(follows >= 0, place[np.maximum(follows, 0)], -1)[order]
    starts = np.concatenate([[0], np.cumsum([len(ids[i]) for i in order])]).astype(np.int64)
    flat = np.concatenate([np.asarray(ids[i], np.int64) for i in order]) if len(ids) else None
    return Traffic(
        name=name, arrived_s=nominal[order] - nominal[order[0]], prefill_tokens=prompt[order],
        decode_tokens=answer[order], hash_starts=starts, hash_ids=flat,
        hash_block_tokens=block_tokens, follows=follows, wait_s=wait[order], seed=seed,
    )  # fmt: skip


def joined(turns: Sequence[Turn], *, name: str, hash_block_tokens: int) -> Traffic:
    """A file's turns as traffic, in the order in which the file has them.

    A turn with a ``delay`` waits for the answer before; one with a time of its own comes then. A
    prompt shorter than the context before it is the new text alone: the context is put in front.
    Where no turn has hashes the prefix blocks follow from the context.
    """
    last: dict[str, int] = {}
    held: dict[str, int] = {}
    base: dict[str, int] = {}
    n = len(turns)
    prompt, follows = np.zeros(n, np.int64), np.full(n, -1, np.int64)
    nominal, wait = np.zeros(n), np.zeros(n)
    for i, t in enumerate(turns):
        before = last.get(t.session, -1)
        context = held.get(t.session, 0)
        prompt[i] = t.prompt if t.hashes or t.prompt >= context else context + t.prompt
        if before >= 0 and (t.delay_s is not None or t.at_s is None):
            follows[i], wait[i] = before, t.delay_s or 0.0
            nominal[i] = nominal[before] + wait[i]
        else:
            nominal[i] = t.at_s or 0.0
        last[t.session], held[t.session] = i, int(prompt[i]) + t.answer
    answer = np.array([t.answer for t in turns], dtype=np.int64)
    if any(t.hashes for t in turns):
        flat = np.unique(np.array([h for t in turns for h in t.hashes], dtype=np.int64))
        ids = [np.searchsorted(flat, np.array(t.hashes, dtype=np.int64)) for t in turns]
        return _ordered(name, nominal, prompt, answer, follows, wait, ids, hash_block_tokens, None)
    free = 0
    for session, most in held.items():
        base[session], free = free, free + most // BLOCK_TOKENS + 1
    ids = [base[t.session] + np.arange((prompt[i] + t.answer) // BLOCK_TOKENS)
           for i, t in enumerate(turns)]  # fmt: skip
    return _ordered(name, nominal, prompt, answer, follows, wait, ids, BLOCK_TOKENS, None)
