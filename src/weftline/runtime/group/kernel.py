"""The interpreter: all pieces and streams of one collective, without Python and without its lock.

Several pieces are on their way at once, one a slot; each goes on until it must wait, then the next
does. Slots share nothing, so how their pieces interleave cannot matter. When none can go on the
loop spins, then yields, then says so and sleeps on its bell until another rank has told something:
it takes no core from the rank that it waits for, whatever their priorities. It returns to Python
now and then, which looks whether that rank still lives, and calls again.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from weftline._compiled import compiled
from weftline.runtime.group.machine import (
    fence,
    load,
    nap,
    now_ns,
    receive_some,
    send_some,
    sleep_on,
    store,
    swap,
    wake,
    yield_core,
)  # fmt: skip
from weftline.runtime.group.program import (
    ARRIVE,
    COPY,
    FETCH,
    FLUSH,
    IN,
    JOIN,
    MIRROR,
    MOVE,
    OUT,
    POST,
    PUT,
    RECV,
    SEND,
    SLOT,
    START,
    SUM,
    WAIT,
)  # fmt: skip
from weftline.runtime.group.sums import AT_ONCE, copy, fold

__all__ = ["BLOCK_BYTES", "CONTEXT", "LINE", "STATE", "advance", "flow"]

LINE: Final = 64
"""Bytes of a flag's cache line."""
CONTEXT: Final = (
    "input", "output", "size", "kind", "pieces", "advance", "first", "slots", "streams", "rank",
    "ranks", "values", "spin", "width", "stalled_peer", "stalled_op", "slot_bytes", "credit_ns",
    "clocks", "patience_ns", "linked", "due",
)  # fmt: skip
"""What ``context`` holds, in this order: addresses, element size and kind, pieces and elements a
piece, the number of the first piece, slots in use, streams, who and how many, values a use, spins
before yielding, flags a slot, who was waited for last and in what, and the emulation's own."""
_INPUT, _OUTPUT, _SIZE, _KIND, _PIECES, _ADVANCE, _FIRST, _SLOTS, _STREAMS = range(9)
_RANK, _RANKS, _VALUES, _SPIN, _WIDTH, _PEER, _OP, _SLOT_BYTES = range(9, 17)
_CREDIT, _CLOCKS, _PATIENCE, _LINKED, _DUE = range(17, 22)
STATE: Final = 8
"""Words of the state of one stream of one slot."""
_PC, _PIECE, _RUNNING, _SENT_FROM, _SENT_TO, _GOT, _STARTED, _STREAM = range(8)
BLOCK_BYTES: Final = 4096
"""Of each rank that are summed before they are written again: all are in the nearest cache."""
_YIELDS: Final = 4
"""Before it sleeps: of use where the rank that is waited for is next on this core."""
_NAP_NS: Final = 50_000
"""Between looks at sockets."""
_SLEEP_NS: Final = 2_000_000
"""Between looks at flags; they ring before."""
_AHEAD_NS: Final = 200_000
"""A packet may ask for its turn this long before its forerunner has left: fewer awakenings."""
_POLL_NS: Final = 100_000
"""Between looks at flags, in an emulated network."""
DONE, STALLED, BROKEN = 0, 1, 2


@compiled
def _flag(flags: Any, rank: int, slot: int, stream: int, width: int) -> int:
    """Address of a flag; stream ``width - 1`` counts uses of the slot that are over."""
    return flags[rank] + (slot * width + stream) * LINE


@compiled
def _tell(context: Any, flags: Any, near: Any, place: int, value: int) -> None:
    """Set a flag, and ring for the ranks of this host that sleep.

    Who goes to sleep says so, then looks at all flags once more: one of the two sees the other.
    """
    store(place, value)
    fence()
    for r in range(context[_RANKS]):
        if near[r] and r != context[_RANK]:
            bell = flags[r] - LINE
            if load(bell + 8):
                store(bell + 8, 0)
                wake(bell)


@compiled
def _fold_all(kind: int, inputs: Any, ranks: int, at: int, to: int, block: int, n: int) -> None:
    """Sum ``n`` elements of all inputs in rank order, as many at once as one pass takes."""
    done = min(ranks, AT_ONCE)
    third = inputs[2] + at if done > 2 else 0
    fourth = inputs[3] + at if done > 3 else 0
    target = to if done == ranks else block
    fold(kind, done, target, inputs[0] + at, inputs[1] + at, third, fourth, n)
    while done < ranks:
        more = min(ranks - done, AT_ONCE - 1)
        third = inputs[done + 1] + at if more > 1 else 0
        fourth = inputs[done + 2] + at if more > 2 else 0
        target = to if done + more == ranks else block
        fold(kind, more + 1, target, block, inputs[done] + at, third, fourth, n)
        done += more


