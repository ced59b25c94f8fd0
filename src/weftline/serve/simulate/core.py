"""The event loop, compiled: from one change of a batch to the next.

A replica acts in *steps* of the engine. A step with prompt chunks is one action; a run of pure
decode steps is one action too, until a sequence ends, blocks run out, or a request arrives that
could be let in. What an action does is decided by what the scheduler can see at its start: the end
of the last step, or of the one before where the engine schedules a step ahead.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from weftline.serve.simulate.kv import NOWHERE, take_blocks
from weftline.serve.simulate.state import (
    NEVER,
    admit,
    end_sequences,
    growth,
    join,
    throw_out,
)
from weftline.serve.simulate.tables import (
    FIXED_ONE,
    advance_of,
    decode_attention_s,
    decode_base_s,
    decode_run,
    kernel,
    prefill_attention_s,
    prompt_token_s,
    steps_to_advance,
)

ROUND_ROBIN, LEAST_LOADED, PREFIX_AWARE = 0, 1, 2
INSTANT_S: Final = 1e-9
"""Actions that begin within this of each other begin at once."""
DUE: Final = np.dtype([("at", "f8"), ("id", "i8")], align=True)
TURN: Final = np.dtype([("next", "i8"), ("wait", "f8"), ("first", "i8")], align=True)
"""The request that follows one's answer or NOWHERE; seconds from the end of the one it follows;
1 where it follows none."""


@kernel
def note(bins: Any, width: float, rep: Any, held: float, end: float) -> None:
    """Add the time from the replica's clock to ``end`` to the timeline."""
    start = rep.clock
    most = len(bins) - 1
    first, last = min(most, int(start / width)), min(most, int(end / width))
    for b in range(first, last + 1):
        left = start if b == first else b * width
        right = end if b == last else (b + 1) * width
        bins[b].busy += right - left
        bins[b].running += (right - left) * rep.count
        bins[b].blocks += (right - left) * held


@kernel
def step_ends(s: Any, r: int, before: float, clock: float, grown: float, tokens: int,
              steps: int) -> None:  # fmt: skip
    """Time goes on to ``clock``, every decoding sequence by ``tokens`` in ``steps`` steps."""
    rules, rep = s.rules[0], s.reps[r]
    note(s.bins, s.width[0], rep, rules.capacity - rep.free, clock)
    rep.before = before
    rep.clock = clock
    rep.pending_seats = 0
    rep.pending_blocks = 0.0
    rep.last_ended = 0
    rep.fraction += steps * rules.advance - tokens * FIXED_ONE
    rep.token_clock += tokens
    rep.free -= grown
    if rules.caching:
        take_blocks(s.pool, r, int(grown))
    end_sequences(s, r)


@kernel
def mean_context(rep: Any) -> Any:
    """Mean tokens that the next decode step attends to, parts of a token included."""
    return rep.base_sum / rep.decoding + rep.token_clock + rep.fraction / FIXED_ONE + 1.0


@kernel
def step_with_prompts(s: Any, r: int, chunks: int, grown: float, tokens: int) -> None:
    """One step that works on prompt chunks, and decodes where the engine mixes the two."""
    rules, rep = s.rules[0], s.reps[r]
    batch = rep.decoding if rules.mixed else 0
    total = batch * (1 + rules.spec)
    took = rules.host_s + rules.prefill_host_s + rules.host_per_sequence_s * batch
    if batch:
        took += decode_attention_s(s.tab, rules, rules.mixed_at, batch, mean_context(rep))
    fetched = 0
    for c in range(chunks):
        req = s.reqs[s.chunks[c].id]
        size, behind = s.chunks[c].size, req.done
        total += size
        fetched += req.fetch
        req.fetch = 0
        took += prefill_attention_s(s.tab, rules, float(size), float(behind))
    took += prompt_token_s(s.tab, rules, float(total))
    # KV comes layer by layer while the step computes: the longer of the two counts.
    took = max(took, fetched * rules.load_s)
    start = rep.clock
    step_ends(s, r, start, start + took, grown, tokens if batch else 0, 1 if batch else 0)
    # Those that ended came before: the chunks belong to the last of the running ones.
    k = rep.count - chunks
    rep.partial = NOWHERE
    for c in range(chunks):
        i = s.chunks[c].id
        req = s.reqs[i]
        req.done += s.chunks[c].size
        req.todo -= s.chunks[c].size
        if req.todo > 0:
            rep.partial = i
        else:
            req.out += 1
            if np.isnan(req.first):
                req.first = rep.clock
            join(s, r, i, k + c)
    end_sequences(s, r)


