"""Compiled greedy of the synthesiser: every link takes the rarest chunk its far end lacks."""

from __future__ import annotations

import heapq
from typing import Any

import numpy as np

from weftline._compiled import compiled


@compiled
def rarest(have: Any, claimed: Any, holders: Any, source: int, target: int, begin: int) -> int:
    """The chunk ``source`` has, ``target`` neither has nor awaits, and fewest chips hold; -1: none.

    Sets are bits of 64-bit words; the search begins at word ``begin`` so that ties spread.
    """
    words = have.shape[1]
    best, least = -1, np.int64(2**62)
    for i in range(words):
        word = (begin + i) % words
        bits = have[source, word] & ~claimed[target, word]
        while bits:
            low = bits & (~bits + np.uint64(1))
            place = 0
            probe = low
            for shift in (32, 16, 8, 4, 2, 1):
                if probe >> np.uint64(shift):
                    place += shift
                    probe >>= np.uint64(shift)
            chunk = word * 64 + place
            if holders[chunk] < least:
                least, best = holders[chunk], chunk
            bits ^= low
    return best


@compiled
def spread(
    source: Any, target: Any, path_start: Any, path_links: Any, user_start: Any, users: Any,
    out_start: Any, out: Any, duration: Any, latency: Any, rate: Any, capacity: Any, owner: Any,
    chips: int, seed: int,
) -> Any:  # fmt: skip
    """Bring every chunk from its owner to all chips over ways that keep their rate to themselves.

    A *way* joins two chips; a message on it takes ``rate`` of each of its links' ``capacity`` while
    it lasts. Returns, in the order
    of their start: (way, chunk, step, seconds of start) of each message, and the end in seconds.
    A step is one more than the steps of what brought the chunk and of the last on the same way.
    """
    np.random.seed(seed)
    chunks, ways = len(owner), len(source)
    words = (chunks + 63) // 64
    have, claimed = np.zeros((chips, words), np.uint64), np.zeros((chips, words), np.uint64)
    holders = np.ones(chunks, np.int64)
    level = np.zeros((chips, chunks), np.int32)
    last = np.zeros(ways, np.int32)
    for chunk in range(chunks):
        bit = np.uint64(1) << np.uint64(chunk % 64)
        have[owner[chunk], chunk // 64] |= bit
        claimed[owner[chunk], chunk // 64] |= bit
    left = capacity.copy()
    room = chunks * (chips - 1)
    row_way, row_chunk = np.empty(room, np.int64), np.empty(room, np.int64)
    row_step, row_start = np.empty(room, np.int64), np.empty(room, np.float64)
    heap = [(0.0, np.int64(-1))]
    rows, now = 0, 0.0
    while heap:
        now = heap[0][0]
        again = [np.int64(0) for _ in range(0)]
        while heap and heap[0][0] <= now * (1 + 1e-12):
            _, event = heapq.heappop(heap)
            if event < 0:
                for way in np.random.permutation(ways):
                    again.append(way)
                continue
            row = event // 2
            way, chunk = row_way[row], row_chunk[row]
            if event % 2 == 0:  # it has left: its links are free
                for i in range(path_start[way], path_start[way + 1]):
                    left[path_links[i]] += rate[way]
                for i in range(path_start[way], path_start[way + 1]):
                    for k in range(user_start[path_links[i]], user_start[path_links[i] + 1]):
                        again.append(users[k])
            else:  # it has come
                have[target[way], chunk // 64] |= np.uint64(1) << np.uint64(chunk % 64)
                for k in range(out_start[target[way]], out_start[target[way] + 1]):
                    again.append(out[k])
        turn = np.random.randint(0, max(len(again), 1))
        for i in range(len(again)):
            way = again[(i + turn) % len(again)]
            free = True
            for k in range(path_start[way], path_start[way + 1]):
                free = free and left[path_links[k]] >= rate[way] * (1 - 1e-9)
            if not free:
                continue
            chunk = rarest(have, claimed, holders, source[way], target[way],
                           np.random.randint(0, words))  # fmt: skip
            if chunk < 0:
                continue
            for k in range(path_start[way], path_start[way + 1]):
                left[path_links[k]] -= rate[way]
            claimed[target[way], chunk // 64] |= np.uint64(1) << np.uint64(chunk % 64)
            holders[chunk] += 1
            step = max(level[source[way], chunk], last[way])
            last[way] = step + 1
            level[target[way], chunk] = step + 1
            row_way[rows], row_chunk[rows] = way, chunk
            row_step[rows], row_start[rows] = step, now
            heapq.heappush(heap, (now + duration[way], np.int64(2 * rows)))
            heapq.heappush(heap, (now + duration[way] + latency[way], np.int64(2 * rows + 1)))
            rows += 1
    return row_way[:rows], row_chunk[:rows], row_step[:rows], row_start[:rows], now
