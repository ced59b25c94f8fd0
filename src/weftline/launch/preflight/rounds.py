"""Which pairs are measured together: rounds of disjoint pairs, as many as the logarithm of ranks.

Round k pairs ranks 2**k apart, so that every level of a network that is numbered from the inside
out is crossed: neighbours on a host first, the two halves of the cluster last. A few ranks meet
everyone: all pairs are then cheap and name a single bad link.
"""

from __future__ import annotations

from typing import Final

Pairs = tuple[tuple[int, int], ...]
ALL_PAIRS_RANKS: Final = 8
"""Up to so many ranks every pair is measured (7 rounds)."""


def rounds_of(ranks: int) -> tuple[Pairs, ...]:
    """Rounds of disjoint pairs (lower rank first); every rank is in most of them."""
    return _circle(ranks) if ranks <= ALL_PAIRS_RANKS else _doubling(ranks)


def _circle(ranks: int) -> tuple[Pairs, ...]:
    """Every pair once, by the circle method; an odd one sits out."""
    ring = list(range(ranks + ranks % 2))
    found = []
    for _ in range(len(ring) - 1):
        pairs = [(ring[n], ring[-1 - n]) for n in range(len(ring) // 2)]
        found.append(tuple(sorted((min(p), max(p)) for p in pairs if max(p) < ranks)))
        ring = [ring[0], ring[-1], *ring[1:-1]]
    return tuple(pairs for pairs in found if pairs)


def _doubling(ranks: int) -> tuple[Pairs, ...]:
    """Distances 1, 2, 4 ...: even blocks of that size with the next, then odd ones."""
    found = []
    distance = 1
    while distance < ranks:
        for odd in (0, 1):
            pairs = tuple((low, low + distance) for low in range(ranks - distance)
                          if low // distance % 2 == odd)  # fmt: skip
            if pairs:
                found.append(pairs)
        distance *= 2
    return tuple(found)


def disjoint(pairs: list[tuple[int, ...]]) -> list[list[tuple[int, int]]]:
    """The same pairs as rounds in which no rank stands twice."""
    left = [(pair[0], pair[1]) for pair in pairs]
    found = []
    while left:
        used: set[int] = set()
        some = []
        for pair in left:
            if not used & set(pair):
                used |= set(pair)
                some.append(pair)
        found.append(some)
        left = [pair for pair in left if pair not in some]
    return found


def turns_of(hosts: list[str]) -> tuple[tuple[int, ...], ...]:
    """Ranks that compute at the same time: one of each host."""
    seen: dict[str, int] = {}
    found: dict[int, list[int]] = {}
    for rank, host in enumerate(hosts):
        turn = seen.get(host, 0)
        seen[host] = turn + 1
        found.setdefault(turn, []).append(rank)
    return tuple(tuple(ranks) for _, ranks in sorted(found.items()))