@compiled
def _sum(
    context: Any, bases: Any, sources: Any, op: Any, slot: int, moved: int, block: int
) -> None:
    """Sum a range of all ranks in rank order, to the output and the own slot."""
    size, rank, ranks = context[_SIZE], context[_RANK], context[_RANKS]
    offset = slot * context[_SLOT_BYTES] + op[4] * size
    out = context[_OUTPUT] + (moved + op[6]) * size
    inputs = np.empty(ranks, np.int64)
    for r in range(ranks):
        inputs[r] = sources[r] + offset
    inputs[rank] = context[_INPUT] + (moved + op[5]) * size
    step = BLOCK_BYTES // size
    at = 0
    while at < op[7]:
        n = min(step, op[7] - at)
        here = at * size
        _fold_all(context[_KIND], inputs, ranks, here, out + here, block, n)
        if op[3] & SLOT:
            copy(bases[rank] + offset + here, out + here, n * size)
        at += n


@compiled
def _join(context: Any, shared: Any, op: Any, block: int) -> None:
    """Sum a range of tensors in shared memory, and write it to each of them."""
    size, ranks = context[_SIZE], context[_RANKS]
    step = BLOCK_BYTES // size
    at = 0
    while at < op[7]:
        n = min(step, op[7] - at)
        here = (op[6] + at) * size
        _fold_all(context[_KIND], shared, ranks, here, shared[0] + here, block, n)
        for r in range(1, ranks):
            copy(shared[r] + here, shared[0] + here, n * size)
        at += n


@compiled
def _transfer(context: Any, bases: Any, mirrors: Any, op: Any, slot: int, moved: int) -> None:
    """PUT, MOVE, COPY, ADD and FETCH: one range."""
    size, rank = context[_SIZE], context[_RANK]
    offset = slot * context[_SLOT_BYTES] + op[4] * size
    given = context[_INPUT] + (moved + op[5]) * size
    out = context[_OUTPUT] + (moved + op[6]) * size
    mine = bases[rank] + offset
    many = op[7] * size
    if op[0] == PUT:
        copy(mine, given, many)
        return
    if op[0] == MOVE:
        copy(out, given, many)
        return
    if op[0] == FETCH:
        copy(mirrors[op[1]] + offset, bases[op[1]] + offset, many)
        return
    theirs = (mirrors[op[1]] if op[3] & MIRROR else bases[op[1]]) + offset
    if op[0] == COPY:
        if op[3] & OUT:
            copy(out, theirs, many)
        if op[3] & SLOT:
            copy(mine, theirs, many)
        return
    own = given if op[3] & IN else mine
    if op[3] & OUT and op[3] & SLOT:
        # In blocks, so that the second copy comes from the nearest cache.
        step = BLOCK_BYTES // size
        at = 0
        while at < op[7]:
            n = min(step, op[7] - at)
            here = at * size
            fold(context[_KIND], 2, out + here, own + here, theirs + here, 0, 0, n)
            copy(mine + here, out + here, n * size)
            at += n
    else:
        to = out if op[3] & OUT else mine
        fold(context[_KIND], 2, to, own, theirs, 0, 0, op[7])


