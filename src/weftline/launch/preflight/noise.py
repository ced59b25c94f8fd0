"""Slower, or only held up? Decided by how much measurements of sound members vary themselves.

What disturbs a measurement only ever makes it slower, for a while: a member that is sound reaches
its rate in some of its samples, one that is broken in none. So a member is called slow only if the
best of its samples is below the others' rate by a share that is worth a line, and if the chance
that a sound member's samples all come to lie so low is small. The chance needs no model of the
noise: under exchange of samples, all K of one member lie among the lowest K + j of K + n with
probability C(K + j, K) / C(K + n, K) (the precedence test: Balakrishnan and Ng, Precedence-Type
Tests and Applications, 2006), j being the others' samples below its best. On a quiet machine few
samples settle it; on a loud one more are taken, and what they cannot settle is not said.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from math import comb
from statistics import median
from typing import Final, TypeVar

Member = TypeVar("Member", bound=Hashable)
CHANCE: Final = 5e-4
"""A sound member is called slow in one of so many questions at most."""
WORTH: Final = {"cuda": 1.1, "cpu": 1.25, "link": 1.25, "disk": 1.25}
"""How many times slower is worth a line: every step waits for the slowest chip. A choice of what
users want to hear, no figure about noise."""


def chance(own: Sequence[float], others: Sequence[float]) -> float:
    """Probability that a sound member's samples all lie as low as ``own`` among ``others``; 1.0
    where nothing was sampled."""
    if not own or not others:
        return 1.0
    below = sum(value <= max(own) for value in others)
    k = len(own)
    return comb(k + below, k) / comb(k + len(others), k)


def usual(values: Iterable[float]) -> float:
    """What a member reaches: the median of the better half, since half of them may be slow."""
    ordered = sorted(values)
    return float(median(ordered[len(ordered) // 2 :])) if ordered else 0.0


def slow_ones(
    samples: Mapping[Member, Sequence[float]], worth: float
) -> tuple[dict[Member, float], list[Member]]:
    """(slow members with how many times slower, members that look so and are not settled).

    The first sample of each chose whom to ask again, so it is no evidence: the later ones are,
    against those of the members that are sound.
    """
    best = {member: max(values) for member, values in samples.items() if values}
    rate = usual(best.values())
    low = [member for member, value in best.items() if value * worth < rate]
    others = [value for member in best.keys() - set(low) for value in samples[member][1:]]
    slow = {m: rate / max(best[m], 1e-12) for m in low
            if chance(samples[m][1:], others) <= CHANCE}  # fmt: skip
    return slow, [member for member in low if member not in slow]
