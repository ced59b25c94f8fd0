"""Step times for the simulation: compiled look-ups, and exact sums over runs of decode steps.

All tables are linear in the size between grid points and beyond the last one. While the batch of a
decode run stays the same, only the mean context grows, by the same number of tokens a step; so the
step time is piecewise linear in the step number and a run of n steps has a closed form in each
cell of the context grid. Nothing here loops over steps.

The tables of a surface stand one after the other in one array (`tab`), and a record of ``RULES``
says where each begins: compiled code is much faster with one array than with eight.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import numpy as np

from weftline._compiled import compiled, has_option

F = TypeVar("F", bound=Callable[..., Any])
_COUNTED: Final[Any] = {"_nrt": False} if has_option("_nrt") else {}


def kernel(function: F) -> F:
    """Compiles a function of the simulation, and keeps the result on disk.

    None of them allocates, so the arrays they share need no counting of references, which takes
    half of the time.
    """
    return compiled(function, **_COUNTED)


FIXED_ONE: Final = 1 << 20
"""Tokens a step are counted in units of 2**-20, so that a run of steps adds up exactly."""

RULES: Final = np.dtype(
    [
        # Where tables begin in `tab`, and how long their grids are.
        ("token_at", "i8"), ("tokens", "i8"),
        ("batch_at", "i8"), ("batches", "i8"),
        ("context_at", "i8"), ("contexts", "i8"),
        ("chunk_at", "i8"), ("chunks", "i8"),
        ("behind_at", "i8"), ("behinds", "i8"),
        ("prompts_at", "i8"),  # token times of an iteration with prompt chunks; same grid
        ("mixed_at", "i8"),  # decode attention beside a prompt chunk; same grids as alone
        # Scalars of the surface.
        ("host_s", "f8"), ("host_per_sequence_s", "f8"), ("prefill_host_s", "f8"),
        ("spec", "i8"),  # tokens drafted beside the one that a step must compute
        ("advance", "i8"),  # tokens a decode step yields, in units of 2**-20
        ("capped_share", "f8"), ("cap_tokens", "f8"),
        # What holds for every replica.
        ("max_seqs", "i8"), ("budget", "i8"), ("mixed", "i8"), ("lag", "i8"), ("block", "i8"),
        ("whole", "i8"), ("prompts", "i8"), ("caching", "i8"), ("hash_tokens", "i8"),
        ("capacity", "i8"), ("ready", "i8"), ("routing", "i8"),
        ("answers", "i8"),  # whether answers stay in the prefix cache, for the next turn
        ("below", "i8"),  # prefix blocks that a slower memory holds of what was pushed out
        ("load_s", "f8"),  # seconds that a token's KV takes from there
        ("hit", "f8"),  # share of a prompt that a cache outside this model is said to hold
    ],
    align=True,
)  # fmt: skip
"""One record: the surface's scalars and the scheduler's rules (see `scheduler.Scheduler`)."""

_GRIDS: Final = (
    ("token", "token_grid", "token_s"),
    ("batch", "decode_batch_grid", None),
    ("context", "decode_context_grid", "decode_attention_s"),
    ("chunk", "prefill_tokens_grid", None),
    ("behind", "prefill_context_grid", "prefill_attention_s"),
)
"""Values stand right behind the second grid of their table."""


def tables_of(values: Mapping[str, Any]) -> tuple[Any, Any]:
    """(the tables as one array, a record of RULES with the surface's part filled in).

    ``values`` is what ``StepSurface.as_arrays()`` gives.
    """
    rules = np.zeros(1, RULES)
    parts: list[Any] = []
    at = 0
    for name, grid, table in _GRIDS:
        points = np.asarray(values[grid], np.float64).ravel()
        rules[f"{name}_at"] = at
        rules[{"batch": "batches"}.get(name, f"{name}s")] = points.size
        parts.append(points)
        if table is not None:
            parts.append(np.asarray(values[table], np.float64).ravel())
            at += parts[-1].size
        at += points.size
    mixed = values.get("decode_attention_mixed_s")
    rules["mixed_at"] = rules["context_at"] + rules["contexts"]
    if mixed is not None:
        rules["mixed_at"] = at
        parts.append(np.asarray(mixed, np.float64).ravel())
        at += parts[-1].size
    prompts = values.get("token_mixed_s")
    rules["prompts_at"] = rules["token_at"] + rules["tokens"]
    if prompts is not None:
        rules["prompts_at"] = at
        parts.append(np.asarray(prompts, np.float64).ravel())
    rules["host_s"] = values["host_s"]
    rules["prefill_host_s"] = values.get("prefill_host_s", 0.0)
    rules["host_per_sequence_s"] = values["host_per_sequence_s"]
    rules["spec"] = values.get("spec_tokens", 0)
    rules["advance"] = max(FIXED_ONE, round(float(values["tokens_per_step"]) * FIXED_ONE))
    rules["capped_share"] = values.get("kv_capped_share", 0.0)
    rules["cap_tokens"] = values.get("kv_cap_tokens", 0.0)
    return np.concatenate(parts), rules


@kernel
def cell_of(tab: Any, at: int, points: int, x: float) -> Any:
    """Place in ``tab`` of the left edge of the cell that holds or is nearest to ``x``."""
    low, high = at, at + points - 1
    while high - low > 1:
        middle = (low + high) >> 1
        if tab[middle] <= x:
            low = middle
        else:
            high = middle
    return low


@kernel
def lookup(tab: Any, at: int, points: int, values: int, x: float) -> Any:
    """Linear in ``x``; beyond the ends the outer cells go on, never below zero.

    The grid of ``points`` begins at ``at``, its values at ``values``.
    """
    if points == 1:
        return tab[values]
    i = cell_of(tab, at, points, x)
    weight = (x - tab[i]) / (tab[i + 1] - tab[i])
    v = values + i - at
    return max(0.0, tab[v] + weight * (tab[v + 1] - tab[v]))


@kernel
def token_s(tab: Any, rules: Any, tokens: float) -> Any:
    """What depends on the tokens of an iteration alone, seconds."""
    return lookup(tab, rules.token_at, rules.tokens, rules.token_at + rules.tokens, tokens)


@kernel
def prompt_token_s(tab: Any, rules: Any, tokens: float) -> Any:
    """The same of an iteration that holds prompt chunks, which is launched kernel by kernel."""
    return lookup(tab, rules.token_at, rules.tokens, rules.prompts_at, tokens)


@kernel
def prefill_attention_s(tab: Any, rules: Any, tokens: float, context: float) -> Any:
    """Attention of one chunk of ``tokens`` behind ``context`` tokens, seconds."""
    at, points = rules.behind_at, rules.behinds
    values = at + points
    if rules.chunks == 1:
        return lookup(tab, at, points, values, context)
    i = cell_of(tab, rules.chunk_at, rules.chunks, tokens)
    weight = (tokens - tab[i]) / (tab[i + 1] - tab[i])
    row = values + (i - rules.chunk_at) * points
    low = lookup(tab, at, points, row, context)
    high = lookup(tab, at, points, row + points, context)
    return max(0.0, low + weight * (high - low))


@kernel
def decode_row(tab: Any, rules: Any, values: int, batch: int) -> Any:
    """(place of the row below ``batch``, of the row above, its weight).

    ``values`` is where the decode table begins, the one for pure or the one for mixed steps.
    """
    if rules.batches == 1:
        return values, values, 0.0
    i = cell_of(tab, rules.batch_at, rules.batches, float(batch))
    row = values + (i - rules.batch_at) * rules.contexts
    return row, row + rules.contexts, (batch - tab[i]) / (tab[i + 1] - tab[i])


@kernel
def between(tab: Any, low: int, high: int, weight: float) -> Any:
    """The value between two places of ``tab``, never below zero."""
    return max(0.0, tab[low] + weight * (tab[high] - tab[low]))


@kernel
def decode_attention_s(tab: Any, rules: Any, values: int, batch: int, context: float) -> Any:
    """Attention of one decode step of ``batch`` sequences with mean ``context``, seconds."""
    low, high, weight = decode_row(tab, rules, values, batch)
    if rules.contexts == 1:
        return between(tab, low, high, weight)
    i = cell_of(tab, rules.context_at, rules.contexts, context)
    j = i - rules.context_at
    first = between(tab, low + j, high + j, weight)
    last = between(tab, low + j + 1, high + j + 1, weight)
    return max(0.0, first + (context - tab[i]) / (tab[i + 1] - tab[i]) * (last - first))


@kernel
def decode_base_s(tab: Any, rules: Any, batch: int) -> Any:
    """What a decode step takes beside attention, seconds."""
    tokens = float(batch * (1 + rules.spec))
    return rules.host_s + rules.host_per_sequence_s * batch + token_s(tab, rules, tokens)


@kernel
def decode_run(tab: Any, rules: Any, batch: int, context: float, steps: int,
               within_s: float) -> Any:  # fmt: skip
    """(steps taken, their seconds): as many as ``steps``, or the first that reach ``within_s``.

    ``context`` is the mean of the first step. A run that is cut has the least number of steps
    whose seconds are ``within_s`` or more.
    """
    base = decode_base_s(tab, rules, batch)
    grow = rules.advance / FIXED_ONE
    low, high, weight = decode_row(tab, rules, rules.context_at + rules.contexts, batch)
    taken, total = 0, 0.0
    while taken < steps:
        count = steps - taken
        if rules.contexts == 1:
            first, slope = between(tab, low, high, weight), 0.0
        else:
            i = cell_of(tab, rules.context_at, rules.contexts, context)
            j = i - rules.context_at
            v0 = between(tab, low + j, high + j, weight)
            v1 = between(tab, low + j + 1, high + j + 1, weight)
            slope = (v1 - v0) / (tab[i + 1] - tab[i])
            first = v0 + slope * (context - tab[i])
            if j + 2 < rules.contexts:
                count = min(count, max(1, math.ceil((tab[i + 1] - context) / grow)))
            if first < 0.0:
                first, slope = 0.0, max(0.0, slope)
        step, more = base + first, slope * grow
        seconds = run_s(step, more, count)
        if total + seconds >= within_s:
            need = first_to_reach(step, more, within_s - total, count)
            return taken + need, total + run_s(step, more, need)
        taken += count
        total += seconds
        context += count * grow
    return taken, total


@kernel
def run_s(step: float, more: float, steps: int) -> Any:
    """Seconds of ``steps`` steps that take ``step``, ``step + more``, ``step + 2 more``..."""
    return steps * step + more * (float(steps) * (steps - 1.0) / 2.0)


@kernel
def first_to_reach(step: float, more: float, wanted: float, most: int) -> Any:
    """The least n from 1 to ``most`` whose :func:`run_s` reaches ``wanted``."""
    half = step - more / 2.0
    # Root of half n + more n**2 / 2 = wanted, in the form that loses no digits for small `more`.
    root = half + math.sqrt(max(0.0, half * half + 2.0 * more * wanted))
    guess = 2.0 * wanted / max(root, 1e-300)
    n = max(1, math.ceil(min(guess, float(most))))
    while n > 1 and run_s(step, more, n - 1) >= wanted:
        n -= 1
    while n < most and run_s(step, more, n) < wanted:
        n += 1
    return n


@kernel
def advance_of(rules: Any, fraction: int, steps: int) -> Any:
    """Whole tokens that ``steps`` decode steps yield after a rest of ``fraction`` / 2**20."""
    return (fraction + rules.advance * steps) // FIXED_ONE


@kernel
def steps_to_advance(rules: Any, fraction: int, tokens: int) -> Any:
    """The least number of steps, 1 at least, that yield ``tokens``."""
    need = tokens * FIXED_ONE - fraction
    return max(1, -(-need // rules.advance))
