"""What the event loop keeps, and the seats and KV blocks of the sequences in it; compiled.

All sequences that decode move together, so their lengths are kept against one *token clock* a
replica: a sequence of c tokens joined at clock T has base c - T and ends when the clock reaches a
number that is known when it joins.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np

from weftline.serve.simulate.kv import (
    NOWHERE,
    Pool,
    below_prefix,
    cached_prefix,
    drop_prefix,
    hold_blocks,
    keep_answer,
    queue_blocks,
)
from weftline.serve.simulate.tables import kernel

NEVER: Final = 1 << 60

REPLICA: Final = np.dtype(
    [
        ("clock", "f8"),  # end of the last step, seconds
        ("before", "f8"),  # end of the step before that
        ("next_change", "f8"),  # when the action under way ends, if nothing arrives
        ("count", "i8"),  # running requests
        ("soonest", "i8"),  # least token clock at which one of them ends
        ("token_clock", "i8"),
        ("fraction", "i8"),  # rest of a token that decode steps have yielded, in 2**-20
        ("decoding", "i8"),
        ("base_sum", "i8"),  # of those that decode
        ("partial", "i8"),  # request whose prompt is in work, or NOWHERE
        ("free", "f8"),  # KV blocks (or parts, where a window caps them) nobody holds
        ("wait_head", "i8"), ("wait_tail", "i8"), ("waiting", "i8"),
        ("pending_seats", "i8"),  # of requests that have ended, not yet seen by the scheduler
        ("pending_blocks", "f8"),
        ("last_ended", "i8"),  # requests that ended with the last step
    ],
    align=True,
)  # fmt: skip
REQUEST: Final = np.dtype(
    [
        ("arrived", "f8"), ("prefill", "i8"), ("decode", "i8"),
        ("first_hash", "i8"), ("hashes", "i8"),  # its prefix blocks
        ("next_wait", "i8"),
        ("base_tokens", "i8"),
        ("todo", "i8"), ("done", "i8"),  # prompt tokens to work on, and behind it
        ("out", "i8"),  # tokens given so far, as of joining or being thrown out
        ("shared", "i8"),  # prefix blocks it holds
        ("queued", "f8"), ("scheduled", "f8"), ("first", "f8"), ("finished", "f8"),
        ("thrown_out", "i8"),
        ("fetch", "i8"),  # tokens whose KV its next chunk has to wait for
        ("loaded", "i8"),  # tokens whose KV came from a slower memory, all admissions together
        ("cached", "i8"),  # prompt tokens found in the cache, all admissions together
        ("replica", "i8"),
    ],
    align=True,
)  # fmt: skip
RUN: Final = np.dtype([("id", "i8"), ("end", "i8")], align=True)
"""A running request and the token clock at which it ends; NEVER while its prompt is worked on."""
CHUNK: Final = np.dtype([("id", "i8"), ("size", "i8")], align=True)
BIN: Final = np.dtype([("busy", "f8"), ("running", "f8"), ("blocks", "f8")])
"""Sums over time of replicas at work, requests and KV blocks."""


class World(NamedTuple):
    """All of it: the one argument of most compiled functions.

    Its name and :class:`Pool`'s stand in the index of compiled code on disk: whoever renames one
    has to clear those files (``*.nbi``).
    """

    tab: Any
    rules: Any
    """[1] of RULES."""
    reps: Any
    """[R] of REPLICA."""
    reqs: Any
    """[N] of REQUEST, in order of arrival."""
    run: Any
    """[R, S] of RUN, oldest first."""
    phases: Any
    """[R, block] decoding sequences by (base + drafted) modulo block."""
    pool: Pool
    chunks: Any
    """[S + 1] of CHUNK: what the next step works on."""
    bins: Any
    """[T] of BIN."""
    width: Any
    """[1] seconds of a bin."""
    ended: Any
    """[N + 1] requests in the order in which they ended; the last place counts them."""


@kernel
def units_of(rules: Any, tokens: int) -> Any:
    """KV blocks that a sequence of ``tokens`` holds; windowed layers stop at their cap."""
    blocks = float(-(-tokens // rules.block))
    if rules.capped_share > 0.0:
        cap = np.ceil(rules.cap_tokens / rules.block)
        return (1.0 - rules.capped_share) * blocks + rules.capped_share * min(blocks, cap)
    return blocks


@kernel
def growth(s: Any, r: int, tokens: int) -> Any:
    """KV blocks that the decoding sequences need for ``tokens`` more tokens each."""
    rules, rep = s.rules[0], s.reps[r]
    if rules.whole or rep.decoding == 0:
        return 0.0
    block, clock = rules.block, rep.token_clock
    if rules.capped_share == 0.0:
        blocks = 0
        for p in range(block):
            if s.phases[r, p]:
                q = (p + clock) % block
                each = (q + tokens + block - 1) // block - (q + block - 1) // block
                blocks += s.phases[r, p] * each
        return float(blocks)
    parts = 0.0
    for k in range(rep.count):
        if s.run[r, k].end != NEVER:
            held = s.reqs[s.run[r, k].id].base_tokens + clock + rules.spec
            parts += units_of(rules, held + tokens) - units_of(rules, held)
    return parts


@kernel
def release(s: Any, r: int, i: int, partial: bool, back: bool) -> Any:
    """Give back the KV of a request that ended or (``back``) comes again; blocks set free."""
    rules, rep, req = s.rules[0], s.reps[r], s.reqs[i]
    if rules.whole:
        tokens = req.prefill + req.decode
    elif partial:
        tokens = req.prefill + req.out
    else:
        tokens = req.base_tokens + rep.token_clock
    freed = units_of(rules, tokens + rules.spec)
    if rules.caching:
        size = rules.hash_tokens // rules.block
        freed -= req.shared * size
        kept = 0
        if rules.answers and not back:
            whole = min(req.hashes, (req.prefill + req.decode) // rules.hash_tokens)
            kept = keep_answer(s.pool, r, req.first_hash + req.shared, whole - req.shared, size,
                               int(freed))  # fmt: skip
        queue_blocks(s.pool, r, -2 - i if back else -1, int(freed) - kept)
        freed += drop_prefix(s.pool, r, req.first_hash, req.shared, size)
        req.shared = 0
    rep.free += freed
    return freed


@kernel
def join(s: Any, r: int, i: int, k: int) -> None:
    """The request in place ``k`` of the running ones starts to decode after ``out`` tokens."""
    rules, rep, req = s.rules[0], s.reps[r], s.reqs[i]
    req.base_tokens = req.prefill + req.out - 1 - rep.token_clock
    s.run[r, k].end = rep.token_clock + req.decode - req.out
    rep.soonest = min(rep.soonest, s.run[r, k].end)
    rep.decoding += 1
    rep.base_sum += req.base_tokens
    s.phases[r, (req.base_tokens + rules.spec) % rules.block] += 1


@kernel
def leave(s: Any, r: int, i: int) -> None:
    """Take a sequence out of the sums over those that decode."""
    rules, rep, req = s.rules[0], s.reps[r], s.reqs[i]
    rep.decoding -= 1
    rep.base_sum -= req.base_tokens
    s.phases[r, (req.base_tokens + rules.spec) % rules.block] -= 1


@kernel
def throw_out(s: Any, r: int) -> None:
    """Stop the newest running request; it waits at the front and is computed again."""
    rep = s.reps[r]
    last = s.run[r, rep.count - 1]
    i = last.id
    req = s.reqs[i]
    partial = last.end == NEVER
    if partial:
        rep.partial = NOWHERE
    else:
        leave(s, r, i)
        req.out = req.decode - (last.end - rep.token_clock)
    release(s, r, i, partial, True)
    rep.count -= 1
    req.thrown_out += 1
    req.next_wait = rep.wait_head
    if rep.waiting == 0:
        rep.wait_tail = i
    rep.wait_head = i
    rep.waiting += 1
    rep.soonest = NEVER
    for k in range(rep.count):
        rep.soonest = min(rep.soonest, s.run[r, k].end)


@kernel
def admit(s: Any, r: int, room: float, seen: float) -> Any:
    """Let the first waiting request in if its KV finds ``room``; blocks taken, or -1."""
    rules, rep, pool = s.rules[0], s.reps[r], s.pool
    i = rep.wait_head
    req = s.reqs[i]
    tokens = req.prefill + req.out
    need = units_of(rules, (req.prefill + req.decode if rules.whole else tokens) + rules.spec)
    size = rules.hash_tokens // rules.block
    full, found, most, queued, fresh = 0, 0, 0, 0, 0
    if rules.caching:
        full = min(req.hashes, req.prefill // rules.hash_tokens)
        most = min(full, (tokens - 1) // rules.hash_tokens)
        found, queued = cached_prefix(pool, r, req.first_hash, most)
        for j in range(req.first_hash + found, req.first_hash + full):
            if pool.prefix[r, pool.ids[j]].cached == 0:
                fresh += 1
            elif pool.prefix[r, pool.ids[j]].refs == 0:
                queued += 1
        need += (fresh + queued - full) * size
    if need > room:
        return -1.0
    known = found * rules.hash_tokens
    if rules.below > 0:
        reach, below = below_prefix(pool, r, req.first_hash, most, rules.below)
        known = reach * rules.hash_tokens
        req.fetch = below * rules.hash_tokens
        req.loaded += req.fetch
        found = reach
    if rules.caching:
        private = int(need) - (fresh + queued) * size
        kept = hold_blocks(pool, r, i, req.first_hash, full, private, fresh * size)
        req.shared = full
        if found == full and kept > 0:
            known += min(kept * rules.block, (tokens - 1 - known) // rules.block * rules.block)
    if rules.hit > 0.0:
        known = max(known, min(int(rules.hit * req.prefill), tokens - 1))
    req.done = known
    req.todo = tokens - known
    req.cached += known
    rep.free -= need
    rep.wait_head = req.next_wait
    rep.waiting -= 1
    if np.isnan(req.scheduled):
        req.scheduled = seen
    s.run[r, rep.count].id = i
    s.run[r, rep.count].end = NEVER
    rep.count += 1
    return need


@kernel
def end_sequences(s: Any, r: int) -> None:
    """Take out all whose end the token clock has reached; their room is seen ``lag`` later."""
    rep = s.reps[r]
    clock = rep.token_clock
    if rep.soonest > clock:
        return
    run = s.run[r]
    kept, ended, freed, least = 0, 0, 0.0, NEVER
    for k in range(rep.count):
        i, end = run[k].id, run[k].end
        if end > clock:
            run[kept].id = i
            run[kept].end = end
            least = min(least, end)
            kept += 1
            continue
        leave(s, r, i)
        freed += release(s, r, i, False, False)
        s.reqs[i].finished = rep.clock
        s.ended[s.ended[len(s.reqs)]] = i
        s.ended[len(s.reqs)] += 1
        ended += 1
    rep.count = kept
    rep.soonest = least
    rep.last_ended += ended
    if s.rules[0].lag == 2:
        rep.pending_seats += ended
        rep.pending_blocks += freed