@kernel
def steps_with_room(s: Any, r: int, steps: int) -> Any:
    """The most decode steps, up to ``steps``, whose KV blocks are there; 1 at least."""
    rules, rep = s.rules[0], s.reps[r]
    room = rep.free - rep.pending_blocks
    most = advance_of(rules, rep.fraction, steps)
    # Cheap bound first: every sequence begins a block with its next token.
    if rep.decoding * (1.0 + (most - 1) // rules.block) <= room:
        return steps
    if growth(s, r, most) <= room:
        return steps
    low, high = 1, steps
    while high - low > 1:
        middle = (low + high) >> 1
        if growth(s, r, advance_of(rules, rep.fraction, middle)) <= room:
            low = middle
        else:
            high = middle
    return low


@kernel
def decode_steps(s: Any, r: int, until: float, single: bool) -> Any:
    """A run of decode steps to the next change; False where it would end after ``until``."""
    rules, rep = s.rules[0], s.reps[r]
    clock = rep.clock
    steps = steps_to_advance(rules, rep.fraction, rep.soonest - rep.token_clock)
    within = np.inf
    seen = rep.before if rules.lag == 2 else clock
    if single:
        steps = 1
    elif rep.waiting > 0:
        next_s = s.reqs[rep.wait_head].arrived
        if rep.pending_seats > 0 or seen < next_s <= clock:
            steps = 1
        elif next_s > clock:
            within = next_s - clock
    steps = steps_with_room(s, r, steps)
    batch, mean = rep.decoding, mean_context(rep)
    taken, took = decode_run(s.tab, rules, batch, mean, steps, within)
    if clock + took > until and not single:
        rep.next_change = clock + took
        return False
    before = clock
    if taken > 1:
        last = mean + (taken - 1) * (rules.advance / FIXED_ONE)
        before += took - decode_base_s(s.tab, rules, batch)
        alone = rules.context_at + rules.contexts
        before -= decode_attention_s(s.tab, rules, alone, batch, last)
    tokens = advance_of(rules, rep.fraction, taken)
    step_ends(s, r, before, clock + took, growth(s, r, tokens), tokens, taken)
    return True


@kernel
def admit_ready(s: Any, r: int, seen: float) -> None:
    """Let in requests whose KV has been sent over: they decode in this very step."""
    rules, rep = s.rules[0], s.reps[r]
    one = advance_of(rules, rep.fraction, 1)
    while rep.waiting > 0 and rep.count + rep.pending_seats < rules.max_seqs:
        i = rep.wait_head
        if s.reqs[i].thrown_out > 0 or s.reqs[i].arrived > seen:
            return
        room = rep.free - rep.pending_blocks - growth(s, r, one)
        # One block beside, for the token of this step; not where the request is alone.
        room -= 1.0 if rep.count > 0 else 0.0
        if admit(s, r, room, seen) < 0.0:
            return
        s.reqs[i].out = 1
        s.reqs[i].todo = 0
        join(s, r, i, rep.count - 1)


@kernel
def make_room(s: Any, r: int, tokens: int) -> Any:
    """(blocks the next decode step takes, whether requests were thrown out for them)."""
    rep = s.reps[r]
    thrown = False
    grown = growth(s, r, tokens)
    while grown > rep.free - rep.pending_blocks and rep.count > 1:
        throw_out(s, r)
        thrown = True
        grown = growth(s, r, tokens)
    return grown, thrown


@kernel
def pick_chunks(s: Any, r: int, left: int, room: float, seen: float) -> Any:
    """Fill the step with prompt chunks of ``left`` tokens in all; how many."""
    rules, rep, chunk = s.rules[0], s.reps[r], s.chunks
    chunks = 0
    if rep.partial != NOWHERE and left > 0:
        chunk[0].id = rep.partial
        chunk[0].size = min(s.reqs[rep.partial].todo, left)
        left -= chunk[0].size
        chunks = 1
    while (
        left > 0
        and rep.waiting > 0
        and s.reqs[rep.wait_head].arrived <= seen
        and rep.count + rep.pending_seats < rules.max_seqs
        and (rules.prompts == 0 or chunks < rules.prompts)
        and (not rules.ready or s.reqs[rep.wait_head].thrown_out > 0)
    ):
        i = rep.wait_head
        taken = admit(s, r, room, seen)
        if taken < 0.0:
            break
        room -= taken
        chunk[chunks].id = i
        chunk[chunks].size = min(s.reqs[i].todo, left)
        left -= chunk[chunks].size
        chunks += 1
    return chunks


@kernel
def advance(s: Any, r: int, until: float) -> None:
    """Do all actions of a replica that start before ``until`` and that no arrival can change."""
    rules, rep = s.rules[0], s.reps[r]
    while True:
        if rep.count == 0:
            if rep.waiting == 0:
                rep.next_change = np.inf
                return
            start = max(rep.clock, s.reqs[rep.wait_head].arrived)
            if start >= until:
                rep.next_change = start
                return
            rep.pending_seats = 0
            rep.pending_blocks = 0.0
            rep.clock = start
            rep.before = start
        if rep.clock >= until:
            rep.next_change = rep.clock
            return
        seen = rep.before if rules.lag == 2 else rep.clock
        if rules.ready and rep.partial == NOWHERE:
            admit_ready(s, r, seen)
        # Where nobody waits and no prompt is in work, a run of decode steps is all there is.
        busy = rep.partial != NOWHERE or rep.waiting > 0
        tokens = advance_of(rules, rep.fraction, 1)
        grown, thrown, left = 0.0, False, rules.budget
        if rules.mixed:
            grown, thrown = make_room(s, r, tokens)
            left -= rep.decoding * (1 + rules.spec)
        if busy or thrown:
            room = rep.free - rep.pending_blocks - grown
            chunks = pick_chunks(s, r, left, -1.0 if thrown else room, seen)
            if chunks:
                step_with_prompts(s, r, chunks, grown, tokens)
                continue
        if not rules.mixed:
            thrown = make_room(s, r, tokens)[1]
        if not decode_steps(s, r, until, thrown):
            return


@kernel
def load_of(rep: Any, at: float) -> Any:
    """Requests that a replica has in hand at time ``at``."""
    load = rep.count + rep.waiting
    # A step under way may have been carried out already: its ends are not yet known.
    return load + rep.last_ended if rep.clock > at else load


@kernel
def route(rules: Any, reps: Any, req: Any, ids: Any, owner: Any, i: int) -> Any:
    """The replica that a request is sent to; ``owner`` is who was last sent a prefix."""
    if rules.routing == ROUND_ROBIN:
        return i % len(reps)
    best, least = 0, NEVER
    for r in range(len(reps)):
        load = load_of(reps[r], req.arrived)
        if load < least:
            best, least = r, load
    if rules.routing == PREFIX_AWARE and rules.caching:
        known = NOWHERE
        for j in range(req.first_hash, req.first_hash + req.hashes):
            if owner[ids[j]] == NOWHERE:
                break
            known = owner[ids[j]]
        if known != NOWHERE and load_of(reps[known], req.arrived) <= least + max(4, least // 2):
            best = known
        for j in range(req.first_hash, req.first_hash + req.hashes):
            owner[ids[j]] = best
    return best


@kernel
def push(s: Any, r: int, i: int) -> None:
    """Request ``i`` enters the queue of replica ``r``, which sees it at the end of a step."""
    rules, rep, req = s.rules[0], s.reps[r], s.reqs[i]
    req.queued = max(req.arrived, rep.clock)
    if rep.clock < req.arrived and rep.decoding > 0:
        within = req.arrived - rep.clock
        _, took = decode_run(s.tab, rules, rep.decoding, mean_context(rep), NEVER, within)
        req.queued = rep.clock + took
    req.replica = r
    req.next_wait = NOWHERE
    if rep.waiting == 0:
        rep.wait_head = i
    else:
        s.reqs[rep.wait_tail].next_wait = i
    rep.wait_tail = i
    rep.waiting += 1
    rep.next_change = -np.inf


@kernel
def sink(heap: Any, count: int, at: float, i: int) -> None:
    """Put request ``i``, due at ``at``, on a heap of ``count``, the first to come on top."""
    k = count
    while k > 0:
        above = (k - 1) >> 1
        if heap[above].at <= at:
            break
        heap[k].at = heap[above].at
        heap[k].id = heap[above].id
        k = above
    heap[k].at = at
    heap[k].id = i


@kernel
def lift(heap: Any, count: int) -> None:
    """Take the top off a heap of ``count``."""
    last = count - 1
    at, i = heap[last].at, heap[last].id
    k = 0
    while True:
        below = 2 * k + 1
        if below >= last:
            break
        if below + 1 < last and heap[below + 1].at < heap[below].at:
            below += 1
        if heap[below].at >= at:
            break
        heap[k].at = heap[below].at
        heap[k].id = heap[below].id
        k = below
    heap[k].at = at
    heap[k].id = i


@kernel
def run_turns(s: Any, owner: Any, fits: Any, heap: Any, turn: Any) -> None:
    """Simulate requests of which some follow the answers of others.

    ``turn`` says which request follows each and how long after its end. What happens next is
    carried out, an arrival or an action of one replica: an answer's end is then never before
    anything that was carried out, and so is no arrival that it causes.
    """
    reps = s.reps
    count = 0
    for i in range(len(s.reqs)):
        if turn[i].first and fits[i]:
            sink(heap, count, s.reqs[i].arrived, i)
            count += 1
    seen = 0
    while True:
        best, now = NOWHERE, np.inf
        for r in range(len(reps)):
            if reps[r].next_change < now:
                best, now = r, reps[r].next_change
        if count > 0 and heap[0].at <= now:
            now, i = heap[0].at, heap[0].id
            lift(heap, count)
            count -= 1
            s.reqs[i].arrived = now
            r = route(s.rules[0], reps, s.reqs[i], s.pool.ids, owner, i)
            push(s, r, i)
            # What it can begin at once begins; what ends later is looked at again.
            advance(s, r, now + INSTANT_S)
        elif best == NOWHERE:
            return
        else:
            advance(s, best, now + INSTANT_S)
        while seen < s.ended[len(s.reqs)]:
            done = s.ended[seen]
            seen += 1
            follower = turn[done].next
            while follower != NOWHERE and not fits[follower]:
                follower = turn[follower].next
            if follower != NOWHERE:
                sink(heap, count, s.reqs[done].finished + turn[follower].wait, follower)
                count += 1


@kernel
def run_all(s: Any, owner: Any, fits: Any) -> None:
    """Simulate all requests that ``fits`` lets in, to the end of the last one."""
    rules, reps = s.rules[0], s.reps
    for i in range(len(s.reqs)):
        if not fits[i]:
            continue
        at = s.reqs[i].arrived
        if rules.routing != ROUND_ROBIN:
            for r in range(len(reps)):
                if reps[r].next_change <= at:
                    advance(s, r, at)
        r = route(rules, reps, s.reqs[i], s.pool.ids, owner, i)
        if reps[r].next_change <= at:
            advance(s, r, at)
        push(s, r, i)
    for r in range(len(reps)):
        advance(s, r, np.inf)
