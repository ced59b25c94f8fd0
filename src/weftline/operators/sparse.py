"""Sparse units: a property of a chip that says which zeros it can skip, and by how much.

Two kinds of zeros matter when serving: weights pruned to a structure (N of M), and attention that
does not look at every key (a window, blocks, keys selected by an indexer). A unit names the
patterns it accelerates and the largest speed-up it reaches on each; time falls with the density
until then. What a unit's chip cannot run well because its engines were built for regular work
(a state-space scan, dynamic routing) names a factor on the ordinary engines' time instead.

Shipped are only units with a source. A unit of your own is a value:
``replace(chip_of("trainium3"), sparse=(SparseUnit(patterns={"window": 8.0}, source="mine"),))``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from weftline.errors import InputError, UnknownNameError
from weftline.operators.surface import FloatArray, Number
from weftline.spec.parse import Collector

PATTERNS: Final = ("structured_weights", "window", "block", "selected")
"""N:M pruned weights; then what an attention rule's ``pattern`` is: windows and chunks, blocks of
keys, keys picked one by one. A paged kernel gains from windows and blocks without any unit (pages
are left out); a unit adds keys one by one, and scores blocks on the way."""
FALLBACKS: Final = ("scan", "routing")
"""Recurrent updates; sorting and gathering tokens for experts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SparseUnit:
    """One unit. Raises InputError for a pattern or fallback nobody knows, or a factor below 1."""

    patterns: Mapping[str, float]
    """Largest speed-up over dense, by pattern."""
    falls_back: Mapping[str, float] = field(default_factory=dict)
    """Factor on the time of what the chip runs badly, by kind."""
    dtypes: tuple[str, ...] = ()
    """Number formats it works in; empty means all."""
    source: str = "yours"

    def __post_init__(self) -> None:
        """Check the names and factors."""
        for given, known in ((self.patterns, PATTERNS), (self.falls_back, FALLBACKS)):
            for name, factor in given.items():
                if name not in known:
                    raise InputError(
                        f"unknown sparse pattern `{name}`", hint=f"known are {', '.join(known)}"
                    )
                if not factor >= 1.0:
                    raise InputError(f"the factor of `{name}` is {factor}; it cannot be below 1")


def skipping_s(
    units: Sequence[SparseUnit], dense_s: Number, pattern: str, density: Number, dtype: str = ""
) -> FloatArray:
    """Time of work of which ``density`` (0 to 1] is not zero, given its dense time.

    Without a unit for the pattern every zero is worked on: the dense time.
    """
    if pattern not in PATTERNS:
        raise InputError(f"unknown sparse pattern `{pattern}`", hint=", ".join(PATTERNS))
    most = max(
        (u.patterns.get(pattern, 1.0) for u in units if not dtype or not u.dtypes
         or dtype in u.dtypes),
        default=1.0,
    )  # fmt: skip
    return np.asarray(dense_s) * np.maximum(np.asarray(density, dtype=np.float64), 1.0 / most)


def accelerates(units: Sequence[SparseUnit], pattern: str) -> bool:
    """Whether any unit is made for that pattern."""
    return any(u.patterns.get(pattern, 1.0) > 1.0 for u in units)


def fallback_factor(units: Sequence[SparseUnit], kind: str) -> float:
    """How much longer than on its ordinary engines a chip takes for what it runs badly."""
    return max((u.falls_back.get(kind, 1.0) for u in units), default=1.0)


def parse_unit(text: str, *, where: str = "--unit") -> SparseUnit:
    """``selected=16,scan=10`` -> a unit of the user's own. Raises InputError(s), all at once."""
    get = Collector(where)
    found: dict[str, float] = {}

    def one(part: str) -> None:
        name, _, value = (piece.strip() for piece in part.partition("="))
        if name not in (*PATTERNS, *FALLBACKS):
            raise UnknownNameError("pattern of a sparse unit", name, (*PATTERNS, *FALLBACKS),
                                   where=where)  # fmt: skip
        try:
            found[name] = float(value)
        except ValueError:
            raise InputError(f"`{part}` is not name=factor", where=where,
                             hint="selected=16,scan=10") from None  # fmt: skip
        if not 1.0 <= found[name] < 1e6:
            raise InputError(f"the factor of `{name}` is {value}; it cannot be below 1",
                             where=where)  # fmt: skip

    get.each(text.split(","), one)
    get.raise_all()
    return SparseUnit(
        patterns={k: v for k, v in found.items() if k in PATTERNS},
        falls_back={k: v for k, v in found.items() if k in FALLBACKS},
    )


def units_of(entries: Sequence[Mapping[str, Any]]) -> tuple[SparseUnit, ...]:
    """Units as the data file states them."""
    return tuple(
        SparseUnit(
            patterns=e["patterns"],
            falls_back=e.get("falls_back", {}),
            dtypes=tuple(e.get("dtypes", ())),
            source=e["source"],
        )
        for e in entries
    )
