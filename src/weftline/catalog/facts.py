"""A fact: one number with its unit, meaning, source and date; and the rule that settles conflicts.

Where sources disagree, all facts stay. :func:`choose` takes one by a fixed rule and says why:

1. a fact about the chip itself, not about one product it is sold in (``scope``);
2. the better status: given by the user, measured on the user's machine, official, then press,
   estimate, unconfirmed, hypothetical;
3. the newer date;
4. the figure that promises least (less bandwidth, fewer FLOP/s, less memory, more power).

A bandwidth whose direction a vendor leaves unstated is read as both directions together: that is
how vendors quote links, and it promises least.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, cast, get_args

Status = Literal[
    "given", "measured", "official", "press", "estimate", "unconfirmed", "hypothetical"
]
Kind = Literal["dense", "sparse", "unstated"]
Direction = Literal["uni", "bidir", "unstated"]

STATUSES: Final[tuple[Status, ...]] = get_args(Status)
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
DIRECTIONS: Final[tuple[Direction, ...]] = get_args(Direction)

# What one unit is in SI: bytes, bytes/s, FLOP/s, watts, seconds or a plain number.
UNITS: Final[dict[str, float]] = {
    "TFLOP/s": 1e12, "TOP/s": 1e12, "GB": 1e9, "GiB": 2.0**30, "MiB": 2.0**20, "GB/s": 1e9,
    "GiB/s": 2.0**30, "TB/s": 1e12, "Gbit/s": 1e9 / 8, "W": 1.0, "chips": 1.0, "links": 1.0,
    "NICs": 1.0, "us": 1e-6, "s": 1.0, "fraction": 1.0, "MB/s": 1e6, "drives": 1.0,
    "USD/GB-month": 1.0, "USD/GB": 1.0, "USD/1000": 1e-3,
}  # fmt: skip
# Of which kind a unit is: two facts of one field must agree in it.
UNIT_KINDS: Final[dict[str, str]] = {
    "TFLOP/s": "rate of operations", "TOP/s": "rate of operations", "GB": "size", "GiB": "size",
    "MiB": "size", "GB/s": "bandwidth", "GiB/s": "bandwidth", "TB/s": "bandwidth",
    "Gbit/s": "bandwidth", "W": "power", "chips": "count", "links": "count", "NICs": "count",
    "us": "time", "s": "time", "fraction": "fraction", "MB/s": "bandwidth", "drives": "count",
    "USD/GB-month": "price of keeping", "USD/GB": "price of moving",
    "USD/1000": "price of requests",
}  # fmt: skip
_MORE_PROMISES_LESS: Final = frozenset(
    {"tdp", "price", "put", "get", "upload", "retrieval", "egress_in_region", "alpha"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where facts come from. ``date_means`` says whether the source was published or read then."""

    id: str
    title: str
    status: Status
    date: str
    date_means: Literal["published", "read"]
    licence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One stated number. ``value`` is in ``unit`` as the source wrote it; ``si`` is SI."""

    field: str
    value: float
    unit: str
    status: Status
    source: str
    date: str
    kind: Kind | None = None
    """Dense or sparse, of a peak; None where that has no meaning."""
    direction: Direction | None = None
    """One direction, both together or unstated, of a bandwidth."""
    scope: str | None = None
    """Set where the number holds for one product only; such a fact is shown, never taken."""
    note: str | None = None

    @property
    def si(self) -> float:
        """The value in SI (bytes, bytes/s, FLOP/s, W, s); a bandwidth as one direction of it."""
        scale = 1.0 if self.direction in (None, "uni") else 0.5
        return self.value * UNITS[self.unit] * scale


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The fact that was taken, why, and the span of all that could have been (SI)."""

    fact: Fact
    why: str
    low: float
    high: float

    @property
    def value(self) -> float:
        """The value taken, in SI, a bandwidth as one direction."""
        return self.fact.si


@dataclass(frozen=True, slots=True, kw_only=True)
class FactSheet:
    """A thing that facts are stated about: a chip, a fabric, a storage tier."""

    id: str
    note: str | None = None
    all_facts: tuple[Fact, ...] = ()
    _taken: dict[tuple[str, Kind | None], Choice | None] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    """What was chosen of a field before: a search asks for it tens of thousands of times."""

    def facts(self, field: str) -> tuple[Fact, ...]:
        """All facts on ``field`` (``memory``, ``scale_up``, ``peak.bf16``), as listed."""
        return tuple(f for f in self.all_facts if f.field == field)

    def fields(self) -> tuple[str, ...]:
        """The fields that have a fact, in the order first listed."""
        return tuple(dict.fromkeys(f.field for f in self.all_facts))

    def choice(self, name: str, *, kind: Kind | None = None) -> Choice | None:
        """The fact taken for a field; of peaks the dense one unless ``kind`` says otherwise."""
        wanted: Kind | None = "dense" if kind is None and name.startswith("peak.") else kind
        if (name, wanted) not in self._taken:
            self._taken[name, wanted] = choose(self.facts(name), kind=wanted)
        return self._taken[name, wanted]

    def si(self, field: str) -> float | None:
        """The value taken for ``field`` in SI, a bandwidth as one direction; None if not stated."""
        choice = self.choice(field)
        return None if choice is None else choice.value

    def count(self, field: str) -> int | None:
        """The value taken for ``field`` as a whole number; None if not stated."""
        value = self.si(field)
        return None if value is None else round(value)


def choose(facts: Iterable[Fact], *, kind: Kind | None = None) -> Choice | None:
    """Take one fact of a field by the rule above; None if no fact can be taken.

    ``kind`` limits peaks to dense (or sparse) ones; an unstated kind is never taken for dense.
    """
    found = [f for f in facts if f.scope is None and (kind is None or f.kind == kind)]
    if not found:
        return None
    ranked = sorted(found, key=_promise)
    ranked.sort(key=lambda f: f.date, reverse=True)
    ranked.sort(key=lambda f: STATUSES.index(f.status))
    best = ranked[0]
    values = [f.si for f in found]
    return Choice(fact=best, why=_why(ranked), low=min(values), high=max(values))


def _promise(fact: Fact) -> float:
    return -fact.si if fact.field in _MORE_PROMISES_LESS else fact.si


def _why(ranked: Sequence[Fact]) -> str:
    best = ranked[0]
    rivals = [f for f in ranked[1:] if abs(f.si - best.si) > 1e-9 * abs(best.si)]
    parts = []
    if not rivals:
        parts.append("the only figure" if len(ranked) == 1 else f"{len(ranked)} sources agree")
    elif all(f.status != best.status for f in rivals):
        parts.append(f"{best.status} outranks {_named(f.status for f in rivals)}")
    elif all(f.status != best.status or f.date != best.date for f in rivals):
        parts.append(f"the newest of {_named([best.status])} figures ({best.date})")
    else:
        same = sum(f.status == best.status and f.date == best.date for f in ranked)
        parts.append(f"promises least of {same} {best.status} figures of one date")
    if best.direction == "unstated":
        parts.append("direction unstated: read as both together, halved")
    elif best.direction == "bidir":
        parts.append("both directions together, halved")
    return "; ".join(parts)


def _named(names: Iterable[str]) -> str:
    return ", ".join(sorted(set(names), key=lambda n: STATUSES.index(cast("Status", n))))
