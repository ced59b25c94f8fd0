"""Which chip each rank of a plan runs on."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from weftline.errors import InputError

Run = tuple[int, int, int]
"""First chip, chips from rank to rank, ranks."""


def runs_of(chips: Iterable[int]) -> tuple[Run, ...]:
    """Chips in the order of ranks as runs of even steps: a map of many chips stays small."""
    found: list[list[int]] = []
    for chip in chips:
        last = found[-1] if found else None
        if last is not None and last[2] == 1:
            last[1], last[2] = chip - last[0], 2
        elif last is not None and chip == last[0] + last[1] * last[2]:
            last[2] += 1
        else:
            found.append([chip, 1, 1])
    return tuple((first, step, count) for first, step, count in found)


@dataclass(frozen=True, slots=True, kw_only=True)
class RankMap:
    """A placement of the plan's ranks on the chips of a torus, or behind switches.

    Chips are numbered row-major over ``shape``, the last axis fastest: the axes of a torus, or the
    tiers of a network from the outside in (racks, hosts of a rack, chips of a host). Raises
    InputError where ``runs`` name a chip twice or one outside.
    """

    shape: tuple[int, ...]
    runs: tuple[Run, ...]
    """The chip of each rank, in runs of even steps."""
    physical: Mapping[str, tuple[tuple[int, int, int], ...]]
    """On a torus: job axis -> its parts: (physical axis, members, chips from member to member)."""
    exchange_s: float
    """Seconds of a step's exchanges placed so, nothing overlapped."""
    jax_s: float | None
    """The same as JAX's rule would place the axes; None for a shape that JAX refuses."""
    basis: str
    tiers: tuple[str, ...] = ()
    """Behind switches: names of the tiers, as ``shape`` has them."""
    shares: Mapping[str, str] = field(default_factory=dict)
    """Behind switches: job axis -> the innermost tier that holds each of its groups."""
    rank_order_s: float | None = None
    """Behind switches: the same exchanges in plain rank order."""
    spare_chips: int = 0
    """Chips left over in the units that the job uses, so that no group straddles two."""

    def __post_init__(self) -> None:
        size, chips = math.prod(self.shape), self.chips
        if len(set(chips)) != len(chips) or not all(0 <= c < size for c in chips):
            raise InputError(
                f"the rank map names a chip twice, or one outside 0..{size - 1}",
                hint="every rank needs a chip of its own",
            )

    @property
    def chips(self) -> tuple[int, ...]:
        """[ranks] chip of each rank."""
        return tuple(first + step * i for first, step, count in self.runs for i in range(count))

    def chip(self, rank: int) -> int:
        """The chip of one rank. Raises IndexError outside the map."""
        left = rank
        for first, step, count in self.runs:
            if 0 <= left < count:
                return first + step * left
            left -= count
        raise IndexError(rank)

    def coordinate(self, rank: int) -> tuple[int, ...]:
        """Where rank ``rank`` runs, one index an axis. Raises IndexError outside the map."""
        chip = self.chip(rank)
        found: list[int] = []
        for side in reversed(self.shape):
            chip, at = divmod(chip, side)
            found.append(at)
        return tuple(reversed(found))
