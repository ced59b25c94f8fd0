"""Which chip of a torus each rank of a plan runs on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from weftline.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class RankMap:
    """A placement of the plan's ranks on the chips of one torus or mesh.

    Chips are numbered row-major over ``shape``, the last axis fastest. Raises InputError where
    ``chips`` is no list of different chips of that shape.
    """

    shape: tuple[int, ...]
    chips: tuple[int, ...]
    """[ranks] chip of each rank."""
    physical: Mapping[str, tuple[tuple[int, int, int], ...]]
    """Job axis -> its parts: (physical axis, members, chips from member to member)."""
    exchange_s: float
    """Seconds of a step's exchanges placed so, nothing overlapped."""
    jax_s: float | None
    """The same as JAX's rule would place the axes; None for a shape that JAX refuses."""
    basis: str

    def __post_init__(self) -> None:
        size = math.prod(self.shape)
        if len(set(self.chips)) != len(self.chips) or not all(0 <= c < size for c in self.chips):
            raise InputError(
                f"the rank map names a chip twice, or one outside 0..{size - 1}",
                hint="every rank needs a chip of its own",
            )

    def coordinate(self, rank: int) -> tuple[int, ...]:
        """Where rank ``rank`` runs, one index an axis. Raises IndexError outside the map."""
        chip = self.chips[rank]
        found: list[int] = []
        for side in reversed(self.shape):
            chip, at = divmod(chip, side)
            found.append(at)
        return tuple(reversed(found))
