"""The KV blocks of one replica, compiled: who holds how many, what is cached, what goes first.

Blocks that no running sequence holds stand in one queue, oldest first; an allocation takes them
from its head. A freed block keeps its content until it is taken, so a request that comes with the
same prefix, or one that was thrown out and comes back, may find it (vLLM's prefix cache: blocks of
a sequence are queued deepest first). The queue holds entries of many blocks:

- a cached prefix block of the trace, ``kind`` = its id;
- what a thrown-out request i left beyond its shared prefix, ``kind`` = ``-2 - i``;
- blocks without content worth keeping, ``kind`` = -1.

An entry that was taken from the middle stays behind as a dead one until it reaches the head.

Prefix blocks that are pushed out go to a slower memory (host memory, NVMe) where there is one. It
keeps the last so many that came, by the number of its pushing out that each block carries.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np

from weftline.serve.simulate.tables import kernel

NOWHERE: Final = -1

ENDS: Final = np.dtype([("head", "i8"), ("tail", "i8"), ("pushed", "i8")], align=True)
"""Places are counted up without end; the array index is the place modulo the length. ``pushed``
counts the prefix blocks pushed out so far."""
ENTRY: Final = np.dtype([("kind", "i8"), ("size", "i8")], align=True)
"""``size`` counts the blocks of the entry that are still there; 0 for a dead one."""
PREFIX: Final = np.dtype(
    [("where", "i8"), ("refs", "i4"), ("cached", "i4"), ("pushed", "i8")], align=True
)
"""Place in the queue or NOWHERE; running sequences that hold it; 1 where its content is there; the
number of its last pushing out, 0 for never."""


class Pool(NamedTuple):
    """Arrays by replica R, queue place Q (a power of two), prefix block H, request N."""

    ends: Any
    """[R] of ENDS."""
    queue: Any
    """[R, Q] of ENTRY."""
    prefix: Any
    """[R, H] of PREFIX."""
    left: Any
    """[N] place in the queue of what a thrown-out request left, or NOWHERE."""
    ids: Any
    """Prefix blocks of all requests, one after the other."""


def empty_pool(replicas: int, blocks: int, seqs: int, ids: Any, requests: int,
               blocks_per_hash: int) -> Pool:  # fmt: skip
    """A pool whose ``blocks`` blocks are all free."""
    hashes = int(ids.max(initial=-1)) + 1
    live = 2 * (blocks // max(1, blocks_per_hash) if hashes else 0) + 2 * seqs + 8
    places = 1 << (4 * live - 1).bit_length()
    pool = Pool(
        ends=np.zeros(replicas, ENDS),
        queue=np.zeros((replicas, places), ENTRY),
        prefix=np.zeros((replicas, max(1, hashes)), PREFIX),
        left=np.full(requests, NOWHERE, np.int64),
        ids=ids,
    )
    pool.ends["tail"] = 1
    pool.queue["kind"] = -1
    pool.queue["size"][:, 0] = blocks
    pool.prefix["where"] = NOWHERE
    return pool


@kernel
def queue_blocks(pool: Any, r: int, kind: int, count: int) -> None:
    """Put ``count`` blocks at the end of the queue."""
    if count <= 0:
        return
    ends, queue = pool.ends[r], pool.queue[r]
    mask = len(queue) - 1
    last = queue[(ends.tail - 1) & mask]
    if kind == -1 and ends.tail > ends.head and last.kind == -1:
        last.size += count
        return
    if ends.tail - ends.head > mask:
        close_ranks(pool, r)
    at = ends.tail
    queue[at & mask].kind = kind
    queue[at & mask].size = count
    ends.tail = at + 1
    if kind >= 0:
        pool.prefix[r, kind].where = at
    elif kind <= -2:
        pool.left[-2 - kind] = at


@kernel
def close_ranks(pool: Any, r: int) -> None:
    """Drop the dead entries of a full queue; the live ones keep their order."""
    ends, queue = pool.ends[r], pool.queue[r]
    mask = len(queue) - 1
    to = ends.head
    for at in range(ends.head, ends.tail):
        kind, size = queue[at & mask].kind, queue[at & mask].size
        if size == 0:
            continue
        queue[to & mask].kind = kind
        queue[to & mask].size = size
        if kind >= 0:
            pool.prefix[r, kind].where = to
        elif kind <= -2:
            pool.left[-2 - kind] = to
        to += 1
    ends.tail = to


@kernel
def take_blocks(pool: Any, r: int, count: int) -> None:
    """Take ``count`` free blocks, oldest first; what they held is forgotten."""
    ends, queue = pool.ends[r], pool.queue[r]
    mask = len(queue) - 1
    while count > 0 and ends.head < ends.tail:
        entry = queue[ends.head & mask]
        kind, size = entry.kind, entry.size
        if kind >= 0 and size > 0:
            ends.pushed += 1
            pool.prefix[r, kind].pushed = ends.pushed
            pool.prefix[r, kind].cached = 0
            pool.prefix[r, kind].where = NOWHERE
            entry.kind = -1
        if size <= count:
            if kind <= -2 and size > 0:
                pool.left[-2 - kind] = NOWHERE
            ends.head += 1
            entry.size = 0
            count -= size
        else:
            entry.size = size - count
            count = 0


@kernel
def leave_queue(pool: Any, r: int, place: int) -> Any:
    """Take the entry at ``place`` out of the queue with its content; its blocks."""
    entry = pool.queue[r, place & (pool.queue.shape[1] - 1)]
    size = entry.size
    entry.size = 0
    return size


@kernel
def cached_prefix(pool: Any, r: int, first: int, most: int) -> Any:
    """(prefix blocks in a row from the front that are cached, those of them in the queue)."""
    found, queued = 0, 0
    while found < most:
        block = pool.prefix[r, pool.ids[first + found]]
        if block.cached == 0:
            break
        if block.refs == 0:
            queued += 1
        found += 1
    return found, queued


@kernel
def below_prefix(pool: Any, r: int, first: int, most: int, room: int) -> Any:
    """Prefix blocks in a row, cached or among the last ``room`` pushed out; (those, of them the
    pushed out)."""
    found, below = 0, 0
    while found < most:
        block = pool.prefix[r, pool.ids[first + found]]
        if block.cached == 0:
            if block.pushed == 0 or pool.ends[r].pushed - block.pushed >= room:
                break
            below += 1
        found += 1
    return found, below


@kernel
def keep_answer(pool: Any, r: int, first: int, count: int, size: int, room: int) -> Any:
    """Cache ``count`` prefix blocks that an answer filled, deepest first; KV blocks they take, of
    ``room`` that are being freed."""
    taken = 0
    for j in range(first + count - 1, first - 1, -1):
        block = pool.prefix[r, pool.ids[j]]
        if block.cached == 0 and taken + size <= room:
            block.cached = 1
            queue_blocks(pool, r, pool.ids[j], size)
            taken += size
    return taken


@kernel
def hold_prefix(pool: Any, r: int, h: int) -> None:
    """Hold a prefix block; where it is not cached, its KV blocks must have been taken before."""
    block = pool.prefix[r, h]
    if block.where != NOWHERE:
        leave_queue(pool, r, block.where)
        block.where = NOWHERE
    block.cached = 1
    block.refs += 1


@kernel
def drop_prefix(pool: Any, r: int, first: int, count: int, size: int) -> Any:
    """Let ``count`` prefix blocks of ``size`` go, deepest first; KV blocks that became free."""
    freed = 0
    for j in range(first + count - 1, first - 1, -1):
        h = pool.ids[j]
        pool.prefix[r, h].refs -= 1
        if pool.prefix[r, h].refs == 0:
            queue_blocks(pool, r, h, size)
            freed += size
    return freed


@kernel
def hold_blocks(pool: Any, r: int, i: int, first: int, full: int, private: int,
                fresh: int) -> Any:  # fmt: skip
    """Hold ``full`` prefix blocks and ``private`` others; how many of those i had left behind.

    What is cached is held before anything is taken, or it could be taken itself.
    """
    for j in range(first, first + full):
        if pool.prefix[r, pool.ids[j]].cached:
            hold_prefix(pool, r, pool.ids[j])
    kept = 0
    place = pool.left[i]
    if place != NOWHERE:
        pool.left[i] = NOWHERE
        size = leave_queue(pool, r, place)
        kept = min(size, private)
        queue_blocks(pool, r, -1, size - kept)
    take_blocks(pool, r, private - kept + fresh)
    for j in range(first, first + full):
        if not pool.prefix[r, pool.ids[j]].cached:
            hold_prefix(pool, r, pool.ids[j])
    return kept