@compiled
def flow(
    clocks: int, credit_ns: int, state: Any, size_bytes: int, first: int, end: int, links: Any,
    parts: Any, speeds: Any, delay_ns: int, now: int,
) -> None:  # fmt: skip
    """Move a message on: packet after packet takes its turn on every link of its route.

    ``state``: bytes left, when the next packet may ask, when the last one asked for arrives. A link
    is a clock that says until when it is taken. A packet asks when its forerunner has left the
    slowest link, and at most the bucket's depth (``credit_ns``) before it came to ask.
    """
    packet = max(size_bytes // 16, 4096)
    while state[0] > 0 and state[1] <= now + _AHEAD_NS:
        part = min(packet, state[0])
        asked = max(state[1], now - credit_ns)
        leaves = asked
        for i in range(first, end):
            link = links[i]
            took = np.int64(part * parts[i] * speeds[link])
            clock = clocks + link * LINE
            while True:
                free = load(clock)
                until = max(free, asked) + took
                if swap(clock, free, until):
                    break
            leaves = max(leaves, until)
        state[0] -= part
        state[1] = leaves
        state[2] = leaves + delay_ns


@compiled
def _flows(
    context: Any, ops: Any, flows: Any, state: Any, row_start: Any, links: Any, parts: Any,
    speeds: Any, delays: Any, now: int,
) -> None:  # fmt: skip
    """Move all messages of this step on."""
    for i in range(state[_STARTED], state[_PC]):
        if ops[i, 0] == START and flows[i, 0] > 0:
            row = ops[i, 5]
            flow(
                context[_CLOCKS], context[_CREDIT], flows[i], ops[i, 7] * context[_SIZE],
                row_start[row], row_start[row + 1], links, parts, speeds, delays[row], now,
            )  # fmt: skip


@compiled
def _send(
    context: Any, ops: Any, sent: Any, state: Any, sockets: Any, bases: Any, slot: int
) -> int:
    """Push what waits to be sent, to all peers; -1 where a socket has failed, else bytes."""
    size, moved = context[_SIZE], 0
    left = False
    for i in range(state[_SENT_FROM], state[_SENT_TO]):
        if ops[i, 0] != SEND:
            continue
        many = ops[i, 7] * size
        if sent[i] < many:
            place = bases[context[_RANK]] + slot * context[_SLOT_BYTES] + ops[i, 4] * size
            n = send_some(sockets[slot, ops[i, 1]], place + sent[i], many - sent[i])
            if n > 0:
                sent[i] += n
                moved += n
            if sent[i] < many:
                left = True
    if not left:
        state[_SENT_FROM] = state[_SENT_TO]
    return moved


@compiled
def _await_until(context: Any, when_ns: int) -> None:
    """A stream of this rank can go on then, and not before."""
    if context[_DUE] == 0 or when_ns < context[_DUE]:
        context[_DUE] = when_ns


@compiled
def _ready(
    context: Any, flags: Any, mirrors: Any, op: Any, state: Any, slot: int, start: int,
    sockets: Any, flows: Any, now: int,
) -> int:  # fmt: skip
    """1 where a waiting instruction may go on, 0 where it may not, -1 where its peer is gone."""
    if op[0] == WAIT:
        stream = state[_STREAM]
        place = _flag(flags, op[1], slot, stream, context[_WIDTH])
        return 1 if load(place) >= start + op[2] else 0
    if op[0] == FLUSH:
        return 1 if state[_SENT_FROM] == state[_SENT_TO] else 0
    if op[0] == ARRIVE:
        state_of = flows[op[2]]
        if state_of[0] == 0 and state_of[2] <= now:
            return 1
        _await_until(context, state_of[2] if state_of[0] == 0 else state_of[1] - _AHEAD_NS // 2)
        return 0
    many = op[7] * context[_SIZE]
    while state[_GOT] < many:
        place = mirrors[op[1]] + slot * context[_SLOT_BYTES] + op[4] * context[_SIZE]
        n = receive_some(sockets[slot, op[1]], place + state[_GOT], many - state[_GOT])
        if n == 0:
            return -1
        if n < 0:
            return 0
        state[_GOT] += n
    state[_GOT] = 0
    return 1


@compiled
def _enter(context: Any, flags: Any, uses: Any, near: Any, slot: int) -> int:
    """Whether all ranks of this host have left the slot's last use; else who has not, from 0."""
    for r in range(context[_RANKS]):
        if near[r] and r != context[_RANK]:
            place = _flag(flags, r, slot, context[_WIDTH] - 1, context[_WIDTH])
            if load(place) < uses[slot]:
                return r
    return -1


@compiled
def _go_on(
    context: Any, flags: Any, bases: Any, mirrors: Any, sources: Any, near: Any, shared: Any,
    ops: Any, bound: Any, slot: int, stream: int, state: Any, starts: Any, uses: Any, block: int,
    sockets: Any, sent: Any, flows: Any, row_start: Any, links: Any, parts: Any, speeds: Any,
    delays: Any, now: int,
) -> int:  # fmt: skip
    """One stream of one slot, until it must wait (0 nothing done, 1 something) or is over (2)."""
    if state[_RUNNING] == 0:
        late = _enter(context, flags, uses, near, slot)
        if late >= 0:
            context[_PEER], context[_OP] = late, POST
            return 0
        state[_RUNNING], state[_PC] = 1, bound[stream]
        state[_SENT_FROM] = state[_SENT_TO] = state[_STARTED] = state[_PC]
        state[_GOT], state[_STREAM] = 0, stream
    start = starts[slot]
    moved = (state[_PIECE] - context[_FIRST]) * context[_ADVANCE]
    did = 0
    while state[_PC] < bound[stream + 1]:
        op = ops[state[_PC]]
        kind = op[0]
        if state[_SENT_FROM] != state[_SENT_TO] and _send(
            context, ops, sent, state, sockets, bases, slot
        ):
            did = 1
        if context[_LINKED]:
            _flows(context, ops, flows, state, row_start, links, parts, speeds, delays, now)
        if kind in (WAIT, FLUSH, ARRIVE, RECV):
            ready = _ready(context, flags, mirrors, op, state, slot, start, sockets, flows, now)
            if ready < 1:
                context[_PEER], context[_OP] = op[1], kind
                if kind == WAIT and context[_LINKED]:
                    _await_until(context, now + _POLL_NS)
                return did if ready == 0 else -1
        elif kind == POST:
            place = _flag(flags, context[_RANK], slot, stream, context[_WIDTH])
            _tell(context, flags, near, place, start + op[2])
            state[_STARTED] = state[_PC] + 1
        elif kind == SUM:
            _sum(context, bases, sources, op, slot, moved, block)
        elif kind == JOIN:
            _join(context, shared, op, block)
        elif kind == SEND:
            if state[_SENT_FROM] == state[_SENT_TO]:
                state[_SENT_FROM] = state[_PC]
            sent[state[_PC]] = 0
            state[_SENT_TO] = state[_PC] + 1
        elif kind == START:
            flows[state[_PC], 0] = op[7] * context[_SIZE]
            flows[state[_PC], 1] = flows[state[_PC], 2] = now
        else:
            _transfer(context, bases, mirrors, op, slot, moved)
        state[_PC] += 1
        did = 1
    return 2


def _advance(
    context: Any, flags: Any, bases: Any, mirrors: Any, sources: Any, near: Any, shared: Any,
    full: Any, last: Any, bound: Any, states: Any, starts: Any, uses: Any, block: int, sockets: Any,
    sent: Any, flows: Any, row_start: Any, links: Any, parts: Any, speeds: Any, delays: Any,
) -> int:  # fmt: skip
    """Run until the collective is over (0), nothing moved for a while (1), or a peer is gone (2).

    ``states`` [slots, streams, 8] begins with the piece of each stream, -1 for none, and holds
    where each stands between calls; ``starts`` and ``uses`` [slots] live as long as the group.
    """
    slots, streams = context[_SLOTS], context[_STREAMS]
    end = context[_FIRST] + context[_PIECES]
    bell = flags[context[_RANK]] - LINE
    limit_ns = _SLEEP_NS if near.all() else _NAP_NS
    idle, quiet_since, heard, asleep = 0, 0, 0, False
    while True:
        moved, open_ = False, False
        context[_DUE] = 0
        now = now_ns() if context[_LINKED] else 0
        for slot in range(states.shape[0]):
            piece = states[slot, 0, _PIECE]
            if piece < 0:
                continue
            open_ = True
            over = True
            ops = last if piece == end - 1 else full
            for stream in range(streams):
                state = states[slot, stream]
                if state[_RUNNING] == 2:
                    continue
                did = _go_on(
                    context, flags, bases, mirrors, sources, near, shared, ops, bound, slot, stream,
                    state, starts, uses, block, sockets, sent[slot], flows[slot], row_start, links,
                    parts, speeds, delays, now,
                )  # fmt: skip
                if did < 0:
                    return BROKEN
                moved |= did > 0
                if did == 2:
                    state[_RUNNING] = 2
                else:
                    over = False
            if over:
                uses[slot] += 1
                starts[slot] += context[_VALUES]
                place = _flag(flags, context[_RANK], slot, context[_WIDTH] - 1, context[_WIDTH])
                _tell(context, flags, near, place, uses[slot])
                following = piece + slots
                for stream in range(streams):
                    states[slot, stream, _RUNNING] = 0
                    states[slot, stream, _PIECE] = following if following < end else -1
        if asleep and (moved or not open_):
            store(bell + 8, 0)
            asleep = False
        if not open_:
            return DONE
        if moved:
            idle, quiet_since = 0, 0
            continue
        idle += 1
        if idle <= context[_SPIN]:
            continue
        if context[_LINKED]:
            nap(max(context[_DUE] - now_ns(), 1000) if context[_DUE] else _NAP_NS)
        elif idle <= context[_SPIN] + _YIELDS:
            yield_core()
            continue
        elif not asleep:
            heard, asleep = load(bell), True
            store(bell + 8, 1)
            fence()
            continue
        else:
            sleep_on(bell, heard, limit_ns)
            asleep = False
        if quiet_since == 0:
            quiet_since = now_ns()
        elif now_ns() - quiet_since > context[_PATIENCE]:
            return STALLED


advance = compiled(_advance, nogil=True)
"""``_advance``, compiled."""
